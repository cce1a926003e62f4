//! Runs the fuzz targets over their corpus and seeded mutations of it. `fuzz/` searches longer.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::{Duration, Instant},
};

use fastrand::Rng;

#[path = "../../fuzz/targets.rs"]
#[expect(unreachable_pub, reason = "the fuzzer's own crate calls them, too")]
mod targets;

/// The seed, so that the mutations are the same each time.
const SEED: u64 = 20_171_219;
/// The longest accepted body, in bytes.
const LONGEST: usize = 256 * 1024;
/// The limit for one such body. Parsing needs a small part of it.
const LIMIT: Duration = Duration::from_secs(5);

/// The significant words that mutations insert.
const WORDS: &[&str] = &[
    "<xml>",
    "</xml>",
    "<Encrypt>",
    "</Encrypt>",
    "<![CDATA[",
    "]]>",
    "<!--",
    "-->",
    "<!DOCTYPE xml [",
    "<!ENTITY a '&a;'>",
    "<?xml version='1.0'?>",
    "&lt;",
    "&#0;",
    "&#x10FFFF;",
    "&a;",
    "<a/>",
    "<a>",
    "</a>",
    "<Event>add_store_audit_info</Event>",
    "<status>1</status>",
    "<status>-0</status>",
    "\"Event\":\"create_map_poi_audit_info\",",
    "\"status\":0,",
    "\"status\":1e999,",
    "\"Encrypt\":",
    "\"poiid\":{},",
    "\\ud83d",
    "\\u0000",
    "\\u12",
    "\\x",
    "\\",
    "\"errcode\":0,",
    "\",\"a\":\"",
    "\u{14}",
    "\"",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "null",
    "-",
    "NaN",
    "inf",
    "1e-999",
    "18446744073709551616",
    "-9223372036854775809",
    "253402300800",
    "\u{feff}",
    "\u{85}",
    "\u{2028}",
    "\r\n",
    "\0",
    "=",
    "==",
    "+/",
    "AAAA",
    "审核",
    "😀",
];

/// Returns the name and the bytes of every file for a target.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus")).join(target);
    let mut corpus = Vec::new();
    for file in fs::read_dir(folder).expect("a corpus") {
        let file = file.expect("a file");
        let bytes = fs::read(file.path()).expect("readable");
        corpus.push((file.file_name().to_string_lossy().into_owned(), bytes));
    }
    corpus.sort();
    corpus
}

/// Runs a target and reports the input of a failure.
fn run(target: fn(&[u8]), input: &[u8], what: &str) {
    let begun = Instant::now();
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or_default();
        panic!("{what}: {text}\ninput: b\"{}\"", input.escape_ascii());
    }
    assert!(begun.elapsed() < LIMIT, "{what} takes {:?}", begun.elapsed());
}

fn fuzz(name: &str, target: fn(&[u8]), mutations: u64) {
    let corpus = corpus(name);
    for (file, bytes) in &corpus {
        run(target, bytes, &format!("{name}/{file}"));
    }
    for round in 0..mutations {
        let mut rng = Rng::with_seed(SEED + round);
        let (file, bytes) = &corpus[rng.usize(..corpus.len())];
        let other = &corpus[rng.usize(..corpus.len())].1;
        let mut bytes = bytes.clone();
        for _ in 0..rng.u8(1..=6) {
            mutate(&mut rng, &mut bytes, other);
        }
        run(target, &bytes, &format!("{name}/{file}, mutated with seed {SEED} + {round}"));
    }
}

fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    let mut cut = |bytes: &[u8]| {
        let from = rng.usize(..=bytes.len());
        (from, (from + rng.usize(..=32)).min(bytes.len()))
    };
    let (from, to) = cut(bytes);
    let part = bytes[from..to].to_vec();
    let (other_from, other_to) = cut(other);
    match rng.u8(..8) {
        0 if from < to => bytes[from] ^= 1 << rng.u8(..8),
        1 if from < to => bytes[from] = rng.u8(..),
        2 => drop(bytes.drain(from..to)),
        3 => bytes.truncate(from),
        // Ciphertexts have blocks of 16 bytes.
        4 => bytes.truncate(bytes.len().saturating_sub(4 * rng.usize(..=16))),
        5 => drop(bytes.splice(from..from, part.repeat(rng.usize(..=4)))),
        6 => drop(bytes.splice(from..to, other[other_from..other_to].iter().copied())),
        _ => {
            let word = WORDS[rng.usize(..WORDS.len())];
            drop(bytes.splice(from..from, word.bytes()));
        }
    }
}

/// Checks that a target is fast for the longest bodies, whatever they repeat.
fn long(name: &str, target: fn(&[u8]), frame: [&str; 2]) {
    let [before, after] = frame.map(str::as_bytes);
    for word in WORDS {
        let body = word.as_bytes().repeat(LONGEST / word.len());
        run(target, &[before, &body, after].concat(), &format!("{name}: {word:?} for ever"));
    }
}

#[test]
fn any_envelope_is_parsed_or_refused() {
    fuzz("envelope", targets::envelope, 4_000);
}

#[test]
fn any_xml_is_a_message_or_refused() {
    fuzz("message_xml", targets::message_xml, 4_000);
}

#[test]
fn any_json_is_a_message_or_refused() {
    fuzz("message_json", targets::message_json, 4_000);
}

#[test]
fn any_ciphertext_is_decrypted_or_refused() {
    fuzz("open", targets::open, 4_000);
}

#[test]
fn any_json_is_repaired_or_refused() {
    fuzz("repair", targets::repair, 20_000);
}

#[test]
fn longest_messages_are_parsed_quickly() {
    let xml = ["<xml><Event>add_store_audit_info</Event><reason>", "</reason></xml>"];
    long("message_xml", targets::message_xml, xml);
    let json = ["{\"Event\":\"add_store_audit_info\",\"reason\":", "}"];
    long("message_json", targets::message_json, json);
    for frame in [["{\"a\":\"", "\"}"], ["{\"a\":", "}"]] {
        long("repair", targets::repair, frame);
    }
}
