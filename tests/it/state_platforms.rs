//! The cases of [`conformance!`](crate::state) about third-party platforms: tickets and authorizers.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;
use wechat_store_gateway::{
    pb::platform::AuthorizerRecord,
    state::{Authorizer, Error, State, Ticket},
    testing::{AppId, Secret},
};

use crate::state::{Backend, all_events, app, append, event, prune, secret};

const HALF_A_DAY: u64 = 12 * 60 * 60;

pub(crate) async fn newest_ticket_is_kept(backend: &mut impl Backend) {
    let state = backend.state();
    let now = now(&state).await;
    let platform = app("wxp1");
    assert_eq!(state.ticket(&platform).await, Ok(None));
    let put = async |ticket, sent_at| {
        state.put_ticket(&platform, &secret(ticket), sent_at).await.expect("no error")
    };
    let found = async || state.ticket(&platform).await.expect("no error").expect("a ticket");
    let ticket = |value, sent_at| Ticket { value: secret(value), sent_at };
    assert!(put("first", now - 1200).await);
    assert_eq!(found().await, ticket("first", now - 1200));
    assert!(put("third", now).await);
    // WeChat repeats tickets, and an older one may arrive later.
    assert!(put("third", now).await);
    assert!(!put("second", now - 600).await);
    assert!(!put("first", now - 1200).await);
    assert_eq!(found().await, ticket("third", now));
    assert!(put("of the same second", now).await);
    assert_eq!(found().await, ticket("of the same second", now));
    // WeChat's clock may be ahead.
    assert!(put("ahead", now + 60).await);
    assert!(!put("third", now).await);
    assert_eq!(found().await, ticket("ahead", now + 60));
    assert!(!format!("{:?}", found().await).contains("ahead"));
}

pub(crate) async fn ticket_counts_for_twelve_hours(backend: &mut impl Backend) {
    let state = backend.state();
    let now = now(&state).await;
    let (old, young) = (app("wxp1"), app("wxp2"));
    state.put_ticket(&old, &secret("old"), now - HALF_A_DAY - 1).await.expect("no error");
    state.put_ticket(&young, &secret("young"), now - HALF_A_DAY + 10).await.expect("no error");
    let found = async |platform| state.ticket(platform).await.expect("no error").is_some();
    for _ in 0..2 {
        assert_eq!((found(&old).await, found(&young).await), (false, true));
        prune(&state, Duration::ZERO).await;
    }
    assert_eq!(state.put_ticket(&old, &secret("new"), now).await, Ok(true));
    assert!(found(&old).await);
}

pub(crate) async fn two_platforms_share_nothing(backend: &mut impl Backend) {
    let state = backend.state();
    let now = now(&state).await;
    // The name of one platform is the beginning of the other's.
    let platforms = [app("wxp1"), app("wxp11")];
    for (ago, platform) in (1..).zip(&platforms) {
        let ticket = secret(platform.as_str());
        assert_eq!(state.put_ticket(platform, &ticket, now - ago).await, Ok(true));
        for app_id in ["wx1", "1:wx1"] {
            let authorizer = Authorizer {
                platform: platform.clone(),
                refresh_token: Some(secret(platform.as_str())),
                ..authorizer(app_id, 100 - ago)
            };
            assert_eq!(state.put_authorizer(&authorizer, false).await, Ok(true));
        }
    }
    for platform in &platforms {
        let its = Some(secret(platform.as_str()));
        let ticket = state.ticket(platform).await.expect("no error");
        assert_eq!(ticket.map(|ticket| ticket.value), its);
        let listed = state.authorizers(platform, None, 9).await.expect("no error");
        let listed: Vec<_> =
            listed.iter().map(|it| (it.app_id.as_str(), &it.refresh_token)).collect();
        assert_eq!(listed, [("1:wx1", &its), ("wx1", &its)]);
    }
    let [first, second] = &platforms;
    let ended = Authorizer { platform: first.clone(), authorized: false, ..authorizer("wx1", 200) };
    assert_eq!(state.put_authorizer(&ended, false).await, Ok(true));
    let (wx1, other) = (app("wx1"), secret("other"));
    let replaced = state.replace_refresh_token(first, &wx1, Some(&secret("wxp1")), &other).await;
    assert_eq!(replaced, Ok(false));
    let replaced = state.replace_refresh_token(second, &wx1, Some(&secret("wxp11")), &other).await;
    assert_eq!(replaced, Ok(true));
    assert_eq!(state.authorizer(&app("wxp"), &wx1).await, Ok(None));
}

