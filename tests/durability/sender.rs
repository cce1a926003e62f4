//! WeChat: the simulator, which repeats unanswered pushes, and single pushes from the tests.

use std::{io, net::SocketAddr};

use serde_json::{Value, json};
use tokio::net::TcpListener;
use wechat_simulator::{
    CALLBACK_TOKEN, Callback, MINI_PROGRAM_APP_ID, OFFICIAL_AES_KEY, OFFICIAL_APP_ID, Settings,
    Simulator,
    message_crypto::sign,
    push::{Format, Mode, Push, State},
};
use wechat_store_gateway::testing::Clock;

use crate::gateway::{Gateway, exchange};

/// A simulator and its address.
pub(crate) struct WeChat {
    pub(crate) simulator: Simulator,
    pub(crate) address: SocketAddr,
}

impl WeChat {
    /// Starts a simulator that repeats a push until it is answered with `success`, and not after
    /// that. A lost event therefore stays lost. The real WeChat gives up after three attempts.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let simulator = Simulator::new(Settings::default());
        let rules = json!({
            "push_timeout_ms": 2000, "push_retries": 1_000_000, "push_retry_pause_ms": 50,
        });
        simulator.control("POST", "settings", &rules).expect("set");
        tokio::spawn(simulator.clone().run(listener, std::future::pending()));
        Self { simulator, address }
    }

    /// Directs the pushes of the official account to this gateway.
    pub(crate) fn push_to(&self, gateway: &Gateway) {
        let callback = Callback {
            url: format!("http://{}/wechat/callback/{{app_id}}", gateway.callback),
            token: CALLBACK_TOKEN.to_owned(),
            encoding_aes_key: OFFICIAL_AES_KEY.to_owned(),
            mode: Mode::Safe,
            format: Format::Xml,
        };
        self.simulator.set_callback(OFFICIAL_APP_ID, callback).expect("a good callback");
    }

    /// Pushes the end of a review.
    pub(crate) fn push(&self, audit_id: u64) {
        self.simulator.push(OFFICIAL_APP_ID, &ended(audit_id)).expect("a callback");
    }

    /// Returns the number of pushes, and the number of those without an answer.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let pushes = self.simulator.pushes();
        let waiting = pushes.iter().filter(|push| push.state == State::Waiting).count();
        (pushes.len(), waiting)
    }

    /// Returns the messages that were answered with `success`.
    pub(crate) fn answered(&self) -> Vec<String> {
        let answered = |push: &Push| push.attempts.iter().any(|sent| sent.outcome == "taken");
        let pushes = self.simulator.pushes();
        pushes.into_iter().filter(answered).map(|push| push.message).collect()
    }
}

fn ended(audit_id: u64) -> Value {
    json!({ "Event": "add_store_audit_info", "audit_id": audit_id, "status": 1, "poiid": audit_id })
}

/// Sends the end of a review of the mini program once, and returns the gateway's answer.
pub(crate) async fn send(gateway: &Gateway, audit_id: u64) -> io::Result<(u16, String)> {
    send_to(gateway.callback, audit_id).await
}

/// Sends the end of a review of the mini program to this address once, and returns the answer.
pub(crate) async fn send_to(callback: SocketAddr, audit_id: u64) -> io::Result<(u16, String)> {
    let mut event = ended(audit_id);
    event["MsgType"] = json!("event");
    // The message is the same each time.
    event["CreateTime"] = json!(1_700_000_000);
    let (event, timestamp) = (event.to_string(), Clock::system().unix().to_string());
    let signature = sign(CALLBACK_TOKEN, &[&timestamp, "1"]);
    let request = format!(
        "POST /wechat/callback/{MINI_PROGRAM_APP_ID}?signature={signature}&timestamp={timestamp}\
         &nonce=1 HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{event}",
        event.len()
    );
    exchange(callback, &request).await
}

/// Returns the answer that acknowledges an event.
pub(crate) fn success() -> (u16, String) {
    (200, "success".to_owned())
}
