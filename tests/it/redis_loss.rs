//! A Redis that loses the state while processes use it: running work is not done twice, lost data
//! is not acknowledged, and the processes recover without help.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::time::sleep;
use wechat_store_gateway::{
    state::{
        Acquired, Appended, Authorizer, Begun, Error, NewWrite, Outcome, Sent, State,
        SubmissionQuery, WriteState,
    },
    testing::{AppId, Secret},
};

use crate::{
    redis::{SOON, event, positions},
    redis_outage::Door,
    servers::RedisServer,
    state::{app, claim, finished, secret, submission, write},
    state_platforms::{authorizer, platform, platforms},
    support::within,
};

const MINUTE: Duration = Duration::from_secs(60);

/// Returns the answer after the quiet period.
async fn after_quiet_period<T>(verb: impl AsyncFn() -> Result<T, Error>) -> T {
    let again = async {
        loop {
            match verb().await {
                Ok(answer) => break answer,
                Err(error) if is_quiet(&error) => sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error:?}"),
            }
        }
    };
    within(SOON, again).await
}

fn is_quiet(error: &Error) -> bool {
    match error {
        Error::Lost(_) => true,
        Error::Unusable(why) => why.contains("writes are refused for"),
        _ => false,
    }
}

/// Checks that no work begins, whether or not the loss was noticed.
fn assert_refused<T: std::fmt::Debug>(answer: Result<T, Error>) {
    assert!(matches!(&answer, Err(error) if is_quiet(error)), "{answer:?}");
}

fn is_lost<T: std::fmt::Debug>(answer: Result<T, Error>) {
    assert!(matches!(answer, Err(Error::Lost(_))), "{answer:?}");
}

