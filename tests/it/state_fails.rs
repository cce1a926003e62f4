//! A state whose operations fail, one at a time, in every way and under every call: the caller gets
//! STATE_UNAVAILABLE.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::{Code, Status, transport::Channel};
use wechat_simulator::{
    MINI_PROGRAM_APP_ID, MINI_PROGRAM_SECRET, OFFICIAL_APP_ID, OFFICIAL_SECRET, Simulator,
};
use wechat_store_gateway::{
    app::{self, Listeners},
    config::{Environment, Settings},
    live::Source,
    pb::{
        self, WatchPosition, audit_service_client::AuditServiceClient,
        card_service_client::CardServiceClient, get_write_request::Lookup,
        nearby_service_client::NearbyServiceClient, store_service_client::StoreServiceClient,
        watch_audit_events_request::Start, write_service_client::WriteServiceClient,
    },
    state::{
        Acquired, Appended, Authorizer, Begun, Error, EventPage, EventQuery, Events, Leases, Log,
        NewEvent, NewSubmission, NewWrite, Outcome, Platforms, Segment, SharedToken, State,
        Submission, SubmissionPage, SubmissionQuery, Submissions, Ticket, Tokens, Write, WritePage,
        WriteQuery, Writes, sqlite::Sqlite,
    },
    telemetry::Handles,
    testing::{AppId, Clock, PoiId, Secret},
};

use crate::{
    metrics::Scrape,
    support::{ask, is, nearby_profile, new_store, reason, with_deadline},
};

/// A request id that is not in the journal.
const NAME: &str = "0d5f1c3a-5f0e-4d7e-9c55-0a3f5f1c2b6d";

