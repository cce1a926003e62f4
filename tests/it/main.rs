//! The gateway through its front door: real gRPC over a socket, real HTTP to the simulator.

mod support;

mod callers;
mod contract;
mod deadlines;
mod hostile;
mod lifecycle;
mod map_poi;
mod media;
mod merchant;
mod nearby;
mod store;
mod tokens;
