//! The rooms of `src/` and what each may import. `docs/architecture.md` describes the rooms.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Every room, from top to bottom, with the rooms that it may import. All of them stand further down, so
/// there is no cycle.
#[rustfmt::skip]
const ROOMS: &[(&str, &[&str])] = &[
    ("testing", &[
        "accounts", "app", "call", "config", "errors", "events", "message_crypto", "metrics", "pb", "push", "server",
        "service", "state", "telemetry", "util", "wechat",
    ]),
    ("cli", &["app", "config", "doctor", "live", "pb", "service_config", "state", "telemetry", "util"]),
    ("app", &[
        "accounts", "activity", "call", "callers", "config", "errors", "events", "journal", "live",
        "metrics", "observe", "push", "recovery", "server", "service", "state", "systemd", "telemetry", "tls",
        "util", "wechat", "writes",
    ]),
    ("observe", &[
        "accounts", "events", "journal", "metrics", "pb", "server", "state", "tls", "util",
    ]),
    ("doctor", &[
        "accounts", "call", "callers", "config", "message_crypto", "metrics", "state", "tls", "util",
        "wechat",
    ]),
    ("live", &["config", "systemd", "telemetry"]),
    ("push", &["accounts", "config", "events", "message_crypto", "metrics", "pb", "state", "telemetry", "util"]),
    ("server", &[
        "activity", "callers", "config", "context", "errors", "metrics", "pb", "service",
        "service_config", "state", "telemetry", "tls", "util",
    ]),
    ("service", &[
        "accounts", "call", "callers", "context", "errors", "events", "pb", "recovery", "state",
        "translate", "util", "validate", "wechat", "writes",
    ]),
    ("service_config", &["config", "pb", "wechat"]),
    ("errors", &[
        "accounts", "call", "callers", "context", "events", "journal", "pb", "state", "telemetry",
        "translate", "util", "validate", "wechat", "writes",
    ]),
    ("writes", &[
        "accounts", "call", "config", "context", "journal", "metrics", "pb", "recovery", "state",
        "translate", "util", "validate", "wechat",
    ]),
    ("recovery", &[
        "call", "config", "context", "events", "journal", "pb", "state", "translate", "util",
        "wechat",
    ]),
    ("events", &[
        "callers", "config", "context", "journal", "metrics", "pb", "state", "translate", "util",
    ]),
    ("call", &[
        "accounts", "context", "journal", "metrics", "pb", "state", "translate", "util", "validate",
        "wechat",
    ]),
    ("translate", &[
        "accounts", "config", "journal", "pb", "state", "telemetry", "util", "validate", "wechat",
    ]),
    ("journal", &["activity", "context", "pb", "state", "telemetry", "util"]),
    ("accounts", &["callers", "config", "context", "metrics", "pb", "state", "util", "wechat"]),
    ("wechat", &["config", "metrics", "telemetry", "util"]),
    ("state", &["config", "metrics", "pb", "telemetry", "util"]),
    ("context", &["callers", "config", "pb", "telemetry", "util", "validate"]),
    ("callers", &["config", "pb", "tls", "util"]),
    ("activity", &["config", "metrics", "telemetry"]),
    ("metrics", &["telemetry", "util"]),
    ("telemetry", &["config", "util"]),
    ("config", &["message_crypto", "tls", "util"]),
    ("tls", &["util"]),
    ("message_crypto", &["util"]),
    ("validate", &["util"]),
    ("systemd", &[]),
    ("pb", &[]),
    ("util", &[]),
];

/// Returns every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("the sources are there") {
        let path = entry.expect("readable").path();
        match path.is_dir() {
            true => files.extend(self::files(&path)),
            false => files.push(path),
        }
    }
    files.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    files
}

/// Returns every import from one room to another, with the file that has it.
fn imports() -> BTreeSet<(String, String, String)> {
    let source = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
    let mut imports = BTreeSet::new();
    for file in files(source) {
        let path = file.strip_prefix(source).expect("below src").to_str().expect("UTF-8");
        let room = path.split(['/', '.']).next().expect("a name").to_owned();
        if ["main", "lib"].contains(&room.as_str()) {
            continue;
        }
        let code = fs::read_to_string(&file).expect("readable");
        for imported in imported_rooms(&code) {
            if imported != room {
                imports.insert((room.clone(), imported.to_owned(), path.to_owned()));
            }
        }
    }
    imports
}

/// Returns the rooms that some code names after `crate::`. Comments do not count.
fn imported_rooms(code: &str) -> Vec<String> {
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    let code = Vec::from_iter(lines).join("\n");
    code.split("crate::").skip(1).flat_map(first_names).collect()
}

/// Returns the first name of each path at the beginning of some code: of one path, or of each one in its
/// braces.
fn first_names(code: &str) -> Vec<String> {
    let name = |path: &str| -> String {
        path.trim_start().chars().take_while(|one| one.is_alphanumeric() || *one == '_').collect()
    };
    let Some(inside) = code.strip_prefix('{') else { return vec![name(code)] };
    let (mut names, mut depth) = (vec![name(inside)], 1);
    for (at, one) in inside.char_indices() {
        match one {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => names.push(name(&inside[at + 1..])),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

#[test]
fn arrows_of_the_table_point_down() {
    for (place, (room, allowed)) in ROOMS.iter().enumerate() {
        for below in *allowed {
            let is_below = ROOMS[place + 1..].iter().any(|(room, _)| room == below);
            assert!(is_below, "{room} -> {below} does not point down");
        }
    }
}

#[test]
fn every_import_follows_the_table() {
    for (room, imported, file) in imports() {
        let allowed = ROOMS.iter().find(|(name, _)| *name == room);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("src/{file}: {room} is not in ROOMS"));
        assert!(
            allowed.contains(&imported.as_str()),
            "src/{file} imports crate::{imported}. A room imports only what ROOMS allows. Does the code \
             belong further down?"
        );
    }
}

#[test]
fn every_arrow_of_the_table_is_used() {
    let used = BTreeSet::from_iter(imports().into_iter().map(|(room, below, _)| (room, below)));
    for (room, allowed) in ROOMS {
        for below in *allowed {
            let arrow = ((*room).to_owned(), (*below).to_owned());
            assert!(used.contains(&arrow), "delete {room} -> {below} from ROOMS");
        }
    }
}

#[test]
fn imports_are_found_except_in_comments() {
    let code = "use crate::{\n    call::{self, A, B},\n    util::id::{C, D}, wechat,\n};\n\
                fn f() -> crate::state::Error { crate::pb::x() } // crate::cli\n\
                /// [`crate::server`]\nuse super::a::{crate_b, c};\n";
    assert_eq!(imported_rooms(code), ["call", "util", "wechat", "state", "pb"]);
}
