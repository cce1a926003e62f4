//! The result of each row: a line of JSON, written as soon as the row ends.

use std::{
    collections::HashSet,
    fs::{File, TryLockError},
    io::{self, BufRead, BufReader, Seek, SeekFrom, Write},
    path::PathBuf,
};

use prost_reflect::DynamicMessage;
use serde::{Deserialize, Serialize};
use tonic::Code;
use uuid::Uuid;

use super::{
    attempt::{Outcome, UNREADABLE},
    input::RowCall,
};
use crate::cli::{Failure, print, rpc_error::RpcError};

/// The start of every line.
const LINE_START: &[u8] = br#"{"row":"#;
const OK: &str = "ok";

/// The result of a row.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    /// The line number of the row. It comes first, so that the start of a line can be recognized.
    row: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    row_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    same_as_row: Option<u64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<DynamicMessage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<RpcError>,
}

impl Line {
    fn new(row: u64, outcome: &'static str) -> Self {
        Self {
            row,
            row_id: None,
            request_id: None,
            outcome,
            same_as_row: None,
            reason: String::new(),
            response: None,
            error: None,
        }
    }

    pub(super) fn unreadable(row: u64, problem: String) -> Self {
        let error = Some(RpcError::new(Code::InvalidArgument, problem));
        Self { reason: UNREADABLE.to_owned(), error, ..Self::new(row, "failed") }
    }

    pub(super) fn duplicate(row: u64, call: &RowCall, first: u64) -> Self {
        let row_id = Some(call.id.to_string());
        let request_id = call.request_id.clone();
        Self { row_id, request_id, same_as_row: Some(first), ..Self::new(row, "duplicate") }
    }

    pub(super) fn answered(
        row: u64,
        id: Uuid,
        request_id: Option<String>,
        outcome: Outcome,
    ) -> Self {
        let reason = outcome.reason();
        let (outcome, response, error) = match outcome {
            Outcome::Ok(response) => (OK, Some(response), None),
            Outcome::Failed(status) => ("failed", None, Some(RpcError::from(&status))),
            Outcome::Unfinished(status) => {
                ("unfinished", None, status.as_ref().map(RpcError::from))
            }
            Outcome::Unknown(status) => ("unknown", None, Some(RpcError::from(&status))),
        };
        let row_id = Some(id.to_string());
        Self { row_id, request_id, reason, response, error, ..Self::new(row, outcome) }
    }
}

/// The destination of the lines.
pub(super) enum Results {
    Stdout,
    File(File),
}

impl Results {
    /// Opens or creates the file, and returns the ids of the rows that are ok in it.
    pub(super) fn open(path: Option<PathBuf>) -> Result<(Self, HashSet<Uuid>), Failure> {
        let Some(path) = path else { return Ok((Self::Stdout, HashSet::new())) };
        let name = path.display().to_string();
        let wrong = |problem: String| Failure::usage(format_args!("--results: {name}: {problem}"));
        let file = File::options().read(true).append(true).create(true).open(&path);
        let mut file = file.map_err(|error| wrong(error.to_string()))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                return Err(wrong("another import is writing to this file".to_owned()));
            }
            // A file system without locks cannot detect a second import.
            Err(TryLockError::Error(_)) | Ok(()) => {}
        }
        let done = read_earlier(&mut file).map_err(|error| wrong(error.to_string()))?;
        Ok((Self::File(file), done))
    }

    pub(super) fn write(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_string(line)?;
        match self {
            Self::Stdout => print::line(text),
            Self::File(file) => {
                text.push('\n');
                file.write_all(text.as_bytes())
            }
        }
    }
}

/// Returns the ids of the rows that are ok by an earlier run. Removes an incomplete last line.
fn read_earlier(file: &mut File) -> io::Result<HashSet<Uuid>> {
    /// The fields of a line that matter here.
    #[derive(Deserialize)]
    struct Earlier {
        #[serde(rename = "row")]
        _row: u64,
        row_id: Option<String>,
        outcome: String,
    }
    file.seek(SeekFrom::Start(0))?;
    let mut done = HashSet::new();
    let (mut from, mut line) = (BufReader::new(&*file), Vec::new());
    let (mut whole, mut number) = (0, 0);
    loop {
        line.clear();
        let read = from.read_until(b'\n', &mut line)?;
        number += 1;
        match serde_json::from_slice::<Earlier>(&line) {
            _ if read == 0 => break,
            Ok(earlier) if line.ends_with(b"\n") => {
                if earlier.outcome == OK
                    && let Some(Ok(id)) = earlier.row_id.map(|id| id.parse())
                {
                    done.insert(id);
                }
            }
            _ if !line.ends_with(b"\n") && is_line_start(&line) => break,
            // This is not a file of results, so it must not be changed.
            _ => {
                return Err(io::Error::other(format!(
                    "line {number} is not a result of --rows; choose another file"
                )));
            }
        }
        whole += read as u64;
    }
    file.set_len(whole)?;
    Ok(done)
}

/// Returns true if this is the start of a result, or can become one.
fn is_line_start(line: &[u8]) -> bool {
    line.starts_with(LINE_START) || LINE_START.starts_with(line)
}
