//! Reads the verdict of a reply: a refusal, a success, or nothing reliable.
//!
//! A refusal is an `errcode` other than 0, at every endpoint. A success must be stated in the way
//! that the endpoint's [`Verdict`] names. A reply that states neither is unreadable, because a
//! proxy wrote it or because WeChat's format changed.
//!
//! Replies are parsed strictly first. If that fails, they are repaired and parsed again, because
//! WeChat does not escape text that people typed. One character of such text must not hide a
//! verdict or an id.

use std::{borrow::Cow, fmt};

use memchr::memmem;
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned},
};
use serde_json::Value;

use super::{Endpoint, Errcode, Error, Verdict, objects::Objects, salvage};
use crate::util::lenient;

/// The byte order mark of UTF-8, which some proxies put first. It damages nothing.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// Returns the parsed reply.
///
/// Fails if WeChat refused the call or if a part of the reply is missing.
pub(super) fn open<E: Endpoint>(body: &[u8]) -> Result<E::Reply, Error> {
    let reply: E::Reply = if is_plain_success(E::VERDICT, body)
        && let Ok(reply) = strict(body)
    {
        reply
    } else {
        open_carefully::<E>(body)?
    };
    match E::is_whole(&reply) {
        true => Ok(reply),
        false => Err(unreadable("a success without what was asked for".to_owned())),
    }
}

/// Returns true if the verdict is certainly a success, provided that the body is valid JSON. Most
/// replies are successes, and this check costs less than parsing the JSON for the verdict.
///
/// `errcode` may occur once, at the very beginning, because there it is certainly a field of the
/// top-level object. A second one could also be a field of that object, and so could one that is
/// written with `\u0065`.
fn is_plain_success(verdict: Verdict, body: &[u8]) -> bool {
    const NAME: &[u8] = b"errcode";
    let stated = match verdict {
        Verdict::Content => memmem::find(body, NAME).is_none(),
        Verdict::Errcode => match body.strip_prefix(b"{\"errcode\":0") {
            Some(rest @ [b',' | b'}', ..]) => memmem::find(rest, NAME).is_none(),
            _ => false,
        },
        Verdict::NoError | Verdict::Status => false,
    };
    stated && memmem::find(body, br"\u00").is_none()
}

/// Returns the reply after checking its verdict. Parses it strictly first, then leniently.
fn open_carefully<E: Endpoint>(body: &[u8]) -> Result<E::Reply, Error> {
    // WeChat always sends an object, and serde would accept an array for a struct.
    let is_object = body.trim_ascii_start().first() == Some(&b'{');
    let (text, verdict) = match strict::<Stated>(body) {
        Ok(verdict) if is_object => (Cow::Borrowed(body), verdict),
        strictly => {
            let repaired = lenient::repair(body).ok_or_else(|| match strictly {
                Err(error) => damaged(body, &error),
                Ok(_) => unreadable(format!("no JSON object in {} bytes", body.len())),
            })?;
            let repaired = repaired.into_bytes();
            let verdict = strict(&repaired).map_err(|error| damaged(&repaired, &error))?;
            (Cow::Owned(repaired), verdict)
        }
    };
    verdict.judge(E::VERDICT)?;
    if !E::SALVAGED {
        let plain = body.strip_prefix(BOM).unwrap_or(body);
        return strict(plain).map_err(|error| damaged(plain, &error));
    }
    strict(&text).or_else(|error| {
        let json = str::from_utf8(&text).ok();
        json.and_then(salvage::parse).ok_or_else(|| damaged(&text, &error))
    })
}

fn strict<T: DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = T::deserialize(Objects(&mut reader))?;
    reader.end()?;
    Ok(value)
}

fn unreadable(cause: String) -> Error {
    Error::Unreadable { cause }
}

/// Returns the error for an unreadable body. It contains only the position, because the message of
/// serde_json may quote a value.
fn damaged(body: &[u8], error: &serde_json::Error) -> Error {
    unreadable(format!(
        "{:?} error at line {} column {} of {} bytes",
        error.classify(),
        error.line(),
        error.column(),
        body.len()
    ))
}

/// Every field in which a reply may state its verdict.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Stated {
    errcode: Code,
    errmsg: Value,
    /// Documented as null. Its form in case of an error is not documented.
    error: Value,
    status: Code,
    message: Value,
}

