//! One row: sent again until a repeat would not change the result.
//!
//! Every repeat has the same `request_id`, so the service never executes a row twice. Requests
//! without a `request_id` are reads.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use prost_reflect::{DynamicMessage, MethodDescriptor};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::unless_stopped;
use crate::{
    cli::{
        call::{Client, GRACE as LATE, Header, with_metadata},
        rpc_error,
    },
    telemetry::code_name,
};

/// The reason of a row that was not sent because it cannot be parsed.
pub(super) const UNREADABLE: &str = "ROW_UNREADABLE";
/// The reason of a row with an unknown outcome: its write was sent, and the response is lost.
const OUTCOME_UNKNOWN: &str = "OUTCOME_UNKNOWN";
/// The reason of a row that was interrupted before its response arrived.
const INTERRUPTED: &str = "INTERRUPTED";

/// The first pause if the service does not state one. Each further pause is twice as long …
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// … up to this one.
const LAST_PAUSE: Duration = Duration::from_secs(10);
/// The shortest pause, even if the service states a shorter one.
const LEAST_PAUSE: Duration = Duration::from_millis(50);
/// The minimum time limit of one attempt without `--deadline`. The service sets its own deadline, but
/// a broken connection can stay undetected without this limit.
const LONGEST_CALL: Duration = Duration::from_secs(60);
/// How long the rows in flight can continue after a stop.
const GRACE: Duration = Duration::from_secs(30);

/// Calls one method for many rows, with retries.
#[derive(Debug)]
pub(super) struct Caller {
    client: Client,
    method: MethodDescriptor,
    deadline: Option<Duration>,
    headers: Vec<Header>,
    retry_for: Duration,
    stopping: CancellationToken,
    /// How many rows have a final result.
    answered: AtomicU64,
}

/// The result of a row, and whether further rows must not be sent.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) outcome: Outcome,
    pub(super) halt: Option<Halt>,
}

/// The reason why further rows must not be sent.
#[derive(Debug)]
pub(super) enum Halt {
    /// The service would refuse all rows of the same account for the same reason.
    Account {
        reason: String,
        /// The end of the refusals, if the service states it.
        until: Option<String>,
    },
    /// No row would succeed.
    All(String),
}

/// The result of a row.
#[derive(Debug)]
pub(super) enum Outcome {
    Ok(DynamicMessage),
    /// The service refused it.
    Failed(Status),
    /// No attempt got a final result. This is the last status. A repeat can get a final result.
    Unfinished(Option<Status>),
    /// It is unknown whether WeChat executed it, and a repeat would not change that.
    Unknown(Status),
}

impl Outcome {
    /// Returns the reason why the row is not ok, or an empty text.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Ok(_) => String::new(),
            Self::Unfinished(None) => INTERRUPTED.to_owned(),
            Self::Failed(status) | Self::Unknown(status) | Self::Unfinished(Some(status)) => {
                reason(status)
            }
        }
    }
}

/// The consequence of a status for its row.
#[derive(Debug, PartialEq)]
enum Verdict {
    Final,
    Unknown,
    /// The service would refuse every row of the account for the same reason, and for longer than
    /// `--retry-for`.
    AccountBlocked,
    /// The service does not accept the caller's proof of identity.
    CallerUnknown,
    /// Retry after this time, or after a growing pause if the service states none.
    Retry(Option<Duration>),
}

impl Caller {
    pub(super) fn new(
        client: Client,
        method: MethodDescriptor,
        deadline: Option<Duration>,
        headers: Vec<Header>,
        retry_for: Duration,
        stopping: &CancellationToken,
    ) -> Self {
        let (stopping, answered) = (stopping.clone(), AtomicU64::new(0));
        Self { client, method, deadline, headers, retry_for, stopping, answered }
    }

