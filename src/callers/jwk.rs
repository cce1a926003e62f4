//! JSON Web Keys (RFC 7517): the public keys of an issuer, for the algorithms that are allowed.

// Not jsonwebtoken: docs/decisions/0037 has the reasons.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use serde::Deserialize;
use serde_json::value::RawValue;

/// The bits of the shortest and of the longest RSA key that is used.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The algorithms that are allowed. Each has one kind of key, so a token cannot choose how its
/// key is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Es256,
    EdDsa,
}

impl Algorithm {
    /// Returns the algorithm with this name in a header or a key.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            "EdDSA" => Some(Self::EdDsa),
            _ => None,
        }
    }
}

/// A public key of an issuer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key {
    id: Option<String>,
    public: PublicKey,
}

#[derive(Debug, PartialEq, Eq)]
enum PublicKey {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// The reason why a key of a set is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Ignored {
    /// It is for another algorithm or another use. Sets may contain such keys.
    #[error("another kind of key")]
    Kind,
    #[error("an RSA key must have 2048 to 8192 bits")]
    Size,
    #[error("malformed")]
    Malformed,
}

/// A key as it stands in a set. Unknown members are ignored, as the standard demands.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Key {
    /// Parses one key of a set.
    fn parse(json: &str) -> Result<Self, Ignored> {
        let jwk: Jwk = serde_json::from_str(json).map_err(|_| Ignored::Malformed)?;
        let is_for_signatures = jwk.usage.as_ref().is_none_or(|usage| usage == "sig")
            && jwk.key_ops.as_ref().is_none_or(|all| all.iter().any(|one| one == "verify"));
        if !is_for_signatures {
            return Err(Ignored::Kind);
        }
        let public = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => rsa(&bytes(&jwk.n)?, &bytes(&jwk.e)?)?,
            ("EC", Some("P-256")) => p256(&bytes(&jwk.x)?, &bytes(&jwk.y)?)?,
            ("OKP", Some("Ed25519")) => ed25519(bytes(&jwk.x)?)?,
            _ => return Err(Ignored::Kind),
        };
        let key = Self { id: jwk.kid, public };
        match jwk.alg {
            Some(alg) if Algorithm::named(&alg) != Some(key.algorithm()) => Err(Ignored::Kind),
            _ => Ok(key),
        }
    }

    /// Returns the only algorithm that this key is used with.
    fn algorithm(&self) -> Algorithm {
        match self.public {
            PublicKey::Rsa { .. } => Algorithm::Rs256,
            PublicKey::P256(_) => Algorithm::Es256,
            PublicKey::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    /// Returns true if the owner of this key signed the message.
    pub(super) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match &self.public {
            PublicKey::Rsa { n, e } => RsaPublicKeyComponents { n, e }.verify(
                &RSA_PKCS1_2048_8192_SHA256,
                message,
                signature,
            ),
            PublicKey::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            PublicKey::Ed25519(key) => {
                UnparsedPublicKey::new(&ED25519, key).verify(message, signature)
            }
        };
        verified.is_ok()
    }
}

/// Returns the bytes of a member that must be there.
fn bytes(member: &Option<String>) -> Result<Vec<u8>, Ignored> {
    let text = member.as_ref().ok_or(Ignored::Malformed)?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Ignored::Malformed)
}

fn rsa(n: &[u8], e: &[u8]) -> Result<PublicKey, Ignored> {
    // Some issuers send leading zeros, which ring refuses.
    let [n, e] = [n, e].map(|number| {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        number[zeros..].to_vec()
    });
    let first = n.first().ok_or(Ignored::Malformed)?;
    match RSA_BITS.contains(&(n.len() * 8 - first.leading_zeros() as usize)) {
        true => Ok(PublicKey::Rsa { n, e }),
        false => Err(Ignored::Size),
    }
}

fn p256(x: &[u8], y: &[u8]) -> Result<PublicKey, Ignored> {
    match (x.len(), y.len()) {
        (32, 32) => Ok(PublicKey::P256([&[4], x, y].concat())),
        _ => Err(Ignored::Malformed),
    }
}

fn ed25519(x: Vec<u8>) -> Result<PublicKey, Ignored> {
    match x.len() {
        32 => Ok(PublicKey::Ed25519(x)),
        _ => Err(Ignored::Malformed),
    }
}

