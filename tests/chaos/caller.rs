//! A careful caller: it gives each write a request id, repeats failed writes if that is allowed,
//! and queries the outcome of the others.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use prost::Message;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};
use wechat_simulator::COMPANY;
use wechat_store_gateway::pb::{self, WriteState, get_write_request::Lookup};

use crate::{
    RECOVERED_BY_READING,
    gateway::reason,
    run::{Answer, Call, Run, Verdict, Write},
    wechat::{PICTURE, now},
    write::Request,
};

/// The number of attempts at a write during the faults.
const TRIES: u32 = 6;
/// The number of attempts at a write after the faults.
const LAST_TRIES: u32 = 12;
/// The longest wait of a caller then. It is longer than any write, queue or lease of a killed
/// process lasts.
const LONGEST: Duration = Duration::from_secs(30);
/// The time beyond the deadline after which a caller does not wait for an answer any more.
const SILENCE: Duration = Duration::from_secs(10);
/// The beginning and the end of every picture. The bytes in between make each picture different.
const PNG: [&[u8]; 2] = [b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"];

/// Reads and writes until the faults are over.
pub(crate) async fn call_on(run: Arc<Run>, mut random: fastrand::Rng, nearby: bool) {
    while !run.has_ended() {
        sleep(Duration::from_millis(random.u64(100..2_500))).await;
        if !nearby && random.u32(..100) < 35 {
            let request = read(&run, &mut random);
            let time_left = time_left(&mut random);
            let gateway = random.usize(..run.doors.len());
            let _ = call(&run, gateway, &mut random, request, time_left).await;
            continue;
        }
        let request_id = uuid::Builder::from_u128(random.u128(..)).into_uuid().to_string();
        let Some(request) = write(&run, &mut random, nearby, &request_id) else { continue };
        if request.mark().is_none() {
            let time_left = time_left(&mut random);
            let _ = call(&run, 0, &mut random, request, time_left).await;
            continue;
        }
        let write = Arc::new(Write { request_id, request, answers: Mutex::default() });
        run.writes.lock().expect("no panic").push(write.clone());
        // Some writes are sent by two callers independently.
        let mut other = random.fork();
        if random.u32(..100) < 20 {
            tokio::join!(push(&run, &write, &mut random), push(&run, &write, &mut other));
        } else {
            push(&run, &write, &mut random).await;
        }
        if random.u32(..100) < 15 {
            reuse(&run, &write, &mut random).await;
        }
    }
}

/// Repeats a write until its end is known, up to a limit.
async fn push(run: &Run, write: &Write, random: &mut fastrand::Rng) {
    for turn in 1..=TRIES {
        let gateway = random.usize(..run.doors.len());
        let time_left = time_left(random);
        let leaves = random.u32(..100) < 8;
        let send = send(run, gateway, write, random, time_left);
        if !leaves {
            if send.await != Verdict::Again {
                return;
            }
        } else if timeout(Duration::from_millis(u64::from(turn) * 40), send).await.is_err() {
            // The caller has left and returns.
            ask(run, write, random).await;
        }
        if run.has_ended() {
            return;
        }
        sleep(Duration::from_millis(random.u64(100..500) * u64::from(turn))).await;
    }
}

/// Repeats a write until its end is known.
pub(crate) async fn resolve(run: &Run, write: &Write, mut random: fastrand::Rng) {
    let method = write.request.method();
    for turn in 0..LAST_TRIES {
        match write.last_word() {
            None | Some(Verdict::Again) => {}
            // The write is not sent again, however often it is repeated.
            Some(Verdict::Unknown) if turn == 0 || RECOVERED_BY_READING.contains(&method) => {}
            _ => break,
        }
        let gateway = random.usize(..run.doors.len());
        if send(run, gateway, write, &mut random, LONGEST).await == Verdict::Again {
            sleep(Duration::from_millis(random.u64(200..1_000))).await;
        }
    }
    match write.last_word() {
        None | Some(Verdict::Again) => {
            let answers = write.answers.lock().expect("no panic").clone();
            run.wrong(format!("never ends: {method} {} {answers:?}", write.request_id));
        }
        Some(Verdict::Done(response)) => {
            let kept = ask(run, write, &mut random).await;
            // A recovered write has no response of WeChat's.
            let looked = RECOVERED_BY_READING.contains(&method);
            let same = kept.as_ref().is_some_and(|kept| {
                let known = kept.response.as_ref().map_or(looked, |kept| kept.value == response);
                kept.state() == WriteState::Finished && known
            });
            if !same {
                run.wrong(format!("GetWrite says something else: {method} {kept:?}"));
            }
        }
        _ => {}
    }
}

/// Sends another request with the request id of an existing write.
async fn reuse(run: &Run, write: &Write, random: &mut fastrand::Rng) {
    let known = write.last_word();
    let Some(Verdict::Done(_) | Verdict::Unknown) = known else { return };
    let Some(other) = write.request.other() else { return };
    let time_left = time_left(random);
    let gateway = random.usize(..run.doors.len());
    let (answer, method) =
        (call(run, gateway, random, other, time_left).await, write.request.method());
    match answer {
        Ok(_) => run.wrong(format!("reused: {method} {} is OK", write.request_id)),
        Err(status) => match verdict(&Err(status)) {
            Verdict::Refused(reason) if reason == "REQUEST_ID_REUSED" => {}
            Verdict::Again => {}
            other => run.wrong(format!("reused: {method} {} is {other:?}", write.request_id)),
        },
    }
}

/// Queries the outcome of a write.
async fn ask(run: &Run, write: &Write, random: &mut fastrand::Rng) -> Option<pb::Write> {
    let lookup = Some(Lookup::WriteRequestId(write.request_id.clone()));
    let request = pb::GetWriteRequest { app_id: String::new(), lookup };
    let gateway = random.usize(..run.doors.len());
    let answer = call(run, gateway, random, request.into(), Duration::from_secs(10)).await.ok()?;
    pb::GetWriteResponse::decode(&*answer).expect("a response").write
}

/// Sends a write once.
async fn send(
    run: &Run,
    gateway: usize,
    write: &Write,
    random: &mut fastrand::Rng,
    time_left: Duration,
) -> Verdict {
    let from = now();
    let answer = call(run, gateway, random, write.request.clone(), time_left).await;
    let verdict = verdict(&answer);
    let answer = Answer { from, until: now(), verdict: verdict.clone() };
    write.answers.lock().expect("no panic").push(answer);
    verdict
}

/// Returns the meaning of an answer for the caller.
fn verdict(answer: &Result<Vec<u8>, Status>) -> Verdict {
    let status = match answer {
        Ok(response) => return Verdict::Done(response.clone()),
        Err(status) => status,
    };
    let (code, reason) = reason(status);
    match (code, reason.as_str()) {
        (Code::Unknown, "OUTCOME_UNKNOWN") => Verdict::Unknown,
        (
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::PermissionDenied,
            _,
        )
        | (_, "NEARBY_LIMIT_REACHED" | "MERCHANT_CHANGE_LIMIT_REACHED") => Verdict::Refused(reason),
        _ => Verdict::Again,
    }
}

/// Makes a call and records its result.
pub(crate) async fn call(
    run: &Run,
    gateway: usize,
    random: &mut fastrand::Rng,
    request: Request,
    time_left: Duration,
) -> Result<Vec<u8>, Status> {
    /// Records the call even if the caller leaves.
    struct Noted<'a>(&'a Run, Option<Call>);
    impl Drop for Noted<'_> {
        fn drop(&mut self) {
            if let Some(call) = self.1.take() {
                let call = Call { until: now(), ..call };
                self.0.calls.lock().expect("no panic").push(call);
            }
        }
    }
    let doors = &run.doors[gateway];
    let door = doors[random.usize(..doors.len())].clone();
    let (method, from) = (request.method(), now());
    let call = Call { gateway, method, from, until: from, time_left, status: None };
    let mut noted = Noted(run, Some(call));
    // If a gateway gives no answer at all, the caller leaves, and the check reports it.
    let send = timeout(time_left + SILENCE, request.send(door, time_left));
    let answer = send.await.unwrap_or_else(|_| Err(Status::from_error("silence".into())));
    if let Some(call) = &mut noted.1 {
        let ok = || (Code::Ok, String::new());
        call.status = Some(answer.as_ref().err().map_or_else(ok, reason));
    }
    answer
}

