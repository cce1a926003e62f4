//! WeChat's own examples: each file of `tests/documented` is an RPC, what has to reach WeChat, what
//! WeChat answers, and what the caller gets. Those of pushes, in `push`, are read where those are.

use std::{collections::BTreeSet, fs, path::Path};

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};
use serde::Deserialize;
use serde_json::{Value, json};
use tonic::Status;
use wechat_simulator::{Fault, faults::Kind};
use wechat_store_gateway::pb;

use crate::{contract::rpcs, support::App};

/// RPCs without an example: the table of districts is too long to be one, reviews are told by
/// pushes, the others make the call of an RPC that has one.
const WITHOUT: [&str; 10] = [
    "AuditService/WatchAuditEvents",
    "AuditService/ListAuditEvents",
    "AuditService/GetSubmission",
    "AuditService/ListSubmissions",
    "MapPoiService/ResolveDistrict",
    "NearbyService/ReplaceNearbyPoi",
    "StoreService/GetUpgradeProgress",
    "WriteService/GetWrite",
    "WriteService/ListWrites",
    "WriteService/ResolveWrite",
];

/// For whom WeChat's documents offer a call.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Account {
    Any,
    MiniProgram,
    Official,
}

/// What follows a lost reply.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AfterLostReply {
    /// Another try: twice is the same as once.
    Again,
    /// Nothing: it might happen twice.
    Never,
}

/// One example.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Example {
    /// Where WeChat shows it.
    #[serde(rename = "source")]
    _source: String,
    /// As in `StoreService/GetStore`.
    pub(crate) rpc: String,
    /// In the JSON of protobuf.
    pub(crate) request: Value,
    /// Where it has to arrive.
    pub(crate) path: String,
    /// For whom the document offers the call.
    pub(crate) account: Account,
    /// What twice would mean, by what the document says.
    pub(crate) after_lost_reply: AfterLostReply,
    /// Fields that have to arrive; others may as well, but only empty.
    #[serde(default)]
    sent: Option<Value>,
    /// What WeChat answers.
    pub(crate) reply: Value,
    /// In the JSON of protobuf; ids and times of a submission are left out.
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
            for own in ["appId", "submissionId", "createTime", "resubmitAfter"] {
                submission.remove(own);
            }
        }
        // Opaque, and there because the sample of getnearbypoilist counts fewer places than it lists.
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

/// All of them, each with the name of its file.
pub(crate) fn examples() -> Vec<(String, Example)> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/documented"));
    let mut examples = Vec::new();
    for family in fs::read_dir(folder).expect("examples") {
        let family = family.expect("a folder");
        if family.file_name() == "push" {
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

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_example_means_what_its_document_says() {
    let mut shown = BTreeSet::new();
    for (name, example) in examples() {
        shown.insert(example.rpc.clone());
        run(example, &name).await;
    }
    let without: Vec<_> = rpcs().into_iter().filter(|rpc| !shown.contains(rpc)).collect();
    assert_eq!(without, WITHOUT);
}