/// A state that works except for one operation.
#[derive(Debug)]
struct Failing {
    inner: Sqlite,
    /// The operation and its error.
    fails: Mutex<Option<(&'static str, Error)>>,
    /// The operation that never ends.
    hangs: Mutex<Option<&'static str>>,
    /// The operations that were used.
    used: Mutex<BTreeSet<&'static str>>,
}

impl Failing {
    async fn reach(&self, verb: &'static str) -> Result<(), Error> {
        self.used.lock().expect("no panic").insert(verb);
        let hangs = *self.hangs.lock().expect("no panic") == Some(verb);
        if hangs {
            std::future::pending::<()>().await;
        }
        match &*self.fails.lock().expect("no panic") {
            Some((fails, error)) if *fails == verb => Err(error.clone()),
            _ => Ok(()),
        }
    }
}

/// Every operation first checks whether it must fail.
macro_rules! verbs {
    ($trait:ident: $($verb:ident($($name:ident: $type:ty),*) -> $answer:ty;)+) => {
        #[tonic::async_trait]
        impl $trait for Failing {$(
            async fn $verb(&self, $($name: $type),*) -> Result<$answer, Error> {
                self.reach(stringify!($verb)).await?;
                self.inner.$verb($($name),*).await
            }
        )+}
    };
}

verbs! { Events:
    append(event: NewEvent) -> Appended;
    events(query: EventQuery) -> EventPage;
    newer(position: u64) -> Option<Segment>;
    log() -> Log;
}

verbs! { Submissions:
    remember(submission: NewSubmission) -> ();
    submission(submission_id: &str) -> Option<Submission>;
    pictures(app_id: &AppId, poi_id: &PoiId) -> Option<Submission>;
    submissions(query: SubmissionQuery) -> SubmissionPage;
    take_due(again: Duration, limit: usize) -> Vec<Submission>;
}

verbs! { Writes:
    begin(write: NewWrite, term: Duration) -> Begun;
    sent(write_id: &str, fence: u64, by: Duration, record: Bytes) -> bool;
    ended(write_id: &str, fence: u64, outcome: Outcome) -> ();
    write(write_id: &str) -> Option<Write>;
    writes(query: WriteQuery) -> WritePage;
    resolve(write_id: &str, outcome: Outcome) -> Option<Write>;
}

verbs! { Leases:
    acquire(name: &str, term: Duration) -> Acquired;
    renew(name: &str, fence: u64, term: Duration) -> bool;
    free(name: &str, fence: u64, rest: Duration) -> ();
}

verbs! { Tokens:
    token(app_id: &AppId) -> Option<SharedToken>;
    put_token(app_id: &AppId, before: u64, value: &Secret, life: Duration) -> SharedToken;
    drop_token(app_id: &AppId) -> ();
    spend(counter: &str, limit: u32, window: Duration) -> bool;
    refund(counter: &str) -> ();
}

verbs! { Platforms:
    put_ticket(platform: &AppId, ticket: &Secret, sent_at: u64) -> bool;
    ticket(platform: &AppId) -> Option<Ticket>;
    put_authorizer(authorizer: &Authorizer, only_new: bool) -> bool;
    authorizer(platform: &AppId, app_id: &AppId) -> Option<Authorizer>;
    replace_refresh_token(
        platform: &AppId, app_id: &AppId, before: Option<&Secret>, value: &Secret
    ) -> bool;
    describe_authorizer(
        platform: &AppId, app_id: &AppId, changed_at: u64, record: &[u8]
    ) -> bool;
    authorizers(platform: &AppId, after: Option<&AppId>, most: usize) -> Vec<Authorizer>;
}

verbs! { State:
    prune(age: Duration) -> u64;
    probe() -> ();
}

/// A gateway with such a state.
struct Gateway {
    state: Arc<Failing>,
    channel: Channel,
    admin: SocketAddr,
    clock: Clock,
    _folder: TempDir,
}

impl Gateway {
    async fn start() -> Self {
        let clock = Clock::system();
        let wechat = Simulator::new(wechat_simulator::Settings {
            clock: clock.clone(),
            ..Default::default()
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let host = listener.local_addr().expect("bound");
        tokio::spawn(wechat.run(listener, std::future::pending()));
        let text = format!(
            r#"
            [listen]
            grpc = "127.0.0.1:0"
            admin = "127.0.0.1:0"
            [wechat]
            hosts = ["http://{host}"]
            [[accounts]]
            app_id = "{OFFICIAL_APP_ID}"
            kind = "official"
            default = true
            secret = "{OFFICIAL_SECRET}"
            [[accounts]]
            app_id = "{MINI_PROGRAM_APP_ID}"
            kind = "mini_program"
            default = true
            secret = "{MINI_PROGRAM_SECRET}"
            "#
        );
        let settings = Settings::parse(&text, &Environment::new()).expect("good settings");
        let folder = tempfile::tempdir().expect("a folder");
        let inner = Sqlite::open(&folder.path().join("state.db"), clock.clone()).expect("a state");
        let (fails, hangs, used) = (Mutex::default(), Mutex::default(), Mutex::default());
        let state = Arc::new(Failing { inner, fails, hangs, used });
        let listeners = Listeners::bind(&settings).await.expect("free ports");
        let address = listeners.grpc.local_addr().expect("bound");
        let admin = listeners.admin.local_addr().expect("bound");
        tokio::spawn(app::run_with_state(
            state.clone(),
            settings,
            Source::default(),
            listeners,
            clock.clone(),
            Handles::default(),
            std::future::pending(),
        ));
        let channel = Channel::from_shared(format!("http://{address}"));
        let channel = channel.expect("a URL").connect().await.expect("the gateway listens");
        Self { state, channel, admin, clock, _folder: folder }
    }

    /// Calls an RPC that uses the state. All work of earlier calls has ended by then.
    async fn call(&self, rpc: &str) -> Result<(), Status> {
        self.clock.advance(Duration::from_secs(20));
        let service = || self.channel.clone();
        match rpc {
            "ListAuditEvents" => {
                let request = pb::ListAuditEventsRequest::default();
                AuditServiceClient::new(service()).list_audit_events(request).await.map(drop)
            }
            "WatchAuditEvents" => {
                let start = Some(Start::Position(WatchPosition::Earliest.into()));
                let request = pb::WatchAuditEventsRequest { start, ..Default::default() };
                AuditServiceClient::new(service()).watch_audit_events(request).await.map(drop)
            }
            "GetSubmission" => {
                let submission_id = NAME.to_owned();
                let request = pb::GetSubmissionRequest { submission_id, ..Default::default() };
                AuditServiceClient::new(service()).get_submission(request).await.map(drop)
            }
            "ListSubmissions" => {
                let request = pb::ListSubmissionsRequest::default();
                AuditServiceClient::new(service()).list_submissions(request).await.map(drop)
            }
            "GetWrite" => {
                let lookup = Some(Lookup::WriteId(NAME.to_owned()));
                let request = pb::GetWriteRequest { lookup, ..Default::default() };
                WriteServiceClient::new(service()).get_write(request).await.map(drop)
            }
            "GetWrite by name" => {
                let lookup = Some(Lookup::WriteRequestId(NAME.to_owned()));
                let request = pb::GetWriteRequest { lookup, ..Default::default() };
                WriteServiceClient::new(service()).get_write(request).await.map(drop)
            }
            "ListWrites" => {
                let request = pb::ListWritesRequest::default();
                WriteServiceClient::new(service()).list_writes(request).await.map(drop)
            }
            "ResolveWrite" => {
                let write_id = NAME.to_owned();
                let resolution = pb::WriteResolution::NotExecuted.into();
                let request =
                    pb::ResolveWriteRequest { write_id, resolution, ..Default::default() };
                WriteServiceClient::new(service()).resolve_write(request).await.map(drop)
            }
            "AddStore" => {
                let store = new_store("2708071440732747189", "0001");
                StoreServiceClient::new(service()).add_store(store).await.map(drop)
            }
            "UpdateStore" => {
                let (poi_id, request_id) = ("1".to_owned(), fresh_name());
                let request = pb::UpdateStoreRequest {
                    poi_id,
                    request_id,
                    contact_phone: Some("020-89190388".to_owned()),
                    ..Default::default()
                };
                StoreServiceClient::new(service()).update_store(request).await.map(drop)
            }
            "SetStoreCard" => {
                let (poi_id, card_id) = ("1".to_owned(), "pabc".to_owned());
                let request_id = fresh_name();
                let request =
                    pb::SetStoreCardRequest { poi_id, card_id, request_id, ..Default::default() };
                CardServiceClient::new(service()).set_store_card(request).await.map(drop)
            }
            "AddNearbyPoi" => {
                let profile = Some(nearby_profile("2708071440732747189"));
                let request = pb::AddNearbyPoiRequest { profile, ..Default::default() };
                NearbyServiceClient::new(service()).add_nearby_poi(request).await.map(drop)
            }
            other => panic!("{other}"),
        }
    }
}

/// Returns a new request id, so that nothing is a repeat.
fn fresh_name() -> String {
    format!("{:08x}-5f0e-4d7e-9c55-0a3f5f1c2b6d", fastrand::u32(..))
}

/// Returns every kind of error.
fn kinds() -> [Error; 7] {
    let why = || "on purpose".to_owned();
    let kinds = [
        Error::Damaged(why()),
        Error::Full,
        Error::Locked,
        Error::Lost(why()),
        Error::Newer { found: 2, known: 1 },
        Error::Unreadable(why()),
        Error::Unusable(why()),
    ];
    // A new write asks for its place above.
    for kind in &kinds {
        match kind {
            Error::Damaged(_)
            | Error::Full
            | Error::Locked
            | Error::Lost(_)
            | Error::Newer { .. }
            | Error::Unreadable(_)
            | Error::Unusable(_) => {}
        }
    }
    kinds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_state_is_state_unavailable_for_every_verb() {
    let gateway = Gateway::start().await;
    // A call cannot be answered without these operations. Without others it can, or it asks WeChat
    // itself.
    for (rpc, needed) in [
        ("ListAuditEvents", &["events"][..]),
        ("WatchAuditEvents", &["log"]),
        ("GetSubmission", &["submission"]),
        ("ListSubmissions", &["submissions"]),
        ("GetWrite", &["write"]),
        ("GetWrite by name", &["writes"]),
        ("ListWrites", &["writes"]),
        ("ResolveWrite", &["write"]),
        ("AddStore", &["begin"]),
        ("SetStoreCard", &["begin"]),
        ("UpdateStore", &["begin", "acquire"]),
        ("AddNearbyPoi", &["begin", "acquire", "renew", "sent"]),
    ] {
        gateway.state.used.lock().expect("no panic").clear();
        let works = gateway.call(rpc).await;
        if let Err(status) = &works {
            assert_ne!(reason(status), is(Code::Unavailable, "STATE_UNAVAILABLE"), "{rpc}");
        }
        let used = gateway.state.used.lock().expect("no panic").clone();
        for verb in needed {
            assert!(used.contains(verb), "{rpc} does not use {verb}: {used:?}");
        }
        for verb in used {
            for error in kinds() {
                *gateway.state.fails.lock().expect("no panic") = Some((verb, error.clone()));
                let answer = gateway.call(rpc).await;
                *gateway.state.fails.lock().expect("no panic") = None;
                match answer {
                    Err(status)
                        if reason(&status) == is(Code::Unavailable, "STATE_UNAVAILABLE") =>
                    {
                        assert!(status.message().contains(&error.to_string()), "{rpc}: {status:?}");
                    }
                    other => {
                        assert!(!needed.contains(&verb), "{rpc}, {verb}, {error:?}: {other:?}");
                        // The answer is the earlier one, or the one that was known by then.
                        let code = |answer: &Result<(), Status>| {
                            answer.as_ref().err().map(|status| status.code())
                        };
                        assert_ne!(code(&other), Some(Code::Internal), "{rpc}, {verb}: {other:?}");
                        assert_ne!(code(&other), Some(Code::Unknown), "{rpc}, {verb}: {other:?}");
                    }
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hung_operation_has_age_and_is_recorded() {
    let gateway = Gateway::start().await;
    *gateway.state.hangs.lock().expect("no panic") = Some("submissions");
    let scrape = async || {
        let (status, text) = ask(gateway.admin, "/metrics").await;
        assert_eq!(status, 200);
        Scrape::parse(&text)
    };
    let request = pb::ListSubmissionsRequest::default();
    let mut audits = AuditServiceClient::new(gateway.channel.clone());
    let request = with_deadline(request, Duration::from_secs(3));
    let (answer, aged) = tokio::join!(audits.list_submissions(request), async {
        while scrape().await.sum("wechat_state_operation_age_seconds", &[]) < 0.1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        true
    });
    assert_eq!(answer.expect_err("hung").code(), Code::DeadlineExceeded);
    assert!(aged);
    let abandoned = [("wechat_state_operation", "submissions"), ("error_type", "abandoned")];
    let count = scrape().await.sum("wechat_state_operation_duration_seconds_count", &abandoned);
    assert!(count >= 1.0, "{count}");
}
