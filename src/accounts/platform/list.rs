//! The list of all authorizers at WeChat (拉取所有已授权的账号信息).
//!
//! It has a refresh token for each. So nothing that the state lost must be authorized again.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};

use super::{Error, Platform, Platforms, authorizers::left_code};
use crate::{
    config, state,
    util::id::{AppId, Secret},
    wechat::{
        self, Endpoint, Rows,
        component::{GetAuthorizerList, ListedAuthorizer, MOST_AUTHORIZERS},
    },
};

/// The rows of the state that are read at once.
const ROWS: usize = 500;
/// The rows that are stored at the same time.
const CONCURRENT_ROWS: usize = 32;
/// The time from one reading of the whole list to the next.
const EVERY: Duration = Duration::from_secs(24 * 3600);
/// The least time between two readings of all processes together, such as after a start of them all.
const APART: Duration = Duration::from_secs(600);
/// The pause before the next check whether the list must be read, or after a failure.
const PAUSE: Duration = Duration::from_secs(60);
/// The searches for one account in the list of a platform within an hour.
const MOST_SEARCHES: u32 = 20;
/// The limit for one search. A list of 100,000 accounts has 200 pages.
const SEARCH_LIMIT: Duration = Duration::from_secs(180);
/// The limit for a reading of the whole list, which stores each row.
const READ_LIMIT: Duration = Duration::from_secs(3600);

/// Continues the authorizations that an earlier process left unfinished. Then reads the list of each platform,
/// and again once a day.
pub(super) async fn follow(platforms: Platforms) {
    let clock = platforms.0.directory.services.clock.clone();
    let mut finished = Vec::new();
    let mut due = HashMap::<AppId, Due>::new();
    loop {
        for platform in platforms.all().iter() {
            let has_ticket = platform.ticket().await.is_ok_and(|ticket| ticket.is_some());
            if platform.settings.paused || !has_ticket {
                continue;
            }
            if !finished.contains(&platform.app_id) && finish(&platforms, platform).await {
                finished.push(platform.app_id.clone());
            }
            let now = clock.now();
            let due = due.entry(platform.app_id.clone()).or_insert(Due { at: now, failures: 0 });
            if due.at <= now {
                *due = read_if_free(&platforms, platform, due.failures).await;
            }
        }
        // Without a ticket nothing can be read.
        let ticket = platforms.0.directory.has_ticket.notified();
        tokio::select! {
            () = clock.sleep(PAUSE) => {}
            () = ticket => {}
        }
    }
}

/// Exchanges the codes that an earlier process stored and did not exchange. WeChat accepts a code for an hour.
/// Returns false if the state failed.
async fn finish(platforms: &Platforms, platform: &Platform) -> bool {
    let state = &platform.services.state;
    let mut after = None;
    loop {
        let page = state.authorizers(&platform.app_id, after.as_ref(), ROWS).await;
        let Ok(rows) = page else { return false };
        for row in &rows {
            let Some(code) = left_code(row) else { continue };
            platform.exchange(&row.app_id, code, row.changed_at).await;
            platform.describe(&row.app_id, row.changed_at).await;
            platforms.0.authorizers.changed(&row.app_id);
        }
        match rows.last() {
            Some(last) if rows.len() == ROWS => after = Some(last.app_id.clone()),
            _ => return true,
        }
    }
}

/// The time of the next reading, and the number of failures before it.
struct Due {
    at: Instant,
    failures: u32,
}

