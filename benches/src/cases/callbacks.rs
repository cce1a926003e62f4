//! Pushes, each signed, encrypted and new.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use bytes::Bytes;
use wechat_simulator::{CALLBACK_TOKEN, OFFICIAL_AES_KEY, OFFICIAL_APP_ID, message_crypto};

use crate::{
    cases::reads::Cast,
    floor::FIRST_AUDIT,
    load::{self, Seen},
    process::Core,
    rounds::{self, Bound, Contender, GATEWAY, Report, TWIN},
    world::World,
};

/// As many as WeChat may have at a time.
const CONNECTIONS: usize = 16;
/// The pushes are made before the measurement and kept in memory.
const MOST: u64 = 50_000;

/// Returns pushes about rejected stores, no two alike.
pub fn pushes(count: u64) -> anyhow::Result<Vec<Bytes>> {
    let key = message_crypto::Key::parse(OFFICIAL_AES_KEY).context("a key")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs().to_string();
    let push = |_| {
        let audit_id = audit_id();
        let message = format!(
            "<xml><ToUserName><![CDATA[gh_4346ac1514d8]]></ToUserName>\
             <FromUserName><![CDATA[od1P50M-fNQI5Gcq-trm4a7apsU8]]></FromUserName>\
             <CreateTime>{now}</CreateTime><MsgType><![CDATA[event]]></MsgType>\
             <Event><![CDATA[add_store_audit_info]]></Event><audit_id>{audit_id}</audit_id>\
             <status>3</status><reason><![CDATA[xxx]]></reason><is_upgrade>3</is_upgrade>\
             <poiid>12344</poiid></xml>"
        );
        let random = fastrand::u128(..).to_ne_bytes();
        let encrypted = key.encrypt(message.as_bytes(), OFFICIAL_APP_ID, random);
        let signature = message_crypto::sign(CALLBACK_TOKEN, &[&now, "1", &encrypted]);
        let body = format!(
            "<xml><ToUserName><![CDATA[gh_4346ac1514d8]]></ToUserName>\
             <Encrypt><![CDATA[{encrypted}]]></Encrypt></xml>"
        );
        let target = format!(
            "/wechat/callback/{OFFICIAL_APP_ID}?signature=0&timestamp={now}&nonce=1\
             &encrypt_type=aes&msg_signature={signature}"
        );
        request(&target, &body)
    };
    Ok((0..count).map(push).collect())
}

/// Returns requests for the route of the floor.
pub fn numbers(count: u64) -> Vec<Bytes> {
    (0..count).map(|_| request("/", &audit_id().to_string())).collect()
}

/// Returns the next id. It follows those of a log that was filled before.
fn audit_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(FIRST_AUDIT + (1 << 32));
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn request(target: &str, body: &str) -> Bytes {
    let length = body.len();
    let request = format!(
        "POST {target} HTTP/1.1\r\nhost: gateway\r\ncontent-type: text/xml\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    request.into()
}

/// Sends this many pushes, which are made before the clock starts.
pub async fn push(address: SocketAddr, connections: usize, count: u64) -> anyhow::Result<Seen> {
    load::posts(address, connections, pushes(count)?).await
}

/// Measures pushes that are stored before they are answered.
pub async fn callbacks(world: &World) -> anyhow::Result<Report> {
    let mut report = Report::new("callback: sealed pushes, durable when they are answered");
    for connections in [CONNECTIONS, 1] {
        let cast = Cast::start(world).await?;
        let state = world.folder("axum")?.join("state.db").display().to_string();
        let axum = world.floor("axum", Core::Server, &["callback", "--state", &state]).await?;
        let [first, second] = &cast.gateways;
        let gateway = |name, gateway: &crate::world::Gateway| {
            let address = gateway.callback;
            Contender::new(name, gateway.process.pid(), &[], move |count| {
                push(address, connections, count)
            })
            .at_most(MOST)
        };
        let bare = Contender::new("axum", axum.process.pid(), &[], |count| {
            load::posts(axum.address, connections, numbers(count))
        });
        let contenders = [gateway(GATEWAY, first), gateway(TWIN, second), bare.at_most(MOST)];
        let measured = rounds::run(world.rounds, world.seconds, &contenders).await?;
        report.say(&format!("{connections} at a time."));
        report.samples(&measured);
        report.claims(&[
            measured.difference(
                GATEWAY,
                "axum",
                "CPU µs",
                |sample| sample.cpu,
                Bound::AtMost(15.0),
            ),
            measured.difference(GATEWAY, "axum", "p50 µs", |sample| sample.p50, Bound::Told),
        ]);
    }
    Ok(report)
}
