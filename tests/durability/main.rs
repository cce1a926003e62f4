//! What is promised to WeChat and to watchers stays true when processes are killed, disks fill up
//! and Redis goes away. The gateway is the built binary, in processes of its own.
//!
//! Figures are printed: `cargo test --test durability -- --nocapture`. The seed of what is random
//! is among them; built with `DURABILITY_SEED=…` in the environment it is the same again, and with
//! `DURABILITY_ROWS=…` an import has so many rows.

#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

mod disk;
mod files;
mod frozen;
mod gateway;
mod import;
mod journal;
mod kill;
mod loss;
mod redis;
mod replicas;
mod sender;
mod watcher;

/// Says what was found.
#[expect(clippy::print_stderr, reason = "figures are for whoever runs this")]
fn tell(figures: &str) {
    eprintln!("{figures}");
}

/// What decides everything random of one test.
fn random(test: &str) -> fastrand::Rng {
    let seed = match option_env!("DURABILITY_SEED") {
        Some(seed) => seed.parse().expect("a number"),
        None => fastrand::u64(..1_000_000),
    };
    tell(&format!("{test}: DURABILITY_SEED={seed}"));
    fastrand::Rng::with_seed(seed)
}
