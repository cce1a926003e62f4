//! The source of tokens that another program fetched: a file, a server of the operator's own, a key in a Redis,
//! or the file that WeChat writes into a container.
//!
//! The gateway only reads such a token. A refused one is read again, and nothing here makes WeChat issue
//! another one.

use std::{
    fs,
    io::{self, Read},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt, future::BoxFuture};
use http::header;
use serde_json::Value;
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use super::{ENDLESS, FetchError, Fetched, Source};
use crate::{
    config::{CaFile, ExternalToken, SecretSource, TokenKind, parse_header},
    util::{clock::Clock, http as client, id::Secret},
    wechat::{Client, TokenName, Tries},
};

/// The content of the container's file before WeChat writes the first token into it.
const PLACEHOLDER: &str = "default-tcb-wx-access-token";
/// WeChat writes a new token into the container's file every ten minutes. Each lives this long.
const CLOUDBASE_LIFE: Duration = Duration::from_secs(1_800);
/// No token of WeChat lives longer.
const LONGEST_LIFE: Duration = Duration::from_secs(7_200);
/// A file with an older token is used for this long. Its time may be wrong, and WeChat decides.
const LEAST_LIFE: Duration = Duration::from_secs(60);
/// The longest file, reply or value, in bytes.
const LONGEST: usize = 64 * 1024;
/// The longest token, in bytes. WeChat's document advises room for 512.
const LONGEST_TOKEN: usize = 2_048;
/// A file is read again after this time, if a call needs its token.
const FILE_INTERVAL: Duration = Duration::from_secs(1);
/// A server that does not state the life of its token, and a Redis, are read again after this time.
const INTERVAL: Duration = Duration::from_secs(60);
/// The limit for the answer of a server, and for a read of a file.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The field of a token in JSON, as WeChat itself names it.
const FIELD: &str = "access_token";

/// The reason why a place has no token. It never quotes the place's content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// The file is not there.
    #[error("the file {0} does not exist")]
    NoFile(String),
    /// WeChat has not written a token into the container yet.
    #[error(
        "{0} has no token yet; turn on the access token (微信令牌) in the console of cloud hosting, then WeChat \
         writes one within ten minutes"
    )]
    NotWritten(String),
    /// The place is a folder, a pipe or a device.
    #[error("{0} is not a regular file")]
    NotFile(String),
    /// The file cannot be read.
    #[error("the file {0} cannot be read: {1}")]
    Unreadable(String, io::ErrorKind),
    /// Redis has no such key.
    #[error("Redis has no key {0}")]
    NoKey(String),
    /// Redis failed.
    #[error("{0}")]
    Redis(String),
    /// The server failed.
    #[error("the token server {0}")]
    Server(String),
    /// The place has something else than a token.
    #[error("{place} has no token: {problem}")]
    NotToken {
        /// The place.
        place: &'static str,
        /// The problem.
        problem: &'static str,
    },
}

/// The source of an account's tokens that another program fetched.
#[derive(Debug)]
pub(super) struct External {
    place: Place,
    clock: Clock,
    /// Held by a read of a file. One that never ends, such as on a lost network drive, must not block more than
    /// one thread.
    reading: Arc<Semaphore>,
}

/// The place that is read.
#[derive(Clone, Debug)]
enum Place {
    /// The file in a container.
    Cloudbase(std::path::PathBuf),
    /// A place of the operator's own.
    Own(ExternalToken),
}

/// The content of a place.
struct Content {
    bytes: Vec<u8>,
    /// The time at which its life began. `None` for the time of the request.
    since: Option<SystemTime>,
    /// The time that it will stay there.
    stays: Option<Duration>,
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, since: None, stays: None }
    }
}

impl External {
    /// Returns the source that the settings name. Returns `None` if the account has tokens of another kind.
    pub(super) fn new(token: &TokenKind, clock: &Clock) -> Option<Self> {
        let place = match token {
            TokenKind::Cloudbase(file) => Place::Cloudbase(file.clone()),
            TokenKind::External(place) => Place::Own(place.clone()),
            TokenKind::Classic | TokenKind::OpenInterface | TokenKind::Stable => return None,
        };
        let reading = Arc::new(Semaphore::new(1));
        Some(Self { place, clock: clock.clone(), reading })
    }

