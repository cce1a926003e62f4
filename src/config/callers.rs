//! `[[callers]]`: the programs that may call, how each proves who it is, and what it may do.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize, Serializer};

use super::{Account, ConfigErrors, account::is_app_id};
use crate::util::id::AppId;

/// The highest rate and the largest burst of a caller.
pub(super) const HIGHEST_RATE: u32 = 1_000_000;
/// The longest name of a caller, in characters.
const LONGEST_NAME: usize = 64;

/// The callers that may call.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Callers {
    /// The settings name none. Every caller may do everything, and gRPC must listen on a loopback
    /// address.
    #[default]
    Loopback,
    /// `callers = "anyone"`: every caller may do everything, on any address.
    Anyone,
    /// `[[callers]]`: only these.
    Known(Vec<Caller>),
}

impl Callers {
    /// Returns true if only the callers of the settings may call.
    pub fn are_known(&self) -> bool {
        matches!(self, Self::Known(_))
    }

    /// Returns the callers that the settings name.
    pub fn known(&self) -> &[Caller] {
        match self {
            Self::Loopback | Self::Anyone => &[],
            Self::Known(callers) => callers,
        }
    }
}

/// One section of `[[callers]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Caller {
    /// The name, for logs and for the journal. It identifies the caller's writes.
    pub name: String,
    /// The role for every account. `None` if it has a role only for some.
    pub role: Option<Role>,
    /// The roles for single accounts. If one differs from `role`, the higher role counts.
    pub roles: BTreeMap<AppId, Role>,
    /// The bearer tokens that prove its identity.
    pub tokens: Vec<TokenHash>,
    /// The names in a client certificate that prove its identity: URI or DNS.
    pub certificates: Vec<String>,
    /// The subjects of JWTs that prove its identity.
    pub jwt: Vec<JwtSubject>,
    /// The rate of its calls. `None` for that of `[limits]`.
    pub rate: Option<Rate>,
}

/// A limit on the calls of one caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rate {
    /// The calls per second over a longer time. 0 for no limit.
    pub per_second: u32,
    /// The calls that may come at once after a pause.
    pub burst: u32,
}

/// A caller's rights. A role includes the rights of the roles before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Calls that change nothing.
    Reader,
    /// Calls that change something at WeChat.
    Writer,
    /// Calls for operators.
    Admin,
}

/// The SHA-256 hash of a bearer token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenHash(pub [u8; 32]);

/// Serializes the first digits only. A weak token could be guessed from the whole hash.
impl Serialize for TokenHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&(base16ct::lower::encode_string(&self.0[..4]) + "…"))
    }
}

/// The subject of a JWT.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct JwtSubject {
    /// The `iss` of the token. One of `[[issuers]]` must have it.
    pub issuer: String,
    /// The `sub` of the token.
    pub subject: String,
}

/// A caller as it stands in the file.
#[derive(Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[cfg_attr(test, schemars(extend("required" = ["name"])))]
pub(super) struct RawCaller {
    /// The name, for logs and for the journal of writes.
    name: String,
    /// The role for every account.
    role: Option<Role>,
    /// The roles for single accounts, by AppID. The higher role counts.
    roles: BTreeMap<String, Role>,
    /// The SHA-256 hashes of bearer tokens that prove the identity.
    #[cfg_attr(test, schemars(inner(regex(pattern = "^[0-9a-fA-F]{64}$"))))]
    tokens: Vec<String>,
    /// The URI or DNS names in client certificates that prove the identity.
    certificates: Vec<String>,
    /// The subjects of JWTs that prove the identity.
    jwt: Vec<JwtSubject>,
    /// Calls per second over a longer time. 0: no limit.
    rate: Option<u32>,
    /// Calls that may come at once after a pause.
    burst: Option<u32>,
}

