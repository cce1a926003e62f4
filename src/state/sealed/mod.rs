//! A state whose secrets are sealed at rest: access tokens, tickets, refresh tokens and the codes of authorizations.
//!
//! * [`Sealed`] is the door: a state in front of a backend. It seals what it stores and opens what it reads.
//! * `key` has the keys and the form of a sealed secret.
//! * `pass` stores again what has an old form.
//!
//! A backend compares the forms of secrets, and a secret has another form each time that it is sealed. So this room
//! reads a row before it changes it, and passes the stored form to the backend if the secret is the same.
//!
//! A secret that no key opens counts as absent, because WeChat gives another one.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use prost::Message;
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use self::key::{Keys, Kind, Opened, Place};
use super::{
    Acquired, Appended, Authorizer, Begun, Error, EventPage, EventQuery, Events, Leases, Log,
    NewEvent, NewSubmission, NewWrite, Outcome, Peeked, Platforms, Segment, SharedToken, State,
    Submission, SubmissionPage, SubmissionQuery, Submissions, Ticket, Tokens, Write, WritePage,
    WriteQuery, Writes,
    secret::{Backend, SecretColumn, StoredSecret},
    sqlite,
};
use crate::{
    config::{self, STATE_KEY_BYTES, StateUrl, parse_state_key},
    pb::platform::AuthorizerRecord,
    telemetry,
    util::id::{AppId, PoiId, Secret},
};

mod key;
mod pass;

/// The most attempts of a change that other processes come before. Each attempt means that another one succeeded.
const ATTEMPTS: usize = 8;

/// A state whose secrets are sealed.
#[derive(Debug)]
pub(super) struct Sealed {
    state: Arc<dyn Backend>,
    settings: config::State,
    /// Empty while a full disk has no room for a new key.
    keys: OnceCell<Keys>,
    /// How often a secret of each kind could not be opened, in the order of [`Kind::ALL`].
    closed: [AtomicU64; Kind::ALL.len()],
}

impl Sealed {
    /// Seals the secrets of a backend with the keys of the settings, and begins to seal those that it has. A file
    /// without keys in the settings gets one beside it.
    ///
    /// Fails if a key cannot be read or made. A full disk does not fail this.
    pub(super) async fn open(
        state: Arc<dyn Backend>,
        settings: &config::State,
    ) -> Result<Arc<Self>, Error> {
        let sealed = Arc::new(Self {
            state,
            settings: settings.clone(),
            keys: OnceCell::new(),
            closed: Default::default(),
        });
        match sealed.keys().await {
            Ok(_) | Err(Error::Full) => {}
            Err(error) => return Err(error),
        }
        tokio::spawn(pass::follow(Arc::downgrade(&sealed)));
        Ok(sealed)
    }

    /// Returns the keys. Makes one now if there was no room for it.
    async fn keys(&self) -> Result<&Keys, Error> {
        self.keys.get_or_try_init(async || load(&self.settings, sqlite::make_key)).await
    }

    /// Returns a secret, or `None` if no key opens it. Plain text of an earlier version is sealed.
    ///
    /// An old key stays until the next pass. Otherwise replicas with the same keys in another order would undo what
    /// the others do.
    async fn read(&self, keys: &Keys, place: Place<'_>, form: &Secret) -> Option<Secret> {
        let opened = keys.open(place, form);
        if let Opened::Plain(_) = opened {
            self.seal_read(keys, &place.stored(form)).await;
        }
        self.without_closed(place.kind, opened)
    }

    /// Returns a secret, or `None` if no key opens it.
    fn open_only(&self, keys: &Keys, place: Place<'_>, form: &Secret) -> Option<Secret> {
        self.without_closed(place.kind, keys.open(place, form))
    }

    /// Returns the secret, or counts and logs that no key opens it.
    fn without_closed(&self, kind: Kind, opened: Opened) -> Option<Secret> {
        let (key, why) = match opened {
            Opened::Current(secret) | Opened::Plain(secret) | Opened::Old(secret) => {
                return Some(secret);
            }
            Opened::Closed { key, why } => (key, why),
        };
        self.closed[kind as usize].fetch_add(1, Ordering::Relaxed);
        let what = kind.name();
        let line = "failed to open a secret of the state";
        if let Some(unlogged) = telemetry::may_log(line, &format!("{what} {key} {why}")) {
            tracing::error!(
                what,
                key,
                why,
                unlogged,
                "failed to open a secret of the state; the gateway gets another one from WeChat"
            );
        }
        None
    }

