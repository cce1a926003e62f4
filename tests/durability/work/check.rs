//! Compares the acknowledged work with the calls that WeChat received, and with the state afterwards.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use wechat_simulator::{Simulator, journal::Entry};
use wechat_store_gateway::pb::{self, AuditEvent, nearby_service_client::NearbyServiceClient};

use super::{
    Faults,
    load::{ADD_NEARBY, ADD_STORE, Load},
};
use crate::{
    gateway::{Gateway, LONG},
    print_figures,
    watcher::Seen,
};

const TOKEN: &str = "/cgi-bin/stable_token";
/// WeChat refuses a token, before it reads the rest of the call.
const TOKEN_REFUSED: [i64; 3] = [40001, 40014, 42001];
/// WeChat requires this many milliseconds between two calls.
const PACE: u64 = 1_000;
/// The writes that are repeated at the end.
const REPEATED: usize = 1_000;
/// The repeats at once.
const AT_ONCE: usize = 16;

/// The records of a run, to be compared.
pub(super) struct Evidence<'a> {
    pub(super) load: &'a Load,
    pub(super) faults: &'a Faults,
    /// The calls to WeChat.
    pub(super) journal: Vec<Entry>,
    pub(super) log: Vec<AuditEvent>,
    /// The records of the watchers.
    pub(super) seen: Vec<Seen>,
    /// The acknowledged writes that a repeat did not find.
    pub(super) forgotten: Vec<String>,
    /// The calls with a refused token, and for a new one, of a process that had the stored tokens.
    pub(super) refetched: usize,
}

/// The result of a run.
pub(crate) struct Verdict {
    figures: String,
    wrong: Vec<String>,
}

impl Verdict {
    /// Prints the figures, and the numbers of broken promises.
    pub(crate) fn print(&self, name: &str) {
        for line in self.figures.lines() {
            print_figures(&format!("{name}: {line}"));
        }
        if !self.wrong.is_empty() {
            let mut kinds = BTreeMap::<_, usize>::new();
            for what in &self.wrong {
                *kinds.entry(what.split(':').next().unwrap_or_default()).or_default() += 1;
            }
            print_figures(&format!("{name}: wrong: {kinds:?}"));
        }
    }

    /// Fails if a promise was broken.
    pub(crate) fn is_well(&self) {
        let Self { wrong, .. } = self;
        assert!(wrong.is_empty(), "{} of: {:#?}", wrong.len(), &wrong[..wrong.len().min(20)]);
    }
}

