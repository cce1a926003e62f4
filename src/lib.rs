//! WeChat store and nearby mini programs as one typed gRPC service.

pub mod clock;
pub mod simulator;
