//! The progress of a command: a bar on a terminal, otherwise a line for each step.

use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{cli::print, state::transfer::Observer};

/// The time between two lines of one step.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The progress display.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    step: String,
    total: u64,
    done: u64,
    began: Instant,
    last_line: Instant,
}

impl Progress {
    pub(super) fn new() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = "{msg:24} {wide_bar} {pos}/{len} {per_sec} {eta} left";
            // If the template is wrong, the default bar is shown.
            let style = ProgressStyle::with_template(style);
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        let now = Instant::now();
        Self { bar, step: String::new(), total: 0, done: 0, began: now, last_line: now }
    }

    fn line(&self) {
        let seconds = self.began.elapsed().as_secs_f64();
        let of = if self.total > self.done { format!(" of {}", self.total) } else { String::new() };
        print::problem(format_args!("{}: {}{of}, {seconds:.1} s", self.step, self.done));
    }
}

impl Observer for Progress {
    fn begin(&mut self, step: &str, rows: u64) {
        step.clone_into(&mut self.step);
        (self.total, self.done) = (rows, 0);
        (self.began, self.last_line) = (Instant::now(), Instant::now());
        if let Some(bar) = &self.bar {
            bar.reset();
            bar.set_length(rows);
            bar.set_message(step.to_owned());
        }
    }

    fn advance(&mut self, rows: u64) {
        self.done += rows;
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            self.line();
        }
    }

    fn end(&mut self) {
        // A step without rows is of no interest.
        if self.bar.is_none() && self.done > 0 {
            self.line();
        }
    }

    fn note(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| print::problem(text)),
            None => print::problem(text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
