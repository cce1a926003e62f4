//! Is this reply a success? WeChat has three ways to say no.
//!
//! One rule fits every documented sample: `errcode` absent or 0 is success, unless `error` is there
//! and not null (create_map_poi) or `status` is not 0 (get_district). Failures of all endpoints,
//! these two included, may come as `errcode`.

use memchr::memmem;
use serde::{Deserialize, de::DeserializeOwned};

use super::{Envelope, Errcode, Error, Int, Text};

/// Reads the verdict, then the reply.
pub(super) fn open<R: DeserializeOwned>(envelope: Envelope, body: &[u8]) -> Result<R, Error> {
    if envelope == Envelope::Errcode && is_success(body) {
        return read(body);
    }
    let verdict: Errors = read(body)?;
    if let Int(Some(code)) = verdict.errcode
        && code != 0
    {
        return Err(Error::Refused { code: Errcode(code), message: verdict.errmsg.0 });
    }
    match envelope {
        Envelope::Errcode => {}
        Envelope::Error => {
            if let Some(error) = read::<NonNullError>(body)?.error {
                return Err(Error::Refused { code: Errcode(0), message: error.to_string() });
            }
        }
        Envelope::Status => {
            let Status { status, message } = read(body)?;
            if let Int(Some(status)) = status
                && status != 0
            {
                return Err(Error::Refused { code: Errcode(status), message: message.0 });
            }
        }
    }
    read(body)
}

/// Whether the verdict of `errcode` is certainly a success, if this is JSON at all: by far the most
/// replies are, and to see it like this costs less than reading the JSON for it.
///
/// A name that stands here once can be nobody's but that of the whole, or else the whole has none,
/// which is a success, too; unless letters of it are written as `\u0065`.
fn is_success(body: &[u8]) -> bool {
    let once = |name: &[u8], values: &[&[u8]]| {
        let mut places = memmem::find_iter(body, name).map(|at| &body[at + name.len()..]);
        match (places.next(), places.next()) {
            (None, _) => true,
            (Some(rest), None) => values.iter().any(|value| rest.starts_with(value)),
            (Some(_), Some(_)) => false,
        }
    };
    once(b"errcode", &[b"\":0,", b"\":0}"])
        && once(b"errmsg", &[b"\":\""])
        && memmem::find(body, br"\u00").is_none()
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    // serde would take an array for a struct.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Error::Unreadable { cause: format!("no JSON object in {} bytes", body.len()) });
    }
    // serde_json's message may quote a value of the body, so only the place is kept.
    serde_json::from_slice(body).map_err(|error| Error::Unreadable {
        cause: format!(
            "{:?} error at line {} column {} of {} bytes",
            error.classify(),
            error.line(),
            error.column(),
            body.len()
        ),
    })
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Errors {
    errcode: Int,
    errmsg: Text,
}

/// `error` is documented as null; whether it is text or an object otherwise is not.
#[derive(Deserialize, Default)]
#[serde(default)]
struct NonNullError {
    error: Option<serde_json::Value>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    status: Int,
    message: Text,
}

/// A reply of which only the verdict matters.
#[derive(Debug, Default, Deserialize)]
pub struct Done {}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(envelope: Envelope, body: &str) -> Result<(), String> {
        open::<Done>(envelope, body.as_bytes()).map(|_| ()).map_err(|error| match error {
            Error::Refused { code, message } => format!("{code} {message}"),
            other => other.to_string(),
        })
    }

    #[test]
    fn every_documented_verdict_is_read() {
        use Envelope as E;
        let busy = r#"{"errcode":-1,"errmsg":"system error"}"#;
        for (envelope, body, expected) in [
            (E::Errcode, r#"{"errcode":0,"errmsg":"ok"}"#, Ok(())),
            (E::Errcode, r#"{"errcode":"0"}"#, Ok(())),
            (E::Errcode, r#"{"url":"http://mmbiz.qpic.cn/x"}"#, Ok(())),
            (E::Errcode, busy, Err("-1 system error")),
            (E::Errcode, r#"{"errcode":"85038","errmsg":null}"#, Err("85038 ")),
            (E::Error, r#"{"error":null,"data":{"base_id":1}}"#, Ok(())),
            (E::Error, r#"{"data":{"base_id":1}}"#, Ok(())),
            (E::Error, r#"{"error":"bad name"}"#, Err(r#"0 "bad name""#)),
            (E::Error, r#"{"errcode":47001,"errmsg":"data"}"#, Err("47001 data")),
            (E::Status, r#"{"status":0,"result":[]}"#, Ok(())),
            (E::Status, r#"{"status":110,"message":"no"}"#, Err("110 no")),
            (E::Status, r#"{"errcode":40001,"errmsg":"x"}"#, Err("40001 x")),
        ] {
            assert_eq!(verdict(envelope, body), expected.map_err(str::to_owned), "{body}");
        }
    }

    #[test]
    fn what_is_seen_to_be_a_success_is_one() {
        for body in [
            r#"{"errcode":0,"errmsg":"ok","business":{}}"#,
            r#"{"business":{"errmsg":"ok","errcode":0}}"#,
            r#"{"url":"http://mmbiz.qpic.cn/\u95e8"}"#,
            r#"{"text":"\"errcode\":0,"}"#,
        ] {
            assert_eq!(verdict(Envelope::Errcode, body), Ok(()), "{body}");
        }
        assert!(is_success(br#"{"errcode":0,"errmsg":"ok","business":{"name":"\u95e8"}}"#));
        for body in [
            r#"{"errcode":1}"#,
            r#"{"errcode":-1,"errmsg":"ok"}"#,
            r#"{"errcode":"85038"}"#,
            r#"{"errcode":01}"#,
            r#"{"errcode":0.5}"#,
            r#"{"errcode": 7}"#,
            r#"{"errcode" :7}"#,
            r#"{"data":{"errcode":0},"errcode":7}"#,
            r#"{"errcode":7,"data":{"errcode":0}}"#,
            r#"{"data":"errcode\":0,","errcode":7}"#,
            r#"{"data":{"errcode":0},"err\u0063ode":7}"#,
            r#"{"\u0065rrcode":7}"#,
            r#"{"errcode":0,"errcode":7}"#,
            r#"{"errcode":0,"errmsg":{}}"#,
            r#"{"errmsg":"ok","errmsg":"no"}"#,
        ] {
            assert!(!is_success(body.as_bytes()), "{body}");
            assert!(verdict(Envelope::Errcode, body).is_err(), "{body}");
        }
    }

    #[test]
    fn what_is_no_json_object_is_unreadable_and_not_quoted() {
        for body in ["", "<html>secret</html>", r#"{"errcode":0"#, "[]", "7", r#"{"errcode":"o"}"#]
        {
            let said = verdict(Envelope::Errcode, body).expect_err(body);
            assert!(said.starts_with("WeChat's reply cannot be read"), "{body}: {said}");
            assert!(!said.contains("secret"), "{said}");
        }
    }
}
