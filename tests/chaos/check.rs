//! Checks the promises afterwards, using the simulator's journal and the answers to callers.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::time::sleep;
use tonic::Code;
use wechat_simulator::journal::Entry;
use wechat_store_gateway::pb::{self, WriteState, write_service_client::WriteServiceClient};

use crate::{
    RECOVERED_BY_READING,
    gateway::{LONG, MOMENT},
    print_figures,
    run::{Call, Run, Verdict},
    trouble::{Outage, REFUSAL},
    write::Mark,
};

/// The tolerance after a call's deadline, on a busy machine.
const LATE: u64 = 5_000;
/// Broken connections are noticed within this time, in milliseconds.
const NOTICED: u64 = 2_000;
/// WeChat requires this many milliseconds between two calls.
const PACE: u64 = 1_000;
const ADD_NEARBY: &str = "/wxa/addnearbypoi";
const UPDATE: &str = "/wxa/update_store";
const TOKEN: &str = "/cgi-bin/stable_token";
/// The errors that callers must never get here.
const OURS: &[&str] = &[
    "INTERNAL",
    "INVALID_REQUEST",
    "MALFORMED_REQUEST",
    "METHOD_UNKNOWN",
    "STATE_UNAVAILABLE",
    "TOKEN_BUDGET_SPENT",
    "UNKNOWN_ERRCODE",
    "WECHAT_CALL_MALFORMED",
];

/// Returns the writes that have not finished, by state and method, after all running ones have
/// ended.
pub(crate) async fn left_open(run: &Run) -> BTreeMap<(WriteState, String), usize> {
    let end = Instant::now() + LONG;
    loop {
        let mut left = BTreeMap::new();
        for write in unfinished(run).await {
            *left.entry((write.state(), write.method)).or_default() += 1;
        }
        if left.keys().all(|(state, _)| *state == WriteState::Unknown) || Instant::now() > end {
            return left;
        }
        sleep(10 * MOMENT).await;
    }
}

async fn unfinished(run: &Run) -> Vec<pb::Write> {
    let door = run.doors[0][0].clone();
    let origin = door.origin();
    let mut client = WriteServiceClient::with_origin(door, origin);
    let states = [WriteState::Claimed, WriteState::Sent, WriteState::Unknown].map(Into::into);
    let (mut writes, mut page_token) = (Vec::new(), String::new());
    loop {
        let states = states.to_vec();
        let request = pb::ListWritesRequest { states, page_token, ..Default::default() };
        let page = client.list_writes(request).await.expect("a page").into_inner();
        writes.extend(page.writes);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return writes;
        }
    }
}

/// The calls that the simulator executed.
#[derive(Debug, Default)]
struct Executed {
    /// The times at which each write was executed.
    at: HashMap<Mark, Vec<u64>>,
    /// The writes that a fault refused definitely.
    refused: HashSet<Mark>,
}

/// Prints the results of the run, and fails if a promise was broken.
pub(crate) fn all_is_well(
    name: &str,
    run: &Run,
    journal: &[Entry],
    storms: usize,
    left: &BTreeMap<(WriteState, String), usize>,
    elapsed: Duration,
) {
    let mut wrong = run.wrong.lock().expect("no panic").clone();
    let before = wrong.len();
    let executed = executed(journal, &mut wrong);
    let interleaved = wrong.len() - before;
    let check_pace = interleaved + check_pace(journal, &mut wrong);
    let (doubled, lost) = writes(run, &executed, &mut wrong);
    let (statuses, latest) = calls(run, &mut wrong);
    let outages = run.outages.lock().expect("no panic").len();
    let tokens = tokens(journal, storms, outages, &mut wrong);
    for ((state, method), count) in left {
        if *state != WriteState::Unknown || RECOVERED_BY_READING.contains(&method.as_str()) {
            wrong.push(format!("stays open: {count} of {method} are {}", state.as_str_name()));
        }
    }

    let mut faults = BTreeMap::<_, usize>::new();
    for call in journal {
        if let Some(fault) = &call.fault {
            let executed = if call.executed { ", executed" } else { "" };
            *faults.entry(format!("{fault}{executed}")).or_default() += 1;
        }
    }
    let writes = run.writes.lock().expect("no panic").len();
    let executions: usize = executed.at.values().map(Vec::len).sum();
    let unknown: BTreeMap<_, _> = left.iter().map(|((_, method), count)| (method, count)).collect();
    print_figures(&format!(
        "{name}: {} calls of {writes} writes and reads: {statuses:?}, {latest} \
         ms after the deadline at the latest\n{name}: {} calls to WeChat, \
         {executions} writes executed; faults: {faults:?}\n{name}: {outages} kills, {storms} times \
         all tokens invalid, {tokens} token calls; doubled={doubled}, lost={lost}, queue \
         violations={check_pace}, unknown: {unknown:?}, {elapsed:.0?}",
        run.calls.lock().expect("no panic").len(),
        journal.len(),
    ));
    let mut kinds = BTreeMap::<_, usize>::new();
    for what in &wrong {
        *kinds.entry(what.split(':').next().unwrap_or_default()).or_default() += 1;
    }
    if !kinds.is_empty() {
        // `scripts/broken` parses this line.
        print_figures(&format!("{name}: wrong: {kinds:?}"));
    }
    assert!(writes > 200 && outages > 3 && faults.len() > 8, "too little to mean anything");
    assert!(wrong.is_empty(), "{} of: {:#?}", wrong.len(), &wrong[..wrong.len().min(20)]);
}

