//! All endpoints as data, so that a test over all of them cannot miss one.
//!
//! To add an endpoint, implement [`Endpoint`] in the file of its family, and name the type in the
//! `endpoints!` of that file. The implementation does not compile without that name. Then add WeChat's
//! own example below `tests/documented`. Without it `tests/it/endpoints.rs` fails.
//!
//! A further fact of every endpoint is a field of [`Facts`], which [`Facts::of`] fills in.

use http::Method;

use super::{
    AccountKinds, Endpoint, Need, Safety, Verdict, account, card, component, map_poi, media,
    merchant, nearby, store, token,
};

/// The endpoints of each family.
const FAMILIES: [&[Facts]; 9] = [
    account::ENDPOINTS,
    card::ENDPOINTS,
    component::ENDPOINTS,
    map_poi::ENDPOINTS,
    media::ENDPOINTS,
    merchant::ENDPOINTS,
    nearby::ENDPOINTS,
    store::ENDPOINTS,
    token::ENDPOINTS,
];

/// Returns the facts of every endpoint that the gateway calls.
pub fn endpoints() -> impl Iterator<Item = &'static Facts> {
    FAMILIES.into_iter().flatten()
}

/// Returns [`Endpoint::PERMISSION_SETS`] of the call to `path`.
pub(crate) fn permission_sets(path: &str) -> &'static [u8] {
    endpoints().find(|facts| facts.path == path).map_or(&[], |facts| facts.permission_sets)
}

/// Marks the calls that [`endpoints`] returns. Only the macro `endpoints!` implements it.
#[diagnostic::on_unimplemented(
    message = "the `endpoints!` of this file does not name `{Self}`",
    note = "name it there, so that the tests of all endpoints find it"
)]
pub trait Listed {}

/// The facts of one endpoint, without its types.
#[derive(Debug)]
pub struct Facts {
    /// [`Endpoint::METHOD`].
    pub method: Method,
    /// [`Endpoint::PATH`].
    pub path: &'static str,
    /// [`Endpoint::ACCOUNT`].
    pub account: AccountKinds,
    /// [`Endpoint::SAFETY`].
    pub safety: Safety,
    /// [`Endpoint::PERMISSION_SETS`].
    pub permission_sets: &'static [u8],
    /// [`Endpoint::CLOUD`].
    pub cloud: bool,
    /// [`Endpoint::VERDICT`].
    pub verdict: Verdict,
    /// [`Endpoint::WHOLE`].
    pub whole: &'static [Need],
    /// [`Endpoint::SALVAGED`].
    pub salvaged: bool,
}

impl Facts {
    /// Returns the facts of one endpoint.
    pub(super) const fn of<E: Endpoint>() -> Self {
        Self {
            method: E::METHOD,
            path: E::PATH,
            account: E::ACCOUNT,
            safety: E::SAFETY,
            permission_sets: E::PERMISSION_SETS,
            cloud: E::CLOUD,
            verdict: E::VERDICT,
            whole: E::WHOLE,
            salvaged: E::SALVAGED,
        }
    }
}
