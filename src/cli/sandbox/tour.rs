//! `--tour`: runs the steps as any caller would, by gRPC over a socket, and checks every response.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use prost_reflect::DynamicMessage;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tonic::Request;

use super::{
    Places,
    identities::{self, Identities},
    page, platform, steps, story,
};
use crate::cli::{
    Failure,
    call::{self, Client},
    print,
    rpc_error::RpcError,
    target::Target,
};

/// The time limit of a step. Each step takes milliseconds, or it has failed.
const STEP_LIMIT: Duration = Duration::from_secs(20);
/// The time between two attempts of a step that waits.
const PAUSE: Duration = Duration::from_millis(20);

/// The story of a tour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Tour {
    /// A store is added, reviewed and changed
    Store,
    /// A merchant authorizes a third-party platform, and later withdraws the authorization
    Platform,
}

/// The story and its form.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chosen {
    pub(super) tour: Tour,
    /// True if a program reads the output.
    pub(super) json: bool,
}

/// Several steps with a common purpose.
#[derive(Debug)]
pub(super) struct Chapter {
    pub(super) title: &'static str,
    pub(super) steps: Vec<Step>,
}

/// One step: the request, the expected response, and the values that later steps need from it.
#[derive(Debug)]
pub(super) struct Step {
    /// One sentence about the step.
    pub(super) name: &'static str,
    /// The fields of the request that the story shows, as JSON pointers.
    pub(super) shown_request: Vec<&'static str>,
    /// The fields of the response that the story shows, as JSON pointers.
    pub(super) shown: Vec<&'static str>,
    /// The caller, if the tour has several.
    caller: Option<&'static str>,
    way: Way,
    request: Value,
    expected: Vec<(&'static str, Expected)>,
    kept: Vec<(&'static str, &'static str)>,
    refused: bool,
    /// True if the step waits for something that happens in the background.
    waits: bool,
}

#[derive(Debug)]
enum Way {
    /// A method of the service. A stream ends after its first response.
    Call(&'static str),
    /// A stream of the service, up to the first response with an event.
    Watch(&'static str),
    /// A path of the simulator's control interface.
    Control(&'static str),
    /// A page of the simulator with a form, by its link.
    Page(&'static str),
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

    /// Calls as one of several callers.
    pub(super) fn by(mut self, caller: &'static str) -> Self {
        self.caller = Some(caller);
        self
    }

    /// Waits for an event.
    pub(super) fn watch(name: &'static str, method: &'static str, request: Value) -> Self {
        Self::new(name, Way::Watch(method), request)
    }

    /// Does something in the simulator that people do at WeChat in real life.
    pub(super) fn control(name: &'static str, path: &'static str, request: Value) -> Self {
        Self::new(name, Way::Control(path), request)
    }

    /// Opens a page of the simulator and sends its form, as people do in a browser.
    pub(super) fn page(name: &'static str, link: &'static str, fields: Value) -> Self {
        Self::new(name, Way::Page(link), fields)
    }

    /// Repeats the call until the response is the expected one, because it depends on a push.
    pub(super) const fn wait(mut self) -> Self {
        self.waits = true;
        self
    }

    /// Expects this value at a JSON pointer of the response.
    pub(super) fn expect(mut self, pointer: &'static str, value: Value) -> Self {
        self.expected.push((pointer, Expected::Value(value)));
        self
    }

    /// Expects a list of this length at a JSON pointer of the response.
    pub(super) fn expect_count(mut self, pointer: &'static str, count: usize) -> Self {
        self.expected.push((pointer, Expected::Count(count)));
        self
    }

    /// Expects an error with this code and reason.
    pub(super) fn refuse(mut self, code: &'static str, reason: &'static str) -> Self {
        self.refused = true;
        self.expect("/code", json!(code)).expect("/details/0/reason", json!(reason))
    }

    /// Expects a text at a JSON pointer of the response, and keeps it as `$name` for later steps.
    pub(super) fn keep(mut self, pointer: &'static str, name: &'static str) -> Self {
        self.kept.push((pointer, name));
        self
    }

    /// Shows this field of the request in the story.
    pub(super) fn show_request(mut self, pointer: &'static str) -> Self {
        self.shown_request.push(pointer);
        self
    }

    /// Shows this field of the response in the story.
    pub(super) fn show(mut self, pointer: &'static str) -> Self {
        self.shown.push(pointer);
        self
    }

    fn new(name: &'static str, way: Way, request: Value) -> Self {
        Self {
            name,
            shown_request: Vec::new(),
            shown: Vec::new(),
            caller: None,
            way,
            request,
            expected: Vec::new(),
            kept: Vec::new(),
            refused: false,
            waits: false,
        }
    }

    /// Checks whether this is a response or an error, and its values.
    fn check_answer(&self, answer: &Answer, memory: &mut Memory) -> Result<(), String> {
        match (answer, self.refused) {
            (Answer::Error(_), false) => Err("expected a response, not an error".to_owned()),
            (Answer::Response(_), true) => Err("expected an error, not a response".to_owned()),
            _ => self.check(&answer.json(), memory),
        }
    }

    /// Checks the response, and keeps the values that later steps need.
    fn check(&self, response: &Value, memory: &mut Memory) -> Result<(), String> {
        for (pointer, expected) in &self.expected {
            let found = response.pointer(pointer).unwrap_or(&Value::Null);
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
            match response.pointer(pointer) {
                Some(Value::String(text)) if !text.is_empty() => memory.keep(name, text),
                other => return Err(format!("expected {pointer} to be a text, not {other:?}")),
            }
        }
        Ok(())
    }
}

/// The kept values by name.
#[derive(Debug, Default)]
struct Memory(BTreeMap<&'static str, String>);

impl Memory {
    fn keep(&mut self, name: &'static str, text: &str) {
        self.0.insert(name, text.to_owned());
    }

    /// Returns the template with every `$name` replaced. An unknown name stays, so that the service
    /// refuses it.
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

    /// Replaces a name, which begins at `$` and ends with the text.
    fn fill_text(&self, text: &str) -> String {
        match text.split_once('$').and_then(|(before, name)| Some((before, self.0.get(name)?))) {
            Some((before, value)) => format!("{before}{value}"),
            None => text.to_owned(),
        }
    }
}

/// A step as it was executed. Its JSON is the output for programs.
#[derive(Serialize)]
pub(super) struct Report<'a> {
    step: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) caller: Option<&'a str>,
    pub(super) call: String,
    request: Json,
    #[serde(flatten)]
    answer: Answer,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Error(RpcError),
    Response(Json),
}

impl Answer {
    /// Returns the response or the error as JSON.
    fn json(&self) -> Value {
        match self {
            Self::Error(error) => serde_json::to_value(error).unwrap_or_default(),
            Self::Response(response) => serde_json::to_value(response).unwrap_or_default(),
        }
    }
}

/// JSON, or a message, whose JSON keeps the order of the fields.
#[derive(Serialize)]
#[serde(untagged)]
enum Json {
    Message(DynamicMessage),
    Value(Value),
}

impl Report<'_> {
    /// Returns true if the service returned an error.
    pub(super) const fn is_error(&self) -> bool {
        matches!(self.answer, Answer::Error(_))
    }

    /// Returns the request as JSON.
    pub(super) fn request_json(&self) -> Value {
        serde_json::to_value(&self.request).unwrap_or_default()
    }

    /// Returns the response or the error as JSON.
    pub(super) fn answer_json(&self) -> Value {
        self.answer.json()
    }
}

/// Runs all steps and prints them as a story, or as JSON. Returns an error at the first step whose
/// response is not the expected one.
pub(super) async fn run(
    places: Places,
    identities: Option<&Identities>,
    Chosen { tour, json }: Chosen,
) -> Result<(), Failure> {
    let began = Instant::now();
    let clients = clients(places.grpc, identities).await?;
    let mut runner = Runner { clients, simulator: places.simulator, memory: Memory::default() };
    let (about, chapters) = match (tour, identities) {
        (Tour::Platform, _) => (&story::PLATFORM, platform::steps()),
        (Tour::Store, Some(_)) => (&story::SECURE, steps::secure()),
        (Tour::Store, None) => (&story::STORE, steps::all()),
    };
    if !json {
        print_story(about.introduction.to_owned());
    }
    let mut number = 0;
    for chapter in &chapters {
        if !json {
            print_story(story::heading(chapter.title));
        }
        for step in &chapter.steps {
            number += 1;
            let result = runner.run(step, number, json).await;
            result.map_err(|problem| {
                let name = step.name;
                Failure::new(format_args!("the tour failed at step {number} ({name}): {problem:#}"))
            })?;
        }
    }
    if json {
        let _ = print::line(json!({ "tour": "complete", "steps": number }));
    } else {
        print_story(about.conclusion(number, began.elapsed()));
    }
    Ok(())
}

/// Returns a client for each caller. The first one loads the types of the service.
async fn clients(
    grpc: SocketAddr,
    identities: Option<&Identities>,
) -> Result<BTreeMap<Option<&'static str>, Client>, Failure> {
    let Some(identities) = identities else {
        return Ok([(None, Client::connect(&Target::new(grpc)).await?)].into());
    };
    let [first, others @ ..] = identities::ROLES;
    let client = Client::connect(&identities.target(first, grpc)).await?;
    let mut clients = BTreeMap::new();
    let unknown = [identities::CERTIFIED, identities::STRANGER, identities::NONE];
    for caller in others.into_iter().chain(unknown) {
        let target = identities.target(caller, grpc);
        clients.insert(Some(caller), client.connect_as(&target).await?);
    }
    clients.insert(Some(first), client);
    Ok(clients)
}

/// Runs the steps one after the other.
struct Runner {
    /// The clients by caller. A tour without callers has one.
    clients: BTreeMap<Option<&'static str>, Client>,
    simulator: SocketAddr,
    memory: Memory,
}

impl Runner {
    /// Runs one step, prints it, and checks its response. A step that waits is printed with its last attempt.
    async fn run(&mut self, step: &Step, number: usize, json: bool) -> anyhow::Result<()> {
        let request = self.memory.fill(&step.request);
        let began = Instant::now();
        let (report, checked) = loop {
            let report = self.attempt(step, &request).await?;
            let checked = step.check_answer(&report.answer, &mut self.memory);
            if checked.is_ok() || !step.waits || began.elapsed() >= STEP_LIMIT {
                break (report, checked);
            }
            tokio::time::sleep(PAUSE).await;
        };
        if json {
            print_json(&report);
        } else {
            print_story(story::step(number, step, &report, began.elapsed()));
        }
        checked.map_err(anyhow::Error::msg)
    }

