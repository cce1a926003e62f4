//! Turns failures into gRPC statuses. No other module chooses a gRPC code.
//!
//! Every status has a `google.rpc.ErrorInfo` with a reason of `error.proto`, and the other details of
//! `google.rpc` that apply. [`errcode`](super::errcode) has the meaning of WeChat's numbers.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use prost_types::Timestamp;
use tonic::{Code, Status, metadata::MetadataValue};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use super::{
    Unfit,
    errcode::{self, FixBy},
};
use crate::{
    accounts::{self, platform, quota::Spent, token},
    call::{DistrictError, Error, PageError},
    callers::{Forbidden, Refused, TooFast, jwt},
    context::{Stage, Unusable},
    events, journal,
    pb::{Access, ErrorReason},
    state,
    telemetry::masked,
    translate::{BadPicture, page},
    util::id::AppId,
    validate::Invalid,
    wechat::{self, Errcode, Safety},
    writes,
};

/// The domain of every `ErrorInfo`.
pub(crate) const DOMAIN: &str = "wechat-store-gateway";

/// The time after which a gRPC library may send a call again by itself, in milliseconds. A negative one stops
/// it.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// The longest text, in bytes. Clients limit trailers to a few kilobytes.
const LONGEST_TEXT: usize = 512;
/// The shortest time after which a repeat can return the outcome of a running write.
const LEAST_RETRY: Duration = Duration::from_millis(100);
/// The longest time until a caller should repeat a running write or an overloaded call.
const MOST_RETRY: Duration = Duration::from_secs(5);
/// The shortest time after which a caller should retry after an overload.
const OVERLOAD_PAUSE: Duration = Duration::from_secs(1);
/// The time after which a caller should retry if the state failed.
const STATE_PAUSE: Duration = Duration::from_secs(1);
/// The time after which a caller should retry if the keys of its issuer are not loaded.
const ISSUER_PAUSE: Duration = Duration::from_secs(5);
/// The most violations of a request that a status lists. More would not fit into trailers.
const MOST_VIOLATIONS: usize = 20;

/// A failure before it becomes a status.
struct Failure {
    code: Code,
    reason: ErrorReason,
    message: String,
    metadata: HashMap<String, String>,
    details: ErrorDetails,
    retry_after: Option<Duration>,
}

impl Failure {
    fn new(code: Code, reason: ErrorReason, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            metadata: HashMap::new(),
            details: ErrorDetails::new(),
            retry_after: None,
        }
    }

    fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.metadata.insert(key.to_owned(), value.into());
        self
    }

    fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    fn violation(mut self, field: &str, rule: &str) -> Self {
        self.details.add_bad_request_violation(field, rule);
        self
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let Failure { code, reason, message, mut metadata, mut details, retry_after } = failure;
        metadata
            .entry("fix_by".to_owned())
            .or_insert_with(|| fix_by(code, reason).as_str().to_owned());
        let reason = reason.as_str_name().trim_start_matches("ERROR_REASON_");
        details.set_error_info(reason, DOMAIN, metadata);
        details = match retry_after {
            None => details,
            some => {
                details.set_retry_info(some);
                details
            }
        };
        let mut status = Self::with_error_details(code, message, details);
        if let Some(wait) = retry_after {
            let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            status.metadata_mut().insert(PUSHBACK, MetadataValue::from(millis));
        }
        status
    }
}

impl From<Invalid> for Status {
    fn from(invalid: Invalid) -> Self {
        let violations = invalid.violations();
        let mut message = String::from("invalid request");
        for violation in violations.iter().take(3) {
            message.push_str(&format!("; {}: {}", violation.field, violation.rule));
        }
        if violations.len() > 3 {
            message.push_str(&format!("; and {} more", violations.len() - 3));
        }
        let mut failure = Failure::new(Code::InvalidArgument, ErrorReason::InvalidRequest, message);
        let described = violations.iter().take(MOST_VIOLATIONS);
        let described = described.map(|v| FieldViolation::new(&v.field, &v.rule));
        failure.details.set_bad_request(described.collect::<Vec<_>>());
        failure.into()
    }
}

impl From<Unusable> for Status {
    fn from(unusable: Unusable) -> Self {
        match unusable {
            Unusable::Invalid(invalid) => invalid.into(),
            Unusable::Forbidden(refusal) => forbidden(refusal).into(),
        }
    }
}

impl From<page::Foreign> for Status {
    fn from(page::Foreign: page::Foreign) -> Self {
        let rule = "must be the next_page_token of the page before, of the same list";
        let message = format!("page_token: {rule}");
        Failure::new(Code::InvalidArgument, ErrorReason::PageTokenInvalid, message)
            .violation("page_token", rule)
            .into()
    }
}

impl From<BadPicture> for Status {
    fn from(picture: BadPicture) -> Self {
        let (reason, rule) = match picture {
            BadPicture::Incomplete(rule) => (ErrorReason::InvalidRequest, rule),
            BadPicture::Kind(rule) => (ErrorReason::MediaTypeInvalid, rule),
            BadPicture::Size(rule) => (ErrorReason::MediaTooLarge, rule),
        };
        Failure::new(Code::InvalidArgument, reason, format!("content: {rule}"))
            .violation("content", rule)
            .with("fix_by", FixBy::Caller.as_str())
            .into()
    }
}

impl From<Unfit> for Status {
    fn from(unfit: Unfit) -> Self {
        let encoding_unknown = matches!(unfit, Unfit::Encoding(_));
        let mut status: Self = unfit_to_serve(unfit).into();
        if encoding_unknown {
            let known = MetadataValue::from_static("identity,gzip");
            status.metadata_mut().insert("grpc-accept-encoding", known);
        }
        status
    }
}

