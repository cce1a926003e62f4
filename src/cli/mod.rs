//! The commands, one file each.
//!
//! A command is its arguments, read by clap, and a `run`. What it has to say goes to standard
//! output, why it failed to standard error, and how it failed into the exit code.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use self::failure::Failure;

pub mod call;
pub mod check;
mod failure;
pub mod healthcheck;
mod print;
#[cfg(feature = "sandbox")]
pub mod sandbox;
mod seconds;
pub mod serve;
mod settings;
mod signal;
#[cfg(feature = "sandbox")]
pub mod simulate;
mod target;

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed
  2-5  some of many rows were not executed (call --rows)
  64   wrong usage or wrong settings
  64+n the called service answered gRPC code n (call)
  130  stopped by a second signal";

/// WeChat store and nearby mini programs as one typed gRPC service.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serves gRPC callers until SIGTERM or Ctrl-C
    Serve(serve::Serve),
    /// Checks the settings and prints them, secrets hidden
    Check(check::Check),
    /// Calls a method of a running service, or tells what there is to call
    Call(Box<call::Call>),
    /// Asks a running service whether it serves; exits with 0 only if it does
    Healthcheck(healthcheck::Healthcheck),
    /// Runs the service against a simulated WeChat, no account needed
    #[cfg(feature = "sandbox")]
    Sandbox(sandbox::Sandbox),
    /// Runs the simulated WeChat alone, for any client of WeChat
    #[cfg(feature = "sandbox")]
    Simulate(simulate::Simulate),
}

/// Says why a command failed, if it did, and turns it into an exit code.
pub fn conclude(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            print::problem(&failure);
            failure.exit_code()
        }
    }
}

/// Prints what clap has to say: help and version, or what is wrong with the arguments.
pub fn misused(error: &clap::Error) -> ExitCode {
    // Nobody is left to tell where this fails.
    let _ = error.print();
    if error.use_stderr() { Failure::usage("").exit_code() } else { ExitCode::SUCCESS }
}
