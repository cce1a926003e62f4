//! Access tokens: two independent endpoints, and the refusal of old tokens.
//!
//! `/cgi-bin/token` makes a new token at every call, and the previous one works for five more
//! minutes. `/cgi-bin/stable_token` returns the same token as long as it is valid. A refresh of one
//! never affects the other. All times are the injected clock's.
//!
//! The tokens of third-party platforms are kept here, too. `component` hands them out.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    endpoint::{Bearer, Call, Endpoint},
    error::Refusal,
    mint::Mint,
    world::World,
};

/// A token is valid for this time.
pub(super) const LIFE: Duration = Duration::from_secs(7200);
/// The previous token still works for this time, and the stable one is renewed this early.
pub(super) const GRACE: Duration = Duration::from_secs(300);
/// A forced refresh within this time of the last one refreshes nothing.
const FORCE_PAUSE: Duration = Duration::from_secs(30);
/// Forced refreshes a day.
const FORCED_A_DAY: u64 = 20;
/// Calls a day to the stable endpoint.
const STABLE_A_DAY: u64 = 500_000;
/// Calls a minute to the stable endpoint.
const STABLE_A_MINUTE: u64 = 10_000;
/// WeChat asks clients to have room for 512 characters.
const LENGTH: usize = 136;

/// The endpoints of this family.
pub(super) const ROUTES: &[Endpoint] = &[
    Endpoint::get("/cgi-bin/token", Bearer::NoToken, token),
    Endpoint::post("/cgi-bin/stable_token", Bearer::NoToken, stable_token),
];

/// `GET /cgi-bin/token` — 获取接口调用凭据
fn token(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let field = |name: &str| call.query.get(name).map_or("", String::as_str);
    let app_id = check_credentials(world, field("grant_type"), field("appid"), field("secret"))?;
    let moment = world.moment();
    let limit = world.rules.classic_tokens_a_day;
    world.tokens.classic(&mut world.mint, &app_id, moment, limit)
}

/// `POST /cgi-bin/stable_token` — 获取稳定版接口调用凭据
fn stable_token(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let field = |name| call.optional_text(name);
    let app_id = check_credentials(world, field("grant_type")?, field("appid")?, field("secret")?)?;
    let force = match call.fields.get("force_refresh") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(force)) => *force,
        Some(_) => return Err(Refusal::new(47001)),
    };
    let moment = world.moment();
    world.tokens.stable(&mut world.mint, &app_id, moment, force)
}

fn check_credentials(
    world: &World,
    grant: &str,
    app_id: &str,
    secret: &str,
) -> Result<String, Refusal> {
    if grant != "client_credential" {
        return Err(Refusal::new(40002));
    }
    if app_id.is_empty() {
        return Err(Refusal::new(41002));
    }
    if secret.is_empty() {
        return Err(Refusal::new(41004));
    }
    let account = world.accounts.get(app_id).ok_or(Refusal::new(40013))?;
    if account.secret == secret { Ok(app_id.to_owned()) } else { Err(Refusal::new(40125)) }
}

/// A point in time, in the form that the counters need.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) now: Instant,
    /// Days since 1970 in China, where WeChat resets its counters.
    pub(super) day: u64,
}

/// The holder of a token: an account or a component, or a component for an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    /// The account, or the component.
    pub(super) app_id: String,
    /// The authorization by which a component acts for the account.
    pub(super) via: Option<Via>,
}

/// A component, and the authorization that an account gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Via {
    pub(super) component: String,
    /// A later authorization of the same account has another number.
    pub(super) authorization: u64,
}

/// Every token, and the number of token calls of each account.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    grants: HashMap<String, Grant>,
    classic: HashMap<String, String>,
    stable: HashMap<String, String>,
    usage: HashMap<String, Usage>,
}

#[derive(Debug)]
struct Grant {
    holder: Holder,
    expires: Instant,
    /// A replaced token is refused with 40001 after its grace period. One that expired is refused
    /// with 42001.
    replaced: bool,
}

/// An account's token calls of today.
#[derive(Debug, Default)]
struct Usage {
    day: u64,
    classic: u64,
    stable: u64,
    forced: u64,
    /// Tokens that a component received for the account.
    authorizer: u64,
    last_forced: Option<Instant>,
    minute: Option<(Instant, u64)>,
}

impl Tokens {
    /// Returns the holder of this token. Fails if the token is not valid.
    pub(super) fn holder(&self, token: &str, now: Instant) -> Result<&Holder, Refusal> {
        match self.grants.get(token) {
            Some(grant) if now < grant.expires => Ok(&grant.holder),
            Some(grant) if !grant.replaced => Err(Refusal::new(42001)),
            _ => Err(Refusal::new(40001)),
        }
    }

