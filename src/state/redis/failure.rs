//! Explains failures of Redis to operators.

use ::redis::{ErrorKind, RedisError};

use crate::state::Error;

/// An error with an explanation, and whether another connection may help.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    /// True if the address may lead to another Redis by now, or if this one may accept another
    /// connection.
    pub(super) reconnect: bool,
}

/// Redis's error code, the explanation, and whether another connection may help.
const KNOWN: [(&str, &str, bool); 17] = [
    ("OOM", "its memory is full: raise `maxmemory` or free memory", false),
    ("MISCONF", "it refuses writes because it cannot save to its own disk", false),
    (
        "NOREPLICAS",
        "it refuses writes because too few replicas are connected (`min-replicas-to-write`)",
        false,
    ),
    ("READONLY", "it is a replica and refuses writes: `state.url` must lead to a primary", true),
    ("MASTERDOWN", "it is a replica that lost its primary", true),
    ("LOADING", "it is still loading its data", true),
    ("BUSY", "it is busy with a script of another client", false),
    ("NOAUTH", "it requires a password: set `state.password`", true),
    ("WRONGPASS", "it refuses the user of `state.url` or `state.password`", true),
    ("NOPERM", "its access list forbids a command that the user of `state.url` needs", false),
    ("DENIED", "it runs in protected mode and accepts only connections from its own machine", true),
    (
        "MOVED",
        "another node of its cluster has the gateway's keys: `state.url` must begin with \
         redis-cluster://",
        true,
    ),
    ("CLUSTERDOWN", "its cluster is down: some slots have no primary", true),
    (
        "CROSSSLOT",
        "it is part of a cluster that splits the gateway's keys, or a proxy of one",
        true,
    ),
    ("NOPROTO", "it does not support RESP3: it is older than 6.2", true),
    // Half of the keys are elsewhere, so no script may run in either place.
    ("ASK", "its cluster is moving the slot of the gateway's keys to another node", false),
    ("TRYAGAIN", "its cluster is moving the slot of the gateway's keys to another node", false),
];

/// Errors without a code of their own.
const PHRASES: [(&str, &str, bool); 19] = [
    ("No space left on device", "its own disk is full", false),
    ("max number of clients reached", "it reached its limit of clients (`maxclients`)", true),
    ("unknown command 'SENTINEL'", "it is no sentinel", true),
    ("unknown command `SENTINEL`", "it is no sentinel", true),
    (
        "unknown command",
        "it does not support a required command: it is older than 6.2, a sentinel, or not Redis",
        true,
    ),
    ("cluster support disabled", "it is not part of a cluster", true),
    // Redis 7.0 and 6.2 report a forbidden command in a script with these texts.
    ("ACL failure in script", KNOWN[9].1, false),
    ("The user executing the script", KNOWN[9].1, false),
    // Redis reports a missing password in the greeting with this text.
    ("called with the client already authenticated", KNOWN[7].1, true),
    ("without any password configured", "it has no password, but the settings have one", true),
    (
        "invalid peer certificate: UnknownIssuer",
        "an unknown CA signed its certificate: set `state.tls.ca`",
        true,
    ),
    // A CA of the same name with another key.
    (
        "invalid peer certificate: BadSignature",
        "an unknown CA signed its certificate: set `state.tls.ca`",
        true,
    ),
    ("invalid peer certificate: certificate expired", "its certificate has expired", true),
    (
        "invalid peer certificate: certificate not valid for name",
        "its certificate is for another name than the address that leads to it",
        true,
    ),
    ("invalid peer certificate", "its certificate cannot be used", true),
    (
        "fatal alert: CertificateRequired",
        "it requires a certificate: set `state.tls.certificate` and `state.tls.key`",
        true,
    ),
    (
        "fatal alert: HandshakeFailure",
        "it accepts no TLS version of the gateway, or requires a certificate \
         (`state.tls.certificate`)",
        true,
    ),
    ("received fatal alert", "it refuses the certificate in `state.tls.certificate`", true),
    (
        "received corrupt message",
        "it does not use TLS at its address: `state.url` must begin with redis, not rediss",
        true,
    ),
];

impl Failure {
    /// Returns the failure of an answer that did not arrive in time.
    pub(super) fn late() -> Self {
        let error = Error::Unusable("Redis does not answer in time".to_owned());
        Self { error, reconnect: true }
    }