/// Returns a field that is text or a number.
fn text(body: &Value, field: &str) -> String {
    match &body[field] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Returns the write that a call belongs to. For updates of stores, more than the call is needed.
fn mark(call: &Entry) -> Option<Mark> {
    let body = &call.body;
    let field = |path, name| Some((path, text(body, name)));
    match call.path.as_str() {
        "/wxa/add_store" => field("/wxa/add_store", "credential"),
        "/wxa/create_map_poi" => field("/wxa/create_map_poi", "name"),
        "/wxa/del_store" => field("/wxa/del_store", "poi_id"),
        "/wxa/delnearbypoi" => field("/wxa/delnearbypoi", "poi_id"),
        "/card/storewxa/set" => field("/card/storewxa/set", "card_id"),
        "/wxa/modify_merchant" => field("/wxa/modify_merchant", "intro"),
        "/cgi-bin/media/uploadimg" => field("/cgi-bin/media/uploadimg", "size"),
        ADD_NEARBY if text(body, "poi_id").is_empty() => field(ADD_NEARBY, "credential"),
        ADD_NEARBY => field(ADD_NEARBY, "address"),
        "/wxa/setnearbypoishowstatus" => {
            let value = format!("{} {}", text(body, "poi_id"), text(body, "status"));
            Some(("/wxa/setnearbypoishowstatus", value))
        }
        _ => None,
    }
}

/// Processes the journal. An update changes one field of a store and carries the others from the
/// previous update. Otherwise the two updates did not wait for each other.
fn executed(journal: &[Entry], wrong: &mut Vec<String>) -> Executed {
    let mut executed = Executed::default();
    let mut stores = HashMap::<String, (String, String)>::new();
    for call in journal {
        let injected = call.fault.is_some() && call.errcode == Some(REFUSAL);
        if call.path == UPDATE {
            let poi_id = text(&call.body, "poi_id");
            let new = (text(&call.body, "contract_phone"), text(&call.body, "hour"));
            let at_first = || ("020-1".to_owned(), "10:00-21:30".to_owned());
            let shown = stores.entry(poi_id.clone()).or_insert_with(at_first);
            let mark = |value: &str| (UPDATE, format!("{poi_id} {value}"));
            let value = match (new.0 != shown.0, new.1 != shown.1) {
                (true, true) if call.executed => {
                    wrong.push(format!(
                        "write queue: updates of store {poi_id} interleave at {}",
                        call.seq
                    ));
                    &new.0
                }
                (false, false) if call.executed => {
                    wrong.push(format!("executed twice: {UPDATE} {poi_id} {new:?}"));
                    continue;
                }
                (true, _) => &new.0,
                (_, _) => &new.1,
            };
            if call.executed {
                executed.at.entry(mark(value)).or_default().push(call.at_unix_ms);
                *shown = new;
            } else if injected {
                executed.refused.insert(mark(value));
            }
            continue;
        }
        let Some(mark) = mark(call) else { continue };
        if call.executed {
            executed.at.entry(mark).or_default().push(call.at_unix_ms);
        } else if injected {
            executed.refused.insert(mark);
        }
    }
    executed
}

/// Counts calls that did not wait for the previous one.
fn check_pace(journal: &[Entry], wrong: &mut Vec<String>) -> usize {
    let before = wrong.len();
    let mut last = HashMap::<&str, &Entry>::new();
    for call in journal.iter().filter(|call| call.path == ADD_NEARBY) {
        // WeChat refuses an invalid token before it examines anything else. If a fault came first,
        // the account of the call is unknown.
        if call.app_id.is_empty() || matches!(call.errcode, Some(40001 | 40014 | 42001)) {
            continue;
        }
        let Some(previous) = last.insert(&call.app_id, call) else { continue };
        let between = call.at_unix_ms - previous.at_unix_ms;
        // The simulator reports this to a caller that arrives before the previous one has its
        // answer.
        let busy = call.errcode == Some(-1) && call.fault.is_none();
        if busy || between < PACE {
            wrong.push(format!(
                "write queue: {between} ms between a call of {} and the next, answered {:?}; the first had \
                 {:?} and {:?}",
                call.app_id, call.errcode, previous.fault, previous.errcode
            ));
        }
    }
    wrong.len() - before
}

/// Compares the answers about each write with its executions. Returns the numbers of doubled and of
/// lost writes.
fn writes(run: &Run, executed: &Executed, wrong: &mut Vec<String>) -> (usize, usize) {
    let (mut doubled, mut lost) = (0, 0);
    let mut known = HashSet::new();
    for write in run.writes.lock().expect("no panic").iter() {
        let request = &write.request;
        let mark = request.mark().expect("only such are written down");
        let what = format!("{} {} ({})", request.method(), write.request_id, mark.1);
        let times = executed.at.get(&mark).map_or(&[][..], |times| times);
        let answers = write.answers.lock().expect("no panic");
        let mut dones = answers.iter().filter_map(|answer| match &answer.verdict {
            Verdict::Done(response) => Some((answer.until, response)),
            _ => None,
        });
        if let Some((until, first)) = dones.next() {
            if dones.any(|(_, response)| response != first) {
                wrong.push(format!("two answers: {what} was answered OK in two ways"));
            }
            if times.is_empty() {
                lost += 1;
                wrong.push(format!("answered but not executed: {what}"));
            }
            if request.is_unique() && times.iter().any(|time| *time > until) {
                doubled += 1;
                wrong.push(format!("executed twice: {what} again after its answer"));
            }
        }
        if request.is_once() && times.len() > 1 {
            doubled += 1;
            wrong
                .push(format!("executed twice: {what} at {times:?}; the answers were {answers:?}"));
        }
        for answer in answers.iter().filter(|_| request.is_once()) {
            let Verdict::Refused(reason) = &answer.verdict else { continue };
            // The added object was no longer in review during recovery, and here no event reports
            // it. Only WeChat's own check for duplicates is left.
            if reason == "LICENSE_NUMBER_TAKEN" {
                continue;
            }
            let before = times.iter().any(|time| *time < answer.from);
            let never = request.is_welcome() && !executed.refused.contains(&mark);
            if before || never && !times.is_empty() {
                wrong.push(format!("refused but executed: {what} got {reason}"));
            }
        }
        known.insert(mark);
    }
    // A call that belongs to no write was sent under the request id of another one.
    let foreign = executed.at.keys().filter(|mark| !known.contains(*mark));
    wrong.extend(foreign.map(|mark| format!("executed but never to be: {mark:?}")));
    (doubled, lost)
}

/// Checks how every call ended. Returns the number of calls per result, and the longest delay.
fn calls(run: &Run, wrong: &mut Vec<String>) -> (BTreeMap<String, usize>, u64) {
    let outages = run.outages.lock().expect("no panic");
    let (mut statuses, mut latest) = (BTreeMap::<_, usize>::new(), 0);
    let calls = run.calls.lock().expect("no panic");
    for call in calls.iter() {
        let Call { method, from, until, time_left, status, .. } = call;
        let met = |outage: &Outage| {
            outage.gateway == call.gateway
                && outage.from <= *until
                && *from <= outage.until + NOTICED
        };
        let was_killed = outages.iter().any(met);
        let time_left = u64::try_from(time_left.as_millis()).expect("short");
        // A gateway that is starting cannot know how long a caller has already waited.
        if !was_killed {
            latest = latest.max((until - from).saturating_sub(time_left));
        }
        if until - from > time_left + LATE {
            wrong.push(format!("too late: {method} after {} ms of {time_left}", until - from));
        }
        let ended = match status {
            None => "left".to_owned(),
            Some((Code::Ok, _)) => "OK".to_owned(),
            Some((code, reason)) if !reason.is_empty() => {
                if OURS.contains(&reason.as_str()) {
                    wrong.push(format!("bad status: {method} {code:?} {reason}"));
                }
                reason.clone()
            }
            Some((code, _)) if was_killed => format!("killed ({code:?})"),
            Some((code, _)) => {
                wrong.push(format!("bad status: {method} {code:?} without a reason"));
                format!("{code:?}")
            }
        };
        *statuses.entry(ended).or_default() += 1;
    }
    (statuses, latest)
}

/// Counts calls for tokens. Whenever all tokens become invalid, each account needs another one, and
/// a process that is killed during its call may leave that to another process.
fn tokens(journal: &[Entry], storms: usize, kills: usize, wrong: &mut Vec<String>) -> usize {
    let mut got = BTreeMap::<_, usize>::new();
    let asked = journal.iter().filter(|call| call.path == TOKEN);
    let count = asked.clone().count();
    for call in asked.filter(|call| call.fault.is_none()) {
        *got.entry(&call.app_id).or_default() += 1;
    }
    for (app_id, got) in got {
        if got > 1 + storms + kills {
            wrong.push(format!("tokens: {app_id} asked {got} times in {storms} storms"));
        }
    }
    count
}
