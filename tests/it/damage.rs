//! Damaged rows of the state: each row affects only itself and is reported.

use std::{ops::Deref, slice, time::Duration};

use rusqlite::Connection;
use serde_json::json;
use tonic::Code;
use wechat_simulator::{
    Fault, MINI_PROGRAM_APP_ID, OFFICIAL_APP_ID, audit::Decision, faults::Kind,
};
use wechat_store_gateway::pb::{
    self, AuditEvent, AuditState, SubmissionKind, WriteState, audit_event::Detail,
    get_write_request::Lookup, watch_audit_events_request::Start,
};

use crate::{
    audit::{Watch, earliest},
    overdue_reviews::EAGER,
    servers::RedisServer,
    support::{App, STABLE_TOKEN, is, nearby_profile, new_store, reason, within},
};

const NAMES: [&str; 3] = [
    "7b0c1b52-8a53-4d3e-9f8f-2e1f6c7d8a90",
    "7b0c1b52-8a53-4d3e-9f8f-2e1f6c7d8a91",
    "7b0c1b52-8a53-4d3e-9f8f-2e1f6c7d8a92",
];

const SOON: Duration = Duration::from_secs(20);
const MOMENT: Duration = Duration::from_millis(5);

/// Lets columns store values of any type, as damage does.
pub(crate) fn loosen(db: &Connection) {
    db.execute_batch(
        "PRAGMA writable_schema = ON;
         UPDATE sqlite_schema
         SET sql = replace(replace(replace(sql, 'STRICT, ', ''), 'STRICT', ''), 'NOT NULL', '')
         WHERE type = 'table';
         PRAGMA writable_schema = RESET;",
    )
    .expect("loosened");
}

/// Flips a bit in the middle of a value.
fn flip(db: &Connection, table: &str, column: &str, row: u64) {
    let sql = format!("SELECT {column} FROM {table} WHERE rowid = {row}");
    let mut value: Vec<u8> = db.query_row(&sql, [], |row| row.get(0)).expect("a value");
    let middle = value.len() / 2;
    value[middle] ^= 4;
    let sql = format!("UPDATE {table} SET {column} = ?1 WHERE rowid = {row}");
    assert_eq!(db.execute(&sql, [value]).expect("changed"), 1);
}

