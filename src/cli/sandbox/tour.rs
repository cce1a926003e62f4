//! `--tour`: walks the steps as any caller would, by gRPC over a socket, and looks at every answer.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use prost_reflect::DynamicMessage;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tonic::Request;

use super::{Places, steps};
use crate::cli::{
    Failure,
    call::{self, Client, Refusal},
    print,
    target::Target,
};

/// Everything here happens at once, or not at all.
const PATIENCE: Duration = Duration::from_secs(20);

/// One step: what is asked, what has to come back, and what later steps need of it.
#[derive(Debug)]
pub(super) struct Step {
    name: &'static str,
    way: Way,
    request: Value,
    expected: Vec<(&'static str, Expected)>,
    kept: Vec<(&'static str, &'static str)>,
    refused: bool,
}

#[derive(Debug)]
enum Way {
    /// A method of the service; of a stream, its first response.
    Call(&'static str),
    /// A method of the service: the first response with an event.
    Watch(&'static str),
    /// A path of the simulator's control.
    Control(&'static str),
}

#[derive(Debug)]
enum Expected {
    Count(usize),
    Value(Value),
}

impl Step {
    /// Calls a method of the service.
    pub(super) fn call(name: &'static str, method: &'static str, request: Value) -> Self {
        Self::new(name, Way::Call(method), request)
    }

    /// Waits for an event.
    pub(super) fn watch(name: &'static str, method: &'static str, request: Value) -> Self {
        Self::new(name, Way::Watch(method), request)
    }

    /// Does something to the simulator, which in life others do at WeChat.
    pub(super) fn control(name: &'static str, path: &'static str, request: Value) -> Self {
        Self::new(name, Way::Control(path), request)
    }

    /// The answer has this value there. What is there is named by a JSON pointer.
    pub(super) fn expect(mut self, pointer: &'static str, value: Value) -> Self {
        self.expected.push((pointer, Expected::Value(value)));
        self
    }

    /// The answer has a list of this length there.
    pub(super) fn expect_count(mut self, pointer: &'static str, count: usize) -> Self {
        self.expected.push((pointer, Expected::Count(count)));
        self
    }

    /// The answer is an error with this code and reason.
    pub(super) fn refuse(mut self, code: &'static str, reason: &'static str) -> Self {
        self.refused = true;
        self.expect("/code", json!(code)).expect("/details/0/reason", json!(reason))
    }

    /// The answer has a value there, which later steps know as `$name`.
    pub(super) fn keep(mut self, pointer: &'static str, name: &'static str) -> Self {
        self.kept.push((pointer, name));
        self
    }

    fn new(name: &'static str, way: Way, request: Value) -> Self {
        Self { name, way, request, expected: Vec::new(), kept: Vec::new(), refused: false }
    }

    /// Looks at the answer, and keeps of it what is to be kept.
    fn check(&self, answer: &Value, memory: &mut Memory) -> Result<(), String> {
        for (pointer, expected) in &self.expected {
            let found = answer.pointer(pointer).unwrap_or(&Value::Null);
            match expected {
                Expected::Value(value) => {
                    let value = memory.fill(value);
                    if *found != value {
                        return Err(format!("expected {pointer} to be {value}, not {found}"));
                    }
                }
                Expected::Count(count) => {
                    let found = found.as_array().map_or(0, Vec::len);
                    if found != *count {
                        return Err(format!(
                            "expected {pointer} to have {count} items, not {found}"
                        ));
                    }
                }
            }
        }
        for (pointer, name) in &self.kept {
            match answer.pointer(pointer) {
                Some(Value::String(text)) if !text.is_empty() => memory.keep(name, text),
                other => return Err(format!("expected {pointer} to be some text, not {other:?}")),
            }
        }
        Ok(())
    }
}

/// What was kept, by name.
#[derive(Debug, Default)]
struct Memory(BTreeMap<&'static str, String>);

impl Memory {
    fn keep(&mut self, name: &'static str, text: &str) {
        self.0.insert(name, text.to_owned());
    }

    /// The same with every `$name` replaced. An unknown one stays, and will be refused by its name.
    fn fill(&self, template: &Value) -> Value {
        match template {
            Value::String(text) => Value::String(self.fill_text(text)),
            Value::Array(items) => items.iter().map(|item| self.fill(item)).collect(),
            Value::Object(fields) => {
                fields.iter().map(|(name, value)| (name.clone(), self.fill(value))).collect()
            }
            other => other.clone(),
        }
    }

    /// A name begins at `$` and ends with the text.
    fn fill_text(&self, text: &str) -> String {
        match text.split_once('$').and_then(|(before, name)| Some((before, self.0.get(name)?))) {
            Some((before, value)) => format!("{before}{value}"),
            None => text.to_owned(),
        }
    }
}

/// What is printed of a step.
#[derive(Serialize)]
struct Report<'a> {
    step: &'a str,
    call: String,
    request: Json,
    #[serde(flatten)]
    answer: Answer,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Error(Refusal),
    Response(Json),
}

/// JSON, or a message, whose fields keep their order.
#[derive(Serialize)]
#[serde(untagged)]
enum Json {
    Message(DynamicMessage),
    Value(Value),
}

/// Walks all steps. Fails at the first that goes otherwise than it should.
pub(super) async fn walk(places: Places) -> Result<(), Failure> {
    let client = Client::connect(&Target::new(places.grpc)).await?;
    let mut walker = Walker { client, simulator: places.simulator, memory: Memory::default() };
    let steps = steps::all();
    for step in &steps {
        walker.take(step).await.map_err(|problem| {
            Failure::new(format_args!("the tour went wrong at {:?}: {problem:#}", step.name))
        })?;
    }
    let _ = print::line(json!({ "tour": "complete", "steps": steps.len() }));
    Ok(())
}

/// Who walks.
struct Walker {
    client: Client,
    simulator: SocketAddr,
    memory: Memory,
}

impl Walker {
    async fn take(&mut self, step: &Step) -> anyhow::Result<()> {
        let request = self.memory.fill(&step.request);
        let (call, request, answer) = match step.way {
            Way::Call(method) | Way::Watch(method) => {
                let (request, answer) = self.call(method, &request, &step.way).await?;
                (method.to_owned(), Json::Message(request), answer)
            }
            Way::Control(path) => {
                let path = self.memory.fill_text(path);
                let answer = control(self.simulator, &path, &request).await?;
                let answer = Answer::Response(Json::Value(answer));
                (format!("POST http://{}{path}", self.simulator), Json::Value(request), answer)
            }
        };
        let report = Report { step: step.name, call, request, answer };
        show(&report);
        let answer = match &report.answer {
            Answer::Error(error) if step.refused => serde_json::to_value(error)?,
            Answer::Error(_) => anyhow::bail!("expected a response, not an error"),
            Answer::Response(_) if step.refused => {
                anyhow::bail!("expected an error, not a response")
            }
            Answer::Response(response) => serde_json::to_value(response)?,
        };
        step.check(&answer, &mut self.memory).map_err(anyhow::Error::msg)
    }

    /// Calls the service.
    async fn call(
        &self,
        method: &str,
        request: &Value,
        way: &Way,
    ) -> anyhow::Result<(DynamicMessage, Answer)> {
        let method = self.client.method(method)?;
        let message = call::read(method.input(), &request.to_string())?;
        let answer = async {
            let mut answers = self.client.start(&method, Request::new(message.clone())).await?;
            loop {
                let answer = answers.message().await?;
                let is_event = |answer: &DynamicMessage| answer.has_field_by_name("event");
                if !matches!(way, Way::Watch(_)) || answer.as_ref().is_none_or(is_event) {
                    return Ok(answer);
                }
            }
        };
        let answer = match tokio::time::timeout(PATIENCE, answer).await? {
            Ok(Some(response)) => Answer::Response(Json::Message(response)),
            Ok(None) => anyhow::bail!("expected a response, and there was none"),
            Err(status) => Answer::Error(Refusal::from(&status)),
        };
        Ok((message, answer))
    }
}

/// Posts to the simulator's control.
async fn control(simulator: SocketAddr, path: &str, request: &Value) -> anyhow::Result<Value> {
    let socket = TcpStream::connect(simulator).await?;
    let (mut http, connection) = http1::handshake(TokioIo::new(socket)).await?;
    tokio::spawn(connection);
    let request = http::Request::post(path)
        .header(http::header::HOST, simulator.to_string())
        .body(Full::new(Bytes::from(request.to_string())))?;
    let answer = http.send_request(request).await?;
    let status = answer.status();
    let answer = answer.into_body().collect().await?.to_bytes();
    anyhow::ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&answer));
    Ok(serde_json::from_slice(&answer)?)
}

/// Prints something. Whether the tour goes well does not depend on somebody watching it.
fn show(what: &impl Serialize) {
    if let Ok(text) = serde_json::to_string_pretty(what) {
        let _ = print::line(text);
    }
}

#[cfg(test)]
mod tests {
    use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};
    use tokio::net::TcpListener;
    use wechat_simulator::{OFFICIAL_APP_ID, Simulator};

