//! Access tokens that replicas share, and the budgets of what must happen rarely.

use std::time::Duration;

use super::Error;
use crate::util::id::{AppId, Secret};

/// Access tokens, and counters.
#[tonic::async_trait]
pub trait Tokens {
    /// Returns the token of an account, unless its life is over.
    async fn token(&self, app_id: &AppId) -> Result<Option<SharedToken>, Error>;

    /// Stores a token if the present token is of generation `before`, where 0 means that there is none
    /// or that its life is over. Returns the token that is stored then: this one, or the newer one that
    /// came first. The generation grows by one if the value differs, and never starts again.
    async fn put_token(
        &self,
        app_id: &AppId,
        before: u64,
        value: &Secret,
        life: Duration,
    ) -> Result<SharedToken, Error>;

    /// Deletes the token of an account, so that no process uses it. Its generation never starts again.
    async fn drop_token(&self, app_id: &AppId) -> Result<(), Error>;

    /// Counts an action that may happen `limit` times within `window`, which begins with the first.
    /// Returns false if the limit is reached.
    async fn spend(&self, counter: &str, limit: u32, window: Duration) -> Result<bool, Error>;

    /// Takes back one count, for an action that cost nothing.
    async fn refund(&self, counter: &str) -> Result<(), Error>;
}

/// A token that replicas share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedToken {
    /// The token itself.
    pub value: Secret,
    /// Counts the changes of the value.
    pub generation: u64,
    /// The rest of its life.
    pub life: Duration,
    /// The time since its value was first stored.
    pub age: Duration,
}
