//! The right to an answer without an end, such as a watch. It ends with the proof of the caller's identity.

use std::{
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{Caller, Callers, Identity, Refused};
use crate::util::lock;

/// The interval at which the proofs are checked.
const CHECK: Duration = Duration::from_secs(1);

/// The right of a caller to an answer without an end.
#[derive(Debug)]
pub(crate) struct Grant {
    entry: Arc<Entry>,
    /// `None` if no proof is needed.
    callers: Option<Callers>,
}

#[derive(Debug)]
struct Entry {
    identity: Identity,
    /// A child of the caller's own token.
    ended: CancellationToken,
}

/// The grants of which the proof can end. Those that ended are removed at the next check.
#[derive(Debug, Default)]
pub(super) struct Grants(Mutex<Vec<Weak<Entry>>>);

impl Grant {
    /// Returns the grant of the gateway itself.
    #[cfg(test)]
    pub(crate) fn internal() -> Self {
        Self::new(Identity::unproven(Caller::anyone()), None)
    }

    fn new(identity: Identity, callers: Option<Callers>) -> Self {
        let ended = identity.caller.changed.child_token();
        Self { entry: Arc::new(Entry { identity, ended }), callers }
    }

    /// Returns the caller.
    pub(crate) fn caller(&self) -> &Arc<Caller> {
        &self.entry.identity.caller
    }

    /// Returns a token that is canceled when the proof ends, or when the settings no longer have the caller as
    /// it was.
    pub(crate) fn ended(&self) -> &CancellationToken {
        &self.entry.ended
    }

    /// Returns the reason why the proof no longer counts. `None` if it still does.
    pub(crate) fn refusal(&self) -> Option<Refused> {
        self.callers.as_ref()?.check(&self.entry.identity).err()
    }
}

impl Callers {
    /// Returns the right to an answer that ends when the proof of this identity ends.
    pub(crate) fn grant(&self, identity: Identity) -> Grant {
        if identity.needs_no_proof() {
            return Grant::new(identity, None);
        }
        let grant = Grant::new(identity, Some(self.clone()));
        lock(&self.0.grants.0).push(Arc::downgrade(&grant.entry));
        grant
    }

    /// Ends grants of which the proof has ended, until `stop`.
    pub(crate) async fn follow_proofs(self, stop: CancellationToken) {
        let checks = async {
            loop {
                self.0.clock.sleep(CHECK).await;
                self.check_grants();
            }
        };
        stop.run_until_cancelled(checks).await;
    }

    fn check_grants(&self) {
        lock(&self.0.grants.0).retain(|entry| {
            let Some(entry) = entry.upgrade() else { return false };
            if self.check(&entry.identity).is_err() {
                entry.ended.cancel();
            }
            !entry.ended.is_cancelled()
        });
    }
}
