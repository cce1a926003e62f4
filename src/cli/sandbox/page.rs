//! A person in front of the simulator's page: opens a link, fills in the form, and sends it.

use std::net::SocketAddr;

use bytes::Bytes;
use form_urlencoded::Serializer;
use http::{Request, StatusCode, Uri, header};
use http_body_util::Full;
use serde_json::{Value, json};

use super::tour::send;

/// The form as it was sent.
pub(super) struct Sent {
    /// The method and the address without the query.
    pub(super) call: String,
    /// The page to which WeChat sends the browser. Its query is left out, because it has a secret code.
    pub(super) answer: Value,
}

/// Opens the page and sends its form with these fields. Fails if the page does not redirect the browser.
pub(super) async fn send_form(link: &Uri, fields: &Value) -> anyhow::Result<Sent> {
    let host = link.authority().map(ToString::to_string).unwrap_or_default();
    let server: SocketAddr = host.parse()?;
    let target = link.path_and_query().map_or("/", |target| target.as_str());
    let open = Request::get(target).header(header::HOST, &host).body(Full::default())?;
    let page = send(server, open).await?;
    let html = String::from_utf8_lossy(page.body());
    anyhow::ensure!(page.status() == StatusCode::OK, "{}: {html}", page.status());

    let mut form = Serializer::new(String::new());
    for (name, value) in hidden(&html) {
        form.append_pair(&name, &value);
    }
    for (name, value) in fields.as_object().into_iter().flatten() {
        match value {
            Value::Array(ticked) => {
                for one in ticked {
                    form.append_pair(name, &one.to_string());
                }
            }
            one => {
                form.append_pair(name, one.as_str().unwrap_or_default());
            }
        }
    }
    let confirm = Request::post(link.path())
        .header(header::HOST, &host)
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Full::new(Bytes::from(form.finish())))?;
    let answer = send(server, confirm).await?;
    let status = answer.status();
    let location = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    let Some(location) = location else {
        anyhow::bail!("{status}: {}", String::from_utf8_lossy(answer.body()));
    };
    let next = location.split('?').next();
    Ok(Sent {
        call: format!("POST http://{host}{}", link.path()),
        answer: json!({ "status": status.as_u16(), "location": next }),
    })
}

/// Returns the names and values of the hidden fields.
fn hidden(html: &str) -> Vec<(String, String)> {
    let inputs = html.split("<input type=\"hidden\" ").skip(1);
    let attribute = |input: &str, name: &str| {
        let (_, rest) = input.split_once(&format!("{name}=\""))?;
        let (value, _) = rest.split_once('"')?;
        Some(
            value
                .replace("&quot;", "\"")
                .replace("&#39;", "'")
                .replace("&lt;", "<")
                .replace("&gt;", ">")
                .replace("&amp;", "&"),
        )
    };
    inputs
        .filter_map(|input| Some((attribute(input, "name")?, attribute(input, "value")?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_fields_have_their_plain_values() {
        let html = "<form><input type=\"hidden\" name=\"a\" value=\"x&amp;lt;y\">\
                    <input type=\"hidden\" name=\"b\" value=\"\"><input name=\"c\" value=\"z\"></form>";
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(hidden(html), [pair("a", "x&lt;y"), pair("b", "")]);
    }
}
