//! The transport: it accepts connections, serves HTTP, and ends in order. [`app`](crate::app) wires it.
//!
//! * [`listener`] has a bound socket, its limits, and the loop that accepts connections.
//! * [`http2`] serves gRPC. [`http1`] serves WeChat's pushes and operators.
//! * [`middleware`] gives every gRPC call its limits, its deadline and its trace.
//! * `stream` has the bytes of a connection, with or without TLS.
//! * `coalesce` sends the answers of several calls in one write.
//! * `unread` and `unsent` limit what a peer that does not read can hold up.
//! * [`health`], [`reflection`] and [`admin`] answer for the process itself.

pub(crate) mod admin;
mod coalesce;
pub(crate) mod health;
pub(crate) mod http1;
pub(crate) mod http2;
pub(crate) mod listener;
pub(crate) mod middleware;
pub(crate) mod reflection;
mod stream;
mod unread;
mod unsent;
