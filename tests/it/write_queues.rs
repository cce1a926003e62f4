//! Writes that WeChat accepts only one after another.

use std::time::Duration;

use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use wechat_simulator::{Fault, faults::Kind};
use wechat_store_gateway::pb;

use crate::support::{App, is, nearby_profile, reason, with_deadline, within};

const ADD: &str = "/wxa/addnearbypoi";
const SOON: Duration = Duration::from_secs(20);

/// Returns one of many places.
fn place(map_poi_id: &str, license_number: usize) -> pb::AddNearbyPoiRequest {
    let profile = pb::NearbyPoiProfile {
        license_number: format!("15671819351828{license_number}"),
        ..nearby_profile(map_poi_id)
    };
    pb::AddNearbyPoiRequest { profile: Some(profile), ..Default::default() }
}

async fn add(app: &App, place: pb::AddNearbyPoiRequest, patience: Duration) -> Result<(), Status> {
    app.nearby().add_nearby_poi(with_deadline(place, patience)).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn places_are_added_one_per_second() {
    let app = App::start().await;
    let places = app.places(3).await;
    let calls = places.iter().enumerate().map(|(n, id)| add(&app, place(id, n), SOON));
    for added in join_all(calls).await {
        added.expect("submitted");
    }
    let times: Vec<_> = app.wechat.calls(ADD).iter().map(|call| call.at_unix_ms).collect();
    assert_eq!(times.len(), 3, "none was refused");
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 1_000), "{times:?}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_writes_run_in_order_of_arrival() {
    let app = App::start().await;
    let places = app.places(6).await;
    let asking = places.iter().enumerate().map(|(n, id)| {
        let (app, request) = (&app, place(id, n));
        async move {
            // Enough time to enter the queue before the next one.
            tokio::time::sleep(Duration::from_millis(100) * u32::try_from(n).expect("few")).await;
            add(app, request, Duration::from_secs(60)).await
        }
    });
    let passing = async {
        loop {
            tokio::time::sleep(Duration::from_millis(700)).await;
            app.clock.advance(Duration::from_secs(1));
        }
    };
    let asked = tokio::select! {
        asked = join_all(asking) => asked,
        () = passing => unreachable!("time does not end"),
    };
    assert!(asked.iter().all(Result::is_ok), "{asked:?}");
    let calls = app.wechat.calls(ADD);
    let order: Vec<_> = calls.iter().map(|call| call.body["credential"].clone()).collect();
    let expected: Vec<_> = (0..6).map(|n| format!("15671819351828{n}")).collect();
    assert_eq!(order, expected);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn write_without_time_to_run_fails_at_once() {
    // The queue pauses for a second after the first place, and the clock stands still.
    let app = App::still().await;
    let places = app.places(7).await;
    app.nearby().add_nearby_poi(place(&places[0], 0)).await.expect("submitted");
    let nearby = app.timeless_nearby().await;
    let mut calls: FuturesUnordered<_> = places[1..]
        .iter()
        .enumerate()
        .map(|(n, id)| {
            let mut nearby = nearby.clone();
            let request = with_deadline(place(id, n + 1), Duration::from_millis(2_500));
            async move { nearby.add_nearby_poi(request).await }
        })
        .collect();
    // A part of the 2.5 s is the gateway's reserve, so two writes can wait behind the next one.
    for _ in 0..3 {
        let answer = within(SOON, calls.next()).await.expect("six calls");
        let status = answer.expect_err("no turn in time");
        assert_eq!(reason(&status), is(Code::ResourceExhausted, "WRITE_QUEUE_BUSY"));
        let retry = status.get_details_retry_info().and_then(|info| info.retry_delay);
        assert_eq!(retry, Some(Duration::from_secs(3)));
    }
    assert_eq!(calls.len(), 3, "the others wait");
    assert_eq!(app.count(ADD), 1, "a refused call is not sent");
    for sent in 2..=3 {
        app.clock.advance(Duration::from_secs(1));
        within(SOON, calls.next()).await.expect("three calls").expect("its turn came");
        assert_eq!(app.count(ADD), sent);
    }
    drop(calls);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_reply_blocks_queue_until_call_cannot_arrive() {
    let app = App::start().await;
    let places = app.places(2).await;
    app.wechat.fault(Fault::new(ADD, Kind::ResetBefore));
    let lost = add(&app, place(&places[0], 1), SOON).await.expect_err("no reply");
    assert_eq!(reason(&lost), is(Code::Unknown, "OUTCOME_UNKNOWN"));
    let next = add(&app, place(&places[1], 2), Duration::from_secs(40));
    let wait = async {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert_eq!(app.count(ADD), 1, "it may still arrive");
        app.clock.advance(Duration::from_secs(9));
    };
    let (next, ()) = tokio::join!(within(SOON, next), wait);
    next.expect("submitted");
    app.stop().await;
}
