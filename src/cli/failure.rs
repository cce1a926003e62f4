//! Why a command failed, and its exit code.

use std::{fmt, io, process::ExitCode};

/// What sysexits.h calls EX_USAGE.
const USAGE: u8 = 64;

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// The caller asked for something that cannot be, or set it wrong.
    pub(super) fn usage(message: impl fmt::Display) -> Self {
        Self { code: USAGE, message: message.to_string() }
    }

    /// It was asked rightly and did not work.
    pub(super) fn new(message: impl fmt::Display) -> Self {
        Self { code: 1, message: message.to_string() }
    }

    /// The service that was called answered with a gRPC code other than OK.
    pub(super) fn refused(code: tonic::Code, message: impl fmt::Display) -> Self {
        let code = u8::try_from(i32::from(code)).unwrap_or(2);
        Self { code: USAGE + code, message: message.to_string() }
    }

    /// Some of many things did not work, which has been told already.
    pub(super) fn told(code: u8) -> Self {
        Self { code, message: String::new() }
    }

    /// Its exit code.
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(format_args!("{error:#}"))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // Whoever reads has read enough; that is no failure, only the end.
            io::ErrorKind::BrokenPipe => Self { code: 0, message: String::new() },
            _ => Self::new(error),
        }
    }
}