/// The keys of an issuer.
#[derive(Debug, Default)]
pub(super) struct KeySet(Vec<Arc<Key>>);

/// The reason why no key of a set fits a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// The set has no key with this id. A newer set may have it.
    Unknown,
    /// The key with this id is for another algorithm.
    OtherAlgorithm,
}

impl KeySet {
    /// Parses a set, and returns it with the reasons why some of its keys are not used. A key that
    /// was already in `old` remains the same object.
    ///
    /// Returns an error if the text is not a key set.
    pub(super) fn parse(json: &[u8], old: &Self) -> serde_json::Result<(Self, Vec<Ignored>)> {
        #[derive(Deserialize)]
        struct Raw<'json> {
            #[serde(borrow)]
            keys: Vec<&'json RawValue>,
        }
        let Raw { keys } = serde_json::from_slice(json)?;
        let (mut parsed, mut ignored) = (Vec::with_capacity(keys.len()), Vec::new());
        for key in keys {
            match Key::parse(key.get()) {
                Ok(key) => {
                    let known = old.0.iter().find(|known| ***known == key);
                    parsed.push(known.cloned().unwrap_or_else(|| key.into()));
                }
                Err(reason) => ignored.push(reason),
            }
        }
        Ok((Self(parsed), ignored))
    }

    /// Returns the key with this id, or without an id the only key for this algorithm.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<&Arc<Key>, NoKey> {
        let mut fitting = self.0.iter().filter(|key| key.algorithm() == algorithm);
        let Some(id) = id else {
            return match (fitting.next(), fitting.next()) {
                (Some(only), None) => Ok(only),
                _ => Err(NoKey::Unknown),
            };
        };
        let has_id = |key: &&Arc<Key>| key.id.as_deref() == Some(id);
        fitting.find(has_id).ok_or_else(|| match self.0.iter().any(|key| has_id(&key)) {
            true => NoKey::OtherAlgorithm,
            false => NoKey::Unknown,
        })
    }

    /// Returns true if this key is still in the set.
    pub(super) fn contains(&self, key: &Arc<Key>) -> bool {
        // The pointer first, because it is usually the same.
        self.0.iter().any(|one| Arc::ptr_eq(one, key) || one == key)
    }

    /// Returns the number of keys.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::callers::issuer::{Signer, encode};

    fn parse(key: &Value) -> Result<Key, Ignored> {
        Key::parse(&key.to_string())
    }

    fn set(keys: &[Value]) -> KeySet {
        let json = json!({ "keys": keys }).to_string();
        KeySet::parse(json.as_bytes(), &KeySet::default()).expect("a set").0
    }

    #[test]
    fn key_for_another_purpose_is_ignored() {
        let (rsa, p256) = (Signer::rsa("a").jwk(), Signer::p256("b").jwk());
        let ed25519 = Signer::ed25519("c").jwk();
        for (key, member, value) in [
            (&rsa, "use", json!("enc")),
            (&rsa, "key_ops", json!(["encrypt", "wrapKey"])),
            (&rsa, "alg", json!("RS512")),
            (&rsa, "alg", json!("PS256")),
            (&rsa, "alg", json!("HS256")),
            (&rsa, "kty", json!("oct")),
            (&p256, "crv", json!("P-384")),
            (&p256, "crv", json!("secp256k1")),
            (&p256, "alg", json!("RS256")),
            (&ed25519, "crv", json!("X25519")),
            (&ed25519, "crv", json!("P-256")),
            (&ed25519, "kty", json!("AKP")),
        ] {
            assert!(parse(key).is_ok(), "{key}");
            let mut key = key.clone();
            key[member] = value;
            assert_eq!(parse(&key).expect_err("not used"), Ignored::Kind, "{key}");
        }
        for member in ["alg", "use", "kid"] {
            let mut key = rsa.clone();
            key.as_object_mut().expect("an object").remove(member);
            assert!(parse(&key).is_ok(), "{member} is optional");
        }
    }

    #[test]
    fn damaged_key_is_ignored() {
        let (rsa, p256) = (Signer::rsa("a").jwk(), Signer::p256("b").jwk());
        let ed25519 = Signer::ed25519("c").jwk();
        for (key, member, value) in [
            (&rsa, "n", Value::Null),
            (&rsa, "n", json!("+/+/")),
            (&rsa, "n", json!("")),
            (&rsa, "kid", json!(5)),
            (&p256, "x", json!(encode([1; 31]))),
            (&p256, "y", Value::Null),
            (&ed25519, "x", json!(encode([1; 33]))),
        ] {
            let mut key = key.clone();
            key[member] = value;
            assert_eq!(parse(&key).expect_err("not used"), Ignored::Malformed, "{key}");
        }
    }

    #[test]
    fn rsa_key_of_unusual_size_is_ignored() {
        let mut key = Signer::rsa("a").jwk();
        let modulus = |bits: usize| json!(encode([&[0x80][..], &vec![1; bits / 8 - 1]].concat()));
        for bits in [512, 1024, 2040, 8200] {
            key["n"] = modulus(bits);
            assert_eq!(parse(&key).expect_err("not used"), Ignored::Size, "{bits} bits");
        }
        for bits in [2048, 4096, 8192] {
            key["n"] = modulus(bits);
            assert!(parse(&key).is_ok(), "{bits} bits");
        }
    }

    #[test]
    fn leading_zeros_of_an_rsa_key_are_dropped() {
        let signer = Signer::rsa("a");
        let (plain, mut key) = (parse(&signer.jwk()).expect("a key"), signer.jwk());
        for member in ["n", "e"] {
            let bytes = URL_SAFE_NO_PAD.decode(key[member].as_str().expect("text"));
            key[member] = encode([&[0][..], &bytes.expect("bytes")].concat()).into();
        }
        assert_eq!(parse(&key), Ok(plain));
    }

    #[test]
    fn bad_key_does_not_spoil_its_set() {
        let good = Signer::p256("good");
        let text = json!({ "keys": [5, "no", { "kid": "x" }, { "kty": "future" }, good.jwk()] });
        let (set, ignored) =
            KeySet::parse(text.to_string().as_bytes(), &KeySet::default()).expect("a set");
        assert_eq!(set.len(), 1);
        assert!(set.find(Some("good"), Algorithm::Es256).is_ok());
        assert_eq!(ignored.len(), 4);
    }

    #[test]
    fn text_without_keys_is_not_a_set() {
        for text in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[]"#, "<html>"] {
            assert!(KeySet::parse(text.as_bytes(), &KeySet::default()).is_err(), "{text}");
        }
    }

    #[test]
    fn token_without_id_needs_the_only_key() {
        let (one, two) = (Signer::p256("one").jwk(), Signer::p256("two").jwk());
        let rsa = Signer::rsa("rsa").jwk();
        let alone = set(&[one.clone(), rsa.clone()]);
        assert!(alone.find(None, Algorithm::Es256).is_ok());
        assert!(alone.find(None, Algorithm::Rs256).is_ok());
        assert_eq!(alone.find(None, Algorithm::EdDsa), Err(NoKey::Unknown));
        let several = set(&[one, two, rsa]);
        assert_eq!(several.find(None, Algorithm::Es256), Err(NoKey::Unknown));
    }

    #[test]
    fn shared_id_means_the_key_that_fits() {
        let keys = set(&[Signer::rsa("same").jwk(), Signer::p256("same").jwk()]);
        for algorithm in [Algorithm::Rs256, Algorithm::Es256] {
            assert_eq!(keys.find(Some("same"), algorithm).expect("there").algorithm(), algorithm);
        }
        assert_eq!(keys.find(Some("same"), Algorithm::EdDsa), Err(NoKey::OtherAlgorithm));
        assert_eq!(keys.find(Some("other"), Algorithm::Rs256), Err(NoKey::Unknown));
    }

    #[test]
    fn unchanged_key_remains_the_same_object() {
        let (stays, goes) = (Signer::p256("stays"), Signer::p256("goes"));
        let old = set(&[stays.jwk(), goes.jwk()]);
        // The id remains, but the key behind it is new.
        let text = json!({ "keys": [Signer::p256("goes").jwk(), stays.jwk()] }).to_string();
        let (new, _) = KeySet::parse(text.as_bytes(), &old).expect("a set");
        let key = |id| old.find(Some(id), Algorithm::Es256).expect("there");
        assert!(new.contains(key("stays")));
        assert!(!new.contains(key("goes")));
    }
}