    /// Runs one step once.
    async fn attempt<'a>(&self, step: &'a Step, request: &Value) -> anyhow::Result<Report<'a>> {
        let (call, request, answer) = match step.way {
            Way::Call(method) | Way::Watch(method) => {
                let (request, answer) = self.call(step, method, request).await?;
                (method.to_owned(), Json::Message(request), answer)
            }
            Way::Control(path) => {
                let path = self.memory.fill_text(path);
                let answer = control(self.simulator, &path, request).await?;
                let answer = Answer::Response(Json::Value(answer));
                let call = format!("POST http://{}{path}", self.simulator);
                (call, Json::Value(request.clone()), answer)
            }
            Way::Page(link) => {
                let link = self.memory.fill_text(link).parse()?;
                let page::Sent { call, answer } = page::send_form(&link, request).await?;
                (call, Json::Value(request.clone()), Answer::Response(Json::Value(answer)))
            }
        };
        Ok(Report { step: step.name, caller: step.caller, call, request, answer })
    }

    /// Calls the service.
    async fn call(
        &self,
        step: &Step,
        method: &str,
        request: &Value,
    ) -> anyhow::Result<(DynamicMessage, Answer)> {
        let client = self.clients.get(&step.caller);
        let client = client.ok_or_else(|| anyhow::anyhow!("there is no such caller"))?;
        let method = client.method(method)?;
        let message = call::parse_request(method.input(), &request.to_string())
            .map_err(anyhow::Error::msg)?;
        let answer = async {
            let mut responses = client.start(&method, Request::new(message.clone())).await?;
            loop {
                let response = responses.message().await?;
                let is_event = |response: &DynamicMessage| response.has_field_by_name("event");
                if !matches!(step.way, Way::Watch(_)) || response.as_ref().is_none_or(is_event) {
                    return Ok(response);
                }
            }
        };
        let answer = match tokio::time::timeout(STEP_LIMIT, answer).await? {
            Ok(Some(response)) => Answer::Response(Json::Message(response)),
            Ok(None) => anyhow::bail!("expected a response, but there was none"),
            Err(status) => Answer::Error(RpcError::from(&status)),
        };
        Ok((message, answer))
    }
}

