//! One row: sent until there is an answer that a repeat would not change.
//!
//! Every repeat has the same `request_id`, so whatever became of the one before, nothing is executed
//! twice. Requests without one are those that read.

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
    cli::call::{Client, GRACE as LATE, Header, addressed, refusal},
    telemetry::code_name,
};

/// The reason of rows that never left.
pub(super) const UNREADABLE: &str = "ROW_UNREADABLE";
/// The reason of rows whose write was sent, and nobody knows more.
const OUTCOME_UNKNOWN: &str = "OUTCOME_UNKNOWN";
/// The reason of rows that stopped waiting for their answer.
const INTERRUPTED: &str = "INTERRUPTED";

/// Where nobody says when to come again: after this, then twice as long each time …
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// … up to this.
const LAST_PAUSE: Duration = Duration::from_secs(10);
/// However soon a service wants to be asked again.
const LEAST_PAUSE: Duration = Duration::from_millis(50);
/// Without a deadline the service has one; a connection that died unnoticed has none. At least this.
const LONGEST_CALL: Duration = Duration::from_secs(60);
/// Who is told to stop waits so long for what is under way.
const GRACE: Duration = Duration::from_secs(30);

/// Calls one method for many rows.
#[derive(Debug)]
pub(super) struct Caller {
    client: Client,
    method: MethodDescriptor,
    deadline: Option<Duration>,
    headers: Vec<Header>,
    patience: Duration,
    stopping: CancellationToken,
    /// How many rows have got an answer that counts.
    answered: AtomicU64,
}

/// How a row ended, and why others should not begin, if they should not.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) outcome: Outcome,
    pub(super) halt: Option<Halt>,
}

/// Why other rows should not begin.
#[derive(Debug)]
pub(super) enum Halt {
    /// Those of the same account would be refused for the same reason.
    Account {
        reason: String,
        /// Until when, if the service says so.
        until: Option<String>,
    },
    /// None should.
    All(String),
}

/// How a row ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Ok(DynamicMessage),
    /// It was refused.
    Failed(Status),
    /// There is no answer that counts, and the last one was this. A repeat may get one.
    Unfinished(Option<Status>),
    /// It was executed, or not: nobody knows, and a repeat changes nothing.
    Unknown(Status),
}

impl Outcome {
    /// Why it is not ok.
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

/// What a refusal means for its row.
#[derive(Debug, PartialEq)]
enum Verdict {
    Final,
    Unknown,
    /// Every other row of the account would be refused for the same reason, for longer than
    /// `--patience`.
    Hopeless,
    /// Again, after this time if somebody said one.
    Again(Option<Duration>),
}

impl Caller {
    pub(super) fn new(
        client: Client,
        method: MethodDescriptor,
        deadline: Option<Duration>,
        headers: Vec<Header>,
        patience: Duration,
        stopping: &CancellationToken,
    ) -> Self {
        let (stopping, answered) = (stopping.clone(), AtomicU64::new(0));
        Self { client, method, deadline, headers, patience, stopping, answered }
    }

