//! Copies of a state at another place. Every case of the common suite is copied from one backend to the other and back,
//! and must look the same there.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::sync::Notify;
use wechat_store_gateway::{
    config::{RedisSettings, StateUrl},
    pb::{AuditState, SubmissionKind},
    state::{
        Acquired, Appended, Authorizer, Begun, Error, Event, EventQuery, NewEvent, NewSubmission,
        NewWrite, Sent, State, SubmissionQuery, WriteQuery, WriteState,
        redis::Redis,
        sqlite::Sqlite,
        transfer::{self, Copied, Kind, Observer, Place},
    },
    testing::{Clock, Scope},
};

use crate::{
    damage::{Damage, damage_redis, loosen},
    redis::{Shared, redis, try_open},
    servers::RedisServer,
    state::{
        Backend, about, all_events, app, append, begin, claim, conformance, event, find,
        find_write, finished, remember, secret, submission, write,
    },
    state_platforms::{authorizer, platform},
    state_sqlite::{File, sqlite},
    support::within,
};

const MINUTE: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(50);

mod from_sqlite {
    use super::*;

    conformance!(moved);

    async fn moved() -> Moved<File> {
        Moved(sqlite().await)
    }
}

mod from_redis {
    use super::*;

    conformance!(moved);

    async fn moved() -> Moved<Shared> {
        Moved(redis().await)
    }
}

/// A backend whose state is copied to the other backend and back after each case.
struct Moved<B>(B);

/// A backend that can be closed.
trait Close: Backend {
    /// Closes the state and returns its place.
    async fn close(&mut self) -> Place;
}

impl Close for File {
    async fn close(&mut self) -> Place {
        self.state = None;
        at(&format!("sqlite:{}", self.path().display()))
    }
}

impl Close for Shared {
    async fn close(&mut self) -> Place {
        self.state = None;
        forget_processes(&self.server).await;
        at(&self.server.url())
    }
}

impl<B: Close> Backend for Moved<B> {
    fn state(&self) -> Arc<dyn State> {
        self.0.state()
    }

    async fn pass(&self, time: Duration) {
        self.0.pass(time).await;
    }

    async fn pass_for_writes(&self, time: Duration) {
        self.0.pass_for_writes(time).await;
    }

    async fn reopen(&mut self) {
        self.0.reopen().await;
    }

    async fn after(mut self) {
        let before = described(&self.0.state()).await;
        let first = self.0.close().await;
        let places = Places::new().await;
        let order = match first.url {
            StateUrl::Sqlite(_) => [places.redis(), places.file("back.db")],
            StateUrl::Redis(_) => [places.file("there.db"), places.redis()],
        };
        let mut from = first;
        for to in order {
            let copied = move_to(&from, &to).await;
            assert_eq!((copied.damaged, copied.resumed), (0, false), "{copied:?}");
            let state = open(&to).await;
            assert_eq!(described(&state).await, before, "{from} to {to}");
            drop(state);
            forget_processes(&places.server).await;
            from = to;
        }
    }
}

/// An empty Redis and an empty folder.
struct Places {
    server: RedisServer,
    folder: TempDir,
}

impl Places {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { server: RedisServer::start(false).await, folder }
    }

    fn redis(&self) -> Place {
        at(&self.server.url())
    }

    fn file(&self, name: &str) -> Place {
        at(&format!("sqlite:{}", self.folder.path().join(name).display()))
    }
}

/// Lets the last minute pass for the processes that a Redis has seen.
async fn forget_processes(server: &RedisServer) {
    let script = "for _, name in ipairs(redis.call('HKEYS', '{wechat-store-gateway}:guard')) do \
                  if name:find('^at:') then redis.call('HDEL', '{wechat-store-gateway}:guard', name) end end \
                  return 'forgotten'";
    assert!(server.command(&format!("EVAL \"{script}\" 0")).await.contains("forgotten"));
}

