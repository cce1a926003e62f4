//! Sends pushes: takes them out of the outbox, posts them over HTTP, and records the outcome.

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{net::TcpStream, task::JoinSet};

use super::{
    Attempt, Callback, Format, Mode, message,
    outbox::{Letter, record, stamp, take},
};
use crate::{Simulator, audit, cloud, component};

/// The outcome of a push that needs no retry.
pub(super) const TAKEN: &str = "taken";
/// The longest answer that is read, in bytes.
const ANSWER_LIMIT: usize = 64 * 1024;
/// The header by which a container in cloud hosting recognizes WeChat. No document names the value of a
/// push.
const SOURCE: (&str, &str) = ("x-wx-source", "wx_push");
/// The header with which each request to a container brings a token.
const CLOUD_TOKEN: &str = "x-wx-cloudbase-access-token";

/// Sends each push when it is due. Sendings under way end when this future is dropped.
pub(crate) async fn run(simulator: Simulator) {
    let clock = simulator.clock().clone();
    let wake = simulator.world().outbox.wake.clone();
    let mut under_way = JoinSet::new();
    loop {
        let next = {
            let world = &mut *simulator.world();
            audit::decide_due(world);
            component::push_due(world);
            cloud::rotate_due(world);
            for letter in take(world) {
                under_way.spawn(send(simulator.clone(), letter));
            }
            let due = [
                world.outbox.next(),
                audit::next_due(world),
                component::next_due(world),
                cloud::next_due(world),
            ];
            due.into_iter().flatten().min()
        };
        let due = async {
            match next {
                Some(next) => clock.sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = wake.notified() => {}
            () = due => {}
            Some(_) = under_way.join_next() => {}
        }
    }
}

/// Asks an address whether it belongs to the account, as WeChat does before it accepts a callback.
///
/// A container in cloud hosting echoes nothing. It must accept a probe.
pub(crate) async fn verify(
    simulator: &Simulator,
    app_id: &str,
    callback: &Callback,
) -> Result<(), String> {
    let (stamp, echo, limit) = {
        let world = &mut *simulator.world();
        let echo = world.mint.below("echostr", u64::MAX).to_string();
        (stamp(world), echo, world.rules.push_timeout)
    };
    let request = if callback.mode == Mode::Cloud {
        let probe =
            message::write(&[("action".to_owned(), json!("CheckContainerPath"))], callback.format);
        Request::post(address(callback, app_id, "")?)
            .header(header::CONTENT_TYPE, content_type(callback.format))
            .header(SOURCE.0, SOURCE.1)
            .body(Full::from(probe))
    } else {
        let query = message::signed(callback, &stamp).append_pair("echostr", &echo).finish();
        Request::get(address(callback, app_id, &query)?).body(Full::default())
    };
    let request = request.map_err(|error| error.to_string())?;
    let answer = tokio::select! {
        answer = exchange(request) => answer?,
        () = simulator.clock().sleep(limit) => return Err("timeout".to_owned()),
    };
    match answer {
        (StatusCode::OK, body) if callback.mode == Mode::Cloud && accepts(&body) => Ok(()),
        (status, body) if callback.mode == Mode::Cloud => Err(described(status, &body)),
        (StatusCode::OK, body) if body == echo => Ok(()),
        (status, body) => Err(format!("{}, and not the echostr {echo}", described(status, &body))),
    }
}

/// Returns an account's address with a query.
pub(super) fn address(callback: &Callback, app_id: &str, query: &str) -> Result<Uri, String> {
    let url = callback.address(app_id);
    let separator = match url.contains('?') {
        _ if query.is_empty() => "",
        true => "&",
        false => "?",
    };
    let uri = format!("{url}{separator}{query}").parse::<Uri>();
    let uri = uri.ok().filter(|uri| uri.scheme_str() == Some("http"));
    uri.ok_or("the url must start with http://".to_owned())
}

/// Sends a letter once.
async fn send(simulator: Simulator, letter: Letter) {
    let (at_unix_ms, limit) = {
        let world = simulator.world();
        (world.unix_ms(), world.rules.push_timeout)
    };
    let answer = tokio::select! {
        answer = post(&letter) => answer,
        () = simulator.clock().sleep_until(letter.sent + limit) => Err("timeout".to_owned()),
    };
    let status = answer.as_ref().ok().map(|(status, _)| status.as_u16());
    let outcome = match answer {
        Ok((StatusCode::OK, body)) if body == "success" => TAKEN.to_owned(),
        // A component must answer with this word and nothing else (“必须只返回字符串 success”).
        Ok((StatusCode::OK, body)) if accepts(&body) && letter.from.is_some() => TAKEN.to_owned(),
        Ok((status, body)) => described(status, &body),
        Err(problem) => problem,
    };
    record(&mut simulator.world(), &letter, Attempt { at_unix_ms, status, outcome });
}

async fn post(letter: &Letter) -> Result<(StatusCode, Bytes), String> {
    let callback = letter.callback.as_ref().ok_or("the account has no callback any more")?;
    let (query, body) = message::envelope(letter, callback)?;
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(address(callback, &letter.app_id, &query)?)
        .header(header::CONTENT_TYPE, content_type(callback.format));
    if callback.mode == Mode::Cloud {
        request = request.header(SOURCE.0, SOURCE.1);
        if let Some(token) = &letter.cloud_token {
            request = request.header(CLOUD_TOKEN, token);
        }
    }
    let request = request.body(Full::new(Bytes::from(body)));
    exchange(request.map_err(|error| error.to_string())?).await
}

const fn content_type(format: Format) -> &'static str {
    match format {
        Format::Json => "application/json",
        Format::Xml => "text/xml",
    }
}

