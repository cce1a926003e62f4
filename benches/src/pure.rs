//! The parts of a call that do not wait, so that their instructions can be counted.
//! `benches/instructions` counts them.

use std::{hint::black_box, time::Duration};

use anyhow::Context as _;
use nix::unistd::Pid;
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::Status;
use wechat_simulator::message_crypto as sender;
use wechat_store_gateway::{
    pb,
    testing::{
        Secret, call,
        message_crypto::{self, Key},
        metrics::Recorder,
        push::message,
        wechat::{
            Endpoint, Errcode, Error, endpoints,
            store::{AddStore, GetStoreInfo, GetStoreInfoReply},
        },
    },
};

use crate::{cases::writes::add_store, floor::GET_STORE, process, world::app_id};

const APP_ID: &str = "wx0000000000000001";
/// The accounts of the gateway whose metrics are recorded.
const ACCOUNTS: usize = 10_000;
const KEY: &str = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG";

/// Runs the part with this name this many times, and returns the processor time that it took.
pub fn run(case: &str, times: u32) -> anyhow::Result<Duration> {
    let mut run: Box<dyn FnMut() -> anyhow::Result<()>> = match case {
        // The request as it arrives, to WeChat's JSON.
        "add_store" => {
            let request = add_store(0);
            Box::new(move || {
                let request = pb::AddStoreRequest::decode(black_box(&request[..]))?;
                let call = AddStore::try_from(request).map_err(|_| anyhow::anyhow!("refused"))?;
                black_box(call.payload()?);
                Ok(())
            })
        }
        // WeChat's JSON to the response as it is sent.
        "get_store" => {
            let example = include_str!("../../tests/documented/store/get_store_info.json");
            let example: serde_json::Value = serde_json::from_str(example)?;
            let reply = example["reply"].to_string();
            Box::new(move || {
                let reply: GetStoreInfoReply = serde_json::from_str(black_box(&reply))?;
                black_box(pb::GetStoreResponse::from(reply).encode_to_vec());
                Ok(())
            })
        }
        "verify_signature" => {
            let token = Secret::from("callback-token".to_owned());
            let encrypted = "x".repeat(600);
            let signature = sender::sign(token.expose(), &["1700000000", "1", &encrypted]);
            Box::new(move || {
                let parts = ["1700000000", "1", black_box(&encrypted)];
                anyhow::ensure!(
                    message_crypto::verify(&token, &parts, &signature),
                    "a wrong signature"
                );
                Ok(())
            })
        }
        "decrypt" => {
            let key = Key::parse(&Secret::from(KEY.to_owned())).context("no key")?;
            let sender = sender::Key::parse(KEY).context("no key")?;
            let encrypted = sender.encrypt(push().as_bytes(), APP_ID, [7; 16]);
            Box::new(move || {
                black_box(key.decrypt(black_box(&encrypted), APP_ID)?);
                Ok(())
            })
        }
        "read_message" => {
            let push = push();
            Box::new(move || {
                black_box(message::parse(black_box(push.as_bytes()))?);
                Ok(())
            })
        }
        "status" => Box::new(|| {
            let error = Error::Refused { code: Errcode(65115), message: "no store".to_owned() };
            let (path, safety) = (GetStoreInfo::PATH, GetStoreInfo::SAFETY);
            let error = call::Error::WeChat { path, safety, error };
            black_box(Status::from(black_box(error)));
            Ok(())
        }),
        // What the metrics record for a read that is passed on.
        "metrics" => {
            let recorder = recorder()?;
            Box::new(move || {
                recorder.record(black_box(GET_STORE), black_box(GetStoreInfo::PATH));
                Ok(())
            })
        }
        other => anyhow::bail!("no case {other}"),
    };
    let before = process::cpu(Pid::this())?;
    for _ in 0..times {
        run()?;
    }
    Ok(Duration::from_nanos(process::cpu(Pid::this())? - before))
}

/// Returns the metrics of a gateway that has many accounts, and that has made every call.
fn recorder() -> anyhow::Result<Recorder> {
    let recorder = Recorder::new(&Vec::from_iter((0..ACCOUNTS).map(app_id)))?;
    let files = FileDescriptorSet::decode(pb::DESCRIPTORS)?.file;
    for endpoint in endpoints() {
        recorder.record(GET_STORE, endpoint.path);
    }
    for file in &files {
        for service in &file.service {
            for method in &service.method {
                let rpc = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                recorder.record(&rpc, GetStoreInfo::PATH);
            }
        }
    }
    let text = recorder.text()?;
    for name in ["rpc_server_call_duration", "http_client_request_duration", "wechat_calls"] {
        anyhow::ensure!(text.contains(name), "the metrics have no {name}");
    }
    Ok(recorder)
}

/// WeChat's example.
fn push() -> String {
    let example = include_str!("../../tests/documented/push/add_store_audit_info.json");
    let example: serde_json::Value = serde_json::from_str(example).unwrap_or_default();
    let lines = example["message"].as_array().cloned().unwrap_or_default();
    lines.iter().filter_map(|line| line.as_str()).collect()
}
