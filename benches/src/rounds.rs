//! Interleaved measurements, and the conclusions that they allow.

use std::{fmt::Write as _, future::Future, pin::Pin};

use nix::unistd::Pid;

use crate::{load::Seen, process};

/// One measurement of one server.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Processor time per call, in microseconds.
    pub cpu: f64,
    /// Calls a second.
    pub rate: f64,
    /// In microseconds.
    pub p50: f64,
    /// In microseconds.
    pub p99: f64,
    /// Resident memory afterward, in megabytes.
    pub memory: f64,
    /// Processor time that callers and upstream used meanwhile, as a share of one core.
    pub others: f64,
}

type Drive<'a> = Box<dyn Fn(u64) -> Pin<Box<dyn Future<Output = anyhow::Result<Seen>> + 'a>> + 'a>;

/// A server that takes part.
pub struct Contender<'a> {
    name: String,
    pid: Pid,
    others: Vec<Pid>,
    drive: Drive<'a>,
    most: u64,
}

impl<'a> Contender<'a> {
    /// Returns a contender with this name and process. `drive` makes a number of calls. `others`
    /// are the processes that it calls.
    pub fn new<F>(name: &str, pid: Pid, others: &[Pid], drive: impl Fn(u64) -> F + 'a) -> Self
    where
        F: Future<Output = anyhow::Result<Seen>> + 'a,
    {
        let drive =
            Box::new(move |calls| Box::pin(drive(calls)) as Pin<Box<dyn Future<Output = _>>>);
        Self { name: name.to_owned(), pid, others: others.to_vec(), drive, most: u64::MAX }
    }

    /// Limits the calls of a slice.
    pub fn at_most(mut self, calls: u64) -> Self {
        self.most = calls;
        self
    }

    async fn measure(&self, calls: u64) -> anyhow::Result<Slice> {
        let of_others = || -> anyhow::Result<u64> {
            let running =
                self.others.iter().map(|pid| process::cpu(*pid)).sum::<Result<u64, _>>()?;
            Ok(running + process::cpu_of_children()? + process::cpu(Pid::this())?)
        };
        let (before, others) = (process::cpu(self.pid)?, of_others()?);
        let seen = (self.drive)(calls).await?;
        Ok(Slice {
            seen,
            used: process::cpu(self.pid)? - before,
            others: of_others()? - others,
            memory: process::memory(self.pid, "VmRSS")?,
        })
    }
}

/// A part of a measurement.
#[derive(Debug, Default)]
struct Slice {
    seen: Seen,
    /// In nanoseconds, as the fields below.
    used: u64,
    others: u64,
    /// In kilobytes.
    memory: u64,
}

impl Slice {
    fn add(&mut self, Self { seen, used, others, memory }: Self) {
        self.seen.add(seen);
        self.used += used;
        self.others += others;
        self.memory = memory;
    }

    fn sample(mut self) -> Sample {
        let (calls, seconds) = (self.seen.calls() as f64, self.seen.seconds);
        Sample {
            cpu: self.used as f64 / 1e3 / calls,
            rate: self.seen.rate(),
            p50: self.seen.at(0.5),
            p99: self.seen.at(0.99),
            memory: self.memory as f64 / 1024.0,
            others: self.others as f64 / 1e9 / seconds,
        }
    }
}

/// All samples of a case: by contender, then by round.
#[derive(Debug)]
pub struct Measured {
    names: Vec<String>,
    samples: Vec<Vec<Sample>>,
}

/// Each contender is measured for this long before the next one. A machine that others share is
/// slow for some seconds and fast for others, so all contenders get a share of both.
const SLICE: f64 = 0.25;

/// Warms each contender up, then measures them in turn, a slice each, until all have had their
/// time. Every second turn runs in the other direction, so that no contender always follows the
/// same one.
pub async fn run(
    rounds: usize,
    seconds: f64,
    contenders: &[Contender<'_>],
) -> anyhow::Result<Measured> {
    let mut counts = Vec::new();
    for contender in contenders {
        let within = |calls: f64| (calls as u64).clamp(100.min(contender.most), contender.most);
        let Slice { seen, .. } = contender.measure(within(500.0)).await?;
        let Slice { seen, .. } = contender.measure(within(seen.rate() * SLICE)).await?;
        counts.push(within(seen.rate() * SLICE));
    }
    let slices = (seconds / SLICE).ceil() as usize;
    let mut samples = vec![Vec::new(); contenders.len()];
    for _ in 0..rounds {
        let mut measured: Vec<_> = contenders.iter().map(|_| Slice::default()).collect();
        for slice in 0..slices {
            let mut order: Vec<_> = (0..contenders.len()).collect();
            if slice % 2 == 1 {
                order.reverse();
            }
            for index in order {
                measured[index].add(contenders[index].measure(counts[index]).await?);
            }
        }
        for (samples, measured) in samples.iter_mut().zip(measured) {
            samples.push(measured.sample());
        }
    }
    let names = contenders.iter().map(|contender| contender.name.clone()).collect();
    Ok(Measured { names, samples })
}

/// The minimum, the median and the maximum of some values.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// The minimum.
    pub min: f64,
    /// The median.
    pub median: f64,
    /// The maximum.
    pub max: f64,
}

impl Spread {
    /// Returns those of these values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Self { min: at(0), median: at(values.len() / 2), max: at(values.len().saturating_sub(1)) }
    }

    fn text(self, digits: usize) -> String {
        let Self { min, median, max } = self;
        format!("{min:.digits$} – {median:.digits$} – {max:.digits$}")
    }
}

/// A figure that is compared.
pub type Figure = fn(&Sample) -> f64;

