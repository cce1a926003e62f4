//! Every endpoint with every way in which a reply can be damaged.
//!
//! The required parts of a reply are data of the endpoint ([`Facts::whole`]), and
//! `tests/documented` has an example of a good reply. The damage is derived from both, so a new
//! endpoint is tested as soon as it compiles. An incomplete reply must never count as a success: a
//! read fails, and a write has an unknown outcome, in the answer and in the journal. Damage to
//! other parts must change no answer.

use std::{collections::BTreeSet, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::future::join_all;
use serde_json::{Map, Value, json};
use tonic::Code;
use uuid::Uuid;
use wechat_simulator::{Fault, faults::Kind};
use wechat_store_gateway::{
    pb::{self, WriteState, get_write_request::Lookup},
    testing::wechat::{Facts, Need, Safety, Verdict, endpoints},
};

use crate::{
    documented::Example,
    endpoints::calls,
    support::{App, CLASSIC_TOKEN, STABLE_TOKEN, is, reason},
};

/// WeChat may execute a lost write until then. This is longer than the pause of any write queue.
const LATER: Duration = Duration::from_secs(70);

/// A damaged reply.
struct Damage {
    name: String,
    body: Vec<u8>,
    /// The expected answer for the caller.
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    /// The reply states neither success nor failure.
    NotWhole,
    /// The same answer as for the complete reply.
    Same,
    /// The same answer without one row, which is counted.
    RowLess,
    /// The same answer or none: strict parsing does not cover the damaged part.
    SameOrNone,
    /// Any answer or typed status except an internal error: the damaged part may be needed or not.
    Typed,
}

/// Returns the path of a required part, and a check of its value.
fn parts(need: &Need) -> (&'static str, fn(&Value) -> bool) {
    match *need {
        Need::Id(at) => (at, |value| match value {
            Value::String(id) => !["", "0"].contains(&id.trim()),
            Value::Number(id) => id.as_i64().is_some_and(|id| id != 0),
            _ => false,
        }),
        Need::List(at) => (at, Value::is_array),
        Need::Filled(at) => (at, |value| value.as_array().is_some_and(|rows| !rows.is_empty())),
        Need::Number(at) | Need::NumberOrId(at, _) => (at, |value| match value {
            Value::Bool(_) => true,
            Value::Number(number) => number.is_i64(),
            Value::String(text) => text.parse::<i32>().is_ok(),
            _ => false,
        }),
        Need::Text(at) => (at, |value| match value {
            Value::String(text) => !text.trim().is_empty(),
            Value::Number(number) => number.is_i64(),
            _ => false,
        }),
    }
}

/// Returns the reply with a change at a path. Strings on the path contain JSON. A change of `None`
/// removes the value.
fn changed(reply: &Value, path: &[&str], change: Option<Value>) -> Value {
    let [name, rest @ ..] = path else { return change.unwrap_or(Value::Null) };
    let mut outer = reply.clone();
    let hidden = outer.as_str().map(|json| serde_json::from_str(json).expect("hidden JSON"));
    let is_hidden = hidden.is_some();
    if let Some(shown) = hidden {
        outer = shown;
    }
    let fields = outer.as_object_mut().unwrap_or_else(|| panic!("no {name} in {reply}"));
    match (rest, change) {
        ([], None) => {
            fields.remove(*name);
        }
        (_, change) => {
            let inner = fields.get(*name).cloned().unwrap_or_default();
            fields.insert((*name).to_owned(), changed(&inner, rest, change));
        }
    }
    if is_hidden { outer.to_string().into() } else { outer }
}

fn found<'a>(reply: &'a Value, path: &[&str]) -> Option<std::borrow::Cow<'a, Value>> {
    use std::borrow::Cow;
    path.iter().try_fold(Cow::Borrowed(reply), |value, name| {
        let value = match value.as_str() {
            Some(json) => Cow::Owned(serde_json::from_str(json).ok()?),
            None => value,
        };
        match value {
            Cow::Borrowed(value) => value.get(name).map(Cow::Borrowed),
            Cow::Owned(value) => value.get(name).cloned().map(Cow::Owned),
        }
    })
}

