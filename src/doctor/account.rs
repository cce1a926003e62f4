//! Checks an account at WeChat: its secret, the whitelist, its kind, its permission sets and quotas.

use std::time::Duration;

use tonic::Status;
use tonic_types::StatusExt;
use tracing::Span;

use super::{Check, permission};
use crate::{
    accounts::token,
    call,
    config::{Account, AccountKind, TokenKind},
    util::{
        clock::Clock,
        id::{AppId, Secret},
    },
    wechat::{
        self, AccessToken, Attempt, Client, Endpoint, Errcode, Tries,
        account::GetQuota,
        token::{ClassicToken, StableToken, TokenReply},
    },
};

/// The next step if a quota is spent.
const QUOTA_STEP: &str =
    "wait until WeChat renews the quota at midnight in Beijing, or call ClearQuota";

/// WeChat's refusal or failure, as the gateway reports it to callers.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) path: &'static str,
    pub(super) error: wechat::Error,
    pub(super) status: Status,
}

impl Trouble {
    /// Returns the reason of the contract, such as `IP_NOT_ALLOWED`.
    pub(super) fn reason(&self) -> String {
        self.status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
    }

    /// Returns the message with the reason.
    pub(super) fn text(&self) -> String {
        format!("{} ({}, {})", self.status.message(), self.reason(), self.path)
    }
}

/// Sends one call that only reads.
pub(super) async fn read<E: Endpoint>(
    client: &Client,
    token: Option<&AccessToken>,
    call: &E,
) -> Result<E::Reply, Trouble> {
    debug_assert_eq!(E::SAFETY, wechat::Safety::Read, "doctor only reads");
    send(client, token, call).await.map_err(|error| {
        let (path, safety) = (E::PATH, E::SAFETY);
        let status = call::Error::WeChat { path, safety, error: error.clone() }.into();
        Trouble { path, error, status }
    })
}

/// Sends one call once.
pub(super) async fn send<E: Endpoint>(
    client: &Client,
    token: Option<&AccessToken>,
    call: &E,
) -> Result<E::Reply, wechat::Error> {
    let (limit, parent) = (E::REPLY_LIMIT, &Span::none());
    let mut tries = Tries::default();
    let attempt = Attempt { token, limit, time_left: limit, tries: &mut tries, parent };
    client.send(call, attempt).await
}

/// Asks WeChat for a token. A stable one is the same for every program, and is not refreshed.
async fn fetch(client: &Client, account: &Account, secret: Secret) -> Result<AccessToken, Trouble> {
    let app_id = account.app_id.clone();
    match account.token {
        TokenKind::Classic => {
            fetch_by(client, &app_id, ClassicToken { appid: app_id.clone(), secret }).await
        }
        _ => fetch_by(client, &app_id, StableToken::new(app_id.clone(), secret, false)).await,
    }
}

async fn fetch_by<E: Endpoint<Reply = TokenReply>>(
    client: &Client,
    app_id: &AppId,
    call: E,
) -> Result<AccessToken, Trouble> {
    let reply = send(client, None, &call).await.map_err(|error| {
        let (path, retry_after) = (E::PATH, Duration::ZERO);
        let refusal = token::Error::Unavailable { path, error: error.clone(), retry_after };
        let status =
            call::Error::Token { app_id: app_id.clone(), platform: None, error: refusal }.into();
        Trouble { path, error, status }
    })?;
    Ok(AccessToken::from(Secret::from(reply.access_token.0)))
}