/// Sends a request to the simulator's control interface and returns the response.
async fn control(simulator: SocketAddr, path: &str, request: &Value) -> anyhow::Result<Value> {
    let request = http::Request::post(path)
        .header(http::header::HOST, simulator.to_string())
        .body(Full::new(Bytes::from(request.to_string())))?;
    let (head, answer) = send(simulator, request).await?.into_parts();
    let status = head.status;
    anyhow::ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&answer));
    Ok(serde_json::from_slice(&answer)?)
}

/// Sends an HTTP request on a connection of its own, and returns the whole response.
pub(super) async fn send(
    server: SocketAddr,
    request: http::Request<Full<Bytes>>,
) -> anyhow::Result<http::Response<Bytes>> {
    let socket = TcpStream::connect(server).await?;
    let (mut http, connection) = http1::handshake(TokioIo::new(socket)).await?;
    tokio::spawn(connection);
    let (head, body) = http.send_request(request).await?.into_parts();
    Ok(http::Response::from_parts(head, body.collect().await?.to_bytes()))
}

/// Prints a step as JSON. The tour does not depend on a reader, so it continues if printing fails.
fn print_json(report: &Report<'_>) {
    if let Ok(text) = serde_json::to_string_pretty(report) {
        let _ = print::line(text);
    }
}