    /// Returns the token of the place, and how long it lives.
    pub(super) async fn read(&self) -> Result<Fetched, Missing> {
        let name = self.place_name();
        let (content, field) = match &self.place {
            Place::Cloudbase(file) => (self.read_file(file).await?, None),
            Place::Own(ExternalToken::File { file, field }) => {
                (self.read_file(file).await?, field.as_deref())
            }
            Place::Own(ExternalToken::Url { field, .. }) => {
                (self.ask().await?.into(), field.as_deref())
            }
            Place::Own(ExternalToken::Redis { redis_key, url, ca, field }) => {
                (read_redis(url, ca.as_ref(), redis_key).await?, field.as_deref())
            }
        };
        let not_token = |problem| Missing::NotToken { place: name, problem };
        let text = std::str::from_utf8(&content.bytes).map_err(|_| not_token("it is not text"))?;
        let text = text.trim();
        // A read can meet the file while it is being written.
        if let Place::Cloudbase(file) = &self.place
            && PLACEHOLDER.starts_with(text)
        {
            return Err(Missing::NotWritten(file.display().to_string()));
        }
        let (value, life) = token_of(text, field).map_err(not_token)?;
        let life = self.life(&content, life).ok_or(not_token("its token has expired"))?;
        Ok(Fetched { value, life })
    }

    /// Returns how long a token still lives. `stated` is the life that stands beside it. Returns `None` if its
    /// life is over.
    fn life(&self, content: &Content, stated: Option<Duration>) -> Option<Duration> {
        let age = content.since.map_or(Duration::ZERO, |since| {
            self.clock.wall().duration_since(since).unwrap_or_default()
        });
        if let Place::Cloudbase(_) = self.place {
            return Some(CLOUDBASE_LIFE.saturating_sub(age).max(LEAST_LIFE));
        }
        let life = match (content.stays, stated) {
            // How long ago the text was written is unknown, so only the key's own end counts. A key that stays longer
            // than a token states nothing about the token.
            (Some(stays), _) => Some(stays).filter(|stays| *stays <= LONGEST_LIFE),
            (None, stated) => stated.map(|life| life.saturating_sub(age)),
        };
        Some(life.unwrap_or(ENDLESS)).filter(|life| !life.is_zero())
    }

    async fn read_file(&self, file: &Path) -> Result<Content, Missing> {
        let read = async {
            let late = |_| io::Error::from(io::ErrorKind::TimedOut);
            let turn = self.reading.clone().try_acquire_owned().map_err(late)?;
            let file = file.to_owned();
            let read = spawn_blocking(move || {
                let _turn = turn;
                content_of(&file)
            });
            timeout(ANSWER_LIMIT, read).await?.map_err(io::Error::other)?
        };
        let name = file.display().to_string();
        read.await.map_err(|error: io::Error| match error.kind() {
            io::ErrorKind::InvalidInput => Missing::NotFile(name),
            io::ErrorKind::NotFound => Missing::NoFile(name),
            kind => Missing::Unreadable(name, kind),
        })
    }

    fn place_name(&self) -> &'static str {
        match &self.place {
            Place::Cloudbase(_) | Place::Own(ExternalToken::File { .. }) => "the token file",
            Place::Own(ExternalToken::Url { .. }) => "the reply of the token server",
            Place::Own(ExternalToken::Redis { .. }) => "the key in Redis",
        }
    }

    /// Asks the token server with a client of its own, so that the authorities and the header are the current
    /// ones.
    async fn ask(&self) -> Result<Vec<u8>, Missing> {
        let Place::Own(ExternalToken::Url { url, header, ca, .. }) = &self.place else {
            return Ok(Vec::new());
        };
        let server = |problem: String| Missing::Server(problem);
        let (header, ca) = (header.clone(), ca.clone());
        let prepared = spawn_blocking(move || {
            let tls = client::tls(ca.map(|file| file.read()).transpose()?)?;
            let http =
                client::client().timeout(ANSWER_LIMIT).tls_backend_preconfigured(tls).build()?;
            anyhow::Ok((http, header.map(|header| header.read()).transpose()?))
        })
        .await;
        let (http, given) = prepared
            .map_err(|ended| server(format!("was not asked: {ended}")))?
            .map_err(|error| server(format!("cannot be asked: {error:#}")))?;
        let mut request =
            http.get(url.url().clone()).header(header::ACCEPT, "application/json, text/plain");
        if let Some(given) = given {
            let parsed = parse_header(&given);
            let (name, value) = parsed
                .ok_or_else(|| server("cannot be asked: the header is malformed".to_owned()))?;
            request = request.header(name, value);
        }
        client::read(request, LONGEST).await.map_err(|failed| server(failed.to_string()))
    }
}