fn unfit_to_serve(unfit: Unfit) -> Failure {
    let malformed =
        |message: &str| Failure::new(Code::InvalidArgument, ErrorReason::MalformedRequest, message);
    let unknown =
        |message| Failure::new(Code::Unimplemented, ErrorReason::MalformedRequest, message);
    let too_large = |message| Failure::new(Code::OutOfRange, ErrorReason::MessageTooLarge, message);
    let header = |name: &str, rule: &str| {
        let message = format!("{name}: {rule}");
        Failure::new(Code::InvalidArgument, ErrorReason::InvalidRequest, message)
            .violation(name, rule)
    };
    match unfit {
        Unfit::LongHead { size, limit } => {
            too_large(format!("the metadata has {size} bytes; the limit is {limit} bytes"))
        }
        Unfit::Twice(name) => header(name.as_str(), "must be present only once"),
        Unfit::Timeout => {
            header("grpc-timeout", "must be one to eight digits and one of H, M, S, m, u, n")
        }
        Unfit::Format(format) => unknown(format!(
            "the content type application/grpc+{format} is not supported; send application/grpc"
        )),
        Unfit::Encoding(encoding) => {
            unknown(format!("the compression {encoding} is not supported; send gzip or identity"))
        }
        Unfit::Long { size: Some(size), limit } => {
            too_large(format!("the message has {size} bytes; the limit is {limit} bytes"))
        }
        Unfit::Long { size: None, limit } => too_large(format!(
            "the uncompressed message has more than {limit} bytes, which is the limit"
        )),
        Unfit::Malformed(how) => malformed(&format!("the request is malformed: {how}")),
        Unfit::Broken => malformed("the request ended before the end of its message"),
        Unfit::Silent(silence) => {
            let message = format!(
                "the request was incomplete and no data arrived for {} ms; nothing was sent to WeChat",
                silence.as_millis()
            );
            Failure::new(Code::DeadlineExceeded, ErrorReason::DeadlineExceeded, message)
                .with("stage", "admitted")
        }
        Unfit::Exhausted { setting } => {
            let message =
                format!("the gateway has reached its limit {setting}; nothing was sent to WeChat");
            Failure::new(Code::ResourceExhausted, ErrorReason::Overloaded, message)
                .with("setting", setting)
                .retry_after(Duration::from_secs(1))
        }
        Unfit::Stopped => stopped(),
        Unfit::Unidentified(refused) => unidentified(refused),
        Unfit::Forbidden(refusal) => forbidden(refusal),
        Unfit::TooFast(TooFast { caller, wait }) => {
            let message = format!(
                "the caller {caller} has reached its rate of calls; nothing was sent to WeChat"
            );
            Failure::new(Code::ResourceExhausted, ErrorReason::RateExceeded, message)
                .with("setting", "limits.caller_rate")
                .with("fix_by", FixBy::Caller.as_str())
                .retry_after(wait.max(LEAST_RETRY))
        }
    }
}

/// Returns the failure of a request without a known caller.
fn unidentified(refused: Refused) -> Failure {
    let unknown =
        |message| Failure::new(Code::Unauthenticated, ErrorReason::CallerUnknown, message);
    match refused {
        Refused::UnknownToken
        | Refused::UnknownCertificate
        | Refused::UnknownMeshIdentity
        | Refused::UnknownSubject
        | Refused::Jwt(jwt::Refused::UnknownIssuer) => {
            unknown(refused.to_string()).with("fix_by", FixBy::Operator.as_str())
        }
        Refused::Certificate(_) => {
            unknown(format!("{refused}; connect again with another certificate"))
        }
        Refused::Jwt(jwt::Refused::KeysMissing) => {
            Failure::new(Code::Unavailable, ErrorReason::IssuerUnavailable, refused.to_string())
                .retry_after(ISSUER_PAUSE)
        }
        Refused::Jwt(jwt::Refused::TooManyForged { wait }) => {
            let message = refused.to_string();
            Failure::new(Code::ResourceExhausted, ErrorReason::RateExceeded, message)
                .with("fix_by", FixBy::Caller.as_str())
                .retry_after(wait.max(LEAST_RETRY))
        }
        Refused::Malformed
        | Refused::Missing
        | Refused::Several
        | Refused::TooLong
        | Refused::Jwt(_) => unknown(refused.to_string()).with("fix_by", FixBy::Caller.as_str()),
    }
}

/// Returns the failure of a call for which the caller's role is too low.
fn forbidden(Forbidden { caller, access, app_id }: Forbidden) -> Failure {
    let role = match access {
        Access::Read => "reader",
        Access::Write => "writer",
        Access::Admin | Access::Unspecified => "admin",
    };
    let account = match &app_id {
        Some(app_id) => format!("account {}", clipped(app_id)),
        None => "the accounts of this call".to_owned(),
    };
    let message = format!(
        "the caller {caller} needs the role {role} for {account}; an operator can set it in [[callers]]"
    );
    let failure = Failure::new(Code::PermissionDenied, ErrorReason::PermissionMissing, message)
        .with("fix_by", FixBy::Operator.as_str())
        .with("role", role);
    match app_id {
        Some(app_id) => failure.with("app_id", clipped(&app_id)),
        None => failure,
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            Error::Account(error) => account(error),
            Error::Deadline => deadline("before the call was sent", Stage::Admitted),
            Error::QueueBusy { path, wait } => write_queue_busy(path, wait),
            Error::Overloaded { app_id, path, wait } => {
                overloaded(path, wait).with("app_id", app_id)
            }
            Error::Quota(Spent { path, error, retry_after, until }) => {
                let until = SystemTime::UNIX_EPOCH + Duration::from_secs(until);
                // WeChat executed nothing, so a retry is as safe as that of a read.
                wechat(path, Safety::Read, error)
                    .retry_after(retry_after)
                    .with("until", Timestamp::from(until).to_string())
            }
            Error::State(error) => no_state(&error),
            Error::Stopped => stopped(),
            Error::Token { app_id, platform, error } => {
                of_account(no_token(error), &app_id, platform.as_ref())
            }
            Error::WeChat { path, safety, error } => wechat(path, safety, error),
        }
        .into()
    }
}

impl From<platform::Error> for Status {
    fn from(error: platform::Error) -> Self {
        of_platform(error, "app_id")
    }
}

/// Returns the status of a failure of a platform. `field` is the field of the request that names it.
pub(crate) fn of_platform(error: platform::Error, field: &str) -> Status {
    failed_platform(error, field).into()
}

fn failed_platform(error: platform::Error, field: &str) -> Failure {
    let rule = error.to_string();
    let unknown = || {
        let rule = clipped(&rule);
        Failure::new(
            Code::InvalidArgument,
            ErrorReason::PlatformUnknown,
            format!("{field}: {rule}"),
        )
        .violation(field, rule)
    };
    match error {
        platform::Error::Deadline => deadline("before the call was sent", Stage::Token),
        platform::Error::NoDefault { .. } => unknown(),
        platform::Error::Secret(error) => no_token(token::Error::Secret(error)),
        platform::Error::State(error) => no_state(&error),
        platform::Error::Token { platform, error } => {
            of_account(no_token(error), &platform, Some(&platform))
        }
        platform::Error::Unknown { app_id } => unknown().with("platform_app_id", clipped(&app_id)),
        // A call of a platform leaves no outcome that a caller must check.
        platform::Error::WeChat { path, error } => wechat(path, Safety::Read, error),
    }
}

