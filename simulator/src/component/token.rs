//! The tokens and codes of a component: its own, and those for its merchants.

use std::time::Duration;

use serde_json::{Value, json};

use super::{by_secret, caller, find};
use crate::{
    endpoint::Call,
    error::Refusal,
    token::{GRACE, Holder, LIFE, Via},
    world::World,
};

const PRE_AUTH_CODE_LENGTH: usize = 86;

/// `POST /cgi-bin/component/api_component_token` — 获取令牌
///
/// The previous token works for five more minutes. That is an answer of WeChat's staff, not of the page.
pub(super) fn component(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let now = world.now();
    let state = by_secret(world, call, "component_appsecret")?;
    state.tickets.check(call.optional_text("component_verify_ticket")?, now)?;
    let (app_id, previous) = (state.settings.app_id.clone(), state.token.clone());
    if let Some(previous) = previous {
        world.tokens.replace(&previous, now + GRACE);
    }
    let token = issue(world, &app_id);
    Ok(json!({ "component_access_token": token, "expires_in": LIFE.as_secs() }))
}

/// Replaces a component's token as another system with the same secret does.
pub(crate) fn take(world: &mut World, component: &str, expired: bool) -> Result<String, String> {
    let previous = find(world, component)?.token.clone();
    let now = world.now();
    if let Some(previous) = previous {
        if expired {
            world.tokens.expire(&previous, now);
        } else {
            world.tokens.replace(&previous, now);
        }
    }
    Ok(issue(world, component))
}

fn issue(world: &mut World, component: &str) -> String {
    let moment = world.moment();
    let token = world.tokens.issue(&mut world.mint, Holder::own(component), moment);
    if let Some(state) = world.components.get_mut(component) {
        state.token = Some(token.clone());
    }
    token
}

/// `POST /cgi-bin/component/api_create_preauthcode` — 获取预授权码
///
/// The page has 1800 seconds in its text and 600 in its sample. A client must read `expires_in`.
pub(super) fn pre_auth(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    caller(world, call)?;
    let (code, life) = (pre_auth_code(world), world.rules.pre_auth_code_seconds);
    let expires = world.now() + Duration::from_secs(life);
    caller(world, call)?.pre_auth_codes.insert(code.clone(), expires);
    Ok(json!({ "pre_auth_code": code, "expires_in": life }))
}

pub(super) fn pre_auth_code(world: &mut World) -> String {
    format!("preauthcode@@@{}", world.mint.text("pre_auth_code", PRE_AUTH_CODE_LENGTH))
}

/// `POST /cgi-bin/component/api_query_auth` — 获取刷新令牌
///
/// A code works once. The tokens are absent if the account has no APIs.
pub(super) fn query_auth(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let (now, code) = (world.now(), call.text("authorization_code")?);
    let state = caller(world, call)?;
    let code = state.codes.remove(code).ok_or(Refusal::new(61009))?;
    if now >= code.expires {
        return Err(Refusal::new(61010));
    }
    let authorization = state.authorizers.get_mut(&code.app_id);
    let authorization = authorization.filter(|own| own.id == code.authorization);
    let authorization = authorization.ok_or(Refusal::new(61003))?;
    authorization.queried = true;
    let mut info = json!({
        "authorizer_appid": code.app_id, "func_info": authorization.func_info(),
    });
    if authorization.api {
        info["authorizer_refresh_token"] = json!(authorization.refresh_token);
        info["authorizer_access_token"] = json!(access_token(world, &call.app_id, &code.app_id)?);
        info["expires_in"] = json!(LIFE.as_secs());
    }
    Ok(json!({ "authorization_info": info }))
}

/// `POST /cgi-bin/component/api_authorizer_token` — 获取授权账号调用令牌
///
/// The reply always has a refresh token, which can be new. A client must keep it. The previous access token works for five more
/// minutes, which is our choice.
pub(super) fn authorizer(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let (now, app_id) = (world.now(), call.text("authorizer_appid")?);
    let refresh_token = call.optional_text("authorizer_refresh_token")?;
    let authorization = caller(world, call)?.authorizers.get_mut(app_id);
    let authorization = authorization.ok_or(Refusal::new(61003))?;
    if !authorization.accepts(refresh_token, now) {
        return Err(Refusal::new(61023));
    }
    let token = access_token(world, &call.app_id, app_id)?;
    let World { components, mint, rules, .. } = world;
    let state = components.get_mut(&call.app_id).ok_or(Refusal::new(61011))?;
    let authorization = state.authorizers.get_mut(app_id).ok_or(Refusal::new(61003))?;
    if rules.rotate_refresh_tokens {
        authorization.rotate(mint, now);
    }
    Ok(json!({
        "authorizer_access_token": token,
        "expires_in": LIFE.as_secs(),
        "authorizer_refresh_token": authorization.refresh_token,
    }))
}

/// Makes a token with which a component calls for a merchant.
fn access_token(world: &mut World, component: &str, app_id: &str) -> Result<String, Refusal> {
    let moment = world.moment();
    let World { components, mint, tokens, .. } = world;
    let state = components.get_mut(component).ok_or(Refusal::new(61011))?;
    let authorization = state.authorizers.get_mut(app_id).ok_or(Refusal::new(61003))?;
    if let Some(previous) = &authorization.access_token {
        tokens.replace(previous, moment.now + GRACE);
    }
    let via = Via { component: component.to_owned(), authorization: authorization.id };
    let token = tokens.issue(mint, Holder { app_id: app_id.to_owned(), via: Some(via) }, moment);
    authorization.access_token = Some(token.clone());
    Ok(token)
}