/// Returns a deadline. Most callers wait for some seconds, and a few hardly at all.
fn time_left(random: &mut fastrand::Rng) -> Duration {
    Duration::from_millis(match random.u32(..100) {
        0..12 => random.u64(300..700),
        _ => random.u64(2_000..6_000),
    })
}

fn one_of<'a, T>(random: &mut fastrand::Rng, things: &'a [T]) -> &'a T {
    &things[random.usize(..things.len())]
}

fn read(run: &Run, random: &mut fastrand::Rng) -> Request {
    let poi_id = one_of(random, &run.stock.stores).clone();
    let app_id = one_of(random, &run.stock.mini_programs).clone();
    match random.u32(..8) {
        0 | 1 => pb::GetStoreRequest { poi_id, ..Default::default() }.into(),
        2 => pb::GetStoreCardRequest { poi_id, ..Default::default() }.into(),
        3 => pb::ListStoresRequest { page_size: 5, ..Default::default() }.into(),
        4 => pb::ListNearbyPoisRequest { app_id, ..Default::default() }.into(),
        5 => pb::SearchMapPoisRequest {
            district_id: "440105".to_owned(),
            keyword: "X-MAX".to_owned(),
            ..Default::default()
        }
        .into(),
        6 => pb::ListCategoriesRequest::default().into(),
        _ => pb::GetMerchantAuditRequest::default().into(),
    }
}