    /// Sends a row until it has a final result, or until `--retry-for` ends.
    pub(super) async fn call(&self, message: DynamicMessage) -> Answer {
        let answer = self.retry(message).await;
        if !matches!(answer.outcome, Outcome::Unfinished(_)) {
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }

    async fn retry(&self, message: DynamicMessage) -> Answer {
        let end = |outcome| Answer { outcome, halt: None };
        let mut pause = FIRST_PAUSE;
        let mut first_failure: Option<(Instant, u64)> = None;
        loop {
            let status = match unless_stopped(&self.stopping, GRACE, self.once(&message)).await {
                None => return end(Outcome::Unfinished(None)),
                Some(Ok(response)) => return end(Outcome::Ok(response)),
                Some(Err(status)) => status,
            };
            let wait = match verdict(&status) {
                Verdict::Final => return end(Outcome::Failed(status)),
                Verdict::Unknown => return end(Outcome::Unknown(status)),
                Verdict::AccountBlocked => {
                    let halt = Halt::Account { reason: reason(&status), until: until(&status) };
                    return Answer { outcome: Outcome::Failed(status), halt: Some(halt) };
                }
                // A token can be replaced while rows are sent, and the new one may reach this command
                // later than the service. Before the first answer, the token is probably wrong.
                Verdict::CallerUnknown if self.answered.load(Ordering::Relaxed) == 0 => {
                    let reason = reason(&status);
                    let why = format!("the service does not accept this caller ({reason})");
                    let outcome = Outcome::Unfinished(Some(status));
                    return Answer { outcome, halt: Some(Halt::All(why)) };
                }
                Verdict::Retry(Some(wait)) => wait,
                Verdict::Retry(None) | Verdict::CallerUnknown => {
                    // Many rows fail at the same time. Jitter spreads their retries.
                    let wait = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
                    pause = (2 * pause).min(LAST_PAUSE);
                    wait
                }
            };
            let answered = self.answered.load(Ordering::Relaxed);
            let (since, before) = *first_failure.get_or_insert((Instant::now(), answered));
            if since.elapsed() + wait > self.retry_for {
                if reason(&status) == OUTCOME_UNKNOWN {
                    return end(Outcome::Unknown(status));
                }
                // If other rows got results meanwhile, only this row has a problem.
                let alone = answered > before;
                let halt = (!alone).then(|| {
                    let reason = reason(&status);
                    Halt::All(format!("no row succeeded within --retry-for ({reason})"))
                });
                return Answer { outcome: Outcome::Unfinished(Some(status)), halt };
            }
            let pause = tokio::time::sleep(wait);
            if self.stopping.run_until_cancelled(pause).await.is_none() {
                return end(Outcome::Unfinished(Some(status)));
            }
        }
    }

    async fn once(&self, message: &DynamicMessage) -> Result<DynamicMessage, Status> {
        let request = with_metadata(message.clone(), self.deadline, &self.headers);
        let limit = self.deadline.map_or(self.retry_for.max(LONGEST_CALL), |limit| limit + LATE);
        let call = async {
            let mut responses = self.client.start(&self.method, request).await?;
            let mut response = None;
            // The status arrives after the message.
            while let Some(message) = responses.message().await? {
                response = Some(message);
            }
            // A proxy can return OK without a response from the service. It counts as a broken
            // connection.
            response.ok_or_else(|| Status::from_error("OK, but no response".into()))
        };
        let late = || Status::deadline_exceeded("the service did not end the call in time");
        tokio::time::timeout(limit, call).await.unwrap_or_else(|_| Err(late()))
    }
}

fn verdict(status: &Status) -> Verdict {
    let code = rpc_error::code(status);
    match reason(status).as_str() {
        // A repeat makes the service check WeChat again. It does not execute the write again.
        OUTCOME_UNKNOWN => {
            return match pushback(status) {
                Some(wait) => Verdict::Retry(Some(wait)),
                None => Verdict::Unknown,
            };
        }
        // The service states a retry time for a daily quota too, because it checks now and then
        // whether WeChat lifted it. Other rows need not wait for that.
        "DAILY_QUOTA_SPENT" | "TOKEN_BUDGET_SPENT" => return Verdict::AccountBlocked,
        "PERMISSION_MISSING" | "ACCOUNT_PAUSED" | "ACCOUNT_READ_ONLY" => {
            return Verdict::AccountBlocked;
        }
        _ => {}
    }
    let wait = pushback(status);
    match code {
        Code::Unavailable | Code::DeadlineExceeded => Verdict::Retry(wait),
        Code::Unauthenticated => Verdict::CallerUnknown,
        // The connection broke. The service did not return this status.
        _ if std::error::Error::source(status).is_some() => Verdict::Retry(wait),
        Code::ResourceExhausted
            if wait.is_none() && status.get_details_quota_failure().is_some() =>
        {
            Verdict::AccountBlocked
        }
        Code::ResourceExhausted | Code::Aborted if wait.is_some() => Verdict::Retry(wait),
        _ => Verdict::Final,
    }
}

/// Returns the retry time that the service states, in either of the two usual ways.
///
/// A negative pushback has no meaning for a row: it is about a call that ends too soon, or that has no
/// `request_id`. A row has more time, and its `request_id` makes a repeat safe.
fn pushback(status: &Status) -> Option<Duration> {
    let pushback = status.metadata().get("grpc-retry-pushback-ms");
    let millis = pushback.and_then(|text| text.to_str().ok()?.parse().ok());
    let stated = millis.map(Duration::from_millis);
    let stated =
        stated.or_else(|| status.get_details_retry_info().and_then(|info| info.retry_delay));
    stated.map(|wait| wait.max(LEAST_PAUSE))
}

/// Returns the end of the refusals, if the service states it.
fn until(status: &Status) -> Option<String> {
    status.get_details_error_info()?.metadata.remove("until")
}

/// Returns the reason that the service states, or the code.
fn reason(status: &Status) -> String {
    let named = status.get_details_error_info().map(|info| info.reason);
    named
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| code_name(rpc_error::code(status)).to_owned())
}

