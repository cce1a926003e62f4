//! Compares `docs/runbook.md` with the reasons of the contract and with the log lines of the source.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).expect("the file is in the repository")
}

/// Returns every source file below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut files = Vec::new();
    for path in entries {
        match path.is_dir() {
            true => files.extend(sources(&path)),
            false => files.push(path),
        }
    }
    files.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    files
}

/// Returns the code without comments. A comment can show a log line that is not written.
fn without_comments(code: &str) -> String {
    let lines =
        code.lines().map(|line| if line.trim_start().starts_with("//") { "" } else { line });
    Vec::from_iter(lines).join("\n")
}

/// Returns the string literals of some code, with their escapes resolved as far as log lines use them.
fn literals(code: &str) -> Vec<String> {
    let (mut literals, mut rest) = (Vec::new(), code);
    while let Some((_, after)) = rest.split_once('"') {
        let mut end = 0;
        while !after[end..].starts_with('"') {
            end += if after[end..].starts_with('\\') { 2 } else { 1 };
            while !after.is_char_boundary(end) {
                end += 1;
            }
        }
        let mut parts = after[..end].split("\\\n");
        let mut literal = parts.next().unwrap_or_default().to_owned();
        parts.for_each(|part| literal += part.trim_start());
        literals.push(literal.replace("\\\"", "\""));
        rest = &after[end + 1..];
    }
    literals
}

/// Returns the arguments of a macro: everything up to the parenthesis that closes it.
fn arguments(code: &str) -> &str {
    let (mut depth, mut quoted, mut escaped) = (1, false, false);
    for (at, one) in code.char_indices() {
        match one {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &code[..at];
        }
    }
    panic!("a macro does not end: {code}")
}

/// Returns a text with `…` in place of what changes.
fn with_ellipses(text: &str) -> String {
    let mut parts = text.split('{');
    let mut fixed = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        fixed += "…";
        fixed += part.split_once('}').expect("a placeholder ends").1;
    }
    fixed
}

/// Returns the text of a log line. A text in a variable is the literal that the variable was set to last.
fn text(before: &str, arguments: &str) -> String {
    let literal = literals(arguments).pop().unwrap_or_default();
    let literal = match literal.strip_prefix("{text}") {
        Some(rest) => {
            let (_, set) = before.rsplit_once("let text = ").expect("a text is set");
            literals(set).swap_remove(0) + rest
        }
        None => literal,
    };
    with_ellipses(&literal)
}

/// Returns every log line of a level that asks for action, with its level and the file that writes it.
fn logged() -> BTreeMap<(String, &'static str), String> {
    let mut lines = BTreeMap::new();
    for file in sources(&Path::new(ROOT).join("src")) {
        let code = without_comments(&fs::read_to_string(&file).expect("UTF-8"));
        let file = file.strip_prefix(ROOT).expect("below").display().to_string();
        for level in ["warn", "error"] {
            for (at, found) in code.match_indices(&format!("{level}!(")) {
                let before = &code[..at];
                if before.ends_with(|one: char| one.is_alphanumeric() || one == '_') {
                    continue;
                }
                assert!(before.ends_with("tracing::"), "{file}: write `tracing::{level}!` in full");
                let text = text(before, arguments(&code[at + found.len()..]));
                let begins = text.starts_with(|one: char| one.is_alphabetic());
                assert!(begins, "{file}: the line {text:?} needs a text that does not change");
                lines.insert((text, level), file.clone());
            }
        }
    }
    lines
}

/// Returns the rows of the tables of a section, without their heads. A bar in a cell is not supported.
fn rows(page: &str, section: &str) -> Vec<Vec<String>> {
    let begin = format!("\n## {section}\n");
    let (_, section) = page.split_once(&begin).unwrap_or_else(|| panic!("no section {section}"));
    let section = section.split("\n## ").next().unwrap_or_default();
    let lines = section.lines().filter(|line| line.starts_with("| `"));
    lines
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

/// Returns true if an entry of the runbook stands for a text. An entry that ends with `…` has its beginning.
fn stands_for(entry: &str, text: &str) -> bool {
    match entry.strip_suffix('…') {
        Some(beginning) => text.starts_with(beginning) && text != beginning,
        None => text == entry,
    }
}

#[test]
fn runbook_has_every_log_line_of_an_operator() {
    let page = read("docs/runbook.md");
    let entries = rows(&page, "Log lines");
    let logged = logged();
    assert!(logged.len() > 40 && entries.len() > 40, "{} and {}", logged.len(), entries.len());
    let mut wrong = BTreeSet::new();
    for ((text, level), file) in &logged {
        let of_text = entries.iter().filter(|row| stands_for(row[0].trim_matches('`'), text));
        let levels = Vec::from_iter(of_text.map(|row| row[1].as_str()));
        if levels != [*level] {
            wrong.insert(format!("{file}: {level} {text:?} has {levels:?} in the runbook"));
        }
    }
    for row in &entries {
        let entry = row[0].trim_matches('`');
        if !logged.keys().any(|(text, _)| stands_for(entry, text)) {
            wrong.insert(format!("the runbook has {entry:?}, which no code logs"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Failed calls choose their level at run time. The runbook explains them in a paragraph of its own.
#[test]
fn only_failed_calls_have_a_variable_level() {
    let files = sources(&Path::new(ROOT).join("src")).into_iter();
    let files = files.filter(|file| {
        let code = without_comments(&fs::read_to_string(file).expect("UTF-8"));
        code.contains("tracing::$") || code.contains("tracing::event!")
    });
    let files = Vec::from_iter(files);
    assert!(matches!(&*files, [file] if file.ends_with("src/telemetry/trace.rs")), "{files:?}");
    assert!(read("docs/runbook.md").contains("\n**Failed calls** "));
}

/// Returns every reason of the contract with its comment.
fn reasons() -> BTreeMap<String, String> {
    let proto = read("proto/wechat/store/v1/error.proto");
    let (_, values) = proto.split_once("enum ErrorReason {").expect("the reasons");
    let (mut reasons, mut comment) = (BTreeMap::new(), String::new());
    for line in values.lines().map(str::trim) {
        if let Some(more) = line.strip_prefix("//") {
            comment += more;
        } else if let Some(value) = line.strip_prefix("ERROR_REASON_") {
            let name = value.split(' ').next().unwrap_or_default();
            reasons.insert(name.to_owned(), std::mem::take(&mut comment));
        }
    }
    reasons
}

#[test]
fn runbook_has_every_reason_that_operators_fix() {
    let reasons = reasons();
    assert!(reasons.len() > 80, "{} reasons", reasons.len());
    let rows = rows(&read("docs/runbook.md"), "Reasons");
    let entries = rows.iter().flat_map(|row| row[0].split(", "));
    let entries = BTreeSet::from_iter(entries.map(|name| name.trim_matches('`').to_owned()));
    let words = ["operator", "\"setting\"", "\"fix_by\": \"developer\""];
    for (reason, comment) in &reasons {
        if words.iter().any(|word| comment.contains(word)) {
            assert!(entries.contains(reason), "{reason} is not in the runbook");
        }
    }
    for entry in &entries {
        assert!(reasons.contains_key(entry), "the contract has no reason {entry}");
    }
}