/// Returns the checks of an account at WeChat.
pub(super) async fn check(
    client: &Client,
    account: &Account,
    classic_token: bool,
    clock: &Clock,
) -> Vec<Check> {
    if account.token.is_of_cloud() {
        return check_cloud(client, account, clock).await;
    }
    match token::read_external(&account.token, clock).await {
        Some(Ok(token)) => {
            let found = Check::ok("token", "the place in the settings has an access token");
            return check_with(client, account, &token, found).await;
        }
        Some(Err(missing)) => return without_token(no_token(&missing), None, account),
        None => {}
    }
    let secret = match token::read_secret(account.secret.as_ref()) {
        Ok(secret) => secret,
        Err(error) => {
            let next = "correct accounts.secret: the file must be readable and have the secret";
            return without_token(Check::failed("secret", error.to_string(), next), None, account);
        }
    };
    if account.token == TokenKind::Classic && !classic_token {
        let found = "not checked, because a new classic token would replace the one in use";
        let next = "--classic-token allows it; it ends the token of every other program";
        return without_token(Check::warning("secret", found, next), None, account);
    }
    let token = match fetch(client, account, secret).await {
        Ok(token) => token,
        Err(trouble) => {
            let whitelist = whitelist(account, &trouble);
            let secret = match whitelist {
                Some(_) => Check::skipped("secret", "not checked: WeChat refused the address"),
                None => Check::failed("secret", trouble.text(), token_step(&trouble)),
            };
            return without_token(secret, whitelist, account);
        }
    };
    check_with(client, account, &token, Check::ok("secret", "WeChat gave an access token")).await
}

/// Returns the checks of an account whose calls have no token of its own, but WeChat's cloud hosting. Only one
/// family can be called from there.
async fn check_cloud(client: &Client, account: &Account, clock: &Clock) -> Vec<Check> {
    let (token, found) = match token::read_external(&account.token, clock).await {
        Some(Ok(token)) => (Some(token), "the container's file has an access token"),
        Some(Err(missing)) => return without_token(no_token(&missing), None, account),
        None => (None, "calls have no token; WeChat identifies the container by its network"),
    };
    let probes = permission::check(client, token.as_ref(), account).await;
    let mut checks = vec![Check::ok("token", found)];
    checks.extend(probes.into_iter().map(|(check, _)| check));
    let found = "not checked: WeChat does not allow this from cloud hosting";
    checks.extend(["ip_whitelist", "kind", "quota"].map(|check| Check::skipped(check, found)));
    checks
}

/// Returns the failed check of a place without a token.
fn no_token(missing: &token::Missing) -> Check {
    Check::failed(
        "token",
        missing.to_string(),
        "correct accounts.token, or the program that writes there",
    )
}

/// Returns the checks that need a token. `found` is that of the token itself.
async fn check_with(
    client: &Client,
    account: &Account,
    token: &AccessToken,
    found: Check,
) -> Vec<Check> {
    let probes = permission::check(client, Some(token), account).await;
    let refusals = probes.iter().filter_map(|(_, trouble)| trouble.as_ref());
    let refusals = Vec::from_iter(refusals);
    let address = refusals.iter().find_map(|trouble| whitelist(account, trouble));
    let mut checks = vec![
        found,
        address.unwrap_or_else(|| Check::ok("ip_whitelist", "WeChat accepts this address")),
        kind(account, &refusals),
    ];
    let quota = match quota_refused(&refusals) {
        Some(check) => check,
        None => quota(client, token, account).await,
    };
    checks.extend(probes.into_iter().map(|(check, _)| check));
    checks.push(quota);
    checks
}

/// Returns the checks if there is no token: the others could not run.
fn without_token(secret: Check, whitelist: Option<Check>, account: &Account) -> Vec<Check> {
    let found = "not checked, because there is no access token";
    let skipped = |check| Check::skipped(check, found);
    let whitelist = whitelist.unwrap_or_else(|| skipped("ip_whitelist"));
    let mut checks = vec![secret, whitelist, skipped("kind")];
    let families = permission::families(account);
    checks.extend(families.map(|family| skipped("permission").of(family)));
    checks.push(skipped("quota"));
    checks
}

