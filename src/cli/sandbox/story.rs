//! The tour as people read it: for each step a sentence, the call, a few fields and the time taken.

use std::time::Duration;

use clap::builder::styling::{AnsiColor, Style};
use serde_json::Value;

use super::tour::{Report, Step};
use crate::cli::{
    print::{DIM, paint, without_controls},
    program,
};

/// A heading.
const TITLE: Style = Style::new().bold();
/// A command or a call.
const CODE: Style = AnsiColor::Cyan.on_default();
/// A success.
const GOOD: Style = AnsiColor::Green.on_default();
/// An error that is part of the demonstration.
const WARN: Style = AnsiColor::Yellow.on_default();

/// The width of a step's sentence. The time taken comes after it.
const SENTENCE_WIDTH: usize = 78;
/// A call whose request and response are longer gets a second line.
const LINE_WIDTH: usize = 96;
/// Longer values are cut.
const VALUE_WIDTH: usize = 48;

/// The texts before and after the steps of a tour.
#[derive(Debug)]
pub(super) struct Story {
    /// The text before the first step.
    pub(super) introduction: &'static str,
    /// What to do after the tour, the environment variables, and the command.
    next: &'static [(&'static str, &'static str, &'static str)],
}

/// The tour of a store.
pub(super) const STORE: Story = Story {
    introduction: "A tour of the gateway with a simulated WeChat. It needs no account and no network.",
    next: &[
        ("Keep a sandbox running, with commands to copy:", "", "sandbox"),
        ("List the methods of the running sandbox:", "", "call --list"),
        ("Read the manual of a method there:", "", "call --describe StoreService/AddStore"),
        ("Print this tour with all requests and responses:", "", "sandbox --tour --json"),
        (
            "Check the example of all settings, and then a copy of it with your own account:",
            "BRAND_A_SECRET=secret ",
            "check --config settings.example.toml",
        ),
    ],
};
/// The tour of callers and roles.
pub(super) const SECURE: Story = Story {
    introduction: "A tour of callers and roles, with a simulated WeChat. The gateway serves with TLS, and with \
                   certificates\nand tokens that are new at each start.",
    next: &[
        ("Keep such a sandbox running, with commands to copy:", "", "sandbox --secure"),
        ("Make a token for your own caller:", "", "token new"),
        ("Print this tour with all requests and responses:", "", "sandbox --secure --tour --json"),
    ],
};
/// The tour of a third-party platform.
pub(super) const PLATFORM: Story = Story {
    introduction: "A tour of a third-party platform, with a simulated WeChat. A merchant authorizes the platform, \
                   and the\ngateway acts for the merchant without a line in its settings.",
    next: &[
        ("Keep a sandbox with this platform running, with commands to copy:", "", "sandbox"),
        ("Print this tour with all requests and responses:", "", "sandbox --tour platform --json"),
        (
            "Read the manual of the first method:",
            "",
            "call --describe AccountService/ListPlatforms",
        ),
    ],
};

/// Returns the heading of a chapter.
pub(super) fn heading(title: &str) -> String {
    format!("\n{}", paint(TITLE, title))
}

/// Returns the lines of a step.
pub(super) fn step(number: usize, step: &Step, report: &Report<'_>, took: Duration) -> String {
    let request = fields(&step.shown_request, &report.request_json());
    let response = fields(&step.shown, &report.answer_json());
    let style = if report.is_error() { WARN } else { GOOD };
    let call = without_controls(&report.call);
    let length = |text: &str| anstream::adapter::strip_str(text).to_string().chars().count();
    let mut line = format!("    {}", paint(CODE, call));
    if let Some(caller) = report.caller {
        line.push_str(&paint(DIM, format_args!(" by {caller}")));
    }
    if !request.is_empty() {
        line.push_str(&format!(" {request}"));
    }
    if !response.is_empty() {
        let arrow = paint(style, "→");
        let fits = length(&line) + length(&response) + 3 <= LINE_WIDTH;
        let separator = if fits { " " } else { "\n    " };
        line.push_str(&format!("{separator}{arrow} {response}"));
    }
    let took = paint(DIM, format_args!("{:>6.1} ms", took.as_secs_f64() * 1000.0));
    format!("{number:>2}. {:<SENTENCE_WIDTH$}{took}\n{line}", step.name)
}

impl Story {
    /// Returns the text after the last step.
    pub(super) fn conclusion(&self, steps: usize, took: Duration) -> String {
        let program = program();
        let done =
            format!("All {steps} steps returned what they should, in {:.1} s.", took.as_secs_f64());
        let mut text = format!("\n{}\n\n{}", paint(GOOD, done), paint(TITLE, "Next steps"));
        for (about, variables, command) in self.next {
            let command = paint(CODE, format_args!("{variables}{program} {command}"));
            text.push_str(&format!("\n  {about}\n    {command}"));
        }
        text
    }
}

/// Returns the fields at these JSON pointers, with their names.
fn fields(pointers: &[&str], json: &Value) -> String {
    let field = |pointer: &&str| {
        let value = value_text(json.pointer(pointer).unwrap_or(&Value::Null));
        format!("{} {value}", paint(DIM, format_args!("{}:", name(pointer))))
    };
    pointers.iter().map(field).collect::<Vec<_>>().join(", ")
}

/// Returns the path of a field as in code: `/stores/0/name` is `stores[0].name`.
fn name(pointer: &str) -> String {
    let mut name = String::new();
    for part in pointer.split('/').filter(|part| !part.is_empty()) {
        match part.parse::<usize>() {
            Ok(index) => name.push_str(&format!("[{index}]")),
            Err(_) if name.is_empty() => name.push_str(part),
            Err(_) => name.push_str(&format!(".{part}")),
        }
    }
    name
}

fn value_text(value: &Value) -> String {
    let text = match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
        }
        Value::Array(items) if items.iter().all(Value::is_number) => {
            items.iter().map(Value::to_string).collect::<Vec<_>>().join(" ")
        }
        Value::Array(items) => format!("{} items", items.len()),
        other => other.to_string(),
    };
    let text = without_controls(&text);
    if text.chars().count() <= VALUE_WIDTH {
        return text;
    }
    text.chars().take(VALUE_WIDTH - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_have_names_and_short_values() {
        let json = json!({
            "stores": [{ "name": "X" }, {}], "names": ["广东", "海珠区"], "long": "x".repeat(60),
            "sets": [8, 37], "hours": { "open": "10:00" },
        });
        let text =
            |pointers: &[&str]| anstream::adapter::strip_str(&fields(pointers, &json)).to_string();
        assert_eq!(text(&["/stores/0/name", "/stores"]), "stores[0].name: X, stores: 2 items");
        assert_eq!(text(&["/names", "/missing"]), "names: 广东 海珠区, missing: none");
        assert_eq!(text(&["/sets"]), "sets: 8 37");
        assert_eq!(text(&["/hours"]), "hours: {\"open\":\"10:00\"}");
        assert_eq!(text(&["/long"]), format!("long: {}…", "x".repeat(VALUE_WIDTH - 1)));
    }
}