pub(crate) async fn latest_authorization_change_counts(backend: &mut impl Backend) {
    let state = backend.state();
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let app_id = format!("wx{seed}");
        let mut changes: Vec<_> = (1..=5)
            .map(|changed_at| Authorizer {
                authorized: rng.bool(),
                refresh_token: Some(secret(&format!("token {changed_at}"))),
                record: format!("record {changed_at}").into(),
                ..authorizer(&app_id, changed_at)
            })
            .collect();
        let last = changes[4].clone();
        let expected = match last.authorized {
            true => last,
            false => Authorizer { refresh_token: None, ..last },
        };
        // WeChat repeats its pushes.
        changes.extend(changes.clone());
        rng.shuffle(&mut changes);
        let mut latest = 0;
        for change in &changes {
            let stored = state.put_authorizer(change, false).await;
            assert_eq!(stored, Ok(change.changed_at >= latest), "{seed}: {change:?}");
            latest = latest.max(change.changed_at);
        }
        assert_eq!(find(&state, &app_id).await, expected, "{seed}: {changes:#?}");
    }

    // Of two changes in one second the one that arrives last counts.
    for name in ["first", "second"] {
        let change = Authorizer { record: name.into(), ..authorizer("wx", 7) };
        assert_eq!(state.put_authorizer(&change, false).await, Ok(true));
        assert_eq!(find(&state, "wx").await, change);
    }
    let hidden = format!("{:?}", find(&state, "wx").await);
    assert!(hidden.contains("[redacted]") && !hidden.contains("refresh of"), "{hidden}");
    // The record can have a code: neither its bytes nor its text may be shown.
    assert!(!hidden.contains(&format!("{}", b's')), "{hidden}");
    let record =
        AuthorizerRecord { authorization_code: "hush".to_owned(), ..AuthorizerRecord::default() };
    assert!(!format!("{record:?}").contains("hush"), "{record:?}");
    let empty = Authorizer { refresh_token: Some(secret("")), ..authorizer("wx", 8) };
    assert_eq!(state.put_authorizer(&empty, false).await, Ok(true));
    assert_eq!(find(&state, "wx").await, Authorizer { refresh_token: None, ..empty });
}

pub(crate) async fn ended_authorization_stays_ended(backend: &mut impl Backend) {
    let state = backend.state();
    let put = async |authorizer: &Authorizer, only_new| {
        state.put_authorizer(authorizer, only_new).await.expect("no error")
    };
    let listed = |changed_at| authorizer("wx1", changed_at);
    assert!(put(&listed(10), true).await, "there was none");
    assert!(put(&listed(10), true).await, "it is stored");
    assert!(!put(&listed(11), true).await, "what the list shows is no change");
    let other = Authorizer { refresh_token: Some(secret("other")), ..listed(10) };
    assert!(!put(&other, true).await);
    assert_eq!(find(&state, "wx1").await, listed(10));

    let ended = Authorizer { authorized: false, ..listed(20) };
    assert!(put(&ended, false).await);
    let ended = Authorizer { refresh_token: None, ..ended };
    assert_eq!(find(&state, "wx1").await, ended);
    for late in [5, 10, 19] {
        assert!(!put(&listed(late), false).await, "it was authorized before");
    }
    for late in [5, 10, 19, 20] {
        assert!(!put(&listed(late), true).await, "it was authorized before");
    }
    assert_eq!(find(&state, "wx1").await, ended);
    assert!(put(&listed(21), true).await, "it was authorized again");
    assert_eq!(find(&state, "wx1").await, listed(21));
}

