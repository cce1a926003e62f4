//! WeChat's own examples. Each file in `tests/documented` has an RPC, the call that must reach
//! WeChat, WeChat's reply, and the response for the caller. The tests of pushes use the examples in
//! `push`.

use std::{collections::BTreeSet, fs, path::Path};

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};
use serde::Deserialize;
use serde_json::{Value, json};
use tonic::Status;
use wechat_simulator::{Fault, faults::Kind};
use wechat_store_gateway::pb;

use crate::{contract::rpcs, support::App};

/// RPCs without an example. The district table is too long, pushes report reviews, those of platforms have theirs
/// in the folder `component`, and the others make the call of an RPC with an example.
const WITHOUT: [&str; 18] = [
    "AccountService/ListAccounts",
    "AccountService/GetAccount",
    "AccountService/CreateAuthorizationLink",
    "AccountService/ListAuthorizers",
    "AccountService/GetAuthorizer",
    "AccountService/ListPlatforms",
    "AccountService/StartTicketPush",
    "AuditService/WatchAuditEvents",
    "AuditService/ListAuditEvents",
    "AuditService/GetSubmission",
    "AuditService/ListSubmissions",
    "MapPoiService/ResolveDistrict",
    "NearbyService/ReplaceNearbyPoi",
    "StoreService/GetUpgradeProgress",
    "TokenService/GetAccessToken",
    "WriteService/GetWrite",
    "WriteService/ListWrites",
    "WriteService/ResolveWrite",
];

/// The kind of account for which WeChat's documents offer a call.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Account {
    Any,
    MiniProgram,
    Official,
}

/// The action after a lost reply.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AfterLostReply {
    /// The call is sent again, because repeating it has no further effect.
    Again,
    /// The call is not sent again, because it might take effect twice.
    Never,
}

/// One example.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Example {
    /// The page on which WeChat shows it.
    #[serde(rename = "source")]
    _source: String,
    /// The RPC, such as `StoreService/GetStore`.
    pub(crate) rpc: String,
    /// The request in the JSON form of protobuf.
    pub(crate) request: Value,
    /// The path of the call to WeChat.
    pub(crate) path: String,
    /// The kind of account for which the document offers the call.
    pub(crate) account: Account,
    /// The action after a lost reply, as the document implies.
    pub(crate) after_lost_reply: AfterLostReply,
    /// The fields that must arrive. Other fields may arrive, but must be empty.
    #[serde(default)]
    sent: Option<Value>,
    /// WeChat's reply.
    pub(crate) reply: Value,
    /// The response in the JSON form of protobuf, without ids and times of a submission.
    pub(crate) response: Value,
}

impl Example {
    fn method(&self) -> MethodDescriptor {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).expect("our own descriptors");
        let (service, method) = self.rpc.split_once('/').expect("Service/Method");
        pool.get_service_by_name(&format!("wechat.store.v1.{service}"))
            .and_then(|service| service.methods().find(|candidate| candidate.name() == method))
            .unwrap_or_else(|| panic!("no {}", self.rpc))
    }

    /// Lets WeChat answer with this reply, and returns the response without ids and times of a submission.
    pub(crate) async fn answer_to(&self, app: &App, reply: Value) -> Result<Value, Status> {
        app.wechat.fault(Fault::new(self.path.clone(), Kind::Replace { body: reply }));
        let mut answer = self.call(app).await?;
        if let Some(submission) = answer.get_mut("submission").and_then(Value::as_object_mut) {
            for own in ["appId", "submissionId", "createTime", "resubmitAfter", "traceId"] {
                submission.remove(own);
            }
        }
        // The token is opaque. There is one because the sample of getnearbypoilist counts fewer places
        // than it lists.
        if self.path == "/wxa/getnearbypoilist"
            && let Some(fields) = answer.as_object_mut()
        {
            fields.remove("nextPageToken");
        }
        Ok(answer)
    }

    /// Makes the call and returns the response in the JSON of protobuf.
    pub(crate) async fn call(&self, app: &App) -> Result<Value, Status> {
        let method = self.method();
        let request = DynamicMessage::deserialize(method.input(), &self.request);
        let request = request.expect("the JSON of a message").encode_to_vec();
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let answer = app.unary(&path, &request).await?;
        let answer = DynamicMessage::decode(method.output(), answer).expect("a message");
        Ok(serde_json::to_value(&answer).expect("JSON"))
    }
}

async fn run(example: Example, name: &str) {
    let app = App::start().await;
    let answer = example.answer_to(&app, example.reply.clone()).await;
    let answer = answer.unwrap_or_else(|status| panic!("{name}: {status:?}"));
    assert_eq!(answer, example.response, "{name}");

    let calls = app.wechat.calls(&example.path);
    assert_eq!(calls.len(), 1, "{name}");
    let (Some(expected), Some(sent)) = (example.sent, calls[0].body.as_object()) else { return };
    let expected = expected.as_object().expect("fields");
    for (field, value) in expected {
        assert_eq!(sent.get(field), Some(value), "{name}: {field}");
    }
    for (field, value) in sent.iter().filter(|(field, _)| !expected.contains_key(*field)) {
        let nested = ["pic_list", "service_infos", "kf_info", "address", "map_poi_id"];
        let known = example.path == "/wxa/addnearbypoi" && nested.contains(&field.as_str());
        assert!(known || *value == json!(""), "{name}: {field} was sent as {value}");
    }
}

/// Returns all examples with the names of their files.
pub(crate) fn examples() -> Vec<(String, Example)> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/documented"));
    let mut examples = Vec::new();
    for family in fs::read_dir(folder).expect("examples") {
        let family = family.expect("a folder");
        // These have no RPC: `tests/it/callback.rs` and `src/wechat/component.rs` use them.
        if ["push", "component"].iter().any(|name| family.file_name() == *name) {
            continue;
        }
        for file in fs::read_dir(family.path()).expect("a folder") {
            let file = file.expect("a file").path();
            let text = fs::read_to_string(&file).expect("readable");
            let name = file.display().to_string();
            let example: Example =
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            examples.push((name, example));
        }
    }
    examples
}

/// Returns the paths of the calls of third-party platforms that have an example.
pub(crate) fn component_paths() -> BTreeSet<String> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/documented/component"));
    let path = |file: fs::DirEntry| {
        let text = fs::read_to_string(file.path()).expect("readable");
        let example: Value = serde_json::from_str(&text).expect("JSON");
        example["path"].as_str().expect("a path").to_owned()
    };
    fs::read_dir(folder).expect("examples").map(|file| path(file.expect("a file"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn documented_example_yields_documented_response() {
    let mut shown = BTreeSet::new();
    for (name, example) in examples() {
        shown.insert(example.rpc.clone());
        run(example, &name).await;
    }
    let without: Vec<_> = rpcs().into_iter().filter(|rpc| !shown.contains(rpc)).collect();
    assert_eq!(without, WITHOUT);
}