/// Returns the failed check if WeChat refused the address of this machine.
fn whitelist(account: &Account, trouble: &Trouble) -> Option<Check> {
    let wechat::Error::Refused { code: Errcode::IP_NOT_ALLOWED, .. } = trouble.error else {
        return None;
    };
    let place = match account.kind {
        AccountKind::Official => "设置与开发 → 基本配置 → IP白名单",
        AccountKind::MiniProgram => "开发管理 → 开发设置 → IP白名单",
    };
    Some(match trouble.error.refused_ip() {
        Some(ip) => Check::failed(
            "ip_whitelist",
            format!("WeChat sees this machine as {ip}, which is not in the IP whitelist"),
            format!("enter {ip} in WeChat's console: {place}"),
        ),
        None => Check::failed(
            "ip_whitelist",
            "this machine's address is not in the IP whitelist, and WeChat did not name it",
            format!("enter the public address of this machine in WeChat's console: {place}"),
        ),
    })
}

/// Returns the next step if WeChat gave no token.
fn token_step(trouble: &Trouble) -> &'static str {
    match trouble.reason().as_str() {
        "APP_ID_INVALID" => "correct accounts.app_id in the settings",
        "APP_SECRET_INVALID" => "copy the AppSecret from WeChat's console into accounts.secret",
        "APP_SECRET_FROZEN" => "release the AppSecret in WeChat's console",
        "DAILY_QUOTA_SPENT" | "MINUTE_QUOTA_SPENT" => "wait; find the program that asks so often",
        "PROXY_REFUSED" => "correct wechat.proxy in the settings",
        _ => "check the network and wechat.hosts, then run doctor again",
    }
}

/// Checks the kind of account. WeChat refuses a fresh token for calls of another kind.
fn kind(account: &Account, refusals: &[&Trouble]) -> Check {
    let kind = match account.kind {
        AccountKind::MiniProgram => "mini_program",
        AccountKind::Official => "official",
    };
    match refusals.iter().find(|trouble| trouble.reason() == "TOKEN_REFUSED") {
        Some(trouble) => Check::failed(
            "kind",
            format!("WeChat refused a fresh token: {}", trouble.text()),
            format!(
                "check accounts.kind, which is {kind:?}, and that no other program replaces the token"
            ),
        ),
        None => Check::ok("kind", format!("no reply contradicts kind = {kind:?}")),
    }
}

/// Returns the failed check if a call of the other checks was refused because its quota is spent.
fn quota_refused(refusals: &[&Trouble]) -> Option<Check> {
    let is_spent = |trouble: &&&Trouble| {
        let wechat::Error::Refused { code, .. } = trouble.error else { return false };
        matches!(code, Errcode::DAILY_QUOTA | Errcode::MINUTE_QUOTA)
    };
    let trouble = refusals.iter().find(is_spent)?;
    Some(Check::failed("quota", trouble.text(), QUOTA_STEP))
}

/// Reads WeChat's counts of today's calls to one path per family.
async fn quota(client: &Client, token: &AccessToken, account: &Account) -> Check {
    let mut counts = Vec::new();
    for path in permission::paths(account) {
        let Ok(reply) = read(client, Some(token), &GetQuota { cgi_path: path.to_owned() }).await
        else {
            continue;
        };
        let (limit, used) = (reply.quota.daily_limit.0, reply.quota.used.0);
        counts.extend(limit.zip(used).filter(|(limit, _)| *limit > 0).map(|count| (path, count)));
    }
    let is_spent = |(_, (limit, used)): &&(&str, (i32, i32))| used >= limit;
    if let Some((path, (limit, used))) = counts.iter().find(is_spent) {
        return Check::failed(
            "quota",
            format!("{used} of {limit} calls to {path} today"),
            QUOTA_STEP,
        );
    }
    let texts = counts.iter().map(|(path, (limit, used))| format!("{path} {used} of {limit}"));
    match Vec::from_iter(texts).join(", ") {
        empty if empty.is_empty() => {
            Check::ok("quota", "WeChat shows no count, and refused no call")
        }
        texts => Check::ok("quota", format!("today's calls: {texts}")),
    }
}