    /// Seals plain text that was read. A failure does no harm: the next read tries again.
    async fn seal_read(&self, keys: &Keys, secret: &StoredSecret) {
        if let Err(error) = self.renew(keys, secret).await {
            tracing::debug!("failed to seal a secret of the state: {error}");
        }
    }

    /// Stores a secret in its present form. Returns true if it had another one.
    async fn renew(&self, keys: &Keys, secret: &StoredSecret) -> Result<bool, Error> {
        let StoredSecret { column, platform, app_id, form } = secret;
        let form = match column {
            SecretColumn::Record => {
                let (record, opened) = self.open_record(keys, platform, app_id, form);
                match opened {
                    Some(Opened::Plain(_) | Opened::Old(_)) => {
                        seal_record(keys, platform, app_id, &record)?
                    }
                    _ => return Ok(false),
                }
            }
            column => {
                let place = Place::of(*column, platform, app_id);
                // A text that is not UTF-8 is damaged, and the row counts as damaged elsewhere.
                let Ok(text) = String::from_utf8(form.clone()) else { return Ok(false) };
                match keys.open(place, &text.into()) {
                    Opened::Current(_) => return Ok(false),
                    Opened::Plain(opened) | Opened::Old(opened) => {
                        keys.seal(place, &opened)?.expose().into()
                    }
                    closed => {
                        self.without_closed(place.kind, closed);
                        return Ok(false);
                    }
                }
            }
        };
        self.state.replace_form(secret, &form).await
    }

    /// Returns an authorizer with its secrets opened.
    fn open_authorizer(&self, keys: &Keys, stored: &Authorizer) -> Authorizer {
        let Authorizer { platform, app_id, refresh_token, record, .. } = stored;
        let place = Place::of_authorizer(Kind::RefreshToken, platform, app_id);
        let refresh_token = refresh_token.as_ref();
        let refresh_token = refresh_token.and_then(|form| self.open_only(keys, place, form));
        let (record, _) = self.open_record(keys, platform, app_id, record);
        Authorizer { refresh_token, record, ..stored.clone() }
    }

    /// Returns an authorizer's record with its code opened, and the code, if there is one. A code that no key opens is
    /// left out, and stays as it is stored.
    fn open_record(
        &self,
        keys: &Keys,
        platform: &AppId,
        app_id: &AppId,
        stored: &[u8],
    ) -> (Vec<u8>, Option<Opened>) {
        let place = Place::of_authorizer(Kind::AuthorizationCode, platform, app_id);
        let Some((mut record, form)) = code(stored) else { return (stored.to_owned(), None) };
        let opened = keys.open(place, &form);
        let code = self.without_closed(place.kind, opened.clone());
        record.authorization_code = code.map_or_else(String::new, |code| code.expose().to_owned());
        (record.encode_to_vec(), Some(opened))
    }
}

/// Returns an authorizer with its secrets sealed.
fn seal_authorizer(keys: &Keys, authorizer: &Authorizer) -> Result<Authorizer, Error> {
    let Authorizer { platform, app_id, refresh_token, record, .. } = authorizer;
    let place = Place::of_authorizer(Kind::RefreshToken, platform, app_id);
    let refresh_token =
        refresh_token.as_ref().map(|secret| keys.seal(place, secret)).transpose()?;
    let record = seal_record(keys, platform, app_id, record)?;
    Ok(Authorizer { refresh_token, record, ..authorizer.clone() })
}

/// Returns an authorizer's record with its code sealed.
fn seal_record(
    keys: &Keys,
    platform: &AppId,
    app_id: &AppId,
    record: &[u8],
) -> Result<Vec<u8>, Error> {
    let place = Place::of_authorizer(Kind::AuthorizationCode, platform, app_id);
    let Some((mut message, secret)) = code(record) else { return Ok(record.to_owned()) };
    message.authorization_code = keys.seal(place, &secret)?.expose().to_owned();
    Ok(message.encode_to_vec())
}