impl Stated {
    fn judge(self, verdict: Verdict) -> Result<(), Error> {
        let Self { errcode: Code(errcode), errmsg, error, status: Code(status), message } = self;
        let refused = |code, message| Err(Error::Refused { code: Errcode(code), message });
        match (errcode, verdict) {
            (Some(code), _) if code != 0 => refused(code, text(errmsg)),
            (Some(_), Verdict::Errcode) | (_, Verdict::Content) => Ok(()),
            (_, Verdict::NoError) => match error {
                Value::Null => Ok(()),
                error => refused(0, error.to_string()),
            },
            (_, Verdict::Status) => match status {
                Some(0) => Ok(()),
                Some(status) => refused(status, text(message)),
                None => Err(unreadable("no status".to_owned())),
            },
            (None, Verdict::Errcode) => Err(unreadable("no errcode".to_owned())),
        }
    }
}

fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// The number of a verdict, also from text. Null and empty text are `None`. Any other type, such as
/// a boolean, is an error.
#[derive(Clone, Copy, Debug, Default)]
struct Code(Option<i64>);

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Code;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Code, E> {
                Ok(Code(Some(number)))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Code, E> {
                i64::try_from(number).map(|number| Code(Some(number))).map_err(E::custom)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Code, E> {
                match text.trim() {
                    "" => Ok(Code(None)),
                    text => text.parse().map(|number| Code(Some(number))).map_err(E::custom),
                }
            }
            fn visit_unit<E: de::Error>(self) -> Result<Code, E> {
                Ok(Code(None))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A reply that has nothing but its verdict.
#[derive(Debug, Default, Deserialize)]
pub struct Done {}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde::Serialize;

    use super::*;
    use crate::wechat::{AccountKinds, Listed, Need, Safety};

    /// An endpoint for each verdict whose replies need no further part.
    #[derive(Serialize)]
    struct Call<const VERDICT: u8>;

    const VERDICTS: [Verdict; 4] =
        [Verdict::Errcode, Verdict::Content, Verdict::NoError, Verdict::Status];

    impl<const VERDICT: u8> Listed for Call<VERDICT> {}

    impl<const VERDICT: u8> Endpoint for Call<VERDICT> {
        const METHOD: Method = Method::POST;
        const PATH: &'static str = "/call";
        const ACCOUNT: AccountKinds = AccountKinds::Any;
        const SAFETY: Safety = Safety::Read;
        const PERMISSION_SETS: &'static [u8] = &[];
        const VERDICT: Verdict = VERDICTS[VERDICT as usize];
        const WHOLE: &'static [Need] = &[];
        type Reply = Done;
    }

    fn verdict_text(result: Result<Done, Error>) -> Result<(), String> {
        result.map(|_| ()).map_err(|error| match error {
            Error::Refused { code, message } => format!("{code} {message}"),
            other => other.to_string(),
        })
    }

    fn verdict(verdict: Verdict, body: &[u8]) -> Result<(), String> {
        verdict_text(match verdict {
            Verdict::Errcode => open::<Call<0>>(body),
            Verdict::Content => open::<Call<1>>(body),
            Verdict::NoError => open::<Call<2>>(body),
            Verdict::Status => open::<Call<3>>(body),
        })
    }

    #[test]
    fn documented_verdicts_are_recognized() {
        use Verdict as V;
        let busy = r#"{"errcode":-1,"errmsg":"system error"}"#;
        for (how, body, expected) in [
            (V::Errcode, r#"{"errcode":0,"errmsg":"ok"}"#, Ok(())),
            (V::Errcode, r#"{"errcode":"0"}"#, Ok(())),
            (V::Errcode, r#"{"business":{"errmsg":"ok"},"errcode":0}"#, Ok(())),
            (V::Errcode, busy, Err("-1 system error")),
            (V::Errcode, r#"{"errcode":"85038","errmsg":null}"#, Err("85038 ")),
            (V::Errcode, r#"{"errcode":85038,"errmsg":{}}"#, Err("85038 {}")),
            (V::Content, r#"{"url":"http://mmbiz.qpic.cn/x"}"#, Ok(())),
            (V::Content, r#"{"errcode":0,"url":"http://mmbiz.qpic.cn/x"}"#, Ok(())),
            (V::Content, busy, Err("-1 system error")),
            (V::NoError, r#"{"error":null,"data":{"base_id":1}}"#, Ok(())),
            (V::NoError, r#"{"data":{"base_id":1}}"#, Ok(())),
            (V::NoError, r#"{"error":"bad name"}"#, Err(r#"0 "bad name""#)),
            (V::NoError, r#"{"errcode":47001,"errmsg":"data"}"#, Err("47001 data")),
            (V::Status, r#"{"status":0,"result":[]}"#, Ok(())),
            (V::Status, r#"{"status":110,"message":"no"}"#, Err("110 no")),
            (V::Status, r#"{"errcode":40001,"errmsg":"x"}"#, Err("40001 x")),
        ] {
            assert_eq!(verdict(how, body.as_bytes()), expected.map_err(str::to_owned), "{body}");
        }
    }

    #[test]
    fn missing_or_foreign_verdict_is_not_success() {
        for body in [
            "{}",
            r#"{"errmsg":"ok"}"#,
            r#"{"errcode":null}"#,
            r#"{"errcode":""}"#,
            r#"{"errcode":false}"#,
            r#"{"errcode":true}"#,
            r#"{"errcode":[0]}"#,
            r#"{"errcode":0.5}"#,
            r#"{"errcode":"o"}"#,
            r#"{"ErrCode":0}"#,
            r#"{"message":"forbidden by policy"}"#,
            r#"{"code":-601001,"msg":"system error"}"#,
            r#"{"code":0,"data":{"errcode":0}}"#,
            r#"{"ret":-1}"#,
            r#"{"base_resp":{"errcode":0}}"#,
            r#"{"base_resp":{"errcode":108}}"#,
            r#"{"text":"\"errcode\":0,"}"#,
            r#"{"errcode":0,"errcode":7}"#,
            r#"{"errcode":0,"err\u0063ode":7}"#,
        ] {
            let verdict_text = verdict(Verdict::Errcode, body.as_bytes()).expect_err(body);
            assert!(
                verdict_text.starts_with("WeChat's reply cannot be read"),
                "{body}: {verdict_text}"
            );
            let verdict_text = verdict(Verdict::Status, body.as_bytes()).expect_err(body);
            assert!(
                verdict_text.starts_with("WeChat's reply cannot be read"),
                "{body}: {verdict_text}"
            );
        }
        assert!(verdict(Verdict::Status, br#"{"status":false}"#).is_err());
    }

    #[test]
    fn damaged_reply_still_yields_its_verdict() {
        for body in [
            b"{\"errcode\":85038,\"errmsg\":\"a\nb\"}".as_slice(),
            b"\xef\xbb\xbf{\"errcode\":85038,\"errmsg\":\"\"}",
            b"{\"errmsg\":\"\xe9\x97\",\"errcode\":85038}",
            br#"{"errmsg":"\ud83d","errcode":85038}"#,
            b"{\"errmsg\":\"\x14\",\"errcode\":\"85038\"}",
        ] {
            let verdict_text = verdict(Verdict::Errcode, body).expect_err("a refusal");
            assert!(verdict_text.starts_with("85038 "), "{verdict_text}");
        }
        assert_eq!(verdict(Verdict::Errcode, b"\xef\xbb\xbf{\"errcode\":0,\"x\":\"\n\"}"), Ok(()));
    }

    #[test]
    fn fast_path_accepts_only_certain_successes() {
        let fast = |body: &str| is_plain_success(Verdict::Errcode, body.as_bytes());
        for body in [r#"{"errcode":0}"#, r#"{"errcode":0,"errmsg":"ok","business":{}}"#] {
            assert!(fast(body), "{body}");
        }
        for body in [
            "{}",
            r#"{"errcode":00}"#,
            r#"{"errcode":0.5}"#,
            r#"{"errcode":7}"#,
            r#"{"errcode":0,"errcode":7}"#,
            r#"{"errcode":0,"err\u0063ode":7}"#,
            r#"{"data":{"errcode":0}}"#,
            r#"{"data":{"errcode":0},"errcode":7}"#,
        ] {
            assert!(!fast(body), "{body}");
        }
        assert!(is_plain_success(Verdict::Content, br#"{"url":"x"}"#));
        assert!(!is_plain_success(Verdict::Content, br#"{"\u0065rrcode":7}"#));
        assert!(!is_plain_success(Verdict::Content, br#"{"errcode":0,"url":"x"}"#));
    }

    #[test]
    fn non_object_reply_is_unreadable_and_unquoted() {
        for body in
            ["", "<html>secret</html>", r#"{"errcode":0"#, "[]", "7", r#"{"errcode":"secret"}"#]
        {
            let verdict_text = verdict(Verdict::Errcode, body.as_bytes()).expect_err(body);
            assert!(
                verdict_text.starts_with("WeChat's reply cannot be read"),
                "{body}: {verdict_text}"
            );
            assert!(!verdict_text.contains("secret"), "{verdict_text}");
        }
    }
}
