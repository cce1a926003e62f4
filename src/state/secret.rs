//! The secrets of a state in the form in which it has them, for [`Sealed`](super::sealed::Sealed).

use std::fmt;

use super::{Error, State};
use crate::util::id::AppId;

/// The secrets of a backend in their stored form. No other part of a row changes here: neither the generation of a
/// token nor the time of a ticket.
#[tonic::async_trait]
pub trait Secrets {
    /// Returns stored secrets, from the beginning or from where a page ended. A secret that changes meanwhile may
    /// be left out or come twice, and damaged rows are left out.
    async fn stored_secrets(&self, from: Option<&str>) -> Result<SecretPage, Error>;

    /// Replaces the form of a secret by another form of the same secret. Returns false, and does nothing, if it is
    /// not stored in this form any more.
    async fn replace_form(&self, secret: &StoredSecret, form: &[u8]) -> Result<bool, Error>;

    /// Overwrites what replaced rows left behind, as far as the backend can do that while it is in use.
    async fn scrub(&self) -> Result<(), Error>;
}

/// A backend of the state.
pub trait Backend: State + Secrets {}

impl<B: State + Secrets> Backend for B {}

/// A column that has a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretColumn {
    /// The value of a token.
    Token,
    /// The value of a ticket.
    Ticket,
    /// The refresh token of an authorizer.
    RefreshToken,
    /// The record of an authorizer, which has the code of its authorization.
    Record,
}

/// A stored secret. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredSecret {
    /// The column.
    pub column: SecretColumn,
    /// The platform. Empty for a token.
    pub platform: AppId,
    /// The account, or the name of a token. Empty for a ticket.
    pub app_id: AppId,
    /// The content of the column.
    pub form: Vec<u8>,
}

impl fmt::Debug for StoredSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { column, platform, app_id, form: _ } = self;
        f.debug_struct("StoredSecret")
            .field("column", column)
            .field("platform", platform)
            .field("app_id", app_id)
            .finish_non_exhaustive()
    }
}

/// A page of secrets.
#[derive(Clone, Debug, Default)]
pub struct SecretPage {
    /// The secrets.
    pub secrets: Vec<StoredSecret>,
    /// Where the next page begins. `None` after the last one.
    pub next: Option<String>,
}