/// Returns a record that has a code, and the code.
fn code(record: &[u8]) -> Option<(AuthorizerRecord, Secret)> {
    let record = AuthorizerRecord::decode(record).ok()?;
    let code = record.authorization_code.clone();
    (!code.is_empty()).then(|| (record, code.into()))
}

/// Returns the secrets of a platform that were read past a state, opened.
pub(super) fn open_peeked(
    settings: &config::State,
    platform: &AppId,
    stored: Peeked,
) -> Result<Peeked, Error> {
    let Peeked { ticket, token, .. } = stored;
    if ticket.is_none() && token.is_none() {
        return Ok(Peeked::default());
    }
    let keys = load(settings, |_| Ok(None))?;
    let mut has_closed = false;
    let mut open = |place, form: Secret| match keys.open(place, &form) {
        Opened::Current(secret) | Opened::Plain(secret) | Opened::Old(secret) => Some(secret),
        Opened::Closed { .. } => {
            has_closed = true;
            None
        }
    };
    let ticket = ticket.and_then(|ticket| {
        let value = open(Place::ticket(platform), ticket.value)?;
        Some(Ticket { value, ..ticket })
    });
    let token = token.and_then(|form| open(Place::token(platform), form));
    Ok(Peeked { ticket, token, has_closed })
}

/// Returns the keys of the settings, and the one beside the file of the state. If there is none, `make` can make one.
fn load(
    settings: &config::State,
    make: impl FnOnce(&Path) -> Result<Option<Secret>, Error>,
) -> Result<Keys, Error> {
    let config::State { url, plain_secrets, keys, .. } = settings;
    let unusable = |error: io::Error| Error::Unusable(format!("state.keys: {error}"));
    let read = keys.iter().map(|source| source.read().map_err(unusable));
    let mut texts = read.collect::<Result<Vec<_>, _>>()?;
    if let StateUrl::Sqlite(path) = url {
        // Beside keys of the settings, it still opens what it sealed before they had any.
        texts.extend(match sqlite::read_key(path)? {
            None if texts.is_empty() && !plain_secrets => make(path)?,
            found => found,
        });
    }
    let secrets = texts.iter().map(|text| {
        let unknown = || Error::Unusable("state.keys: not 32 bytes in base64".to_owned());
        parse_state_key(text).ok_or_else(unknown)
    });
    let secrets = secrets.collect::<Result<Vec<Zeroizing<[u8; STATE_KEY_BYTES]>>, _>>()?;
    Keys::new(&secrets, *plain_secrets)
}

/// Returns the error of a change that other processes came before too often.
fn overtaken() -> Error {
    Error::Unusable("other processes changed the same secret at the same time".to_owned())
}

#[tonic::async_trait]
impl Tokens for Sealed {
    async fn token(&self, app_id: &AppId) -> Result<Option<SharedToken>, Error> {
        let keys = self.keys().await?;
        let Some(stored) = self.state.token(app_id).await? else { return Ok(None) };
        let value = self.read(keys, Place::token(app_id), &stored.value).await;
        Ok(value.map(|value| SharedToken { value, ..stored }))
    }

    async fn put_token(
        &self,
        app_id: &AppId,
        before: u64,
        value: &Secret,
        life: Duration,
    ) -> Result<SharedToken, Error> {
        let (keys, place) = (self.keys().await?, Place::token(app_id));
        for _ in 0..ATTEMPTS {
            let stored = self.state.token(app_id).await?;
            let opened = stored.as_ref().map(|stored| (stored, keys.open(place, &stored.value)));
            let (before, form) = match opened {
                // The same form does not count as a new token.
                Some((stored, Opened::Current(known) | Opened::Old(known))) if known == *value => {
                    (before, stored.value.clone())
                }
                Some((stored, Opened::Plain(known))) if known == *value => {
                    self.renew(keys, &place.stored(&stored.value)).await?;
                    continue;
                }
                // It counts as absent, so any token replaces it.
                Some((stored, Opened::Closed { .. })) => {
                    (stored.generation, keys.seal(place, value)?)
                }
                Some(_) | None => (before, keys.seal(place, value)?),
            };
            let put = self.state.put_token(app_id, before, &form, life).await?;
            if put.value == form {
                return Ok(SharedToken { value: value.clone(), ..put });
            }
            if let Some(value) = self.open_only(keys, place, &put.value) {
                return Ok(SharedToken { value, ..put });
            }
        }
        Err(overtaken())
    }