    /// Returns the account for which a token was made, whether it still works or not.
    pub(super) fn made_for(&self, token: &str) -> Option<&str> {
        self.grants.get(token).map(|grant| grant.holder.app_id.as_str())
    }

    /// Makes every token invalid, as if another process had refreshed all of them.
    pub(super) fn revoke(&mut self) {
        self.grants.clear();
        self.classic.clear();
        self.stable.clear();
    }

    /// Makes a token that a component receives: its own, or one for an account. The caller decides how
    /// long the previous one works.
    pub(super) fn issue(&mut self, mint: &mut Mint, holder: Holder, moment: Moment) -> String {
        if holder.via.is_some() {
            self.usage(&holder.app_id, moment.day).authorizer += 1;
        }
        self.grant(mint, holder, moment.now)
    }

    /// Ends a token at this time, because another one replaced it.
    pub(super) fn replace(&mut self, token: &str, expires: Instant) {
        if let Some(grant) = self.grants.get_mut(token) {
            grant.replace(expires);
        }
    }

    /// Ends a token now, as if its time had passed.
    pub(super) fn expire(&mut self, token: &str, now: Instant) {
        if let Some(grant) = self.grants.get_mut(token) {
            (grant.expires, grant.replaced) = (now, false);
        }
    }

    /// Returns the number of today's calls of each account, and of its valid own tokens.
    pub(super) fn counts(&self, moment: Moment) -> Value {
        let mut valid = HashMap::<&str, u64>::new();
        let current = self.grants.values().filter(|grant| moment.now < grant.expires);
        for holder in current.map(|grant| &grant.holder).filter(|holder| holder.via.is_none()) {
            *valid.entry(&holder.app_id).or_default() += 1;
        }
        let count = |(app_id, usage): (&String, &Usage)| {
            let today = |count| if usage.day == moment.day { count } else { 0 };
            let counts = json!({
                "token": today(usage.classic),
                "stable_token": today(usage.stable),
                "forced": today(usage.forced),
                "authorizer_token": today(usage.authorizer),
                "valid": valid.get(app_id.as_str()).copied().unwrap_or(0),
            });
            (app_id.clone(), counts)
        };
        self.usage.iter().map(count).collect()
    }

    fn classic(
        &mut self,
        mint: &mut Mint,
        app_id: &str,
        moment: Moment,
        limit: u64,
    ) -> Result<Value, Refusal> {
        let usage = self.usage(app_id, moment.day);
        if usage.classic >= limit {
            return Err(Refusal::new(45009));
        }
        usage.classic += 1;
        if let Some(previous) = self.classic.get(app_id).and_then(|old| self.grants.get_mut(old)) {
            previous.replace(moment.now + GRACE);
        }
        let token = self.grant(mint, Holder::own(app_id), moment.now);
        self.classic.insert(app_id.to_owned(), token.clone());
        Ok(json!({ "access_token": token, "expires_in": LIFE.as_secs() }))
    }

    fn stable(
        &mut self,
        mint: &mut Mint,
        app_id: &str,
        moment: Moment,
        force: bool,
    ) -> Result<Value, Refusal> {
        let now = moment.now;
        let force = self.usage(app_id, moment.day).count_stable(now, force)?;
        let current = self.stable.get(app_id);
        let left = current
            .and_then(|token| self.grants.get(token))
            .map_or(Duration::ZERO, |grant| grant.expires.saturating_duration_since(now));
        if let Some(token) = current
            && !force
            && left > GRACE
        {
            return Ok(json!({ "access_token": token, "expires_in": left.as_secs() }));
        }
        if let Some(previous) = current.and_then(|old| self.grants.get_mut(old)) {
            // If the token was renewed before its end, the old one stays valid until that end.
            // After a forced refresh the old one is invalid.
            previous.replace(if force { now } else { previous.expires });
        }
        let token = self.grant(mint, Holder::own(app_id), now);
        self.stable.insert(app_id.to_owned(), token.clone());
        Ok(json!({ "access_token": token, "expires_in": LIFE.as_secs() }))
    }

    fn grant(&mut self, mint: &mut Mint, holder: Holder, now: Instant) -> String {
        let token = mint.text("token", LENGTH);
        let grant = Grant { holder, expires: now + LIFE, replaced: false };
        self.grants.insert(token.clone(), grant);
        token
    }

    fn usage(&mut self, app_id: &str, day: u64) -> &mut Usage {
        let usage = self.usage.entry(app_id.to_owned()).or_default();
        if usage.day != day {
            *usage = Usage { day, last_forced: usage.last_forced, ..Usage::default() };
        }
        usage
    }
}