pub(crate) async fn refresh_token_is_replaced_by_one_caller(backend: &mut impl Backend) {
    let state = backend.state();
    let before = authorizer("wx1", 10);
    assert_eq!(state.put_authorizer(&before, false).await, Ok(true));
    let mut callers = JoinSet::new();
    for n in 0..8 {
        let (state, before) = (state.clone(), before.refresh_token.clone());
        callers.spawn(async move {
            let (its, value) = (before.as_ref(), secret(&format!("{n}")));
            let (platform, wx1) = (platform(), app("wx1"));
            let replaced = state.replace_refresh_token(&platform, &wx1, its, &value);
            replaced.await.expect("no error").then_some(value)
        });
    }
    let winners: Vec<_> = callers.join_all().await.into_iter().flatten().collect();
    let [winner] = &winners[..] else { panic!("{} callers have won", winners.len()) };
    let after = Authorizer { refresh_token: Some(winner.clone()), ..before.clone() };
    assert_eq!(find(&state, "wx1").await, after);

    let replace = async |app_id, before: Option<&Secret>, value: &Secret| {
        let (platform, app_id) = (platform(), app(app_id));
        let replaced = state.replace_refresh_token(&platform, &app_id, before, value);
        replaced.await.expect("no error")
    };
    let (old, late) = (before.refresh_token.as_ref(), secret("late"));
    assert!(replace("wx1", old, winner).await, "a repeat after an error");
    assert!(!replace("wx1", old, &late).await);
    assert!(!replace("wx1", None, &late).await);
    assert!(!replace("wx1", Some(winner), &secret("")).await);
    assert!(!replace("never", None, &late).await);
    assert_eq!(find(&state, "wx1").await, after);

    let without = Authorizer { refresh_token: None, ..authorizer("wx2", 10) };
    assert_eq!(state.put_authorizer(&without, false).await, Ok(true));
    assert!(!replace("wx2", Some(&late), &secret("one")).await);
    assert!(replace("wx2", None, &secret("one")).await);
    assert_eq!(find(&state, "wx2").await.refresh_token, Some(secret("one")));
    let ended = Authorizer { authorized: false, ..authorizer("wx2", 11) };
    assert_eq!(state.put_authorizer(&ended, false).await, Ok(true));
    assert!(!replace("wx2", None, &late).await, "its authorization has ended");
    assert_eq!(find(&state, "wx2").await, Authorizer { refresh_token: None, ..ended });
}

pub(crate) async fn changed_authorizer_is_not_described(backend: &mut impl Backend) {
    let state = backend.state();
    let describe = async |changed_at, record: &str| {
        let (platform, wx1, record) = (platform(), app("wx1"), record.as_bytes());
        let described = state.describe_authorizer(&platform, &wx1, changed_at, record);
        described.await.expect("no error")
    };
    assert!(!describe(10, "never").await);
    let mut expected = authorizer("wx1", 10);
    assert_eq!(state.put_authorizer(&expected, false).await, Ok(true));
    // A new refresh token is no change of the authorization.
    let (before, value) = (expected.refresh_token.clone(), secret("new"));
    let replaced =
        state.replace_refresh_token(&platform(), &app("wx1"), before.as_ref(), &value).await;
    assert_eq!(replaced, Ok(true));
    for record in ["one", "one", "", "\0two\u{ff}"] {
        assert!(describe(10, record).await);
        expected =
            Authorizer { refresh_token: Some(value.clone()), record: record.into(), ..expected };
        assert_eq!(find(&state, "wx1").await, expected);
    }
    for other in [9, 11] {
        assert!(!describe(other, "other").await);
    }
    assert_eq!(find(&state, "wx1").await, expected);
}