/// Returns the place with a URL.
fn at(url: &str) -> Place {
    let url = StateUrl::parse(url).expect("a URL");
    Place { url, redis: RedisSettings::default() }
}

async fn move_to(from: &Place, to: &Place) -> Copied {
    transfer::copy(from, to, false, &mut Silent).await.expect("copied")
}

async fn open(url: &Place) -> Arc<dyn State> {
    match &url.url {
        StateUrl::Redis(redis) => Arc::new(Redis::open(redis, &url.redis).await.expect("opened")),
        StateUrl::Sqlite(path) => Arc::new(Sqlite::open(path, Clock::system()).expect("opened")),
    }
}

/// Observes nothing.
struct Silent;

impl Observer for Silent {
    fn begin(&mut self, _: &str, _: u64) {}
    fn advance(&mut self, _: u64) {}
    fn end(&mut self) {}
    fn note(&mut self, _: &str) {}
}

/// Returns all that the operations which read return, without what passes with time.
async fn described(state: &Arc<dyn State>) -> Vec<String> {
    let mut lines = vec![format!("{:?}", state.log().await.expect("a log"))];
    let events = pages_of_events(state, EventQuery::default(), &mut lines).await;
    for position in (0..=events.len() as u64).take(50) {
        let at = EventQuery { after: position, limit: 1, ..EventQuery::default() };
        lines.push(format!("before {:?}", state.events(at).await.expect("a page").before));
    }
    let names = submissions(state, &mut lines).await;
    for name in names {
        lines.push(format!("{name} {:?}", state.submission(&name).await));
        let its = EventQuery { submission_id: Some(name), ..EventQuery::default() };
        pages_of_events(state, its, &mut lines).await;
    }
    for (account, place) in [("wx1", "7"), ("wx1", "8"), ("wx2", "7"), ("wx1", "9")] {
        let found = state.pictures(&app(account), &place.to_owned().into()).await;
        lines.push(format!("pictures {account} {place} {found:?}"));
    }
    writes(state, &mut lines).await;
    for account in ["wx1", "wx2", "wxp1", "wxp2", "wxplatform"] {
        let token = state.token(&app(account)).await.expect("no error");
        let token = token.filter(|token| token.life > MINUTE / 4);
        // A generation grows with the base of a Redis.
        let token = token.map(|token| token.value.expose().to_owned());
        let ticket = state.ticket(&app(account)).await.expect("no error");
        let ticket = ticket.map(|ticket| (ticket.value.expose().to_owned(), ticket.sent_at));
        lines.push(format!("{account} {token:?} {ticket:?}"));
        let authorizers = state.authorizers(&app(account), None, 10_000).await.expect("no error");
        for Authorizer { app_id, changed_at, authorized, refresh_token, record, .. } in authorizers
        {
            let refresh_token = refresh_token.map(|token| token.expose().to_owned());
            lines.push(format!("{app_id} {changed_at} {authorized} {refresh_token:?} {record:?}"));
        }
    }
    lines
}

async fn pages_of_events(
    state: &Arc<dyn State>,
    query: EventQuery,
    lines: &mut Vec<String>,
) -> Vec<u64> {
    let (mut after, mut positions) = (0, Vec::new());
    loop {
        let query = EventQuery { after, limit: 1000, ..query.clone() };
        let page = state.events(query).await.expect("a page");
        positions.extend(page.events.iter().map(|event| event.position));
        lines.extend(page.events.iter().map(|event| format!("{event:?}")));
        after = page.seen;
        if page.at_end {
            return positions;
        }
    }
}