/// Returns every damage to the reply of an endpoint.
fn damages(facts: &Facts, reply: &Value) -> Vec<Damage> {
    use Outcome::{NotWhole, RowLess, Same, SameOrNone, Typed};
    let mut all = Vec::new();
    let mut add = |name: String, body: Vec<u8>, outcome| all.push(Damage { name, body, outcome });
    let text = |value: Value| value.to_string().into_bytes();

    // Bodies that do not come from WeChat.
    for body in [
        "",
        "   ",
        "ok",
        "null",
        "0",
        "[]",
        "{}",
        "<html><body>secret</body></html>",
        r#"{"message":"forbidden by policy"}"#,
        r#"{"code":-601001,"msg":"system error"}"#,
        r#"{"code":0,"msg":"ok"}"#,
        r#"{"ret":-1}"#,
        r#"{"base_resp":{"errcode":108}}"#,
        r#"{"base_resp":{"errcode":0}}"#,
        r#"{"errmsg":"ok"}"#,
        r#"{"errcode":"o"}"#,
    ] {
        add(format!("the body {body:?}"), body.as_bytes().to_vec(), NotWhole);
    }
    let whole = reply.to_string().into_bytes();
    add("an array around the reply".to_owned(), text(json!([reply])), NotWhole);
    add("half of the reply".to_owned(), whole[..whole.len() / 2].to_vec(), NotWhole);
    add("text after the reply".to_owned(), [&whole[..], b"x"].concat(), NotWhole);

    // No verdict, or an invalid one.
    let verdict = match facts.verdict {
        Verdict::Errcode => Some("errcode"),
        Verdict::Status => Some("status"),
        Verdict::Content | Verdict::NoError => None,
    };
    if let Some(verdict) = verdict {
        add(format!("no {verdict}"), text(changed(reply, &[verdict], None)), NotWhole);
        for value in [json!(null), json!(""), json!(false), json!([0]), json!({}), json!(0.5)] {
            let body = text(changed(reply, &[verdict], Some(value.clone())));
            add(format!("{verdict}: {value}"), body, NotWhole);
        }
        let body = text(changed(reply, &[verdict], Some(json!("0"))));
        add(format!("{verdict} as text"), body, Same);
    }
    let doubled = reply.to_string().replacen('{', r#"{"errcode":0,"errcode":7,"#, 1);
    add("two verdicts".to_owned(), doubled.into_bytes(), NotWhole);

    // A required part is missing or has another type.
    let values = [
        json!(null),
        json!(""),
        json!(" "),
        json!(0),
        json!("0"),
        json!(true),
        json!(1.5),
        json!({}),
        json!([]),
        json!("x"),
        json!({"x": 1}),
        json!([[]]),
    ];
    for need in facts.whole {
        let (at, is_enough) = parts(need);
        let path: Vec<_> = at.split('.').collect();
        let reply = &match need {
            Need::NumberOrId(_, id) => changed(reply, &id.split('.').collect::<Vec<_>>(), None),
            _ => reply.clone(),
        };
        for depth in 1..=path.len() {
            let (at, path) = (path[..depth].join("."), &path[..depth]);
            let is_need = at == parts(need).0;
            add(format!("no {at}"), text(changed(reply, path, None)), NotWhole);
            for value in &values {
                if is_need && is_enough(value) {
                    continue;
                }
                let body = text(changed(reply, path, Some(value.clone())));
                add(format!("{at}: {value}"), body, NotWhole);
            }
        }
        // A row that is not an object.
        if let Need::List(_) | Need::Filled(_) = need
            && let Some(rows) = found(reply, &path)
            && let Some(rows) = rows.as_array()
            && !rows.is_empty()
        {
            for row in [json!(null), json!("x"), json!([]), json!({}), json!(7)] {
                let rows: Vec<_> = [std::slice::from_ref(&row), &rows[..]].concat();
                let body = text(changed(reply, &path, Some(rows.into())));
                let outcome = if facts.salvaged { RowLess } else { NotWhole };
                add(format!("{at} with the row {row}"), body, outcome);
            }
        }
    }

    // Damage to a part that is not required.
    add("a byte order mark".to_owned(), [b"\xef\xbb\xbf", &whole[..]].concat(), Same);
    add("blanks around it".to_owned(), [b" \r\n", &whole[..], b"\n "].concat(), Same);
    for (name, typed) in [
        ("a control character", b"\x14".as_slice()),
        ("a line break", b"\n"),
        ("a cut character", b"\xe9\x97"),
        ("a foreign byte", b"\xff"),
        ("half a surrogate pair", br"\ud83d"),
        ("an escape that is none", br"\x"),
        ("an open quote", br#"a"b"#),
    ] {
        let body = reply.to_string().replacen('{', r#"{"typed":"TYPED","#, 1);
        let (before, after) = body.split_once("TYPED").expect("just put there");
        let body = [before.as_bytes(), typed, after.as_bytes()].concat();
        add(
            format!("{name} in another field"),
            body,
            if facts.salvaged { Same } else { SameOrNone },
        );
    }
    for (name, value) in [("{}", json!({})), ("a list", json!([[{}]])), ("null", json!(null))] {
        let body = text(changed(reply, &["not_documented"], Some(value)));
        add(format!("an unknown field with {name}"), body, Same);
    }

    // Each field in turn.
    for (at, body) in each_field_damaged(reply) {
        add(at, body, Typed);
    }
    all
}

/// Returns the reply with each of its values damaged in turn: with another type, or with a
/// character that JSON does not allow.
fn each_field_damaged(reply: &Value) -> Vec<(String, Vec<u8>)> {
    const MARK: &str = "DAMAGED-HERE";
    fn paths(value: &Value, path: &str, all: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    paths(value, &format!("{path}/{name}"), all);
                }
            }
            Value::Array(rows) => {
                for (index, row) in rows.iter().enumerate().take(2) {
                    paths(row, &format!("{path}/{index}"), all);
                }
            }
            _ => all.push(path.to_owned()),
        }
    }
    let mut all = Vec::new();
    paths(reply, "", &mut all);
    let mut damaged = Vec::new();
    for path in all {
        let mut marked = reply.clone();
        *marked.pointer_mut(&path).expect("a field") = MARK.into();
        let marked = marked.to_string();
        let quoted = format!("\"{MARK}\"");
        for (name, instead) in [
            ("{}", b"{}".as_slice()),
            ("[]", b"[]"),
            ("a control character", b"\"1\x142\""),
            ("bad UTF-8", b"\"\xe9\x97\""),
            ("a huge number", b"123456789012345678901234567890"),
        ] {
            let (before, after) = marked.split_once(&quoted).expect("the mark");
            let body = [before.as_bytes(), instead, after.as_bytes()].concat();
            damaged.push((format!("{path} is {name}"), body));
        }
    }
    damaged
}

