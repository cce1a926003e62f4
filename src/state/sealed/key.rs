//! Keys, and the form of a sealed secret.
//!
//! The form is the text `sealed:1:KEY:DATA`. KEY is the id of the key. DATA is base64 of a random nonce, the
//! encrypted secret and its tag (AES-256-GCM). The tag also covers the place of the secret, so that a form that is
//! copied to another row does not open.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    aead::{AES_256_GCM, Aad, Algorithm, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    error::Unspecified,
    hkdf::{HKDF_SHA256, KeyType, Salt},
    rand::{SecureRandom, SystemRandom},
};
use zeroize::Zeroizing;

use crate::{
    config::STATE_KEY_BYTES,
    state::{
        Error,
        secret::{SecretColumn, StoredSecret},
    },
    util::id::{AppId, Secret},
};

/// The beginning of every sealed form. WeChat's secrets never begin like this.
const MARK: &str = "sealed:";
/// The version of the form.
const VERSION: &str = "1";

/// The kind of a secret. It is a part of the form, so its name stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Token,
    Ticket,
    RefreshToken,
    AuthorizationCode,
}

impl Kind {
    /// All kinds.
    pub(super) const ALL: [Self; 4] =
        [Self::Token, Self::Ticket, Self::RefreshToken, Self::AuthorizationCode];

    /// Returns its name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Ticket => "ticket",
            Self::RefreshToken => "refresh_token",
            Self::AuthorizationCode => "authorization_code",
        }
    }
}

/// The place of a secret in the state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) kind: Kind,
    /// Empty for a token, whose name has both.
    pub(super) platform: &'a str,
    /// Empty for a ticket.
    pub(super) app_id: &'a str,
}

impl<'a> Place<'a> {
    /// Returns the place of a token.
    pub(super) fn token(name: &'a AppId) -> Self {
        Self { kind: Kind::Token, platform: "", app_id: name.as_str() }
    }

    /// Returns the place of a ticket.
    pub(super) fn ticket(platform: &'a AppId) -> Self {
        Self { kind: Kind::Ticket, platform: platform.as_str(), app_id: "" }
    }

    /// Returns the place of an authorizer's secret.
    pub(super) fn of_authorizer(kind: Kind, platform: &'a AppId, app_id: &'a AppId) -> Self {
        Self { kind, platform: platform.as_str(), app_id: app_id.as_str() }
    }

    /// Returns the place of the secret in a column. The code of a record has the place of [`Kind::AuthorizationCode`].
    pub(super) fn of(column: SecretColumn, platform: &'a AppId, app_id: &'a AppId) -> Self {
        let kind = match column {
            SecretColumn::Token => Kind::Token,
            SecretColumn::Ticket => Kind::Ticket,
            SecretColumn::RefreshToken => Kind::RefreshToken,
            SecretColumn::Record => Kind::AuthorizationCode,
        };
        Self { kind, platform: platform.as_str(), app_id: app_id.as_str() }
    }

    /// Returns the secret of this place as a backend has it.
    pub(super) fn stored(self, form: &Secret) -> StoredSecret {
        let column = match self.kind {
            Kind::Token => SecretColumn::Token,
            Kind::Ticket => SecretColumn::Ticket,
            Kind::RefreshToken => SecretColumn::RefreshToken,
            Kind::AuthorizationCode => SecretColumn::Record,
        };
        let [platform, app_id] = [self.platform, self.app_id].map(|id| id.to_owned().into());
        StoredSecret { column, platform, app_id, form: form.expose().into() }
    }

    /// Returns what the tag covers. No part has a NUL.
    fn name(self) -> String {
        let Self { kind, platform, app_id } = self;
        [kind.name(), platform, app_id].join("\0")
    }
}

/// A stored secret after an attempt to open it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// It has the form in which it would be stored now.
    Current(Secret),
    /// It is plain text and must be sealed.
    Plain(Secret),
    /// It has another key than the first one, or it is sealed and must not be.
    Old(Secret),
    /// It cannot be opened.
    Closed {
        /// The id of its key. Empty if it has none.
        key: String,
        /// The reason.
        why: &'static str,
    },
}

/// The keys of a state.
#[derive(Debug)]
pub(super) struct Keys {
    /// The first one seals.
    keys: Vec<Key>,
    /// True if secrets are stored as plain text.
    plain: bool,
}

