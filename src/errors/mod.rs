//! Every failure as a gRPC status, and what WeChat's errcodes mean.

pub(crate) mod errcode;
pub(crate) mod status;
mod unfit;

pub(crate) use unfit::Unfit;