/// Returns a write that differs from all others, or `None` if its objects are used up.
fn write(run: &Run, random: &mut fastrand::Rng, nearby: bool, request_id: &str) -> Option<Request> {
    let (request_id, number) = (request_id.to_owned(), run.next());
    let stock = &run.stock;
    let poi_id = one_of(random, &stock.stores).clone();
    let (app_id, nearby_id) = one_of(random, &stock.pois).clone();
    if nearby {
        let app_id = one_of(random, &stock.mini_programs).clone();
        return Some(match random.u32(..4) {
            0 => pb::ReplaceNearbyPoiRequest {
                profile: Some(profile(&app_id, &format!("No. {number}"), "156718193518281")),
                request_id,
                nearby_poi_id: stock.pois.iter().find(|poi| poi.0 == app_id)?.1.clone(),
                app_id,
                ..Default::default()
            }
            .into(),
            _ => pb::AddNearbyPoiRequest {
                profile: Some(profile(&app_id, "-", &format!("{:015}", 1_000_000 + number))),
                request_id,
                app_id,
                ..Default::default()
            }
            .into(),
        });
    }
    Some(match random.u32(..100) {
        0..26 => pb::AddStoreRequest {
            request_id,
            map_poi_id: stock.places.lock().expect("no panic").pop()?,
            picture_urls: vec![PICTURE.to_owned()],
            contact_phone: "020-89190388".to_owned(),
            hours: Some(hours("10:00", "21:30")),
            license_number: format!("new-{number}"),
            ..Default::default()
        }
        .into(),
        26..40 => pb::UpdateStoreRequest {
            request_id,
            poi_id,
            contact_phone: Some(format!("020-{}", 1_000_000 + number)),
            ..Default::default()
        }
        .into(),
        40..54 => {
            let time = |minutes: u64| format!("{:02}:{:02}", minutes / 60 % 24, minutes % 60);
            let hours = hours(&time(number % 1440), &time(number / 1440 + 1));
            pb::UpdateStoreRequest { request_id, poi_id, hours: Some(hours), ..Default::default() }
                .into()
        }
        54..72 => pb::CreateMapPoiRequest {
            request_id,
            name: format!("place-{number}"),
            district_id: "440105".to_owned(),
            address: "新港中路397号".to_owned(),
            location: Some(pb::LatLng { latitude: 23.09, longitude: 113.32 }),
            category: "美食:中餐厅".to_owned(),
            telephones: vec!["020-89190388".to_owned()],
            photo_url: PICTURE.to_owned(),
            license_url: PICTURE.to_owned(),
            introduction: "家常菜".to_owned(),
            ..Default::default()
        }
        .into(),
        72..80 => pb::SetStoreCardRequest {
            request_id,
            poi_id,
            card_id: format!("card-{number}"),
            ..Default::default()
        }
        .into(),
        80..85 => pb::DeleteStoreRequest {
            request_id,
            poi_id: stock.doomed_stores.lock().expect("no panic").pop()?,
            ..Default::default()
        }
        .into(),
        85..88 => {
            let (app_id, poi_id) = stock.doomed_pois.lock().expect("no panic").pop()?;
            pb::DeleteNearbyPoiRequest { request_id, app_id, nearby_poi_id: poi_id }.into()
        }
        88..93 => pb::SetNearbyPoiVisibilityRequest {
            request_id,
            app_id,
            nearby_poi_id: nearby_id,
            visible: Some(random.bool()),
        }
        .into(),
        93..94 => pb::UpdateMerchantRequest {
            request_id,
            introduction: Some(format!("introduction {number}")),
            ..Default::default()
        }
        .into(),
        94..97 => {
            let content = [PNG[0], &vec![0; usize::try_from(number).ok()?], PNG[1]].concat().into();
            pb::UploadImageRequest { request_id, content, ..Default::default() }.into()
        }
        // This write needs no request id.
        _ => {
            let content = PNG.concat().into();
            pb::UploadTemporaryImageRequest { content, ..Default::default() }.into()
        }
    })
}

fn profile(app_id: &str, address: &str, license_number: &str) -> pb::NearbyPoiProfile {
    pb::NearbyPoiProfile {
        name: "巷口小馆".to_owned(),
        address: address.to_owned(),
        picture_urls: vec![PICTURE.to_owned()],
        contact_phone: "020-89190388".to_owned(),
        hours: Some(hours("10:00", "21:30")),
        company_name: COMPANY.to_owned(),
        license_number: license_number.to_owned(),
        service_labels: vec![pb::ServiceLabel {
            kind: pb::NearbyServiceKind::Delivery.into(),
            app_id: app_id.to_owned(),
            path: "pages/index".to_owned(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn hours(open: &str, close: &str) -> pb::OpeningHours {
    pb::OpeningHours { open: open.to_owned(), close: close.to_owned(), text: String::new() }
}