impl Keys {
    /// Makes keys. With `plain`, or without keys, nothing is sealed.
    pub(super) fn new(
        secrets: &[Zeroizing<[u8; STATE_KEY_BYTES]>],
        plain: bool,
    ) -> Result<Self, Error> {
        let keys = secrets.iter().map(|secret| Key::new(secret));
        let keys = keys.collect::<Result<Vec<_>, _>>().map_err(|Unspecified| broken())?;
        Ok(Self { plain: plain || keys.is_empty(), keys })
    }

    /// Returns true if secrets are stored as plain text.
    pub(super) fn are_plain(&self) -> bool {
        self.plain
    }

    /// Returns the form in which a secret is stored at a place.
    pub(super) fn seal(&self, place: Place<'_>, secret: &Secret) -> Result<Secret, Error> {
        match self.keys.first().filter(|_| !self.plain) {
            Some(key) => key.seal(place, secret).map_err(|Unspecified| broken()),
            None => Ok(secret.clone()),
        }
    }

    /// Opens the form of a secret at a place.
    pub(super) fn open(&self, place: Place<'_>, form: &Secret) -> Opened {
        let Some(sealed) = form.expose().strip_prefix(MARK) else {
            return match self.plain {
                true => Opened::Current(form.clone()),
                false => Opened::Plain(form.clone()),
            };
        };
        let closed = |key: &str, why| Opened::Closed { key: key.to_owned(), why };
        let mut parts = sealed.splitn(3, ':');
        let (Some(version), Some(id), Some(data)) = (parts.next(), parts.next(), parts.next())
        else {
            return closed("", "it has no known form");
        };
        if version != VERSION {
            return closed(id, "a later version sealed it");
        }
        let Some(at) = self.keys.iter().position(|key| key.id == id) else {
            return closed(id, "there is no such key in state.keys");
        };
        match self.keys[at].open(place, data) {
            Some(secret) if at == 0 && !self.plain => Opened::Current(secret),
            Some(secret) => Opened::Old(secret),
            None => closed(id, "it was changed, or belongs to another row"),
        }
    }
}

/// The library limits the sizes of secrets and keys. None of ours comes near.
fn broken() -> Error {
    Error::Unusable("the secret cannot be sealed".to_owned())
}

/// One key. `Debug` shows only its id.
struct Key {
    id: String,
    cipher: LessSafeKey,
}

/// The bytes of an id.
struct IdLength;

impl KeyType for IdLength {
    fn len(&self) -> usize {
        4
    }
}

impl Key {
    fn new(secret: &[u8; STATE_KEY_BYTES]) -> Result<Self, Unspecified> {
        let derived = Salt::new(HKDF_SHA256, b"wechat-store-gateway state").extract(secret);
        let mut id = [0; 4];
        derived.expand(&[b"id"], IdLength)?.fill(&mut id)?;
        let algorithm: &'static Algorithm = &AES_256_GCM;
        let cipher = UnboundKey::from(derived.expand(&[b"seal 1"], algorithm)?);
        Ok(Self { id: base16ct::lower::encode_string(&id), cipher: LessSafeKey::new(cipher) })
    }

    fn seal(&self, place: Place<'_>, secret: &Secret) -> Result<Secret, Unspecified> {
        // Random nonces are safe for 2^32 secrets. Ten thousand accounts need a century for that.
        let mut data = vec![0; NONCE_LEN];
        SystemRandom::new().fill(&mut data)?;
        let nonce = Nonce::try_assume_unique_for_key(&data)?;
        data.extend_from_slice(secret.expose().as_bytes());
        let aad = Aad::from(place.name());
        let tag = self.cipher.seal_in_place_separate_tag(nonce, aad, &mut data[NONCE_LEN..])?;
        data.extend_from_slice(tag.as_ref());
        Ok(format!("{MARK}{VERSION}:{}:{}", self.id, URL_SAFE_NO_PAD.encode(data)).into())
    }

    fn open(&self, place: Place<'_>, data: &str) -> Option<Secret> {
        let mut data = URL_SAFE_NO_PAD.decode(data).ok()?;
        let (nonce, sealed) = data.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let secret = self.cipher.open_in_place(nonce, Aad::from(place.name()), sealed).ok()?;
        Some(String::from_utf8(secret.to_vec()).ok()?.into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&self.id).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(numbers: &[u8], plain: bool) -> Keys {
        let secrets = numbers.iter().map(|number| Zeroizing::new([*number; STATE_KEY_BYTES]));
        Keys::new(&Vec::from_iter(secrets), plain).expect("keys")
    }

    fn secret(text: &str) -> Secret {
        text.to_owned().into()
    }

    /// Returns the id of the key of a sealed form.
    fn key_id(form: &Secret) -> Option<&str> {
        form.expose().strip_prefix(MARK)?.split(':').nth(1)
    }

    fn places() -> Vec<Place<'static>> {
        let ids = [("", "wx1"), ("wx1", ""), ("wx1", "wx2"), ("wx2", "wx1"), ("wx", "1wx2")];
        let places = Kind::ALL.into_iter().flat_map(|kind| {
            ids.into_iter().map(move |(platform, app_id)| Place { kind, platform, app_id })
        });
        places.collect()
    }