impl From<PageError> for Status {
    fn from(error: PageError) -> Self {
        match error {
            PageError::Call(error) => error.into(),
            PageError::PageToken => page::Foreign.into(),
        }
    }
}

impl From<DistrictError> for Status {
    fn from(error: DistrictError) -> Self {
        match error {
            DistrictError::Call(error) => error.into(),
            DistrictError::Invalid(invalid) => invalid.into(),
            DistrictError::PageToken => page::Foreign.into(),
            DistrictError::Unknown { district } => district_not_found(&district).into(),
        }
    }
}

impl From<writes::Error> for Status {
    fn from(error: writes::Error) -> Self {
        use journal::Error as Journal;

        match error {
            writes::Error::Call(error) => return error.into(),
            writes::Error::Invalid(invalid) => return invalid.into(),
            writes::Error::Journal(Journal::RequestIdReused) => request_id_reused(),
            writes::Error::Journal(Journal::State(error)) => no_state(&error),
            writes::Error::Journal(Journal::WriteInProgress { write_id, rest }) => {
                write_in_progress(&write_id, rest)
            }
            writes::Error::RepeatedByClient { path } => repeated_by_client(path),
            writes::Error::OutcomeUnknown { path, write_id, cause, retry } => {
                let failure = match cause.map(|cause| *cause) {
                    Some(Error::WeChat { path, safety, error }) => wechat(path, safety, error),
                    _ => outcome_unknown(path),
                };
                let failure = failure.with("write_id", write_id);
                match retry {
                    Some(retry) => failure.retry_after(retry.max(LEAST_RETRY)),
                    None => failure,
                }
            }
        }
        .into()
    }
}

impl From<events::Error> for Status {
    fn from(error: events::Error) -> Self {
        match error {
            events::Error::CallerChanged => {
                Failure::new(Code::Unavailable, ErrorReason::CallerChanged, error.to_string())
            }
            events::Error::Expired => cursor(Code::OutOfRange, &error),
            events::Error::Malformed => cursor(Code::InvalidArgument, &error)
                .violation("cursor", "must be the cursor of an earlier response"),
            events::Error::ProofEnded(refused) => unidentified(refused),
            events::Error::State(error) => no_state(&error),
            events::Error::Stopped => stopped(),
            events::Error::TooMany { setting, .. } => too_many_watches(&error, setting),
        }
        .into()
    }
}

/// Returns the party that can fix a failure of the gateway itself, as in `error.proto`.
fn fix_by(code: Code, reason: ErrorReason) -> FixBy {
    match reason {
        ErrorReason::OutcomeUnknown | ErrorReason::TokenBudgetSpent => return FixBy::Operator,
        ErrorReason::UnknownErrcode => return FixBy::Developer,
        ErrorReason::ApiNotPermitted | ErrorReason::AuthorizationLost => return FixBy::Merchant,
        _ => {}
    }
    match code {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Cancelled => FixBy::Caller,
        Code::FailedPrecondition | Code::PermissionDenied | Code::Unauthenticated => {
            FixBy::Operator
        }
        Code::ResourceExhausted | Code::Aborted | Code::Unavailable => FixBy::Wait,
        Code::Ok | Code::Internal | Code::DataLoss => FixBy::Developer,
    }
}

/// Returns the status of a fault of the gateway.
pub(crate) fn internal(what: &str) -> Status {
    Failure::new(Code::Internal, ErrorReason::Internal, what).into()
}

/// Returns the status of a health check that names an unknown service.
pub(crate) fn service_unknown(name: &str) -> Status {
    let name = clipped(name);
    let message = format!("the gateway has no service {name}");
    let mut failure = Failure::new(Code::NotFound, ErrorReason::NameUnknown, message);
    failure.details.set_resource_info("grpc.health.v1.Service", name, "", "unknown");
    failure.into()
}

/// Returns the failure of a request with names or an id that no district has.
fn district_not_found(what: &str) -> Failure {
    let what = clipped(what);
    let mut failure = Failure::new(
        Code::NotFound,
        ErrorReason::DistrictNotFound,
        format!("Tencent Maps has no district {what}"),
    );
    failure.details.set_resource_info("wechat.store.v1.District", what, "", "not in the table");
    failure
}

/// Returns the status of a call whose deadline passed.
pub(crate) fn deadline_exceeded(after: Duration, stage: Stage) -> Status {
    deadline(&format!("after {} ms", after.as_millis()), stage).into()
}

fn deadline(when: &str, stage: Stage) -> Failure {
    let (name, so) = match stage {
        Stage::Admitted => ("admitted", "WeChat was not called"),
        Stage::Token => {
            ("token", "while the call waited for an access token; WeChat was not called")
        }
        Stage::Queue => ("queue", "while the call waited for its turn; WeChat was not called"),
        Stage::WeChat => {
            ("wechat", "while the call waited for WeChat; a write that was sent continues")
        }
    };
    let message = format!("the deadline passed {when}, {so}");
    Failure::new(Code::DeadlineExceeded, ErrorReason::DeadlineExceeded, message).with("stage", name)
}

fn write_queue_busy(path: &'static str, wait: Duration) -> Failure {
    let message = "too many writes are queued ahead, and the deadline would pass before this one runs; nothing was sent to \
                   WeChat";
    Failure::new(Code::ResourceExhausted, ErrorReason::WriteQueueBusy, message)
        .with("fix_by", FixBy::Wait.as_str())
        .with("path", path)
        .retry_after(wait.max(Duration::from_secs(1)))
}

fn overloaded(path: &'static str, wait: Duration) -> Failure {
    let message = "the account has reached its concurrency limit, and the deadline would pass before the reply to \
                   this call; nothing was sent to WeChat";
    Failure::new(Code::ResourceExhausted, ErrorReason::Overloaded, message)
        .with("path", path)
        .retry_after(wait.clamp(OVERLOAD_PAUSE, MOST_RETRY))
}

fn cursor(code: Code, error: &events::Error) -> Failure {
    Failure::new(code, ErrorReason::CursorExpired, format!("{error}"))
}

fn too_many_watches(error: &events::Error, setting: &str) -> Failure {
    Failure::new(Code::ResourceExhausted, ErrorReason::TooManyWatches, format!("{error}"))
        .with("fix_by", FixBy::Caller.as_str())
        .with("setting", setting)
}

