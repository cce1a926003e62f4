//! The description of an endpoint, and a call to it that passed the general checks.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Map, Value, json};

use super::{error::Refusal, world::World};

/// One of WeChat's APIs. Each family lists its own in a table.
pub(super) struct Endpoint {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) bearer: Bearer,
    pub(super) body: Body,
    /// Whether the API refuses a call before it has answered the previous one. Only one API does.
    pub(super) serial: bool,
    /// A third party can call the API if the merchant granted it one of these. An API without any is
    /// open to all third parties, which is our choice: its document names none.
    pub(super) permission_sets: &'static [u16],
    /// The refusal of a third party to which the merchant granted none of them.
    pub(super) lacking: i64,
    /// Whether the API is on the allow-list of cloud hosting.
    pub(super) cloud: bool,
    pub(super) run: Run,
}

/// The function that changes the world and returns the reply.
type Run = fn(&mut World, &Call) -> Result<Value, Refusal>;

impl Endpoint {
    /// An API with method GET.
    pub(super) const fn get(path: &'static str, bearer: Bearer, run: Run) -> Self {
        Self::new(Method::GET, path, bearer, Body::Nothing, run)
    }

    /// An API that accepts a JSON object by POST.
    pub(super) const fn post(path: &'static str, bearer: Bearer, run: Run) -> Self {
        Self::new(Method::POST, path, bearer, Body::Json, run)
    }

    /// An API that accepts a file by POST.
    pub(super) const fn upload(path: &'static str, bearer: Bearer, run: Run) -> Self {
        Self::new(Method::POST, path, bearer, Body::Form, run)
    }

    const fn new(method: Method, path: &'static str, bearer: Bearer, body: Body, run: Run) -> Self {
        let (serial, permission_sets, lacking, cloud) = (false, &[], 61007, false);
        Self { method, path, bearer, body, serial, permission_sets, lacking, cloud, run }
    }

    /// The same API with one call at a time and a pause between two calls.
    pub(super) const fn serial(mut self) -> Self {
        self.serial = true;
        self
    }

    /// The same API, for which a third party needs one of these permission sets.
    pub(super) const fn permission_sets(mut self, sets: &'static [u16]) -> Self {
        self.permission_sets = sets;
        self
    }

    /// The same API on the allow-list of cloud hosting.
    pub(super) const fn cloud(mut self) -> Self {
        self.cloud = true;
        self
    }

    /// The same API with this refusal of a third party that lacks the permission.
    pub(super) const fn lacking(mut self, errcode: i64) -> Self {
        self.lacking = errcode;
        self
    }
}

/// The kind of account whose token an endpoint accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bearer {
    Anyone,
    /// A third-party platform, with its own token.
    Component,
    MiniProgram,
    /// The call carries the secret in place of a token.
    NoToken,
    Official,
}

/// The kind of body that an endpoint accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Form,
    Json,
    Nothing,
}

/// A call that passed the general checks.
#[derive(Debug, Default)]
pub(super) struct Call {
    /// The account or the component that owns the token. It is empty if the endpoint needs no token.
    pub(super) app_id: String,
    /// The component that calls for the account, if the token is that of an authorizer.
    pub(super) component: Option<String>,
    pub(super) query: BTreeMap<String, String>,
    pub(super) fields: Map<String, Value>,
    pub(super) part: Option<Part>,
}

/// A file in a form.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) file_name: Option<String>,
    pub(super) content_type: Option<String>,
    pub(super) bytes: bytes::Bytes,
}

impl Call {
    /// Returns a call of this account without content.
    #[cfg(test)]
    pub(super) fn by(app_id: &str) -> Self {
        Self { app_id: app_id.to_owned(), ..Self::default() }
    }

    /// Returns a text. Fails if it is missing or empty.
    pub(super) fn text(&self, name: &str) -> Result<&str, Refusal> {
        match self.optional_text(name)? {
            "" => Err(Refusal::new(40097)),
            text => Ok(text),
        }
    }

    /// Returns a text that may be missing. A missing text is empty.
    pub(super) fn optional_text(&self, name: &str) -> Result<&str, Refusal> {
        match self.fields.get(name) {
            None | Some(Value::Null) => Ok(""),
            Some(Value::String(text)) => Ok(text),
            // WeChat has been seen to answer a value of the wrong type like broken JSON.
            Some(_) => Err(Refusal::new(47001)),
        }
    }