    fn is_closed(opened: &Opened) -> bool {
        matches!(opened, Opened::Closed { .. })
    }

    #[test]
    fn secret_opens_only_at_its_place() {
        let keys = keys(&[1], false);
        for (number, place) in places().into_iter().enumerate() {
            let hush = secret("hush");
            let form = keys.seal(place, &hush).expect("sealed");
            assert!(form.expose().starts_with("sealed:1:") && !form.expose().contains("hush"));
            for (other, there) in places().into_iter().enumerate() {
                let opened = keys.open(there, &form);
                match other == number {
                    true => assert_eq!(opened, Opened::Current(hush.clone())),
                    false => assert!(is_closed(&opened), "{place:?} at {there:?}"),
                }
            }
        }
    }

    #[test]
    fn changed_form_does_not_open() {
        let (keys, place) = (keys(&[1], false), places()[0]);
        let form = keys.seal(place, &secret("hush")).expect("sealed");
        let form = form.expose();
        for at in 0..form.len() {
            let mut changed = form.as_bytes().to_vec();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = secret(&String::from_utf8(changed).expect("ASCII"));
            // Without the mark it is plain text of an earlier version.
            let opened = keys.open(place, &changed);
            assert_eq!(is_closed(&opened), at >= MARK.len(), "{at}: {opened:?}");
        }
        for cut in MARK.len()..form.len() {
            assert!(is_closed(&keys.open(place, &secret(&form[..cut]))), "{cut}");
        }
    }

    #[test]
    fn first_key_seals_and_all_open() {
        let place = places()[0];
        let (one, both) = (keys(&[1], false), keys(&[2, 1], false));
        let (two, plain) = (keys(&[2], false), keys(&[1], true));
        let old = one.seal(place, &secret("hush")).expect("sealed");
        let new = both.seal(place, &secret("hush")).expect("sealed");
        assert_eq!(both.open(place, &old), Opened::Old(secret("hush")));
        assert_eq!(both.open(place, &new), Opened::Current(secret("hush")));
        assert_eq!(two.open(place, &new), Opened::Current(secret("hush")));
        let id = key_id(&old).expect("sealed").to_owned();
        assert_ne!(Some(&*id), key_id(&new));
        let why = "there is no such key in state.keys";
        assert_eq!(two.open(place, &old), Opened::Closed { key: id, why });
        // Without sealing, old forms still open.
        assert_eq!(plain.seal(place, &secret("hush")), Ok(secret("hush")));
        assert_eq!(plain.open(place, &old), Opened::Old(secret("hush")));
        assert_eq!(plain.open(place, &secret("hush")), Opened::Current(secret("hush")));
        assert_eq!(one.open(place, &secret("hush")), Opened::Plain(secret("hush")));
    }

    #[test]
    fn equal_secrets_have_different_forms() {
        let (keys, place) = (keys(&[1], false), places()[0]);
        let [one, two] = [(); 2].map(|()| keys.seal(place, &secret("hush")).expect("sealed"));
        assert_ne!(one, two);
    }

    #[test]
    fn form_of_later_version_is_not_plain() {
        let opened = keys(&[1], false).open(places()[0], &secret("sealed:2:00000000:AAAA"));
        let why = "a later version sealed it";
        assert_eq!(opened, Opened::Closed { key: "00000000".to_owned(), why });
    }

    #[test]
    fn key_is_hidden_in_debug() {
        let shown = format!("{:?}", keys(&[65, 66], false));
        assert!(!shown.contains("65") && !shown.contains("AAAA"), "{shown}");
    }

    /// A form that another program made. Every later build must open it.
    #[test]
    fn form_of_the_first_version_opens() {
        let form = "sealed:1:edf3b42f:AAECAwQFBgcICQoLaHX_Xwt6V0PMvTxdPE8p6OVoBKU";
        let place = Place { kind: Kind::RefreshToken, platform: "wxp", app_id: "wx1" };
        assert_eq!(keys(&[7], false).open(place, &secret(form)), Opened::Current(secret("hush")));
    }
}
