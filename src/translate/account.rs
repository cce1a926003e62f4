//! Translates accounts of the settings for operators.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    Form, WriteCall,
    page::{self, Foreign},
};
use crate::{
    accounts::{
        Account, Origin,
        quota::Spent,
        token::{self, TokenFailure, TokenStatus},
    },
    config::{AccountKind, TokenKind},
    pb::{self, ErrorReason},
    telemetry::masked,
    util::id::AppId,
    validate::{Check, Invalid},
    wechat::{
        self, Done,
        account::{ClearQuota, ClearQuotaBySecret, DailyQuota, GetQuota, GetQuotaReply, RateLimit},
    },
};

/// The name of the list in page tokens.
const ACCOUNTS: &str = "accounts";
/// The prefix of every app id. 16 hexadecimal digits follow.
const PREFIX: &str = "wx";

/// Parses a request for accounts, and returns the size of its page.
pub(crate) fn wanted_accounts(request: &pb::ListAccountsRequest) -> Result<usize, Invalid> {
    let pb::ListAccountsRequest { app_id: _, page_size, page_token: _ } = request;
    let mut check = Check::default();
    let size = check.rows(*page_size);
    check.done(size)
}

/// Returns a page of accounts and the token of the page after it. `accounts` has all accounts, ordered by
/// their ids.
pub(crate) fn next_page(
    mut accounts: Vec<Arc<Account>>,
    size: usize,
    page_token: &str,
) -> Result<(Vec<Arc<Account>>, String), Foreign> {
    if !page_token.is_empty() {
        let after = page::parse_page_token(ACCOUNTS, page_token)?;
        accounts.retain(|account| number(&account.app_id) > after);
    }
    let more = accounts.len() > size;
    accounts.truncate(size);
    let last = accounts.last().filter(|_| more);
    let next = last.map(|last| page::page_token(ACCOUNTS, number(&last.app_id)));
    Ok((accounts, next.unwrap_or_default()))
}

/// Returns the digits of an app id as a number, so that a page continues even if accounts were added or
/// removed.
fn number(app_id: &AppId) -> u64 {
    let digits = app_id.as_str().trim_start_matches(PREFIX);
    u64::from_str_radix(digits, 16).unwrap_or_default()
}

/// Returns an account for callers. `reason` returns the reason with which calls without a token fail.
pub(crate) fn account(
    account: &Account,
    wechat_host: &str,
    last_push: Option<SystemTime>,
    reason: fn(&token::Error) -> ErrorReason,
    now: u64,
) -> pb::Account {
    let Account { app_id, kind, tokens, quotas, concurrency, origin } = account;
    let kind = kind.map_or(pb::AccountKind::Unspecified, wire_kind);
    let (default_of_kind, token_kind) = match origin {
        Origin::Platform(_) => (false, pb::TokenKind::Authorizer),
        Origin::Settings(settings) => (settings.default, wire_token_kind(&settings.token)),
    };
    pb::Account {
        app_id: app_id.to_string(),
        kind: kind.into(),
        default_of_kind,
        receives_pushes: account.receives_pushes(),
        last_push_time: last_push.map(Into::into),
        token: Some(token(token_kind, tokens.as_ref().map(|tokens| tokens.status()), reason)),
        spent_quotas: quotas.spent(now).into_iter().map(Into::into).collect(),
        wechat_host: wechat_host.to_owned(),
        running_call_count: count(concurrency.running()),
        waiting_call_count: count(concurrency.waiting()),
        paused: account.is_paused(),
        read_only: account.is_read_only(),
        platform_app_id: account.platform().map(AppId::to_string).unwrap_or_default(),
    }
}

fn wire_token_kind(kind: &TokenKind) -> pb::TokenKind {
    match kind {
        TokenKind::Cloudbase(_) => pb::TokenKind::Cloudbase,
        TokenKind::External(_) => pb::TokenKind::External,
        TokenKind::OpenInterface => pb::TokenKind::OpenInterface,
        TokenKind::Classic => pb::TokenKind::Classic,
        TokenKind::Stable => pb::TokenKind::Stable,
    }
}

/// Returns the kind of an account for callers.
pub(super) fn wire_kind(kind: AccountKind) -> pb::AccountKind {
    match kind {
        AccountKind::MiniProgram => pb::AccountKind::MiniProgram,
        AccountKind::Official => pb::AccountKind::Official,
    }
}

