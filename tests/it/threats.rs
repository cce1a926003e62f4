//! Checks that the tests which `SECURITY.md` names exist.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Returns every Rust file below a folder.
fn sources(folder: PathBuf) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => files.extend(sources(path)),
            false => files.push(path),
        }
    }
    files.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    files
}

/// Returns the names of all functions that are marked as tests.
fn tests() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = BTreeSet::new();
    for file in ["src", "tests"].into_iter().flat_map(|folder| sources(root.join(folder))) {
        let code = fs::read_to_string(file).expect("UTF-8");
        let mut is_test = false;
        for line in code.lines().map(str::trim) {
            is_test |= line.starts_with("#[test") || line.starts_with("#[tokio::test");
            if let Some((_, name)) = line.split_once("fn ") {
                if is_test {
                    tests.insert(name.split('(').next().unwrap_or_default().to_owned());
                }
                is_test = false;
            }
        }
    }
    tests
}

#[test]
fn every_test_of_the_threat_model_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("SECURITY.md")).expect("SECURITY.md");
    let (_, threats) = page.split_once("\n### Threats\n").expect("the threats");
    let (threats, _) = threats.split_once("\n**The supply chain**\n").expect("the supply chain");
    let tests = tests();
    let rows = Vec::from_iter(threats.lines().filter(|line| line.starts_with("| ")));
    let (heads, threats): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|row| row.ends_with("| shown by |"));
    assert!(heads.len() >= 5 && threats.len() >= 25, "{} and {}", heads.len(), threats.len());
    for row in threats {
        let shown_by = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        for name in shown_by.split(", ") {
            let name = name.trim_matches('`');
            assert!(tests.contains(name), "there is no test {name:?} in {row:?}");
        }
    }
}
