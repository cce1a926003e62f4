//! Decides whether a call is sent again. A pure function.

// Not backon: it repeats and waits. Whether a repeat is safe is the whole content of this file.

use std::time::Duration;

use crate::wechat::{self, Errcode, Error, Safety};

/// How many attempts a call has at most.
const ATTEMPTS: u32 = 3;
/// The pause before the second attempt. It doubles before each further one.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The next step after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Return the error to the caller.
    GiveUp,
    /// Get another token, wait, and send again.
    RenewToken(Duration),
    /// Wait, and send again.
    SendAgain(Duration),
}

/// Returns the decision. It depends on the endpoint's safety, the error, the number of attempts (1 after
/// the first), the number of WeChat's hosts, and the time left.
pub(super) fn decide(
    safety: Safety,
    error: &Error,
    attempts: u32,
    hosts: u32,
    time_left: Duration,
) -> Decision {
    let repeatable = !matches!(safety, Safety::Once(_));
    let wait = match error {
        // The next attempt goes to another host.
        Error::NotSent { .. } if attempts < hosts => Duration::ZERO,
        error => {
            let pause = FIRST_WAIT * 2_u32.pow(attempts.clamp(1, ATTEMPTS) - 1);
            // The pause is never shorter than the one that the server asks for.
            error.retry_after().map_or(pause, |asked| asked.max(pause))
        }
    };
    if attempts >= ATTEMPTS || wait >= time_left {
        return Decision::GiveUp;
    }
    match error {
        // WeChat refuses a token before it executes anything, so every call can be sent again.
        Error::Refused { code, .. } if code.refuses_token() => {
            // The first time without a pause, because the token is most likely an old one.
            Decision::RenewToken(if attempts == 1 { Duration::ZERO } else { wait })
        }
        Error::Refused { code: Errcode::BUSY, .. } if repeatable => Decision::SendAgain(wait),
        // With a wrong password, further attempts may lock the account.
        Error::ProxyRefused | Error::Refused { .. } => Decision::GiveUp,
        Error::NotSent { .. } => Decision::SendAgain(wait),
        Error::NotExecuted { status, .. } if repeatable || wechat::passes(*status) => {
            Decision::SendAgain(wait)
        }
        Error::NotExecuted { .. } => Decision::GiveUp,
        Error::BadStatus { .. }
        | Error::Lost { .. }
        | Error::Page
        | Error::TimedOut { .. }
        | Error::Unreadable { .. }
            if repeatable =>
        {
            Decision::SendAgain(wait)
        }
        Error::BadStatus { .. }
        | Error::Lost { .. }
        | Error::Page
        | Error::TimedOut { .. }
        | Error::Unreadable { .. } => Decision::GiveUp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wechat::Proof;

    const LONG: Duration = Duration::from_secs(5);

    fn refused(code: i64) -> Error {
        Error::Refused { code: Errcode(code), message: String::new() }
    }

    #[test]
    fn retry_table() {
        use Decision::{GiveUp, RenewToken, SendAgain};
        let lost = || Error::Lost { cause: String::new() };
        let soon = SendAgain(FIRST_WAIT);
        let renew = RenewToken(Duration::ZERO);
        //   error                                          read   repeatable once
        for (error, [read, repeatable, once]) in [
            (Error::NotSent { cause: String::new() }, [soon, soon, soon]),
            (lost(), [soon, soon, GiveUp]),
            (Error::TimedOut { limit: LONG }, [soon, soon, GiveUp]),
            (Error::BadStatus { status: 502, retry_after: None }, [soon, soon, GiveUp]),
            (Error::Page, [soon, soon, GiveUp]),
            (Error::NotExecuted { status: 403, retry_after: None }, [soon, soon, GiveUp]),
            (Error::NotExecuted { status: 429, retry_after: None }, [soon, soon, soon]),
            (Error::ProxyRefused, [GiveUp, GiveUp, GiveUp]),
            (Error::Unreadable { cause: String::new() }, [soon, soon, GiveUp]),
            (refused(-1), [soon, soon, GiveUp]),
            (refused(40001), [renew, renew, renew]),
            (refused(40014), [renew, renew, renew]),
            (refused(42001), [renew, renew, renew]),
            (refused(45009), [GiveUp, GiveUp, GiveUp]),
            (refused(45011), [GiveUp, GiveUp, GiveUp]),
            (refused(85038), [GiveUp, GiveUp, GiveUp]),
        ] {
            let decided = [Safety::Read, Safety::Repeatable, Safety::Once(Proof::Event)]
                .map(|safety| decide(safety, &error, 1, 1, LONG));
            assert_eq!(decided, [read, repeatable, once], "{error}");
        }
    }

    #[test]
    fn attempts_end_by_number_and_time() {
        let error = refused(-1);
        let decide = |attempts, left| decide(Safety::Read, &error, attempts, 2, left);
        assert_eq!(decide(2, LONG), Decision::SendAgain(FIRST_WAIT * 2));
        assert_eq!(decide(ATTEMPTS, LONG), Decision::GiveUp);
        assert_eq!(decide(1, FIRST_WAIT), Decision::GiveUp);
    }

    #[test]
    fn retry_after_is_respected_if_it_fits() {
        let asked = |seconds| {
            let retry_after = Some(Duration::from_secs(seconds));
            let limited = Error::NotExecuted { status: 429, retry_after };
            let busy = Error::BadStatus { status: 503, retry_after };
            [(limited, Safety::Once(Proof::Event)), (busy, Safety::Read)]
                .map(|(error, safety)| decide(safety, &error, 1, 1, LONG))
        };
        assert_eq!(asked(0), [Decision::SendAgain(FIRST_WAIT); 2]);
        assert_eq!(asked(4), [Decision::SendAgain(Duration::from_secs(4)); 2]);
        assert_eq!(asked(5), [Decision::GiveUp; 2]);
    }

    #[test]
    fn unsent_call_is_repeated_at_next_host() {
        let error = Error::NotSent { cause: String::new() };
        for (attempts, hosts, wait) in [(1, 1, 1), (1, 2, 0), (2, 2, 2), (2, 3, 0), (1, 9, 0)] {
            let decided = decide(Safety::Once(Proof::Event), &error, attempts, hosts, LONG);
            assert_eq!(decided, Decision::SendAgain(FIRST_WAIT * wait), "{attempts} of {hosts}");
        }
        assert_eq!(decide(Safety::Read, &error, ATTEMPTS, 9, LONG), Decision::GiveUp);
        assert_eq!(decide(Safety::Read, &error, 1, 2, Duration::ZERO), Decision::GiveUp);
    }
}