/// Returns the ids of the submissions, which are their messages in the cases.
async fn submissions(state: &Arc<dyn State>, lines: &mut Vec<String>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let open = vec![AuditState::AwaitingAdmin, AuditState::InReview];
    let all = SubmissionQuery::default();
    for query in [
        all.clone(),
        SubmissionQuery { states: open, ..all.clone() },
        SubmissionQuery { kinds: vec![SubmissionKind::Merchant], ..all.clone() },
        SubmissionQuery { accounts: Scope::one("wx2".to_owned()), ..all.clone() },
        SubmissionQuery { client_reference: Some("r".to_owned()), ..all },
    ] {
        let mut after = 0;
        loop {
            let query = SubmissionQuery { after, limit: 1000, ..query.clone() };
            let page = state.submissions(query).await.expect("a page");
            lines.push(format!("{} unreadable", page.unreadable));
            for submission in page.submissions {
                lines.push(format!("{submission:?}"));
                let name = String::from_utf8(submission.message.to_vec()).expect("text");
                names.extend((name.len() < 100).then_some(name));
            }
            after = page.seen;
            if page.at_end {
                break;
            }
        }
    }
    names
}

async fn writes(state: &Arc<dyn State>, lines: &mut Vec<String>) {
    let unfinished = vec![WriteState::Claimed, WriteState::Sent, WriteState::Unknown];
    let all = WriteQuery::default();
    let mut queries = vec![WriteQuery { states: unfinished, ..all.clone() }, all.clone()];
    let (mut index, mut names) = (0, BTreeSet::new());
    while index < queries.len() {
        let mut after = 0;
        loop {
            let query = WriteQuery { after, limit: 1000, ..queries[index].clone() };
            let page = state.writes(query).await.expect("a page");
            lines.push(format!("{} unreadable", page.unreadable));
            for mut write in page.writes {
                if index == 1 && names.insert(write.request_id.clone()) {
                    let request_id = Some(write.request_id.clone());
                    queries.push(WriteQuery { request_id, ..all.clone() });
                }
                let found = state.write(&write.write_id).await.expect("no error");
                assert_eq!(found.map(|found| found.number), Some(write.number));
                // These pass with time.
                write.rest = Duration::ZERO;
                if write.state == WriteState::Sent {
                    write.state = WriteState::Unknown;
                }
                lines.push(format!("{write:?}"));
            }
            after = page.seen;
            if page.at_end {
                break;
            }
        }
        index += 1;
    }
}

// === What later operations depend on ===

/// Fills a state whose later steps depend on every index.
async fn fill(state: &Arc<dyn State>) {
    let numbered = |id: &str| NewSubmission { audit_id: id.to_owned().into(), ..submission(id) };
    for id in ["decided", "open"] {
        remember(state, numbered(id)).await;
    }
    let merchant = NewSubmission { kind: SubmissionKind::Merchant, ..submission("nameless") };
    remember(state, merchant).await;
    let due = NewSubmission { ask_after: Some(Duration::ZERO), ..submission("due") };
    remember(state, due).await;
    append(state, about("decided", "first", 5)).await;
    append(state, about("late", "before its submission", 5)).await;
    append(state, about("unclaimed", "of a submission to come", 5)).await;
    remember(state, numbered("late")).await;
    for id in ["finished", "sent", "claimed"] {
        let sent = Sent { by: MINUTE, record: Bytes::from(id.to_owned()) };
        let sent = (id != "claimed").then_some(sent);
        let fence = claim(state, NewWrite { sent, ..write(id, id) }, MINUTE).await;
        if id == "finished" {
            state.ended(id, fence, finished("reply")).await.expect("noted");
        }
    }
    let named = NewWrite { caller: "caller".to_owned(), ..write("named", "named") };
    claim(state, named, MINUTE).await;
    assert_eq!(state.acquire("lease", MINUTE).await, Ok(Acquired::Lease(1)));
    assert_eq!(state.acquire("free", MINUTE).await, Ok(Acquired::Lease(1)));
    state.free("free", 1, Duration::ZERO).await.expect("no error");
    state.put_token(&app("wx1"), 0, &secret("token"), MINUTE).await.expect("no error");
    state.put_token(&app("wx2"), 0, &secret("dropped"), MINUTE).await.expect("no error");
    state.drop_token(&app("wx2")).await.expect("no error");
    assert_eq!(state.spend("counter", 1, MINUTE).await, Ok(true));
    let now = Clock::system().unix();
    assert_eq!(state.put_ticket(&platform(), &secret("ticket"), now).await, Ok(true));
    assert_eq!(state.put_authorizer(&authorizer("wx1", 7), false).await, Ok(true));
}

