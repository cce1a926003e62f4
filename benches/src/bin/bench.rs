//! Runs the cases and prints the results. The same binary is also each server that takes part.
//! `benches/run` builds everything and calls it.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "the gateway's rules about the clock, the environment and output do not apply to benchmarks"
)]

use std::{fs, path::PathBuf};

use clap::{Parser, Subcommand};
use tokio::runtime::Builder;
use wechat_store_gateway_benches::{
    cases::{CASES, process::soak, profile::profile, reads::peers},
    process::Placing,
    pure,
    servers::Serve,
    world::World,
};

/// The benchmarks of wechat-store-gateway.
#[derive(Debug, Parser)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures the gateway beside servers that do nothing else
    Run(Arguments),
    /// Runs one of these servers
    Serve(Serve),
    /// Runs a part of a call many times, so that its instructions can be counted, and prints the
    /// nanoseconds of processor time that one of them took
    Pure {
        /// The part
        case: String,
        /// The number of runs
        times: u32,
    },
}

#[derive(Debug, clap::Args)]
struct Arguments {
    /// The gateway's binary
    #[arg(long)]
    gateway: PathBuf,
    /// Another build of the gateway as the second one. The noise then shows how far the two differ
    #[arg(long, value_name = "FILE")]
    twin: Option<PathBuf>,
    /// The library that counts syncs, to be preloaded
    #[arg(long)]
    shim: PathBuf,
    /// A folder for states and logs, on the disk that is measured. It is emptied
    #[arg(long)]
    folder: PathBuf,
    /// A file to which the tables are also written
    #[arg(long)]
    report: PathBuf,
    /// The commit that the report names
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// The number of rounds
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// The seconds that each server is measured in a round
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Three rounds of one second
    #[arg(long)]
    quick: bool,
    /// Only this case. May be given several times
    #[arg(long)]
    only: Vec<String>,
    /// The number of events in a long log
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// Only makes this many calls in a row and reports how memory behaves
    #[arg(long, value_name = "CALLS")]
    soak: Option<u64>,
    /// Only compares proxied reads with those of this server. May be given several times
    #[arg(long, value_name = "NAME=COMMAND", value_parser = peer)]
    peer: Vec<(String, String)>,
    /// Only reports where the processor time of a proxied read goes. The binaries must have their
    /// symbols
    #[arg(long)]
    profile: bool,
    /// Pins no process to a core
    #[arg(long)]
    unpinned: bool,
}

fn main() -> anyhow::Result<()> {
    // This is the first installation, so none is refused. Every reqwest client needs one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match Line::parse().command {
        Command::Run(arguments) => {
            Builder::new_current_thread().enable_all().build()?.block_on(run(arguments))
        }
        // As tokio::main builds it, and so the gateway has the same.
        Command::Serve(serve) => {
            Builder::new_multi_thread().enable_all().build()?.block_on(serve.run())
        }
        Command::Pure { case, times } => {
            let took = pure::run(&case, times)?;
            println!("{:.0}", took.as_nanos() as f64 / f64::from(times));
            Ok(())
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    for name in &arguments.only {
        let known = CASES.iter().any(|(case, _)| case == name);
        let names: Vec<_> = CASES.iter().map(|(case, _)| *case).collect();
        anyhow::ensure!(known, "no case {name}; there are {}", names.join(", "));
    }
    let _ = fs::remove_dir_all(&arguments.folder);
    fs::create_dir_all(&arguments.folder)?;
    let (rounds, seconds) = match arguments.quick {
        true => (3, 1.0),
        false => (arguments.rounds, arguments.seconds),
    };
    let world = World {
        placing: Placing { pinned: !arguments.unpinned },
        twin: arguments.twin.unwrap_or_else(|| arguments.gateway.clone()),
        gateway: arguments.gateway,
        floor: std::env::current_exe()?,
        folder: arguments.folder.canonicalize()?,
        shim: arguments.shim.canonicalize()?,
        events: arguments.events,
        rounds,
        seconds,
    };
    world.placing.settle()?;
    let place = match world.placing.pinned {
        true => "the server on core 0, callers and upstream on core 1",
        false => "not pinned",
    };
    let mut text = format!(
        "Commit {}; {rounds} rounds of {seconds} s, interleaved; {place}.\n\n",
        arguments.commit
    );
    println!("{text}");
    let special = match arguments.soak {
        Some(calls) => Some(soak(&world, calls).await?),
        None if arguments.profile => Some(profile(&world).await?),
        None if !arguments.peer.is_empty() => Some(peers(&world, &arguments.peer).await?),
        None => None,
    };
    if let Some(report) = special {
        println!("{}", report.text());
        text.push_str(report.text());
        return Ok(fs::write(&arguments.report, text)?);
    }
    let mut failed = Vec::new();
    for (name, run) in CASES {
        if !arguments.only.is_empty() && !arguments.only.iter().any(|only| only == name) {
            continue;
        }
        match run(&world).await {
            Ok(report) => {
                println!("{}", report.text());
                text.push_str(report.text());
            }
            Err(error) => {
                println!("### {name}: FAILED\n\n{error:#}\n");
                failed.push(*name);
            }
        }
    }
    fs::write(&arguments.report, text)?;
    anyhow::ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

fn peer(text: &str) -> Result<(String, String), &'static str> {
    let (name, command) = text.split_once('=').ok_or("NAME=COMMAND")?;
    Ok((name.to_owned(), command.to_owned()))
}
