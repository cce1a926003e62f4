//! Printing. The macros of the standard library panic where the reader has left, as `| head` does.

use std::{
    fmt::Display,
    io::{self, Write},
};

/// Prints a line for whoever asked. Fails where nobody reads any more.
pub(super) fn line(text: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Says what went wrong.
pub(super) fn problem(text: impl Display) {
    let text = text.to_string();
    if !text.is_empty() {
        // Nobody is left to tell where this fails.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }
}
