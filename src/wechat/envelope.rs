//! Is this reply a success? WeChat has three ways to say no.
//!
//! One rule fits every documented sample: `errcode` absent or 0 is success, unless `error` is there
//! and not null (create_map_poi) or `status` is not 0 (get_district). Failures of all endpoints,
//! these two included, may come as `errcode`.

use serde::{Deserialize, de::DeserializeOwned};

use super::{Envelope, Errcode, Error, Int, Text};

/// Reads the verdict, then the reply.
pub(super) fn open<R: DeserializeOwned>(envelope: Envelope, body: &[u8]) -> Result<R, Error> {
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
    fn what_is_no_json_object_is_unreadable_and_not_quoted() {
        for body in ["", "<html>secret</html>", r#"{"errcode":0"#, "[]", "7", r#"{"errcode":"o"}"#]
        {
            let said = verdict(Envelope::Errcode, body).expect_err(body);
            assert!(said.starts_with("WeChat's reply cannot be read"), "{body}: {said}");
            assert!(!said.contains("secret"), "{said}");
        }
    }
}
