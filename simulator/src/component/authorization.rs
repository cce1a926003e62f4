//! The authorizations that merchants give to a component, change and take back.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::find;
use crate::{
    endpoint::Endpoint,
    error::Refusal,
    mint::Mint,
    push,
    token::{GRACE, Holder},
    world::World,
};

const CODE_LENGTH: usize = 86;
const REFRESH_TOKEN_LENGTH: usize = 43;

/// The permission that a merchant granted to a component.
#[derive(Debug)]
pub(crate) struct Authorization {
    /// Another number than that of an earlier authorization of the same merchant.
    pub(super) id: u64,
    pub(crate) permission_sets: Vec<u16>,
    /// Whether the kind of the merchant's account has APIs at all.
    pub(crate) api: bool,
    /// In seconds since 1970.
    pub(super) auth_time: u64,
    /// Whether the component has exchanged an authorization code. WeChat's staff answers that a list
    /// without refresh tokens is one whose component did not.
    pub(super) queried: bool,
    pub(super) refresh_token: String,
    /// The previous refresh token, and its end.
    previous: Option<(String, Instant)>,
    /// The latest access token.
    pub(super) access_token: Option<String>,
}

/// An authorization code that was not used.
#[derive(Debug)]
pub(super) struct Code {
    pub(super) app_id: String,
    /// The number of its authorization.
    pub(super) authorization: u64,
    pub(super) expires: Instant,
}

/// A merchant's confirmation.
#[derive(Debug)]
pub(crate) struct Confirmed {
    pub(crate) code: String,
    pub(super) expires_in: u64,
}

impl Authorization {
    pub(super) fn new(world: &mut World, permission_sets: Vec<u16>) -> Self {
        Self {
            id: world.mint.count("authorization"),
            permission_sets,
            api: true,
            auth_time: world.clock.unix(),
            queried: false,
            refresh_token: refresh_token(&mut world.mint),
            previous: None,
            access_token: None,
        }
    }

    /// Returns whether this refresh token works.
    pub(super) fn accepts(&self, refresh_token: &str, now: Instant) -> bool {
        let previous = self.previous.as_ref().filter(|(_, end)| now < *end);
        self.api
            && !refresh_token.is_empty()
            && (self.refresh_token == refresh_token
                || previous.is_some_and(|(previous, _)| previous == refresh_token))
    }

    /// Replaces the refresh token. The previous one works for five more minutes.
    pub(super) fn rotate(&mut self, mint: &mut Mint, now: Instant) {
        let previous = std::mem::replace(&mut self.refresh_token, refresh_token(mint));
        self.previous = Some((previous, now + GRACE));
    }

    /// Replaces the refresh token. The previous one ends at once.
    pub(super) fn lose_refresh_token(&mut self, mint: &mut Mint) {
        (self.refresh_token, self.previous) = (refresh_token(mint), None);
    }

    /// Returns `func_info`: the granted permission sets.
    pub(super) fn func_info(&self) -> Value {
        let sets = self.permission_sets.iter();
        sets.map(|id| json!({ "funcscope_category": { "id": id } })).collect()
    }
}

fn refresh_token(mint: &mut Mint) -> String {
    format!("refreshtoken@@@{}", mint.text("refresh_token", REFRESH_TOKEN_LENGTH))
}

/// Checks that a merchant's token still works, and that the merchant granted the API.
pub(crate) fn check(world: &World, endpoint: &Endpoint, holder: &Holder) -> Result<(), Refusal> {
    let Some(via) = &holder.via else { return Ok(()) };
    let state = world.components.get(&via.component);
    let authorization = state.and_then(|state| state.authorizers.get(&holder.app_id));
    let authorization = authorization.ok_or(Refusal::new(world.rules.unauthorized_errcode))?;
    // The merchant took that authorization back and gave another one.
    if authorization.id != via.authorization {
        return Err(Refusal::new(40001));
    }
    let needed = endpoint.permission_sets;
    if needed.is_empty() || needed.iter().any(|set| authorization.permission_sets.contains(set)) {
        Ok(())
    } else {
        Err(Refusal::new(endpoint.lacking))
    }
}

/// Confirms an authorization for a merchant, and pushes the event if the component has an address for it.
/// Without a pre_auth_code a new one is made up.
pub(crate) fn authorize(
    world: &mut World,
    component: &str,
    app_id: &str,
    permission_sets: Vec<u16>,
    pre_auth_code: Option<String>,
) -> Result<Confirmed, String> {
    find(world, component)?;
    if !world.accounts.contains_key(app_id) {
        return Err(format!("there is no account {app_id}"));
    }
    let fresh = Authorization::new(world, permission_sets);
    let pre_auth_code = pre_auth_code.unwrap_or_else(|| super::token::pre_auth_code(world));
    let (now, code) =
        (world.now(), format!("queryauthcode@@@{}", world.mint.text("code", CODE_LENGTH)));
    let life = world.rules.authorization_code_seconds;
    let rotate = world.rules.rotate_refresh_tokens;
    let World { components, mint, .. } = world;
    let state =
        components.get_mut(component).ok_or(format!("there is no component {component}"))?;
    let known = state.authorizers.get_mut(app_id);
    let info_type = if known.is_some() { "updateauthorized" } else { "authorized" };
    let authorization = match known {
        // A refresh token stays valid until the merchant takes the authorization back.
        Some(known) => {
            (known.permission_sets, known.auth_time) = (fresh.permission_sets, fresh.auth_time);
            if rotate {
                known.rotate(mint, now);
            }
            known.id
        }
        None => {
            let id = fresh.id;
            state.authorizers.insert(app_id.to_owned(), fresh);
            id
        }
    };
    let expires = now + Duration::from_secs(life);
    state.codes.insert(code.clone(), Code { app_id: app_id.to_owned(), authorization, expires });
    let fields = [
        ("AuthorizerAppid", json!(app_id)),
        ("AuthorizationCode", json!(code)),
        ("AuthorizationCodeExpiredTime", json!(world.clock.unix() + life)),
        ("PreAuthCode", json!(pre_auth_code)),
    ];
    notify(world, component, info_type, &fields);
    Ok(Confirmed { code, expires_in: life })
}

/// Takes an authorization back, and pushes the event unless it shall be lost.
pub(crate) fn unauthorize(
    world: &mut World,
    component: &str,
    app_id: &str,
    push: bool,
) -> Result<(), String> {
    let state = find(world, component)?;
    state.authorization(app_id)?;
    state.authorizers.remove(app_id);
    if push {
        notify(world, component, "unauthorized", &[("AuthorizerAppid", json!(app_id))]);
    }
    Ok(())
}

fn notify(world: &mut World, component: &str, info_type: &str, fields: &[(&str, Value)]) {
    // A component without an address receives nothing, which is no error.
    let _ = push::to_component(world, component, None, info_type, fields);
}