impl Source for External {
    fn path(&self) -> &'static str {
        ""
    }

    fn can_force(&self) -> bool {
        false
    }

    fn token_name(&self) -> TokenName {
        match self.place {
            Place::Cloudbase(_) => TokenName::CloudbaseAccessToken,
            Place::Own(_) => TokenName::AccessToken,
        }
    }

    fn is_external(&self) -> bool {
        true
    }

    fn is_quick(&self) -> bool {
        matches!(self.place, Place::Cloudbase(_) | Place::Own(ExternalToken::File { .. }))
    }

    fn interval(&self, life: Duration) -> Option<Duration> {
        match &self.place {
            Place::Cloudbase(_) | Place::Own(ExternalToken::File { .. }) => Some(FILE_INTERVAL),
            Place::Own(ExternalToken::Url { .. }) if life < ENDLESS => None,
            Place::Own(_) => Some(INTERVAL),
        }
    }

    fn fetch<'a>(
        &'a self,
        _client: &'a Client,
        _tries: &'a mut Tries,
        _force: bool,
    ) -> BoxFuture<'a, Result<Fetched, FetchError>> {
        async { Ok(self.read().await?) }.boxed()
    }
}

/// Returns the token in a text, and its life if that stands beside it. JSON has it in a field. Other text is the
/// token itself.
fn token_of(text: &str, field: Option<&str>) -> Result<(Secret, Option<Duration>), &'static str> {
    if field.is_none() && !text.starts_with('{') {
        return Ok((checked(text)?, None));
    }
    let json: Value = serde_json::from_str(text).map_err(|_| "it is not JSON")?;
    let field = field.unwrap_or(FIELD);
    let (found, beside) = match field.rsplit_once('/').filter(|_| field.starts_with('/')) {
        Some((parent, _)) => (json.pointer(field), json.pointer(parent)),
        None => (json.get(field), Some(&json)),
    };
    let token = found.and_then(Value::as_str).ok_or("the field is not there")?;
    let life = beside.and_then(|beside| beside.get("expires_in")).and_then(stated_life);
    Ok((checked(token.trim())?, life))
}

/// Returns the life in a field, in seconds. `None` if it is no number. A negative one is over.
fn stated_life(field: &Value) -> Option<Duration> {
    let seconds: f64 = field.as_f64().or_else(|| field.as_str()?.trim().parse().ok())?;
    let longest = LONGEST_LIFE.as_secs_f64();
    (!seconds.is_nan()).then(|| Duration::from_secs_f64(seconds.clamp(0.0, longest)))
}

/// Returns a text as a token, if it can be one.
fn checked(token: &str) -> Result<Secret, &'static str> {
    match token {
        "" => Err("it is empty"),
        PLACEHOLDER => Err("WeChat has not written one into the container yet"),
        _ if token.len() > LONGEST_TOKEN => Err("it is too long"),
        // Pages and JSON have these characters, and no token has them.
        _ if !token
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"<>{}[]\"'\\".contains(&byte)) =>
        {
            Err("it is no token")
        }
        _ => Ok(token.to_owned().into()),
    }
}

