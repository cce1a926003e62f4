//! Lists of WeChat's that are short, repeat rows or never end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tonic::Code;
use wechat_simulator::{Fault, faults::Kind};
use wechat_store_gateway::pb::{self, UpgradeStep};

use crate::support::{App, STABLE_TOKEN, is, reason, with_deadline};

const STORES: &str = "/wxa/get_store_list";
const OLD_STORES: &str = "/cgi-bin/poi/getpoilist";
const PLACES: &str = "/wxa/getnearbypoilist";

/// Returns old stores with these ids, all of them migrated.
fn migrated(ids: impl Iterator<Item = u64>) -> Vec<Value> {
    ids.map(|id| json!({ "base_info": { "poi_id": id, "upgrade_status": 3 } })).collect()
}

fn page(rows: Vec<Value>, total: Value) -> Value {
    json!({ "errcode": 0, "errmsg": "ok", "business_list": rows, "total_count": total })
}

impl App {
    fn replace(&self, path: &str, body: Value) {
        self.wechat.control("DELETE", "faults", &json!({})).expect("cleared");
        self.fault(path, Kind::Replace { body });
    }
}

/// Answers like a WeChat whose list of old stores never ends.
async fn endless_answer(
    request: Request<Incoming>,
    calls: Arc<AtomicUsize>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let answer = if request.uri().path() == STABLE_TOKEN {
        json!({ "access_token": "token", "expires_in": 7200 })
    } else {
        calls.fetch_add(1, Ordering::Relaxed);
        let body = request.into_body().collect().await?.to_bytes();
        let asked: Value = serde_json::from_slice(&body).expect("JSON");
        let number = |name: &str| asked[name].as_u64().expect("a number");
        let end = number("begin") + number("limit");
        page(migrated(number("begin")..end), json!(end + 1))
    };
    Ok(Response::new(Full::new(answer.to_string().into())))
}

