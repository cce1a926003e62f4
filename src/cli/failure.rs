//! The error of a command, and its exit code.

use std::{
    fmt,
    io::{self, IsTerminal},
    process::ExitCode,
};

use tonic::Status;

use super::{print, rpc_error::RpcError, target::Target};

/// Wrong arguments or settings: EX_USAGE of sysexits.h.
const USAGE: u8 = 64;

/// The error of a command.
#[derive(Debug)]
pub struct Failure {
    exit_code: u8,
    content: Content,
    /// True if a gRPC error is printed as JSON on a terminal too.
    json: bool,
}

#[derive(Debug)]
enum Content {
    /// Already printed, or nothing to print.
    Nothing,
    Text(String),
    Rpc(Box<RpcError>),
}

impl Failure {
    /// Wrong arguments or wrong settings.
    pub(super) fn usage(message: impl fmt::Display) -> Self {
        Self::text(USAGE, message)
    }

    /// The arguments were right, and the command failed.
    pub(super) fn new(message: impl fmt::Display) -> Self {
        Self::text(1, message)
    }

    /// The called service returned an error, or could not be reached.
    pub(super) fn rpc(error: RpcError) -> Self {
        let code = u8::try_from(i32::from(error.code())).unwrap_or(2);
        Self { exit_code: USAGE + code, content: Content::Rpc(Box::new(error)), json: false }
    }

    /// The error is already printed.
    pub(super) fn printed(exit_code: u8) -> Self {
        Self { exit_code, content: Content::Nothing, json: false }
    }

    /// Prints a gRPC error as JSON on a terminal too.
    pub(super) fn with_json(self) -> Self {
        Self { json: true, ..self }
    }

    /// Lets a gRPC error name the called service, for further reading, and the proof of identity that
    /// the service refused.
    pub(super) fn with_target(mut self, target: &Target) -> Self {
        if let Content::Rpc(error) = &mut self.content {
            error.command = target.command();
            error.hint = target.hint(error.code());
        }
        self
    }

    fn text(exit_code: u8, message: impl fmt::Display) -> Self {
        Self { exit_code, content: Content::Text(message.to_string()), json: false }
    }

    /// Prints the error to standard error. A gRPC error is printed for people on a terminal, and as
    /// JSON elsewhere.
    pub(super) fn print(&self) {
        match &self.content {
            Content::Nothing => {}
            Content::Text(text) => print::problem(text),
            Content::Rpc(error) if self.json || !io::stderr().is_terminal() => {
                print::problem(error.to_json());
            }
            Content::Rpc(error) => print::styled_problem(error.to_text()),
        }
    }

    /// Returns the exit code.
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit_code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.content {
            Content::Nothing => Ok(()),
            Content::Text(text) => f.write_str(text),
            Content::Rpc(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Failure {}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(format_args!("{error:#}"))
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::rpc(RpcError::from(&status))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // The reader of a pipe, such as `head`, has read enough. That is no failure.
            io::ErrorKind::BrokenPipe => Self::printed(0),
            _ => Self::new(error),
        }
    }
}
