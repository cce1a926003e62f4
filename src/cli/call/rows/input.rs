//! The rows: read line by line from a file or from standard input.

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

use super::row_id::row_id;
use crate::cli::{Failure, call::parse_request, print::counted};

/// The maximum length of a row: the largest picture in base64, and room for the other fields.
const LONGEST_LINE: u64 = 16 * 1024 * 1024;
/// How many unreadable rows are listed. The results contain all of them.
const LISTED: usize = 10;

/// One line that is not empty.
pub(super) struct Row {
    /// The number of its line, from 1.
    pub(super) number: u64,
    /// The request, or the reason why it cannot be parsed.
    pub(super) call: Result<RowCall, String>,
}

/// The call that a row asks for.
pub(super) struct RowCall {
    /// The row's id, computed from its content.
    pub(super) id: Uuid,
    /// The `request_id` of the request, if requests of this type have one.
    pub(super) request_id: Option<String>,
    /// The account of the request, or an empty text for the default account.
    pub(super) app_id: String,
    pub(super) message: DynamicMessage,
}

/// Parses lines into requests.
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
            return Some(Row { number, call: Err("not UTF-8".to_owned()) });
        };
        // Spreadsheets write a byte order mark at the start of a file.
        let text = text.trim_start_matches('\u{feff}').trim();
        (!text.is_empty()).then(|| Row { number, call: self.parse(text) })
    }

    fn parse(&self, text: &str) -> Result<RowCall, String> {
        let mut message = parse_request(self.kind.clone(), text)?;
        let id = row_id(&self.method, &self.batch, &message);
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
        Ok(RowCall { id, request_id, app_id, message })
    }
}

/// The source of the rows.
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
            Failure::usage(format_args!("--rows: failed to open {}: {error}", path.display()))
        })?;
        Ok(Self::File(file, path))
    }

    /// Returns false for pipes.
    pub(super) fn can_be_read_twice(&self) -> bool {
        match self {
            Self::File(file, _) => file.metadata().is_ok_and(|about| about.is_file()),
            Self::Stdin => false,
        }
    }

    /// Reads all rows once and returns a report, before any row is sent.
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

    /// Reads rows in a thread and returns a channel with room for `ahead` rows.
    pub(super) fn stream(
        self,
        reader: Reader,
        ahead: usize,
    ) -> mpsc::Receiver<Result<Row, Failure>> {
        let (rows, receiver) = mpsc::channel(ahead);
        // A thread of the runtime would keep the process alive until standard input ends.
        std::thread::spawn(move || {
            let mut from = match self.lines() {
                Ok((_, from)) => from,
                Err(failure) => return drop(rows.blocking_send(Err(failure))),
            };
            loop {
                let row = match from.next(&reader) {
                    Ok(Some(row)) => Ok(row),
                    Ok(None) => return,
                    Err(error) => {
                        Err(Failure::new(format_args!("--rows: failed to read: {error}")))
                    }
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

/// Lines with their numbers.
struct Lines {
    from: Box<dyn BufRead + Send>,
    number: u64,
    line: Vec<u8>,
}

impl Lines {
    fn new(from: impl BufRead + Send + 'static) -> Self {
        Self { from: Box::new(from), number: 0, line: Vec::new() }
    }

    /// Returns the next row. Skips empty lines.
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
                let call = Err(format!("longer than {LONGEST_LINE} bytes"));
                return Ok(Some(Row { number: self.number, call }));
            }
            if let Some(row) = reader.row(self.number, &self.line) {
                return Ok(Some(row));
            }
        }
    }
}

/// The report about all rows before any is sent.
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
        match &row.call {
            Ok(call) => self.duplicates += u64::from(!seen.insert(call.id)),
            Err(problem) => {
                self.unreadable += 1;
                if self.first_unreadable.len() < LISTED {
                    self.first_unreadable.push((row.number, problem.clone()));
                }
            }
        }
    }

    /// Returns true if every row can be sent.
    pub(super) const fn is_good(&self) -> bool {
        self.unreadable == 0
    }
}

impl fmt::Display for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, counted(self.rows, "row"))?;
        if self.duplicates > 0 {
            write!(f, ", {} duplicate", self.duplicates)?;
        }
        if self.unreadable > 0 {
            write!(f, ", {} unreadable", self.unreadable)?;
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
        reader.parse(json).err().expect("it is wrong")
    }

    #[test]
    fn parse_error_does_not_quote_values() {
        assert_eq!(wrong(r#"{"poi": "1"}"#), "not an AddStoreRequest: it has no field 'poi'");
        for json in [
            r#"{"contact_phone": 13800138000}"#,
            r#"{"picture_urls": "13800138000"}"#,
            r#"{"validate_only": "13800138000"}"#,
            r#"{"hours": "13800138000"}"#,
            r#""13800138000""#,
            r#"{"contact_phone": "13800138000""#,
        ] {
            let error = wrong(json);
            assert!(!error.contains("138"), "{error}");
        }
    }
}
