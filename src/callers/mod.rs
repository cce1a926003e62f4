//! The callers: which program calls, and what it may do.
//!
//! [`Callers::identify`] finds the caller of a request by the proof that comes with it: a bearer token in
//! `authorization`, or the client certificate of its connection. A [`Caller`] has a role for each account,
//! and [`Caller::may`] decides. The access that an RPC needs is data of the contract
//! ([`pb::Access`](crate::pb::Access)).
//!
//! The settings can change while the process runs. The whole table is then replaced, so a call sees either
//! the old callers or the new ones.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use arc_swap::ArcSwap;
use http::{HeaderMap, header};
use tokio_util::sync::CancellationToken;

use self::bearer::Tokens;
use crate::{
    config::{self, Role},
    pb::Access,
    util::{id::AppId, scope::Scope},
};

mod bearer;

/// The longest proof in a header, in bytes. A longer one is not examined.
const LONGEST_PROOF: usize = 8 * 1024;

/// A program that calls.
#[derive(Debug)]
pub(crate) struct Caller {
    name: String,
    role: Option<Role>,
    roles: HashMap<AppId, Role>,
    /// Canceled when the settings no longer have the caller as it is here.
    changed: CancellationToken,
}

/// Stands for every caller if the settings name none, and for the gateway itself.
static ANYONE: LazyLock<Arc<Caller>> = LazyLock::new(|| {
    let (name, role) = (String::new(), Some(Role::Admin));
    Arc::new(Caller { name, role, roles: HashMap::new(), changed: CancellationToken::new() })
});

impl Caller {
    /// Returns the caller that may do everything and has no name.
    pub(crate) fn anyone() -> Arc<Self> {
        ANYONE.clone()
    }

    /// Returns the name. Empty if the settings name no callers.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns true if the caller has this access to an account.
    pub(crate) fn may(&self, access: Access, app_id: &str) -> bool {
        let role = self.roles.get(app_id).copied().max(self.role);
        role.is_some_and(|role| role >= needed(access))
    }

    /// Returns true if the caller has this access to every account.
    pub(crate) fn may_everywhere(&self, access: Access) -> bool {
        self.role.is_some_and(|role| role >= needed(access))
    }

    /// Returns true if the caller has this access to some account.
    pub(crate) fn may_somewhere(&self, access: Access) -> bool {
        self.may_everywhere(access) || self.roles.values().any(|role| *role >= needed(access))
    }

    /// Returns the accounts to which the caller has this access.
    pub(crate) fn accounts(&self, access: Access) -> Scope {
        if self.may_everywhere(access) {
            return Scope::All;
        }
        let roles = self.roles.iter().filter(|(_, role)| **role >= needed(access));
        Scope::Only(roles.map(|(app_id, _)| app_id.clone()).collect())
    }

    /// Returns a token that is canceled when the settings no longer have the caller as it is here.
    pub(crate) fn changed(&self) -> &CancellationToken {
        &self.changed
    }
}

/// Returns the lowest role that has an access.
fn needed(access: Access) -> Role {
    match access {
        Access::Read => Role::Reader,
        Access::Write => Role::Writer,
        Access::Admin | Access::Unspecified => Role::Admin,
    }
}

/// A caller's role is too low for a call. The text is the same whether the account exists or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forbidden {
    /// The name of the caller.
    pub caller: String,
    /// The access that the call needs.
    pub access: Access,
    /// The account that the request names. `None` for the default one, and if no account would help.
    pub app_id: Option<String>,
}

impl Forbidden {
    /// Returns the refusal of a caller.
    pub(crate) fn new(caller: &Caller, access: Access, app_id: Option<String>) -> Self {
        Self { caller: caller.name.clone(), access, app_id }
    }
}

/// The reason why a request has no known caller. No reason contains a part of the proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// There is no proof of identity.
    #[error("the request has no proof of identity; send `authorization: Bearer …`")]
    Missing,
    /// There are several proofs of one kind.
    #[error("the request has more than one authorization header")]
    Several,
    /// The header does not have the form of a bearer token.
    #[error("the authorization header is not `Bearer` and a token")]
    Malformed,
    /// No caller has the token.
    #[error("the bearer token belongs to no caller")]
    UnknownToken,
    /// No caller has a name of the client certificate.
    #[error("the client certificate has no name that belongs to a caller")]
    UnknownCertificate,
}