impl Evidence<'_> {
    /// Compares everything.
    pub(super) fn weigh(self) -> Verdict {
        let mut wrong = self.load.wrong.lock().expect("no panic").clone();
        let (lost_events, doubled_events) = self.events(&mut wrong);
        let (lost_writes, doubled_writes) = self.writes(&mut wrong);
        let pace = self.pace(&mut wrong);
        let tokens = self.tokens(&mut wrong);
        wrong.extend(self.forgotten.iter().cloned());
        if self.refetched > 0 {
            wrong.push(format!("tokens: {} calls had an old token at the end", self.refetched));
        }
        let pushes = self.load.pushes.lock().expect("no panic");
        let writes = self.load.writes.lock().expect("no panic");
        let done = writes.iter().filter_map(|write| write.done.lock().expect("no panic").clone());
        let written: Vec<_> = done.map(|(_, began, until)| (began, until)).collect();
        let pushed: Vec<_> = pushes.iter().map(|push| (push.began, push.until)).collect();
        let Faults { kills, freezes, cuts, expiries, failovers } = self.faults;
        let figures = format!(
            "{} events and {} writes acknowledged; lost={}, doubled={}; {} of the writes were forgotten\n\
             {kills} kills, {freezes} freezes, {cuts} cuts, {} failovers, {expiries} expiries; {tokens} \
             token calls, {pace} nearby calls too soon\n\
             unavailable at a failover: events {}, writes {}",
            pushed.len(),
            written.len(),
            lost_events + lost_writes,
            doubled_events + doubled_writes,
            self.forgotten.len(),
            failovers.len(),
            unavailable(failovers, &pushed),
            unavailable(failovers, &written),
        );
        if pushed.len() < 100 || written.len() < 50 {
            wrong.push(format!("too little to mean anything: {figures}"));
        }
        Verdict { figures, wrong }
    }

    /// Returns the numbers of lost and of doubled events.
    fn events(&self, wrong: &mut Vec<String>) -> (usize, usize) {
        let mut times = HashMap::<&str, usize>::new();
        for event in &self.log {
            *times.entry(&event.audit_id).or_default() += 1;
        }
        let pushes = self.load.pushes.lock().expect("no panic");
        let mut lost = 0;
        for push in pushes.iter() {
            if !times.contains_key(push.audit_id.to_string().as_str()) {
                lost += 1;
                wrong.push(format!("lost event: {}", push.audit_id));
            }
        }
        let doubled = times.iter().filter(|(_, times)| **times > 1);
        let doubled: Vec<_> =
            doubled.map(|(id, times)| format!("doubled event: {id}, {times}")).collect();
        wrong.extend_from_slice(&doubled);
        let ids: Vec<_> = self.log.iter().map(|event| &event.event_id).collect();
        for (number, seen) in self.seen.iter().enumerate() {
            if let Some(failed) = &seen.failed {
                wrong.push(format!("watcher: that of gateway {number} ended with {failed}"));
            } else if seen.events.iter().ne(ids.iter().copied()) {
                let known: HashSet<_> = seen.events.iter().collect();
                let missed = ids.iter().filter(|id| !known.contains(*id)).count();
                wrong.push(format!(
                    "watcher: that of gateway {number} saw {} of {} events, {missed} missed, or in \
                     another order",
                    seen.events.len(),
                    ids.len()
                ));
            }
        }
        (lost, doubled.len())
    }

    /// Returns the numbers of lost and of doubled writes. A second call counts although WeChat refuses a second
    /// store with the same license.
    fn writes(&self, wrong: &mut Vec<String>) -> (usize, usize) {
        let mut times = HashMap::<(&str, &str), (usize, usize)>::new();
        for call in &self.journal {
            let is_refused = call.errcode.is_some_and(|code| TOKEN_REFUSED.contains(&code));
            if let (ADD_STORE | ADD_NEARBY, false, Some(license_number)) =
                (call.path.as_str(), is_refused, call.body["credential"].as_str())
            {
                let (sent, executed) = times.entry((&call.path, license_number)).or_default();
                *sent += 1;
                *executed += usize::from(call.executed);
            }
        }
        let (mut lost, mut doubled) = (0, 0);
        for write in self.load.writes.lock().expect("no panic").iter() {
            let (path, license_number) = write.request.mark();
            let (sent, executed) = times.get(&(path, license_number)).copied().unwrap_or_default();
            let what = || format!("{path} {license_number} under {}", write.request_id);
            if write.done.lock().expect("no panic").is_some() && executed == 0 {
                lost += 1;
                wrong.push(format!("lost write: {} was not executed", what()));
            }
            if sent > 1 {
                doubled += 1;
                wrong.push(format!("doubled write: {} was sent {sent} times", what()));
            }
        }
        (lost, doubled)
    }

    /// Returns the number of calls that came too soon after the one before.
    fn pace(&self, wrong: &mut Vec<String>) -> usize {
        let is_meant = |call: &&Entry| {
            let is_refused = call.errcode.is_some_and(|code| TOKEN_REFUSED.contains(&code));
            call.path == ADD_NEARBY && !call.app_id.is_empty() && !is_refused
        };
        let times: Vec<_> =
            self.journal.iter().filter(is_meant).map(|call| call.at_unix_ms).collect();
        let between = times.windows(2).map(|pair| pair[1] - pair[0]);
        let early: Vec<_> = between.filter(|between| *between < PACE).collect();
        wrong.extend(early.iter().map(|between| format!("nearby: {between} ms between two calls")));
        early.len()
    }

    /// Returns the number of calls for tokens. Each account needs one at first and one after each expiry. A process that
    /// is interrupted during its call may leave that to another one.
    fn tokens(&self, wrong: &mut Vec<String>) -> usize {
        let mut calls = BTreeMap::<_, usize>::new();
        for call in self.journal.iter().filter(|call| call.path == TOKEN) {
            *calls.entry(&call.app_id).or_default() += 1;
        }
        let most = 1 + self.faults.expiries + self.faults.interruptions();
        for (app_id, calls) in calls.iter().filter(|(_, calls)| **calls > most) {
            wrong.push(format!("tokens: {calls} calls of {app_id}, {:?}", self.faults));
        }
        calls.values().sum()
    }
}

