//! The quota of an account (接口调用额度), which an operator can read and reset.

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
    if !super::world::endpoints().any(|endpoint| endpoint.path == path) {
        return Err(Refusal::new(40097));
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
    let day = world.moment().day;
    let quota = &mut world.tenant(&call.app_id)?.quota;
    quota.begin(day);
    if quota.clears >= CLEARS_A_MONTH {
        return Err(Refusal::new(48006));
    }
    quota.clears += 1;
    quota.used.clear();
    Ok(done())
}