async fn lease(state: &Arc<dyn State>, name: &str) -> u64 {
    let acquire = async {
        loop {
            match after_quiet_period(async || state.acquire(name, MINUTE).await).await {
                Acquired::Lease(fence) => break fence,
                Acquired::Taken(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    within(SOON, acquire).await
}

/// Returns the fields of the key that identifies the state.
async fn guard(server: &RedisServer) -> HashMap<String, String> {
    let reply = server.command("HGETALL {wechat-store-gateway}:guard").await;
    let words: Vec<_> = reply.lines().filter(|line| !line.starts_with(['*', '$'])).collect();
    words.chunks_exact(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect()
}

/// Lets two processes have running work, loses the state, and checks that nothing is done twice.
async fn nothing_is_done_twice(server: &mut RedisServer, lose: impl AsyncFn(&mut RedisServer)) {
    let (one, other) = (server.open().await, server.open().await);
    let log = one.log().await.expect("Redis runs");
    assert_eq!(one.append(event(1)).await, Ok(Appended::New(1)));
    let at_once = NewWrite {
        sent: Some(Sent { by: MINUTE, record: "record".into() }),
        ..write("at once", "first")
    };
    assert!(matches!(one.begin(at_once, MINUTE).await, Ok(Begun::Claimed { sent: true, .. })));
    let later = claim(&one, write("later", "second"), MINUTE).await;
    assert_eq!(one.sent("later", later, MINUTE, Bytes::new()).await, Ok(true));
    let claimed = claim(&one, write("claimed", "third"), MINUTE).await;
    let done = claim(&one, write("done", "fourth"), MINUTE).await;
    assert_eq!(one.sent("done", done, MINUTE, Bytes::new()).await, Ok(true));
    let submitted = Outcome::Finished {
        reply: "reply".into(),
        submission: Some(Box::new(submission("submitted"))),
    };
    one.ended("done", done, submitted).await.expect("Redis runs");
    let held = lease(&one, "held").await;
    let (app_id, token) = (AppId::from("wx1".to_owned()), Secret::from("t".to_owned()));
    let before = one.put_token(&app_id, 0, &token, MINUTE).await.expect("Redis runs");

    lose(server).await;

    // The first operation notices the loss, and no work begins immediately.
    let noticed = Instant::now();
    assert_refused(other.begin(write("again", "first"), MINUTE).await);
    let [begun, probed] =
        [other.begin(write("again", "first"), MINUTE).await.map(drop), other.probe().await];
    if noticed.elapsed() < Duration::from_secs(4) {
        assert_refused(begun);
        assert_refused(probed);
    }
    // A write that was claimed before is not sent, however often it is tried.
    for _ in 0..3 {
        is_lost(one.sent("claimed", claimed, MINUTE, Bytes::new()).await);
        is_lost(one.sent("later", later, MINUTE, Bytes::new()).await);
    }
    // The process that sent a write restored it, so no other process sends it again.
    for (id, name) in [("at once", "first"), ("later", "second")] {
        let again = write(&format!("{id} again"), name);
        let begun = after_quiet_period(async || other.begin(again.clone(), MINUTE).await).await;
        let Begun::Known(known) = begun else { panic!("{begun:?}") };
        assert_eq!((&*known.write_id, known.state, known.attempts), (id, WriteState::Sent, 1));
        assert!(known.rest > MINUTE / 2, "{known:?}");
    }
    // The end of a write that had just ended is restored, with its submission.
    let begun =
        after_quiet_period(async || other.begin(write("done again", "fourth"), MINUTE).await).await;
    let Begun::Known(known) = begun else { panic!("{begun:?}") };
    assert_eq!((known.state, known.reply), (WriteState::Finished, Some("reply".into())));
    let found = other.submissions(SubmissionQuery { limit: 9, ..Default::default() }).await;
    assert_eq!(found.expect("Redis runs").submissions.len(), 1);
    // A write that was not sent can be begun again.
    let begun =
        after_quiet_period(async || other.begin(write("third again", "third"), MINUTE).await).await;
    assert!(matches!(begun, Begun::Claimed { .. }), "{begun:?}");
    is_lost(one.sent("claimed", claimed, MINUTE, Bytes::new()).await);
    // Its end is recorded by the process that began it, and a repeat returns it.
    one.ended("at once", 1, finished("later reply")).await.expect("Redis runs");
    let begun = other.begin(write("once more", "first"), MINUTE).await.expect("Redis runs");
    let Begun::Known(known) = begun else { panic!("{begun:?}") };
    assert_eq!(known.reply, Some("later reply".into()));

    // A lease stays with its holder, and fences and generations are never used twice.
    let taken = other.acquire("held", MINUTE).await;
    assert!(matches!(taken, Ok(Acquired::Taken(_))), "{taken:?}");
    assert_eq!(one.renew("held", held, MINUTE).await, Ok(true));
    one.free("held", held, Duration::ZERO).await.expect("Redis runs");
    assert!(lease(&other, "held").await > held);
    assert!(lease(&other, "new").await > 1_600_000_000_000, "higher than all before the loss");
    let late = Secret::from("late".to_owned());
    let after = other.put_token(&app_id, 0, &late, MINUTE).await.expect("Redis runs");
    assert!(after.value == token || after.generation > before.generation, "{after:?}");

    // The new state is complete, and both processes work in it.
    assert_eq!(server.command("GET {wechat-store-gateway}:schema").await, "$1\r\n1\r\n");
    for state in [&one, &other] {
        assert_eq!(state.probe().await, Ok(()));
    }
    assert_eq!(one.log().await, other.log().await);
    let found = one.log().await.expect("Redis runs");
    assert!(found.epoch != log.epoch || found.newest.position == 0, "its cursors lead nowhere");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn emptied_redis_repeats_no_work() {
    let flush = async |server: &mut RedisServer| {
        assert!(server.command("FLUSHALL").await.starts_with("+OK"));
    };
    nothing_is_done_twice(&mut RedisServer::start(true).await, flush).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_restarted_empty_repeats_no_work() {
    let restart = async |server: &mut RedisServer| {
        server.kill();
        server.restart().await;
    };
    nothing_is_done_twice(&mut RedisServer::start(false).await, restart).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_with_older_copy_repeats_no_work() {
    let mut server = RedisServer::start(false).await;
    let earlier = server.open().await;
    earlier.log().await.expect("a name");
    assert!(server.command("SAVE").await.starts_with("+OK"));
    let restart = async |server: &mut RedisServer| {
        server.kill();
        server.restart().await;
    };
    nothing_is_done_twice(&mut server, restart).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lagging_replica_is_noticed_by_each_process() {
    let (first, second) = (RedisServer::start(false).await, RedisServer::start(false).await);
    let door = Door::to(&first).await;
    let (one, other) = (door.open().await, door.open().await);
    assert_eq!(one.append(event(1)).await, Ok(Appended::New(1)));
    assert_eq!(other.append(event(2)).await, Ok(Appended::New(2)));
    second.command(&format!("REPLICAOF 127.0.0.1 {}", first.port)).await;
    let copied = async {
        while !second.command("GET {wechat-store-gateway}:log:last").await.contains("\n2\r") {
            sleep(Duration::from_millis(10)).await;
        }
    };
    within(SOON, copied).await;
    second.command("REPLICAOF NO ONE").await;
    // The replica takes over without the last step, which only one process has seen.
    let last = claim(&one, write("last", "name"), MINUTE).await;
    assert_eq!(one.sent("last", last, MINUTE, Bytes::new()).await, Ok(true));
    one.ended("last", last, finished("reply")).await.expect("Redis runs");
    door.lead_to(&second);

    // The other process cannot detect this, and takes the state further than the first has seen it.
    for number in 3..20 {
        assert_eq!(other.append(event(number)).await, Ok(Appended::New(number.into())));
    }
    let found = one.write("last").await.expect("Redis runs").expect("noted anew");
    assert_eq!((found.state, found.reply), (WriteState::Finished, Some("reply".into())));
    assert_eq!(other.append(event(20)).await, Ok(Appended::New(20)));
    assert_eq!(positions(&*one).await, (1..=20).collect::<Vec<_>>(), "the remains are used");
}

#[tokio::test]
async fn waiting_watcher_is_woken_by_loss() {
    let server = RedisServer::start(false).await;
    let state = server.open().await;
    assert_eq!(state.append(event(1)).await, Ok(Appended::New(1)));
    let waiting = tokio::spawn({
        let state = state.clone();
        async move { state.newer(1).await }
    });
    sleep(Duration::from_millis(100)).await;
    server.command("FLUSHALL").await;
    // No other operation is running.
    let woken = within(SOON, waiting).await.expect("no panic");
    assert_eq!(woken, Ok(None));
    assert_eq!(positions(&*state).await, [0; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_starts_new_state_and_others_join() {
    let server = RedisServer::start(false).await;
    let mut states = Vec::new();
    for _ in 0..8 {
        states.push(server.open().await);
    }
    let era = async || guard(&server).await.remove("era").expect("one");
    let first = era().await;
    server.command("FLUSHALL").await;
    let probes = states.iter().map(|state| async { assert_refused(state.probe().await) });
    futures_util::future::join_all(probes).await;
    let second = era().await;
    assert_ne!(first, second);
    for state in &states {
        after_quiet_period(async || state.probe().await).await;
    }
    assert_eq!(era().await, second, "it is begun once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_process_with_sent_write_notices_loss() {
    let server = RedisServer::start(false).await;
    let (one, other) = (server.open().await, server.open().await);
    let fence = claim(&one, write("w", "r"), MINUTE).await;
    assert_eq!(one.sent("w", fence, MINUTE, Bytes::new()).await, Ok(true));
    server.command("FLUSHALL").await;
    let begun = after_quiet_period(async || other.begin(write("w again", "r"), MINUTE).await).await;
    assert!(matches!(begun, Begun::Known(_)), "{begun:?}");
}

#[tokio::test]
async fn new_process_does_not_hide_the_loss() {
    let server = RedisServer::start(false).await;
    let one = server.open().await;
    let write_id = claim(&one, write("w", "r"), MINUTE).await;
    assert_eq!(one.sent("w", write_id, MINUTE, Bytes::new()).await, Ok(true));
    server.command("FLUSHALL").await;
    let new = server.open().await;
    one.log().await.expect("Redis runs");
    assert_refused(new.begin(write("again", "other"), MINUTE).await);
    let begun = after_quiet_period(async || new.begin(write("w again", "r"), MINUTE).await).await;
    assert!(matches!(begun, Begun::Known(_)), "{begun:?}");
}

/// Waits until a step returns this.
async fn becomes<T: PartialEq + std::fmt::Debug>(step: impl AsyncFn() -> T, expected: T) {
    let wait = async {
        while step().await != expected {
            sleep(Duration::from_millis(20)).await;
        }
    };
    within(SOON, wait).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn emptied_redis_gets_platforms_back() {
    let server = RedisServer::start(false).await;
    let (one, other) = (server.open().await, server.open().await);
    let (ticket, authorizers) = platforms(&one).await;
    server.command("FLUSHALL").await;
    // The process that knows them has nothing to do at the time.
    becomes(async || other.ticket(&platform()).await, Ok(Some(ticket.clone()))).await;
    becomes(async || other.authorizers(&platform(), None, 9).await, Ok(authorizers)).await;
    let older = other.put_ticket(&platform(), &secret("older"), ticket.sent_at - 600).await;
    assert_eq!(older, Ok(false), "WeChat repeats it");

    // A process that has only read the ticket knows it, too.
    drop(one);
    server.command("FLUSHALL").await;
    let new = server.open().await;
    becomes(async || new.ticket(&platform()).await, Ok(Some(ticket))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_copy_revives_no_ended_authorization() {
    for first in [0, 1] {
        let mut server = RedisServer::start(false).await;
        let processes = [server.open().await, server.open().await];
        let [one, other] = &processes;
        let (ticket, _) = platforms(one).await;
        let wx1 = app("wx1");
        assert!(server.command("SAVE").await.starts_with("+OK"));
        let newer = ticket.sent_at + 600;
        assert_eq!(one.put_ticket(&platform(), &secret("newer"), newer).await, Ok(true));
        let replace = async |state: &Arc<dyn State>, before: &str, value| {
            let (before, value) = (secret(before), secret(value));
            state.replace_refresh_token(&platform(), &wx1, Some(&before), &value).await
        };
        // Both processes change it, without a new time.
        assert_eq!(replace(one, "refresh of wx1", "second").await, Ok(true));
        assert_eq!(replace(other, "second", "third").await, Ok(true));
        let again = authorizer("wx2", 20);
        let ended = Authorizer { authorized: false, ..authorizer("wx3", 20) };
        for change in [&authorizer("wx3", 10), &again, &ended] {
            assert_eq!(other.put_authorizer(change, false).await, Ok(true));
        }
        server.kill();
        server.restart().await;

        // Whichever process notices it first.
        becomes(async || processes[first].probe().await.is_err_and(|it| is_quiet(&it)), true).await;
        let third = Authorizer { refresh_token: Some(secret("third")), ..authorizer("wx1", 7) };
        let ended = Authorizer { refresh_token: None, ..ended };
        let expected = Ok(vec![third, again, ended]);
        for state in &processes {
            becomes(async || state.authorizers(&platform(), None, 9).await, expected.clone()).await;
            let found = state.ticket(&platform()).await.expect("Redis runs").expect("a ticket");
            assert_eq!((found.value, found.sent_at), (secret("newer"), newer));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_after_loss_outlives_restored_ones() {
    let server = RedisServer::start(false).await;
    let (one, other) = (server.open().await, server.open().await);
    let before = authorizer("wx1", 10);
    let seen = Authorizer { record: b"seen by the other".into(), ..before.clone() };
    assert_eq!(one.put_authorizer(&before, false).await, Ok(true));
    assert_eq!(other.put_authorizer(&seen, false).await, Ok(true));
    server.command("FLUSHALL").await;
    // There is less than one change per millisecond.
    sleep(Duration::from_millis(10)).await;
    // A new process changes it before the others have noticed the loss, in the same second.
    let new = server.open().await;
    let after = Authorizer { record: b"after".into(), ..before };
    assert_eq!(new.put_authorizer(&after, false).await, Ok(true));
    for state in [&one, &other] {
        after_quiet_period(async || state.probe().await).await;
    }
    assert_eq!(one.authorizer(&platform(), &app("wx1")).await, Ok(Some(after)));
}
