//! What a failure of Redis means to whoever runs this service.

use ::redis::{ErrorKind, RedisError};

use crate::state::Error;

/// A failure in words, and whether another connection may be better.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    /// The address may lead to another Redis by now, or this one may take another connection.
    pub(super) reconnect: bool,
}

/// What Redis calls a failure, what it means, and whether another connection may be better.
const KNOWN: [(&str, &str, bool); 15] = [
    ("OOM", "its memory is full: raise `maxmemory` or make room", false),
    ("MISCONF", "it takes no writes, for it fails to save to its own disk", false),
    (
        "NOREPLICAS",
        "it takes no writes, for too few replicas follow it (`min-replicas-to-write`)",
        false,
    ),
    ("READONLY", "it is a replica and takes no writes: `state.url` has to lead to a primary", true),
    ("MASTERDOWN", "it is a replica that has lost its primary", true),
    ("LOADING", "it is still loading its data", true),
    ("BUSY", "a script of another client keeps it busy", false),
    ("NOAUTH", "it wants a password, and `state.url` has none", true),
    ("WRONGPASS", "it refuses the user or the password of `state.url`", true),
    ("NOPERM", "its access list forbids the user of `state.url` what this service needs", false),
    ("DENIED", "it runs in protected mode and takes connections of its own machine only", true),
    ("MOVED", "it is part of a cluster, which this service does not follow", true),
    ("CLUSTERDOWN", "it is part of a cluster that is down", true),
    ("CROSSSLOT", "it is part of a cluster, which this service does not follow", true),
    ("NOPROTO", "it does not speak RESP3: it is older than 6.2", true),
];

/// What Redis has no code of its own for.
const PHRASES: [(&str, &str, bool); 6] = [
    ("No space left on device", "its own disk is full", false),
    ("max number of clients reached", "it has as many clients as it may (`maxclients`)", true),
    (
        "unknown command",
        "it does not know what this service needs: it is older than 6.2, or no Redis",
        true,
    ),
    // How 7.0 and 6.2 say that an access list forbids what a script does.
    ("ACL failure in script", KNOWN[9].1, false),
    ("The user executing the script", KNOWN[9].1, false),
    // How a Redis says so that wants a password, and got none with the greeting.
    ("called with the client already authenticated", KNOWN[7].1, true),
];

impl Failure {
    /// What did not come in time.
    pub(super) fn late() -> Self {
        let error = Error::Unusable("Redis does not answer in time".to_owned());
        Self { error, reconnect: true }
    }

    /// Says nothing that was stored or sent.
    pub(super) fn of(error: &RedisError) -> Self {
        let told = |what: &str, reconnect| Self {
            error: Error::Unusable(format!("Redis: {what}")),
            reconnect,
        };
        match error.kind() {
            ErrorKind::Parse => return told("what answers at its address is not a Redis", true),
            ErrorKind::RESP3NotSupported => return told(KNOWN[14].1, true),
            _ => {}
        }
        let text = text(error);
        if let Some((_, what, reconnect)) = PHRASES.iter().find(|known| text.contains(known.0)) {
            return told(what, *reconnect);
        }
        let code = error.code().unwrap_or_default();
        let is = |name: &str| {
            // Redis 6 reports what happened to a command in a script inside of another error.
            code == name
                || text.starts_with(&format!("{name} "))
                || text.contains(&format!("-{name} "))
        };
        if is("WRONGTYPE") {
            let error = Error::Damaged("a key of Redis has another type than expected".to_owned());
            return Self { error, reconnect: false };
        }
        if let Some((_, what, reconnect)) = KNOWN.iter().find(|known| is(known.0)) {
            return told(what, *reconnect);
        }
        match error.kind() {
            ErrorKind::AuthenticationFailed => told(KNOWN[8].1, true),
            _ if error.is_timeout() => Self::late(),
            ErrorKind::Io => told(&text, true),
            // Of a script of ours: another connection would say the same.
            _ => told(&text, false),
        }
    }
}

/// Says that something is not as our scripts answer; not what, for it may be secret.
pub(super) fn damaged(what: &str) -> Error {
    Error::Damaged(format!("Redis answered with another {what} than expected"))
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

    fn told(text: &str) -> Failure {
        let (code, detail) = text.split_once(' ').expect("a code");
        Failure::of(&::redis::make_extension_error(code.to_owned(), Some(detail.to_owned())))
    }

    #[test]
    fn every_cause_is_told_as_what_it_is() {
        let script = "ERR Error running script (call to f_1): @user_script:9: @user_script: 9: ";
        for (said, told_as, reconnect) in [
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
            ("NOAUTH Authentication required.", "has none", true),
            ("WRONGPASS invalid username-password pair", "refuses the user", true),
            ("NOPERM this user has no permissions to run the 'evalsha' command", "forbids", false),
            ("ERR ACL failure in script: User default has no permissions", "forbids", false),
            ("ERR max number of clients reached", "maxclients", true),
            ("ERR unknown command 'EVALSHA', with args beginning with: 'hush'", "older", true),
            ("MOVED 1234 10.0.0.1:6379", "cluster", true),
        ] {
            let Failure { error, reconnect: found } = told(said);
            let text = error.to_string();
            assert!(text.contains(told_as), "{said}: {text}");
            assert!(!text.contains("hush") && error != Error::Full, "{said}: {text}");
            assert_eq!(found, reconnect, "{said}");
        }
        let wrong = told("WRONGTYPE Operation against a key holding the wrong kind of value");
        assert!(matches!(wrong.error, Error::Damaged(_)), "{wrong:?}");
    }

    #[test]
    fn what_is_no_redis_is_told_as_that() {
        let other: RedisError = (ErrorKind::Parse, "not a number", "hush".to_owned()).into();
        let Failure { error, reconnect } = Failure::of(&other);
        assert!(error.to_string().contains("not a Redis") && reconnect, "{error}");
    }
}
