//! The commands, one file each.
//!
//! A command consists of its arguments, parsed by clap, and a `run` method. It prints its output to
//! standard output and errors to standard error, and sets the exit code.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use self::failure::Failure;

pub mod call;
pub mod check;
pub mod doctor;
mod failure;
pub mod healthcheck;
mod print;
mod rpc_error;
#[cfg(feature = "sandbox")]
pub mod sandbox;
mod seconds;
mod secret_file;
pub mod serve;
pub mod service_config;
mod settings;
mod signal;
#[cfg(feature = "sandbox")]
pub mod simulate;
pub mod state;
mod target;
pub mod token;
pub mod version;

#[cfg(feature = "sandbox")]
const SANDBOX_EXAMPLES: &str = "
  wechat-store-gateway sandbox --tour        see a store added and reviewed, without an account
  wechat-store-gateway sandbox               keep a sandbox running, with commands to try";
#[cfg(not(feature = "sandbox"))]
const SANDBOX_EXAMPLES: &str = "";

const EXAMPLES: &str = "
  wechat-store-gateway call --list           list the methods of a running service
  wechat-store-gateway check --config FILE   check the settings
  wechat-store-gateway doctor --config FILE  check this machine and the accounts at WeChat
  wechat-store-gateway serve --config FILE   serve

Exit codes:
  0    success
  1    failure
  2-5  not all rows were executed (call --rows)
  3    the state has damaged rows (state)
  64   wrong arguments or wrong settings
  64+n the call returned gRPC code n (call)
  130  a second signal stopped the process at once";

/// WeChat's store and nearby mini programs (门店小程序, 附近的小程序) as one typed gRPC service.
#[derive(Debug, Parser)]
#[command(version, after_help = format!("Examples:{SANDBOX_EXAMPLES}{EXAMPLES}"))]
pub struct Cli {
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve gRPC callers until SIGTERM or Ctrl-C
    Serve(serve::Serve),
    /// Check the settings and print them with secrets hidden
    Check(check::Check),
    /// Check this machine and the accounts at WeChat, with reads only
    Doctor(doctor::Doctor),
    /// Call a method of a running service, or list and describe its methods
    Call(Box<call::Call>),
    /// Check whether a running service is healthy; exit with 0 only if it is
    Healthcheck(healthcheck::Healthcheck),
    /// Run the service with a simulated WeChat; no account needed
    #[cfg(feature = "sandbox")]
    Sandbox(sandbox::Sandbox),
    /// Run only the simulated WeChat, for any WeChat client
    #[cfg(feature = "sandbox")]
    Simulate(simulate::Simulate),
    /// Print the gRPC service config, with which clients retry only what is safe
    ServiceConfig(service_config::ServiceConfig),
    /// Copy, back up, check or describe the stored state, or make a key for its secrets
    State(state::State),
    /// Make a bearer token for a caller, or hash one for the settings
    Token(token::Token),
    /// Print the version, the commit, the target, the compiler and the features
    Version(version::Version),
}

/// Returns the program as the user called it, for commands to copy.
fn program() -> String {
    let name = std::env::args_os().next();
    name.map_or("wechat-store-gateway".into(), |name| name.to_string_lossy().into_owned())
}

/// Prints the error of a command, if it failed, and returns the exit code.
pub fn conclude(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            failure.exit_code()
        }
    }
}

/// Prints what clap returns instead of a command: help, the version, or an error in the arguments.
/// Returns the exit code.
pub fn print_usage(error: &clap::Error) -> ExitCode {
    // If standard error is closed, there is no other place to report that.
    let _ = error.print();
    if error.use_stderr() { Failure::usage("").exit_code() } else { ExitCode::SUCCESS }
}
