//! Measures what the gateway costs, beside servers that do nothing else.
//!
//! [`floor`] has these servers, [`servers`] their command line, and [`upstream`] the WeChat that
//! all of them call. [`world`] starts everything, [`load`] makes calls, and [`rounds`] interleaves
//! the measurements and compares them. [`cases`] lists the comparisons. docs/performance.md is the
//! manual.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "the gateway's rules about the clock, the environment and output do not apply to benchmarks"
)]

pub mod cases;
pub mod floor;
pub mod load;
pub mod process;
pub mod pure;
pub mod rounds;
pub mod servers;
pub mod upstream;
pub mod world;