/// Returns whether an answer accepts a push.
fn accepts(body: &[u8]) -> bool {
    body.is_empty() || body == b"success"
}

/// Sends one request over a connection of its own.
async fn exchange(mut request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), String> {
    let uri = std::mem::take(request.uri_mut());
    let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(80));
    let host = format!("{host}:{port}");
    let exchange = async {
        let socket = TcpStream::connect(&host).await?;
        let (mut http, connection) = http1::handshake(TokioIo::new(socket)).await?;
        tokio::spawn(connection);
        let query = uri.query().unwrap_or_default();
        *request.uri_mut() = format!("{}?{query}", uri.path()).parse()?;
        request.headers_mut().insert(header::HOST, host.parse()?);
        let answer = http.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_LIMIT).collect().await;
        Ok((status, body.map_err(anyhow::Error::from_boxed)?.to_bytes()))
    };
    exchange.await.map_err(|error: anyhow::Error| format!("{error:#}"))
}

/// Describes an answer that does not accept the push.
fn described(status: StatusCode, body: &[u8]) -> String {
    let body: String = String::from_utf8_lossy(body).chars().take(100).collect();
    format!("answered {} {body:?}", status.as_u16())
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        convert::Infallible,
        net::SocketAddr,
        sync::{Arc, Mutex},
        time::Duration,
    };

    use http::Response;
    use hyper::{body::Incoming, service::service_fn};
    use serde_json::{Value, json};
    use tokio::net::TcpListener;
    use wechat_clock::Clock;

    use super::*;
    use crate::{
        CALLBACK_TOKEN, COMPONENT_AES_KEY, COMPONENT_APP_ID, Cloud, Component, MINI_PROGRAM_APP_ID,
        OFFICIAL_AES_KEY, OFFICIAL_APP_ID, Settings,
        audit::Kind,
        control,
        endpoint::Call,
        message_crypto::{sign, tests::decrypt},
        push::{Mode, State},
    };

    /// A request that the account's server received.
    #[derive(Clone, Debug)]
    struct Got {
        query: BTreeMap<String, String>,
        headers: http::HeaderMap,
        body: String,
    }

    /// An account's server.
    #[derive(Clone)]
    struct Server {
        address: SocketAddr,
        got: Arc<Mutex<Vec<Got>>>,
    }

    impl Server {
        /// Starts a server. `answer` receives the number of earlier requests. If it returns `None`,
        /// the server never answers.
        async fn start(answer: fn(usize, &Got) -> Option<(u16, String)>) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("bound");
            let server = Self { address, got: Arc::default() };
            tokio::spawn(server.clone().run(listener, answer));
            server
        }

        async fn run(
            self,
            listener: TcpListener,
            answer: fn(usize, &Got) -> Option<(u16, String)>,
        ) {
            loop {
                let (socket, _) = listener.accept().await.expect("a connection");
                let server = self.clone();
                let service = service_fn(move |request| server.clone().take(request, answer));
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(socket), service));
            }
        }

        async fn take(
            self,
            request: Request<Incoming>,
            answer: fn(usize, &Got) -> Option<(u16, String)>,
        ) -> Result<Response<Full<Bytes>>, Infallible> {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let query = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
            let headers = request.headers().clone();
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            let got = Got { query, headers, body: String::from_utf8_lossy(&body).into_owned() };
            let answer = {
                let mut all = self.got.lock().expect("whole");
                all.push(got.clone());
                answer(all.len() - 1, &got)
            };
            let Some((status, body)) = answer else { return std::future::pending().await };
            let mut response = Response::new(Full::from(body));
            *response.status_mut() = StatusCode::from_u16(status).expect("a status");
            Ok(response)
        }

        fn got(&self) -> Vec<Got> {
            self.got.lock().expect("whole").clone()
        }

        fn callback(&self, mode: Mode) -> Callback {
            Callback {
                url: format!("http://{}/push/{{app_id}}?tenant=1", self.address),
                token: CALLBACK_TOKEN.to_owned(),
                encoding_aes_key: OFFICIAL_AES_KEY.to_owned(),
                mode,
                format: Format::Json,
            }
        }
    }

    fn taken() -> Option<(u16, String)> {
        Some((200, "success".to_owned()))
    }

    /// Starts a simulator on a clock that stands still, with these callbacks.
    fn start(callbacks: &[(&str, &Server)]) -> Simulator {
        let settings = Settings { clock: Clock::frozen(), ..Settings::default() };
        let simulator = Simulator::new(settings);
        for (app_id, server) in callbacks {
            simulator.set_callback(app_id, server.callback(Mode::Safe)).expect("good");
        }
        tokio::spawn(run(simulator.clone()));
        simulator
    }

    fn event(simulator: &Simulator, app_id: &str) -> u64 {
        simulator.push(app_id, &json!({ "Event": "test", "地": "海珠" })).expect("a callback")
    }

    fn set(simulator: &Simulator, settings: Value) {
        simulator.control("POST", "settings", &settings).expect("known");
    }

    async fn until(what: &str, condition: impl Fn() -> bool) {
        for _ in 0..1000 {
            if condition() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("never: {what}");
    }

    async fn until_attempts(simulator: &Simulator, count: usize) {
        let tried = || simulator.pushes()[0].attempts.len() == count;
        until(&format!("{count} attempts"), tried).await;
    }

    #[tokio::test]
    async fn refused_push_repeats_in_new_envelope() {
        let server = Server::start(|before, _| match before {
            0 => Some((500, "success".to_owned())),
            1 => Some((200, "\"success\"".to_owned())),
            _ => Some((200, String::new())),
        })
        .await;
        let simulator = start(&[(OFFICIAL_APP_ID, &server)]);
        event(&simulator, OFFICIAL_APP_ID);
        for attempt in 1..=3 {
            until_attempts(&simulator, attempt).await;
            simulator.clock().advance(Duration::from_secs(5));
        }
        let push = simulator.pushes().remove(0);
        assert_eq!(push.state, State::Delivered);
        let outcomes: Vec<_> = push.attempts.iter().map(|one| one.outcome.as_str()).collect();
        assert_eq!(
            outcomes,
            ["answered 500 \"success\"", "answered 200 \"\\\"success\\\"\"", "taken"]
        );

        let got = server.got();
        let key = server.callback(Mode::Safe).key().expect("a key");
        let envelope = |got: &Got| serde_json::from_str::<Value>(&got.body).expect("JSON");
        for one in &got {
            let query = |name: &str| one.query[name].as_str();
            let envelope = envelope(one);
            let sealed = envelope["Encrypt"].as_str().expect("sealed");
            assert_eq!(decrypt(&key, sealed, OFFICIAL_APP_ID), push.message);
            let parts = [query("timestamp"), query("nonce"), sealed];
            assert_eq!(sign(CALLBACK_TOKEN, &parts), query("msg_signature"));
            assert_eq!(sign(CALLBACK_TOKEN, &parts[..2]), query("signature"));
            assert_eq!(query("tenant"), "1");
        }
        for pair in got.windows(2) {
            assert_ne!(pair[0].query["nonce"], pair[1].query["nonce"]);
            assert_ne!(pair[0].query["timestamp"], pair[1].query["timestamp"]);
            assert_ne!(envelope(&pair[0])["Encrypt"], envelope(&pair[1])["Encrypt"]);
        }
    }

    #[tokio::test]
    async fn unanswered_push_repeats_three_times() {
        let server = Server::start(|_, _| None).await;
        let simulator = start(&[(OFFICIAL_APP_ID, &server)]);
        event(&simulator, OFFICIAL_APP_ID);
        for sent in 1..=4 {
            until("it is sent", || server.got().len() == sent).await;
            simulator.clock().advance(Duration::from_millis(4999));
            tokio::task::yield_now().await;
            assert_eq!(simulator.pushes()[0].attempts.len(), sent - 1);
            simulator.clock().advance(Duration::from_millis(1));
            until_attempts(&simulator, sent).await;
        }
        let push = simulator.pushes().remove(0);
        assert_eq!(push.state, State::GivenUp);
        assert!(push.attempts.iter().all(|one| one.outcome == "timeout" && one.status.is_none()));
        simulator.clock().advance(Duration::from_secs(3600));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(server.got().len(), 4);
    }

    #[tokio::test]
    async fn dead_address_delays_no_other_account() {
        let dead = Server::start(|_, _| None).await;
        let alive = Server::start(|_, _| taken()).await;
        let simulator = start(&[(OFFICIAL_APP_ID, &dead), (MINI_PROGRAM_APP_ID, &alive)]);
        for _ in 0..100 {
            event(&simulator, OFFICIAL_APP_ID);
        }
        until("so many at once", || dead.got().len() == 32).await;
        for _ in 0..100 {
            event(&simulator, MINI_PROGRAM_APP_ID);
        }
        let delivered =
            || simulator.pushes()[100..].iter().all(|push| push.state == State::Delivered);
        until("the others arrive", delivered).await;
        assert_eq!(dead.got().len(), 32);
    }

    #[tokio::test]
    async fn accepted_push_can_be_duplicated() {
        let server = Server::start(|_, _| taken()).await;
        let simulator = start(&[(OFFICIAL_APP_ID, &server)]);
        set(&simulator, json!({ "push_duplicates": 2 }));
        event(&simulator, OFFICIAL_APP_ID);
        let delivered = || simulator.pushes()[0].state == State::Delivered;
        until("it is delivered", delivered).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(server.got().len(), 3);
    }

    #[tokio::test]
    async fn review_passes_after_delay_without_calls() {
        let simulator = start(&[]);
        set(&simulator, json!({ "audit_delay_seconds": 60 }));
        let idle = || tokio::time::sleep(Duration::from_millis(20));
        idle().await;
        let audit_id =
            audit::open(&mut simulator.world(), &Call::by("wx1"), Kind::CreateMapPoi, "");
        idle().await;
        simulator.clock().advance(Duration::from_secs(60));
        let approved = || simulator.world().audits[&audit_id].state == audit::State::Approved;
        until("it passes", approved).await;
    }

    #[tokio::test]
    async fn reset_forgets_pushes_under_way() {
        let server = Server::start(|_, _| None).await;
        let simulator = start(&[(OFFICIAL_APP_ID, &server)]);
        event(&simulator, OFFICIAL_APP_ID);
        until("it is sent", || server.got().len() == 1).await;
        simulator.clock().advance(Duration::from_secs(3));
        simulator.reset();
        assert!(simulator.pushes().is_empty());
        simulator.set_callback(OFFICIAL_APP_ID, server.callback(Mode::Plain)).expect("good");
        event(&simulator, OFFICIAL_APP_ID);
        until("the next is sent", || server.got().len() == 2).await;
        // This is when the first push times out, but not yet the second one.
        simulator.clock().advance(Duration::from_secs(2));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(simulator.pushes()[0].attempts.is_empty());
    }

    #[tokio::test]
    async fn callback_must_echo_before_it_is_accepted() {
        let honest = Server::start(|_, got| Some((200, got.query["echostr"].clone()))).await;
        let quoting =
            Server::start(|_, got| Some((200, format!("{:?}", got.query["echostr"])))).await;
        let simulator = start(&[]);
        let post = async |server: &Server, verify: bool| {
            let body = json!({
                "app_id": OFFICIAL_APP_ID, "url": format!("http://{}", server.address),
                "token": CALLBACK_TOKEN, "mode": "plain", "verify": verify,
            });
            let (body, query) = (body.to_string(), BTreeMap::new());
            let body = body.as_bytes();
            let reply = control::answer(&simulator, &Method::POST, "/callback", &query, body).await;
            (reply.status.as_u16(), String::from_utf8_lossy(&reply.body).into_owned())
        };
        let event = json!({ "Event": "test" });

        let (status, text) = post(&quoting, true).await;
        assert_eq!(status, 409);
        assert!(text.contains("not the echostr"), "{text}");
        assert!(simulator.push(OFFICIAL_APP_ID, &event).is_err());

        assert_eq!(post(&honest, true).await.0, 200);
        assert!(simulator.push(OFFICIAL_APP_ID, &event).is_ok());
        let asked = honest.got().remove(0).query;
        let parts = [asked["timestamp"].as_str(), &asked["nonce"]];
        assert_eq!(sign(CALLBACK_TOKEN, &parts), asked["signature"]);
        assert_eq!(post(&quoting, false).await.0, 200);
        let nowhere = json!({ "app_id": OFFICIAL_APP_ID, "url": null });
        simulator.control("POST", "callback", &nowhere).expect("taken away");
        assert!(simulator.push(OFFICIAL_APP_ID, &event).is_err());
    }

    #[tokio::test]
    async fn component_opens_events_and_messages() {
        let server = Server::start(|_, _| taken()).await;
        let mut component =
            Component::new(COMPONENT_APP_ID, "secret", CALLBACK_TOKEN, COMPONENT_AES_KEY);
        component.events_url = Some(format!("http://{}/events?tenant=1", server.address));
        component.messages_url = Some(format!("http://{}/of?whom=$APPID$", server.address));
        let key = component.events().and_then(|events| events.key().ok()).expect("a key");
        let simulator = start(&[]);
        simulator.add_component(component).expect("good");
        until("the first ticket", || server.got().len() == 1).await;
        simulator.authorize(COMPONENT_APP_ID, OFFICIAL_APP_ID, &[13]).expect("known");
        until("the event", || server.got().len() == 2).await;
        event(&simulator, OFFICIAL_APP_ID);
        until("the message", || server.got().len() == 3).await;

        let pushes = simulator.pushes();
        for (got, push) in server.got().iter().zip(&pushes) {
            let query = |name: &str| got.query.get(name).map(String::as_str);
            let sealed = got.body.split("<Encrypt><![CDATA[").nth(1).expect("sealed");
            let sealed = sealed.split(']').next().expect("an end");
            assert_eq!(decrypt(&key, sealed, COMPONENT_APP_ID), push.message);
            let parts = [query("timestamp").expect("a time"), query("nonce").expect("one"), sealed];
            assert_eq!(Some(sign(CALLBACK_TOKEN, &parts).as_str()), query("msg_signature"));
            assert_eq!(query("encrypt_type"), Some("aes"));
            let about_merchant = push.app_id == OFFICIAL_APP_ID;
            assert_eq!(query("whom"), about_merchant.then_some(OFFICIAL_APP_ID));
            assert_eq!(query("openid").is_some(), about_merchant);
            let envelope = format!("<AppId><![CDATA[{COMPONENT_APP_ID}]]></AppId>");
            assert_eq!(got.body.contains("<ToUserName>"), about_merchant, "{}", got.body);
            assert_eq!(got.body.contains(&envelope), !about_merchant, "{}", got.body);
        }
        let events: Vec<_> = pushes.iter().map(|push| push.event.as_str()).collect();
        assert_eq!(events, ["component_verify_ticket", "authorized", "test"]);
    }

    #[tokio::test]
    async fn container_receives_unsigned_pushes_after_probe() {
        let server = Server::start(|_, _| taken()).await;
        let refusing = Server::start(|_, _| Some((200, "ok".to_owned()))).await;
        let simulator = start(&[]);
        simulator.add_cloud(Cloud::new(MINI_PROGRAM_APP_ID)).expect("an account");
        let post = async |server: &Server| {
            let body = json!({
                "app_id": MINI_PROGRAM_APP_ID, "url": format!("http://{}/push", server.address),
                "mode": "cloud", "format": "json",
            });
            let (body, query) = (body.to_string(), BTreeMap::new());
            let body = body.as_bytes();
            control::answer(&simulator, &Method::POST, "/callback", &query, body).await.status
        };
        assert_eq!(post(&refusing).await, 409);
        assert_eq!(post(&server).await, 200);
        event(&simulator, MINI_PROGRAM_APP_ID);
        until("it is delivered", || simulator.pushes()[0].state == State::Delivered).await;

        let got = server.got();
        assert_eq!(got[0].body, r#"{"action":"CheckContainerPath"}"#);
        assert_eq!(got[1].body, simulator.pushes()[0].message);
        for got in &got {
            assert!(got.query.is_empty(), "{:?}", got.query);
            assert!(got.headers.contains_key("x-wx-source"));
        }
        let token = simulator.cloud_token(MINI_PROGRAM_APP_ID).expect("a token");
        assert_eq!(got[1].headers["x-wx-cloudbase-access-token"], token);
    }

    #[tokio::test]
    async fn ticket_repeats_until_component_answers_success() {
        let server = Server::start(|before, _| match before {
            0 => Some((200, String::new())),
            _ => taken(),
        })
        .await;
        let mut component =
            Component::new(COMPONENT_APP_ID, "secret", CALLBACK_TOKEN, COMPONENT_AES_KEY);
        component.events_url = Some(format!("http://{}/", server.address));
        let simulator = start(&[]);
        simulator.add_component(component).expect("good");
        let attempts = || simulator.pushes().first().map_or(0, |push| push.attempts.len());
        until("the first attempt", || attempts() == 1).await;
        simulator.clock().advance(Duration::from_secs(5));
        until("the second attempt", || attempts() == 2).await;
        let push = simulator.pushes().remove(0);
        assert_eq!(push.attempts[0].outcome, "answered 200 \"\"");
        assert_eq!(push.state, State::Delivered);
    }

    #[test]
    fn invalid_callback_is_refused() {
        let callback = |url: &str, key: &str, mode| {
            let (url, token) = (url.to_owned(), CALLBACK_TOKEN.to_owned());
            let format = Format::Xml;
            Callback { url, token, encoding_aes_key: key.to_owned(), mode, format }.check()
        };
        assert!(callback("http://127.0.0.1:1/{app_id}", OFFICIAL_AES_KEY, Mode::Safe).is_ok());
        assert!(callback("http://127.0.0.1:1", "", Mode::Plain).is_ok());
        assert!(callback("http://127.0.0.1:1", "", Mode::Compatible).is_err());
        assert!(callback("https://127.0.0.1:1", OFFICIAL_AES_KEY, Mode::Safe).is_err());
        assert!(callback("127.0.0.1:1", OFFICIAL_AES_KEY, Mode::Safe).is_err());
    }
}