/// A claim that the figures support or not.
pub struct Claim {
    /// The text of the claim.
    pub text: String,
    /// One value per round.
    pub values: Vec<f64>,
    /// The same measure between two equal servers, per round.
    pub noise: Vec<f64>,
    /// A ratio, which is 1 if both are equal, or a difference, which is 0.
    pub by: By,
    /// The goal.
    pub bound: Bound,
}

/// How two figures are compared.
#[derive(Clone, Copy, Debug)]
pub enum By {
    /// By a ratio.
    Ratio,
    /// By a difference.
    Difference,
}

/// A goal.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
    /// None. The figure is only reported.
    Told,
}

impl Measured {
    /// Returns the values of a figure, of the contender with this name.
    pub fn values(&self, name: &str, figure: Figure) -> Vec<f64> {
        let index = self.names.iter().position(|known| known == name);
        let samples = index.map(|index| self.samples[index].as_slice()).unwrap_or_default();
        samples.iter().map(figure).collect()
    }

    fn paired(&self, of: &str, against: &str, figure: Figure, by: fn(f64, f64) -> f64) -> Vec<f64> {
        let (of, against) = (self.values(of, figure), self.values(against, figure));
        of.into_iter().zip(against).map(|(of, against)| by(of, against)).collect()
    }

    /// Compares two contenders by a ratio, round by round. The noise is that of the first two
    /// contenders, which are the same server.
    pub fn ratio(
        &self,
        of: &str,
        against: &str,
        what: &str,
        figure: Figure,
        bound: Bound,
    ) -> Claim {
        let by = |of: f64, against: f64| of / against;
        Claim {
            text: format!("{what}: {of} / {against}"),
            values: self.paired(of, against, figure, by),
            noise: self.paired(TWIN, GATEWAY, figure, by),
            by: By::Ratio,
            bound,
        }
    }

    /// Compares two contenders by a difference, round by round.
    pub fn difference(
        &self,
        of: &str,
        against: &str,
        what: &str,
        figure: Figure,
        bound: Bound,
    ) -> Claim {
        let by = |of: f64, against: f64| of - against;
        Claim {
            text: format!("{what}: {of} − {against}"),
            values: self.paired(of, against, figure, by),
            noise: self.paired(TWIN, GATEWAY, figure, by),
            by: By::Difference,
            bound,
        }
    }
}

/// The name of the gateway in every case.
pub const GATEWAY: &str = "gateway";
/// The name of a second gateway that is started alike.
pub const TWIN: &str = "gateway again";

impl Claim {
    /// Returns whether it holds: only if every round is on one side of the bound, and further from
    /// it than the same server ever was from itself.
    pub fn verdict(&self) -> &'static str {
        let (Bound::AtMost(bound) | Bound::AtLeast(bound)) = self.bound else { return "" };
        let values = Spread::of(self.values.iter().copied());
        let noise = self.noise.iter().copied();
        let (low, high) = match self.by {
            By::Ratio => {
                let most = noise.map(|ratio| ratio.max(1.0 / ratio)).fold(1.0, f64::max);
                (bound / most, bound * most)
            }
            By::Difference => {
                let most = noise.map(f64::abs).fold(0.0, f64::max);
                (bound - most, bound + most)
            }
        };
        let (below, above) = (values.max <= low, values.min >= high);
        match self.bound {
            Bound::AtMost(_) if below => "holds",
            Bound::AtLeast(_) if above => "holds",
            _ if below || above => "missed",
            _ => "inconclusive",
        }
    }

    fn row(&self) -> String {
        let bound = match self.bound {
            Bound::AtMost(bound) => format!("≤ {bound}"),
            Bound::AtLeast(bound) => format!("≥ {bound}"),
            Bound::Told => String::new(),
        };
        let spread = |values: &[f64]| match values {
            [] => String::new(),
            values => Spread::of(values.iter().copied()).text(2),
        };
        let (values, noise) = (spread(&self.values), spread(&self.noise));
        format!("| {} | {bound} | {values} | {noise} | {} |", self.text, self.verdict())
    }
}

/// The report of a case, in Markdown.
#[derive(Debug, Default)]
pub struct Report {
    text: String,
}

impl Report {
    /// Starts a report with this title.
    pub fn new(title: &str) -> Self {
        Self { text: format!("### {title}\n\n") }
    }

    /// Adds a paragraph.
    pub fn say(&mut self, text: &str) {
        let _ = write!(self.text, "{text}\n\n");
    }

    /// Adds the table of the samples.
    pub fn samples(&mut self, measured: &Measured) {
        self.text.push_str(
            "| server | CPU µs a call | calls a second | p50 µs | p99 µs | MB | other core |\n\
             |---|---|---|---|---|---|---|\n",
        );
        for (name, samples) in measured.names.iter().zip(&measured.samples) {
            let spread = |figure: Figure| Spread::of(samples.iter().map(figure));
            let _ = writeln!(
                self.text,
                "| {name} | {} | {} | {:.0} | {:.0} | {:.1} | {:.0} % |",
                spread(|sample| sample.cpu).text(1),
                spread(|sample| sample.rate).text(0),
                spread(|sample| sample.p50).median,
                spread(|sample| sample.p99).median,
                spread(|sample| sample.memory).median,
                spread(|sample| sample.others).median * 100.0,
            );
        }
        self.text.push('\n');
    }

    /// Adds the table of the claims.
    pub fn claims(&mut self, claims: &[Claim]) {
        self.text
            .push_str("| claim | aim | min – median – max | noise | |\n|---|---|---|---|---|\n");
        for claim in claims {
            self.text.push_str(&claim.row());
            self.text.push('\n');
        }
        self.text.push('\n');
    }

    /// Returns the whole text.
    pub fn text(&self) -> &str {
        &self.text
    }
}
