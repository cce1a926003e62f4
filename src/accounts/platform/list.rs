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
            platform.exchange(&row.app_id, code, None).await;
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
    let mut pages = Pages::new(platform);
    while let Some(rows) = pages.next().await? {
        let stored = stream::iter(rows)
            .map(|row| async move {
                let added = store(platform, &row).await?;
                if added {
                    platforms.0.authorizers.changed(&row.authorizer_appid);
                }
                Ok::<_, Error>(added)
            })
            .buffer_unordered(CONCURRENT_ROWS)
            .collect::<Vec<_>>()
            .await;
        for added in stored {
            counts.listed += 1;
            match added {
                Ok(added) => counts.added += u64::from(added),
                // One account must not keep the others from being stored.
                Err(Error::State(state::Error::Unreadable(_))) => counts.left_out += 1,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(counts)
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
/// Fails if WeChat cannot be asked, or if it states that the account is not authorized.
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
    let (mut pages, mut found) = (Pages::new(platform), None);
    while let Some(rows) = pages.next().await? {
        for row in rows {
            if row.authorizer_appid == *app_id {
                found = row.refresh_token().filter(is_other);
            } else {
                // The same reading serves the others that have none.
                store(platform, &row).await?;
            }
        }
        if found.is_some() {
            break;
        }
    }
    Ok(found)
}

/// Reads the list page by page.
struct Pages<'a> {
    platform: &'a Platform,
    read: u32,
    /// The most pages, by the first page's total.
    most: u32,
    offset: u32,
    ended: bool,
}

impl<'a> Pages<'a> {
    fn new(platform: &'a Platform) -> Self {
        Self { platform, read: 0, most: 1, offset: 0, ended: false }
    }

    /// Returns the next rows. `None` after the last ones.
    async fn next(&mut self) -> Result<Option<Vec<ListedAuthorizer>>, Error> {
        if self.ended || self.read >= self.most {
            return Ok(None);
        }
        let call = GetAuthorizerList {
            component_appid: self.platform.app_id.clone(),
            offset: self.offset,
            count: MOST_AUTHORIZERS,
        };
        let reply = self.platform.ask(&call, self.platform.background_deadline()).await?;
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
