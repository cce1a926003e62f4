//! The command line: one match over the commands.

use std::process::ExitCode;

use clap::Parser;
use wechat_store_gateway::{
    cli::{self, Cli, Command},
    config::Environment,
};

/// A call allocates about ninety times. The system's allocator needs a tenth of its time for that.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => cli::conclude(run(cli.command)),
        Err(error) => cli::print_usage(&error),
    }
}

#[tokio::main]
async fn run(command: Command) -> Result<(), cli::Failure> {
    let environment = environment();
    match command {
        Command::Call(call) => call.run(&environment).await,
        Command::Check(check) => check.run(&environment),
        Command::Doctor(doctor) => doctor.run(&environment).await,
        Command::Healthcheck(healthcheck) => healthcheck.run(&environment).await,
        #[cfg(feature = "sandbox")]
        Command::Sandbox(sandbox) => sandbox.run(&environment).await,
        Command::Serve(serve) => serve.run(&environment).await,
        Command::ServiceConfig(config) => config.run(),
        #[cfg(feature = "sandbox")]
        Command::Simulate(simulate) => simulate.run().await,
        Command::State(state) => state.run(&environment).await,
        Command::Token(token) => token.run(),
        Command::Version(version) => version.run(),
    }
}

/// Returns the environment variables. All other code receives them as data.
///
/// Skips variables that are not Unicode, because no setting is.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
fn environment() -> Environment {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}