/// Returns a gateway in front of an endless list, and the number of its requests.
async fn endless() -> (App, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let host = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let calls = counted.clone();
            let answer = service_fn(move |request| endless_answer(request, calls.clone()));
            let serving = http1::Builder::new().serve_connection(TokioIo::new(socket), answer);
            tokio::spawn(serving);
        }
    });
    (App::in_front_of(host).await, calls)
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_list_is_not_a_complete_migration() {
    let (app, calls) = endless().await;
    let request = with_deadline(pb::GetUpgradeProgressRequest::default(), Duration::from_secs(60));
    let progress = app.stores().get_upgrade_progress(request).await.expect("progress").into_inner();
    assert_eq!((progress.complete, progress.next_step()), (false, UpgradeStep::Unspecified));
    assert!(progress.unread_count > 0);
    assert_eq!(progress.total_count, progress.migrated_count + progress.unread_count);
    assert!(calls.load(Ordering::Relaxed) <= 2_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn repeating_list_is_not_a_complete_migration() {
    let app = App::start().await;
    for total in [json!(1_000_000), json!("120"), Value::Null] {
        let before = app.count(OLD_STORES);
        app.replace(OLD_STORES, page(migrated(1..51), total.clone()));
        let progress = app.progress().await;
        assert_eq!((progress.complete, progress.migrated_count), (false, 50), "{total}");
        assert!(progress.unread_count > 0, "{total}");
        assert!(app.count(OLD_STORES) - before < 10, "{total}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn migration_is_complete_after_all_counted_stores() {
    let app = App::start().await;
    let nameless = || migrated(1..3).into_iter().chain([json!({ "base_info": {} })]).collect();
    for (rows, total, unread) in [
        (migrated(1..4), json!(3), 0),
        (migrated(1..4), json!("3"), 0),
        (vec![], json!(0), 0),
        (migrated(1..4), json!(7), 4),
        (migrated(1..4), json!(2), 1),
        (migrated(1..4), json!(-3), 1),
        (migrated(1..4), Value::Null, 1),
        (migrated([1, 1, 2].into_iter()), json!(3), 1),
        (nameless(), json!(3), 1),
        (vec![], json!(7), 7),
        (vec![], Value::Null, 1),
    ] {
        app.replace(OLD_STORES, page(rows, total.clone()));
        let progress = app.progress().await;
        assert_eq!(progress.unread_count, unread, "{total}");
        assert_eq!(progress.complete, unread == 0, "{total}");
        let step = if unread == 0 { UpgradeStep::None } else { UpgradeStep::Unspecified };
        assert_eq!(progress.next_step(), step, "{total}");
    }
}

/// Pages through a list, and returns the number of rows and the final error.
async fn paged<F>(page: impl Fn(String) -> F) -> (usize, Option<(Code, String)>)
where
    F: Future<Output = Result<(usize, String), tonic::Status>>,
{
    let (mut read, mut token) = (0, String::new());
    for _ in 0..20 {
        match page(token).await {
            Ok((rows, next)) if next.is_empty() => return (read + rows, None),
            Ok((rows, next)) => (read, token) = (read + rows, next),
            Err(status) => return (read, Some(reason(&status))),
        }
    }
    panic!("the list never ends");
}

impl App {
    async fn page_stores(&self) -> (usize, Option<(Code, String)>) {
        paged(async |page_token| {
            let request = pb::ListStoresRequest { page_token, page_size: 50, ..Default::default() };
            let page = self.stores().list_stores(request).await?.into_inner();
            Ok((page.stores.len(), page.next_page_token))
        })
        .await
    }

    async fn page_old_stores(&self) -> (usize, Option<(Code, String)>) {
        paged(async |page_token| {
            let request =
                pb::ListLegacyStoresRequest { page_token, page_size: 50, ..Default::default() };
            let page = self.stores().list_legacy_stores(request).await?.into_inner();
            Ok((page.stores.len(), page.next_page_token))
        })
        .await
    }

    async fn page_places(&self) -> (usize, Option<(Code, String)>) {
        paged(async |page_token| {
            let request =
                pb::ListNearbyPoisRequest { page_token, page_size: 1_000, ..Default::default() };
            let page = self.nearby().list_nearby_pois(request).await?.into_inner();
            Ok((page.pois.len(), page.next_page_token))
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn short_or_repeating_store_list_is_bad_reply() {
    let app = App::start().await;
    let bad = Some(is(Code::Internal, "WECHAT_BAD_REPLY"));
    for (rows, total, read, end) in [
        (0, json!(0), 0, None),
        (0, Value::Null, 0, None),
        (3, json!(3), 3, None),
        (3, Value::Null, 3, None),
        (0, json!(3), 0, bad.clone()),
        (3, json!(7), 3, bad.clone()),
        (50, json!(1_000_000), 50, bad.clone()),
        (50, json!(99), 50, bad.clone()),
        (50, Value::Null, 50, bad),
    ] {
        app.replace(STORES, page(migrated(1..=rows), total.clone()));
        assert_eq!(app.page_stores().await, (read, end.clone()), "{rows} of {total}");
        app.replace(OLD_STORES, page(migrated(1..=rows), total.clone()));
        assert_eq!(app.page_old_stores().await, (read, end), "{rows} of {total}");
    }
}

fn places(rows: u64, (left, most): (Value, Value)) -> Value {
    let rows: Vec<_> = (1..=rows).map(|id| json!({ "poi_id": id.to_string() })).collect();
    let data = json!({ "poi_list": rows }).to_string();
    json!({ "errcode": 0, "data": { "left_apply_num": left, "max_apply_num": most, "data": data } })
}

#[tokio::test(flavor = "multi_thread")]
async fn place_list_ends_at_its_count() {
    let app = App::start().await;
    let bad = Some(is(Code::Internal, "WECHAT_BAD_REPLY"));
    for (rows, left, most, end) in [
        (0, json!(10), json!(10), None),
        (2, json!("8"), json!(10), None),
        (2, json!(5), json!(10), bad.clone()),
        (0, json!(9), json!(10), bad.clone()),
        // Missing or wrong counts mean nothing: the list ends if a further page is empty.
        (2, json!(11), json!(10), None),
        (2, json!(10), json!(10), None),
        (2, Value::Null, Value::Null, None),
        (1_000, json!(0), json!(2_000), bad.clone()),
        (1_000, Value::Null, Value::Null, bad),
    ] {
        app.replace(PLACES, places(rows, (left.clone(), most.clone())));
        assert_eq!(app.page_places().await, (rows as usize, end), "{rows}: {left} of {most}");
    }
    assert!(app.count(PLACES) < 40, "{}", app.count(PLACES));
}

#[tokio::test(flavor = "multi_thread")]
async fn once_short_list_can_be_continued() {
    let app = App::start().await;
    app.wechat.fault(Fault::new(STORES, Kind::Replace { body: page(migrated(1..3), json!(4)) }));
    let request = pb::ListStoresRequest { page_size: 50, ..Default::default() };
    let first = app.stores().list_stores(request.clone()).await.expect("a page").into_inner();
    let request = pb::ListStoresRequest { page_token: first.next_page_token, ..request };
    app.wechat.fault(Fault::new(STORES, Kind::Replace { body: page(migrated(2..3), json!(4)) }));
    let status = app.stores().list_stores(request.clone()).await.expect_err("two are missing");
    assert_eq!(reason(&status), is(Code::Internal, "WECHAT_BAD_REPLY"));
    app.wechat.fault(Fault::new(STORES, Kind::Replace { body: page(migrated(2..5), json!(4)) }));
    let last = app.stores().list_stores(request).await.expect("a page").into_inner();
    let ids: Vec<_> = last.stores.iter().map(|store| store.poi_id.as_str()).collect();
    assert_eq!((ids, last.next_page_token.as_str()), (vec!["3", "4"], ""));
}
