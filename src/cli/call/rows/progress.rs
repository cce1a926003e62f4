//! How far it is: a bar where standard error is a terminal, else a line now and then.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use super::summary::Tally;
use crate::cli::print;

/// Between two lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// How far it is.
pub(super) struct Progress {
    /// How many rows there are, if that is known.
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
                Some(_) => "{wide_bar} {pos}/{len} {per_sec} {eta} to go {msg}",
                None => "{spinner} {pos} {per_sec} {msg}",
            };
            // A template that is wrong is a bar that is plain.
            bar.with_style(
                ProgressStyle::with_template(style)
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            )
        });
        let now = Instant::now();
        Self { total, bar, began: now, last_line: now }
    }

    /// Shows it, if it is time for that.
    pub(super) fn show(&mut self, tally: &Tally) {
        let (done, problems) = (tally.done(), tally.problems());
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(problems);
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let seconds = self.began.elapsed().as_secs_f64();
            // What an earlier run did costs no time, and says nothing about the rest.
            let rate = tally.sent() as f64 / seconds;
            let total = self.total.map(|total| format!(" of {total}")).unwrap_or_default();
            let rest = self
                .total
                .filter(|_| rate > 0.0)
                .map(|total| format!(", {:.0} s to go", total.saturating_sub(done) as f64 / rate));
            let rest = rest.unwrap_or_default();
            let comma = if problems.is_empty() { "" } else { ", " };
            print::problem(format_args!(
                "{done}{total} rows, {rate:.1} a second{rest}{comma}{problems}"
            ));
        }
    }

    /// Does something that may print.
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
