//! The behavior that every backend of the state must have: a suite of cases, which `conformance!`
//! runs on each backend.

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, resume_unwind},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::task::JoinSet;
use wechat_store_gateway::{
    pb::{AuditState, SubmissionKind},
    state::{
        Acquired, Appended, Begun, Event, EventKey, EventQuery, LogPosition, NewEvent,
        NewSubmission, NewWrite, Origin, Outcome, Segment, Sent, State, Submission,
        SubmissionQuery, Write, WriteQuery, WriteState,
    },
    testing::{AppId, Scope, Secret},
};

/// A state that is empty when a case begins.
pub(crate) trait Backend {
    /// Returns the state itself.
    fn state(&self) -> Arc<dyn State>;
    /// Lets this much of the backend's time pass. Cases need less than a second, because some
    /// backends must sleep.
    async fn pass(&self, time: Duration);
    /// Lets any time pass, but only for writes that exist already.
    async fn pass_for_writes(&self, time: Duration);
    /// Closes the state and opens it again. No other code may hold a part of it then.
    async fn reopen(&mut self);
    /// Examines what a case left behind.
    async fn after(self)
    where
        Self: Sized,
    {
    }
}

/// Runs every case as a separate test on the state that a function opens, or all of them in one test, one after
/// another. The compiler reports a case that is missing here as dead code.
macro_rules! conformance {
    ($open:ident) => {
        $crate::state::conformance! { @cases separately $open }
    };
    ($test:ident runs all on $open:ident) => {
        $crate::state::conformance! { @cases together $open $test }
    };
    (@cases $how:ident $open:ident $($test:ident)?) => {
        $crate::state::conformance! { @$how $open $($test)?:
            event_is_appended_once
            concurrent_appends_leave_no_gap
            event_pages_match_the_query
            event_page_size_is_bounded
            append_wakes_waiting_reader
            log_reports_its_bounds
            submission_is_stored_once
            submission_pages_match_the_query
            newest_picture_submission_is_found
            event_decides_submission_in_any_order
            later_pushed_result_counts
            second_simultaneous_result_counts
            pushed_result_outweighs_polled_one
            polled_result_requires_open_submission
            event_without_result_decides_nothing
            merchant_submission_gets_event_audit_id
            older_event_does_not_decide_merchant_submission
            store_submission_without_audit_id_matches_by_store
            polled_store_is_matched_by_its_push
            event_without_kind_or_id_stands_alone
            review_belongs_to_account_and_kind
            known_store_id_is_kept
            every_order_leads_to_the_same_submissions
            due_submission_is_taken_once_per_interval
            pruning_keeps_recent_and_newest_events
            pruning_keeps_open_submissions
            write_is_claimed_by_one
            write_is_identified_by_account_method_and_id
            two_callers_may_use_one_request_id
            naming_callers_keeps_their_writes
            new_write_can_be_sent_at_once
            submission_is_stored_with_write_end
            other_request_with_same_id_is_refused
            expired_claim_is_given_to_next_caller
            sending_requires_a_live_claim
            sent_write_becomes_unknown_after_its_time
            known_outcome_replaces_unknown
            released_write_is_deleted
            only_unknown_write_is_resolved
            write_pages_match_the_query
            writes_are_pruned_after_a_day_unless_unknown
            lease_has_one_holder
            lease_without_renewal_is_lost
            released_lease_has_a_pause
            token_has_generation_and_life
            first_of_two_new_tokens_is_kept
            dropped_token_keeps_its_generation
            rate_limit_is_counted
            newest_ticket_is_kept
            ticket_counts_for_twelve_hours
            two_platforms_share_nothing
            latest_authorization_change_counts
            ended_authorization_stays_ended
            refresh_token_is_replaced_by_one_caller
            changed_authorizer_is_not_described
            authorizers_are_paged_in_order
            pruning_keeps_present_authorizers
            reopening_keeps_everything
            probe_succeeds
        }
    };
    (@separately $open:ident: $($case:ident)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            let mut backend = $open().await;
            $crate::state::$case(&mut backend).await;
            $crate::state::Backend::after(backend).await;
        }
    )+};
    (@together $open:ident $test:ident: $($case:ident)+) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            let mut backend = $open().await;
            $(
                backend.empty().await;
                $crate::state::in_case(
                    stringify!($case),
                    $crate::state::$case(&mut backend),
                ).await;
            )+
        }
    };
}
pub(crate) use conformance;

/// Runs a case, and names it if it fails.
#[expect(clippy::print_stderr, reason = "the name is for the person at the terminal")]
pub(crate) async fn in_case(name: &str, case: impl Future<Output = ()>) {
    if let Err(failed) = AssertUnwindSafe(case).catch_unwind().await {
        eprintln!("failed: {name}");
        resume_unwind(failed);
    }
}

pub(crate) use crate::state_platforms::*;

/// A short and a long time, for cases in which the backend's time matters.
const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(60);

// === The log of events ===

pub(crate) async fn event_is_appended_once(backend: &mut impl Backend) {
    let state = backend.state();
    assert_eq!(append(&state, event("a")).await, Appended::New(1));
    assert_eq!(append(&state, event("b")).await, Appended::New(2));
    let again = NewEvent { message: "other".into(), ..event("a") };
    assert_eq!(append(&state, again).await, Appended::Known(1));

    let events = all_events(&state).await;
    assert_eq!(names(&events), ["a", "b"]);
    let [Event { position, key, received, message: _, supersedes, superseded_by, submission }, _] =
        &*events
    else {
        panic!("two events")
    };
    assert_eq!((*position, *key), (1, EventKey(key_of("a"))));
    assert!(*received > 1_600_000_000_000, "milliseconds since 1970");
    assert_eq!((&**supersedes, &**superseded_by, submission), ("", "", &None));
}

pub(crate) async fn concurrent_appends_leave_no_gap(backend: &mut impl Backend) {
    let state = backend.state();
    let mut appends = JoinSet::new();
    for n in 0..200 {
        let state = state.clone();
        // Every tenth event already exists or is being appended.
        let event = event(&format!("{}", if n % 10 == 9 { n - 1 } else { n }));
        appends.spawn(async move { append(&state, event).await });
    }
    let appended = appends.join_all().await;
    let mut new: Vec<u64> = appended
        .iter()
        .filter_map(|appended| match appended {
            Appended::New(position) => Some(*position),
            _ => None,
        })
        .collect();
    new.sort_unstable();
    assert_eq!(new, (1..=180).collect::<Vec<_>>());
    let known = |appended: &&Appended| matches!(appended, Appended::Known(1..=180));
    assert_eq!(appended.iter().filter(known).count(), 20);

    let positions: Vec<_> = all_events(&state).await.iter().map(|event| event.position).collect();
    assert_eq!(positions, new);
}

pub(crate) async fn event_pages_match_the_query(backend: &mut impl Backend) {
    let state = backend.state();
    remember(&state, NewSubmission { audit_id: "A".to_owned().into(), ..submission("s") }).await;
    append(&state, about("A", "a", 1)).await;
    append(&state, NewEvent { app_id: app("wx2"), ..event("b") }).await;
    append(&state, NewEvent { kind: SubmissionKind::MapPoi, ..event("c") }).await;
    backend.pass(SHORT).await;
    append(&state, event("d")).await;
    let received = all_events(&state).await[3].received;

    let all = EventQuery { limit: 10, ..EventQuery::default() };
    let read = async |query| names(&state.events(query).await.expect("a page").events);
    assert_eq!(
        read(EventQuery { accounts: Scope::one(app("wx1")), ..all.clone() }).await,
        ["a", "c", "d"]
    );
    let kinds = vec![SubmissionKind::MapPoi, SubmissionKind::Merchant];
    assert_eq!(read(EventQuery { kinds, ..all.clone() }).await, ["c"]);
    let submission_id = Some("s".to_owned());
    assert_eq!(read(EventQuery { submission_id, ..all.clone() }).await, ["a"]);
    let submission_id = Some("s".to_owned());
    assert!(read(EventQuery { submission_id, after: 1, ..all.clone() }).await.is_empty());
    assert_eq!(read(EventQuery { from: Some(received), ..all.clone() }).await, ["d"]);
    assert_eq!(read(EventQuery { until: Some(received), ..all.clone() }).await, ["a", "b", "c"]);

    let two = EventQuery { after: 1, limit: 2, ..EventQuery::default() };
    let page = state.events(two).await.expect("a page");
    assert_eq!((names(&page.events), page.seen, page.at_end), (named(&["b", "c"]), 3, false));
    let rest = EventQuery { after: page.seen, limit: 1, ..EventQuery::default() };
    let page = state.events(rest).await.expect("a page");
    assert_eq!((names(&page.events), page.seen, page.at_end), (named(&["d"]), 4, true));
    let none = EventQuery { kinds: vec![SubmissionKind::NearbyPoi], ..all.clone() };
    let page = state.events(none).await.expect("a page");
    assert_eq!((page.events.len(), page.seen, page.at_end), (0, 4, true));
    for after in [9, u64::MAX] {
        let beyond = EventQuery { after, ..all.clone() };
        let page = state.events(beyond).await.expect("a page");
        assert_eq!((page.events.len(), page.seen, page.at_end), (0, after, true));
    }
}