    use super::*;
    use crate::pb;

    #[test]
    fn names_are_filled_in_at_any_depth() {
        let mut memory = Memory::default();
        memory.keep("id", "7");
        let filled =
            memory.fill(&json!({ "a": ["$id", { "b": "/x/$id" }], "c": "$other", "d": 1 }));
        assert_eq!(filled, json!({ "a": ["7", { "b": "/x/7" }], "c": "$other", "d": 1 }));
    }

    #[test]
    fn an_answer_that_is_not_as_expected_says_what_was() {
        let step = || Step::call("look", "A/B", json!({})).expect("/a", json!("$id"));
        let mut memory = Memory::default();
        memory.keep("id", "7");
        assert_eq!(step().check(&json!({ "a": "7" }), &mut memory), Ok(()));
        let problem = step().check(&json!({ "a": 8 }), &mut memory);
        assert_eq!(problem, Err("expected /a to be \"7\", not 8".to_owned()));
        let problem = step().expect_count("/list", 1).check(&json!({ "a": "7" }), &mut memory);
        assert_eq!(problem, Err("expected /list to have 1 items, not 0".to_owned()));
        assert!(step().keep("/b", "b").check(&json!({ "a": "7", "b": "" }), &mut memory).is_err());
        assert!(step().keep("/b", "b").check(&json!({ "a": "7", "b": "x" }), &mut memory).is_ok());
        assert_eq!(memory.fill(&json!("$b")), json!("x"));
    }