fn replaced(body: &[u8]) -> Kind {
    Kind::Bytes { base64: BASE64_STANDARD.encode(body) }
}

/// Returns an answer without the parts that differ each time.
fn stable(mut answer: Value) -> Value {
    if let Some(submission) = answer.get_mut("submission").and_then(Value::as_object_mut) {
        submission.retain(|name, _| {
            !["submissionId", "createTime", "resubmitAfter", "requestId", "traceId"]
                .contains(&name.as_str())
        });
    }
    if let Some(fields) = answer.as_object_mut() {
        fields.remove("expireTime");
        // One more row than WeChat's count leads to a further page.
        fields.remove("nextPageToken");
    }
    answer
}

/// Returns an answer without any count of unreadable rows, and that count.
fn without_count(mut answer: Value) -> (Value, Value) {
    let count = answer.as_object_mut().and_then(|fields| fields.remove("unreadableCount"));
    (answer, count.unwrap_or_default())
}

/// Damages the replies of one endpoint, one after another, and returns the failures.
async fn run(facts: &'static Facts, mut example: Example) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut app = App::start().await;
    let writes = facts.safety != Safety::Read;
    let call = async |app: &App, example: &mut Example, body: &[u8]| {
        let fault = Fault::new(facts.path, replaced(body)).times(0);
        app.wechat.fault(fault);
        let request_id = Uuid::now_v7().to_string();
        if writes {
            example.request["requestId"] = request_id.as_str().into();
        }
        let answer = example.call(app).await.map(stable);
        app.wechat.control("DELETE", "faults", &Value::Null).expect("cleared");
        (request_id, answer)
    };
    let good = example.reply.clone();
    let (_, expected) = call(&app, &mut example, good.to_string().as_bytes()).await;
    let expected = expected.unwrap_or_else(|status| panic!("{}: {status:?}", facts.path));
    if !facts.salvaged {
        // From now on, a cached reply would be the answer.
        app = App::start().await;
    }
    for Damage { name, body, outcome } in damages(facts, &good) {
        let name = format!("{} with {name}", facts.path);
        app.clock.advance(LATER);
        let (request_id, answer) = call(&app, &mut example, &body).await;
        let answered = answer.is_ok();
        let state = match writes {
            true => journaled(&app, &request_id).await,
            false => None,
        };
        let problem = match (&answer, outcome) {
            (Ok(answer), Outcome::Same | Outcome::SameOrNone) => {
                (*answer != expected).then(|| format!("{answer} and not {expected}"))
            }
            (Ok(answer), Outcome::RowLess) => {
                let (answer, count) = without_count(answer.clone());
                (answer != expected || count != json!(1)).then(|| format!("{count}: {answer}"))
            }
            (Ok(answer), Outcome::Typed) => {
                let recovered = answer.get("recovered") == Some(&json!(true));
                (writes && !recovered && state != Some(WriteState::Finished))
                    .then(|| format!("answered, and the journal says {state:?}"))
            }
            // A read at WeChat may show the effect of the call.
            (Ok(answer), Outcome::NotWhole) => {
                let recovered = answer.get("recovered") == Some(&json!(true));
                (!recovered).then(|| format!("success: {answer}"))
            }
            (Err(status), Outcome::NotWhole | Outcome::SameOrNone) => {
                let bad_read = [
                    is(Code::Internal, "WECHAT_BAD_REPLY"),
                    is(Code::Unavailable, "WECHAT_UNREACHABLE"),
                ];
                let fits = match writes {
                    false => bad_read.contains(&reason(status)),
                    true => {
                        reason(status) == is(Code::Unknown, "OUTCOME_UNKNOWN")
                            && state == Some(WriteState::Unknown)
                    }
                };
                (!fits).then(|| format!("{:?}, journal {state:?}", reason(status)))
            }
            (Err(status), Outcome::Typed) => {
                (reason(status).1 == "INTERNAL").then(|| format!("{status:?}"))
            }
            (Err(status), Outcome::Same | Outcome::RowLess) => {
                Some(format!("{:?}", reason(status)))
            }
        };
        wrong.extend(problem.map(|problem| format!("{name}: {problem}")));
        if answered && !facts.salvaged {
            app = App::start().await;
        }
    }
    wrong
}

