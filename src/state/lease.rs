//! Leases: locks that replicas share.

use std::time::Duration;

use super::Error;

/// Leases. They become durable together with the next durable step, as claims do: if the journal has a
/// call as sent, its lease was durable. If only the end of a lease is lost, the lease is free when its
/// term is over.
#[tonic::async_trait]
pub trait Leases {
    /// Takes a lease for `term`, unless another process has it or its rest is not over. Its fence is
    /// higher than that of every earlier lease on this name.
    async fn acquire(&self, name: &str, term: Duration) -> Result<Acquired, Error>;

    /// Prolongs a lease to `term` from now. Returns false if it was lost.
    async fn renew(&self, name: &str, fence: u64, term: Duration) -> Result<bool, Error>;

    /// Releases a lease. It cannot be taken again before `rest` is over. Does nothing if it was lost.
    async fn free(&self, name: &str, fence: u64, rest: Duration) -> Result<(), Error>;
}

/// The result of [`Leases::acquire`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// The caller has the lease, with this fence.
    Lease(u64),
    /// Another process has it, or it rests, for this time unless it is released earlier.
    Taken(Duration),
}
