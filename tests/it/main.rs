//! The gateway through its front door: real gRPC over a socket, real HTTP to the simulator.

mod support;

mod deadlines;
mod hostile;
mod tokens;