#[cfg(test)]
mod tests {
    use tonic::metadata::MetadataMap;
    use tonic_types::ErrorDetails;

    use super::*;

    /// Returns a status with a reason, as the service does.
    fn refused(code: Code, reason: &str, retry: Option<u64>, pushback: Option<&str>) -> Status {
        let mut details = ErrorDetails::with_error_info(reason, "here", []);
        if retry.is_some() {
            details.set_retry_info(retry.map(Duration::from_millis));
        }
        if code == Code::ResourceExhausted {
            details.add_quota_failure_violation("/wxa/add_store", "spent");
        }
        let mut metadata = MetadataMap::new();
        if let Some(pushback) = pushback {
            metadata.insert("grpc-retry-pushback-ms", pushback.parse().expect("ASCII"));
        }
        Status::with_error_details_and_metadata(code, "", details, metadata)
    }

    #[test]
    fn status_maps_to_retry_or_final() {
        use Code::{
            Aborted, AlreadyExists, DeadlineExceeded, NotFound, PermissionDenied,
            ResourceExhausted, Unauthenticated, Unavailable, Unknown,
        };
        let second = || Verdict::Retry(Some(Duration::from_secs(1)));
        for (code, reason, retry, pushback, expected) in [
            (Unavailable, "SHUTTING_DOWN", None, None, Verdict::Retry(None)),
            (Unavailable, "WECHAT_BUSY", Some(1000), None, second()),
            (DeadlineExceeded, "DEADLINE_EXCEEDED", None, None, Verdict::Retry(None)),
            (
                ResourceExhausted,
                "WRITE_QUEUE_BUSY",
                None,
                Some("70"),
                Verdict::Retry(Some(Duration::from_millis(70))),
            ),
            (
                Aborted,
                "WRITE_IN_PROGRESS",
                Some(1),
                Some("90"),
                Verdict::Retry(Some(Duration::from_millis(90))),
            ),
            (Unavailable, "WECHAT_BUSY", Some(0), None, Verdict::Retry(Some(LEAST_PAUSE))),
            (Unavailable, "WECHAT_BUSY", None, Some("0"), Verdict::Retry(Some(LEAST_PAUSE))),
            (Aborted, "DELETION_FAILED", None, None, Verdict::Final),
            (Unavailable, "WECHAT_BUSY", None, Some("-1"), Verdict::Retry(None)),
            (Unauthenticated, "CALLER_UNKNOWN", None, Some("-1"), Verdict::CallerUnknown),
            (Aborted, "DELETION_FAILED", None, Some("-1"), Verdict::Final),
            (Unavailable, "WECHAT_BUSY", Some(1000), Some("-1"), second()),
            (
                ResourceExhausted,
                "DAILY_QUOTA_SPENT",
                Some(300),
                Some("300"),
                Verdict::AccountBlocked,
            ),
            (ResourceExhausted, "ANYTHING", None, None, Verdict::AccountBlocked),
            (Unknown, "OUTCOME_UNKNOWN", Some(1000), None, second()),
            (Unknown, "OUTCOME_UNKNOWN", None, None, Verdict::Unknown),
            (Unknown, "UNKNOWN_ERRCODE", None, None, Verdict::Final),
            (AlreadyExists, "STORE_DUPLICATE", None, None, Verdict::Final),
            (NotFound, "", Some(1), None, Verdict::Final),
            (Unauthenticated, "CALLER_UNKNOWN", None, None, Verdict::CallerUnknown),
            (PermissionDenied, "PERMISSION_MISSING", None, None, Verdict::AccountBlocked),
        ] {
            assert_eq!(verdict(&refused(code, reason, retry, pushback)), expected, "{reason}");
        }
        // A broken connection has no reason. tonic chooses its code.
        let broken = Status::from_error(std::io::Error::other("reset").into());
        assert_eq!(verdict(&broken), Verdict::Retry(None));
    }
}
