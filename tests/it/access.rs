//! Which caller may do what. The cases come from the contract, so a new RPC cannot be forgotten.

use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use prost_reflect::{DescriptorPool, MethodDescriptor};
use sha2::{Digest, Sha256};
use tonic::{Code, Request, Status, metadata::MetadataValue};
use tonic_types::StatusExt;
use wechat_simulator::{MINI_PROGRAM_APP_ID, OFFICIAL_APP_ID};
use wechat_store_gateway::{pb, testing::Raw};

use crate::support::{App, is, new_store, reason, within};

/// An account that the settings do not have.
const UNKNOWN_APP_ID: &str = "wx00000000000000ff";
const SOON: Duration = Duration::from_secs(10);

/// Returns a section for a caller, whose token is its name with a suffix.
pub(crate) fn caller(name: &str, rights: &str) -> String {
    let hash = Sha256::digest(token(name));
    let hash = hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("[[callers]]\nname = \"{name}\"\ntokens = [\"{hash}\"]\n{rights}\n")
}

pub(crate) fn token(name: &str) -> String {
    format!("{name}-secret-of-a-test")
}

fn callers() -> String {
    [
        caller("reader", "role = \"reader\""),
        caller("writer", "role = \"writer\""),
        caller("admin", "role = \"admin\""),
        caller("mini", &format!("roles = {{ {MINI_PROGRAM_APP_ID} = \"admin\" }}")),
        caller(
            "mixed",
            &format!("role = \"reader\"\nroles = {{ {OFFICIAL_APP_ID} = \"writer\" }}"),
        ),
    ]
    .concat()
}

/// Returns every RPC of the contract with the number of the access that it names.
pub(crate) fn rpcs() -> Vec<(MethodDescriptor, i32)> {
    let pool = DescriptorPool::decode(pb::DESCRIPTORS).expect("descriptors");
    let option = pool.get_extension_by_name("wechat.store.v1.access").expect("an option");
    let services = pool.services().filter(|service| service.package_name() == "wechat.store.v1");
    let methods = services.flat_map(|service| service.methods().collect::<Vec<_>>());
    let access = |method: &MethodDescriptor| {
        let options = method.options();
        assert!(options.has_extension(&option), "{} names its access", method.full_name());
        options.get_extension(&option).as_enum_number().expect("an enum")
    };
    methods.map(|method| (method.clone(), access(&method))).collect()
}

pub(crate) const READ: i32 = pb::Access::Read as i32;
const WRITE: i32 = pb::Access::Write as i32;
const ADMIN: i32 = pb::Access::Admin as i32;

/// Returns a request with nothing but an account.
fn about(app_id: &str) -> Bytes {
    // All requests have it in field 1, as `Context::split` proves to the compiler.
    let mut message = vec![10, u8::try_from(app_id.len()).expect("short")];
    message.extend(app_id.as_bytes());
    if app_id.is_empty() { Bytes::new() } else { message.into() }
}

/// Calls an RPC with these values of the header `authorization`. Returns what went wrong.
pub(crate) async fn call(
    app: &App,
    method: &MethodDescriptor,
    authorization: &[&str],
    app_id: &str,
) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(app.channel.clone());
    client.ready().await.expect("connected");
    let mut request = Request::new(about(app_id));
    for value in authorization {
        let value = MetadataValue::try_from(*value).expect("ASCII");
        request.metadata_mut().append("authorization", value);
    }
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let path = PathAndQuery::try_from(path).expect("a path");
    let answer = client.server_streaming(request, path, Raw);
    let mut answer = within(SOON, answer).await?.into_inner();
    within(SOON, answer.message()).await.map(drop)
}

pub(crate) fn bearer(name: &str) -> String {
    format!("Bearer {}", token(name))
}

/// Returns true if the gateway let the caller in. The request itself is mostly invalid.
fn admitted(result: &Result<(), Status>) -> bool {
    let refused = [Code::Unauthenticated, Code::PermissionDenied];
    result.as_ref().err().is_none_or(|status| !refused.contains(&status.code()))
}

pub(crate) fn wechat_was_called(app: &App) -> bool {
    let journal = app.wechat.control("GET", "journal", &serde_json::json!({})).expect("a journal");
    journal["calls"] != serde_json::json!([])
}

