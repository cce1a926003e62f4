//! The promises to WeChat and to watchers hold when processes are killed, disks fill up and Redis
//! disappears. The gateway is the built binary, in separate processes.
//!
//! `cargo test --test durability -- --nocapture` prints figures, including the random seed. A build
//! with `DURABILITY_SEED=…` in the environment repeats the same choices, and with
//! `DURABILITY_ROWS=…` an import and a copy have this many rows. With `CHAOS_SECONDS=…` the gateway of a platform is killed for
//! this time, and everything fails for this time with a Redis that fails over. With `FAILOVERS=…` it fails over this
//! many times in a row, and `FAILOVER_REPLICAS=0` counts what is lost without `state.replicas`.

#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

mod copy;
mod disk;
mod files;
mod frozen;
mod gateway;
mod import;
mod journal;
mod kill;
#[path = "../leaks/mod.rs"]
mod leaks;
mod loss;
mod platforms;
#[allow(dead_code, unused_imports, reason = "each test program uses a part of it")]
#[path = "../redis/mod.rs"]
mod redis;
mod replicas;
mod restart;
#[path = "../samples/mod.rs"]
mod samples;
mod sender;
mod upgrade;
mod watcher;
mod work;

/// Prints figures.
#[expect(clippy::print_stderr, reason = "the figures are for the person at the terminal")]
fn print_figures(figures: &str) {
    eprintln!("{figures}");
}

/// Returns the source of all random choices of one test.
fn random(test: &str) -> fastrand::Rng {
    let seed = match option_env!("DURABILITY_SEED") {
        Some(seed) => seed.parse().expect("a number"),
        None => fastrand::u64(..1_000_000),
    };
    print_figures(&format!("{test}: DURABILITY_SEED={seed}"));
    fastrand::Rng::with_seed(seed)
}
