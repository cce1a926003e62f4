//! Which caller may do what. The cases come from the contract, so a new RPC cannot be forgotten.

use bytes::Bytes;
use http::uri::PathAndQuery;
use prost_reflect::{DescriptorPool, MethodDescriptor};
use sha2::{Digest, Sha256};
use tonic::{Code, Request, Status, metadata::MetadataValue};
use wechat_simulator::{MINI_PROGRAM_APP_ID, OFFICIAL_APP_ID};
use wechat_store_gateway::{pb, testing::Raw};

use crate::support::{App, is, reason, within};

/// An account that the settings do not have.
const UNKNOWN_APP_ID: &str = "wx00000000000000ff";
const SOON: std::time::Duration = std::time::Duration::from_secs(10);

/// Returns a section for a caller, whose token is its name with a suffix.
pub(crate) fn caller(name: &str, rights: &str) -> String {
    let hash = Sha256::digest(token(name));
    let hash = hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("[[callers]]\nname = \"{name}\"\ntokens = [\"{hash}\"]\n{rights}\n")
}

fn token(name: &str) -> String {
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
fn rpcs() -> Vec<(MethodDescriptor, i32)> {
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

const READ: i32 = pb::Access::Read as i32;
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
async fn call(
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

fn wechat_was_called(app: &App) -> bool {
    let journal = app.wechat.control("GET", "journal", &serde_json::json!({})).expect("a journal");
    journal["calls"] != serde_json::json!([])
}

#[test]
fn writes_need_more_than_read_access() {
    for (method, access) in rpcs() {
        let writes = method.input().get_field_by_name("request_id").is_some();
        assert_eq!(writes, access == WRITE, "{}", method.full_name());
        assert!([READ, WRITE, ADMIN].contains(&access), "{}", method.full_name());
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
