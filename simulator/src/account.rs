//! The quotas of an account (接口调用额度), which an operator can read and clear.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{
    endpoint::{Bearer, Call, Endpoint, done, done_with},
    error::Refusal,
    world::World,
};

/// The default number of calls a day to each API.
const DAILY_LIMIT: u64 = 100_000;
/// The counters can be cleared this often in a month.
const CLEARS_A_MONTH: u64 = 10;
const DAYS_A_MONTH: u64 = 30;

/// The endpoints of this family.
pub(super) const ROUTES: &[Endpoint] = &[
    Endpoint::post("/cgi-bin/openapi/quota/get", Bearer::Anyone, quota),
    Endpoint::post("/cgi-bin/clear_quota", Bearer::Anyone, clear_quota),
    Endpoint::post("/cgi-bin/clear_quota/v2", Bearer::NoToken, clear_quota_by_secret),
];

/// The used part of an account's quotas.
#[derive(Debug, Default)]
pub(super) struct Quota {
    limits: HashMap<String, u64>,
    used: HashMap<String, u64>,
    day: u64,
    clears: u64,
}

impl Quota {
    /// Counts a call. Fails if the day's quota is used up.
    pub(super) fn spend(&mut self, path: &str, day: u64) -> Result<(), Refusal> {
        self.begin(day);
        let limit = self.limit(path);
        let used = self.used.entry(path.to_owned()).or_default();
        if *used >= limit {
            return Err(Refusal::new(45009));
        }
        *used += 1;
        Ok(())
    }

    /// Sets the daily limit of one API.
    pub(super) fn set_limit(&mut self, path: &str, limit: u64) {
        self.limits.insert(path.to_owned(), limit);
    }

    fn limit(&self, path: &str) -> u64 {
        self.limits.get(path).copied().unwrap_or(DAILY_LIMIT)
    }

    fn begin(&mut self, day: u64) {
        if self.day != day {
            if self.day / DAYS_A_MONTH != day / DAYS_A_MONTH {
                self.clears = 0;
            }
            self.day = day;
            self.used.clear();
        }
    }
}

/// `POST /cgi-bin/openapi/quota/get` — 查询API调用额度
fn quota(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let path = call.text("cgi_path")?;
    let day = world.moment().day;
    // The page says that a path without its first slash is refused with 76003.
    if !path.starts_with('/') {
        return Err(Refusal::new(76003));
    }
    let endpoint = super::world::endpoints().find(|endpoint| endpoint.path == path);
    match endpoint.ok_or(Refusal::new(76021))?.bearer {
        // Our choice: these calls are counted elsewhere, so the answer would be wrong.
        Bearer::Component | Bearer::NoToken => return Err(Refusal::new(76022)),
        Bearer::Anyone | Bearer::MiniProgram | Bearer::Official => {}
    }
    let quota = &mut world.tenant(&call.app_id)?.quota;
    quota.begin(day);
    let (limit, used) = (quota.limit(path), quota.used.get(path).copied().unwrap_or(0));
    let counts = json!({
        "daily_limit": limit, "used": used, "remain": limit.saturating_sub(used),
    });
    Ok(done_with("quota", counts))
}

/// `POST /cgi-bin/clear_quota` — 重置API调用次数
///
/// Clears all counters of the account that owns the token. It works ten times a month.
fn clear_quota(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    if call.text("appid")? != call.app_id {
        return Err(Refusal::new(40013));
    }
    clear(world, &call.app_id)
}

/// `POST /cgi-bin/clear_quota/v2` — 使用AppSecret重置API调用次数
///
/// Does the same without a token. The document names no refusal of a wrong secret. Ours is that of the
/// token endpoints.
fn clear_quota_by_secret(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let (app_id, secret) = (call.optional_text("appid")?, call.optional_text("appsecret")?);
    if app_id.is_empty() {
        return Err(Refusal::new(41002));
    }
    if secret.is_empty() {
        return Err(Refusal::new(41004));
    }
    let account = world.accounts.get(app_id).ok_or(Refusal::new(40013))?;
    if account.secret != secret {
        return Err(Refusal::new(40125));
    }
    clear(world, app_id)
}

/// Clears all counters of an account, except those of its tokens.
fn clear(world: &mut World, app_id: &str) -> Result<Value, Refusal> {
    let day = world.moment().day;
    let quota = &mut world.tenant(app_id)?.quota;
    quota.begin(day);
    if quota.clears >= CLEARS_A_MONTH {
        return Err(Refusal::new(48006));
    }
    quota.clears += 1;
    quota.used.clear();
    Ok(done())
}