pub(crate) async fn event_page_size_is_bounded(backend: &mut impl Backend) {
    const SIZES: [usize; 7] = [1 << 20, 1 << 20, 2 << 20, 5 << 20, 1, 1 << 20, 1];
    let state = backend.state();
    let text = |size: usize| Bytes::from(vec![b'x'; size]);
    for (name, size) in ["a", "b", "c", "d", "e", "f", "g"].into_iter().zip(SIZES) {
        append(&state, NewEvent { message: text(size), ..event(name) }).await;
        remember(&state, NewSubmission { message: text(size), ..submission(name) }).await;
        let fence = claim(&state, write(name, name), LONG).await;
        state
            .ended(name, fence, Outcome::Finished { reply: text(size), submission: None })
            .await
            .expect("noted");
    }
    // The third event would exceed the limit, and the fourth exceeds it alone.
    let pages: [&[usize]; 4] = [&SIZES[..2], &SIZES[2..3], &SIZES[3..4], &SIZES[4..]];

    let (mut after, mut found, mut before) = (0, Vec::new(), None);
    loop {
        let query = EventQuery { after, limit: 100, ..EventQuery::default() };
        let page = state.events(query).await.expect("a page");
        assert_eq!(page.before, before, "after {after}");
        found.push(page.events.iter().map(|event| event.message.len()).collect::<Vec<_>>());
        (after, before) = (page.seen, page.events.last().map(Event::log_position));
        if page.at_end {
            break;
        }
    }
    assert_eq!(found, pages);
    for (bytes, expected) in [(0, 1), (1 << 20, 1), ((2 << 20) + 1000, 2), (usize::MAX, 2)] {
        let query = EventQuery { limit: 100, bytes: Some(bytes), ..EventQuery::default() };
        let page = state.events(query).await.expect("a page");
        assert_eq!((page.events.len(), page.seen, page.at_end), (expected, expected as u64, false));
    }

    let (mut after, mut found) = (0, Vec::new());
    loop {
        let query = SubmissionQuery { after, limit: 100, ..SubmissionQuery::default() };
        let page = state.submissions(query).await.expect("a page");
        found.push(page.submissions.iter().map(|it| it.message.len()).collect::<Vec<_>>());
        after = page.seen;
        if page.at_end {
            break;
        }
    }
    assert_eq!(found, pages);

    let (mut after, mut found) = (0, Vec::new());
    loop {
        let query = WriteQuery { after, limit: 100, ..WriteQuery::default() };
        let page = state.writes(query).await.expect("a page");
        let length = |write: &Write| write.reply.as_ref().map_or(0, Bytes::len);
        found.push(page.writes.iter().map(length).collect::<Vec<_>>());
        after = page.seen;
        if page.at_end {
            break;
        }
    }
    assert_eq!(found, pages);
}