    async fn drop_token(&self, app_id: &AppId) -> Result<(), Error> {
        self.state.drop_token(app_id).await
    }

    async fn spend(&self, counter: &str, limit: u32, window: Duration) -> Result<bool, Error> {
        self.state.spend(counter, limit, window).await
    }

    async fn refund(&self, counter: &str) -> Result<(), Error> {
        self.state.refund(counter).await
    }
}

#[tonic::async_trait]
impl Platforms for Sealed {
    async fn put_ticket(
        &self,
        platform: &AppId,
        ticket: &Secret,
        sent_at: u64,
    ) -> Result<bool, Error> {
        let form = self.keys().await?.seal(Place::ticket(platform), ticket)?;
        self.state.put_ticket(platform, &form, sent_at).await
    }

    async fn ticket(&self, platform: &AppId) -> Result<Option<Ticket>, Error> {
        let keys = self.keys().await?;
        let Some(stored) = self.state.ticket(platform).await? else { return Ok(None) };
        let value = self.read(keys, Place::ticket(platform), &stored.value).await;
        Ok(value.map(|value| Ticket { value, ..stored }))
    }

    async fn put_authorizer(&self, authorizer: &Authorizer, only_new: bool) -> Result<bool, Error> {
        let (keys, new) = (self.keys().await?, authorizer.tidy());
        let stored = match self.state.authorizer(&new.platform, &new.app_id).await {
            Err(Error::Unreadable(_)) => None,
            stored => stored?,
        };
        let same = stored.filter(|stored| self.open_authorizer(keys, stored) == new);
        let form = same.map_or_else(|| seal_authorizer(keys, &new), Ok)?;
        self.state.put_authorizer(&form, only_new).await
    }

    async fn authorizer(
        &self,
        platform: &AppId,
        app_id: &AppId,
    ) -> Result<Option<Authorizer>, Error> {
        let keys = self.keys().await?;
        let Some(stored) = self.state.authorizer(platform, app_id).await? else { return Ok(None) };
        let place = Place::of_authorizer(Kind::RefreshToken, platform, app_id);
        let refresh_token = match &stored.refresh_token {
            Some(form) => self.read(keys, place, form).await,
            None => None,
        };
        let (record, code) = self.open_record(keys, platform, app_id, &stored.record);
        if let Some(Opened::Plain(_)) = code {
            let (column, form) = (SecretColumn::Record, stored.record);
            let (platform, app_id) = (platform.clone(), app_id.clone());
            self.seal_read(keys, &StoredSecret { column, platform, app_id, form }).await;
        }
        Ok(Some(Authorizer { refresh_token, record, ..stored }))
    }

    async fn replace_refresh_token(
        &self,
        platform: &AppId,
        app_id: &AppId,
        before: Option<&Secret>,
        value: &Secret,
    ) -> Result<bool, Error> {
        let keys = self.keys().await?;
        let place = Place::of_authorizer(Kind::RefreshToken, platform, app_id);
        for _ in 0..ATTEMPTS {
            let stored = self.state.authorizer(platform, app_id).await?;
            let Some(stored) = stored.filter(|stored| stored.authorized) else { return Ok(false) };
            let form = stored.refresh_token.as_ref();
            let known = form.and_then(|form| self.open_only(keys, place, form));
            if known.as_ref() == Some(value) {
                return Ok(true);
            }
            if known.as_ref() != before || value.expose().is_empty() {
                return Ok(false);
            }
            let new = keys.seal(place, value)?;
            if self.state.replace_refresh_token(platform, app_id, form, &new).await? {
                return Ok(true);
            }
        }
        Err(overtaken())
    }

