//! Checks a third-party platform (第三方平台): its keys, its ticket, its token, and the permission sets that its
//! accounts must grant.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use super::{
    Check,
    account::{Trouble, read, send},
    limited,
};
use crate::{
    accounts::token::read_secret,
    call,
    config::{Platform, SecretSource, Settings},
    message_crypto,
    state::{self, Peeked, Ticket},
    util::{clock::Clock, id::Secret},
    wechat::{
        self, AccessToken, AccountKinds, Client, Endpoint, TokenName,
        component::{ComponentToken, GetAuthorizerList},
    },
};

/// WeChat sends a ticket every ten minutes. After this time, two are missing.
const LATE_TICKET: Duration = Duration::from_secs(30 * 60);
/// WeChat accepts no older ticket.
const TICKET_LIFE: Duration = Duration::from_secs(12 * 3600);

/// Returns the checks of a platform.
pub(super) async fn check(
    settings: &Settings,
    client: &Client,
    platform: &Platform,
    clock: &Clock,
) -> Vec<Check> {
    let mut checks = vec![keys(platform)];
    let peeked = match state::peek(&settings.state, &platform.app_id, clock).await {
        Ok(peeked) => {
            checks.push(ticket(platform, &peeked, clock));
            Some(peeked)
        }
        Err(error) => {
            checks.push(Check::skipped("ticket", format!("the state cannot be read: {error}")));
            None
        }
    };
    checks.push(limited("token", token(client, platform, peeked, clock)).await);
    checks.extend(permissions());
    checks
}

/// Checks whether the keys of the pushes can be read.
fn keys(platform: &Platform) -> Check {
    let next = "copy the key from the platform's page at WeChat into this key of the settings";
    let failed = |key: &str, found: String| Check::failed("keys", found, next).of(key);
    if let Err(error) = platform.token.read() {
        return failed("platforms.token", error.to_string());
    }
    let keys = [Some(&platform.aes_key), platform.previous_aes_key.as_ref()];
    for (source, key) in keys.into_iter().zip(["aes_key", "previous_aes_key"]) {
        if let Some(Err(error)) = source.map(readable_key) {
            return failed(&format!("platforms.{key}"), error);
        }
    }
    Check::ok("keys", "the Token and the EncodingAESKey can be read")
}

fn readable_key(source: &SecretSource) -> Result<(), String> {
    let text = source.read().map_err(|error| error.to_string())?;
    let key = message_crypto::Key::parse(&text);
    key.map(drop).ok_or_else(|| "not an EncodingAESKey of 43 characters".to_owned())
}

/// Checks whether WeChat pushes tickets.
fn ticket(platform: &Platform, peeked: &Peeked, clock: &Clock) -> Check {
    let next = format!(
        "enter the public address of listen.callback with the path /wechat/platform/{}/events as 授权事件接收URL at \
         WeChat; a running gateway asks for tickets with StartTicketPush",
        platform.app_id
    );
    if peeked.has_closed {
        let found = "no key of state.keys opens the ticket or the token in the state";
        let next = "set the key with which the gateway runs; a gateway without it gets another one by itself";
        return Check::warning("ticket", found, next);
    }
    let Some(ticket) = &peeked.ticket else {
        return Check::failed("ticket", "WeChat has pushed no ticket into this state yet", next);
    };
    let sent_at = SystemTime::UNIX_EPOCH + Duration::from_secs(ticket.sent_at);
    let age = clock.wall().duration_since(sent_at).unwrap_or_default();
    let found = format!("WeChat sent the newest one {} minutes ago", age.as_secs() / 60);
    if age > TICKET_LIFE {
        Check::failed("ticket", format!("{found}, and accepts it no longer"), next)
    } else if age > LATE_TICKET {
        Check::warning("ticket", format!("{found}, and should send one every 10 minutes"), next)
    } else {
        Check::ok("ticket", found)
    }
}