    /// Returns a whole number. Fails if it is missing.
    pub(super) fn number(&self, name: &str) -> Result<i64, Refusal> {
        match self.fields.get(name) {
            None | Some(Value::Null) => Err(Refusal::new(40097)),
            Some(value) => value.as_i64().ok_or(Refusal::new(47001)),
        }
    }

    /// Returns an id that documents and clients write either as a number or as text.
    pub(super) fn id(&self, name: &str) -> Result<String, Refusal> {
        match self.fields.get(name) {
            Some(Value::Number(number)) => Ok(number.to_string()),
            _ => self.text(name).map(str::to_owned),
        }
    }

    /// Parses JSON inside a text, such as `"{\"list\":[…]}"`.
    pub(super) fn nested(&self, name: &str, otherwise: i64) -> Result<Value, Refusal> {
        serde_json::from_str(self.text(name)?).map_err(|_| Refusal::new(otherwise))
    }

    /// Returns the pictures in `pic_list`. Fails if one of them is not from uploadimg.
    pub(super) fn pictures(&self, otherwise: i64) -> Result<Vec<String>, Refusal> {
        let nested = self.nested("pic_list", otherwise)?;
        let list = nested["list"].as_array().ok_or(Refusal::new(otherwise))?;
        let pictures = list.iter().map(|url| url.as_str().filter(|url| is_picture(url)));
        match pictures.map(|url| url.map(str::to_owned)).collect::<Option<Vec<_>>>() {
            Some(pictures) if !pictures.is_empty() => Ok(pictures),
            _ => Err(Refusal::new(otherwise)),
        }
    }

    /// Returns opening hours, such as `11:11-12:12`.
    pub(super) fn hours(&self, otherwise: i64) -> Result<&str, Refusal> {
        let hours = self.text("hour")?;
        let good =
            hours.split_once('-').is_some_and(|(open, close)| is_time(open) && is_time(close));
        if good { Ok(hours) } else { Err(Refusal::new(otherwise)) }
    }
}

/// Returns whether an address is that of a picture at WeChat.
pub(super) fn is_picture(url: &str) -> bool {
    ["http://mmbiz.qpic.cn/", "https://mmbiz.qpic.cn/"].iter().any(|host| url.starts_with(host))
}

fn is_time(text: &str) -> bool {
    let digits = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.split_once(':').is_some_and(|(hour, minute)| {
        digits(hour) && digits(minute) && hour <= "23" && minute <= "59" || text == "24:00"
    })
}

/// Returns `{"errcode":0,"errmsg":"ok"}`.
pub(super) fn done() -> Value {
    json!({ "errcode": 0, "errmsg": "ok" })
}

/// Returns `{"errcode":0,"errmsg":"ok"}` with one more field.
pub(super) fn done_with(name: &str, value: Value) -> Value {
    let mut answer = done();
    answer[name] = value;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(fields: Value) -> Call {
        Call { fields: fields.as_object().cloned().unwrap_or_default(), ..Call::default() }
    }

    #[test]
    fn hours_parse_as_two_times() {
        assert!(call(json!({ "hour": "00:00-24:00" })).hours(40097).is_ok());
        for bad in ["9:00-18:00", "09:00", "全天", "09:00-25:00", "09:60-10:00"] {
            assert_eq!(
                call(json!({ "hour": bad })).hours(40097),
                Err(Refusal::new(40097)),
                "{bad}"
            );
        }
    }

    #[test]
    fn pictures_parse_from_json_in_text() {
        let good = r#"{"list":["http://mmbiz.qpic.cn/a/0"]}"#;
        assert_eq!(call(json!({ "pic_list": good })).pictures(40097).map(|list| list.len()), Ok(1));
        let plain = json!({ "pic_list": { "list": ["http://mmbiz.qpic.cn/a/0"] } });
        assert_eq!(call(plain).pictures(40097), Err(Refusal::new(47001)));
        for bad in [r#"{"list":[]}"#, r#"{"list":["http://elsewhere/"]}"#, "[]", "x"] {
            let answer = call(json!({ "pic_list": bad })).pictures(40097);
            assert_eq!(answer, Err(Refusal::new(40097)), "{bad}");
        }
    }
}