    async fn describe_authorizer(
        &self,
        platform: &AppId,
        app_id: &AppId,
        changed_at: u64,
        record: &[u8],
    ) -> Result<bool, Error> {
        let record = seal_record(self.keys().await?, platform, app_id, record)?;
        self.state.describe_authorizer(platform, app_id, changed_at, &record).await
    }

    async fn authorizers(
        &self,
        platform: &AppId,
        after: Option<&AppId>,
        most: usize,
    ) -> Result<Vec<Authorizer>, Error> {
        let keys = self.keys().await?;
        let stored = self.state.authorizers(platform, after, most).await?;
        Ok(stored.iter().map(|stored| self.open_authorizer(keys, stored)).collect())
    }
}

#[tonic::async_trait]
impl State for Sealed {
    async fn prune(&self, age: Duration) -> Result<u64, Error> {
        self.state.prune(age).await
    }

    async fn probe(&self) -> Result<(), Error> {
        self.state.probe().await
    }

    fn closed_secrets(&self) -> Vec<(&'static str, u64)> {
        let counts = self.closed.iter().map(|count| count.load(Ordering::Relaxed));
        Kind::ALL.iter().map(|kind| kind.name()).zip(counts).collect()
    }
}

// Nothing below has a secret.

#[tonic::async_trait]
impl Events for Sealed {
    async fn append(&self, event: NewEvent) -> Result<Appended, Error> {
        self.state.append(event).await
    }

    async fn events(&self, query: EventQuery) -> Result<EventPage, Error> {
        self.state.events(query).await
    }

    async fn newer(&self, position: u64) -> Result<Option<Segment>, Error> {
        self.state.newer(position).await
    }

    async fn log(&self) -> Result<Log, Error> {
        self.state.log().await
    }
}

#[tonic::async_trait]
impl Submissions for Sealed {
    async fn remember(&self, submission: NewSubmission) -> Result<(), Error> {
        self.state.remember(submission).await
    }

    async fn submission(&self, submission_id: &str) -> Result<Option<Submission>, Error> {
        self.state.submission(submission_id).await
    }

    async fn pictures(&self, app_id: &AppId, poi_id: &PoiId) -> Result<Option<Submission>, Error> {
        self.state.pictures(app_id, poi_id).await
    }

    async fn submissions(&self, query: SubmissionQuery) -> Result<SubmissionPage, Error> {
        self.state.submissions(query).await
    }

    async fn take_due(&self, again: Duration, limit: usize) -> Result<Vec<Submission>, Error> {
        self.state.take_due(again, limit).await
    }
}

#[tonic::async_trait]
impl Writes for Sealed {
    async fn begin(&self, write: NewWrite, term: Duration) -> Result<Begun, Error> {
        self.state.begin(write, term).await
    }

    async fn sent(
        &self,
        write_id: &str,
        fence: u64,
        by: Duration,
        record: Bytes,
    ) -> Result<bool, Error> {
        self.state.sent(write_id, fence, by, record).await
    }

    async fn ended(&self, write_id: &str, fence: u64, outcome: Outcome) -> Result<(), Error> {
        self.state.ended(write_id, fence, outcome).await
    }

    async fn write(&self, write_id: &str) -> Result<Option<Write>, Error> {
        self.state.write(write_id).await
    }

    async fn writes(&self, query: WriteQuery) -> Result<WritePage, Error> {
        self.state.writes(query).await
    }

    async fn resolve(&self, write_id: &str, outcome: Outcome) -> Result<Option<Write>, Error> {
        self.state.resolve(write_id, outcome).await
    }
}

#[tonic::async_trait]
impl Leases for Sealed {
    async fn acquire(&self, name: &str, term: Duration) -> Result<Acquired, Error> {
        self.state.acquire(name, term).await
    }

    async fn renew(&self, name: &str, fence: u64, term: Duration) -> Result<bool, Error> {
        Leases::renew(&*self.state, name, fence, term).await
    }

    async fn free(&self, name: &str, fence: u64, rest: Duration) -> Result<(), Error> {
        self.state.free(name, fence, rest).await
    }
}
