//! Printing. The macros of the standard library panic if the reader has left, as with `| head`.

use std::{
    fmt::Display,
    io::{self, Write},
};

use anstream::AutoStream;
use clap::builder::styling::{AnsiColor, Style};

/// The name of a field, and everything of less importance.
pub(super) const DIM: Style = Style::new().dimmed();
/// An error.
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();

/// Returns a text with a style. It must be printed by a function for styled texts.
pub(super) fn paint(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Prints a line to standard output. Returns an error if the reader has left.
pub(super) fn line(text: impl Display) -> io::Result<()> {
    write(io::stdout().lock(), text)
}

/// Prints styled lines to standard output, without styles if it is not a terminal or `NO_COLOR` is
/// set. Returns an error if the reader has left.
pub(super) fn styled_line(text: impl Display) -> io::Result<()> {
    write(AutoStream::auto(io::stdout().lock()), text)
}

/// Prints an error, or progress, to standard error. Prints nothing for an empty text.
pub(super) fn problem(text: impl Display) {
    let text = text.to_string();
    if !text.is_empty() {
        // If standard error is closed, there is no other place to report that.
        let _ = write(io::stderr().lock(), text);
    }
}

/// Prints a styled error to standard error, without styles if it is not a terminal or `NO_COLOR` is
/// set.
pub(super) fn styled_problem(text: impl Display) {
    // If standard error is closed, there is no other place to report that.
    let _ = write(AutoStream::auto(io::stderr().lock()), text);
}

/// Returns a count with its noun, such as `1 row` and `2 rows`.
pub(super) fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Returns a text without control characters, so that it cannot change the terminal.
pub(super) fn without_controls(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

fn write(mut out: impl Write, text: impl Display) -> io::Result<()> {
    writeln!(out, "{text}")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_replaced() {
        assert_eq!(without_controls("门店\u{1b}[2J\n"), "门店\u{fffd}[2J\u{fffd}");
    }
}
