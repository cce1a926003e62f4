//! The callers: which program calls, and what it may do.
//!
//! [`Callers::identify`] finds the caller of a request by the proof that comes with it: a bearer token or a
//! JWT in `authorization`, or the client certificate of its connection. A [`Caller`] has a role for each account,
//! and [`Caller::may`] decides. The access that an RPC needs is data of the contract
//! ([`pb::Access`](crate::pb::Access)). A watch lasts as long as its [`Grant`].
//!
//! The settings can change while the process runs. The whole table is then replaced, so a call sees either
//! the old callers or the new ones.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use http::{HeaderMap, HeaderName, header};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use self::{
    bearer::Tokens,
    grant::Grants,
    jwt::{Issuers, Verified},
    rate::Limiter,
};
pub(crate) use self::{grant::Grant, jwks::count_keys};
use crate::{
    config::{self, JwtSubject, Rate, Role, Settings},
    pb::Access,
    tls::{self, ClientCertificate},
    util::{clock::Clock, id::AppId, scope::Scope},
};

mod bearer;
mod failures;
mod grant;
mod jwk;
mod jwks;
pub(crate) mod jwt;
mod mesh;
mod rate;

#[cfg(test)]
#[path = "../../tests/it/issuer.rs"]
mod issuer;

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
    /// `None` if the caller may call at any rate.
    limiter: Option<Arc<Limiter>>,
}

/// Stands for the gateway itself.
static ANYONE: LazyLock<Arc<Caller>> = LazyLock::new(Caller::unnamed);

impl Caller {
    /// Returns the gateway itself as a caller, which may do everything and has no name.
    pub(crate) fn anyone() -> Arc<Self> {
        ANYONE.clone()
    }

    /// Returns a caller that may do everything and has no name.
    fn unnamed() -> Arc<Self> {
        let (name, role) = (String::new(), Some(Role::Admin));
        let changed = CancellationToken::new();
        Arc::new(Self { name, role, roles: HashMap::new(), changed, limiter: None })
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

    /// Counts a call. Fails if the caller calls more often than its limit allows, with the time to wait.
    pub(crate) fn count_call(&self) -> Result<(), TooFast> {
        let counted = self.limiter.as_ref().map_or(Ok(()), |limiter| limiter.check());
        counted.map_err(|wait| TooFast { caller: self.name.clone(), wait })
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

/// A caller calls more often than its limit allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TooFast {
    /// The name of the caller.
    pub(crate) caller: String,
    /// The time until the next call is allowed.
    pub(crate) wait: Duration,
}

/// A caller, and the proof by which it is known.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) caller: Arc<Caller>,
    proof: Proof,
    /// That of the connection, which must stay good even if it is not the proof.
    certificate: Option<Arc<ClientCertificate>>,
}

/// The proof of an identity.
#[derive(Clone, Debug)]
enum Proof {
    /// None is needed.
    None,
    /// A bearer token with this hash.
    Token([u8; 32]),
    /// A JWT.
    Jwt(Arc<Verified>),
    /// The certificate of the connection.
    Certificate,
    /// These names in the header of the mesh.
    Mesh(Vec<String>),
}

impl Identity {
    /// Returns the identity of a caller without a proof.
    pub(crate) fn unproven(caller: Arc<Caller>) -> Self {
        Self { caller, proof: Proof::None, certificate: None }
    }