    /// Returns the explanation of an error. It contains no stored or sent data.
    pub(super) fn of(error: &RedisError) -> Self {
        let explained = |what: &str, reconnect| Self {
            error: Error::Unusable(format!("Redis: {what}")),
            reconnect,
        };
        match error.kind() {
            ErrorKind::Parse => {
                return explained(
                    "the server at its address is not a Redis, or it is one with TLS (rediss)",
                    true,
                );
            }
            ErrorKind::RESP3NotSupported => return explained(KNOWN[14].1, true),
            _ => {}
        }
        let text = text(error);
        if let Some((_, what, reconnect)) = PHRASES.iter().find(|known| text.contains(known.0)) {
            return explained(what, *reconnect);
        }
        let code = error.code().unwrap_or_default();
        let is = |name: &str| {
            // Redis 6 wraps the error of a command in a script in another error.
            code == name
                || text.starts_with(&format!("{name} "))
                || text.contains(&format!("-{name} "))
        };
        if is("WRONGTYPE") {
            let error = Error::Damaged("a key in Redis has an unexpected type".to_owned());
            return Self { error, reconnect: false };
        }
        if let Some((_, what, reconnect)) = KNOWN.iter().find(|known| is(known.0)) {
            return explained(what, *reconnect);
        }
        match error.kind() {
            ErrorKind::AuthenticationFailed => explained(KNOWN[8].1, true),
            _ if error.is_timeout() => Self::late(),
            ErrorKind::Io => explained(&text, true),
            // An error of the gateway's own script would be the same on another connection.
            _ => explained(&text, false),
        }
    }
}

/// Returns the error for an answer that does not match the script. It does not quote the answer,
/// which may be secret.
pub(super) fn damaged(what: &str) -> Error {
    Error::Damaged(format!("Redis answered with an unexpected {what}"))
}

fn text(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (None, Some(detail)) => format!("{error}: {detail}"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(text: &str) -> Failure {
        let (code, detail) = text.split_once(' ').expect("a code");
        Failure::of(&::redis::make_extension_error(code.to_owned(), Some(detail.to_owned())))
    }

    #[test]
    fn failure_has_explanation_for_operators() {
        let script = "ERR Error running script (call to f_1): @user_script:9: @user_script: 9: ";
        for (message, explanation, reconnect) in [
            ("OOM command not allowed when used memory > 'maxmemory'.", "memory is full", false),
            (
                &*format!("{script}-OOM command not allowed when used memory"),
                "memory is full",
                false,
            ),
            ("MISCONF Redis is configured to save RDB snapshots", "its own disk", false),
            (
                "MISCONF Errors writing to the AOF file: No space left on device",
                "disk is full",
                false,
            ),
            ("NOREPLICAS Not enough good replicas to write.", "min-replicas-to-write", false),
            ("READONLY You can't write against a read only replica.", "is a replica", true),
            (&*format!("{script}-READONLY You can't write against a read"), "is a replica", true),
            ("MASTERDOWN Link with MASTER is down", "lost its primary", true),
            ("LOADING Redis is loading the dataset in memory", "still loading", true),
            ("BUSY Redis is busy running a script.", "script of another client", false),
            ("NOAUTH Authentication required.", "requires a password", true),
            ("WRONGPASS invalid username-password pair", "refuses the user", true),
            ("NOPERM this user has no permissions to run the 'evalsha' command", "forbids", false),
            ("ERR ACL failure in script: User default has no permissions", "forbids", false),
            ("ERR max number of clients reached", "maxclients", true),
            ("ERR unknown command 'EVALSHA', with args beginning with: 'hush'", "older", true),
            ("ERR unknown command 'SENTINEL', with args beginning with: 'hush'", "sentinel", true),
            ("ERR This instance has cluster support disabled", "not part of a cluster", true),
            ("MOVED 1234 10.0.0.1:6379", "redis-cluster://", true),
            ("ASK 1234 10.0.0.1:6379", "moving the slot", false),
            ("TRYAGAIN Multiple keys request during rehashing of slot", "moving the slot", false),
            ("CLUSTERDOWN Hash slot not served", "is down", true),
        ] {
            let Failure { error, reconnect: found } = explained(message);
            let text = error.to_string();
            assert!(text.contains(explanation), "{message}: {text}");
            assert!(!text.contains("hush") && error != Error::Full, "{message}: {text}");
            assert_eq!(found, reconnect, "{message}");
        }
        let wrong = explained("WRONGTYPE Operation against a key holding the wrong kind of value");
        assert!(matches!(wrong.error, Error::Damaged(_)), "{wrong:?}");
    }

    #[test]
    fn other_server_is_reported_as_not_redis() {
        let other: RedisError = (ErrorKind::Parse, "not a number", "hush".to_owned()).into();
        let Failure { error, reconnect } = Failure::of(&other);
        assert!(error.to_string().contains("not a Redis") && reconnect, "{error}");
    }
}
