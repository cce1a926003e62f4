//! The built binary as a process that runs until the test ends.

#![allow(dead_code, reason = "no test uses all of it")]

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::leaks;

/// A time limit far above the duration of any step.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Returns a command of the built binary, without any variable of the test's own environment.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wechat-store-gateway"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    // Tests run in parallel, so each needs its own port.
    command.env("WECHAT_STORE_GATEWAY__LISTEN__ADMIN", "127.0.0.1:0");
    command
}

/// A process that keeps running until the test ends. Its two outputs are read line by line.
pub(crate) struct Daemon {
    child: Child,
    /// Its working directory.
    _folder: TempDir,
    lines: mpsc::Receiver<String>,
}

impl Daemon {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::spawn(command(arguments))
    }

    pub(crate) fn spawn(mut command: Command) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = command
            .current_dir(&folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let (sender, lines) = mpsc::channel();
        // The sandbox prints the secrets of its simulator, and logs none.
        let outputs: [(Box<dyn Read + Send>, bool); 2] = [
            (Box::new(child.stdout.take().expect("piped")), false),
            (Box::new(child.stderr.take().expect("piped")), true),
        ];
        for (output, is_log) in outputs {
            let sender = sender.clone();
            thread::spawn(move || {
                let lines = BufReader::new(output).lines().map_while(Result::ok);
                let check = |line: &String| {
                    if is_log {
                        leaks::check(line);
                    }
                };
                lines.inspect(check).all(|line| sender.send(line).is_ok())
            });
        }
        Self { child, _folder: folder, lines }
    }

    /// Reads until a line contains `text`. Returns that line and all lines before it.
    pub(crate) fn read_until(&self, text: &str) -> (String, Vec<String>) {
        let mut read = Vec::new();
        loop {
            let Ok(line) = self.lines.recv_timeout(LIMIT) else { panic!("no {text} in {read:#?}") };
            if line.contains(text) {
                return (line, read);
            }
            read.push(line);
        }
    }

    /// Returns the address that it prints after `text`.
    pub(crate) fn address_after(&self, text: &str) -> String {
        let (line, _) = self.read_until(text);
        let (_, rest) = line.split_once(text).expect("the text");
        rest.chars().take_while(|char| matches!(char, '0'..='9' | '.' | ':')).collect()
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status().expect("kill");
        assert!(status.success());
    }

    /// Waits for its end and returns the exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().expect("its status") {
                return status.code();
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("the process did not end");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