    #[tokio::test]
    async fn the_simulator_is_controlled_by_http() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let simulator = Simulator::new(wechat_simulator::Settings::default());
        tokio::spawn(simulator.run(listener, std::future::pending()));
        let accounts = json!({ "app_id": OFFICIAL_APP_ID, "exists": false });
        let answer = control(address, "/_simulator/merchant", &accounts).await;
        assert_eq!(answer.expect("done"), json!({}));
        let verdict = json!({ "decision": "approve" });
        let refused = control(address, "/_simulator/audits/1", &verdict).await;
        assert!(refused.expect_err("no such audit").to_string().contains("audit 1"));
    }

    #[test]
    fn every_step_fits_the_contract() {
        let types = DescriptorPool::decode(pb::DESCRIPTORS).expect("the contract");
        for step in steps::all() {
            let (Way::Call(name) | Way::Watch(name)) = step.way else { continue };
            let (service, method) = name.split_once('/').expect(name);
            let service = types.get_service_by_name(&format!("wechat.store.v1.{service}"));
            let mut methods = service.as_ref().expect(name).methods();
            let method = methods.find(|candidate| candidate.name() == method).expect(name);
            call::read(method.input(), &step.request.to_string()).expect(step.name);
            let pointers = step.expected.iter().map(|(pointer, _)| pointer);
            for pointer in pointers.chain(step.kept.iter().map(|(pointer, _)| pointer)) {
                assert!(step.refused || leads_to_a_field(method.output(), pointer), "{pointer}");
            }
        }
    }

    fn leads_to_a_field(mut message: MessageDescriptor, pointer: &str) -> bool {
        let names = pointer[1..].split('/').filter(|name| name.parse::<usize>().is_err());
        for name in names {
            let Some(field) = message.get_field_by_json_name(name) else { return false };
            if let Kind::Message(inner) = field.kind() {
                message = inner;
            }
        }
        true
    }
}