fn no_state(error: &state::Error) -> Failure {
    Failure::new(Code::Unavailable, ErrorReason::StateUnavailable, format!("{error}"))
        .with("fix_by", FixBy::Operator.as_str())
        .retry_after(STATE_PAUSE)
}

/// Returns the status of a request for a submission that the gateway does not have.
pub(crate) fn submission_not_found(submission_id: &str) -> Status {
    let message = format!("the gateway has no submission {submission_id}");
    let mut failure = Failure::new(Code::NotFound, ErrorReason::SubmissionNotFound, message);
    let what = "wechat.store.v1.Submission";
    failure.details.set_resource_info(what, submission_id, "", "not kept");
    failure.into()
}

fn outcome_unknown(path: &'static str) -> Failure {
    let message = "a write with this request_id was sent before, and its outcome is unknown; it was not sent \
                   again";
    Failure::new(Code::Unknown, ErrorReason::OutcomeUnknown, message).with("path", path)
}

fn repeated_by_client(path: &'static str) -> Failure {
    let message = "the client repeated a write without a request_id, and the first attempt may have been executed, so \
                   this one was not sent; check WeChat before you repeat it, and set a request_id";
    Failure::new(Code::Unknown, ErrorReason::OutcomeUnknown, message)
        .with("fix_by", FixBy::Caller.as_str())
        .with("path", path)
}

fn request_id_reused() -> Failure {
    let rule = "belongs to another request; use a new one";
    Failure::new(Code::InvalidArgument, ErrorReason::RequestIdReused, format!("request_id: {rule}"))
        .violation("request_id", rule)
}

fn write_in_progress(write_id: &str, rest: Duration) -> Failure {
    let message = "the write with this request_id is still running";
    Failure::new(Code::Aborted, ErrorReason::WriteInProgress, message)
        .with("write_id", write_id)
        .retry_after(rest.clamp(LEAST_RETRY, MOST_RETRY))
}

/// Returns the status of a call for a token while the settings allow none.
pub(crate) fn token_service_off() -> Status {
    let message =
        "this gateway gives out no access tokens; an operator can set token_service.enabled = true";
    Failure::new(Code::Unimplemented, ErrorReason::MethodUnknown, message)
        .with("fix_by", FixBy::Operator.as_str())
        .with("setting", "token_service.enabled")
        .into()
}

/// Returns the status of a request for a write that the gateway does not have.
pub(crate) fn write_not_found(name: &str) -> Status {
    let message = format!("the gateway has no write {name}");
    let mut failure = Failure::new(Code::NotFound, ErrorReason::WriteNotFound, message);
    failure.details.set_resource_info("wechat.store.v1.Write", name, "", "not kept");
    failure.into()
}

/// Returns the status of a request to resolve a write whose outcome is not unknown.
pub(crate) fn write_not_resolvable(write_id: &str) -> Status {
    let message = format!(
        "write {write_id} cannot be resolved: its outcome is known, or WeChat's reply can still arrive"
    );
    Failure::new(Code::FailedPrecondition, ErrorReason::WriteNotResolvable, message)
        .with("fix_by", FixBy::Caller.as_str())
        .into()
}

fn stopped() -> Failure {
    Failure::new(
        Code::Unavailable,
        ErrorReason::ShuttingDown,
        "the gateway is shutting down, or closes this old connection; call another replica or retry",
    )
}

/// Returns a status of a response with the id of its trace. A status that tonic made gets the same shape
/// as the gateway's own.
pub(crate) fn finished(status: Status, trace_id: &str) -> Status {
    let status = if status.details().is_empty() { reshaped(&status) } else { status };
    let mut details = status.get_error_details();
    details.set_request_info(trace_id, "");
    let metadata = status.metadata().clone();
    Status::with_error_details_and_metadata(status.code(), status.message(), details, metadata)
}

/// Stops the client's gRPC library from sending a call again by itself, if it must not do that, or if the
/// caller's time is over before it could. Otherwise the library would wait, and then hide this status.
///
/// `time_left` is that of the caller. `None` if it waits without a limit.
pub(crate) fn held_back(
    mut status: Status,
    may_repeat: bool,
    time_left: Option<Duration>,
) -> Status {
    let pushback = status.metadata().get(PUSHBACK).and_then(|value| value.to_str().ok());
    let wait = pushback.and_then(|millis| millis.parse().ok()).map(Duration::from_millis);
    let too_late = wait.zip(time_left).is_some_and(|(wait, time_left)| wait >= time_left);
    if !may_repeat || too_late {
        status.metadata_mut().insert(PUSHBACK, MetadataValue::from_static("-1"));
    }
    status
}

fn reshaped(status: &Status) -> Status {
    use ErrorReason as R;

    let message = status.message();
    let (code, reason) = match status.code() {
        // Health and reflection return it for an unknown name.
        Code::NotFound => (Code::NotFound, R::NameUnknown),
        Code::Unimplemented => (Code::Unimplemented, R::MethodUnknown),
        // tonic returns it for a message that is missing, incomplete or not decodable. The caller made that
        // message.
        Code::Internal | Code::InvalidArgument | Code::Unknown => {
            (Code::InvalidArgument, R::MalformedRequest)
        }
        Code::OutOfRange => (Code::OutOfRange, R::MessageTooLarge),
        Code::DeadlineExceeded | Code::Cancelled => (status.code(), R::DeadlineExceeded),
        Code::ResourceExhausted | Code::Unavailable => (Code::ResourceExhausted, R::Overloaded),
        code => (code, R::Internal),
    };
    let message = match (reason, message) {
        (R::MethodUnknown, "") => "the gateway has no such method",
        (_, message) => message,
    };
    Failure::new(code, reason, message).into()
}