/// Returns the median and the longest time from a failure to the first work that began after it and was acknowledged.
fn unavailable(failures: &[Instant], acknowledged: &[(Instant, Instant)]) -> String {
    let time = |failure: &Instant| {
        let after = acknowledged.iter().filter(|(began, _)| began >= failure);
        after.map(|(_, until)| *until - *failure).min()
    };
    let mut times: Vec<_> = failures.iter().filter_map(time).collect();
    times.sort_unstable();
    match times.as_slice() {
        [] => "unknown".to_owned(),
        [.., worst] => format!("{:.1?} (median), {worst:.1?} (worst)", times[times.len() / 2]),
    }
}

/// Repeats acknowledged writes, and returns those whose answer is another one now. WeChat must get no call.
pub(super) async fn repeat(load: &Load, simulator: &Simulator) -> Vec<String> {
    let writes = load.writes.lock().expect("no panic").clone();
    let mut done = Vec::new();
    for write in writes {
        let answer = write.done.lock().expect("no panic").clone();
        done.extend(answer.map(|(answer, ..)| (write, answer)));
    }
    fastrand::shuffle(&mut done);
    done.truncate(REPEATED);
    let mut forgotten = Vec::new();
    for some in done.chunks(AT_ONCE) {
        let repeats = some.iter().enumerate().map(|(number, (write, answer))| async move {
            let repeated = load.send(number, write.request.clone(), LONG).await;
            (repeated.as_ref().ok() != Some(answer)).then(|| {
                let (path, license_number) = write.request.mark();
                format!("forgotten: {path} {license_number} is {repeated:?} now")
            })
        });
        forgotten.extend(join_all(repeats).await.into_iter().flatten());
    }
    let calls = simulator.take_calls();
    let again = calls.iter().filter(|call| [ADD_STORE, ADD_NEARBY].contains(&call.path.as_str()));
    forgotten.extend(again.map(|call| format!("sent again: {} {}", call.path, call.body)));
    forgotten
}

/// Restarts a gateway, which then has the stored tokens and no others. Returns how many calls it made for other tokens,
/// or with a token that WeChat refused.
pub(super) async fn use_stored_tokens(gateway: &mut Gateway, simulator: &Simulator) -> usize {
    // The last expiry may be unknown until now.
    use_tokens(gateway).await;
    gateway.kill();
    gateway.spawn();
    gateway.returns().await;
    gateway.reports(200, "ok").await;
    simulator.take_calls();
    use_tokens(gateway).await;
    let calls = simulator.take_calls();
    let is_refused = |call: &Entry| call.errcode.is_some_and(|code| TOKEN_REFUSED.contains(&code));
    calls.iter().filter(|call| call.path == TOKEN || is_refused(call)).count()
}

/// Makes a call for each account.
async fn use_tokens(gateway: &Gateway) {
    let request = pb::GetStoreRequest { poi_id: "1".to_owned(), ..Default::default() };
    let status = gateway.stores().get_store(request).await.expect_err("there is no such store");
    assert_eq!(status.code(), tonic::Code::NotFound, "{status:?}");
    let mut nearby = NearbyServiceClient::new(gateway.channel());
    let request = pb::ListNearbyPoisRequest::default();
    nearby.list_nearby_pois(request).await.expect("a page");
}

#[test]
fn unavailability_counts_from_failure_to_work() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let work = [(at(0), at(30)), (at(100), at(500)), (at(150), at(400)), (at(900), at(910))];
    assert_eq!(unavailable(&[at(50), at(600)], &work), "350.0ms (median), 350.0ms (worst)");
}
