//! The rows: read a line at a time, from a file or from standard input.

use std::{
    collections::HashSet,
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek},
    path::PathBuf,
};

use prost_reflect::{DynamicMessage, Kind, MessageDescriptor, MethodDescriptor, Value};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::name;
use crate::cli::{Failure, call::client::parse};

/// The largest picture, in base64, and room for the rest. What is longer is no row.
const LONGEST_LINE: u64 = 16 * 1024 * 1024;
/// So many mistakes are told one by one; all of them are among the results.
const TOLD: usize = 10;

/// A line that is not empty.
pub(super) struct Row {
    /// The number of its line, from 1.
    pub(super) number: u64,
    /// What it asks for, or why that cannot be read.
    pub(super) ask: Result<Ask, String>,
}

/// What a row asks for.
pub(super) struct Ask {
    /// The row's name.
    pub(super) id: Uuid,
    /// The `request_id` of its request, where requests of this type have one.
    pub(super) request_id: Option<String>,
    /// The account that it names; empty for the default one.
    pub(super) app_id: String,
    pub(super) message: DynamicMessage,
}

/// Makes requests of lines.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    kind: MessageDescriptor,
    method: String,
    batch: String,
}

impl Reader {
    pub(super) fn new(method: &MethodDescriptor, batch: &str) -> Self {
        let method_name = method.full_name().to_owned();
        Self { kind: method.input(), method: method_name, batch: batch.to_owned() }
    }

    fn row(&self, number: u64, line: &[u8]) -> Option<Row> {
        let Ok(text) = std::str::from_utf8(line) else {
            return Some(Row { number, ask: Err("it is not UTF-8".to_owned()) });
        };
        // Spreadsheets begin files with a mark.
        let text = text.trim_start_matches('\u{feff}').trim();
        (!text.is_empty()).then(|| Row { number, ask: self.ask(text) })
    }

    fn ask(&self, text: &str) -> Result<Ask, String> {
        let mut message = parse(self.kind.clone(), text).map_err(|error| {
            format!("it is no {} in JSON: {}", self.kind.name(), without_values(&error))
        })?;
        let id = name::of(&self.method, &self.batch, &message);
        let field = self.kind.get_field_by_name("request_id");
        let field = field.filter(|field| field.kind() == Kind::String && !field.is_list());
        let request_id = field.map(|field| {
            match message.get_field(&field).as_str().filter(|text| !text.is_empty()) {
                Some(own) => own.to_owned(),
                None => {
                    message.set_field(&field, Value::String(id.to_string()));
                    id.to_string()
                }
            }
        });
        let app_id = self.kind.get_field_by_name("app_id").map(|field| message.get_field(&field));
        let app_id = app_id.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default();
        Ok(Ask { id, request_id, app_id, message })
    }
}

/// What is wrong with a line, without what stands in it: that may be somebody's telephone number.
fn without_values(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = match text.split_once(", expected ") {
        Some((said, expected)) if said.starts_with("invalid ") => format!("expected {expected}"),
        _ => text,
    };
    let text = match text.split_once("unrecognized enum value '") {
        Some((_, value)) => {
            let place = value.rsplit_once('\'').map_or("", |(_, place)| place);
            format!("unrecognized enum value{place}")
        }
        None => text,
    };
    text.replace(" at line 1 column ", " at column ")
}

/// Where rows come from.
pub(super) enum Source {
    File(File, PathBuf),
    Stdin,
}

impl Source {
    pub(super) fn open(path: PathBuf) -> Result<Self, Failure> {
        if path.as_os_str() == "-" {
            return Ok(Self::Stdin);
        }
        let file = File::open(&path).map_err(|error| {
            Failure::usage(format_args!("--rows: {} cannot be read: {error}", path.display()))
        })?;
        Ok(Self::File(file, path))
    }

    /// False for pipes.
    pub(super) fn can_be_read_twice(&self) -> bool {
        match self {
            Self::File(file, _) => file.metadata().is_ok_and(|about| about.is_file()),
            Self::Stdin => false,
        }
    }

    /// Reads all rows once, to tell what is wrong before anything is sent.
    pub(super) async fn scan(&self, reader: &Reader) -> Result<Scan, Failure> {
        let (name, mut from) = self.lines()?;
        let reader = reader.clone();
        let scanned = tokio::task::spawn_blocking(move || {
            let mut scan = Scan { name, ..Scan::default() };
            let mut seen = HashSet::new();
            while let Some(row) = from.next(&reader)? {
                scan.add(&row, &mut seen);
            }
            Ok::<_, io::Error>(scan)
        });
        Ok(scanned.await.map_err(Failure::new)??)
    }

