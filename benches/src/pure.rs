//! The parts of a call that neither wait nor read a clock, so that their instructions can be
//! counted. `benches/instructions` counts them.

use std::hint::black_box;

use anyhow::Context as _;
use prost::Message;
use tonic::Status;
use wechat_simulator::message_crypto as sender;
use wechat_store_gateway::{
    pb,
    testing::{
        Secret, call,
        message_crypto::{self, Key},
        push::message,
        wechat::{
            Endpoint, Errcode, Error,
            store::{AddStore, GetStoreInfo, GetStoreInfoReply},
        },
    },
};

use crate::cases::writes::add_store;

const APP_ID: &str = "wx0000000000000001";
const KEY: &str = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG";

/// Runs the part with this name this many times.
pub fn run(case: &str, times: u32) -> anyhow::Result<()> {
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
        other => anyhow::bail!("no case {other}"),
    };
    for _ in 0..times {
        run()?;
    }
    Ok(())
}

/// WeChat's example.
fn push() -> String {
    let example = include_str!("../../tests/documented/push/add_store_audit_info.json");
    let example: serde_json::Value = serde_json::from_str(example).unwrap_or_default();
    let lines = example["message"].as_array().cloned().unwrap_or_default();
    lines.iter().filter_map(|line| line.as_str()).collect()
}