#[test]
fn writes_need_more_than_read_access() {
    for (method, access) in rpcs() {
        let writes = method.input().get_field_by_name("request_id").is_some();
        // An admin's RPC can write at WeChat, or only in the gateway's own state.
        let allowed: &[i32] = if writes { &[WRITE, ADMIN] } else { &[READ, ADMIN] };
        assert!(allowed.contains(&access), "{}", method.full_name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_caller_reaches_no_rpc() {
    let app = App::with_sections(&callers()).await;
    let long = format!("Bearer {}", "x".repeat(9_000));
    let cut = bearer("admin");
    let cut = &cut[..cut.len() - 1];
    for (method, _) in rpcs() {
        for proof in [
            &[][..],
            &["Bearer wrong"],
            &["Bearer "],
            &["Bearer"],
            &[""],
            &[cut],
            &["Basic YWRtaW46YWRtaW4="],
            &[&token("admin")],
            &[&long],
            &[&bearer("admin"), &bearer("admin")],
        ] {
            for app_id in [OFFICIAL_APP_ID, UNKNOWN_APP_ID, "", "?"] {
                let status = call(&app, &method, proof, app_id).await.expect_err("refused");
                let name = method.full_name();
                assert_eq!(
                    reason(&status),
                    is(Code::Unauthenticated, "CALLER_UNKNOWN"),
                    "{name} {proof:?} {status:?}"
                );
                assert!(!status.message().contains("secret"), "{status:?}");
            }
        }
    }
    assert!(!wechat_was_called(&app));
}

#[tokio::test(flavor = "multi_thread")]
async fn role_decides_for_every_rpc() {
    let app = App::with_sections(&callers()).await;
    for (method, access) in rpcs() {
        let name = method.full_name().to_owned();
        for (caller, app_id, most) in [
            ("reader", OFFICIAL_APP_ID, READ),
            ("reader", MINI_PROGRAM_APP_ID, READ),
            ("writer", OFFICIAL_APP_ID, WRITE),
            ("admin", OFFICIAL_APP_ID, ADMIN),
            ("admin", UNKNOWN_APP_ID, ADMIN),
            ("mini", MINI_PROGRAM_APP_ID, ADMIN),
            ("mini", OFFICIAL_APP_ID, 0),
            ("mini", UNKNOWN_APP_ID, 0),
            ("mixed", OFFICIAL_APP_ID, WRITE),
            ("mixed", MINI_PROGRAM_APP_ID, READ),
            ("mixed", UNKNOWN_APP_ID, READ),
        ] {
            let result = call(&app, &method, &[&bearer(caller)], app_id).await;
            assert_eq!(admitted(&result), access <= most, "{name} {caller} {app_id} {result:?}");
            if let (Err(status), true) = (&result, access > most) {
                assert_eq!(reason(status), is(Code::PermissionDenied, "PERMISSION_MISSING"));
            }
        }
    }
}

/// Calls an RPC that reads, with these headers.
async fn read_with(app: &App, headers: &[(&'static str, &str)]) -> Result<(), Status> {
    let mut request = Request::new(pb::ListSubmissionsRequest::default());
    for (name, value) in headers {
        request.metadata_mut().append(*name, MetadataValue::try_from(*value).expect("ASCII"));
    }
    app.audits().list_submissions(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn bearer_token_may_look_like_a_jwt() {
    let dotted = "v1.0123456789abcdef.0123456789abcdef";
    let hash = Sha256::digest(dotted).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let section =
        format!("[[callers]]\nname = \"dots\"\nrole = \"reader\"\ntokens = [\"{hash}\"]\n");
    let app = App::with_sections(&section).await;
    let bearer = format!("Bearer {dotted}");
    read_with(&app, &[("authorization", &bearer)]).await.expect("known");
    let other = read_with(&app, &[("authorization", "Bearer v1.0123.4567")]).await;
    assert_eq!(reason(&other.expect_err("not known")).1, "CALLER_UNKNOWN");
}

#[tokio::test(flavor = "multi_thread")]
async fn caller_rate_is_limited() {
    let limited = caller("reader", "role = \"reader\"\nrate = 2\nburst = 3");
    let app = App::still_with_sections(&(limited + &caller("other", "role = \"reader\""))).await;
    let (reader, other) = (bearer("reader"), bearer("other"));
    let read = async |token: &str| read_with(&app, &[("authorization", token)]).await;
    for _ in 0..3 {
        assert!(admitted(&read(&reader).await));
    }
    let status = read(&reader).await.expect_err("too fast");
    assert_eq!(reason(&status), is(Code::ResourceExhausted, "RATE_EXCEEDED"));
    let wait = status.get_details_retry_info().and_then(|info| info.retry_delay);
    let wait = wait.expect("a time to wait");
    assert!(!wait.is_zero() && wait <= Duration::from_millis(500), "{wait:?}");
    read(&other).await.expect("another caller is not affected");
    app.clock.advance(wait);
    read(&reader).await.expect("the caller waited");
    let status = read(&reader).await.expect_err("too fast again");
    assert_eq!(reason(&status), is(Code::ResourceExhausted, "RATE_EXCEEDED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn mesh_header_counts_only_if_set() {
    let names = "[[callers]]\nname = \"orders\"\nrole = \"reader\"\n\
                 certificates = [\"spiffe://prod/orders\", \"orders.internal\"]\n";
    let sections = names.to_owned() + &caller("reader", "role = \"reader\"");
    let header = "x-forwarded-client-cert";
    let trusted =
        "plaintext = \"behind-a-mesh\"\nmesh_identity_header = \"X-Forwarded-Client-Cert\"";
    let good = "By=spiffe://prod/gateway;URI=spiffe://prod/orders";
    for (listen, values, expected) in [
        ("", &[good][..], Err("CALLER_UNKNOWN")),
        (trusted, &[good], Ok(())),
        (trusted, &["URI=spiffe://prod/other,DNS=orders.internal"], Ok(())),
        (trusted, &["URI=spiffe://prod/orders,URI=spiffe://prod/other"], Err("CALLER_UNKNOWN")),
        (trusted, &[good, "URI=spiffe://prod/other"], Err("CALLER_UNKNOWN")),
        (trusted, &["orders.internal"], Ok(())),
        (trusted, &["Subject=\"URI=spiffe://prod/orders\""], Err("CALLER_UNKNOWN")),
        (trusted, &[], Err("CALLER_UNKNOWN")),
    ] {
        let app = App::listening(listen, &sections).await;
        let headers = values.iter().map(|value| (header, *value)).collect::<Vec<_>>();
        let result = read_with(&app, &headers).await;
        assert_eq!(result.map_err(|status| reason(&status).1), expected.map_err(str::to_owned));
        // A wrong token is not forgiven because of the header.
        let wrong = [&headers[..], &[("authorization", "Bearer wrong")]].concat();
        assert!(!admitted(&read_with(&app, &wrong).await));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_show_only_own_accounts() {
    let app = App::with_sections(&callers()).await;
    let token = |name: &str| MetadataValue::try_from(bearer(name)).expect("ASCII");
    let mut store = new_store("2708071440732747189", "1");
    store.request_id = "11111111-1111-4111-8111-111111111111".to_owned();
    let mut request = Request::new(store);
    request.metadata_mut().insert("authorization", token("writer"));
    let added = app.stores().add_store(request).await.expect("submitted").into_inner();
    app.approve(&added.submission.expect("a submission"));
    // The simulator pushes the result in its own time.
    let pushed = async {
        while app.open_state().query_row("SELECT count(*) FROM events", [], |row| row.get(0))
            == Ok(0_i64)
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(SOON, pushed).await;
    for (name, seen) in [("reader", 1), ("mini", 0)] {
        let with = |mut metadata: tonic::metadata::MetadataMap| {
            metadata.insert("authorization", token(name));
            metadata
        };
        let mut request = Request::new(pb::ListWritesRequest::default());
        *request.metadata_mut() = with(Default::default());
        let writes = app.writes().list_writes(request).await.expect("writes").into_inner().writes;
        assert_eq!(writes.len(), seen, "{name}");
        let mut request = Request::new(pb::ListSubmissionsRequest::default());
        *request.metadata_mut() = with(Default::default());
        let list = app.audits().list_submissions(request).await.expect("submissions").into_inner();
        assert_eq!(list.submissions.len(), seen, "{name}");
        let mut request = Request::new(pb::GetWriteRequest {
            lookup: Some(pb::get_write_request::Lookup::WriteRequestId(
                "11111111-1111-4111-8111-111111111111".to_owned(),
            )),
            ..Default::default()
        });
        *request.metadata_mut() = with(Default::default());
        assert_eq!(app.writes().get_write(request).await.is_ok(), seen == 1, "{name}");
        let mut request = Request::new(pb::ListAuditEventsRequest::default());
        *request.metadata_mut() = with(Default::default());
        let list = app.audits().list_audit_events(request).await.expect("events").into_inner();
        assert_eq!(list.events.len(), seen, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_of_a_caller_are_limited() {
    let sections = format!("[limits]\nwatches_per_caller = 2\n{}", callers());
    let app = App::with_sections(&sections).await;
    let watch = async |name: &str| {
        let mut request = Request::new(pb::WatchAuditEventsRequest {
            start: Some(pb::watch_audit_events_request::Start::Position(
                pb::WatchPosition::Latest.into(),
            )),
            ..Default::default()
        });
        let token = MetadataValue::try_from(bearer(name)).expect("ASCII");
        request.metadata_mut().insert("authorization", token);
        app.audits().watch_audit_events(request).await
    };
    let _open = (watch("reader").await.expect("room"), watch("reader").await.expect("room"));
    let status = watch("reader").await.map(drop).expect_err("no room");
    assert_eq!(reason(&status), is(Code::ResourceExhausted, "TOO_MANY_WATCHES"));
    watch("writer").await.expect("another caller has room");
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_follows_its_setting() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest,
    };
    for (setting, stranger, known) in [
        ("anyone", None, None),
        ("callers", Some(Code::Unauthenticated), None),
        ("off", Some(Code::Unauthenticated), Some(Code::Unimplemented)),
    ] {
        let app = App::listening(&format!("reflection = \"{setting}\""), &callers()).await;
        for (token, expected) in [(None, stranger), (Some(bearer("mini")), known)] {
            let question = MessageRequest::ListServices(String::new());
            let question =
                ServerReflectionRequest { host: String::new(), message_request: Some(question) };
            let mut request = Request::new(tokio_stream::once(question));
            if let Some(token) = token {
                let token = MetadataValue::try_from(token).expect("ASCII");
                request.metadata_mut().insert("authorization", token);
            }
            let mut client = ServerReflectionClient::new(app.channel.clone());
            let answer = async {
                let answer = client.server_reflection_info(request).await?;
                answer.into_inner().message().await
            };
            assert_eq!(answer.await.err().map(|status| status.code()), expected, "{setting}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_question_of_reflection_counts_as_call() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest,
    };
    let limited = caller("reader", "role = \"reader\"\nrate = 1\nburst = 3");
    let app = App::still_with_sections(&limited).await;
    let question = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut request = Request::new(tokio_stream::iter(vec![question; 10]));
    let token = MetadataValue::try_from(bearer("reader")).expect("ASCII");
    request.metadata_mut().insert("authorization", token);
    let mut client = ServerReflectionClient::new(app.channel.clone());
    let mut answers = client.server_reflection_info(request).await.expect("a stream").into_inner();
    let mut count = 0;
    let end = async {
        loop {
            match answers.message().await {
                Ok(Some(_)) => count += 1,
                Ok(None) => return Ok(()),
                Err(status) => return Err(status),
            }
        }
    };
    let status = within(SOON, end).await.expect_err("too fast");
    assert_eq!(reason(&status), is(Code::ResourceExhausted, "RATE_EXCEEDED"));
    assert!(count <= 3, "{count} answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_does_not_show_which_accounts_exist() {
    let app = App::with_sections(&callers()).await;
    for (method, _) in rpcs() {
        let refusal = async |app_id: &str| {
            let result = call(&app, &method, &[&bearer("mini")], app_id).await;
            let status = result.expect_err("refused");
            let text = format!("{:?} {}", status.code(), status.message());
            text.replace(app_id, "")
        };
        assert_eq!(refusal(OFFICIAL_APP_ID).await, refusal(UNKNOWN_APP_ID).await);
    }
    assert!(!wechat_was_called(&app));
}