async fn journaled(app: &App, request_id: &str) -> Option<WriteState> {
    let lookup = Some(Lookup::WriteRequestId(request_id.to_owned()));
    let request = pb::GetWriteRequest { app_id: String::new(), lookup };
    let write = app.writes().get_write(request).await.ok()?.into_inner().write?;
    Some(write.state())
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_reply_is_never_a_success() {
    let all = join_all(calls().into_iter().map(|(facts, example)| run(facts, example))).await;
    let wrong = all.concat();
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_token_reply_is_no_token() {
    let good = json!({"access_token": "a".repeat(512), "expires_in": 7200});
    for (path, kind) in [(CLASSIC_TOKEN, "classic"), (STABLE_TOKEN, "stable")] {
        let facts = endpoints().find(|facts| facts.path == path).expect("an endpoint");
        let app = App::with(&format!("default = true\ntoken = \"{kind}\"")).await;
        for Damage { name, body, outcome } in damages(facts, &good) {
            if outcome != Outcome::NotWhole {
                continue;
            }
            // A failed fetch is not repeated immediately.
            app.clock.advance(LATER);
            app.fault(path, replaced(&body));
            let status = app.hurried(app.read()).await.expect_err(&name);
            assert_eq!(
                reason(&status),
                is(Code::Unavailable, "TOKEN_UNAVAILABLE"),
                "{path}: {name}"
            );
            app.wechat.control("DELETE", "faults", &Value::Null).expect("cleared");
        }
        app.clock.advance(LATER);
        let status = app.read().await.expect_err("there is no such store");
        assert_eq!(reason(&status), is(Code::NotFound, "STORE_NOT_FOUND"), "{path}");
    }
}

/// The table in docs/calls.md must match the endpoints.
#[test]
fn docs_list_required_parts_of_every_endpoint() {
    let text = include_str!("../../docs/calls.md");
    let (_, table) = text.split_once("## Which replies are a success").expect("the heading");
    let table = table.split("\n#").next().unwrap_or_default();
    let shown: BTreeSet<_> = table.lines().filter(|line| line.starts_with("| `/")).collect();
    for facts in endpoints() {
        let verdict = match facts.verdict {
            Verdict::Errcode => "`errcode` 0".to_owned(),
            Verdict::Content => "no `errcode`, or 0".to_owned(),
            Verdict::NoError => "no `error`, or null".to_owned(),
            Verdict::Status => "`status` 0".to_owned(),
        };
        let needs = facts.whole.iter().map(|need| match need {
            Need::Id(at) => format!("an id `{at}`"),
            Need::List(at) => format!("a list `{at}`"),
            Need::Filled(at) => format!("a list `{at}` with rows"),
            Need::Number(at) => format!("a number `{at}`"),
            Need::NumberOrId(at, id) => format!("a number `{at}` or an id `{id}`"),
            Need::Text(at) => format!("text `{at}`"),
        });
        let whole: Vec<_> = [verdict].into_iter().chain(needs).collect();
        let row = format!("| `{}` | {} |", facts.path, whole.join(", "));
        assert!(shown.iter().any(|line| line.starts_with(&row)), "docs/calls.md lacks {row}");
    }
    assert_eq!(shown.len(), endpoints().count(), "{shown:#?}");
}

#[test]
fn change_reaches_into_json_strings() {
    let reply = json!({"data": {"data": r#"{"list":[1]}"#}});
    let path = ["data", "data", "list"];
    assert_eq!(found(&reply, &path).as_deref(), Some(&json!([1])));
    let gone: Map<String, Value> = Map::new();
    assert_eq!(changed(&reply, &path, None), json!({"data": {"data": json!(gone).to_string()}}));
}
