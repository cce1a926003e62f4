//! Pushes on their way: out of the outbox, over HTTP, and back with what became of them.

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet};

use super::{Attempt, Callback, Format, Letter, message, settle, stamp, take};
use crate::simulator::{Simulator, audit};

/// The outcome of what needs no repetition.
pub(super) const TAKEN: &str = "taken";
/// The longest answer that is read, in bytes.
const ANSWER_LIMIT: usize = 64 * 1024;

/// Sends what there is to be sent, when it is due. What is under way ends with this.
pub(in crate::simulator) async fn run(simulator: Simulator) {
    let clock = simulator.clock().clone();
    let wake = simulator.world().outbox.wake.clone();
    let mut under_way = JoinSet::new();
    loop {
        let next = {
            let world = &mut *simulator.world();
            audit::settle_due(world);
            for letter in take(world) {
                under_way.spawn(send(simulator.clone(), letter));
            }
            [world.outbox.next(), audit::next_due(world)].into_iter().flatten().min()
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

/// Asks an address whether it belongs to the account, as WeChat does before it accepts one.
pub(in crate::simulator) async fn verify(
    simulator: &Simulator,
    app_id: &str,
    callback: &Callback,
) -> Result<(), String> {
    let (stamp, echo, limit) = {
        let world = &mut *simulator.world();
        let echo = world.mint.below("echostr", u64::MAX).to_string();
        (stamp(world), echo, world.rules.push_timeout)
    };
    let query = message::signed(callback, &stamp).append_pair("echostr", &echo).finish();
    let request = Request::get(address(callback, app_id, &query)?).body(Full::default());
    let request = request.map_err(|error| error.to_string())?;
    let answer = tokio::select! {
        answer = exchange(request) => answer?,
        () = simulator.clock().sleep(limit) => return Err("timeout".to_owned()),
    };
    match answer {
        (StatusCode::OK, body) if body == echo => Ok(()),
        (status, body) => Err(format!("{}, and not the echostr {echo}", told(status, &body))),
    }
}

/// An account's address with a query.
pub(super) fn address(callback: &Callback, app_id: &str, query: &str) -> Result<Uri, String> {
    let url = callback.url.replace("{app_id}", app_id);
    let separator = if url.contains('?') { '&' } else { '?' };
    let uri = format!("{url}{separator}{query}").parse::<Uri>();
    let uri = uri.ok().filter(|uri| uri.scheme_str() == Some("http"));
    uri.ok_or("the url has to be an http:// one".to_owned())
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
        Ok((StatusCode::OK, body)) if body.is_empty() || body == "success" => TAKEN.to_owned(),
        Ok((status, body)) => told(status, &body),
        Err(problem) => problem,
    };
    settle(&mut simulator.world(), &letter, Attempt { at_unix_ms, status, outcome });
}

async fn post(letter: &Letter) -> Result<(StatusCode, Bytes), String> {
    let callback = letter.callback.as_ref().ok_or("the account has no callback any more")?;
    let (query, body) = message::envelope(letter, callback)?;
    let content_type = match callback.format {
        Format::Json => "application/json",
        Format::Xml => "text/xml",
    };
    let request = Request::builder()
        .method(Method::POST)
        .uri(address(callback, &letter.app_id, &query)?)
        .header(header::CONTENT_TYPE, content_type)
        .body(Full::new(Bytes::from(body)));
    exchange(request.map_err(|error| error.to_string())?).await
}

/// One request over a connection of its own.
async fn exchange(mut request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), String> {
    let uri = std::mem::take(request.uri_mut());
    let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(80));
    let host = format!("{host}:{port}");
    let exchange = async {
        let socket = TcpStream::connect(&host).await?;
        let (mut http, connection) = http1::handshake(TokioIo::new(socket)).await?;
        tokio::spawn(connection);
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse()?;
        request.headers_mut().insert(header::HOST, host.parse()?);
        let answer = http.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_LIMIT).collect().await;
        Ok((status, body.map_err(anyhow::Error::from_boxed)?.to_bytes()))
    };
    exchange.await.map_err(|error: anyhow::Error| format!("{error:#}"))
}

/// An answer that was not the right one.
fn told(status: StatusCode, body: &[u8]) -> String {
    let body: String = String::from_utf8_lossy(body).chars().take(100).collect();
    format!("answered {} {body:?}", status.as_u16())
}