/// Reads the list, unless another process has read it lately. Returns the time of the next reading.
async fn read_if_free(platforms: &Platforms, platform: &Platform, failures: u32) -> Due {
    let (state, clock) = (&platform.services.state, &platform.services.clock);
    let counter = format!("authorizers/{}", platform.app_id);
    match state.spend(&counter, 1, APART).await {
        Ok(true) => {}
        Ok(false) => return Due { at: clock.now() + EVERY, failures: 0 },
        Err(_) => return Due { at: clock.now() + PAUSE, failures },
    }
    match read(platforms, platform).await {
        Ok(Counts { listed, added, left_out }) => {
            tracing::info!(
                platform = %platform.app_id,
                listed,
                added,
                left_out,
                "read the list of authorizers"
            );
            Due { at: clock.now() + EVERY, failures: 0 }
        }
        Err(error) => {
            let _ = state.refund(&counter).await;
            tracing::warn!(
                platform = %platform.app_id,
                "failed to read the list of authorizers: {error}"
            );
            let pause = PAUSE * 2_u32.pow(failures.min(6));
            Due { at: clock.now() + pause, failures: failures + 1 }
        }
    }
}

/// The result of a reading of the list.
struct Counts {
    listed: u64,
    /// The accounts that the state did not have.
    added: u64,
    /// The accounts that could not be stored.
    left_out: u64,
}