/// Returns the content of a file. Blocks the thread.
fn content_of(file: &Path) -> io::Result<Content> {
    // To open a pipe would wait for its writer.
    if !fs::metadata(file)?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let file = fs::File::open(file)?;
    let since = file.metadata()?.modified().ok();
    let mut bytes = Vec::new();
    file.take(LONGEST as u64 + 1).read_to_end(&mut bytes)?;
    match bytes.len() > LONGEST {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(Content { bytes, since, stays: None }),
    }
}

#[cfg(feature = "redis")]
async fn read_redis(
    url: &SecretSource,
    ca: Option<&CaFile>,
    key: &str,
) -> Result<Content, Missing> {
    use crate::config::{RedisSettings, RedisTls, RedisUrl};

    let url =
        url.read().map_err(|error| Missing::Redis(format!("the url cannot be read: {error}")))?;
    let url = RedisUrl::parse(url.expose())
        .map_err(|problem| Missing::Redis(format!("the url cannot be used: {problem}")))?;
    let tls = RedisTls { ca: ca.map(|file| file.path().to_owned()), ..RedisTls::default() };
    let settings = RedisSettings { tls, ..RedisSettings::default() };
    let found = crate::state::redis::foreign_value(&url, &settings, key, LONGEST).await;
    let (bytes, stays) =
        found.map_err(Missing::Redis)?.ok_or_else(|| Missing::NoKey(key.to_owned()))?;
    Ok(Content { bytes, since: None, stays })
}

#[cfg(not(feature = "redis"))]
async fn read_redis(_: &SecretSource, _: Option<&CaFile>, _: &str) -> Result<Content, Missing> {
    Err(Missing::Redis("this build has no Redis support".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_found_in_text_and_json() {
        let found = |text: &str, field: Option<&str>| {
            token_of(text, field)
                .map(|(token, life)| (token.expose().to_owned(), life.map(|life| life.as_secs())))
        };
        let is = |token: &str, life| Ok((token.to_owned(), life));
        for (text, field, expected) in [
            ("abc-_1", None, is("abc-_1", None)),
            (r#"{"access_token":"abc","expires_in":7200}"#, None, is("abc", Some(7_200))),
            (r#"{"access_token":"abc","expires_in":"60"}"#, None, is("abc", Some(60))),
            (r#"{"access_token":"abc","expires_in":99999}"#, None, is("abc", Some(7_200))),
            (r#"{"t":"abc","access_token":"no"}"#, Some("t"), is("abc", None)),
            (r#"{"data":{"t":"abc","expires_in":9}}"#, Some("/data/t"), is("abc", Some(9))),
            (r#"{"data":{"t":"abc"},"expires_in":9}"#, Some("/data/t"), is("abc", None)),
            (r#"{"code":500}"#, None, Err("the field is not there")),
            (r#"{"t":7}"#, Some("t"), Err("the field is not there")),
            ("abc", Some("t"), Err("it is not JSON")),
            ("", None, Err("it is empty")),
            ("<html>no token</html>", None, Err("it is no token")),
            ("<html><body>404</body></html>", None, Err("it is no token")),
            (r#"["abc"]"#, None, Err("it is no token")),
            (r#""abc""#, None, Err("it is no token")),
            ("a\\b", None, Err("it is no token")),
            (r#"{"access_token":"abc","expires_in":-1}"#, None, is("abc", Some(0))),
            (r#"{"access_token":"abc","expires_in":59.9}"#, None, is("abc", Some(59))),
            (r#"{"access_token":"abc","expires_in":1e300}"#, None, is("abc", Some(7_200))),
            (r#"{"access_token":"abc","expires_in":"NaN"}"#, None, is("abc", None)),
            (r#"{"access_token":"abc","expires_in":"soon"}"#, None, is("abc", None)),
            (r#"{"access_token":"abc","expires_in":null}"#, None, is("abc", None)),
            (PLACEHOLDER, None, Err("WeChat has not written one into the container yet")),
            (
                r#"{"access_token":"default-tcb-wx-access-token"}"#,
                None,
                Err("WeChat has not written one into the container yet"),
            ),
        ] {
            assert_eq!(found(text, field), expected, "{text} {field:?}");
        }
        assert_eq!(found(&"a".repeat(2_049), None), Err("it is too long"));
    }
}