/// Goes on with a copy of a state that [`fill`] filled.
async fn assert_goes_on(state: &Arc<dyn State>, before: &Arc<[Event]>) {
    // A watcher resumes after each event, and detects that the log is the same.
    for (index, event) in before.iter().enumerate() {
        let query = EventQuery { after: event.position, limit: 9, ..EventQuery::default() };
        let page = state.events(query).await.expect("a page");
        assert_eq!(page.before, Some(event.log_position()));
        assert_eq!(page.events, before[index + 1..]);
    }
    // A push is repeated, and new results arrive.
    assert_eq!(append(state, about("decided", "first", 5)).await, Appended::Known(1));
    assert_eq!(append(state, about("decided", "older", 4)).await, Appended::New(4));
    assert_eq!(append(state, about("open", "pushed", 1)).await, Appended::New(5));
    let merchant = NewEvent { kind: SubmissionKind::Merchant, ..about("M", "merchant", 1) };
    assert_eq!(append(state, merchant).await, Appended::New(6));
    for (id, event) in [
        ("decided", "first"),
        ("open", "pushed"),
        ("late", "before its submission"),
        ("nameless", "merchant"),
    ] {
        assert_eq!(find(state, id).await.event_id, event, "{id}");
    }
    let events = all_events(state).await;
    assert_eq!(events[3].superseded_by, "first");
    // A submission finds the event that came before it, and gets the next number.
    let new = NewSubmission { audit_id: "unclaimed".to_owned().into(), ..submission("new") };
    remember(state, new).await;
    let new = find(state, "new").await;
    assert_eq!((&*new.event_id, new.number), ("of a submission to come", 6));
    let due = state.take_due(MINUTE, 9).await.expect("no error");
    assert_eq!(due.iter().map(|one| &one.message[..]).collect::<Vec<_>>(), [b"due"]);
    assert!(state.take_due(MINUTE, 9).await.expect("no error").is_empty());
    assert_writes_go_on(state).await;
    // Fences and generations go on above the earlier ones.
    assert!(matches!(state.acquire("lease", MINUTE).await, Ok(Acquired::Taken(_))));
    let Ok(Acquired::Lease(fence)) = state.acquire("free", MINUTE).await else {
        panic!("the lease is not free")
    };
    assert!(fence > 1, "{fence}");
    for (account, generation) in [("wx1", 1), ("wx2", 0)] {
        let token = state.put_token(&app(account), generation, &secret("new"), MINUTE).await;
        assert!(token.expect("no error").generation > 1, "{account}");
    }
    assert_eq!(state.spend("counter", 1, MINUTE).await, Ok(false));
    let now = Clock::system().unix();
    assert_eq!(state.put_ticket(&platform(), &secret("older"), now - 60).await, Ok(false));
    assert_eq!(state.put_authorizer(&authorizer("wx1", 6), false).await, Ok(false));
    assert_eq!(state.put_authorizer(&authorizer("wx1", 8), false).await, Ok(true));
}