    /// Sends a row until it has its answer.
    pub(super) async fn call(&self, message: DynamicMessage) -> Answer {
        let answer = self.insist(message).await;
        if !matches!(answer.outcome, Outcome::Unfinished(_)) {
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }

    async fn insist(&self, message: DynamicMessage) -> Answer {
        let end = |outcome| Answer { outcome, halt: None };
        let mut pause = FIRST_PAUSE;
        let mut trouble: Option<(Instant, u64)> = None;
        loop {
            let status = match unless_stopped(&self.stopping, GRACE, self.once(&message)).await {
                None => return end(Outcome::Unfinished(None)),
                Some(Ok(response)) => return end(Outcome::Ok(response)),
                Some(Err(status)) => status,
            };
            let wait = match verdict(&status) {
                Verdict::Final => return end(Outcome::Failed(status)),
                Verdict::Unknown => return end(Outcome::Unknown(status)),
                Verdict::Hopeless => {
                    let halt = Halt::Account { reason: reason(&status), until: until(&status) };
                    return Answer { outcome: Outcome::Failed(status), halt: Some(halt) };
                }
                Verdict::Again(Some(wait)) => wait,
                Verdict::Again(None) => {
                    // Many rows fail at once; they should not come back at once.
                    let wait = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
                    pause = (2 * pause).min(LAST_PAUSE);
                    wait
                }
            };
            let answered = self.answered.load(Ordering::Relaxed);
            let (since, before) = *trouble.get_or_insert((Instant::now(), answered));
            if since.elapsed() + wait > self.patience {
                if reason(&status) == OUTCOME_UNKNOWN {
                    return end(Outcome::Unknown(status));
                }
                // Where others got on meanwhile, it is this row's own trouble.
                let alone = answered > before;
                let halt = (!alone).then(|| {
                    let reason = reason(&status);
                    Halt::All(format!(
                        "no row got an answer for as long as --patience allows: {reason}"
                    ))
                });
                return Answer { outcome: Outcome::Unfinished(Some(status)), halt };
            }
            let rest = tokio::time::sleep(wait);
            if self.stopping.run_until_cancelled(rest).await.is_none() {
                return end(Outcome::Unfinished(Some(status)));
            }
        }
    }

    async fn once(&self, message: &DynamicMessage) -> Result<DynamicMessage, Status> {
        let request = addressed(message.clone(), self.deadline, &self.headers);
        let limit = self.deadline.map_or(self.patience.max(LONGEST_CALL), |limit| limit + LATE);
        let answer = async {
            let mut answers = self.client.start(&self.method, request).await?;
            let mut response = None;
            // The verdict comes after the message.
            while let Some(message) = answers.message().await? {
                response = Some(message);
            }
            // Something in between may say OK that never asked the service: like a broken connection.
            response.ok_or_else(|| Status::from_error("OK, but no response".into()))
        };
        let late = || Status::deadline_exceeded("the service did not end the call in time");
        tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| Err(late()))
    }
}

fn verdict(status: &Status) -> Verdict {
    let code = refusal::code(status);
    match reason(status).as_str() {
        // A repeat looks again, and is not executed blindly.
        OUTCOME_UNKNOWN => {
            return match pushback(status) {
                Some(Ok(wait)) => Verdict::Again(Some(wait)),
                _ => Verdict::Unknown,
            };
        }
        // WeChat is asked now and then whether a daily one was lifted, so it says to come again.
        "DAILY_QUOTA_SPENT" | "TOKEN_BUDGET_SPENT" => return Verdict::Hopeless,
        _ => {}
    }
    let again = match pushback(status) {
        Some(Err(Never)) => return Verdict::Final,
        Some(Ok(wait)) => Some(wait),
        None => None,
    };
    match code {
        Code::Unavailable | Code::DeadlineExceeded => Verdict::Again(again),
        // The connection broke: of these the service knows nothing.
        _ if std::error::Error::source(status).is_some() => Verdict::Again(again),
        Code::ResourceExhausted
            if again.is_none() && status.get_details_quota_failure().is_some() =>
        {
            Verdict::Hopeless
        }
        Code::ResourceExhausted | Code::Aborted if again.is_some() => Verdict::Again(again),
        _ => Verdict::Final,
    }
}

/// A service that does not want to be asked again.
struct Never;

/// When a service wants to be asked again, by either of the ways in which services say it.
fn pushback(status: &Status) -> Option<Result<Duration, Never>> {
    let said = status.metadata().get("grpc-retry-pushback-ms");
    if let Some(said) = said {
        let millis = said.to_str().ok().and_then(|text| text.parse().ok());
        return Some(millis.map(|wait| LEAST_PAUSE.max(Duration::from_millis(wait))).ok_or(Never));
    }
    status.get_details_retry_info()?.retry_delay.map(|wait| Ok(wait.max(LEAST_PAUSE)))
}

/// Until when the service refuses such calls, if it says so.
fn until(status: &Status) -> Option<String> {
    status.get_details_error_info()?.metadata.remove("until")
}

/// The reason that the service names, or the code.
fn reason(status: &Status) -> String {
    let named = status.get_details_error_info().map(|info| info.reason);
    named
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| code_name(refusal::code(status)).to_owned())
}

#[cfg(test)]
mod tests {
    use tonic::metadata::MetadataMap;
    use tonic_types::ErrorDetails;

    use super::*;

    /// A refusal with a reason, as a service makes it.
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
    fn what_a_repeat_would_change_is_repeated_when_the_service_says() {
        use Code::{
            Aborted, AlreadyExists, DeadlineExceeded, NotFound, ResourceExhausted, Unavailable,
            Unknown,
        };
        let second = || Verdict::Again(Some(Duration::from_secs(1)));
        for (code, reason, retry, pushback, expected) in [
            (Unavailable, "SHUTTING_DOWN", None, None, Verdict::Again(None)),
            (Unavailable, "WECHAT_BUSY", Some(1000), None, second()),
            (DeadlineExceeded, "DEADLINE_EXCEEDED", None, None, Verdict::Again(None)),
            (
                ResourceExhausted,
                "WRITE_QUEUE_BUSY",
                None,
                Some("70"),
                Verdict::Again(Some(Duration::from_millis(70))),
            ),
            (
                Aborted,
                "WRITE_IN_PROGRESS",
                Some(1),
                Some("90"),
                Verdict::Again(Some(Duration::from_millis(90))),
            ),
            (Unavailable, "WECHAT_BUSY", Some(0), None, Verdict::Again(Some(LEAST_PAUSE))),
            (Unavailable, "WECHAT_BUSY", None, Some("0"), Verdict::Again(Some(LEAST_PAUSE))),
            (Aborted, "DELETION_FAILED", None, None, Verdict::Final),
            (Unavailable, "WECHAT_BUSY", Some(1), Some("-1"), Verdict::Final),
            (ResourceExhausted, "DAILY_QUOTA_SPENT", Some(300), Some("300"), Verdict::Hopeless),
            (ResourceExhausted, "ANYTHING", None, None, Verdict::Hopeless),
            (Unknown, "OUTCOME_UNKNOWN", Some(1000), None, second()),
            (Unknown, "OUTCOME_UNKNOWN", None, None, Verdict::Unknown),
            (Unknown, "UNKNOWN_ERRCODE", None, None, Verdict::Final),
            (AlreadyExists, "STORE_DUPLICATE", None, None, Verdict::Final),
            (NotFound, "", Some(1), None, Verdict::Final),
        ] {
            assert_eq!(verdict(&refused(code, reason, retry, pushback)), expected, "{reason}");
        }
        // A connection that broke has no reason, whatever code tonic gives it.
        let broken = Status::from_error(std::io::Error::other("reset").into());
        assert_eq!(verdict(&broken), Verdict::Again(None));
    }
}