/// Returns the state of a token for callers. `reason` returns the reason with which calls without one fail.
pub(super) fn token(
    kind: pb::TokenKind,
    status: Option<TokenStatus>,
    reason: fn(&token::Error) -> ErrorReason,
) -> pb::AccountToken {
    let TokenStatus { generation, times, last_failure } = status.unwrap_or_default();
    let (fetched, expires) = times.unzip();
    pb::AccountToken {
        kind: kind.into(),
        present: fetched.is_some(),
        generation: generation.try_into().unwrap_or(i64::MAX),
        fetch_time: fetched.map(Into::into),
        expire_time: expires.flatten().map(Into::into),
        last_failure: last_failure.map(|failure| token_failure(failure, reason)),
    }
}

fn token_failure(
    TokenFailure { error, time, retry }: TokenFailure,
    reason: fn(&token::Error) -> ErrorReason,
) -> pb::TokenFailure {
    let refusal = refusal(&error);
    let (code, errmsg) = match refusal {
        Some(wechat::Error::Refused { code, message }) => (Some(code.0), message.as_str()),
        _ => (None, ""),
    };
    let refused_ip = refusal.and_then(wechat::Error::refused_ip);
    pb::TokenFailure {
        time: Some(time.into()),
        retry_time: retry.map(Into::into),
        reason: reason(&error).into(),
        message: error.to_string(),
        wechat_errcode: code,
        wechat_errmsg: masked(errmsg).into_owned(),
        wechat_rid: wechat::rid(errmsg).unwrap_or_default().to_owned(),
        refused_ip: refused_ip.map(|ip| ip.to_string()).unwrap_or_default(),
    }
}

/// Returns the error of WeChat behind the failure.
fn refusal(error: &token::Error) -> Option<&wechat::Error> {
    match error {
        token::Error::Refused { refusal: error, .. } | token::Error::Unavailable { error, .. } => {
            Some(error)
        }
        token::Error::Platform(error) => refusal(error),
        token::Error::BudgetSpent
        | token::Error::Deadline
        | token::Error::Missing { .. }
        | token::Error::NoRefreshToken
        | token::Error::NoTicket { .. }
        | token::Error::NotAuthorized
        | token::Error::Secret(_)
        | token::Error::State(_) => None,
    }
}

impl From<Spent> for pb::SpentQuota {
    fn from(Spent { path, error, retry_after: _, until }: Spent) -> Self {
        let code = match error {
            wechat::Error::Refused { code, .. } => Some(code.0),
            _ => None,
        };
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(until);
        Self { path: path.to_owned(), end_time: Some(end.into()), wechat_errcode: code }
    }
}

impl TryFrom<pb::GetQuotaRequest> for GetQuota {
    type Error = Invalid;

    fn try_from(
        pb::GetQuotaRequest { app_id: _, path }: pb::GetQuotaRequest,
    ) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let cgi_path = check.formed("path", path, &Form::API_PATH);
        check.done(Self { cgi_path })
    }
}

impl From<GetQuotaReply> for pb::GetQuotaResponse {
    fn from(reply: GetQuotaReply) -> Self {
        let GetQuotaReply { quota, rate_limit, component_rate_limit, unreadable } = reply;
        let DailyQuota { daily_limit, used, remain } = quota;
        Self {
            daily_limit: daily_limit.0.unwrap_or_default(),
            used_count: used.0.unwrap_or_default(),
            remaining_count: remain.0.unwrap_or_default(),
            rate_limit: rate_limit.map(Into::into),
            component_rate_limit: component_rate_limit.map(Into::into),
            unreadable_fields: unreadable,
        }
    }
}

impl From<RateLimit> for pb::RateLimit {
    fn from(RateLimit { call_count, refresh_second }: RateLimit) -> Self {
        let period = |seconds: i32| prost_types::Duration { seconds: seconds.into(), nanos: 0 };
        Self { call_count: call_count.0, period: refresh_second.0.map(period) }
    }
}

impl WriteCall for ClearQuota {}

impl WriteCall for ClearQuotaBySecret {}

impl From<Done> for pb::ClearQuotaResponse {
    fn from(Done {}: Done) -> Self {
        Self { recovered: false }
    }
}

fn count(number: usize) -> i32 {
    number.try_into().unwrap_or(i32::MAX)
}