async fn assert_writes_go_on(state: &Arc<dyn State>) {
    for (id, stands) in [("finished", WriteState::Finished), ("sent", WriteState::Sent)] {
        let repeated = begin(state, write("another id", id), MINUTE).await;
        let Begun::Known(known) = repeated else { panic!("{id}: {repeated:?}") };
        assert_eq!((&*known.write_id, known.state), (id, stands));
    }
    let other = NewWrite { fingerprint: [2; 32], ..write("another id", "finished") };
    assert_eq!(begin(state, other, MINUTE).await, Begun::Other);
    // A caller without a name is the same one.
    let repeated = begin(state, write("another id", "named"), MINUTE).await;
    assert!(matches!(repeated, Begun::Known(_)), "{repeated:?}");
    // The process that has the claim can send under its fence.
    assert_eq!(state.sent("claimed", 1, MINUTE, Bytes::from("record")).await, Ok(true));
    state.ended("sent", 1, finished("late reply")).await.expect("noted");
    assert_eq!(find_write(state, "sent").await.reply, Some("late reply".into()));
    claim(state, write("next", "next"), MINUTE).await;
    assert_eq!(find_write(state, "next").await.number, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_goes_on_as_its_source() {
    for redis_first in [false, true] {
        let places = Places::new().await;
        let other = RedisServer::start(false).await;
        let other_redis = at(&other.url());
        let route = match redis_first {
            false => [places.file("first.db"), places.redis(), places.file("last.db")],
            true => [places.redis(), places.file("middle.db"), other_redis],
        };
        let state = open(&route[0]).await;
        fill(&state).await;
        let before: Arc<[Event]> = all_events(&state).await.into();
        drop(state);
        for step in route.windows(2) {
            forget_processes(&places.server).await;
            let copied = move_to(&step[0], &step[1]).await;
            let count =
                |kind| copied.rows.iter().find(|(its, _)| *its == kind).map(|(_, rows)| *rows);
            assert_eq!((count(Kind::Events), count(Kind::Writes)), (Some(3), Some(4)));
        }
        let state = open(&route[2]).await;
        assert_goes_on(&state, &before).await;
        drop(state);
        // The source is as it was.
        forget_processes(&places.server).await;
        let verified = transfer::verify(&route[0], &mut Silent).await.expect("verified");
        assert_eq!(verified.damaged, 0, "{verified:?}");
        assert_eq!(all_events(&open(&route[0]).await).await[..], before[..]);
        // The continued copy is whole, with all its indexes.
        let verified = transfer::verify(&route[2], &mut Silent).await.expect("verified");
        assert_eq!(verified.damaged, 0, "{verified:?}");
        assert!(verified.secrets.plain > 0 && verified.secrets.sealed.is_empty(), "{verified:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fences_exceed_a_base_in_every_copy() {
    let places = Places::new().await;
    let state = open(&places.redis()).await;
    fill(&state).await;
    drop(state);
    // As after a loss that the processes survived.
    let base = "HSET {wechat-store-gateway}:guard base 5000";
    assert!(places.server.command(base).await.starts_with(':'));
    forget_processes(&places.server).await;
    let to = places.file("copy.db");
    move_to(&places.redis(), &to).await;
    let state = open(&to).await;
    assert_eq!(state.acquire("free", MINUTE).await, Ok(Acquired::Lease(5001)));
    let token = state.put_token(&app("wx2"), 0, &secret("new"), MINUTE).await.expect("no error");
    assert_eq!(token.generation, 5001);
}

// === Damaged rows ===

/// Returns the readable rows and the number of damaged ones, as a reader sees them.
async fn seen(state: &Arc<dyn State>) -> (Vec<bool>, u64, u64, bool) {
    let events = all_events(state).await;
    let gaps = events.iter().map(|event| event.message.is_empty() || event.message.len() > 60);
    let submissions = SubmissionQuery { limit: 100, ..SubmissionQuery::default() };
    let submissions = state.submissions(submissions).await.expect("a page");
    let writes = WriteQuery { limit: 100, ..WriteQuery::default() };
    let writes = state.writes(writes).await.expect("a page");
    let authorizer = state.authorizer(&platform(), &app("wx1")).await;
    let is_unreadable = matches!(authorizer, Err(Error::Unreadable(_)));
    (gaps.collect(), submissions.unreadable, writes.unreadable, is_unreadable)
}

async fn assert_damage_is_copied(from: &Place, places: &Places) {
    forget_processes(&places.server).await;
    let state = open(from).await;
    let before = seen(&state).await;
    assert_eq!(before, (vec![true, false, true], 1, 1, true));
    let position = all_events(&state).await[0].log_position();
    drop(state);
    forget_processes(&places.server).await;
    let verified = transfer::verify(from, &mut Silent).await.expect("verified");
    let mut from = from.clone();
    let other = RedisServer::start(false).await;
    let order = match from.url {
        StateUrl::Sqlite(_) => [at(&other.url()), places.file("last.db")],
        StateUrl::Redis(_) => [places.file("last.db"), at(&other.url())],
    };
    for to in order {
        let copied = move_to(&from, &to).await;
        assert_eq!(copied.damaged, 5, "{:#?}", copied.damage);
        let state = open(&to).await;
        assert_eq!(seen(&state).await, before, "{to}");
        assert_eq!(all_events(&state).await[0].log_position(), position, "its key is still known");
        // A repeat must not be executed again.
        let repeated = state.begin(write("another id", "sent"), MINUTE).await;
        assert!(matches!(repeated, Err(Error::Unreadable(_))), "{repeated:?}");
        drop(state);
        forget_processes(&other).await;
        from = to;
    }
    let rows = |damage: &[transfer::Damage]| -> BTreeSet<String> {
        let known = damage.iter().filter(|damage| !damage.row.starts_with("index"));
        known.map(|damage| damage.row.clone()).collect()
    };
    let expected =
        ["authorizer wxplatform wx1", "event 1", "event 3", "submission open", "write sent"];
    assert_eq!(rows(&verified.damage), expected.map(str::to_owned).into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_rows_of_sqlite_stay_damaged() {
    let places = Places::new().await;
    let from = places.file("state.db");
    let state = open(&from).await;
    fill(&state).await;
    drop(state);
    let StateUrl::Sqlite(path) = &from.url else { panic!("a file") };
    let db = Connection::open(path).expect("opened");
    loosen(&db);
    for sql in [
        "UPDATE events SET message = x'fdffffff0f00000000' WHERE position = 1",
        "DELETE FROM events WHERE position = 3",
        "UPDATE submissions SET state = NULL WHERE submission_id = 'open'",
        "UPDATE writes SET attempts = 'x' WHERE write_id = 'sent'",
        "UPDATE authorizers SET changed_at = changed_at + 1",
    ] {
        assert_eq!(db.execute(sql, []).expect("changed"), 1, "{sql}");
    }
    drop(db);
    assert_damage_is_copied(&from, &places).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_rows_of_redis_stay_damaged() {
    let places = Places::new().await;
    let state = open(&places.redis()).await;
    fill(&state).await;
    drop(state);
    damage_redis(&places.server, "events", 1, Damage::FlipField("message")).await;
    damage_redis(&places.server, "events", 3, Damage::DropRow).await;
    damage_redis(&places.server, "submissions", 2, Damage::DropField("created")).await;
    damage_redis(&places.server, "writes", 2, Damage::PutField("fence", "x")).await;
    let changed = "HINCRBY {wechat-store-gateway}:authorizer:wxplatform:wx1 changed_at 1";
    assert!(places.server.command(changed).await.starts_with(':'));
    assert_damage_is_copied(&places.redis(), &places).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_index_of_redis_is_found() {
    let prefix = "{wechat-store-gateway}:";
    for (wrong, row) in [
        ("ZREM P:submissions:open open", "submission open"),
        ("ZADD P:submissions:due 1 decided", "submission decided"),
        ("ZREM P:nameless:wx1 nameless", "submission nameless"),
        ("ZREM P:writes:unfinished sent", "write sent"),
        ("ZREM P:requests:sent sent", "write sent"),
        ("DEL P:request:wx1:StoreService/AddStore:sent", "write sent"),
        ("ZREM P:events:decided 1", "event 1"),
        ("DEL P:log:keys", "index of keys"),
    ] {
        let server = RedisServer::start(false).await;
        let url = at(&server.url());
        let state = open(&url).await;
        fill(&state).await;
        // A gateway may use it.
        assert_eq!(transfer::verify(&url, &mut Silent).await.expect("verified").damaged, 0);
        let answer = server.command(&wrong.replace("P:", prefix)).await;
        assert_eq!(answer.trim_end(), ":1", "{wrong}");
        let verified = transfer::verify(&url, &mut Silent).await.expect("verified");
        assert!(verified.damage.iter().any(|damage| damage.row == row), "{wrong}: {verified:?}");
        drop(state);
    }
}

// === Refusals ===

async fn refused(from: &Place, to: &Place) -> String {
    let copied = transfer::copy(from, to, false, &mut Silent).await;
    copied.expect_err("refused").to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_in_use_is_not_copied() {
    let places = Places::new().await;
    let file = places.file("state.db");
    let state = open(&file).await;
    let error = refused(&file, &places.redis()).await;
    assert!(error.ends_with("the state is locked by another process"), "{error}");
    drop(state);

    let state = open(&places.redis()).await;
    fill(&state).await;
    let (to, redis) = (places.file("copy.db"), places.redis());
    let work = async {
        for n in 0.. {
            append(&state, event(&n.to_string())).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let error = tokio::select! {
        error = within(SOON, refused(&redis, &to)) => error,
        () = work => panic!("it never ends"),
    };
    assert!(error.contains("a gateway uses it"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_gateway_is_seen() {
    let places = Places::new().await;
    let _state = open(&places.redis()).await;
    let error = within(SOON, refused(&places.redis(), &places.file("copy.db"))).await;
    assert!(error.contains("a gateway uses it"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_needs_an_empty_place() {
    let places = Places::new().await;
    let (from, there) = (places.file("from.db"), places.file("there.db"));
    for url in [&from, &there, &places.redis()] {
        fill(&open(url).await).await;
    }
    forget_processes(&places.server).await;
    for to in [&there, &places.redis()] {
        let error = refused(&from, to).await;
        assert!(error.contains("it is not empty"), "{error}");
    }
    let error = refused(&from, &from).await;
    assert!(error.contains("to its own place"), "{error}");
    let error = refused(&places.file("nowhere.db"), &there).await;
    assert!(error.contains("No such file"), "{error}");
    assert!(!places.folder.path().join("nowhere.db").exists(), "nothing is created");
}

/// Notifies a waiter as soon as a batch is copied.
struct Started(Arc<Notify>);

impl Observer for Started {
    fn begin(&mut self, _: &str, _: u64) {}
    fn advance(&mut self, _: u64) {
        self.0.notify_one();
    }
    fn end(&mut self) {}
    fn note(&mut self, _: &str) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_copy_is_opened_by_none() {
    let places = Places::new().await;
    let file = places.file("from.db");
    let state = open(&file).await;
    for n in 0..1000 {
        append(&state, event(&n.to_string())).await;
    }
    drop(state);
    stop_in_between(&file, &places.redis()).await;
    let opened = try_open(&places.server.url(), "").await;
    assert_unfinished(opened.expect_err("refused"));
    let shown = transfer::show(&places.redis()).await.expect("shown");
    assert!(shown.unfinished.is_some_and(|(place, _)| place == file.to_string()));
    assert_unfinished_source(&places.redis(), &places).await;

    // It can belong to one source.
    let other = places.file("other.db");
    fill(&open(&other).await).await;
    let error = refused(&other, &places.redis()).await;
    assert!(error.contains("unfinished copy of another state"), "{error}");
    assert!(move_to(&file, &places.redis()).await.resumed);
    forget_processes(&places.server).await;

    let last = places.file("last.db");
    stop_in_between(&places.redis(), &last).await;
    let StateUrl::Sqlite(path) = &last.url else { panic!("a file") };
    assert_unfinished(Sqlite::open(path, Clock::system()).expect_err("refused"));
    let anew = transfer::copy(&places.redis(), &last, true, &mut Silent).await.expect("copied");
    assert!(!anew.resumed, "{anew:?}");
    assert_eq!(all_events(&open(&last).await).await.len(), 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_to_full_redis_continues_with_room() {
    let places = Places::new().await;
    let file = places.file("from.db");
    let state = open(&file).await;
    let long = vec![b'x'; 1 << 20];
    for n in 0..10 {
        append(&state, NewEvent { message: long.clone().into(), ..event(&n.to_string()) }).await;
    }
    drop(state);
    let limit = async |bytes| places.server.command(&format!("CONFIG SET maxmemory {bytes}")).await;
    assert!(limit("5mb").await.starts_with("+OK"));
    let error = refused(&file, &places.redis()).await;
    assert!(error.contains("its memory is full"), "{error}");
    assert!(limit("0").await.starts_with("+OK"));
    assert_eq!(move_to(&file, &places.redis()).await.damaged, 0);
    let page = EventQuery { limit: 9, ..EventQuery::default() };
    let page = open(&places.redis()).await.events(page).await.expect("a page");
    assert_eq!(page.log.newest.position, 10);
}

async fn stop_in_between(from: &Place, to: &Place) {
    let started = Arc::new(Notify::new());
    let mut observer = Started(started.clone());
    let copied = tokio::select! {
        copied = transfer::copy(from, to, false, &mut observer) => Some(copied),
        () = started.notified() => None,
    };
    assert!(copied.is_none(), "{copied:?}");
}

fn assert_unfinished(error: Error) {
    assert!(error.to_string().contains("it is an unfinished copy"), "{error}");
}

async fn assert_unfinished_source(url: &Place, places: &Places) {
    let error = refused(url, &places.file("third.db")).await;
    assert!(error.contains("it is an unfinished copy"), "{error}");
    let error = transfer::verify(url, &mut Silent).await.expect_err("refused").to_string();
    assert!(error.contains("it is an unfinished copy"), "{error}");
}

// === Backups ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backup_of_running_gateway_is_whole() {
    let places = Places::new().await;
    let file = places.file("state.db");
    let state = open(&file).await;
    fill(&state).await;
    let before: Arc<[Event]> = all_events(&state).await.into();
    let to = places.folder.path().join("backup.db");
    let mut silent = Silent;
    // The gateway goes on meanwhile.
    let ((), copied) = tokio::join!(
        async {
            for n in 0..20 {
                append(&state, event(&format!("during {n}"))).await;
            }
        },
        transfer::backup(&file, &to, &mut silent),
    );
    assert!(copied.expect("a backup").is_none());
    assert_eq!(files(places.folder.path(), "backup"), ["backup.db"]);
    let again = transfer::backup(&file, &to, &mut Silent).await.expect_err("refused");
    assert!(again.to_string().contains("it exists already"), "{again}");
    append(&state, event("after")).await;
    let backup = open(&at(&format!("sqlite:{}", to.display()))).await;
    let events: Arc<[_]> = all_events(&backup).await.into();
    assert!(events.len() < all_events(&state).await.len());
    assert_eq!(events[..3], before[..], "{events:?}");
}

fn files(folder: &Path, start: &str) -> Vec<String> {
    let names = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("a file").file_name().into_string().expect("text"));
    names.filter(|name| name.starts_with(start)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backup_of_redis_is_a_copy() {
    let places = Places::new().await;
    let state = open(&places.redis()).await;
    fill(&state).await;
    let before: Arc<[Event]> = all_events(&state).await.into();
    drop(state);
    forget_processes(&places.server).await;
    let to = places.folder.path().join("backup.db");
    let copied = transfer::backup(&places.redis(), &to, &mut Silent).await.expect("a backup");
    assert_eq!(copied.map(|copied| copied.damaged), Some(0));
    assert_goes_on(&open(&at(&format!("sqlite:{}", to.display()))).await, &before).await;
}