pub(crate) async fn append_wakes_waiting_reader(backend: &mut impl Backend) {
    let state = backend.state();
    let waiter = tokio::spawn({
        let state = state.clone();
        async move { state.newer(0).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiter.is_finished(), "nothing is newer");
    append(&state, event("a")).await;
    let soon = Duration::from_secs(5);
    tokio::time::timeout(soon, waiter).await.expect("woken").expect("no panic").expect("no error");
    // The submission record that was provided is the one that is read.
    remember(&state, NewSubmission { audit_id: "B".to_owned().into(), ..submission("s") }).await;
    for (audit_id, id) in [("B", "b"), ("B", "c"), ("A", "d")] {
        append(&state, about(audit_id, id, 1)).await;
    }
    let all = EventQuery { limit: 9, ..EventQuery::default() };
    let page = state.events(all).await.expect("a page");
    assert!(
        page.events[1].submission.is_some() && !page.events[2].supersedes.is_empty(),
        "{page:?}"
    );
    for (passed, at) in
        [page.log.pruned].into_iter().chain(page.events.iter().map(Event::log_position)).enumerate()
    {
        let newer = state.newer(at.position);
        if passed == page.events.len() {
            let none = tokio::time::timeout(Duration::from_millis(50), newer).await;
            assert!(none.is_err(), "{none:?}");
            continue;
        }
        let newer = tokio::time::timeout(soon, newer).await.expect("there is one");
        if let Some(Segment { after, events }) = newer.expect("no error") {
            assert_eq!((after, &*events), (at, &page.events[passed..]));
        }
    }
}

pub(crate) async fn log_reports_its_bounds(backend: &mut impl Backend) {
    let state = backend.state();
    let nowhere = LogPosition { position: 0, key: EventKey([0; 32]) };
    let log = state.log().await.expect("a log");
    assert_eq!((log.pruned, log.newest), (nowhere, nowhere));
    append(&state, event("a")).await;
    append(&state, event("b")).await;
    append(&state, event("a")).await;
    let later = state.log().await.expect("a log");
    assert_eq!((later.epoch, later.pruned), (log.epoch, nowhere));
    assert_eq!(later.newest, LogPosition { position: 2, key: EventKey(key_of("b")) });
}

// === Submissions ===

pub(crate) async fn submission_is_stored_once(backend: &mut impl Backend) {
    let state = backend.state();
    let new = NewSubmission {
        audit_id: "A".to_owned().into(),
        poi_id: "7".to_owned().into(),
        ..submission("s")
    };
    remember(&state, new).await;
    remember(&state, NewSubmission { message: "other".into(), ..submission("s") }).await;
    remember(&state, submission("t")).await;
    let Submission {
        number,
        message,
        created,
        audit_id,
        state: stands,
        reason,
        poi_id,
        map_poi_id,
        event_id,
        decided,
    } = find(&state, "s").await;
    assert_eq!((number, message), (1, Bytes::from("s")));
    assert!(created > 1_600_000_000_000, "milliseconds since 1970");
    assert_eq!((audit_id.as_str(), poi_id.as_str(), map_poi_id.as_str()), ("A", "7", ""));
    assert_eq!((stands, &*reason), (AuditState::InReview, ""));
    assert_eq!((&*event_id, decided), ("", 0));
    assert_eq!(find(&state, "t").await.number, 2);
    assert_eq!(state.submission("u").await, Ok(None));
}

pub(crate) async fn submission_pages_match_the_query(backend: &mut impl Backend) {
    let state = backend.state();
    remember(&state, NewSubmission { app_id: app("wx2"), ..submission("a") }).await;
    remember(&state, NewSubmission { kind: SubmissionKind::MapPoi, ..submission("b") }).await;
    remember(&state, NewSubmission { client_reference: "r".to_owned(), ..submission("c") }).await;
    backend.pass(SHORT).await;
    remember(&state, NewSubmission { state: AuditState::AwaitingAdmin, ..submission("d") }).await;
    remember(&state, NewSubmission { audit_id: "A".to_owned().into(), ..submission("e") }).await;
    append(&state, about("A", "x", 1)).await;
    let created = find(&state, "d").await.created;

    let all = SubmissionQuery { limit: 10, ..SubmissionQuery::default() };
    let read = async |query| texts(&state.submissions(query).await.expect("a page").submissions);
    assert_eq!(read(all.clone()).await, ["a", "b", "c", "d", "e"]);
    assert_eq!(
        read(SubmissionQuery { accounts: Scope::one(app("wx2")), ..all.clone() }).await,
        ["a"]
    );
    let kinds = vec![SubmissionKind::MapPoi, SubmissionKind::Merchant];
    assert_eq!(read(SubmissionQuery { kinds, ..all.clone() }).await, ["b"]);
    let client_reference = Some("r".to_owned());
    assert_eq!(read(SubmissionQuery { client_reference, ..all.clone() }).await, ["c"]);
    assert_eq!(
        read(SubmissionQuery { until: Some(created), ..all.clone() }).await,
        ["a", "b", "c"]
    );
    for (states, expected) in [
        (vec![AuditState::AwaitingAdmin], vec!["d"]),
        (vec![AuditState::AwaitingAdmin, AuditState::InReview], vec!["a", "b", "c", "d"]),
        (vec![AuditState::Approved], vec!["e"]),
        (vec![AuditState::Approved, AuditState::AwaitingAdmin], vec!["d", "e"]),
    ] {
        assert_eq!(read(SubmissionQuery { states, ..all.clone() }).await, expected);
    }

    let two = SubmissionQuery { after: 1, limit: 2, ..SubmissionQuery::default() };
    let page = state.submissions(two).await.expect("a page");
    assert_eq!((texts(&page.submissions), page.seen, page.at_end), (named(&["b", "c"]), 3, false));
    let open = vec![AuditState::AwaitingAdmin, AuditState::InReview];
    let rest = SubmissionQuery { after: 3, states: open, ..all };
    let page = state.submissions(rest).await.expect("a page");
    assert_eq!((texts(&page.submissions), page.seen, page.at_end), (named(&["d"]), 5, true));
}

pub(crate) async fn newest_picture_submission_is_found(backend: &mut impl Backend) {
    let state = backend.state();
    let pictures = |id| NewSubmission {
        kind: SubmissionKind::StorePictures,
        poi_id: "7".to_owned().into(),
        ..submission(id)
    };
    remember(&state, pictures("a")).await;
    remember(&state, pictures("b")).await;
    remember(&state, NewSubmission { poi_id: "8".to_owned().into(), ..pictures("c") }).await;
    remember(&state, NewSubmission { app_id: app("wx2"), ..pictures("d") }).await;
    remember(&state, NewSubmission { kind: SubmissionKind::Store, ..pictures("e") }).await;
    let found = state.pictures(&app("wx1"), &"7".to_owned().into()).await.expect("no error");
    assert_eq!(found.expect("one").message, "b");
    assert_eq!(state.pictures(&app("wx1"), &"9".to_owned().into()).await, Ok(None));
}

pub(crate) async fn event_decides_submission_in_any_order(backend: &mut impl Backend) {
    let state = backend.state();
    for remembered_first in [true, false] {
        let id = format!("{remembered_first}");
        let new = NewSubmission { audit_id: id.clone().into(), ..submission(&id) };
        let event = NewEvent {
            state: AuditState::Rejected,
            reason: "blurred".to_owned(),
            map_poi_id: "5938314494307741153".to_owned().into(),
            ..about(&id, &id, 1)
        };
        if remembered_first {
            remember(&state, new).await;
            append(&state, event).await;
        } else {
            append(&state, event).await;
            assert_eq!(all_events(&state).await.last().expect("one").submission, None);
            remember(&state, new).await;
        }
        let found = find(&state, &id).await;
        assert_eq!((found.state, &*found.reason), (AuditState::Rejected, "blurred"));
        assert_eq!((found.event_id, found.audit_id.as_str()), (id.clone(), &*id));
        assert_eq!(found.map_poi_id.as_str(), "5938314494307741153");
        assert!(found.decided >= found.created);
        let linked = EventQuery { limit: 9, submission_id: Some(id.clone()), ..Default::default() };
        let linked = state.events(linked).await.expect("a page").events;
        assert_eq!(names(&linked), [&*id]);
        assert_eq!(linked[0].submission, Some(id.into()));
    }
}

pub(crate) async fn later_pushed_result_counts(backend: &mut impl Backend) {
    let state = backend.state();
    for audit_id in ["A", "B"] {
        remember(
            &state,
            NewSubmission { audit_id: audit_id.to_owned().into(), ..submission(audit_id) },
        )
        .await;
    }
    append(&state, about("A", "a1", 1)).await;
    append(&state, rejected(about("A", "a2", 2))).await;
    append(&state, rejected(about("B", "b2", 2))).await;
    append(&state, about("B", "b1", 1)).await;

    assert_stands(&state, "A", AuditState::Rejected, "a2").await;
    assert_stands(&state, "B", AuditState::Rejected, "b2").await;
    let relations = relations(&state).await;
    assert_eq!(
        relations,
        [("a1", "", ""), ("a2", "a1", ""), ("b2", "", ""), ("b1", "", "b2")].map(owned)
    );

    // The same applies if the submission was made elsewhere.
    append(&state, about("C", "c2", 2)).await;
    append(&state, about("C", "c1", 1)).await;
    let last = self::relations(&state).await.pop();
    assert_eq!(last, Some(owned(("c1", "", "c2"))));
}

pub(crate) async fn second_simultaneous_result_counts(backend: &mut impl Backend) {
    let state = backend.state();
    append(&state, about("A", "a", 1)).await;
    append(&state, rejected(about("A", "b", 1))).await;
    remember(&state, NewSubmission { audit_id: "A".to_owned().into(), ..submission("s") }).await;
    assert_stands(&state, "s", AuditState::Rejected, "b").await;
    assert_eq!(relations(&state).await, [("a", "", ""), ("b", "a", "")].map(owned));
    append(&state, about("A", "c", 1)).await;
    assert_stands(&state, "s", AuditState::Approved, "c").await;
}

pub(crate) async fn pushed_result_outweighs_polled_one(backend: &mut impl Backend) {
    let state = backend.state();
    remember(&state, NewSubmission { audit_id: "A".to_owned().into(), ..submission("s") }).await;
    append(&state, asked("s", event("asked"))).await;
    assert_stands(&state, "s", AuditState::Approved, "asked").await;
    append(&state, rejected(about("A", "pushed", 1))).await;
    assert_stands(&state, "s", AuditState::Rejected, "pushed").await;
    assert_eq!(relations(&state).await, [("asked", "", ""), ("pushed", "asked", "")].map(owned));
}

pub(crate) async fn polled_result_requires_open_submission(backend: &mut impl Backend) {
    let state = backend.state();
    assert_eq!(append(&state, asked("s", event("a"))).await, Appended::Decided);
    remember(&state, submission("s")).await;
    assert_eq!(append(&state, asked("s", event("a"))).await, Appended::New(1));
    assert_eq!(append(&state, asked("s", event("a"))).await, Appended::Known(1));
    assert_eq!(append(&state, asked("s", event("b"))).await, Appended::Decided);
    assert_eq!(append(&state, event("c")).await, Appended::New(2));

    let begun = NewSubmission { state: AuditState::Approved, ..submission("begun") };
    remember(&state, begun).await;
    assert_eq!(append(&state, asked("begun", event("d"))).await, Appended::Decided);
    assert!(find(&state, "begun").await.decided > 0);
}

pub(crate) async fn event_without_result_decides_nothing(backend: &mut impl Backend) {
    let state = backend.state();
    remember(&state, NewSubmission { audit_id: "A".to_owned().into(), ..submission("s") }).await;
    for (id, without) in [("a", AuditState::Unspecified), ("b", AuditState::InReview)] {
        append(&state, NewEvent { state: without, ..about("A", id, 9) }).await;
        assert_stands(&state, "s", AuditState::InReview, "").await;
    }
    assert_eq!(append(&state, asked("s", event("c"))).await, Appended::New(3));
    assert_stands(&state, "s", AuditState::Approved, "c").await;
    append(&state, NewEvent { state: AuditState::Unspecified, ..about("A", "d", 9) }).await;
    assert_stands(&state, "s", AuditState::Approved, "c").await;
    let alone = |id| owned((id, "", ""));
    assert_eq!(relations(&state).await, ["a", "b", "c", "d"].map(alone));
    assert!(all_events(&state).await.iter().all(|event| event.submission.is_some()));
}

pub(crate) async fn merchant_submission_gets_event_audit_id(backend: &mut impl Backend) {
    let state = backend.state();
    let merchant = |id| NewSubmission { kind: SubmissionKind::Merchant, ..submission(id) };
    let event = |audit_id, id, time| NewEvent {
        kind: SubmissionKind::Merchant,
        ..about(audit_id, id, time)
    };
    remember(&state, merchant("first")).await;
    remember(&state, merchant("second")).await;
    remember(&state, NewSubmission { app_id: app("wx2"), ..merchant("other") }).await;
    append(&state, rejected(event("A", "a", 1))).await;
    assert_stands(&state, "second", AuditState::Rejected, "a").await;
    assert_eq!(find(&state, "second").await.audit_id.as_str(), "A");
    // The same review again, and another one.
    append(&state, event("A", "b", 2)).await;
    assert_stands(&state, "second", AuditState::Approved, "b").await;
    assert_stands(&state, "first", AuditState::InReview, "").await;
    append(&state, event("B", "c", 3)).await;
    assert_stands(&state, "first", AuditState::Approved, "c").await;
    assert_stands(&state, "other", AuditState::InReview, "").await;

    // WeChat may send no id.
    remember(&state, merchant("third")).await;
    append(&state, event("", "d", 4)).await;
    assert_stands(&state, "third", AuditState::Approved, "d").await;
    // A polled result and then a pushed one belong to one review.
    remember(&state, merchant("fourth")).await;
    let question = NewEvent { kind: SubmissionKind::Merchant, ..self::event("e") };
    append(&state, asked("fourth", question)).await;
    append(&state, rejected(event("C", "f", 5))).await;
    assert_stands(&state, "fourth", AuditState::Rejected, "f").await;
    assert_eq!(relations(&state).await.pop(), Some(owned(("f", "e", ""))));
}

pub(crate) async fn older_event_does_not_decide_merchant_submission(backend: &mut impl Backend) {
    let state = backend.state();
    let event =
        |audit_id, id| NewEvent { kind: SubmissionKind::Merchant, ..about(audit_id, id, 1) };
    append(&state, rejected(event("A", "by hand"))).await;
    append(&state, rejected(event("", "by hand, without an id"))).await;
    remember(&state, NewSubmission { kind: SubmissionKind::Merchant, ..submission("s") }).await;
    assert_stands(&state, "s", AuditState::InReview, "").await;
    append(&state, event("B", "b")).await;
    assert_stands(&state, "s", AuditState::Approved, "b").await;
}

pub(crate) async fn store_submission_without_audit_id_matches_by_store(backend: &mut impl Backend) {
    let state = backend.state();
    let store = |id, poi_id: &str| NewSubmission {
        kind: SubmissionKind::Store,
        poi_id: poi_id.to_owned().into(),
        ..submission(id)
    };
    let event = |audit_id, id, poi_id: &str| NewEvent {
        kind: SubmissionKind::Store,
        poi_id: poi_id.to_owned().into(),
        ..about(audit_id, id, 1)
    };
    remember(&state, store("found", "7")).await;
    remember(&state, NewSubmission { app_id: app("wx2"), ..store("other account", "7") }).await;
    remember(&state, store("nowhere", "")).await;
    let known = NewSubmission { audit_id: "K".to_owned().into(), ..store("known", "8") };
    remember(&state, known).await;
    let pictures = NewSubmission { kind: SubmissionKind::StorePictures, ..store("pictures", "9") };
    remember(&state, pictures).await;
    append(&state, rejected(event("A", "a", ""))).await;
    append(&state, event("B", "b", "8")).await;
    append(&state, event("C", "c", "9")).await;
    for id in ["found", "other account", "nowhere", "known", "pictures"] {
        assert_stands(&state, id, AuditState::InReview, "").await;
    }
    append(&state, event("D", "d", "7")).await;
    assert_stands(&state, "found", AuditState::Approved, "d").await;
    assert_eq!(find(&state, "found").await.audit_id.as_str(), "D");
    assert_stands(&state, "other account", AuditState::InReview, "").await;
    // It has an id now.
    append(&state, event("E", "e", "7")).await;
    assert_stands(&state, "found", AuditState::Approved, "d").await;
    append(&state, rejected(event("D", "f", ""))).await;
    assert_stands(&state, "found", AuditState::Rejected, "f").await;
}

pub(crate) async fn polled_store_is_matched_by_its_push(backend: &mut impl Backend) {
    let state = backend.state();
    let store =
        |event| NewEvent { kind: SubmissionKind::Store, poi_id: "7".to_owned().into(), ..event };
    remember(&state, NewSubmission { kind: SubmissionKind::Store, ..submission("s") }).await;
    let origin = Origin::Polled { submission_id: "s".to_owned() };
    append(&state, rejected(store(NewEvent { origin, ..about("", "a", 1) }))).await;
    assert_stands(&state, "s", AuditState::Rejected, "a").await;
    append(&state, store(about("A", "b", 2))).await;
    assert_stands(&state, "s", AuditState::Approved, "b").await;
    assert_eq!(find(&state, "s").await.audit_id.as_str(), "A");
    assert_eq!(relations(&state).await, [owned(("a", "", "")), owned(("b", "a", ""))]);
}

pub(crate) async fn event_without_kind_or_id_stands_alone(backend: &mut impl Backend) {
    let state = backend.state();
    remember(&state, submission("without")).await;
    remember(&state, NewSubmission { audit_id: "A".to_owned().into(), ..submission("with") }).await;
    let unspecified = SubmissionKind::Unspecified;
    append(&state, event("a")).await;
    append(&state, event("b")).await;
    append(&state, NewEvent { kind: unspecified, ..about("A", "c", 1) }).await;
    append(&state, NewEvent { kind: unspecified, ..about("A", "d", 2) }).await;
    assert_stands(&state, "without", AuditState::InReview, "").await;
    assert_stands(&state, "with", AuditState::InReview, "").await;
    assert_eq!(relations(&state).await, ["a", "b", "c", "d"].map(|id| owned((id, "", ""))));
    assert!(all_events(&state).await.iter().all(|event| event.submission.is_none()));
}

pub(crate) async fn review_belongs_to_account_and_kind(backend: &mut impl Backend) {
    let state = backend.state();
    remember(&state, NewSubmission { audit_id: "A".to_owned().into(), ..submission("s") }).await;
    append(&state, NewEvent { app_id: app("wx2"), ..about("A", "a", 1) }).await;
    append(&state, NewEvent { kind: SubmissionKind::MapPoi, ..about("A", "b", 1) }).await;
    assert_stands(&state, "s", AuditState::InReview, "").await;
    append(&state, about("A", "c", 1)).await;
    assert_stands(&state, "s", AuditState::Approved, "c").await;
    assert_eq!(relations(&state).await, ["a", "b", "c"].map(|id| owned((id, "", ""))));
}

pub(crate) async fn known_store_id_is_kept(backend: &mut impl Backend) {
    let state = backend.state();
    remember(&state, NewSubmission { audit_id: "A".to_owned().into(), ..submission("s") }).await;
    append(&state, NewEvent { poi_id: "7".to_owned().into(), ..about("A", "a", 1) }).await;
    assert_eq!(find(&state, "s").await.poi_id.as_str(), "7");
    append(&state, rejected(about("A", "b", 2))).await;
    assert_eq!(find(&state, "s").await.poi_id.as_str(), "7");
    append(&state, NewEvent { poi_id: "8".to_owned().into(), ..about("A", "c", 3) }).await;
    let found = find(&state, "s").await;
    assert_eq!((found.poi_id.as_str(), &*found.reason), ("8", ""));
}

/// A step of [`every_order_leads_to_the_same_submissions`].
#[derive(Clone, Debug)]
enum Step {
    Append(NewEvent),
    Remember(NewSubmission),
}

pub(crate) async fn every_order_leads_to_the_same_submissions(backend: &mut impl Backend) {
    let state = backend.state();
    for seed in 0..30 {
        let mut rng = fastrand::Rng::with_seed(seed);
        // Each round has its own account.
        let app_id = app(&format!("wx{seed}"));
        let mut steps = Vec::new();
        let mut expected = Vec::new();
        for audit_id in ["A", "B", "C"] {
            let id = format!("{seed}{audit_id}");
            let new = NewSubmission {
                app_id: app_id.clone(),
                audit_id: audit_id.to_owned().into(),
                ..submission(&id)
            };
            steps.extend([Step::Remember(new.clone()), Step::Remember(new)]);
            let results = rng.u64(1..=3);
            for time in 1..=results {
                let pushed = about(audit_id, &format!("{id}{time}"), time);
                let pushed = if rng.bool() { rejected(pushed) } else { pushed };
                if time == results {
                    expected.push((id.clone(), pushed.state, pushed.event_id.clone()));
                }
                steps.push(Step::Append(NewEvent { app_id: app_id.clone(), ..pushed }));
            }
            let question = NewEvent { event_time: 99, ..event(&format!("{id} asked")) };
            let undecided = about(audit_id, &format!("{id} undecided"), 99);
            let undecided = NewEvent { state: AuditState::Unspecified, ..undecided };
            for event in [asked(&id, question), undecided] {
                steps.push(Step::Append(NewEvent { app_id: app_id.clone(), ..event }));
            }
        }
        rng.shuffle(&mut steps);
        for step in steps.clone() {
            match step {
                Step::Append(event) => drop(append(&state, event).await),
                Step::Remember(submission) => remember(&state, submission).await,
            }
        }
        for (id, stands, event_id) in expected {
            let found = find(&state, &id).await;
            assert_eq!((found.state, &found.event_id), (stands, &event_id), "{seed}: {steps:#?}");
        }
    }
}

pub(crate) async fn due_submission_is_taken_once_per_interval(backend: &mut impl Backend) {
    let state = backend.state();
    for n in 0..20 {
        let ask_after = Some(SHORT);
        remember(&state, NewSubmission { ask_after, ..submission(&format!("{n}")) }).await;
    }
    remember(&state, submission("cannot be asked")).await;
    remember(&state, NewSubmission { ask_after: Some(LONG), ..submission("later") }).await;
    let audit_id = "A".to_owned().into();
    let decided = NewSubmission { ask_after: Some(SHORT), audit_id, ..submission("decided") };
    remember(&state, decided).await;
    append(&state, about("A", "a", 1)).await;
    backend.pass(SHORT * 2).await;

    let mut takers = JoinSet::new();
    for _ in 0..4 {
        let state = state.clone();
        takers.spawn(async move { state.take_due(SHORT, 6).await.expect("no error") });
    }
    let taken: Vec<_> = takers.join_all().await.into_iter().flatten().collect();
    assert_eq!(taken.len(), 20);
    let numbers: HashSet<_> = taken.iter().map(|submission| submission.number).collect();
    assert_eq!(numbers, (1..=20).collect());
    assert_eq!(state.take_due(SHORT, 100).await, Ok(Vec::new()));

    backend.pass(SHORT * 2).await;
    assert_eq!(state.take_due(LONG, 100).await.map(|taken| taken.len()), Ok(20));
    backend.pass(SHORT * 2).await;
    assert_eq!(state.take_due(LONG, 100).await, Ok(Vec::new()));
}

pub(crate) async fn pruning_keeps_recent_and_newest_events(backend: &mut impl Backend) {
    let state = backend.state();
    assert_eq!(state.prune(SHORT).await, Ok(0));
    append(&state, event("a")).await;
    append(&state, event("b")).await;
    backend.pass(SHORT * 2).await;
    append(&state, event("c")).await;
    assert_eq!(prune(&state, SHORT).await, 2);
    assert_eq!(names(&all_events(&state).await), ["c"]);
    let log = state.log().await.expect("a log");
    assert_eq!(log.pruned, LogPosition { position: 2, key: EventKey(key_of("b")) });
    assert_eq!(log.newest, LogPosition { position: 3, key: EventKey(key_of("c")) });

    backend.pass(SHORT * 2).await;
    assert_eq!(prune(&state, SHORT).await, 0, "the newest stays");
    assert_eq!(state.log().await, Ok(log));
    assert_eq!(append(&state, event("d")).await, Appended::New(4));
    assert_eq!(append(&state, event("c")).await, Appended::Known(3));
    assert_eq!(append(&state, event("a")).await, Appended::New(5), "the old event was forgotten");
}

pub(crate) async fn pruning_keeps_open_submissions(backend: &mut impl Backend) {
    let state = backend.state();
    remember(&state, submission("open")).await;
    for id in ["A", "B"] {
        remember(&state, NewSubmission { audit_id: id.to_owned().into(), ..submission(id) }).await;
    }
    append(&state, about("A", "a", 1)).await;
    backend.pass(SHORT * 2).await;
    append(&state, about("B", "b", 1)).await;
    assert_eq!(prune(&state, SHORT).await, 2, "an event and its submission");
    assert_eq!(state.submission("A").await, Ok(None));
    assert_stands(&state, "open", AuditState::InReview, "").await;
    assert_stands(&state, "B", AuditState::Approved, "b").await;

    // The newest event outlives its submission.
    backend.pass(SHORT * 2).await;
    assert_eq!(prune(&state, SHORT).await, 1);
    assert_eq!(state.submission("B").await, Ok(None));
    let events = all_events(&state).await;
    assert_eq!((names(&events), &events[0].submission), (named(&["b"]), &None));
    remember(&state, submission("new")).await;
    assert_eq!(find(&state, "new").await.number, 4, "numbers are not given out again");
}

// === The journal of writes ===

pub(crate) async fn write_is_claimed_by_one(backend: &mut impl Backend) {
    let state = backend.state();
    let mut begins = JoinSet::new();
    for n in 0..8 {
        let state = state.clone();
        let new = NewWrite { client_reference: "shop".to_owned(), ..write(&format!("w{n}"), "r") };
        begins.spawn(async move { begin(&state, new, LONG).await });
    }
    let mut begun = begins.join_all().await;
    let first = begun.iter().position(|begun| matches!(begun, Begun::Claimed { .. }));
    let Begun::Claimed { write_id, fence, sent: false } =
        begun.remove(first.expect("one claims it"))
    else {
        unreachable!()
    };
    assert!(fence > 0);
    for begun in begun {
        let Begun::Known(found) = begun else { panic!("claimed twice: {begun:?}") };
        let created = found.created;
        assert!(created > 1_600_000_000_000, "milliseconds since 1970");
        assert!(found.rest > LONG / 2 && found.rest <= LONG, "{found:?}");
        let expected = Write {
            number: 1,
            write_id: write_id.clone(),
            caller: String::new(),
            app_id: app("wx1"),
            method: "StoreService/AddStore".to_owned(),
            request_id: "r".to_owned(),
            client_reference: "shop".to_owned(),
            state: WriteState::Claimed,
            attempts: 0,
            record: Bytes::new(),
            reply: None,
            created,
            sent: 0,
            ended: 0,
            rest: found.rest,
        };
        assert_eq!(found, expected);
    }
    assert_eq!(numbers(&state, WriteQuery::default()).await, [1]);
    assert_eq!(state.write("never").await, Ok(None));
}

pub(crate) async fn write_is_identified_by_account_method_and_id(backend: &mut impl Backend) {
    let state = backend.state();
    let method = "StoreService/UpdateStore".to_owned();
    for (number, new) in (1..).zip([
        write("a", "r"),
        write("b", "s"),
        NewWrite { app_id: app("wx2"), ..write("c", "r") },
        NewWrite { method, ..write("d", "r") },
        NewWrite { request_id: None, ..write("e", "") },
        NewWrite { request_id: None, ..write("f", "") },
        NewWrite { request_id: None, fingerprint: [2; 32], ..write("g", "") },
    ]) {
        let id = new.write_id.clone();
        let expected = Begun::Claimed { write_id: id.clone(), fence: 1, sent: false };
        assert_eq!(begin(&state, new.clone(), LONG).await, expected);
        let found = find_write(&state, &id).await;
        assert_eq!((found.number, found.request_id), (number, new.request_id.unwrap_or_default()));
    }
    // For example after an error. No other caller can have that claim.
    let unnamed = NewWrite { request_id: None, ..write("e", "") };
    for again in [unnamed, write("a", "r")] {
        let id = again.write_id.clone();
        let expected = Begun::Claimed { write_id: id.clone(), fence: 1, sent: false };
        assert_eq!(begin(&state, again.clone(), LONG).await, expected);
        assert_eq!(state.sent(&id, 1, LONG, Bytes::new()).await, Ok(true));
        assert!(matches!(begin(&state, again, LONG).await, Begun::Known(_)));
    }
    assert_eq!(numbers(&state, WriteQuery::default()).await.len(), 7);
    let known = begin(&state, write("other", "r"), LONG).await;
    assert!(matches!(&known, Begun::Known(write) if write.write_id == "a"), "{known:?}");
}

pub(crate) async fn two_callers_may_use_one_request_id(backend: &mut impl Backend) {
    let state = backend.state();
    let by = |caller: &str, id: &str| NewWrite { caller: caller.to_owned(), ..write(id, "r") };
    for (caller, id) in [("orders", "a"), ("stock", "b"), ("wx1", "c")] {
        let claimed = Begun::Claimed { write_id: id.to_owned(), fence: 1, sent: false };
        assert_eq!(begin(&state, by(caller, id), LONG).await, claimed);
        assert_eq!(find_write(&state, id).await.caller, caller);
    }
    for (caller, id) in [("orders", "a"), ("stock", "b"), ("wx1", "c")] {
        let Begun::Known(known) = begin(&state, by(caller, "again"), LONG).await else {
            panic!("claimed twice")
        };
        assert_eq!((&*known.write_id, &*known.caller), (id, caller));
        let other = NewWrite { fingerprint: [2; 32], ..by(caller, "other") };
        assert_eq!(begin(&state, other, LONG).await, Begun::Other);
    }
    let named = WriteQuery { request_id: Some("r".to_owned()), ..WriteQuery::default() };
    assert_eq!(numbers(&state, named.clone()).await, [1, 2, 3]);
    // One of them can be forgotten without the others.
    state.ended("b", 1, Outcome::Released).await.expect("noted");
    assert_eq!(numbers(&state, named).await, [1, 3]);
    assert!(matches!(begin(&state, by("orders", "again"), LONG).await, Begun::Known(_)));
    assert!(matches!(begin(&state, by("stock", "d"), LONG).await, Begun::Claimed { .. }));
}

/// An operator can name the callers, or stop to, between a request and its repeat.
pub(crate) async fn naming_callers_keeps_their_writes(backend: &mut impl Backend) {
    let state = backend.state();
    let by = |caller: &str, id: &str, request_id: &str| NewWrite {
        caller: caller.to_owned(),
        ..write(id, request_id)
    };
    for (first, second) in [("", "orders"), ("orders", "")] {
        let name = |what: &str| format!("{what} of {first:?}");
        claim(&state, by(first, &name("sent"), &name("r")), LONG).await;
        let Begun::Known(known) = begin(&state, by(second, &name("again"), &name("r")), LONG).await
        else {
            panic!("claimed twice")
        };
        assert_eq!((known.write_id, &*known.caller), (name("sent"), first));
        // Another request is a write of its own, and both are found from then on.
        let other =
            |id: &str| NewWrite { fingerprint: [2; 32], ..by(second, &name(id), &name("r")) };
        claim(&state, other("other"), LONG).await;
        for (repeat, id) in [(other("x"), "other"), (by(first, "x", &name("r")), "sent")] {
            let Begun::Known(known) = begin(&state, repeat, LONG).await else {
                panic!("claimed twice")
            };
            assert_eq!(known.write_id, name(id));
        }
        // A claim without a living owner goes to the next caller, whatever its name.
        let short = by(first, &name("short"), &name("s"));
        claim(&state, short, SHORT).await;
        backend.pass(SHORT).await;
        let taken = begin(&state, by(second, "y", &name("s")), LONG).await;
        let claimed = Begun::Claimed { write_id: name("short"), fence: 2, sent: false };
        assert_eq!(taken, claimed);
    }
}

pub(crate) async fn new_write_can_be_sent_at_once(backend: &mut impl Backend) {
    let state = backend.state();
    let sent = Sent { by: LONG, record: "record".into() };
    let at_once =
        |id: &str, request_id: &str| NewWrite { sent: Some(sent.clone()), ..write(id, request_id) };
    let begun = |id: &str, fence, sent| Begun::Claimed { write_id: id.to_owned(), fence, sent };
    // The second time could be after an error.
    for _ in 0..2 {
        assert_eq!(begin(&state, at_once("a", "r"), SHORT).await, begun("a", 1, true));
        let found = find_write(&state, "a").await;
        assert_eq!((found.state, found.attempts, found.ended), (WriteState::Sent, 1, 0));
        assert_eq!((&*found.record, found.sent), (&b"record"[..], found.created));
        assert!(found.rest > LONG / 2 && found.rest <= LONG, "{found:?}");
    }
    let known = begin(&state, at_once("b", "r"), LONG).await;
    assert!(matches!(&known, Begun::Known(write) if write.write_id == "a"), "{known:?}");
    assert_eq!(state.sent("a", 1, LONG, "later".into()).await, Ok(true), "once more");
    assert_eq!(find_write(&state, "a").await.attempts, 2);
    state.ended("a", 1, finished("reply")).await.expect("noted");
    let known = begin(&state, at_once("a", "r"), LONG).await;
    assert!(matches!(&known, Begun::Known(write) if write.reply.is_some()), "{known:?}");

    // A claim by another caller records the expected effect in that caller's write.
    let fence = claim(&state, write("c", "s"), SHORT).await;
    backend.pass(SHORT).await;
    assert_eq!(begin(&state, at_once("d", "s"), LONG).await, begun("c", fence + 1, false));
    let found = find_write(&state, "c").await;
    assert_eq!((found.state, found.attempts, found.record), (WriteState::Claimed, 0, Bytes::new()));

    // A sent write is unknown when its time is over, and an unsent one leaves nothing.
    let short = Some(Sent { by: SHORT, record: Bytes::new() });
    let new = NewWrite { sent: short, ..write("e", "t") };
    assert_eq!(begin(&state, new.clone(), LONG).await, begun("e", 1, true));
    backend.pass(SHORT).await;
    assert!(matches!(begin(&state, new, LONG).await, Begun::Known(_)));
    assert_eq!(find_write(&state, "e").await.state, WriteState::Unknown);
    state.ended("e", 1, Outcome::Released).await.expect("noted");
    assert_eq!(state.write("e").await, Ok(None));
}

pub(crate) async fn submission_is_stored_with_write_end(backend: &mut impl Backend) {
    let state = backend.state();
    append(&state, about("A", "x", 1)).await;
    let submitted = |id: &str, audit_id: &str| Outcome::Finished {
        reply: "reply".into(),
        submission: Some(Box::new(NewSubmission {
            audit_id: audit_id.to_owned().into(),
            ..submission(id)
        })),
    };
    let fence = claim(&state, write("w", "r"), LONG).await;
    assert_eq!(state.sent("w", fence, LONG, Bytes::new()).await, Ok(true));
    for _ in 0..2 {
        state.ended("w", fence, submitted("s", "A")).await.expect("noted");
        let ended = find_write(&state, "w").await;
        assert_eq!((ended.state, ended.reply), (WriteState::Finished, Some("reply".into())));
        let decided = find(&state, "s").await;
        assert_eq!((decided.number, &*decided.event_id), (1, "x"));
    }

    // WeChat executed it, whichever caller has the write by now.
    let fence = claim(&state, write("v", "q"), LONG).await;
    state.ended("v", fence + 1, submitted("t", "B")).await.expect("noted");
    assert_eq!(find_write(&state, "v").await.state, WriteState::Claimed);
    assert_eq!(find(&state, "t").await.state, AuditState::InReview);
}

pub(crate) async fn other_request_with_same_id_is_refused(backend: &mut impl Backend) {
    let state = backend.state();
    let other = NewWrite { fingerprint: [2; 32], ..write("other", "r") };
    let is_other = async || {
        assert_eq!(begin(&state, other.clone(), LONG).await, Begun::Other);
        assert_eq!(begin(&state, other.clone(), SHORT).await, Begun::Other);
    };
    let fence = claim(&state, write("w", "r"), SHORT).await;
    is_other().await;
    backend.pass(SHORT * 2).await;
    is_other().await;
    let second = claim(&state, write("w2", "r"), LONG).await;
    assert!(second > fence);
    assert_eq!(state.sent("w", second, SHORT, Bytes::new()).await, Ok(true));
    is_other().await;
    backend.pass(SHORT * 2).await;
    is_other().await;
    state.ended("w", second, Outcome::Unknown).await.expect("noted");
    is_other().await;
    state.ended("w", second, finished("reply")).await.expect("noted");
    is_other().await;
    assert_eq!(find_write(&state, "w").await.reply, Some("reply".into()));
    assert_eq!(state.write("other").await, Ok(None));
}

pub(crate) async fn expired_claim_is_given_to_next_caller(backend: &mut impl Backend) {
    let state = backend.state();
    let old = claim(&state, write("w", "r"), SHORT).await;
    let created = find_write(&state, "w").await.created;
    backend.pass(SHORT * 2).await;
    let over = find_write(&state, "w").await;
    assert_eq!((over.state, over.rest), (WriteState::Claimed, Duration::ZERO));

    let mut begins = JoinSet::new();
    for n in 0..8 {
        let state = state.clone();
        begins.spawn(async move { begin(&state, write(&format!("w{n}"), "r"), LONG).await });
    }
    let begun = begins.join_all().await;
    let fences: Vec<_> = begun
        .iter()
        .filter_map(|begun| match begun {
            Begun::Claimed { write_id, fence, .. } if write_id == "w" => Some(*fence),
            _ => None,
        })
        .collect();
    assert_eq!(fences.len(), 1, "{begun:?}");
    assert!(fences[0] > old);
    assert_eq!(begun.iter().filter(|begun| matches!(begun, Begun::Known(_))).count(), 7);

    // The previous holder has lost it, whether it was claimed or sent.
    for round in 0..2 {
        let before = find_write(&state, "w").await;
        assert_eq!((before.number, before.created), (1, created));
        assert_eq!(state.sent("w", old, LONG, Bytes::new()).await, Ok(false));
        assert_eq!(state.sent("w", fences[0] + 1, LONG, Bytes::new()).await, Ok(false));
        for outcome in [finished("late"), Outcome::Released, Outcome::Unknown] {
            state.ended("w", old, outcome.clone()).await.expect("does nothing");
            state.ended("w", fences[0] + 1, outcome).await.expect("does nothing");
        }
        let after = find_write(&state, "w").await;
        assert_eq!(Write { rest: before.rest, ..after }, before);
        if round == 0 {
            assert_eq!(state.sent("w", fences[0], LONG, Bytes::new()).await, Ok(true));
        }
    }
    assert_eq!(numbers(&state, WriteQuery::default()).await, [1]);
}

pub(crate) async fn sending_requires_a_live_claim(backend: &mut impl Backend) {
    let state = backend.state();
    assert_eq!(state.sent("never", 1, LONG, Bytes::new()).await, Ok(false));
    let fence = claim(&state, write("w", "r"), SHORT).await;
    backend.pass(SHORT * 2).await;
    assert_eq!(state.sent("w", fence, LONG, Bytes::new()).await, Ok(false), "its term is over");
    assert_eq!(find_write(&state, "w").await.attempts, 0);

    let fence = claim(&state, write("w", "r"), SHORT).await;
    assert_eq!(state.sent("w", fence, LONG, Bytes::new()).await, Ok(true));
    let first = find_write(&state, "w").await;
    assert_eq!((first.state, first.attempts, first.ended), (WriteState::Sent, 1, 0));
    assert!(first.sent >= first.created);
    // The time until the outcome is known now counts, instead of the term of the claim.
    assert!(first.rest > LONG / 2 && first.rest <= LONG, "{first:?}");
    backend.pass(SHORT * 2).await;
    assert_eq!(state.sent("w", fence, LONG * 2, Bytes::new()).await, Ok(true));
    let again = find_write(&state, "w").await;
    assert_eq!((again.state, again.attempts), (WriteState::Sent, 2));
    assert!(again.sent >= first.sent + 200 && again.rest > LONG, "{again:?}");
    let begun = begin(&state, write("x", "r"), LONG).await;
    assert!(matches!(&begun, Begun::Known(write) if write.state == WriteState::Sent), "{begun:?}");

    assert_eq!(
        state.sent("w", fence, SHORT, Bytes::new()).await,
        Ok(true),
        "the time may also get shorter"
    );
    backend.pass(SHORT * 2).await;
    assert_eq!(state.sent("w", fence, LONG, Bytes::new()).await, Ok(false), "its time is over");
    for (id, outcome) in [("f", finished("")), ("u", Outcome::Unknown), ("g", Outcome::Released)] {
        let fence = claim(&state, write(id, id), LONG).await;
        assert_eq!(state.sent(id, fence, LONG, Bytes::new()).await, Ok(true));
        state.ended(id, fence, outcome).await.expect("noted");
        assert_eq!(state.sent(id, fence, LONG, Bytes::new()).await, Ok(false), "{id}");
    }
}

pub(crate) async fn sent_write_becomes_unknown_after_its_time(backend: &mut impl Backend) {
    let state = backend.state();
    let fence = claim(&state, write("w", "r"), LONG).await;
    assert_eq!(state.sent("w", fence, SHORT, "record".into()).await, Ok(true));
    let sent = find_write(&state, "w").await;
    assert_eq!(sent.record, "record");
    let of = |state| WriteQuery { states: vec![state], ..WriteQuery::default() };
    assert_eq!(numbers(&state, of(WriteState::Sent)).await, [1]);
    assert!(numbers(&state, of(WriteState::Unknown)).await.is_empty());

    backend.pass(SHORT * 2).await;
    let expected = Write { state: WriteState::Unknown, rest: Duration::ZERO, ..sent };
    assert_eq!(find_write(&state, "w").await, expected);
    assert_eq!(begin(&state, write("x", "r"), LONG).await, Begun::Known(expected.clone()));
    assert!(numbers(&state, of(WriteState::Sent)).await.is_empty());
    let page = WriteQuery { limit: 9, ..of(WriteState::Unknown) };
    assert_eq!(state.writes(page).await.expect("a page").writes, [expected]);

    state.ended("w", fence, finished("late")).await.expect("noted");
    let found = find_write(&state, "w").await;
    assert_eq!((found.state, found.reply), (WriteState::Finished, Some("late".into())));
    assert!(numbers(&state, of(WriteState::Unknown)).await.is_empty());
}

pub(crate) async fn known_outcome_replaces_unknown(backend: &mut impl Backend) {
    let state = backend.state();
    let send = async |id| {
        let fence = claim(&state, write(id, id), LONG).await;
        assert_eq!(state.sent(id, fence, LONG, Bytes::new()).await, Ok(true));
        fence
    };
    let end = async |id, fence, outcome| state.ended(id, fence, outcome).await.expect("noted");
    let stands = async |id| {
        let Write { state, reply, rest, ended, attempts, .. } = find_write(&state, id).await;
        // An unknown write may still arrive.
        assert_eq!(rest > LONG / 2, state == WriteState::Unknown, "{id}: {rest:?}");
        assert_eq!(attempts, 1);
        assert_eq!(ended > 1_600_000_000_000, state == WriteState::Finished, "{id}: {ended}");
        (state, reply)
    };
    let executed = |reply: &'static str| (WriteState::Finished, Some(Bytes::from(reply)));

    let a = send("a").await;
    end("a", a, finished("reply")).await;
    assert_eq!(stands("a").await, executed("reply"));
    let ended = find_write(&state, "a").await;
    backend.pass(SHORT).await;
    for outcome in [Outcome::Unknown, Outcome::Released, finished("another")] {
        end("a", a, outcome).await;
        assert_eq!(find_write(&state, "a").await, ended);
    }
    assert_eq!(begin(&state, write("x", "a"), LONG).await, Begun::Known(ended));

    let b = send("b").await;
    end("b", b, Outcome::Unknown).await;
    end("b", b, Outcome::Unknown).await;
    assert_eq!(stands("b").await, (WriteState::Unknown, None));
    let Begun::Known(known) = begin(&state, write("x", "b"), SHORT).await else { panic!("known") };
    let found = find_write(&state, "b").await;
    assert_eq!(Write { rest: found.rest, ..known }, found);
    end("b", b, finished("")).await;
    assert_eq!(stands("b").await, executed(""));

    let c = send("c").await;
    end("c", c, Outcome::Unknown).await;
    end("c", c, Outcome::Released).await;
    assert_eq!(state.write("c").await, Ok(None));
    end("never", 1, finished("reply")).await;
    assert_eq!(state.write("never").await, Ok(None));

    // The same holds for a claim that is over, as long as no other caller has it.
    for (id, outcome, expected) in [
        ("d", finished("reply"), Some(WriteState::Finished)),
        ("e", Outcome::Released, None),
        ("f", Outcome::Unknown, Some(WriteState::Unknown)),
    ] {
        let fence = claim(&state, write(id, id), SHORT).await;
        backend.pass(SHORT * 2).await;
        end(id, fence, outcome).await;
        let found = state.write(id).await.expect("no error");
        assert_eq!(found.map(|write| (write.state, write.attempts)), expected.map(|it| (it, 0)));
    }
}

pub(crate) async fn released_write_is_deleted(backend: &mut impl Backend) {
    let state = backend.state();
    for sent in [false, true] {
        let fence = claim(&state, write("w", "r"), LONG).await;
        if sent {
            assert_eq!(state.sent("w", fence, LONG, Bytes::new()).await, Ok(true));
        }
        state.ended("w", fence, Outcome::Released).await.expect("noted");
        assert_eq!(state.write("w").await, Ok(None));
        let request_id = Some("r".to_owned());
        for query in [
            WriteQuery::default(),
            WriteQuery { request_id, ..WriteQuery::default() },
            WriteQuery { states: vec![WriteState::Claimed], ..WriteQuery::default() },
        ] {
            assert!(numbers(&state, query).await.is_empty());
        }
    }
    // Its request id is free, even for another request.
    let other = NewWrite { fingerprint: [2; 32], ..write("x", "r") };
    claim(&state, other, LONG).await;
    let found = find_write(&state, "x").await;
    assert_eq!((found.number, found.attempts), (3, 0), "numbers are not given out again");
}

pub(crate) async fn only_unknown_write_is_resolved(backend: &mut impl Backend) {
    let state = backend.state();
    let found = |submission_id: &str| Outcome::Finished {
        reply: Bytes::from("found"),
        submission: Some(Box::new(submission(submission_id))),
    };
    assert_eq!(state.resolve("never", found("none")).await, Ok(None));
    let fence = claim(&state, write("w", "r"), LONG).await;
    let unmoved = async |id: &str| {
        let before = find_write(&state, id).await;
        for outcome in [found("none"), Outcome::Released] {
            assert_eq!(state.resolve(id, outcome).await, Ok(None));
        }
        assert_eq!(state.submission("none").await, Ok(None), "nor is anything remembered");
        assert_eq!(Write { rest: before.rest, ..find_write(&state, id).await }, before);
    };
    unmoved("w").await;
    assert_eq!(state.sent("w", fence, LONG, Bytes::new()).await, Ok(true));
    unmoved("w").await;
    state.ended("w", fence, finished("reply")).await.expect("noted");
    unmoved("w").await;

    for (round, executed) in [true, false, true, false].into_iter().enumerate() {
        let id = &*format!("{round}");
        let fence = claim(&state, write(id, id), LONG).await;
        assert_eq!(state.sent(id, fence, SHORT, Bytes::new()).await, Ok(true));
        if round < 2 {
            state.ended(id, fence, Outcome::Unknown).await.expect("noted");
        } else {
            backend.pass(SHORT * 2).await;
        }
        let before = find_write(&state, id).await;
        assert_eq!(before.state, WriteState::Unknown);
        let reply = executed.then(|| Bytes::from("found"));
        let outcome = if executed { found(id) } else { Outcome::Released };
        let resolved = state.resolve(id, outcome.clone()).await.expect("no error");
        let resolved = resolved.map(|write| Write { rest: before.rest, ..write });
        assert_eq!(resolved, Some(before.clone()));
        assert_eq!(state.resolve(id, outcome).await, Ok(None), "it is resolved");
        let remembered = state.submission(id).await.expect("no error");
        assert_eq!(remembered.is_some(), executed);
        let begun = begin(&state, write("again", id), LONG).await;
        if executed {
            let after = find_write(&state, id).await;
            assert!(after.ended >= after.sent, "{after:?}");
            let (ended, rest) = (after.ended, Duration::ZERO);
            let expected = Write { state: WriteState::Finished, reply, ended, rest, ..before };
            assert_eq!(after, expected);
            assert_eq!(begun, Begun::Known(after.clone()));
            state.ended(id, fence, finished("late")).await.expect("does nothing");
            assert_eq!(find_write(&state, id).await, after);
        } else {
            assert_eq!(state.write(id).await, Ok(None));
            let write_id = "again".to_owned();
            assert_eq!(begun, Begun::Claimed { write_id, fence: 1, sent: false });
            state.ended(id, fence, finished("late")).await.expect("does nothing");
            assert_eq!(state.write(id).await, Ok(None));
            state.ended("again", 1, Outcome::Released).await.expect("noted");
        }
    }
}

pub(crate) async fn write_pages_match_the_query(backend: &mut impl Backend) {
    let state = backend.state();
    let method = "StoreService/DeleteStore".to_owned();
    claim(&state, write("claimed", "r"), LONG).await;
    for (new, time, outcome) in [
        (NewWrite { app_id: app("wx2"), ..write("finished", "r") }, LONG, Some(finished("reply"))),
        (NewWrite { method, ..write("unknown", "r") }, LONG, Some(Outcome::Unknown)),
        (NewWrite { request_id: None, ..write("late", "") }, SHORT, None),
    ] {
        let id = new.write_id.clone();
        let fence = claim(&state, new, LONG).await;
        assert_eq!(state.sent(&id, fence, time, Bytes::new()).await, Ok(true));
        if let Some(outcome) = outcome {
            state.ended(&id, fence, outcome).await.expect("noted");
        }
    }
    backend.pass(SHORT * 2).await;
    let fence = claim(&state, write("sent", "s"), LONG).await;
    assert_eq!(state.sent("sent", fence, LONG, Bytes::new()).await, Ok(true));
    let gone = claim(&state, write("gone", "t"), LONG).await;
    state.ended("gone", gone, Outcome::Released).await.expect("noted");

    let all = WriteQuery::default();
    assert_eq!(numbers(&state, all.clone()).await, [1, 2, 3, 4, 5]);
    let accounts = Scope::one(app("wx2"));
    assert_eq!(numbers(&state, WriteQuery { accounts, ..all.clone() }).await, [2]);
    for (request_id, expected) in [("r", vec![1, 2, 3]), ("s", vec![5]), ("t", vec![])] {
        let request_id = Some(request_id.to_owned());
        let query = WriteQuery { request_id, ..all.clone() };
        assert_eq!(numbers(&state, query.clone()).await, expected);
        let expected: Vec<_> = expected.into_iter().filter(|number| *number > 1).collect();
        assert_eq!(numbers(&state, WriteQuery { after: 1, ..query }).await, expected);
    }
    let until = Some(find_write(&state, "sent").await.created);
    assert_eq!(numbers(&state, WriteQuery { until, ..all.clone() }).await, [1, 2, 3, 4]);
    let (claimed, sent) = (WriteState::Claimed, WriteState::Sent);
    let (finished, unknown) = (WriteState::Finished, WriteState::Unknown);
    for (states, expected) in [
        (vec![claimed], vec![1]),
        (vec![finished], vec![2]),
        (vec![sent], vec![5]),
        (vec![unknown], vec![3, 4]),
        (vec![unknown, sent], vec![3, 4, 5]),
        (vec![unknown, finished], vec![2, 3, 4]),
    ] {
        let query = WriteQuery { states, ..all.clone() };
        assert_eq!(numbers(&state, query).await, expected);
    }
    let request_id = Some("r".to_owned());
    let both = WriteQuery { request_id, states: vec![unknown], ..all.clone() };
    assert_eq!(numbers(&state, both).await, [3]);

    let read = async |query| {
        let page = state.writes(query).await.expect("a page");
        let numbers: Vec<_> = page.writes.iter().map(|write| write.number).collect();
        (numbers, page.seen, page.at_end)
    };
    let two = WriteQuery { after: 1, limit: 2, ..all.clone() };
    assert_eq!(read(two).await, (vec![2, 3], 3, false));
    let one = WriteQuery { limit: 1, states: vec![unknown], ..all.clone() };
    assert_eq!(read(one.clone()).await, (vec![3], 3, false));
    let (found, seen, at_end) = read(WriteQuery { after: 4, ..one }).await;
    assert!(found.is_empty() && seen >= 5 && at_end, "{seen}");
    assert_eq!(read(WriteQuery { after: 9, limit: 1, ..all }).await, (vec![], 9, true));
}

pub(crate) async fn writes_are_pruned_after_a_day_unless_unknown(backend: &mut impl Backend) {
    let state = backend.state();
    let day = Duration::from_secs(24 * 60 * 60);
    claim(&state, write("claimed", "claimed"), LONG).await;
    claim(&state, write("living", "living"), day * 2).await;
    claim(&state, write("given again", "given again"), SHORT).await;
    for (id, by, outcome) in [
        ("finished", LONG, Some(finished("reply"))),
        ("resolved", LONG, Some(Outcome::Unknown)),
        ("unknown", LONG, Some(Outcome::Unknown)),
        ("late", SHORT, None),
        ("sent", day * 2, None),
    ] {
        let fence = claim(&state, write(id, id), LONG).await;
        assert_eq!(state.sent(id, fence, by, Bytes::new()).await, Ok(true));
        if let Some(outcome) = outcome {
            state.ended(id, fence, outcome).await.expect("noted");
        }
    }
    let fence = claim(&state, write("never sent", "never sent"), SHORT).await;
    state.ended("never sent", fence, Outcome::Unknown).await.expect("noted");
    let found_out = claim(&state, write("found out", "found out"), SHORT).await;
    let resolved = state.resolve("resolved", finished("")).await;
    assert!(resolved.is_ok_and(|write| write.is_some()));
    backend.pass(SHORT * 2).await;
    assert_eq!(prune(&state, Duration::ZERO).await, 0, "a day is longer");

    // The term of a claim, and a minute more than a day.
    backend.pass_for_writes(day + LONG * 2).await;
    claim(&state, write("x", "given again"), SHORT).await;
    backend.pass(SHORT * 2).await;
    let fence = claim(&state, write("young", "young"), LONG).await;
    state.ended("young", fence, finished("reply")).await.expect("noted");
    state.ended("found out", found_out, finished("reply")).await.expect("noted");
    // This does not depend on the retention of events.
    assert_eq!(prune(&state, day * 90).await, 3);
    let all = WriteQuery { limit: 99, ..WriteQuery::default() };
    let kept = state.writes(all).await.expect("a page").writes;
    let kept: Vec<_> = kept.iter().map(|write| (&*write.write_id, write.state)).collect();
    let expected = [
        ("living", WriteState::Claimed),
        ("given again", WriteState::Claimed),
        ("unknown", WriteState::Unknown),
        ("late", WriteState::Unknown),
        ("sent", WriteState::Sent),
        ("never sent", WriteState::Unknown),
        ("found out", WriteState::Finished),
        ("young", WriteState::Finished),
    ];
    assert_eq!(kept, expected);
    for id in ["finished", "resolved", "claimed"] {
        assert_eq!(state.write(id).await, Ok(None));
        let other = NewWrite { fingerprint: [2; 32], ..write(&format!("new {id}"), id) };
        assert_eq!(claim(&state, other, LONG).await, 1, "its name is free");
    }
}

// === Leases ===

pub(crate) async fn lease_has_one_holder(backend: &mut impl Backend) {
    let state = backend.state();
    let mut acquirers = JoinSet::new();
    for _ in 0..8 {
        let state = state.clone();
        acquirers.spawn(async move { state.acquire("a", LONG).await.expect("no error") });
    }
    let acquired = acquirers.join_all().await;
    let fences: Vec<_> = acquired.iter().filter_map(fence).collect();
    assert_eq!(fences.len(), 1, "{acquired:?}");
    assert!(acquired.iter().all(|acquired| match acquired {
        Acquired::Lease(_) => true,
        Acquired::Taken(left) => *left > LONG / 2 && *left <= LONG,
    }));
    assert!(matches!(state.acquire("b", LONG).await, Ok(Acquired::Lease(_))));

    assert_eq!(state.renew("a", fences[0] + 1, LONG).await, Ok(false));
    assert_eq!(state.renew("never", 1, LONG).await, Ok(false));
    state.free("a", fences[0] + 1, Duration::ZERO).await.expect("does nothing");
    assert_eq!(state.renew("a", fences[0], LONG * 2).await, Ok(true));
    let taken = state.acquire("a", LONG).await.expect("no error");
    assert!(matches!(taken, Acquired::Taken(left) if left > LONG), "{taken:?}");
}

pub(crate) async fn lease_without_renewal_is_lost(backend: &mut impl Backend) {
    let state = backend.state();
    let first = fence(&state.acquire("a", SHORT).await.expect("no error")).expect("free");
    backend.pass(SHORT * 2).await;
    assert_eq!(state.renew("a", first, LONG).await, Ok(false));
    state.free("a", first, LONG).await.expect("does nothing");
    let second = fence(&state.acquire("a", LONG).await.expect("no error")).expect("free");
    assert!(second > first);
    assert_eq!(state.renew("a", first, LONG).await, Ok(false));
    state.free("a", first, Duration::ZERO).await.expect("does nothing");
    assert_eq!(state.renew("a", second, LONG).await, Ok(true));
}

pub(crate) async fn released_lease_has_a_pause(backend: &mut impl Backend) {
    let state = backend.state();
    let first = fence(&state.acquire("a", LONG).await.expect("no error")).expect("free");
    state.free("a", first, SHORT).await.expect("given back");
    assert_eq!(state.renew("a", first, LONG).await, Ok(false));
    let resting = state.acquire("a", LONG).await.expect("no error");
    assert!(matches!(resting, Acquired::Taken(left) if left <= SHORT), "{resting:?}");
    backend.pass(SHORT * 2).await;
    let second = fence(&state.acquire("a", LONG).await.expect("no error")).expect("free");
    assert!(second > first);
    state.free("a", second, Duration::ZERO).await.expect("given back");
    let third = fence(&state.acquire("a", LONG).await.expect("no error")).expect("free");
    assert!(third > second);
}

// === Tokens ===

pub(crate) async fn token_has_generation_and_life(backend: &mut impl Backend) {
    let state = backend.state();
    let wx1 = app("wx1");
    assert_eq!(state.token(&wx1).await, Ok(None));
    let first = state.put_token(&wx1, 0, &secret("one"), LONG).await.expect("stored");
    assert_eq!((&first.value, first.generation), (&secret("one"), 1));
    assert!(first.life > LONG / 2 && first.life <= LONG, "{first:?}");
    assert!(first.age < SHORT, "{first:?}");
    backend.pass(SHORT).await;
    // The same value lives on, and its age grows.
    let same = state.put_token(&wx1, 1, &secret("one"), LONG * 2).await.expect("stored");
    assert_eq!(same.generation, 1);
    assert!(same.life > LONG && same.age >= SHORT, "{same:?}");
    let second = state.put_token(&wx1, 1, &secret("two"), SHORT).await.expect("stored");
    assert_eq!((&second.value, second.generation), (&secret("two"), 2));
    assert!(second.age < SHORT, "{second:?}");
    let found = state.token(&wx1).await.expect("no error").expect("it lives");
    assert_eq!((found.value, found.generation), (secret("two"), 2));
    assert!(found.life <= SHORT);
    assert_eq!(state.token(&app("wx2")).await, Ok(None));

    backend.pass(SHORT * 2).await;
    assert_eq!(state.token(&wx1).await, Ok(None), "its life is over");
    let third = state.put_token(&wx1, 0, &secret("three"), LONG).await.expect("stored");
    assert_eq!((&third.value, third.generation), (&secret("three"), 3));
}

pub(crate) async fn first_of_two_new_tokens_is_kept(backend: &mut impl Backend) {
    let state = backend.state();
    let wx1 = app("wx1");
    let mut putters = JoinSet::new();
    for n in 0..4 {
        let (state, wx1) = (state.clone(), wx1.clone());
        putters.spawn(async move {
            state.put_token(&wx1, 0, &secret(&format!("{n}")), LONG).await.expect("no error")
        });
    }
    let mut answers = putters.join_all().await.into_iter().map(|token| token.value);
    let first = answers.next().expect("an answer");
    assert!(answers.all(|answer| answer == first), "all have the same one");
    for before in [0, 2] {
        let kept = state.put_token(&wx1, before, &secret("late"), LONG).await.expect("no error");
        assert_eq!((kept.value, kept.generation), (first.clone(), 1));
    }
}

pub(crate) async fn dropped_token_keeps_its_generation(backend: &mut impl Backend) {
    let state = backend.state();
    let (one, other) = (app("wx1@wxplatform"), app("wx2@wxplatform"));
    state.drop_token(&one).await.expect("does nothing");
    assert_eq!(state.token(&one).await, Ok(None));
    for name in [&one, &other] {
        state.put_token(name, 0, &secret("one"), LONG).await.expect("stored");
    }
    for generation in 2..4 {
        state.drop_token(&one).await.expect("dropped");
        assert_eq!(state.token(&one).await, Ok(None));
        // Even the same value is a new token.
        let next = state.put_token(&one, 0, &secret("one"), LONG).await.expect("stored");
        assert_eq!((&next.value, next.generation), (&secret("one"), generation));
        assert!(next.age < SHORT, "{next:?}");
    }
    let kept = state.token(&other).await.expect("no error").expect("it lives");
    assert_eq!((kept.value, kept.generation), (secret("one"), 1));
}

pub(crate) async fn rate_limit_is_counted(backend: &mut impl Backend) {
    let state = backend.state();
    let spend = async |counter| state.spend(counter, 2, SHORT).await.expect("no error");
    state.refund("a").await.expect("does nothing");
    assert_eq!([spend("a").await, spend("a").await, spend("a").await], [true, true, false]);
    assert!(spend("b").await);
    state.refund("a").await.expect("taken back");
    assert_eq!([spend("a").await, spend("a").await], [true, false]);
    backend.pass(SHORT * 2).await;
    state.refund("a").await.expect("does nothing, its window is over");
    assert_eq!([spend("a").await, spend("a").await, spend("a").await], [true, true, false]);
    assert_eq!(state.spend("never", 0, SHORT).await, Ok(false));
}

// === The state itself ===

pub(crate) async fn reopening_keeps_everything(backend: &mut impl Backend) {
    let state = backend.state();
    let audit_id = "A".to_owned().into();
    remember(&state, NewSubmission { audit_id, ..submission("s") }).await;
    append(&state, about("A", "a", 1)).await;
    let lease = fence(&state.acquire("a", LONG).await.expect("no error")).expect("free");
    let token = state.put_token(&app("wx1"), 0, &secret("one"), LONG).await.expect("stored");
    assert_eq!(state.spend("a", 1, LONG).await, Ok(true));
    let write = claim(&state, write("w", "r"), LONG).await;
    assert_eq!(state.sent("w", write, LONG, Bytes::new()).await, Ok(true));
    let platforms = platforms(&state).await;
    let before = (state.log().await, find(&state, "s").await, all_events(&state).await);
    drop(state);

    backend.reopen().await;
    let state = backend.state();
    let after = (state.log().await, find(&state, "s").await, all_events(&state).await);
    assert_eq!(after, before);
    assert_eq!(state.renew("a", lease, LONG).await, Ok(true));
    assert_eq!(find_write(&state, "w").await.state, WriteState::Sent);
    state.ended("w", write, finished("reply")).await.expect("noted");
    assert_eq!(find_write(&state, "w").await.reply, Some("reply".into()));
    let found = state.token(&app("wx1")).await.expect("no error").expect("it lives");
    assert_eq!((found.value, found.generation), (token.value, token.generation));
    assert_eq!(state.spend("a", 1, LONG).await, Ok(false));
    assert_platforms(&state, platforms).await;
    state.newer(0).await.expect("there is one");
    assert_eq!(append(&state, event("b")).await, Appended::New(3));
}

pub(crate) async fn probe_succeeds(backend: &mut impl Backend) {
    for _ in 0..2 {
        assert_eq!(backend.state().probe().await, Ok(()));
    }
}

// === Test data ===

/// Returns an approved store that belongs to no particular review.
pub(crate) fn event(id: &str) -> NewEvent {
    NewEvent {
        key: EventKey(key_of(id)),
        event_id: id.to_owned(),
        app_id: app("wx1"),
        kind: SubmissionKind::Store,
        audit_id: String::new().into(),
        state: AuditState::Approved,
        reason: String::new(),
        poi_id: String::new().into(),
        map_poi_id: String::new().into(),
        event_time: 1,
        origin: Origin::Pushed,
        message: id.to_owned().into(),
    }
}

pub(crate) fn about(audit_id: &str, id: &str, event_time: u64) -> NewEvent {
    NewEvent { audit_id: audit_id.to_owned().into(), event_time, ..event(id) }
}

fn rejected(event: NewEvent) -> NewEvent {
    NewEvent { state: AuditState::Rejected, reason: "blurred".to_owned(), ..event }
}

fn asked(submission_id: &str, event: NewEvent) -> NewEvent {
    let submission_id = submission_id.to_owned();
    NewEvent { origin: Origin::Polled { submission_id }, event_time: 99, ..event }
}

/// Returns a new store.
pub(crate) fn submission(id: &str) -> NewSubmission {
    NewSubmission {
        submission_id: id.to_owned(),
        app_id: app("wx1"),
        kind: SubmissionKind::Store,
        audit_id: String::new().into(),
        poi_id: String::new().into(),
        client_reference: String::new(),
        state: AuditState::InReview,
        ask_after: None,
        message: id.to_owned().into(),
    }
}

/// Returns the write of a new store with a caller's request id.
pub(crate) fn write(id: &str, request_id: &str) -> NewWrite {
    NewWrite {
        write_id: id.to_owned(),
        caller: String::new(),
        app_id: app("wx1"),
        method: "StoreService/AddStore".to_owned(),
        request_id: Some(request_id.to_owned()),
        fingerprint: [1; 32],
        client_reference: String::new(),
        sent: None,
    }
}

pub(crate) fn finished(reply: &'static str) -> Outcome {
    Outcome::Finished { reply: reply.into(), submission: None }
}

pub(crate) fn app(id: &str) -> AppId {
    id.to_owned().into()
}

pub(crate) fn secret(value: &str) -> Secret {
    value.to_owned().into()
}

pub(crate) fn key_of(id: &str) -> [u8; 32] {
    let mut key = [b'.'; 32];
    key[..id.len()].copy_from_slice(id.as_bytes());
    key
}

fn fence(acquired: &Acquired) -> Option<u64> {
    match acquired {
        Acquired::Lease(fence) => Some(*fence),
        Acquired::Taken(_) => None,
    }
}

pub(crate) async fn append(state: &Arc<dyn State>, event: NewEvent) -> Appended {
    state.append(event).await.expect("appended")
}

pub(crate) async fn remember(state: &Arc<dyn State>, submission: NewSubmission) {
    state.remember(submission).await.expect("remembered");
}

pub(crate) async fn find(state: &Arc<dyn State>, submission_id: &str) -> Submission {
    state.submission(submission_id).await.expect("no error").expect("remembered")
}

pub(crate) async fn begin(state: &Arc<dyn State>, new: NewWrite, term: Duration) -> Begun {
    state.begin(new, term).await.expect("no error")
}

/// Claims a write and returns the fence.
pub(crate) async fn claim(state: &Arc<dyn State>, new: NewWrite, term: Duration) -> u64 {
    match begin(state, new, term).await {
        Begun::Claimed { fence, .. } => fence,
        begun => panic!("not claimed: {begun:?}"),
    }
}

pub(crate) async fn find_write(state: &Arc<dyn State>, write_id: &str) -> Write {
    state.write(write_id).await.expect("no error").expect("noted")
}

/// Returns the numbers of all writes that match.
async fn numbers(state: &Arc<dyn State>, query: WriteQuery) -> Vec<u64> {
    let page = state.writes(WriteQuery { limit: usize::MAX, ..query }).await.expect("a page");
    assert!(page.at_end);
    page.writes.iter().map(|write| write.number).collect()
}

async fn assert_stands(state: &Arc<dyn State>, id: &str, stands: AuditState, event_id: &str) {
    let found = find(state, id).await;
    assert_eq!((found.state, &*found.event_id), (stands, event_id), "{id}");
    assert_eq!(found.decided == 0, event_id.is_empty(), "{id}");
}

pub(crate) async fn all_events(state: &Arc<dyn State>) -> Vec<Event> {
    let all = EventQuery { limit: usize::MAX, ..EventQuery::default() };
    let page = state.events(all).await.expect("a page");
    assert!(page.at_end);
    page.events
}

/// Prunes until nothing is left to prune.
pub(crate) async fn prune(state: &Arc<dyn State>, age: Duration) -> u64 {
    let mut all = 0;
    loop {
        match state.prune(age).await.expect("pruned") {
            0 => return all,
            gone => all += gone,
        }
    }
}

fn names(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| text(&event.message)).collect()
}

fn texts(submissions: &[Submission]) -> Vec<String> {
    submissions.iter().map(|submission| text(&submission.message)).collect()
}

fn named(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn text(message: &Bytes) -> String {
    String::from_utf8(message.to_vec()).expect("text")
}

/// Returns each event with the event that it supersedes and the one that supersedes it.
async fn relations(state: &Arc<dyn State>) -> Vec<(String, String, String)> {
    let events = all_events(state).await;
    events.into_iter().map(|it| (text(&it.message), it.supersedes, it.superseded_by)).collect()
}

fn owned((event, supersedes, superseded_by): (&str, &str, &str)) -> (String, String, String) {
    (event.to_owned(), supersedes.to_owned(), superseded_by.to_owned())
}