/// The damage to a row, in the terms of the backend that has the row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Damage {
    /// In SQLite, a bit of this column is flipped.
    Flip(&'static str),
    /// In SQLite, the result of this SQL.
    Set(&'static str),
    /// In Redis, a bit of this field is flipped.
    FlipField(&'static str),
    /// In Redis, this field has this value.
    PutField(&'static str, &'static str),
    /// The same, in an event of a version without checksums.
    PutUnsummed(&'static str, &'static str),
    /// In Redis, this field is missing.
    DropField(&'static str),
    /// In Redis, the whole row is missing.
    DropRow,
    /// In Redis, the finished write is in the index of unfinished ones.
    Reopen,
}

use Damage::{DropField, DropRow, Flip, FlipField, PutField, PutUnsummed, Reopen, Set};

/// Damages a row past the gateway. ARGV: the table, the number of the row or the account of a token, the
/// damage, the field, and the new value.
const DAMAGE: &str = "
    local table, row, damage, field, value = unpack(ARGV)
    local prefix = '{wechat-store-gateway}:'
    local function damaged(old)
      if damage ~= 'flip' then return value end
      local at = math.floor(#old / 2) + 1
      return old:sub(1, at - 1) .. string.char(bit.bxor(old:byte(at), 4)) .. old:sub(at + 1)
    end
    if table ~= 'events' then
      local id = table == 'tokens' and row or redis.call('ZRANGEBYSCORE', prefix .. table, row, row)[1]
      local key = prefix .. table:sub(1, -2) .. ':' .. id
      if damage == 'reopen' then return redis.call('ZADD', prefix .. 'writes:unfinished', row, id) end
      if damage == 'drop row' then return redis.call('DEL', key) end
      if damage == 'drop' then return redis.call('HDEL', key, field) end
      redis.call('HSET', key, field, damaged(redis.call('HGET', key, field)))
      return 1
    end
    local entries, changed = redis.call('XRANGE', prefix .. 'log', '-', '+'), 0
    redis.call('DEL', prefix .. 'log')
    for _, entry in ipairs(entries) do
      local fields = entry[2]
      if entry[1] == row .. '-0' then
        changed, fields = 1, {}
        for i = 1, #entry[2], 2 do
          local name, old = entry[2][i], entry[2][i + 1]
          local dropped = damage == 'drop' and name == field or damage == 'unsummed' and name == 'sum'
          if not dropped then
            fields[#fields + 1] = name
            fields[#fields + 1] = name == field and damaged(old) or old
          end
        end
      end
      if entry[1] ~= row .. '-0' or damage ~= 'drop row' then
        redis.call('XADD', prefix .. 'log', entry[1], unpack(fields))
      end
    end
    return changed";

/// Damages a row of a Redis, past the gateway.
pub(crate) async fn damage_redis(redis: &RedisServer, table: &str, row: u64, damage: Damage) {
    let (action, field, value) = match damage {
        FlipField(field) => ("flip", field, ""),
        PutField(field, value) => ("put", field, value),
        PutUnsummed(field, value) => ("unsummed", field, value),
        DropField(field) => ("drop", field, ""),
        DropRow => ("drop row", "", ""),
        Reopen => ("reopen", "", ""),
        other => panic!("Redis has no {other:?}"),
    };
    let row = if table == "tokens" { OFFICIAL_APP_ID.to_owned() } else { row.to_string() };
    let script = DAMAGE.replace('\n', " ");
    let script = format!("EVAL \"{script}\" 0 {table} {row} \"{action}\" \"{field}\" \"{value}\"");
    assert_eq!(redis.command(&script).await.trim_end(), ":1", "{damage:?}");
}

/// A gateway whose state can be damaged.
struct Damaged {
    app: App,
    redis: Option<RedisServer>,
}

impl Deref for Damaged {
    type Target = App;

    fn deref(&self) -> &App {
        &self.app
    }
}

impl Damaged {
    /// Starts a gateway with its state in the backend that can have this damage.
    async fn start(damage: Damage, sections: &str) -> Self {
        if let Flip(_) | Set(_) = damage {
            return Self { app: App::with_sections(sections).await, redis: None };
        }
        let redis = RedisServer::start(false).await;
        Self { app: App::with_state(&redis.url(), sections).await, redis: Some(redis) }
    }

    async fn damage(&self, table: &str, row: u64, damage: Damage) {
        match &self.redis {
            Some(redis) => damage_redis(redis, table, row, damage).await,
            None => self.damage_file(table, row, damage),
        }
    }

    fn damage_file(&self, table: &str, row: u64, damage: Damage) {
        let db = self.open_state();
        loosen(&db);
        match damage {
            Flip(column) => flip(&db, table, column, row),
            Set(sql) => {
                let condition = format!("WHERE rowid = {row}");
                // Tokens have no number, and there is one.
                let condition = if table == "tokens" { "" } else { &condition };
                let sql = format!("{sql} {condition}");
                assert_eq!(db.execute(&sql, []).expect("changed"), 1, "{sql}");
            }
            other => panic!("SQLite has no {other:?}"),
        }
    }

    /// Stops the gateway and starts another one with the same state.
    async fn restart(self) -> Self {
        Self { app: self.app.restart().await, redis: self.redis }
    }

    async fn stop(self) {
        self.app.stop().await;
    }
}

impl App {
    /// Pushes the end of a review, and waits until it is in the log.
    async fn push_end(&self, audit_id: u64) {
        let message = json!({
            "Event": "add_store_audit_info", "audit_id": audit_id, "status": 1, "poiid": audit_id,
        });
        let id = self.wechat.push(OFFICIAL_APP_ID, &message).expect("a callback");
        let taken = async {
            loop {
                let pushes = self.wechat.pushes();
                let push = pushes.iter().find(|push| push.id == id).expect("kept");
                if push.attempts.iter().any(|sent| sent.outcome == "taken") {
                    return;
                }
                tokio::time::sleep(MOMENT).await;
            }
        };
        within(SOON, taken).await;
    }
}

fn is_gap(event: &AuditEvent) -> bool {
    matches!(&event.detail, Some(Detail::Gap(gap)) if gap.lost_events == 1 && !gap.cause.is_empty())
}

#[tokio::test]
async fn damaged_event_is_reported_as_gap() {
    let all = [
        Flip("message"),
        Set("UPDATE events SET message = substr(message, 1, 30)"),
        Set("UPDATE events SET message = zeroblob(30)"),
        Set("UPDATE events SET message = 7"),
        Set("UPDATE events SET message = NULL"),
        Set("UPDATE events SET received = 'soon'"),
        Set("UPDATE events SET received = received + 1"),
        Set("UPDATE events SET amends = x'FF'"),
        Set("UPDATE events SET app_id = x'FF'"),
        Set("UPDATE events SET kind = 'store', app_id = 7"),
        Set("UPDATE events SET app_id = 'wx0000000000000002'"),
        Set("UPDATE events SET kind = 99"),
        Set("UPDATE events SET key = x'01'"),
        Set("DELETE FROM events"),
        FlipField("message"),
        PutField("message", ""),
        PutField("received", "1"),
        PutField("app_id", "wx0000000000000002"),
        PutField("kind", "99"),
        PutUnsummed("message", "\\xff"),
        PutUnsummed("received", "soon"),
        PutUnsummed("amends", "\\xff"),
        PutUnsummed("kind", "store"),
        PutUnsummed("key", "short"),
        DropField("message"),
        DropField("received"),
        DropField("kind"),
        DropField("key"),
        DropRow,
    ];
    for damage in all {
        let app = Damaged::start(damage, "").await;
        for audit_id in 1..=3 {
            app.push_end(audit_id).await;
        }
        let before = app.events(Default::default()).await;
        app.damage("events", 2, damage).await;

        let listed = app.events(Default::default()).await;
        assert_eq!(listed.len(), 3, "{damage:?}");
        assert_eq!((&listed[0], &listed[2]), (&before[0], &before[2]), "{damage:?}");
        assert!(is_gap(&listed[1]), "{damage:?}: {:?}", listed[1]);
        assert!(!listed[1].event_id.is_empty());
        if let Flip("message") | FlipField("message") = damage {
            assert_eq!(
                listed[1].event_id, before[1].event_id,
                "the gap has the id of the lost event"
            );
            assert_eq!(
                (listed[1].kind(), &*listed[1].app_id),
                (SubmissionKind::Store, OFFICIAL_APP_ID)
            );
        }
        let by_page = pb::ListAuditEventsRequest {
            app_id: OFFICIAL_APP_ID.to_owned(),
            kinds: vec![SubmissionKind::Store.into()],
            page_size: 1,
            ..Default::default()
        };
        let mut page_token = String::new();
        for listed in &listed {
            let page = pb::ListAuditEventsRequest { page_token, ..by_page.clone() };
            let page = app.audits().list_audit_events(page).await.expect("a page").into_inner();
            assert_eq!(page.events, slice::from_ref(listed), "{damage:?}");
            page_token = page.next_page_token;
        }

        let mut watch =
            Watch::filtered(&app, earliest(), OFFICIAL_APP_ID, &[SubmissionKind::Store]).await;
        let mut cursors = Vec::new();
        for listed in &listed {
            let (event, cursor) = watch.event().await;
            assert_eq!(event, *listed, "{damage:?}");
            cursors.push(cursor);
        }
        for (cursor, next) in cursors.into_iter().zip(&listed[1..]) {
            let mut watch = Watch::begin(&app, Start::Cursor(cursor)).await;
            assert_eq!(watch.event().await.0, *next, "{damage:?}: the cursor leads on");
        }
        app.push_end(4).await;
        assert_eq!(watch.event().await.0.audit_id, "4", "{damage:?}: the stream goes on");
        app.stop().await;
    }
}

#[tokio::test]
async fn gap_passes_every_filter() {
    for damage in [Flip("message"), FlipField("message")] {
        let app = Damaged::start(damage, "").await;
        app.push_end(1).await;
        app.push_end(2).await;
        app.damage("events", 1, damage).await;
        let request = pb::ListAuditEventsRequest {
            app_id: MINI_PROGRAM_APP_ID.to_owned(),
            kinds: vec![SubmissionKind::Merchant.into()],
            end_time: Some(Default::default()),
            ..Default::default()
        };
        let gap = app.events(request).await;
        assert!(gap.len() == 1 && is_gap(&gap[0]), "{damage:?}: {gap:?}");
        app.stop().await;
    }
}

#[tokio::test]
async fn lost_newest_event_is_reported_as_gap() {
    for damage in [Set("DELETE FROM events"), DropRow] {
        let app = Damaged::start(damage, "").await;
        app.push_end(1).await;
        app.push_end(2).await;
        app.damage("events", 2, damage).await;
        let listed = app.events(Default::default()).await;
        assert!(listed.len() == 2 && is_gap(&listed[1]), "{damage:?}: {listed:?}");
        let mut watch = Watch::begin(&app, earliest()).await;
        for listed in listed {
            assert_eq!(watch.event().await.0, listed, "{damage:?}");
        }
        app.push_end(3).await;
        assert_eq!(watch.event().await.0.audit_id, "3", "{damage:?}: the stream goes on");
        app.stop().await;
    }
}

#[tokio::test]
async fn damaged_event_does_not_block_next_result() {
    let all = [
        Set("UPDATE events SET state = 'ok'"),
        Set("UPDATE events SET event_id = x'FF'"),
        Set("UPDATE events SET reason = x'FF'"),
        Set("UPDATE events SET event_time = 'now'"),
        PutField("event_id", "\\xff"),
        PutUnsummed("event_time", "now"),
        DropField("event_time"),
        DropField("pushed"),
    ];
    for damage in all {
        let app = Damaged::start(damage, "").await;
        let submission = app.add_store("2708071440732747189", "0001").await;
        app.approve(&submission);
        let mut watch = Watch::begin(&app, earliest()).await;
        watch.event().await;
        app.damage("events", 1, damage).await;
        app.push_end(submission.audit_id.parse().expect("a number")).await;
        assert_eq!(watch.event().await.0.audit_id, submission.audit_id, "{damage:?}");
        app.stop().await;
    }
}

#[tokio::test]
async fn damaged_submission_is_counted_and_blocks_none() {
    let all = [
        Flip("message"),
        Set("UPDATE submissions SET message = substr(message, 1, 10)"),
        Set("UPDATE submissions SET message = 7"),
        Set("UPDATE submissions SET state = 99"),
        Set("UPDATE submissions SET state = 'open'"),
        Set("UPDATE submissions SET created = 'soon'"),
        Set("UPDATE submissions SET reason = x'FF'"),
        Set("UPDATE submissions SET kind = 'store', app_id = 7"),
        FlipField("message"),
        PutField("message", "short"),
        PutField("state", "99"),
        PutField("state", "open"),
        PutField("created", "soon"),
        PutField("reason", "\\xff"),
        PutField("kind", "store"),
        DropField("message"),
        DropField("number"),
        DropField("app_id"),
        DropRow,
    ];
    for damage in all {
        let app = Damaged::start(damage, EAGER).await;
        let store = app.add_store("2708071440732747189", "0001").await;
        // WeChat is polled about it after the damaged one, and the poll returns only its own data.
        let request = pb::AddNearbyPoiRequest {
            profile: Some(nearby_profile("2708071440732747189")),
            ..Default::default()
        };
        let place = app.nearby().add_nearby_poi(request).await.expect("submitted").into_inner();
        let place = place.submission.expect("a submission");
        app.damage("submissions", 1, damage).await;
        let page = app.audits().list_submissions(pb::ListSubmissionsRequest::default()).await;
        let page = page.expect("a page").into_inner();
        assert_eq!((page.submissions.len(), page.unreadable_count), (1, 1), "{damage:?}");
        assert_eq!(page.submissions[0].submission_id, place.submission_id);
        let request =
            pb::GetSubmissionRequest { submission_id: store.submission_id, ..Default::default() };
        let refused = app.audits().get_submission(request).await.expect_err("it is damaged");
        assert_eq!(reason(&refused), (Code::Unavailable, "STATE_UNAVAILABLE".to_owned()));

        let mut watch = Watch::begin(&app, earliest()).await;
        let audit_id = place.audit_id.parse().expect("a number");
        app.wechat.decide_silently(audit_id, Decision::Approve, "").expect("an open review");
        let (event, _) = watch.event().await;
        assert_eq!(event.submission_id, place.submission_id, "{damage:?}");
        assert_eq!(event.state(), AuditState::Approved);
        app.stop().await;
    }
}

#[tokio::test]
async fn damaged_write_is_counted_and_not_resent() {
    let all = [
        Set("UPDATE writes SET state = 'odd'"),
        Set("UPDATE writes SET state = x'FF'"),
        Set("UPDATE writes SET attempts = 'many'"),
        Set("UPDATE writes SET sent = -1"),
        Set("UPDATE writes SET reply = 7"),
        Flip("reply"),
        Flip("sought"),
        PutField("state", "odd"),
        PutField("attempts", "many"),
        PutField("sent", "-1"),
        PutField("fence", "x"),
        FlipField("reply"),
        FlipField("sought"),
        DropField("fingerprint"),
        DropField("number"),
        DropRow,
    ];
    for damage in all {
        let app = Damaged::start(damage, "").await;
        let places = app.places(3).await;
        let write = |n: usize| pb::AddStoreRequest {
            request_id: NAMES[n].to_owned(),
            ..new_store(&places[n], &format!("000{n}"))
        };
        for n in 0..2 {
            app.stores().add_store(write(n)).await.expect("submitted");
        }
        app.damage("writes", 1, damage).await;
        let sent = app.count("/wxa/add_store");
        let refused = app.stores().add_store(write(0)).await.expect_err("it cannot be read");
        assert_eq!(reason(&refused), (Code::Unavailable, "STATE_UNAVAILABLE".to_owned()));
        assert_eq!(app.count("/wxa/add_store"), sent, "{damage:?}: not sent again");
        app.stores().add_store(write(1)).await.expect("the other is known");

        let page = app.writes().list_writes(pb::ListWritesRequest::default()).await;
        let page = page.expect("a page").into_inner();
        assert_eq!((page.writes.len(), page.unreadable_count), (1, 1), "{damage:?}");
        let lookup = Some(Lookup::WriteRequestId(NAMES[0].to_owned()));
        let request = pb::GetWriteRequest { lookup, ..Default::default() };
        let refused = app.writes().get_write(request).await.expect_err("not: there is none");
        assert_eq!(reason(&refused), (Code::Unavailable, "STATE_UNAVAILABLE".to_owned()));

        // The lost write is still recovered after a damaged one.
        let reopen = match damage {
            Flip(_) | Set(_) => Set("UPDATE writes SET ended = 0"),
            _ => Reopen,
        };
        app.damage("writes", 1, reopen).await;
        app.wechat.fault(Fault::new("/wxa/add_store", Kind::ResetAfter));
        app.fault("/wxa/get_store_list", Kind::Errcode { errcode: -1, errmsg: None });
        let lost = app.stores().add_store(write(2)).await.expect_err("nothing shows it yet");
        assert_eq!(reason(&lost), is(Code::Unknown, "OUTCOME_UNKNOWN"));
        app.wechat.control("DELETE", "faults", &json!({})).expect("cleared");
        app.clock.advance(Duration::from_secs(60));
        let finished = async {
            let lookup = Some(Lookup::WriteRequestId(NAMES[2].to_owned()));
            let request = pb::GetWriteRequest { lookup, ..Default::default() };
            loop {
                let found = app.writes().get_write(request.clone()).await.expect("known");
                let found = found.into_inner().write.expect("a write");
                if found.state() == WriteState::Finished {
                    return;
                }
                tokio::time::sleep(MOMENT).await;
            }
        };
        within(SOON, finished).await;
        app.stop().await;
    }
}

#[tokio::test]
async fn damaged_token_is_fetched_again() {
    let all = [
        Set("UPDATE tokens SET value = x'FF'"),
        Set("UPDATE tokens SET until = 'x', since = 'x'"),
        Set("UPDATE tokens SET generation = 'x'"),
        Set("UPDATE tokens SET generation = -1"),
        PutField("value", "\\xff"),
        PutField("over", "x"),
        PutField("since", "x"),
        PutField("generation", "x"),
        PutField("generation", "-1"),
        DropField("value"),
        DropRow,
    ];
    for damage in all {
        let app = Damaged::start(damage, "").await;
        app.list_stores().await;
        app.damage("tokens", 1, damage).await;
        let app = app.restart().await;
        let before = app.count(STABLE_TOKEN);
        app.list_stores().await;
        assert_eq!(app.count(STABLE_TOKEN) - before, 1, "{damage:?}");
        let app = app.restart().await;
        let before = app.count(STABLE_TOKEN);
        app.list_stores().await;
        assert_eq!(app.count(STABLE_TOKEN), before, "{damage:?}: the new one was kept");
        app.stop().await;
    }
}
