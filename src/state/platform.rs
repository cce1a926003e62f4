//! Third-party platforms: their tickets, and the accounts that authorized them.

use std::{fmt, time::Duration};

use super::Error;
use crate::util::id::{AppId, Secret};

/// The time for which WeChat accepts a ticket after it sent it.
pub(super) const TICKET_LIFE: Duration = Duration::from_secs(12 * 60 * 60);

/// Tickets and authorizers.
///
/// WeChat sends several of both at a time and repeats them, so the order of their arrival means little. WeChat's
/// own time decides which one counts.
#[tonic::async_trait]
pub trait Platforms {
    /// Stores the ticket of a platform, unless a ticket that WeChat sent later is stored. Returns whether it is
    /// stored now, also if it was stored before.
    async fn put_ticket(
        &self,
        platform: &AppId,
        ticket: &Secret,
        sent_at: u64,
    ) -> Result<bool, Error>;

    /// Returns the newest ticket of a platform, unless WeChat sent it more than 12 hours ago.
    async fn ticket(&self, platform: &AppId) -> Result<Option<Ticket>, Error>;

    /// Stores what became of an authorization, unless a later change is stored. Of two changes in one second the one
    /// that arrives last counts. With `only_new`, for data that is no change, stores it only if there is no
    /// authorizer or if an older change ended its authorization. Returns whether it is stored now, also if it was
    /// stored before.
    ///
    /// An authorizer whose row is damaged counts as absent.
    async fn put_authorizer(&self, authorizer: &Authorizer, only_new: bool) -> Result<bool, Error>;

    /// Returns an authorizer, also if it has ended its authorization.
    async fn authorizer(
        &self,
        platform: &AppId,
        app_id: &AppId,
    ) -> Result<Option<Authorizer>, Error>;

    /// Replaces the refresh token of an authorizer if the present one is `before` and its authorization stands.
    /// Returns whether `value` is its refresh token now. So of two callers with the same `before` and different
    /// values, one gets true.
    async fn replace_refresh_token(
        &self,
        platform: &AppId,
        app_id: &AppId,
        before: Option<&Secret>,
        value: &Secret,
    ) -> Result<bool, Error>;

    /// Replaces the record of an authorizer, unless its authorization has changed since `changed_at`. Returns
    /// whether `record` is its record now.
    async fn describe_authorizer(
        &self,
        platform: &AppId,
        app_id: &AppId,
        changed_at: u64,
        record: &[u8],
    ) -> Result<bool, Error>;

    /// Returns at most `most` authorizers of a platform in the order of their ids, after an id. Those that ended
    /// their authorization are among them until they are pruned. Fewer than `most` are the last ones.
    async fn authorizers(
        &self,
        platform: &AppId,
        after: Option<&AppId>,
        most: usize,
    ) -> Result<Vec<Authorizer>, Error>;
}

/// The ticket (component_verify_ticket) of a platform. WeChat gives an access token for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The ticket itself.
    pub value: Secret,
    /// When WeChat sent it, in seconds since 1970.
    pub sent_at: u64,
}

/// An account that authorized a platform.
#[derive(Clone, PartialEq, Eq)]
pub struct Authorizer {
    /// The platform.
    pub platform: AppId,
    /// The account.
    pub app_id: AppId,
    /// When its authorization last changed, as WeChat states it, in seconds since 1970.
    pub changed_at: u64,
    /// Whether its authorization stands.
    pub authorized: bool,
    /// The refresh token. WeChat gives an access token for it. Never empty, and absent without an authorization.
    pub refresh_token: Option<Secret>,
    /// An encoded [`AuthorizerRecord`](crate::pb::platform::AuthorizerRecord).
    pub record: Vec<u8>,
}

/// Hides the record, which can have a secret code.
impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { platform, app_id, changed_at, authorized, refresh_token, record: _ } = self;
        f.debug_struct("Authorizer")
            .field("platform", platform)
            .field("app_id", app_id)
            .field("changed_at", changed_at)
            .field("authorized", authorized)
            .field("refresh_token", refresh_token)
            .finish_non_exhaustive()
    }
}

impl Authorizer {
    /// Returns it in the form that is stored: without a refresh token that is empty or of no use.
    pub(super) fn tidy(&self) -> Self {
        let refresh_token = self.refresh_token.as_ref();
        let refresh_token =
            refresh_token.filter(|token| self.authorized && !token.expose().is_empty());
        Self { refresh_token: refresh_token.cloned(), ..self.clone() }
    }

    /// Returns the refresh token as text. It is empty if there is none.
    pub(super) fn refresh_text(&self) -> &str {
        self.refresh_token.as_ref().map_or("", Secret::expose)
    }
}