pub(crate) async fn authorizers_are_paged_in_order(backend: &mut impl Backend) {
    const COUNT: usize = 2100;
    let state = backend.state();
    let id = |number: usize| format!("wx{number:05}");
    let mut numbers: Vec<_> = (0..COUNT).collect();
    fastrand::Rng::with_seed(1).shuffle(&mut numbers);
    let mut puts = JoinSet::new();
    for number in numbers {
        let state = state.clone();
        let authorized = number % 7 != 0;
        let new = Authorizer { authorized, ..authorizer(&id(number), number as u64) };
        puts.spawn(async move { state.put_authorizer(&new, false).await });
    }
    assert!(puts.join_all().await.into_iter().all(|stored| stored == Ok(true)));
    let expected: Vec<_> = (0..COUNT).map(id).collect();

    let page = async |after: Option<&AppId>, most| {
        let page = state.authorizers(&platform(), after, most).await.expect("a page");
        page.into_iter().map(|it| (it.app_id, it.authorized)).collect::<Vec<_>>()
    };
    for most in [1, 3, 500, 501, 1000, COUNT, COUNT + 1, usize::MAX] {
        // Small pages take too long to read all of them.
        let enough = if most < 500 { 2 * most + 1 } else { COUNT };
        let (mut found, mut after) = (Vec::new(), None);
        while found.len() < enough {
            let next = page(after.as_ref(), most).await;
            assert_eq!(next.len(), most.min(COUNT - found.len()));
            after = next.last().map(|(app_id, _)| app_id.clone());
            found.extend(next);
        }
        for (number, (app_id, authorized)) in found.iter().enumerate() {
            assert_eq!((app_id.as_str(), *authorized), (&*expected[number], number % 7 != 0));
        }
    }
    assert_eq!(page(Some(&app(&id(COUNT - 1))), 9).await, []);
    assert_eq!(page(None, 0).await, []);
    // The place of an id that is not stored.
    assert_eq!(page(Some(&app("wx00008x")), 1).await, [(app("wx00009"), true)]);
}

pub(crate) async fn pruning_keeps_present_authorizers(backend: &mut impl Backend) {
    let state = backend.state();
    let now = now(&state).await;
    let put = async |app_id, ago, authorized| {
        let new = Authorizer { authorized, ..authorizer(app_id, now - ago) };
        assert_eq!(state.put_authorizer(&new, false).await, Ok(true));
    };
    put("again", 300, false).await;
    put("again", 200, true).await;
    put("ended", 150, true).await;
    put("ended", 100, false).await;
    put("old", 100, true).await;
    put("young", 10, false).await;
    assert_eq!(prune(&state, Duration::from_secs(60)).await, 1);
    assert_eq!(state.authorizer(&platform(), &app("ended")).await, Ok(None));
    let listed = state.authorizers(&platform(), None, 9).await.expect("a page");
    let listed: Vec<_> = listed.iter().map(|it| (it.app_id.as_str(), it.authorized)).collect();
    assert_eq!(listed, [("again", true), ("old", true), ("young", false)]);
    put("ended", 90, true).await;
    assert!(find(&state, "ended").await.authorized);
}

/// Stores a ticket and two authorizers, and returns them.
pub(crate) async fn platforms(state: &Arc<dyn State>) -> (Ticket, Vec<Authorizer>) {
    let ticket = Ticket { value: secret("ticket"), sent_at: now(state).await };
    let stored = state.put_ticket(&platform(), &ticket.value, ticket.sent_at).await;
    assert_eq!(stored, Ok(true));
    let ended = Authorizer { authorized: false, refresh_token: None, ..authorizer("wx2", 8) };
    let authorizers = vec![authorizer("wx1", 7), ended];
    for authorizer in &authorizers {
        assert_eq!(state.put_authorizer(authorizer, false).await, Ok(true));
    }
    (ticket, authorizers)
}

