//! Checks the gateway itself: the way to WeChat, the clock, the state, certificates and issuers.

use std::time::Duration;

use super::{Check, limited};
use crate::{
    callers,
    config::{Settings, State, TlsFiles},
    state::{self, Inspection},
    tls::{self, Expiry},
    util::clock::Clock,
    wechat,
};

/// WeChat and its pushes tolerate a smaller difference.
const CLOCK_LIMIT: Duration = Duration::from_secs(30);

/// Returns all checks of the gateway itself, except that of its settings.
pub(super) async fn check(settings: &Settings, clock: &Clock) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut times = Vec::new();
    for host in &settings.wechat.hosts {
        let check = limited("wechat", async {
            match wechat::server_time(&settings.wechat, host).await {
                Ok(time) => {
                    // The header has whole seconds, and the reply took a moment.
                    times.extend(time.map(|time| (time, clock.wall())));
                    Check::ok("wechat", "reachable")
                }
                Err(error) => Check::failed(
                    "wechat",
                    format!("{error:#}"),
                    "check DNS, the firewall, wechat.proxy and wechat.ca_file",
                ),
            }
        });
        checks.push(check.await.of(host.clone()));
    }
    checks.push(time(&times));
    checks.push(limited("state", state(&settings.state)).await);
    let listen = &settings.listen;
    let sections = [("listen.tls", &listen.tls), ("listen.admin_tls", &listen.admin_tls)];
    for (section, files) in sections {
        if let Some(files) = files {
            checks.extend(certificates(section, files, clock));
        }
    }
    for issuer in &settings.issuers {
        let check = limited("issuer", async {
            match callers::count_keys(&issuer.jwks).await {
                Ok(0) => {
                    Check::failed("issuer", "the key set has no usable key", "check issuers.jwks")
                }
                Ok(keys) => Check::ok("issuer", format!("{keys} keys loaded")),
                Err(error) => Check::failed(
                    "issuer",
                    format!("the keys cannot be loaded: {error:#}"),
                    "check issuers.jwks: the file or URL, its ca and its bearer",
                ),
            }
        });
        checks.push(check.await.of(issuer.issuer.clone()));
    }
    checks
}

/// Compares the clock with that of WeChat.
fn time(times: &[(std::time::SystemTime, std::time::SystemTime)]) -> Check {
    let distance = |(theirs, ours): &(std::time::SystemTime, std::time::SystemTime)| match ours
        .duration_since(*theirs)
    {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    let Some((by, direction)) = times.iter().map(distance).min() else {
        return Check::skipped("clock", "not checked: no host answered with a time");
    };
    let found = format!("{} s {direction} WeChat's", by.as_secs());
    match by > CLOCK_LIMIT {
        true => Check::warning(
            "clock",
            found,
            "synchronize the clock of this machine (NTP); else pushes and JWTs are refused",
        ),
        false => Check::ok("clock", found),
    }
}

/// Checks whether the state is durable, without opening it.
async fn state(settings: &State) -> Check {
    let State { url, plain_secrets, .. } = settings;
    match state::inspect(settings).await {
        Ok(Inspection { found, warning: None }) if *plain_secrets => Check::warning(
            "state",
            format!("{url}: {found}; its tokens are plain text"),
            "set state.keys, and remove state.plain_secrets",
        ),
        Ok(Inspection { found, warning: None }) => Check::ok("state", format!("{url}: {found}")),
        Ok(Inspection { found, warning: Some(warning) }) => {
            Check::warning("state", format!("{url}: {found}"), warning)
        }
        Err(error) => {
            let next = "correct state.url, or the place that it names";
            Check::failed("state", format!("{url}: {error}"), next)
        }
    }
}

/// Checks the files of a listener and when their certificates expire.
fn certificates(section: &'static str, files: &TlsFiles, clock: &Clock) -> Vec<Check> {
    let name = "certificate";
    let expiries = match tls::expiries(files, clock) {
        Ok(expiries) => expiries,
        Err(faults) => {
            let next = "correct the file; docs/security.md describes what it must have";
            let check = |fault: tls::Fault| {
                Check::failed(name, fault.message, next).of(format!("{section}.{}", fault.key))
            };
            return faults.into_iter().map(check).collect();
        }
    };
    let check = |Expiry { certificate, not_after, is_over, is_near }: Expiry| {
        let check = match (is_over, is_near) {
            (true, _) => Check::failed(
                name,
                format!("{certificate} expired on {not_after}"),
                "replace the file; the gateway loads the new one by itself",
            ),
            (false, true) => Check::warning(
                name,
                format!("{certificate} expires soon, on {not_after}"),
                "renew it, and replace the file; the gateway loads the new one by itself",
            ),
            (false, false) => Check::ok(name, format!("{certificate} lasts until {not_after}")),
        };
        check.of(section)
    };
    expiries.into_iter().map(check).collect()
}