/// Checks all callers. `accounts` has all accounts, or is `None` if there can be others.
pub(super) fn check(
    raw: Vec<RawCaller>,
    accounts: Option<&[Account]>,
    errors: &mut ConfigErrors,
) -> Vec<Caller> {
    let mut proofs = HashSet::new();
    let mut names = HashSet::new();
    let mut callers = Vec::new();
    for (index, caller) in raw.into_iter().enumerate() {
        let key = |name: &str| format!("callers[{index}].{name}");
        let RawCaller { name, role, roles, tokens, certificates, jwt, rate, burst } = caller;
        if !is_name(&name) {
            errors.add(
                key("name"),
                format!(
                    "must be 1 to {LONGEST_NAME} characters from a-z, A-Z, 0-9, dot, dash and \
                     underscore"
                ),
            );
        } else if !names.insert(name.clone()) {
            errors
                .add(key("name"), format!("duplicate name {name}; rename one of the two callers"));
        }
        if role.is_none() && roles.is_empty() {
            errors.add(
                key("role"),
                "missing; set role = \"reader\", \"writer\" or \"admin\" for all accounts, or \
                 roles = { APP_ID = \"reader\" } for some",
            );
        }
        let roles = check_roles(roles, accounts, &key("roles"), errors);
        if tokens.is_empty() && certificates.is_empty() && jwt.is_empty() {
            errors.add(
                key("tokens"),
                "this caller cannot prove its identity; set tokens, certificates or jwt",
            );
        }
        let tokens = tokens.iter().enumerate().filter_map(|(at, text)| {
            let hash = parse_hash(text);
            if hash.is_none() {
                errors.add(
                    format!("{}[{at}]", key("tokens")),
                    "not a SHA-256 hash of 64 hex digits; `wechat-store-gateway token new` prints a \
                     token and its hash",
                );
            }
            hash
        });
        let tokens = tokens.collect::<Vec<_>>();
        // The names of certificates are compared in lower case, except those of URIs.
        let certificates = certificates.into_iter().map(|name| match name.contains(':') {
            true => name,
            false => name.to_ascii_lowercase(),
        });
        let certificates = certificates.collect::<Vec<_>>();
        let mut taken = |proof: String, at: String| {
            if !proofs.insert(proof) {
                errors.add(at, "another caller, or another entry, has the same proof of identity");
            }
        };
        for (at, hash) in tokens.iter().enumerate() {
            taken(format!("token {:?}", hash.0), format!("{}[{at}]", key("tokens")));
        }
        for (at, name) in certificates.iter().enumerate() {
            taken(format!("certificate {name}"), format!("{}[{at}]", key("certificates")));
        }
        for (at, subject) in jwt.iter().enumerate() {
            taken(format!("jwt {subject:?}"), format!("{}[{at}]", key("jwt")));
        }
        for (at, name) in certificates.iter().enumerate() {
            if name.trim() != name || name.is_empty() || name.contains(['*', ' ']) {
                errors.add(
                    format!("{}[{at}]", key("certificates")),
                    "must be a URI such as spiffe://prod/orders, or a DNS name, without wildcards",
                );
            }
        }
        if burst.is_some() && rate.is_none() {
            errors.add(key("burst"), "has no effect here; it requires rate");
        }
        for (name, value) in [("rate", rate), ("burst", burst)] {
            errors.check_range(key(name), value.unwrap_or_default(), 0..=HIGHEST_RATE);
        }
        let rate = rate.map(|per_second| Rate { per_second, burst: burst.unwrap_or(per_second) });
        callers.push(Caller { name, role, roles, tokens, certificates, jwt, rate });
    }
    callers
}

fn check_roles(
    roles: BTreeMap<String, Role>,
    accounts: Option<&[Account]>,
    key: &str,
    errors: &mut ConfigErrors,
) -> BTreeMap<AppId, Role> {
    let is_known = |app_id: &str| {
        accounts.is_none_or(|accounts| accounts.iter().any(|one| one.app_id.as_str() == app_id))
    };
    let mut checked = BTreeMap::new();
    for (app_id, role) in roles {
        if !is_app_id(&app_id) {
            errors.add(format!("{key}.{app_id}"), "not an AppID");
        } else if !is_known(&app_id) {
            errors.add(format!("{key}.{app_id}"), "no [[accounts]] section has this app_id");
        }
        checked.insert(app_id.into(), role);
    }
    checked
}

fn is_name(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(known)
}

fn parse_hash(text: &str) -> Option<TokenHash> {
    let mut hash = [0; 32];
    let decoded = base16ct::mixed::decode(text, &mut hash).ok()?;
    (decoded.len() == 32).then_some(TokenHash(hash))
}