fn account(error: accounts::Error) -> Failure {
    let rule = error.to_string();
    let rule = clipped(&rule);
    let invalid = |reason| {
        Failure::new(Code::InvalidArgument, reason, format!("app_id: {rule}"))
            .violation("app_id", rule)
    };
    match error {
        accounts::Error::Forbidden(refusal) => forbidden(refusal),
        accounts::Error::NoDefault { .. } => invalid(ErrorReason::DefaultAccountMissing),
        accounts::Error::Paused { app_id, platform } => {
            let failure = Failure::new(Code::FailedPrecondition, ErrorReason::AccountPaused, rule);
            of_account(failure, &app_id, platform.as_ref())
        }
        accounts::Error::ReadOnly { app_id, platform } => {
            let failure =
                Failure::new(Code::FailedPrecondition, ErrorReason::AccountReadOnly, rule);
            of_account(failure, &app_id, platform.as_ref())
        }
        accounts::Error::NotGranted { app_id, platform, path, sets } => {
            let numbers: Vec<_> = sets.iter().map(u8::to_string).collect();
            let mut failure =
                Failure::new(Code::FailedPrecondition, ErrorReason::ApiNotPermitted, rule);
            not_granted(&mut failure, path, sets);
            failure
                .with("app_id", app_id)
                .with("path", path)
                .with("permission_sets", numbers.join(","))
                .with("platform_app_id", platform)
        }
        accounts::Error::NotOfCloud { app_id, path, .. } => {
            Failure::new(Code::FailedPrecondition, ErrorReason::CloudCallNotAllowed, rule)
                .with("app_id", app_id)
                .with("path", path)
                .with("setting", "accounts.token")
        }
        accounts::Error::Lookups { app_id } => {
            Failure::new(Code::Unavailable, ErrorReason::TokenUnavailable, rule)
                .with("app_id", app_id)
                .retry_after(Duration::from_secs(60))
        }
        accounts::Error::Platform(error) => failed_platform(*error, "app_id"),
        accounts::Error::State(error) => no_state(&error),
        accounts::Error::TokenStays { app_id, .. } => {
            Failure::new(Code::FailedPrecondition, ErrorReason::CloudCallNotAllowed, rule)
                .with("app_id", app_id)
                .with("setting", "accounts.token")
        }
        accounts::Error::Unauthorized { app_id, platform } => {
            Failure::new(Code::FailedPrecondition, ErrorReason::AuthorizationLost, rule)
                .with("app_id", app_id)
                .with("platform_app_id", platform)
        }
        accounts::Error::Unknown { app_id, .. } => {
            invalid(ErrorReason::AccountUnknown).with("app_id", clipped(&app_id))
        }
        accounts::Error::WrongKind { app_id, .. } => {
            invalid(ErrorReason::AccountKindMismatch).with("app_id", app_id)
        }
    }
}

/// Adds the account that has no token, and the setting, here or at WeChat, that should be changed.
fn of_account(failure: Failure, app_id: &AppId, platform: Option<&AppId>) -> Failure {
    let failure = failure.with("app_id", app_id.as_str());
    let Some(platform) = platform else { return of_settings(failure, app_id) };
    let setting = match failure.reason {
        ErrorReason::AppIdInvalid | ErrorReason::ComponentInvalid => "platforms.app_id",
        ErrorReason::AppSecretFrozen | ErrorReason::AppSecretInvalid => "platforms.secret",
        ErrorReason::IpNotAllowed => "ip_whitelist",
        _ => return failure.with("platform_app_id", platform.as_str()),
    };
    to_change(failure, setting, platform).with("platform_app_id", platform.as_str())
}

/// Adds the setting of an account that should be changed.
fn of_settings(failure: Failure, app_id: &AppId) -> Failure {
    let errcode = failure.metadata.get("errcode").map(String::as_str);
    let setting = match (failure.reason, errcode) {
        (ErrorReason::AppIdInvalid, _) => "accounts.app_id",
        (ErrorReason::AppSecretFrozen | ErrorReason::AppSecretInvalid, _) => "accounts.secret",
        (ErrorReason::IpNotAllowed, _) => "ip_whitelist",
        // Only a place of the settings has an operator who can put a token there.
        (ErrorReason::TokenUnavailable, _) if is_operators(&failure) => "accounts.token",
        // WeChat refuses a token of another kind of account as a wrong one.
        (ErrorReason::TokenRefused, Some("40001")) => "accounts.kind, accounts.token",
        // Another program that fetches classic tokens invalidates the gateway's token.
        (ErrorReason::TokenRefused, _) => "accounts.token",
        _ => return failure,
    };
    to_change(failure, setting, app_id)
}

/// Returns true if the operator can fix the failure.
fn is_operators(failure: &Failure) -> bool {
    failure.metadata.get("fix_by").is_some_and(|fix_by| fix_by == FixBy::Operator.as_str())
}

/// Adds a setting of an account or platform that should be changed.
fn to_change(failure: Failure, setting: &'static str, owner: &AppId) -> Failure {
    let whose = match setting {
        "ip_whitelist" => format!("; check the IP whitelist of {owner} at WeChat"),
        setting => format!("; check {setting} of {owner} in the settings"),
    };
    let message = failure.message.clone() + &whose;
    Failure { message, ..failure }.with("setting", setting)
}

/// Returns the reason with which a call without a token fails.
pub(crate) fn token_reason(error: &token::Error) -> ErrorReason {
    no_token(error.clone()).reason
}

fn no_token(error: token::Error) -> Failure {
    let message = error.to_string();
    match error {
        token::Error::BudgetSpent => {
            Failure::new(Code::ResourceExhausted, ErrorReason::TokenBudgetSpent, message)
        }
        token::Error::Deadline => deadline("before a token came", Stage::Token),
        token::Error::NotAuthorized | token::Error::NoRefreshToken => {
            Failure::new(Code::FailedPrecondition, ErrorReason::AuthorizationLost, message)
        }
        token::Error::Missing { retry_after, .. } => {
            Failure::new(Code::Unavailable, ErrorReason::TokenUnavailable, message)
                .with("fix_by", FixBy::Operator.as_str())
                .retry_after(retry_after)
        }
        token::Error::NoTicket { retry_after } => {
            Failure::new(Code::Unavailable, ErrorReason::ComponentTicketInvalid, message)
                .retry_after(retry_after)
        }
        token::Error::Platform(error) => no_token(*error),
        token::Error::State(error) => no_state(&error),
        token::Error::Refused { path, refusal } => match refusal {
            wechat::Error::Refused { code, message } => refused(path, code, &message),
            _ => Failure::new(Code::Unavailable, ErrorReason::TokenRefused, message)
                .with("fix_by", FixBy::Operator.as_str())
                .with("path", path),
        },
        token::Error::Secret(_) => {
            Failure::new(Code::FailedPrecondition, ErrorReason::AppSecretInvalid, message)
        }
        token::Error::Unavailable { path, error, retry_after } => match error {
            wechat::Error::Refused { code, message } => refused(path, code, &message),
            wechat::Error::ProxyRefused => proxy_refused(path, message),
            wechat::Error::BadStatus { status, .. } | wechat::Error::NotExecuted { status, .. } => {
                Failure::new(Code::Unavailable, ErrorReason::TokenUnavailable, message)
                    .with("path", path)
                    .with("http_status", status.to_string())
            }
            _ => Failure::new(Code::Unavailable, ErrorReason::TokenUnavailable, message)
                .with("path", path),
        }
        .retry_after(retry_after),
    }
}