/// Checks that the state has the data of [`platforms`].
pub(crate) async fn assert_platforms(
    state: &Arc<dyn State>,
    (ticket, authorizers): (Ticket, Vec<Authorizer>),
) {
    assert_eq!(state.ticket(&platform()).await, Ok(Some(ticket)));
    assert_eq!(state.authorizers(&platform(), None, 9).await, Ok(authorizers));
}

/// Checks that a damaged authorizer affects only itself, and that the next change replaces it. `damage` damages the
/// row of the authorizer `wx2`.
pub(crate) async fn damaged_authorizer_is_replaced(
    state: &Arc<dyn State>,
    damage: impl AsyncFn(),
    what: &str,
) {
    let before = ["wx1", "wx2", "wx3", "wx4"].map(|app_id| authorizer(app_id, 10));
    for authorizer in &before {
        state.put_authorizer(authorizer, false).await.expect("no error");
    }
    damage().await;
    let ([wx1, wx2, wx3, _], wx2_id) = (before, app("wx2"));
    let unreadable = |error| matches!(error, Error::Unreadable(_));
    assert!(state.authorizer(&platform(), &wx2_id).await.is_err_and(unreadable), "{what}");
    let (token, new) = (wx2.refresh_token.clone(), secret("new"));
    let replaced = state.replace_refresh_token(&platform(), &wx2_id, token.as_ref(), &new).await;
    assert!(replaced.is_err_and(unreadable), "{what}");
    let described = state.describe_authorizer(&platform(), &wx2_id, 10, b"new").await;
    assert!(described.is_err_and(unreadable), "{what}");
    // A page has as many as there are.
    let listed = state.authorizers(&platform(), None, 2).await;
    assert_eq!(listed, Ok(vec![wx1, wx3]), "{what}");
    // Its time may be damaged, so even an older change replaces it.
    for only_new in [true, false] {
        damage().await;
        let change = Authorizer { changed_at: 9, ..wx2.clone() };
        assert_eq!(state.put_authorizer(&change, only_new).await, Ok(true), "{what}");
        assert_eq!(find(state, "wx2").await, change, "{what}");
    }
}

/// Checks that the next ticket replaces a damaged one.
pub(crate) async fn damaged_ticket_is_replaced(
    state: &Arc<dyn State>,
    damage: impl AsyncFn(),
    what: &str,
) {
    let now = now(state).await;
    let ticket = Ticket { value: secret("ticket"), sent_at: now - 60 };
    let put = async || state.put_ticket(&platform(), &ticket.value, ticket.sent_at).await;
    put().await.expect("no error");
    damage().await;
    assert_eq!(state.ticket(&platform()).await, Ok(None), "{what}");
    assert_eq!(put().await, Ok(true), "{what}");
    assert_eq!(state.ticket(&platform()).await, Ok(Some(ticket)), "{what}");
}

/// The platform of [`authorizer`].
pub(crate) fn platform() -> AppId {
    app("wxplatform")
}

/// Returns an account that authorized the platform at a time.
pub(crate) fn authorizer(app_id: &str, changed_at: u64) -> Authorizer {
    Authorizer {
        platform: platform(),
        app_id: app(app_id),
        changed_at,
        authorized: true,
        refresh_token: Some(secret(&format!("refresh of {app_id}"))),
        record: format!("record of {app_id}").into(),
    }
}

async fn find(state: &Arc<dyn State>, app_id: &str) -> Authorizer {
    let found = state.authorizer(&platform(), &app(app_id)).await;
    found.expect("no error").expect("stored")
}

/// Returns the time of the backend in seconds after 1970.
async fn now(state: &Arc<dyn State>) -> u64 {
    append(state, event("now")).await;
    all_events(state).await.last().expect("one").received / 1000
}