/// The callers of the settings.
#[derive(Clone, Debug)]
pub(crate) struct Callers(Arc<ArcSwap<Table>>);

/// The callers at one time.
#[derive(Debug, Default)]
struct Table {
    /// True if every caller may do everything.
    open: bool,
    known: Vec<(config::Caller, Arc<Caller>)>,
    tokens: Tokens,
    certificates: HashMap<String, Arc<Caller>>,
}

impl Callers {
    /// Returns the callers of the settings.
    pub(crate) fn new(settings: &config::Callers) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Table::new(settings, &Table::default()))))
    }

    /// Replaces the callers. A caller that stays as it was is not disturbed. Watches of the others end.
    pub(crate) fn update(&self, settings: &config::Callers) {
        let before = self.0.load_full();
        self.0.store(Arc::new(Table::new(settings, &before)));
        let now = self.0.load();
        for (_, caller) in &before.known {
            if now.known.iter().all(|(_, kept)| !Arc::ptr_eq(kept, caller)) {
                caller.changed.cancel();
            }
        }
    }

    /// Returns the caller of a request. `names` are those of the connection's client certificate, if it
    /// has one. A bearer token counts before a certificate.
    ///
    /// Fails if there is no proof, or if the proof belongs to no caller.
    pub(crate) async fn identify(
        &self,
        headers: &HeaderMap,
        names: Option<&[String]>,
    ) -> Result<Arc<Caller>, Refused> {
        let table = self.0.load();
        if table.open {
            return Ok(Caller::anyone());
        }
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        match (values.next(), values.next()) {
            (Some(_), Some(_)) => Err(Refused::Several),
            (Some(value), None) => {
                let token = bearer_token(value.as_bytes()).ok_or(Refused::Malformed)?;
                table.tokens.find(token).cloned().ok_or(Refused::UnknownToken)
            }
            (None, _) => {
                let names = names.ok_or(Refused::Missing)?;
                let known = names.iter().find_map(|name| table.certificates.get(name));
                known.cloned().ok_or(Refused::UnknownCertificate)
            }
        }
    }
}

impl Table {
    /// Returns the table of the settings. It has the same callers as `before`, if they did not change.
    fn new(settings: &config::Callers, before: &Self) -> Self {
        let callers = match settings {
            config::Callers::Loopback | config::Callers::Anyone => {
                return Self { open: true, ..Self::default() };
            }
            config::Callers::Known(callers) => callers,
        };
        let earlier =
            before.known.iter().map(|(settings, caller)| (&settings.name, (settings, caller)));
        let earlier = earlier.collect::<HashMap<_, _>>();
        let mut table = Self::default();
        for settings in callers {
            let kept = earlier.get(&settings.name).filter(|(was, _)| keeps_all(was, settings));
            let caller = match kept {
                Some((_, caller)) => Arc::clone(caller),
                None => Arc::new(Caller {
                    name: settings.name.clone(),
                    role: settings.role,
                    roles: settings.roles.clone().into_iter().collect(),
                    changed: CancellationToken::new(),
                }),
            };
            for hash in &settings.tokens {
                table.tokens.add(*hash, &caller);
            }
            for name in &settings.certificates {
                table.certificates.insert(name.clone(), caller.clone());
            }
            table.known.push((settings.clone(), caller));
        }
        table
    }
}

/// Returns true if a caller has the same rights as before, and each proof of identity that it had. A further
/// proof disturbs none of its calls, so a token can be rotated.
fn keeps_all(was: &config::Caller, now: &config::Caller) -> bool {
    fn within<T: PartialEq>(few: &[T], many: &[T]) -> bool {
        few.iter().all(|one| many.contains(one))
    }
    (&was.role, &was.roles) == (&now.role, &now.roles)
        && within(&was.tokens, &now.tokens)
        && within(&was.certificates, &now.certificates)
        && within(&was.jwt, &now.jwt)
}

/// Returns the token of an `authorization` header (RFC 6750), or `None` if the header has another form.
fn bearer_token(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(b"Bearer ".len())?;
    let token = rest.trim_ascii();
    let fits =
        scheme.eq_ignore_ascii_case(b"Bearer ") && (1..=LONGEST_PROOF).contains(&token.len());
    (fits && token.iter().all(u8::is_ascii_graphic)).then_some(token)
}