fn wechat(path: &'static str, safety: Safety, error: wechat::Error) -> Failure {
    let message = error.to_string();
    let once = matches!(safety, Safety::Once(_));
    let retry_after = error.retry_after();
    let failure = match error {
        wechat::Error::Refused { code, message } => refused(path, code, &message),
        wechat::Error::NotSent { .. } => {
            Failure::new(Code::Unavailable, ErrorReason::WechatUnreachable, message)
        }
        wechat::Error::ProxyRefused => proxy_refused(path, message),
        wechat::Error::NotExecuted { status, .. } => {
            // The cause of a redirect or a ban does not pass by itself.
            let fix_by = if wechat::passes(status) { FixBy::Wait } else { FixBy::Operator };
            Failure::new(Code::Unavailable, ErrorReason::WechatUnreachable, message)
                .with("http_status", status.to_string())
                .with("fix_by", fix_by.as_str())
        }
        _ if once => Failure::new(
            Code::Unknown,
            ErrorReason::OutcomeUnknown,
            format!("{message}; WeChat may have executed the call, so it was not sent again"),
        ),
        wechat::Error::Page | wechat::Error::Unreadable { .. } if safety != Safety::Read => {
            Failure::new(
                Code::Unknown,
                ErrorReason::OutcomeUnknown,
                format!("{message}; WeChat may have executed the call, and a repeat is harmless"),
            )
        }
        wechat::Error::Unreadable { .. } => {
            Failure::new(Code::Internal, ErrorReason::WechatBadReply, message)
        }
        wechat::Error::BadStatus { status, .. } => {
            Failure::new(Code::Unavailable, ErrorReason::WechatUnreachable, message)
                .with("http_status", status.to_string())
        }
        wechat::Error::Lost { .. } | wechat::Error::Page | wechat::Error::TimedOut { .. } => {
            Failure::new(Code::Unavailable, ErrorReason::WechatUnreachable, message)
        }
    };
    let failure = failure.with("path", path);
    match retry_after {
        Some(wait) => failure.retry_after(wait),
        None => failure,
    }
}

/// Returns the failure of a call that the proxy in the settings refused.
fn proxy_refused(path: &'static str, message: String) -> Failure {
    let mut failure =
        Failure::new(Code::FailedPrecondition, ErrorReason::ProxyRefused, message.clone())
            .with("http_status", "407")
            .with("path", path)
            .with("setting", "wechat.proxy");
    failure.details.add_precondition_failure_violation("PROXY_REFUSED", "wechat.proxy", message);
    failure
}

/// Adds the permission sets, one of which the account must grant for a call.
fn not_granted(failure: &mut Failure, path: &str, sets: &[u8]) {
    let what = format!("one of the permission sets {sets:?} must be granted");
    failure.details.add_precondition_failure_violation("PERMISSION_SET", path, what);
}

/// Returns the failure of a call that WeChat refused with a number.
fn refused(path: &'static str, code: Errcode, errmsg: &str) -> Failure {
    if code.0 == 0 {
        // The `error` of create_map_poi has no number.
        let message = format!("Tencent Maps refused the place: {}", clipped(&masked(errmsg)));
        return Failure::new(Code::FailedPrecondition, ErrorReason::MapPoiRefused, message)
            .with("errmsg", clipped(errmsg))
            .with("fix_by", FixBy::Caller.as_str())
            .with("path", path);
    }
    let Some(row) = errcode::lookup(path, code.0) else {
        // The message goes into logs, so it is masked. Only the caller gets the whole `errmsg`.
        let errmsg_masked = masked(errmsg);
        let message = format!("WeChat refused with the undocumented code {code}: {errmsg_masked}");
        let unknown = Failure::new(Code::Unknown, ErrorReason::UnknownErrcode, clipped(&message));
        return with_errcode(unknown, code, errmsg).with("path", path);
    };
    let mut failure =
        Failure::new(row.status, row.reason, row.en).with("fix_by", row.fix_by.as_str());
    failure.details.set_localized_message("zh-CN", row.zh);
    let sets = wechat::permission_sets(path);
    if row.reason == ErrorReason::ApiNotPermitted && !sets.is_empty() {
        not_granted(&mut failure, path, sets);
    } else if row.status == Code::FailedPrecondition {
        let kind = row.reason.as_str_name().trim_start_matches("ERROR_REASON_");
        failure.details.add_precondition_failure_violation(kind, path, row.en);
    }
    if row.status == Code::NotFound {
        failure.details.set_resource_info(resource(path), "", "", row.en);
    }
    if matches!(code, Errcode::DAILY_QUOTA | Errcode::MINUTE_QUOTA) {
        failure.details.add_quota_failure_violation(path, row.en);
    }
    if row.fix_by == FixBy::Wait && row.status == Code::Unavailable {
        failure = failure.retry_after(Duration::from_secs(1));
    }
    with_errcode(failure, code, errmsg).with("path", path)
}

/// Adds WeChat's code and text.
fn with_errcode(failure: Failure, Errcode(code): Errcode, errmsg: &str) -> Failure {
    let failure = failure.with("errcode", code.to_string()).with("errmsg", clipped(errmsg));
    match wechat::rid(errmsg) {
        Some(rid) => failure.with("rid", clipped(rid)),
        None => failure,
    }
}

fn clipped(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST_TEXT)]
}

