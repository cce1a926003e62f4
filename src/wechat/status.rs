//! The meaning of an HTTP status that is not a success.
//!
//! WeChat's own verdicts come with status 200. Another status comes from WeChat's edge, or from a
//! proxy or gateway. The table in docs/writes.md lists the statuses that prove that a call was not
//! executed.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header};

use super::Error;

/// A longer `Retry-After` is considered a mistake of the server and cut to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 3600);

/// Returns the error for a status that is not a success. `now` is the reference for a `Retry-After`
/// date.
pub(super) fn error(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Error {
    let retry_after = retry_after(headers, now);
    match status.as_u16() {
        407 => Error::ProxyRefused,
        status if is_not_executed(status) => Error::NotExecuted { status, retry_after },
        status => Error::BadStatus { status, retry_after },
    }
}

/// Returns true if a server sends this status before it executes a request.
///
/// Not in the list are 406 and 409, which a server may answer after it has begun, and 408, which some
/// gateways answer when their upstream is late. Every 5xx is missing for the same reason.
const fn is_not_executed(status: u16) -> bool {
    matches!(
        status,
        300..=399
            | 400..=405
            | 407
            | 410..=415
            | 417
            | 418
            | 421
            | 422
            | 425
            | 426
            | 428
            | 429
            | 431
            | 451
    )
}

/// Returns true if the same request may succeed a little later.
pub(crate) const fn passes(status: u16) -> bool {
    matches!(status, 421 | 425 | 429)
}

/// Returns the delay of `Retry-After`, which is a number of seconds or a date. A date is compared
/// with the `Date` of the same reply if there is one, because the two machines' clocks may differ.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let value = text(header::RETRY_AFTER)?;
    let pause = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Parsing digits fails only if the number is too large.
        value.parse().map_or(LONGEST_PAUSE, Duration::from_secs)
    } else {
        let until = httpdate::parse_http_date(value).ok()?;
        let date = text(header::DATE).and_then(|date| httpdate::parse_http_date(date).ok());
        until.duration_since(date.unwrap_or(now)).unwrap_or_default()
    };
    Some(pause.min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn retry_after(headers: &[(header::HeaderName, &str)]) -> Option<u64> {
        let headers =
            headers.iter().map(|(name, value)| (name.clone(), value.parse().expect("ASCII")));
        let now = httpdate::parse_http_date(NOW).expect("a date");
        match error(StatusCode::TOO_MANY_REQUESTS, &headers.collect(), now) {
            Error::NotExecuted { status: 429, retry_after } => retry_after.map(|r| r.as_secs()),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn status_table_in_docs_matches_code() {
        let documented = include_str!("../../docs/writes.md");
        let row = |name: &str| {
            let row = documented.lines().find(|line| line.starts_with(&format!("| {name} |")));
            let row = row.and_then(|row| row.split('|').nth(2)).expect("a row");
            move |status: u16| {
                row.split([' ', ',']).any(|word| match word.split_once('–') {
                    Some((from, to)) => (from.parse().expect("a status")
                        ..=to.parse().expect("a status"))
                        .contains(&status),
                    None => word.parse() == Ok(status),
                })
            }
        };
        let (not_executed, unknown) = (row("not executed"), row("unknown"));
        for status in (300..600).filter(|status| *status != 407) {
            let code = StatusCode::from_u16(status).expect("a status");
            let error = error(code, &HeaderMap::new(), SystemTime::UNIX_EPOCH);
            let proven = matches!(error, Error::NotExecuted { .. });
            assert!(proven || matches!(error, Error::BadStatus { .. }), "{status}");
            assert_eq!(not_executed(status), proven, "{status}");
            assert!(!proven || !unknown(status), "{status}");
        }
        assert!(unknown(408) && unknown(500) && unknown(502));
        let proxy = error(
            StatusCode::PROXY_AUTHENTICATION_REQUIRED,
            &HeaderMap::new(),
            SystemTime::UNIX_EPOCH,
        );
        assert!(matches!(proxy, Error::ProxyRefused));
    }

    #[test]
    fn retry_after_accepts_seconds_and_dates() {
        for (value, expected) in [
            ("0", Some(0)),
            ("7", Some(7)),
            (" 120 ", Some(120)),
            ("86401", Some(86_400)),
            ("99999999999999999999999", Some(86_400)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sunday, 06-Nov-94 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(retry_after(&[(header::RETRY_AFTER, value)]), expected, "{value:?}");
        }
        assert_eq!(retry_after(&[]), None);
        let until = "Sun, 06 Nov 1994 10:00:30 GMT";
        let theirs = "Sun, 06 Nov 1994 10:00:00 GMT";
        assert_eq!(retry_after(&[(header::RETRY_AFTER, until), (header::DATE, theirs)]), Some(30));
    }
}