/// Reads the whole list, and stores what the state does not have.
async fn read(platforms: &Platforms, platform: &Platform) -> Result<Counts, Error> {
    let mut counts = Counts { listed: 0, added: 0, left_out: 0 };
    let mut pages = Pages::new(platform, READ_LIMIT);
    while let Some(rows) = pages.next().await? {
        for (app_id, added) in store_all(platform, rows).await {
            counts.listed += 1;
            match added {
                Ok(true) => {
                    counts.added += 1;
                    platforms.0.authorizers.changed(&app_id);
                }
                Ok(false) => {}
                Err(error) if is_of_one(&error) => counts.left_out += 1,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(counts)
}

/// Returns true if the failure is about one account. It must not keep the others from being stored.
fn is_of_one(error: &Error) -> bool {
    matches!(error, Error::State(state::Error::Unreadable(_)))
}

/// Stores rows as [`store`] does, several at a time. Returns the account of each, and its result.
async fn store_all(
    platform: &Platform,
    rows: Vec<ListedAuthorizer>,
) -> Vec<(AppId, Result<bool, Error>)> {
    let store = |row: ListedAuthorizer| async move {
        let added = store(platform, &row).await;
        (row.authorizer_appid, added)
    };
    stream::iter(rows).map(store).buffer_unordered(CONCURRENT_ROWS).collect().await
}

/// Stores a row, unless the state has the account and a refresh token for it. Returns true if it changed
/// the state.
async fn store(platform: &Platform, row: &ListedAuthorizer) -> Result<bool, Error> {
    let state = &platform.services.state;
    let (app_id, value) = (&row.authorizer_appid, row.refresh_token());
    let known = platform.stored(app_id).await?;
    Ok(match (known, value) {
        (Some(known), Some(value)) if known.authorized && known.refresh_token.is_none() => {
            state.replace_refresh_token(&platform.app_id, app_id, None, &value).await?
        }
        (Some(known), _) if known.authorized => false,
        (_, value) => {
            let authorized_at = row.auth_time.0.and_then(|at| u64::try_from(at).ok());
            // A wrong time far ahead would hide every later change.
            let latest = platform.services.clock.unix().saturating_add(3600);
            let authorized_at = authorized_at.unwrap_or_default().min(latest);
            let authorizer =
                platform.new_authorizer(app_id, authorized_at, value, Default::default());
            state.put_authorizer(&authorizer, true).await?
        }
    })
}

/// Returns the refresh token that WeChat has for an account, if it differs from `refused`. First asks about
/// the account alone. If that brings none, searches the list.
///
/// Fails if WeChat cannot be asked, if it states that the account is not authorized, or if the search takes too
/// long.
pub(super) async fn refresh_token(
    platform: &Platform,
    app_id: &AppId,
    refused: Option<&Secret>,
) -> Result<Option<Secret>, Error> {
    let is_other = |value: &Secret| Some(value) != refused;
    let reply = platform.info(app_id).await?;
    let alone = reply.authorization_info.refresh_token().filter(is_other);
    if alone.is_some() {
        return Ok(alone);
    }
    let counter = format!("searches/{}", platform.app_id);
    let hour = Duration::from_secs(3600);
    if !platform.services.state.spend(&counter, MOST_SEARCHES, hour).await? {
        // It is not known whether WeChat has one.
        let cause = "the list of authorizers was searched too often within an hour".to_owned();
        let error = wechat::Error::NotSent { cause };
        return Err(Error::WeChat { path: GetAuthorizerList::PATH, error });
    }
    let mut pages = Pages::new(platform, SEARCH_LIMIT);
    while let Some(mut rows) = pages.next().await? {
        let own = rows.iter().position(|row| row.authorizer_appid == *app_id);
        let own = own.map(|index| rows.swap_remove(index));
        // The same reading serves the others that have none.
        for (_, stored) in store_all(platform, rows).await {
            if let Err(error) = stored
                && !is_of_one(&error)
            {
                return Err(error);
            }
        }
        let found = own.and_then(|row| row.refresh_token()).filter(is_other);
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Reads the list page by page.
struct Pages<'a> {
    platform: &'a Platform,
    read: u32,
    /// The most pages, by the first page's total.
    most: u32,
    offset: u32,
    ended: bool,
    /// The time by which all pages must be read.
    end: Instant,
}

impl<'a> Pages<'a> {
    fn new(platform: &'a Platform, limit: Duration) -> Self {
        let end = platform.services.clock.now() + limit;
        Self { platform, read: 0, most: 1, offset: 0, ended: false, end }
    }

    /// Returns the next rows. `None` after the last ones. Fails at the end of the time.
    async fn next(&mut self) -> Result<Option<Vec<ListedAuthorizer>>, Error> {
        if self.ended || self.read >= self.most {
            return Ok(None);
        }
        let call = GetAuthorizerList {
            component_appid: self.platform.app_id.clone(),
            offset: self.offset,
            count: MOST_AUTHORIZERS,
        };
        if self.end <= self.platform.services.clock.now() {
            return Err(Error::Deadline);
        }
        let deadline = self.platform.background_deadline().min(self.end);
        let reply = self.platform.ask(&call, deadline).await?;
        let Rows(rows) = reply.list;
        self.read += 1;
        self.offset = self.offset.saturating_add(u32::try_from(rows.len()).unwrap_or(u32::MAX));
        let total = reply.total_count.0.and_then(|total| u32::try_from(total).ok());
        if self.read == 1 {
            // Accounts can be added meanwhile. A list without an end stops here.
            self.most = total.unwrap_or_default() / MOST_AUTHORIZERS + 2;
        }
        self.ended = rows.is_empty() || total.is_some_and(|total| self.offset >= total);
        let is_empty = rows.is_empty();
        let rows = rows.into_iter().filter(|row| config::is_app_id(row.authorizer_appid.as_str()));
        Ok((!is_empty).then(|| rows.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        accounts::Services,
        config::{Environment, Settings},
        metrics::Metrics,
        state::temporary,
        util::clock::Clock,
        wechat::Client,
    };

    #[tokio::test]
    async fn pages_end_at_their_limit() {
        let clock = Clock::frozen();
        let file = "[[platforms]]\napp_id = \"wx00000000000000c1\"\nsecret = \"s\"\n\
            token = \"token\"\naes_key = \"abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG\"\n";
        let settings = Settings::parse(file, &Environment::new()).expect("good settings");
        let client = Client::new(&settings.wechat, &clock, Metrics::default()).expect("a client");
        let (_folder, state) = temporary(&clock);
        let services = Services { client, state, clock: clock.clone() };
        let platform = Platform::new(&settings.platforms[0], None, services);
        let mut pages = Pages::new(&platform, SEARCH_LIMIT);
        clock.advance(SEARCH_LIMIT - Duration::from_secs(1));
        let error = pages.next().await.err().expect("there is no ticket");
        assert!(matches!(error, Error::Token { .. }), "a call would be sent: {error:?}");
        clock.advance(Duration::from_secs(1));
        let error = pages.next().await.err().expect("the time is over");
        assert!(matches!(error, Error::Deadline), "{error:?}");
    }
}