fn resource(path: &str) -> &'static str {
    if path.contains("nearby") {
        "wechat.store.v1.NearbyPoi"
    } else if path.starts_with("/cgi-bin/poi") {
        "wechat.store.v1.LegacyStore"
    } else {
        "wechat.store.v1.Store"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        errors::errcode::tests::{FIX_BY, between, contract},
        telemetry::code_name,
    };

    fn reason(status: &Status) -> (Code, String) {
        let info = status.get_details_error_info().expect("every status has an ErrorInfo");
        assert_eq!(info.domain, DOMAIN);
        (status.code(), info.reason)
    }

    fn refusal(path: &'static str, code: i64, message: &str) -> Status {
        let error = wechat::Error::Refused { code: Errcode(code), message: message.to_owned() };
        Error::WeChat { path, safety: Safety::Read, error }.into()
    }

    #[test]
    fn refusal_has_code_reason_and_chinese_text() {
        let status = refusal("/wxa/add_store", 85038, "store has added rid: 65f0-1a2b");
        assert_eq!(reason(&status), (Code::AlreadyExists, "STORE_DUPLICATE".to_owned()));
        let info = status.get_details_error_info().expect("checked above");
        for (key, value) in [("errcode", "85038"), ("rid", "65f0-1a2b"), ("path", "/wxa/add_store")]
        {
            assert_eq!(info.metadata.get(key).map(String::as_str), Some(value));
        }
        let localized = status.get_details_localized_message().expect("Chinese text");
        assert_eq!((localized.locale.as_str(), status.message().is_ascii()), ("zh-CN", true));
        assert!(!localized.message.is_ascii(), "{}", localized.message);
    }

    #[test]
    fn undocumented_errcode_passes_through() {
        let status = refusal("/wxa/add_store", 99999, "brand new");
        assert_eq!(reason(&status), (Code::Unknown, "UNKNOWN_ERRCODE".to_owned()));
        let info = status.get_details_error_info().expect("checked above");
        assert_eq!(info.metadata["errcode"], "99999");
        assert_eq!(info.metadata["errmsg"], "brand new");
    }

    #[test]
    fn missing_permission_lists_permission_sets() {
        let status = refusal("/wxa/addnearbypoi", 48001, "api unauthorized");
        let failure = status.get_details_precondition_failure().expect("a precondition");
        assert!(failure.violations[0].description.contains("37"), "{failure:?}");
        let status = refusal("/wxa/add_store", 48001, "api unauthorized");
        let failure = status.get_details_precondition_failure().expect("a precondition");
        assert!(failure.violations[0].description.contains("[8, 9, 10, 13]"), "{failure:?}");
    }

    #[test]
    fn missing_token_names_setting_to_change() {
        let token = "/cgi-bin/stable_token";
        let refusal = |code| wechat::Error::Refused { code: Errcode(code), message: String::new() };
        let unavailable = |code| token::Error::Unavailable {
            path: token,
            error: refusal(code),
            retry_after: Duration::ZERO,
        };
        let refused =
            |code| token::Error::Refused { path: "/wxa/get_store_list", refusal: refusal(code) };
        for (error, reason, setting) in [
            (unavailable(40001), "APP_SECRET_INVALID", Some("accounts.secret")),
            (unavailable(40125), "APP_SECRET_INVALID", Some("accounts.secret")),
            (unavailable(40243), "APP_SECRET_FROZEN", Some("accounts.secret")),
            (unavailable(40013), "APP_ID_INVALID", Some("accounts.app_id")),
            (unavailable(40164), "IP_NOT_ALLOWED", Some("ip_whitelist")),
            (refused(40001), "TOKEN_REFUSED", Some("accounts.kind, accounts.token")),
            (refused(42001), "TOKEN_REFUSED", Some("accounts.token")),
            (unavailable(-1), "WECHAT_BUSY", None),
            (unavailable(45011), "MINUTE_QUOTA_SPENT", None),
        ] {
            let status = Status::from(Error::Token {
                app_id: "wx1".to_owned().into(),
                platform: None,
                error,
            });
            let info = status.get_details_error_info().expect("every status has an ErrorInfo");
            assert_eq!((&*info.reason, &*info.metadata["app_id"]), (reason, "wx1"));
            assert_eq!(info.metadata.get("setting").map(String::as_str), setting, "{reason}");
            assert_eq!(status.message().contains("wx1"), setting.is_some(), "{status:?}");
        }
    }

    #[test]
    fn spent_quota_has_retry_time() {
        for (code, expected) in [(45009, "DAILY_QUOTA_SPENT"), (45011, "MINUTE_QUOTA_SPENT")] {
            let (code, message) = (Errcode(code), "reach limit".to_owned());
            let status = Status::from(Error::Quota(Spent {
                path: "/wxa/get_store_list",
                error: wechat::Error::Refused { code, message },
                retry_after: Duration::from_secs(7),
                until: 1_795_968_000,
            }));
            let info = status.get_details_error_info().expect("every status has one");
            assert_eq!(info.metadata["until"], "2026-11-29T16:00:00Z");
            assert_eq!(reason(&status), (Code::ResourceExhausted, expected.to_owned()));
            let wait = status.get_details_retry_info().and_then(|info| info.retry_delay);
            assert_eq!(wait, Some(Duration::from_secs(7)));
            assert!(status.metadata().contains_key("grpc-retry-pushback-ms"));
            let failure = status.get_details_quota_failure().expect("a quota");
            assert_eq!(failure.violations[0].subject, "/wxa/get_store_list");
        }
    }

    #[test]
    fn missing_precondition_has_its_type() {
        let status = refusal("/wxa/add_store", 40164, "invalid ip");
        let failure = status.get_details_precondition_failure().expect("a precondition");
        assert_eq!(failure.violations[0].r#type, "IP_NOT_ALLOWED");
        assert!(!failure.violations[0].description.is_empty());
    }

    #[test]
    fn missing_resource_has_its_type() {
        let unknown = DistrictError::Unknown { district: "999999".to_owned() };
        for (status, kind) in [
            (refusal("/wxa/get_store_info", 65115, ""), "Store"),
            (refusal("/cgi-bin/poi/delpoi", 65115, ""), "LegacyStore"),
            (refusal("/wxa/delnearbypoi", 93010, ""), "NearbyPoi"),
            (unknown.into(), "District"),
        ] {
            let info = status.get_details_resource_info().expect("a resource");
            assert_eq!(info.resource_type, format!("wechat.store.v1.{kind}"));
        }
    }

    #[test]
    fn temporary_failure_has_retry_delay() {
        let unavailable = |error| {
            let retry_after = Duration::from_secs(7);
            let error = token::Error::Unavailable { path: "/cgi-bin/token", error, retry_after };
            Status::from(Error::Token { app_id: "wx1".to_owned().into(), platform: None, error })
        };
        let refused = wechat::Error::Refused { code: Errcode(40164), message: String::new() };
        for (status, seconds) in [
            (refusal("/wxa/get_store_list", -1, "busy"), 1),
            (
                Error::QueueBusy { path: "/wxa/update_store", wait: Duration::from_millis(1) }
                    .into(),
                1,
            ),
            (overloaded("/wxa/update_store", Duration::ZERO).into(), 1),
            (overloaded("/wxa/update_store", Duration::from_secs(3)).into(), 3),
            (overloaded("/wxa/update_store", Duration::from_secs(99)).into(), 5),
            (unavailable(wechat::Error::Lost { cause: String::new() }), 7),
            (unavailable(refused), 7),
        ] {
            let wait = status.get_details_retry_info().and_then(|info| info.retry_delay);
            assert_eq!(wait, Some(Duration::from_secs(seconds)), "{status:?}");
            let pushback = status.metadata().get("grpc-retry-pushback-ms").expect("for clients");
            assert_eq!(pushback, (seconds * 1_000).to_string().as_str());
        }
    }

    #[test]
    fn lost_reply_is_unavailable_if_retry_is_safe() {
        let lost = |safety| {
            let error = wechat::Error::Lost { cause: "reset".to_owned() };
            Status::from(Error::WeChat { path: "/wxa/add_store", safety, error }).code()
        };
        assert_eq!(lost(Safety::Read), Code::Unavailable);
        assert_eq!(lost(Safety::Repeatable), Code::Unavailable);
        assert_eq!(lost(Safety::Once(wechat::Proof::Event)), Code::Unknown);
    }

    #[expect(clippy::disallowed_methods, reason = "this is what tonic does")]
    fn tonics_own(code: Code, message: &str) -> Status {
        finished(Status::new(code, message), "4bf92f")
    }

    #[test]
    fn status_of_tonic_gets_details_and_trace() {
        let status = tonics_own(Code::Unimplemented, "");
        assert_eq!(reason(&status), (Code::Unimplemented, "METHOD_UNKNOWN".to_owned()));
        let info = status.get_details_request_info().expect("the trace");
        assert_eq!(info.request_id, "4bf92f");
    }

    /// Returns every failure that the gateway makes itself, without an errcode of WeChat.
    fn our_own_failures() -> Vec<Status> {
        let token =
            |error| Error::Token { app_id: "wx1".to_owned().into(), platform: None, error }.into();
        let unavailable = |error| {
            let (path, retry_after) = ("/cgi-bin/token", Duration::from_secs(1));
            token(token::Error::Unavailable { path, error, retry_after })
        };
        let wechat = |safety, error| Error::WeChat { path: "/wxa/add_store", safety, error }.into();
        let cause = String::new;
        let lost = || wechat::Error::Lost { cause: cause() };
        let unnamed = wechat::Error::Refused { code: Errcode(0), message: cause() };
        let app_id = || "wx1".to_owned();
        let needed = wechat::AccountKinds::Official;
        vec![
            internal("a handler panicked"),
            deadline_exceeded(Duration::from_secs(1), Stage::WeChat),
            page::Foreign.into(),
            BadPicture::Kind("").into(),
            BadPicture::Size("").into(),
            BadPicture::Incomplete("").into(),
            Error::Account(accounts::Error::NoDefault { needed }).into(),
            Error::Account(accounts::Error::Unknown { app_id: app_id(), has_platforms: false })
                .into(),
            Error::Account(accounts::Error::NotGranted {
                app_id: app_id().into(),
                platform: app_id().into(),
                path: "/wxa/add_store",
                sets: &[8, 9],
            })
            .into(),
            Error::Account(accounts::Error::Unauthorized {
                app_id: app_id().into(),
                platform: app_id().into(),
            })
            .into(),
            platform::Error::NoDefault { has_several: true }.into(),
            Error::Account(accounts::Error::Lookups { app_id: app_id().into() }).into(),
            platform::Error::Unknown { app_id: app_id() }.into(),
            token(token::Error::NotAuthorized),
            token(token::Error::NoRefreshToken),
            token(token::Error::NoTicket { retry_after: Duration::from_secs(1) }),
            Error::Account(accounts::Error::WrongKind { app_id: app_id(), needed }).into(),
            Error::Account(accounts::Error::Paused { app_id: app_id().into(), platform: None })
                .into(),
            Error::Account(accounts::Error::ReadOnly { app_id: app_id().into(), platform: None })
                .into(),
            Error::Deadline.into(),
            DistrictError::Unknown { district: cause() }.into(),
            Error::QueueBusy { path: "/wxa/update_store", wait: Duration::from_millis(1) }.into(),
            overloaded("/wxa/update_store", Duration::ZERO).into(),
            Error::Stopped.into(),
            token(token::Error::BudgetSpent),
            token(token::Error::Deadline),
            token(token::Error::Refused { path: "/wxa/add_store", refusal: lost() }),
            unavailable(lost()),
            wechat(Safety::Read, wechat::Error::NotSent { cause: cause() }),
            wechat(Safety::Read, wechat::Error::BadStatus { status: 502, retry_after: None }),
            wechat(Safety::Read, wechat::Error::NotExecuted { status: 429, retry_after: None }),
            wechat(Safety::Read, wechat::Error::Page),
            wechat(Safety::Read, wechat::Error::ProxyRefused),
            unavailable(wechat::Error::ProxyRefused),
            wechat(Safety::Read, wechat::Error::TimedOut { limit: Duration::ZERO }),
            wechat(Safety::Read, wechat::Error::Unreadable { cause: cause() }),
            wechat(Safety::Once(wechat::Proof::Event), lost()),
            wechat(Safety::Read, unnamed),
            refusal("/wxa/add_store", 99999, "brand new"),
            tonics_own(Code::Unimplemented, ""),
            tonics_own(Code::Internal, "failed to decode"),
            tonics_own(Code::OutOfRange, "too large"),
            tonics_own(Code::Unavailable, ""),
        ]
    }

    #[test]
    fn own_failures_match_the_contract() {
        let contract = contract();
        for status in our_own_failures() {
            let (code, reason) = reason(&status);
            let comment = &contract[format!("ERROR_REASON_{reason}").as_str()];
            assert_eq!(between(comment, "Code: ", "."), Some(code_name(code)), "{reason}");
            let info = status.get_details_error_info().expect("checked above");
            assert_eq!(between(comment, FIX_BY, "\""), Some(&*info.metadata["fix_by"]), "{reason}");
            for key in info.metadata.keys() {
                assert!(contract["enum"].contains(&format!("`{key}`")), "{reason}: {key}");
            }
        }
    }

    #[test]
    fn long_errmsg_is_clipped_at_a_character() {
        let status = refusal("/wxa/add_store", 99999, &"门店".repeat(10_000));
        assert!(status.details().len() < 4096, "{}", status.details().len());
    }
}