/// Prints a part of the story. The tour does not depend on a reader, so it continues if printing fails.
fn print_story(text: String) {
    let _ = print::styled_line(text);
}

#[cfg(test)]
mod tests {
    use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};
    use tokio::net::TcpListener;
    use wechat_simulator::{OFFICIAL_APP_ID, Simulator};

    use super::*;
    use crate::pb;

    #[test]
    fn names_are_replaced_at_any_depth() {
        let mut memory = Memory::default();
        memory.keep("id", "7");
        let filled =
            memory.fill(&json!({ "a": ["$id", { "b": "/x/$id" }], "c": "$other", "d": 1 }));
        assert_eq!(filled, json!({ "a": ["7", { "b": "/x/7" }], "c": "$other", "d": 1 }));
    }

    #[test]
    fn unexpected_response_names_the_difference() {
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
    async fn control_request_returns_response_or_error() {
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
    fn every_step_matches_the_contract() {
        let types = DescriptorPool::decode(pb::DESCRIPTORS).expect("the contract");
        let chapters = steps::all().into_iter().chain(steps::secure()).chain(platform::steps());
        for step in chapters.flat_map(|chapter| chapter.steps) {
            let (Way::Call(name) | Way::Watch(name)) = step.way else { continue };
            let (service, method) = name.split_once('/').expect(name);
            let service = types.get_service_by_name(&format!("wechat.store.v1.{service}"));
            let mut methods = service.as_ref().expect(name).methods();
            let method = methods.find(|candidate| candidate.name() == method).expect(name);
            call::parse_request(method.input(), &step.request.to_string()).expect(step.name);
            let pointers = step.expected.iter().map(|(pointer, _)| pointer);
            let pointers = pointers.chain(step.kept.iter().map(|(pointer, _)| pointer));
            for pointer in pointers.chain(&step.shown) {
                assert!(step.refused || is_field(method.output(), pointer), "{pointer}");
            }
            for pointer in &step.shown_request {
                assert!(step.request.pointer(pointer).is_some(), "{pointer}");
            }
        }
    }

    fn is_field(mut message: MessageDescriptor, pointer: &str) -> bool {
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
