//! Checks the callback as WeChat does when an administrator enters its URL: it must echo a text if the
//! signature is right, and must refuse a wrong signature.

use std::{net::Ipv4Addr, time::Duration};

use reqwest::{StatusCode, Url, header};

use super::{Check, Options, limited};
use crate::{
    config::{Account, SecretSource, Settings},
    message_crypto,
    util::{
        clock::Clock,
        http::{self, failure_kind},
        id::Secret,
    },
};

const CHECK: &str = "callback";
/// WeChat itself waits five seconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// A longer answer is no echo.
const LONGEST_ANSWER: usize = 1024;

/// Returns the check of an account's callback.
pub(super) async fn check(
    settings: &Settings,
    account: &Account,
    options: &Options,
    clock: &Clock,
) -> Check {
    let Some(callback) = &account.callback else {
        return Check::ok(CHECK, "the settings have no callback for this account");
    };
    let token = match callback.token.as_ref().map(SecretSource::read).transpose() {
        Ok(token) => token,
        Err(error) => return Check::failed(CHECK, error.to_string(), "correct callback.token"),
    };
    let url = match url(settings, account, options.callback_url.as_deref()) {
        Ok(url) => url,
        Err(check) => return *check,
    };
    let asked = async {
        let asked = match &token {
            Some(token) => ask(&url, token, clock).await,
            None => probe(&url).await,
        };
        asked.unwrap_or_else(|check| *check)
    };
    limited(CHECK, asked).await
}

/// Returns the URL, or the check if there is none.
fn url(settings: &Settings, account: &Account, given: Option<&str>) -> Result<Url, Box<Check>> {
    let app_id = account.app_id.as_str();
    let text = match given {
        Some(given) => given.replace("{app_id}", app_id),
        None => {
            let mut address = settings.listen.callback;
            if address.port() == 0 {
                let found = "not checked: listen.callback has no fixed port";
                return Err(
                    Check::warning(CHECK, found, "name the address with --callback-url").into()
                );
            }
            if address.ip().is_unspecified() {
                address.set_ip(Ipv4Addr::LOCALHOST.into());
            }
            format!("http://{address}/wechat/callback/{app_id}")
        }
    };
    let url = text.parse::<Url>().ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.ok_or_else(|| {
        Check::failed(CHECK, "--callback-url is not an HTTP URL", "correct --callback-url").into()
    })
}

/// Returns the client, or the check if there can be none.
fn client() -> Result<reqwest::Client, Box<Check>> {
    let client = http::tls(None).and_then(|tls| {
        Ok(http::client().timeout(ANSWER_LIMIT).tls_backend_preconfigured(tls).build()?)
    });
    client.map_err(|error| {
        Check::failed(CHECK, format!("{error:#}"), "install the system's CAs").into()
    })
}

/// Returns the URL without what could be secret.
fn shown(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

/// Returns the failed check if there was no answer.
fn unreachable(shown: &str, error: &reqwest::Error) -> Check {
    let found = format!("{shown} {}", failure_kind(error));
    let next = "start the gateway, and check the proxy and the firewall before listen.callback";
    Check::failed(CHECK, found, next)
}

/// Sends the question of cloud hosting, which has no signature.
async fn probe(url: &Url) -> Result<Check, Box<Check>> {
    let shown = shown(url);
    let request = client()?
        .post(url.clone())
        .header(header::CONTENT_TYPE, "application/json")
        .body(r#"{"action":"CheckContainerPath"}"#);
    let response = request.send().await.map_err(|error| unreachable(&shown, &error))?;
    let found = "answers the question of cloud hosting; whether the public route is closed cannot be seen from here";
    Ok(match response.status() {
        StatusCode::OK => Check::ok(CHECK, format!("{shown} {found}")),
        status => refused(&shown, status),
    })
}

/// Sends WeChat's question twice: with the right signature, and with a wrong one.
async fn ask(url: &Url, token: &Secret, clock: &Clock) -> Result<Check, Box<Check>> {
    let shown = shown(url);
    let client = client()?;
    let (timestamp, nonce) = (clock.unix().to_string(), format!("{:016x}", fastrand::u64(..)));
    let echo = format!("{:016x}", fastrand::u64(..));
    let right = message_crypto::signature(token, &[&timestamp, &nonce]);
    let wrong = message_crypto::signature(token, &[&timestamp, &nonce, "not signed"]);
    let question = |signature: &str| {
        let query = [
            ("signature", signature),
            ("timestamp", &timestamp),
            ("nonce", &nonce),
            ("echostr", &echo),
        ];
        client.get(url.clone()).query(&query).build()
    };
    let answer = async |signature: &str| {
        let request = question(signature)?;
        let mut response = client.execute(request).await?;
        let (status, mut body) = (response.status(), Vec::new());
        while let Some(chunk) = response.chunk().await? {
            body.extend_from_slice(&chunk);
            if body.len() > LONGEST_ANSWER {
                break;
            }
        }
        Ok::<_, reqwest::Error>((status, body))
    };
    let (status, body) = answer(&right).await.map_err(|error| unreachable(&shown, &error))?;
    if status != StatusCode::OK || body != echo.as_bytes() {
        return Err(refused(&shown, status).into());
    }
    match answer(&wrong).await {
        Ok((status, body)) if status.is_success() && body == echo.as_bytes() => Ok(Check::failed(
            CHECK,
            format!("{shown} also echoed a question with a wrong signature"),
            "lead the URL to the gateway; another program answers there",
        )),
        _ => Ok(Check::ok(CHECK, format!("{shown} answers, and refuses a wrong signature"))),
    }
}

/// Returns the failed check for an answer without the echo.
fn refused(shown: &str, status: StatusCode) -> Check {
    let next = match status {
        StatusCode::FORBIDDEN => {
            "set the same token in callback.token and in the gateway that answers there, and check \
             both clocks"
        }
        StatusCode::NOT_FOUND => {
            "the path must be /wechat/callback/ and the app id, and the gateway there must have a \
             callback for this account"
        }
        _ => "lead the URL to listen.callback of the gateway, without a redirect or a page between",
    };
    let found = format!("{shown} did not echo WeChat's question (HTTP {})", status.as_u16());
    Check::failed(CHECK, found, next)
}
