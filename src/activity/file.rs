//! The file of the activity log, and the thread that appends to it.
//!
//! A thread writes, so that a slow disk never holds up calls that only read. The file can be moved away at
//! any time: the next line goes into a new one.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver, SyncSender, TrySendError},
    thread::{self, JoinHandle},
};

use tokio::sync::oneshot;

use super::Entry;
use crate::{metrics::Metrics, telemetry::may_log};

/// The most lines that wait for the disk.
const MOST_WAITING: usize = 10_000;
/// The most lines that are written at once.
const BATCH: usize = 256;

/// The file. It is closed when this is dropped, after all lines are written.
#[derive(Debug)]
pub(super) struct LogFile {
    /// `None` only while this is being dropped.
    lines: Option<SyncSender<Waiting>>,
    thread: Option<JoinHandle<()>>,
}

/// A line that waits for the disk, and the caller that waits for it.
type Waiting = (Entry, Option<oneshot::Sender<()>>);

impl LogFile {
    /// Opens the file, and creates it if there is none.
    pub(super) fn open(path: &Path, metrics: Metrics) -> io::Result<Self> {
        let (file, path) = (open(path)?, path.to_owned());
        let mut appender = Appender { path, file, torn: false, metrics };
        let (sender, lines) = mpsc::sync_channel(MOST_WAITING);
        let thread = thread::Builder::new()
            .name("activity".to_owned())
            .spawn(move || appender.run(&lines))?;
        Ok(Self { lines: Some(sender), thread: Some(thread) })
    }

    /// Writes a line, and returns when it is written.
    pub(super) async fn write(&self, entry: Entry) {
        let (written, done) = oneshot::channel();
        self.send((entry, Some(written)));
        // The line went into the normal log if this fails.
        let _ = done.await;
    }

    /// Writes a line soon.
    pub(super) fn write_soon(&self, entry: Entry) {
        self.send((entry, None));
    }

    fn send(&self, line: Waiting) {
        let Some(lines) = &self.lines else { return };
        if let Err(TrySendError::Full((entry, _)) | TrySendError::Disconnected((entry, _))) =
            lines.try_send(line)
        {
            entry.log();
        }
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        self.lines = None;
        if let Some(thread) = self.thread.take() {
            // If the thread panicked, the lines that waited are lost with it.
            let _ = thread.join();
        }
    }
}

/// Appends lines.
#[derive(Debug)]
struct Appender {
    path: PathBuf,
    file: File,
    /// Whether the last line may be incomplete.
    torn: bool,
    metrics: Metrics,
}

impl Appender {
    /// Writes lines until nothing can send any more.
    fn run(&mut self, lines: &Receiver<Waiting>) {
        while let Ok(first) = lines.recv() {
            let batch: Vec<_> = [first].into_iter().chain(lines.try_iter()).take(BATCH).collect();
            if let Err(error) = self.append(&batch) {
                self.torn = true;
                self.metrics.count_activity_failure();
                let path = self.path.display();
                let text = "failed to write into the activity log; its lines follow here";
                if let Some(unlogged) = may_log(text, "") {
                    tracing::error!(%path, unlogged, "{text}: {error}");
                }
                batch.iter().for_each(|(entry, _)| entry.log());
            }
            for (_, written) in batch {
                // The caller may have left.
                let _ = written.map(|written| written.send(()));
            }
        }
    }

    fn append(&mut self, batch: &[Waiting]) -> io::Result<()> {
        if self.was_moved() {
            (self.file, self.torn) = (open(&self.path)?, false);
        }
        let mut text = if self.torn { b"\n".to_vec() } else { Vec::new() };
        for (entry, _) in batch {
            serde_json::to_writer(&mut text, entry)?;
            text.push(b'\n');
        }
        self.file.write_all(&text)?;
        self.torn = false;
        Ok(())
    }

    /// Returns true if another file, or none, has the name now.
    fn was_moved(&self) -> bool {
        let named = std::fs::metadata(&self.path).ok().map(|found| identity(&found));
        named != self.file.metadata().ok().map(|open| identity(&open))
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
    options.open(path)
}

/// Returns what tells a file apart from others.
#[cfg(unix)]
fn identity(file: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (file.dev(), file.ino())
}

/// Other systems do not let an open file be moved away.
#[cfg(not(unix))]
fn identity(_: &Metadata) {}

#[cfg(test)]
mod tests {
    use std::{fs, time::SystemTime};

    use super::*;

    fn entry(write_id: &str) -> Entry {
        Entry { write_id: write_id.to_owned(), ..Entry::at(SystemTime::UNIX_EPOCH) }
    }

    #[tokio::test]
    async fn line_after_rotation_goes_into_new_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let [path, moved] =
            ["activity.jsonl", "activity.jsonl.1"].map(|name| folder.path().join(name));
        let log = LogFile::open(&path, Metrics::default()).expect("opened");
        log.write(entry("first")).await;
        fs::rename(&path, &moved).expect("moved");
        log.write(entry("second")).await;
        log.write_soon(entry("third"));
        drop(log);
        let lines = |path: &Path| {
            let text = fs::read_to_string(path).expect("a file");
            assert!(text.ends_with('\n'));
            let ids = text.lines().map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
                assert_eq!(line["timestamp"], "1970-01-01T00:00:00Z");
                line["write_id"].as_str().expect("a text").to_owned()
            });
            ids.collect::<Vec<_>>()
        };
        assert_eq!(
            (lines(&moved), lines(&path)),
            (vec!["first".to_owned()], vec!["second".to_owned(), "third".to_owned()])
        );
    }

    #[test]
    fn line_after_incomplete_one_stands_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("activity.jsonl");
        let mut appender = Appender {
            path: path.clone(),
            file: open(&path).expect("opened"),
            torn: true,
            metrics: Metrics::default(),
        };
        fs::write(&path, "{\"timest").expect("written");
        appender.append(&[(entry("whole"), None)]).expect("written");
        let text = fs::read_to_string(&path).expect("a file");
        let (torn, whole) = text.split_once('\n').expect("two lines");
        assert_eq!(torn, "{\"timest");
        assert!(serde_json::from_str::<serde_json::Value>(whole).is_ok(), "{text}");
    }
}