/// Checks whether WeChat accepts the platform. Uses the token in the state, so that a gateway that runs keeps it.
async fn token(
    client: &Client,
    platform: &Platform,
    peeked: Option<Peeked>,
    clock: &Clock,
) -> Check {
    let secret = match read_secret(Some(&platform.secret)) {
        Ok(secret) => secret,
        Err(error) => {
            let next = "correct platforms.secret: the file must be readable and have the secret";
            return Check::failed("token", error.to_string(), next);
        }
    };
    let token = match peeked {
        None => return Check::skipped("token", "not checked, because the state cannot be read"),
        Some(Peeked { token: Some(token), .. }) => token,
        Some(Peeked { ticket: Some(ticket), .. }) if is_good(&ticket, clock) => {
            match fetch(client, platform, secret, ticket).await {
                Ok(token) => token,
                Err(trouble) => return refused(&trouble),
            }
        }
        Some(_) => return Check::skipped("token", "not checked, because there is no ticket"),
    };
    let token = AccessToken::new(token, TokenName::ComponentAccessToken);
    let call = GetAuthorizerList { component_appid: platform.app_id.clone(), offset: 0, count: 1 };
    match read(client, Some(&token), &call).await {
        Ok(reply) => {
            let count = reply.total_count.0.unwrap_or_default();
            Check::ok("token", format!("WeChat accepts it, and lists {count} authorizers"))
        }
        Err(trouble) => refused(&trouble),
    }
}

fn is_good(ticket: &Ticket, clock: &Clock) -> bool {
    let life = TICKET_LIFE.as_secs();
    ticket.sent_at + life > clock.unix()
}

/// Returns a new token. Only called if no gateway has a valid one.
async fn fetch(
    client: &Client,
    platform: &Platform,
    secret: Secret,
    ticket: Ticket,
) -> Result<Secret, Trouble> {
    let call = ComponentToken {
        component_appid: platform.app_id.clone(),
        component_appsecret: secret,
        component_verify_ticket: ticket.value,
    };
    match send(client, None, &call).await {
        Ok(reply) => Ok(reply.component_access_token.0.into()),
        Err(error) => {
            let (path, safety) = (ComponentToken::PATH, ComponentToken::SAFETY);
            let status = call::Error::WeChat { path, safety, error: error.clone() }.into();
            Err(Trouble { path, error, status })
        }
    }
}

/// Returns the failed check for WeChat's refusal.
fn refused(trouble: &Trouble) -> Check {
    let next = match trouble.reason().as_str() {
        "APP_ID_INVALID" | "COMPONENT_INVALID" => "correct platforms.app_id".to_owned(),
        "APP_SECRET_INVALID" => {
            "copy the AppSecret from the platform's page at WeChat into platforms.secret".to_owned()
        }
        "COMPONENT_TICKET_INVALID" => "wait for the next ticket, at most ten minutes".to_owned(),
        "IP_NOT_ALLOWED" => match trouble.error.refused_ip() {
            Some(ip) => format!("enter {ip} in the platform's 白名单IP地址列表 at WeChat"),
            None => "enter the public address of this machine in the platform's 白名单IP地址列表 at WeChat".to_owned(),
        },
        "TOKEN_REFUSED" => {
            "find the other program that fetches tokens of this platform; only one may".to_owned()
        }
        _ => "check the network and wechat.hosts, then run doctor again".to_owned(),
    };
    Check::failed("token", trouble.text(), next)
}

/// Returns the permission sets that the accounts of a platform must grant, with the calls that need each group.
fn permissions() -> Vec<Check> {
    let mut groups = BTreeMap::<&[u8], Vec<&str>>::new();
    let of_accounts = wechat::endpoints().filter(|facts| facts.account != AccountKinds::Platform);
    for facts in of_accounts.filter(|facts| !facts.permission_sets.is_empty()) {
        groups.entry(facts.permission_sets).or_default().push(facts.path);
    }
    let check = |(sets, paths): (&[u8], Vec<&str>)| {
        let sets = sets.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
        let found = format!("an account must grant one of them for {}", paths.join(", "));
        Check::ok("permission", found).of(sets)
    };
    groups.into_iter().map(check).collect()
}