impl Holder {
    /// Returns the holder of an account's or a component's own token.
    pub(super) fn own(app_id: &str) -> Self {
        Self { app_id: app_id.to_owned(), via: None }
    }
}

impl Grant {
    fn replace(&mut self, expires: Instant) {
        self.expires = self.expires.min(expires);
        self.replaced = true;
    }
}

impl Usage {
    /// Counts a call to the stable endpoint. Returns whether it forces a refresh.
    fn count_stable(&mut self, now: Instant, force: bool) -> Result<bool, Refusal> {
        let (since, calls) = self.minute.unwrap_or((now, 0));
        let fresh = now.saturating_duration_since(since) >= Duration::from_secs(60);
        let (since, calls) = if fresh { (now, 0) } else { (since, calls) };
        if calls >= STABLE_A_MINUTE {
            return Err(Refusal::new(45011));
        }
        let recent = self.last_forced.is_some_and(|last| now < last + FORCE_PAUSE);
        let force = force && !recent;
        if self.stable >= STABLE_A_DAY || force && self.forced >= FORCED_A_DAY {
            return Err(Refusal::new(45009));
        }
        self.minute = Some((since, calls + 1));
        self.stable += 1;
        if force {
            self.forced += 1;
            self.last_forced = Some(now);
        }
        Ok(force)
    }
}

#[cfg(test)]
mod tests {
    use wechat_clock::Clock;

    use super::*;

    struct Desk {
        clock: Clock,
        mint: Mint,
        tokens: Tokens,
    }

    impl Desk {
        fn new() -> Self {
            Self { clock: Clock::frozen(), mint: Mint::new(1), tokens: Tokens::default() }
        }

        fn moment(&self) -> Moment {
            Moment { now: self.clock.now(), day: self.clock.unix() / 86_400 }
        }

        fn wait(&self, seconds: u64) {
            self.clock.advance(Duration::from_secs(seconds));
        }

        fn classic(&mut self) -> String {
            let moment = self.moment();
            value(self.tokens.classic(&mut self.mint, "wx1", moment, 2000))
        }

        fn stable(&mut self, force: bool) -> Result<Value, Refusal> {
            let moment = self.moment();
            self.tokens.stable(&mut self.mint, "wx1", moment, force)
        }

        fn check(&self, token: &str) -> Result<&str, i64> {
            let holder = self.tokens.holder(token, self.clock.now());
            holder.map(|holder| holder.app_id.as_str()).map_err(|refusal| refusal.errcode)
        }
    }

    fn value(answer: Result<Value, Refusal>) -> String {
        answer.expect("a token")["access_token"].as_str().expect("a text").to_owned()
    }

    #[test]
    fn replaced_classic_token_works_five_more_minutes() {
        let mut desk = Desk::new();
        let first = desk.classic();
        assert!(first.len() >= 100);
        let second = desk.classic();
        assert_ne!(first, second);
        desk.wait(299);
        assert_eq!(desk.check(&first), Ok("wx1"));
        desk.wait(1);
        assert_eq!(desk.check(&first), Err(40001));
        desk.wait(7200);
        assert_eq!(desk.check(&second), Err(42001));
    }

    #[test]
    fn stable_token_renews_five_minutes_early() {
        let mut desk = Desk::new();
        let classic = desk.classic();
        let first = value(desk.stable(false));
        desk.wait(6899);
        let again = desk.stable(false);
        assert_eq!(again, Ok(json!({ "access_token": first, "expires_in": 301 })));
        desk.wait(1);
        let second = value(desk.stable(false));
        assert_ne!(first, second);
        assert_eq!(desk.check(&first), Ok("wx1"));
        assert_eq!(desk.check(&classic), Ok("wx1"), "the two endpoints are isolated");
        desk.wait(300);
        assert_eq!(desk.check(&first), Err(40001));
        assert_eq!(desk.check(&second), Ok("wx1"));
    }

    #[test]
    fn forced_refresh_is_immediate_but_limited() {
        let mut desk = Desk::new();
        let first = value(desk.stable(false));
        let second = value(desk.stable(true));
        assert_eq!(desk.check(&first), Err(40001));
        desk.wait(29);
        assert_eq!(value(desk.stable(true)), second);
        let mut moment = desk.moment();
        for forced in 1..=20 {
            moment.now += FORCE_PAUSE;
            let answer = desk.tokens.stable(&mut desk.mint, "wx1", moment, true);
            assert_eq!(answer.is_ok(), forced < 20, "{forced}");
        }
    }
}