    /// Reads rows on a thread of its own, no further ahead than `ahead`.
    pub(super) fn stream(
        self,
        reader: Reader,
        ahead: usize,
    ) -> mpsc::Receiver<Result<Row, Failure>> {
        let (rows, receiver) = mpsc::channel(ahead);
        // Not one of the runtime's, which would wait at the end for whoever types standard input.
        std::thread::spawn(move || {
            let mut from = match self.lines() {
                Ok((_, from)) => from,
                Err(failure) => return drop(rows.blocking_send(Err(failure))),
            };
            loop {
                let row = match from.next(&reader) {
                    Ok(Some(row)) => Ok(row),
                    Ok(None) => return,
                    Err(error) => Err(Failure::new(format_args!("--rows: {error}"))),
                };
                let failed = row.is_err();
                if rows.blocking_send(row).is_err() || failed {
                    return;
                }
            }
        });
        receiver
    }

    fn lines(&self) -> Result<(String, Lines), Failure> {
        Ok(match self {
            Self::File(file, path) => {
                let mut file = file.try_clone()?;
                if self.can_be_read_twice() {
                    file.rewind()?;
                }
                (path.display().to_string(), Lines::new(BufReader::new(file)))
            }
            Self::Stdin => ("standard input".to_owned(), Lines::new(BufReader::new(io::stdin()))),
        })
    }
}

/// Lines, counted.
struct Lines {
    from: Box<dyn BufRead + Send>,
    number: u64,
    line: Vec<u8>,
}

impl Lines {
    fn new(from: impl BufRead + Send + 'static) -> Self {
        Self { from: Box::new(from), number: 0, line: Vec::new() }
    }

    /// The next row; empty lines are none.
    fn next(&mut self, reader: &Reader) -> io::Result<Option<Row>> {
        loop {
            self.line.clear();
            let read = (&mut self.from).take(LONGEST_LINE).read_until(b'\n', &mut self.line)?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            if read as u64 == LONGEST_LINE && !self.line.ends_with(b"\n") {
                self.from.skip_until(b'\n')?;
                let ask = Err(format!("it is longer than {LONGEST_LINE} bytes"));
                return Ok(Some(Row { number: self.number, ask }));
            }
            if let Some(row) = reader.row(self.number, &self.line) {
                return Ok(Some(row));
            }
        }
    }
}

/// What a first look at all rows found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    name: String,
    pub(super) rows: u64,
    unreadable: u64,
    first_unreadable: Vec<(u64, String)>,
    duplicates: u64,
}

impl Scan {
    fn add(&mut self, row: &Row, seen: &mut HashSet<Uuid>) {
        self.rows += 1;
        match &row.ask {
            Ok(ask) => self.duplicates += u64::from(!seen.insert(ask.id)),
            Err(problem) => {
                self.unreadable += 1;
                if self.first_unreadable.len() < TOLD {
                    self.first_unreadable.push((row.number, problem.clone()));
                }
            }
        }
    }

    /// Whether every row can be sent.
    pub(super) const fn is_good(&self) -> bool {
        self.unreadable == 0
    }
}

impl fmt::Display for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} rows", self.name, self.rows)?;
        if self.duplicates > 0 {
            write!(f, ", {} the same as an earlier one", self.duplicates)?;
        }
        if self.unreadable > 0 {
            write!(f, ", {} cannot be read", self.unreadable)?;
        }
        for (number, problem) in &self.first_unreadable {
            write!(f, "\n  line {number}: {problem}")?;
        }
        if self.unreadable > self.first_unreadable.len() as u64 {
            write!(f, "\n  …")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb;

    fn wrong(json: &str) -> String {
        let types = prost_reflect::DescriptorPool::decode(pb::DESCRIPTORS).expect("types");
        let service = types.get_service_by_name("wechat.store.v1.StoreService").expect("a service");
        let method = service.methods().find(|method| method.name() == "AddStore");
        let reader = Reader::new(&method.expect("a method"), "");
        reader.ask(json).err().expect("it is wrong")
    }

    #[test]
    fn a_mistake_is_told_without_what_stands_there() {
        assert_eq!(
            wrong(r#"{"poi": "1"}"#),
            "it is no AddStoreRequest in JSON: unrecognized field name 'poi' at column 6"
        );
        for json in [
            r#"{"contact_phone": 13800138000}"#,
            r#"{"picture_urls": "13800138000"}"#,
            r#"{"validate_only": "13800138000"}"#,
            r#"{"hours": "13800138000"}"#,
            r#""13800138000""#,
            r#"{"contact_phone": "13800138000""#,
        ] {
            let told = wrong(json);
            assert!(!told.contains("138"), "{told}");
        }
    }
}
