//! The progress of an import: a bar on a terminal, otherwise a line every ten seconds.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use super::summary::Tally;
use crate::cli::print;

/// The time between two lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The progress display.
pub(super) struct Progress {
    /// The number of rows, if known.
    pub(super) total: Option<u64>,
    bar: Option<ProgressBar>,
    began: Instant,
    last_line: Instant,
}

impl Progress {
    pub(super) fn new(total: Option<u64>) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
            let style = match total {
                Some(_) => "{wide_bar} {pos}/{len} rows {per_sec} {eta} left {msg}",
                None => "{spinner} {pos} rows {per_sec} {msg}",
            };
            // If the template is wrong, the default bar is shown.
            bar.with_style(
                ProgressStyle::with_template(style)
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            )
        });
        let now = Instant::now();
        Self { total, bar, began: now, last_line: now }
    }

    /// Updates the bar, or prints a line if the last one is old enough.
    pub(super) fn show(&mut self, tally: &Tally) {
        let (done, problems) = (tally.done(), tally.problems());
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(problems);
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let seconds = self.began.elapsed().as_secs_f64();
            // Rows of an earlier run took no time, so they do not count for the rate.
            let rate = tally.sent() as f64 / seconds;
            let total = self.total.map(|total| format!(" of {total}")).unwrap_or_default();
            let rest = self
                .total
                .filter(|_| rate > 0.0)
                .map(|total| format!(", {:.0} s left", total.saturating_sub(done) as f64 / rate));
            let rest = rest.unwrap_or_default();
            let comma = if problems.is_empty() { "" } else { ", " };
            let unit = if self.total.unwrap_or(done) == 1 { "row" } else { "rows" };
            print::problem(format_args!(
                "{done}{total} {unit}, {rate:.1} rows/s{rest}{comma}{problems}"
            ));
        }
    }

    /// Runs a closure that prints, with the bar hidden meanwhile.
    pub(super) fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
