//! The gateway through its front door: real gRPC over a socket, real HTTP to the simulator.

mod support;

mod contract;
mod deadlines;
mod hostile;
mod tokens;