    /// Returns true if no proof can end.
    fn needs_no_proof(&self) -> bool {
        matches!(self.proof, Proof::None) && self.certificate.is_none()
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
    /// The token is longer than any proof.
    #[error("the bearer token is longer than 8 KiB")]
    TooLong,
    /// No caller has the token.
    #[error("the bearer token belongs to no caller")]
    UnknownToken,
    /// No caller has a name of the client certificate.
    #[error("the client certificate has no name that belongs to a caller")]
    UnknownCertificate,
    /// No caller has a name in the header of the mesh.
    #[error("the header of the mesh has no name that belongs to a caller")]
    UnknownMeshIdentity,
    /// The client certificate of the connection is no longer good.
    #[error("{0}")]
    Certificate(#[from] tls::Refused),
    /// The token is a JWT that proves nothing.
    #[error("{0}")]
    Jwt(#[from] jwt::Refused),
    /// No caller has the subject of the JWT.
    #[error("the subject of the token belongs to no caller")]
    UnknownSubject,
}

/// The callers of the settings. Clones are cheap and share everything.
#[derive(Clone, Debug)]
pub(crate) struct Callers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    table: ArcSwap<Table>,
    clock: Clock,
    /// The header in which a mesh sends the identity of a caller. It is as trusted as the network.
    mesh_header: Option<HeaderName>,
    grants: Grants,
}

/// The callers at one time.
#[derive(Debug)]
struct Table {
    /// Stands for every caller, if each may do everything.
    anyone: Option<Arc<Caller>>,
    known: Vec<(config::Caller, Rate, Arc<Caller>)>,
    tokens: Tokens,
    certificates: HashMap<String, Arc<Caller>>,
    /// The callers by the issuer and the subject of their JWTs.
    subjects: HashMap<String, HashMap<String, Arc<Caller>>>,
    issuers: Issuers,
}

impl Callers {
    /// Returns the callers of the settings, and begins to load the keys of the issuers.
    pub(crate) fn new(settings: &Settings, clock: &Clock) -> Self {
        let table = ArcSwap::from_pointee(Table::new(settings, clock, None));
        let mesh_header = settings.listen.mesh_header();
        let (clock, grants) = (clock.clone(), Grants::default());
        Self(Arc::new(Inner { table, clock, mesh_header, grants }))
    }

    /// Waits until the first attempt to load the keys of each issuer has ended, which takes seconds at most.
    pub(crate) async fn loaded(&self) {
        self.0.table.load_full().issuers.loaded().await;
    }

    /// Replaces the callers. A caller that stays as it was is not disturbed. Watches of the others end.
    pub(crate) fn update(&self, settings: &Settings) {
        let Inner { table, clock, .. } = &*self.0;
        let before = table.load_full();
        table.store(Arc::new(Table::new(settings, clock, Some(&before))));
        let now = table.load();
        let kept = now.known.iter().map(|(.., caller)| Arc::as_ptr(caller)).collect::<HashSet<_>>();
        if let (Some(anyone), None) = (&before.anyone, &now.anyone) {
            anyone.changed.cancel();
        }
        for (.., caller) in &before.known {
            if !kept.contains(&Arc::as_ptr(caller)) {
                caller.changed.cancel();
            }
        }
    }

    /// Returns the identity of a request that came from `address`, on a connection with this client
    /// certificate. A bearer token counts before a certificate.
    ///
    /// Fails if there is no proof, or if the proof belongs to no caller. Fails in any case if the certificate is
    /// no longer good.
    pub(crate) async fn identify(
        &self,
        headers: &HeaderMap,
        certificate: Option<&Arc<ClientCertificate>>,
        address: IpAddr,
    ) -> Result<Identity, Refused> {
        if let Some(certificate) = certificate {
            certificate.check(self.0.clock.unix())?;
        }
        let identity =
            |caller, proof| Identity { caller, proof, certificate: certificate.cloned() };
        let table = self.0.table.load();
        if let Some(anyone) = &table.anyone {
            return Ok(identity(anyone.clone(), Proof::None));
        }
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let proof = match (values.next(), values.next()) {
            (Some(_), Some(_)) => return Err(Refused::Several),
            (Some(value), None) => {
                let token = bearer_token(value.as_bytes())?;
                let hash = Sha256::digest(token).into();
                // A bearer token that another system has made may look like a JWT.
                if let Some(caller) = table.tokens.find(&hash) {
                    return Ok(identity(caller.clone(), Proof::Token(hash)));
                }
                if !is_jwt(token) {
                    return Err(Refused::UnknownToken);
                }
                let table = Guard::into_inner(table);
                let verified = table.issuers.verify(token, hash, address).await?;
                let caller = table.caller_with_subject(&verified)?;
                return Ok(identity(caller, Proof::Jwt(verified)));
            }
            (None, _) if certificate.is_some() => Proof::Certificate,
            (None, _) => {
                let header = self.0.mesh_header.as_ref();
                // Each proxy appends, so the last value is from the nearest one.
                let value = header.and_then(|name| headers.get_all(name).iter().next_back());
                Proof::Mesh(mesh::names(value.ok_or(Refused::Missing)?.as_bytes()))
            }
        };
        let caller = table.caller_of(&proof, certificate.map(|certificate| &**certificate))?;
        Ok(identity(caller, proof))
    }

    /// Returns an error if the proof of an identity no longer counts.
    fn check(&self, identity: &Identity) -> Result<(), Refused> {
        let certificate = identity.certificate.as_deref();
        if let Some(certificate) = certificate {
            certificate.check(self.0.clock.unix())?;
        }
        self.0.table.load().caller_of(&identity.proof, certificate).map(drop)
    }
}

impl Table {
    /// Returns the table of the settings. It has the same callers and the same keys as `before`, if they did
    /// not change.
    fn new(settings: &Settings, clock: &Clock, before: Option<&Self>) -> Self {
        let empty = |anyone, issuers| Self {
            anyone,
            known: Vec::new(),
            tokens: Tokens::default(),
            certificates: HashMap::new(),
            subjects: HashMap::new(),
            issuers: Issuers::new(issuers, clock, before.map(|before| &before.issuers)),
        };
        let callers = match &settings.callers {
            config::Callers::Loopback | config::Callers::Anyone => {
                let anyone = before.and_then(|before| before.anyone.clone());
                return empty(Some(anyone.unwrap_or_else(Caller::unnamed)), &[]);
            }
            config::Callers::Known(callers) => callers,
        };
        let mut table = empty(None, &settings.issuers);
        let earlier = before.iter().flat_map(|before| &before.known);
        let earlier = earlier.map(|known| (known.0.name.as_str(), known));
        let earlier = earlier.collect::<HashMap<_, _>>();
        for caller_settings in callers {
            let rate = caller_settings.rate.unwrap_or(settings.limits.caller_rate());
            let kept = earlier.get(caller_settings.name.as_str());
            let kept = kept.filter(|(was, at, _)| keeps_all(was, caller_settings) && *at == rate);
            let caller = match kept {
                Some((.., caller)) => Arc::clone(caller),
                None => Arc::new(Caller {
                    name: caller_settings.name.clone(),
                    role: caller_settings.role,
                    roles: caller_settings.roles.clone().into_iter().collect(),
                    changed: CancellationToken::new(),
                    limiter: match earlier.get(caller_settings.name.as_str()) {
                        // A change of its rights is no reason for a fresh burst.
                        Some((_, at, caller)) if *at == rate => caller.limiter.clone(),
                        _ => Limiter::new(rate, clock).map(Arc::new),
                    },
                }),
            };
            for hash in &caller_settings.tokens {
                table.tokens.add(*hash, &caller);
            }
            for name in &caller_settings.certificates {
                table.certificates.insert(name.clone(), caller.clone());
            }
            for JwtSubject { issuer, subject } in &caller_settings.jwt {
                let subjects = table.subjects.entry(issuer.clone()).or_default();
                subjects.insert(subject.clone(), caller.clone());
            }
            table.known.push((caller_settings.clone(), rate, caller));
        }
        table
    }

    /// Returns the caller that has a proof.
    fn caller_of(
        &self,
        proof: &Proof,
        certificate: Option<&ClientCertificate>,
    ) -> Result<Arc<Caller>, Refused> {
        if let Some(anyone) = &self.anyone {
            return Ok(anyone.clone());
        }
        let named =
            |names: &[String]| names.iter().find_map(|name| self.certificates.get(name)).cloned();
        match proof {
            Proof::None => Err(Refused::Missing),
            Proof::Token(hash) => self.tokens.find(hash).cloned().ok_or(Refused::UnknownToken),
            Proof::Jwt(verified) => {
                self.issuers.check(verified)?;
                self.caller_with_subject(verified)
            }
            Proof::Certificate => certificate
                .and_then(|certificate| named(certificate.names()))
                .ok_or(Refused::UnknownCertificate),
            Proof::Mesh(names) => named(names).ok_or(Refused::UnknownMeshIdentity),
        }
    }

    /// Returns the caller that a JWT names.
    fn caller_with_subject(&self, verified: &Verified) -> Result<Arc<Caller>, Refused> {
        let subjects = self.subjects.get(&*verified.issuer);
        let caller = subjects.and_then(|subjects| subjects.get(&*verified.subject));
        caller.cloned().ok_or(Refused::UnknownSubject)
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

/// Returns the token of an `authorization` header (RFC 6750).
///
/// Returns an error if the header has another form, or if the token is too long.
fn bearer_token(value: &[u8]) -> Result<&str, Refused> {
    let (scheme, rest) = value.split_at_checked(b"Bearer ".len()).ok_or(Refused::Malformed)?;
    let token = rest.trim_ascii();
    // Without an early end, so that many bytes are checked at once: a JWT has a thousand.
    let is_graphic = token.iter().fold(true, |all, byte| all & byte.is_ascii_graphic());
    let is_token = !token.is_empty() && is_graphic;
    if !scheme.eq_ignore_ascii_case(b"Bearer ") || !is_token {
        return Err(Refused::Malformed);
    }
    if token.len() > LONGEST_PROOF {
        return Err(Refused::TooLong);
    }
    str::from_utf8(token).map_err(|_| Refused::Malformed)
}

/// Returns true if a token has the form of a JWT: two dots.
fn is_jwt(token: &str) -> bool {
    token.bytes().filter(|byte| *byte == b'.').count() == 2
}
