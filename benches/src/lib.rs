//! What the gateway costs, measured beside servers that do nothing else.
//!
//! [`floor`] has these servers, [`servers`] their command line, [`upstream`] the WeChat that all of them ask. [`world`] starts
//! everything, [`load`] calls it, [`rounds`] interleaves the measurements and compares them;
//! [`cases`] says what is compared. docs/performance.md is the manual.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "the gateway's rules about the clock, the environment and output do not apply to benchmarks"
)]

pub mod cases;
pub mod codec;
pub mod floor;
pub mod load;
pub mod process;
pub mod pure;
pub mod rounds;
pub mod servers;
pub mod upstream;
pub mod world;
