//! JSON Web Tokens (RFC 7519), signed by an issuer of the settings.
//!
//! Everything that needs no signature is checked first, so that a forged token costs little, and the wrong
//! signatures from one address are limited. A token that was verified is remembered by its hash, so that its
//! signature is verified once and not for each call.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::future::join_all;
use moka::{policy::EvictionPolicy, sync::Cache};
use serde::{Deserialize, Deserializer, de};

use super::{
    failures::Failures,
    jwk::{Algorithm, Key, NoKey},
    jwks::Keys,
};
use crate::{config, util::clock::Clock};

/// How far the clocks of an issuer and of this machine may differ, in seconds.
const LEEWAY: u64 = 60;
/// The number of remembered tokens. The token that was used longest ago is forgotten first.
const REMEMBERED: u64 = 16_384;

/// The identity that a token proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verified {
    /// The `iss` of the token.
    pub(crate) issuer: Arc<str>,
    /// The `sub` of the token.
    pub(crate) subject: Arc<str>,
    /// The `aud` of the token.
    audiences: Vec<String>,
    /// The `exp` of the token, in seconds since 1970-01-01 UTC.
    expires: u64,
    /// The key that signed it.
    key: Arc<Key>,
}

/// The reason why a token proves nothing. It contains no part of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// `exp` is over.
    #[error("the token has expired")]
    Expired,
    /// `nbf` or `iat` is in the future.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// `aud` names none of the issuer's audiences.
    #[error("the token is for another audience")]
    WrongAudience,
    /// The settings have no such `iss`.
    #[error("the issuer of the token is unknown")]
    UnknownIssuer,
    /// The issuer has no such key.
    #[error("the key of the token is unknown")]
    UnknownKey,
    /// The keys of the issuer could not be loaded yet.
    #[error("the keys of the issuer are not loaded yet")]
    KeysMissing,
    /// Too many tokens from the same address had a wrong signature, so this one was not examined.
    #[error(
        "too many tokens from this address have a wrong signature; this token was not examined"
    )]
    TooManyForged {
        /// The time until the next one is examined.
        wait: Duration,
    },
    /// Another key signed the token, or its content was changed.
    #[error("the signature of the token is wrong")]
    BadSignature,
    /// It must be RS256, ES256 or EdDSA, and the one of the key.
    #[error("the algorithm of the token is not allowed")]
    AlgorithmNotAllowed,
    /// The token is not a signed JWT, or it has an extension that must be understood.
    #[error("the token is malformed")]
    Malformed,
    /// One of `iss`, `sub`, `aud`, `exp` and `iat` is missing.
    #[error("a claim of the token is missing")]
    ClaimMissing,
}

/// Verifies the tokens of all issuers.
#[derive(Debug)]
pub(crate) struct Issuers {
    issuers: HashMap<Arc<str>, Issuer>,
    clock: Clock,
    remembered: Cache<[u8; 32], Remembered>,
    failures: Arc<Failures>,
    #[cfg(test)]
    signatures: std::sync::atomic::AtomicUsize,
}

#[derive(Debug)]
struct Issuer {
    audiences: Vec<String>,
    keys: Arc<Keys>,
}

/// A token that was verified.
#[derive(Clone, Debug)]
struct Remembered {
    verified: Arc<Verified>,
    keys: Arc<Keys>,
}

impl Issuers {
    /// Starts to load the keys of the issuers. Keys that `old` has from the same place remain.
    pub(crate) fn new(settings: &[config::Issuer], clock: &Clock, old: Option<&Self>) -> Self {
        let issuers = settings.iter().map(|settings| {
            let name = Arc::<str>::from(settings.issuer.as_str());
            let known = old.and_then(|old| old.issuers.get(&name));
            let keys = match known.filter(|known| known.keys.are_of(settings)) {
                Some(known) => known.keys.clone(),
                None => Arc::new(Keys::new(settings, clock)),
            };
            (name, Issuer { audiences: settings.audiences.clone(), keys })
        });
        let failures = match old {
            Some(old) => old.failures.clone(),
            None => Arc::new(Failures::new(clock)),
        };
        Self {
            failures,
            issuers: issuers.collect(),
            clock: clock.clone(),
            remembered: Cache::builder()
                .max_capacity(REMEMBERED)
                .eviction_policy(EvictionPolicy::lru())
                .build(),
            #[cfg(test)]
            signatures: Default::default(),
        }
    }

    /// Waits until the first attempt to load each set of keys has ended, which takes seconds at most.
    pub(crate) async fn loaded(&self) {
        join_all(self.issuers.values().map(|issuer| issuer.keys.loaded())).await;
    }

    /// Returns the identity that a token with this hash proves, or the reason why it proves none. Limits the
    /// wrong signatures from `address`.
    ///
    /// Waits only if the token is signed with a key that is not known yet.
    pub(crate) async fn verify(
        &self,
        token: &str,
        hash: [u8; 32],
        address: IpAddr,
    ) -> Result<Arc<Verified>, Refused> {
        if let Some(known) = self.remembered.get(&hash) {
            if is_over(known.verified.expires, self.clock.unix()) {
                self.remembered.invalidate(&hash);
                return Err(Refused::Expired);
            }
            if known.keys.contain(&known.verified.key) {
                return Ok(known.verified);
            }
            self.remembered.invalidate(&hash);
        }
        let parts = Parts::split(token)?;
        let claims = parts.claims()?;
        let (name, issuer) =
            self.issuers.get_key_value(&*claims.iss).ok_or(Refused::UnknownIssuer)?;
        claims.check(&issuer.audiences, self.clock.unix())?;
        let keys = &issuer.keys;
        let key = keys.find(parts.key_id.as_deref(), parts.algorithm).await;
        let key = key.map_err(|why| match why {
            NoKey::OtherAlgorithm => Refused::AlgorithmNotAllowed,
            NoKey::Unknown if keys.are_missing() => Refused::KeysMissing,
            NoKey::Unknown => Refused::UnknownKey,
        })?;
        self.failures.check(address).map_err(|wait| Refused::TooManyForged { wait })?;
        #[cfg(test)]
        self.signatures.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if !key.has_signed(parts.signed.as_bytes(), &parts.signature) {
            self.failures.count(address);
            return Err(Refused::BadSignature);
        }
        let verified = Arc::new(Verified {
            issuer: name.clone(),
            subject: claims.sub.into(),
            audiences: claims.aud,
            expires: claims.exp,
            key,
        });
        let known = Remembered { verified: verified.clone(), keys: keys.clone() };
        self.remembered.insert(hash, known);
        Ok(verified)
    }

    /// Returns the reason why a token that was verified earlier no longer counts.
    ///
    /// If the keys of its issuer are not loaded yet, the token counts.
    pub(crate) fn check(&self, verified: &Verified) -> Result<(), Refused> {
        let issuer = self.issuers.get(&verified.issuer).ok_or(Refused::UnknownIssuer)?;
        if !verified.audiences.iter().any(|one| issuer.audiences.contains(one)) {
            return Err(Refused::WrongAudience);
        }
        if is_over(verified.expires, self.clock.unix()) {
            return Err(Refused::Expired);
        }
        match issuer.keys.contain(&verified.key) || issuer.keys.are_missing() {
            true => Ok(()),
            false => Err(Refused::UnknownKey),
        }
    }
}

/// A token whose header was checked.
struct Parts<'token> {
    algorithm: Algorithm,
    key_id: Option<String>,
    /// The part that is signed.
    signed: &'token str,
    payload: &'token str,
    signature: Vec<u8>,
}

/// The members of a header that count. All others are ignored, especially those that name or contain a
/// key.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<de::IgnoredAny>,
}

impl<'token> Parts<'token> {
    /// Splits a token in the compact form, and checks its header.
    fn split(token: &'token str) -> Result<Self, Refused> {
        let (signed, signature) = token.rsplit_once('.').ok_or(Refused::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(Refused::Malformed)?;
        let Header { alg, kid: key_id, crit } = decode_json(header)?;
        let algorithm = Algorithm::named(&alg).ok_or(Refused::AlgorithmNotAllowed)?;
        if crit.is_some() {
            return Err(Refused::Malformed);
        }
        let signature = decode(signature)?;
        Ok(Self { algorithm, key_id, signed, payload, signature })
    }

    /// Returns the claims, of which none is verified yet.
    fn claims(&self) -> Result<Claims, Refused> {
        let RawClaims { iss, sub, aud, exp, nbf, iat } = decode_json(self.payload)?;
        let sub = sub.filter(|sub| !sub.is_empty());
        let (Some(iss), Some(sub), Some(aud), Some(exp), Some(iat)) = (iss, sub, aud, exp, iat)
        else {
            return Err(Refused::ClaimMissing);
        };
        Ok(Claims { iss, sub, aud: aud.0, exp: exp.0, nbf: nbf.map(|nbf| nbf.0), iat: iat.0 })
    }
}

/// Decodes a part. It must have no padding and no other character.
fn decode(part: &str) -> Result<Vec<u8>, Refused> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Refused::Malformed)
}

fn decode_json<T: de::DeserializeOwned>(part: &str) -> Result<T, Refused> {
    serde_json::from_slice(&decode(part)?).map_err(|_| Refused::Malformed)
}

/// The claims of a token that count.
struct Claims {
    iss: String,
    sub: String,
    aud: Vec<String>,
    exp: u64,
    nbf: Option<u64>,
    iat: u64,
}

impl Claims {
    /// Checks every claim except `iss`.
    fn check(&self, audiences: &[String], now: u64) -> Result<(), Refused> {
        if !self.aud.iter().any(|one| audiences.contains(one)) {
            return Err(Refused::WrongAudience);
        }
        if is_over(self.exp, now) {
            return Err(Refused::Expired);
        }
        let latest = now.saturating_add(LEEWAY);
        match self.iat > latest || self.nbf.is_some_and(|nbf| nbf > latest) {
            true => Err(Refused::NotYetValid),
            false => Ok(()),
        }
    }
}

/// Returns true if a token with this `exp` is not valid any more.
fn is_over(exp: u64, now: u64) -> bool {
    now >= exp.saturating_add(LEEWAY)
}

#[derive(Deserialize)]
struct RawClaims {
    iss: Option<String>,
    sub: Option<String>,
    aud: Option<Audience>,
    exp: Option<NumericDate>,
    nbf: Option<NumericDate>,
    iat: Option<NumericDate>,
}

/// A text or a list of texts.
struct Audience(Vec<String>);

impl<'de> Deserialize<'de> for Audience {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            One(String),
            Several(Vec<String>),
        }
        Ok(match Form::deserialize(deserializer)? {
            Form::One(one) => Self(vec![one]),
            Form::Several(several) => Self(several),
        })
    }
}

/// Seconds since 1970-01-01 UTC. The standard allows a fraction, which is dropped.
struct NumericDate(u64);

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        match seconds >= 0.0 {
            // A number that is too large becomes the largest one.
            true => Ok(Self(seconds as u64)),
            false => Err(de::Error::custom("before 1970")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::Ordering, time::Duration};

    use ring::hmac;
    use serde_json::{Value, json};
    use sha2::{Digest, Sha256};
    use tempfile::TempDir;

    use super::*;
    use crate::callers::issuer::{Signer, encode, key_set};

    const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
    const SUBJECT: &str = "system:serviceaccount:shop:orders";

    /// Issuers with one whose keys are in a file.
    struct Fixture {
        issuers: Issuers,
        clock: Clock,
        folder: TempDir,
    }

    /// Verifies a token of which the wrong signatures do not count together.
    async fn verify(issuers: &Issuers, token: &str) -> Result<Arc<Verified>, Refused> {
        let address = std::net::Ipv6Addr::from_bits(fastrand::u128(..));
        issuers.verify(token, Sha256::digest(token).into(), address.into()).await
    }

    impl Fixture {
        async fn new(signers: &[&Signer]) -> Self {
            let (folder, clock) = (tempfile::tempdir().expect("a folder"), Clock::frozen());
            let file = folder.path().join("jwks.json");
            std::fs::write(&file, key_set(signers)).expect("a file");
            let settings = config::Issuer {
                issuer: ISSUER.to_owned(),
                audiences: ["wechat-store-gateway", "gateway"].map(str::to_owned).to_vec(),
                jwks: config::Jwks::File { file },
            };
            let issuers = Issuers::new(&[settings], &clock, None);
            issuers.loaded().await;
            Self { issuers, clock, folder }
        }

        /// Returns the claims of a valid token, as Kubernetes issues it.
        fn claims(&self) -> Value {
            let now = self.clock.unix();
            json!({
                "aud": ["wechat-store-gateway"],
                "exp": now + 3600,
                "iat": now,
                "iss": ISSUER,
                "jti": "5ba2dc4d-6f9d-4a3e-a6b5-0f1b2c3d4e5f",
                "kubernetes.io": {
                    "namespace": "shop",
                    "serviceaccount": { "name": "orders", "uid": "c1d2" },
                },
                "nbf": now,
                "sub": SUBJECT,
            })
        }

        /// Returns the claims of a valid token, except for one. Without a value the claim is missing.
        fn claims_but(&self, claim: &str, value: impl Into<Option<Value>>) -> Value {
            let mut claims = self.claims();
            match value.into() {
                Some(value) => claims[claim] = value,
                None => drop(claims.as_object_mut().expect("an object").remove(claim)),
            }
            claims
        }

        async fn refusal(&self, token: &str) -> Option<Refused> {
            verify(&self.issuers, token).await.err()
        }

        /// Replaces the keys, and waits until `token` is verified or refused as expected.
        async fn rotate(&self, signers: &[&Signer], token: &str, expected: Option<Refused>) {
            std::fs::write(self.folder.path().join("jwks.json"), key_set(signers)).expect("a file");
            let waiting = async {
                while self.refusal(token).await != expected {
                    self.clock.advance(Duration::from_secs(1));
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let limit = Duration::from_secs(30);
            tokio::time::timeout(limit, waiting).await.expect("the new keys count in time");
        }

        fn signatures(&self) -> usize {
            self.issuers.signatures.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn token_of_each_algorithm_is_verified() {
        let signers = [Signer::rsa("a"), Signer::p256("b"), Signer::ed25519("c")];
        let fixture = Fixture::new(&signers.each_ref()).await;
        for signer in &signers {
            let token = signer.sign(&fixture.claims());
            let verified = verify(&fixture.issuers, &token).await.expect("valid");
            assert_eq!((&*verified.issuer, &*verified.subject), (ISSUER, SUBJECT));
            assert_eq!(verified.expires, fixture.clock.unix() + 3600);
        }
    }

    #[tokio::test]
    async fn unusual_valid_token_is_verified() {
        let signer = Signer::p256("a");
        let fixture = Fixture::new(&[&signer]).await;
        let now = fixture.clock.unix();
        let mut claims = vec![
            fixture.claims_but("aud", json!("gateway")),
            fixture.claims_but("aud", json!(["other", "gateway"])),
            fixture.claims_but("exp", json!(now as f64 + 5.5)),
            fixture.claims_but("exp", json!(1e300)),
            fixture.claims_but("nbf", None),
            // The clocks differ by as much as is allowed.
            fixture.claims_but("exp", json!(now - LEEWAY + 1)),
            fixture.claims_but("nbf", json!(now + LEEWAY)),
            fixture.claims_but("iat", json!(now + LEEWAY)),
        ];
        for claims in &claims {
            assert_eq!(fixture.refusal(&signer.sign(claims)).await, None, "{claims}");
        }
        let claims = claims.remove(0);
        for header in [
            json!({ "alg": "ES256" }),
            json!({ "alg": "ES256", "kid": "a", "typ": "at+jwt" }),
            json!({ "alg": "ES256", "kid": "a", "jku": "https://attacker.example/jwks.json" }),
        ] {
            let token = signer.sign_with(&header, &claims);
            assert_eq!(fixture.refusal(&token).await, None, "{header}");
        }
    }

    #[tokio::test]
    async fn token_with_wrong_claims_is_refused() {
        use Refused::{
            ClaimMissing, Expired, Malformed, NotYetValid, UnknownIssuer, WrongAudience,
        };
        let signer = Signer::p256("a");
        let fixture = Fixture::new(&[&signer]).await;
        let now = fixture.clock.unix();
        let mut cases = vec![
            ("exp", json!(now - LEEWAY), Expired),
            ("exp", json!(0), Expired),
            ("exp", json!(-1), Malformed),
            ("exp", json!((now + 60).to_string()), Malformed),
            ("nbf", json!(now + LEEWAY + 1), NotYetValid),
            ("nbf", json!("now"), Malformed),
            ("iat", json!(now + LEEWAY + 1), NotYetValid),
            ("iat", json!(true), Malformed),
            ("aud", json!("other"), WrongAudience),
            ("aud", json!("gateway2"), WrongAudience),
            ("aud", json!([]), WrongAudience),
            ("aud", json!(["other", "Gateway"]), WrongAudience),
            ("aud", json!(["gateway", 5]), Malformed),
            ("aud", json!({ "gateway": true }), Malformed),
            ("iss", json!(format!("{ISSUER}/")), UnknownIssuer),
            ("iss", json!(""), UnknownIssuer),
            ("iss", json!([ISSUER]), Malformed),
            ("sub", json!(5), Malformed),
            ("sub", json!([SUBJECT]), Malformed),
            ("sub", json!(""), ClaimMissing),
        ];
        cases.extend(
            ["iss", "sub", "aud", "exp", "iat"].map(|claim| (claim, Value::Null, ClaimMissing)),
        );
        for (claim, value, expected) in cases {
            let token = signer.sign(&fixture.claims_but(claim, value.clone()));
            assert_eq!(fixture.refusal(&token).await, Some(expected), "{claim} = {value}");
        }
        for claim in ["iss", "sub", "aud", "exp", "iat"] {
            let token = signer.sign(&fixture.claims_but(claim, None));
            assert_eq!(fixture.refusal(&token).await, Some(ClaimMissing), "no {claim}");
        }
        let twice = fixture.claims().to_string().replacen('{', r#"{"sub":"root","#, 1);
        let token = signer.sign_texts(&signer.header().to_string(), &twice);
        assert_eq!(fixture.refusal(&token).await, Some(Malformed), "two subjects");
        assert_eq!(fixture.signatures(), 0, "a signature costs more than all of these checks");
    }

    #[tokio::test]
    async fn token_with_another_algorithm_is_refused() {
        let (rsa, p256) = (Signer::rsa("rsa"), Signer::p256("p256"));
        let fixture = Fixture::new(&[&rsa, &p256]).await;
        let claims = fixture.claims();
        let mut tokens = Vec::new();
        for alg in ["none", "None", "", "HS256", "RS384", "RS512", "PS256", "ES384", "es256"] {
            tokens.push(rsa.sign_with(&json!({ "alg": alg, "kid": "rsa" }), &claims));
        }
        // Without a signature, as the algorithm `none` has it.
        let header = encode(json!({ "alg": "none" }).to_string());
        tokens.push(format!("{header}.{}.", encode(claims.to_string())));
        // Key confusion: the public key as the secret of an HMAC.
        let jwk = rsa.jwk();
        let modulus = URL_SAFE_NO_PAD.decode(jwk["n"].as_str().expect("text")).expect("bytes");
        for secret in [jwk.to_string().as_bytes(), key_set(&[&rsa]).as_bytes(), &modulus] {
            let header = encode(json!({ "alg": "HS256", "kid": "rsa" }).to_string());
            let signed = format!("{header}.{}", encode(claims.to_string()));
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
            tokens.push(format!("{signed}.{}", encode(hmac::sign(&key, signed.as_bytes()))));
        }
        // The algorithm of another key.
        for (signer, alg, kid) in [
            (&rsa, "RS256", "p256"),
            (&rsa, "ES256", "rsa"),
            (&p256, "ES256", "rsa"),
            (&p256, "RS256", "p256"),
            (&p256, "EdDSA", "p256"),
        ] {
            tokens.push(signer.sign_with(&json!({ "alg": alg, "kid": kid }), &claims));
        }
        for (at, token) in tokens.iter().enumerate() {
            let refusal = fixture.refusal(token).await;
            assert_eq!(refusal, Some(Refused::AlgorithmNotAllowed), "token {at}");
        }
        assert_eq!(fixture.signatures(), 0);
    }

    #[tokio::test]
    async fn forged_token_is_refused() {
        use Refused::{BadSignature, UnknownKey};
        let (signer, forger) = (Signer::p256("a"), Signer::p256("a"));
        let rsa = Signer::rsa("rsa");
        let fixture = Fixture::new(&[&signer, &rsa]).await;
        let claims = fixture.claims();
        let token = signer.sign(&claims);
        let (signed, signature) = token.rsplit_once('.').expect("a signature");
        let (header, _) = signed.split_once('.').expect("a header");
        let root = encode(fixture.claims_but("sub", json!("root")).to_string());
        let own_key = json!({ "alg": "ES256", "kid": "a", "jwk": forger.jwk() });
        let bytes = URL_SAFE_NO_PAD.decode(signature).expect("bytes");
        for (why, token, expected) in [
            ("another key with the same id", forger.sign(&claims), BadSignature),
            ("the key is in the header", forger.sign_with(&own_key, &claims), BadSignature),
            ("changed claims", format!("{header}.{root}.{signature}"), BadSignature),
            ("no signature", format!("{signed}."), BadSignature),
            ("half a signature", format!("{signed}.{}", encode(&bytes[..32])), BadSignature),
            ("a signature of zeros", format!("{signed}.{}", encode([0; 64])), BadSignature),
            ("a longer signature", format!("{signed}.{signature}AA"), BadSignature),
            (
                "unknown key",
                signer.sign_with(&json!({ "alg": "ES256", "kid": "b" }), &claims),
                UnknownKey,
            ),
            (
                "key id with other letters",
                signer.sign_with(&json!({ "alg": "ES256", "kid": "A" }), &claims),
                UnknownKey,
            ),
        ] {
            assert_eq!(fixture.refusal(&token).await, Some(expected), "{why}");
        }
        assert_eq!(fixture.refusal(&token).await, None, "the token itself is valid");
    }

    #[tokio::test]
    async fn malformed_token_is_refused() {
        let signer = Signer::p256("a");
        let fixture = Fixture::new(&[&signer]).await;
        let claims = fixture.claims();
        let token = signer.sign(&claims);
        let parts = token.split('.').collect::<Vec<_>>();
        let [header, payload, signature] = parts[..] else { panic!("three parts") };
        let with = |member: &str, value: Value| {
            let mut header = signer.header();
            header[member] = value;
            signer.sign_with(&header, &claims)
        };
        for token in [
            String::new(),
            "..".to_owned(),
            ".".to_owned(),
            "no dots".to_owned(),
            format!("{header}.{payload}"),
            format!("{token}.{signature}"),
            format!("{token}.{signature}.{signature}"),
            format!("{token}="),
            format!(" {token}"),
            format!("{token}\n"),
            format!("{header}.{payload}=.{signature}"),
            format!("{header}.{}.{signature}", encode("not JSON")),
            format!("{header}.{}.{signature}", encode(format!("{claims} ") + "x")),
            signer.sign_texts("[]", &claims.to_string()),
            signer.sign_texts("{}", &claims.to_string()),
            signer.sign_texts(r#"{"alg":"none","alg":"ES256"}"#, &claims.to_string()),
            signer.sign_texts(&signer.header().to_string(), "[]"),
            with("crit", json!(["b64"])),
            with("crit", json!([])),
            with("kid", json!(5)),
            with("alg", json!(["ES256"])),
        ] {
            assert_eq!(fixture.refusal(&token).await, Some(Refused::Malformed), "{token}");
        }
        assert_eq!(fixture.signatures(), 0);
    }

    #[tokio::test]
    async fn token_is_verified_once_until_it_expires() {
        let signer = Signer::rsa("a");
        let fixture = Fixture::new(&[&signer]).await;
        let token = signer.sign(&fixture.claims());
        for _ in 0..100 {
            assert_eq!(fixture.refusal(&token).await, None);
        }
        assert_eq!(fixture.signatures(), 1);
        // A forged token is not remembered, and does not replace the other one.
        let (signed, _) = token.rsplit_once('.').expect("a signature");
        let forged = format!("{signed}.{}", encode([1; 256]));
        for _ in 0..3 {
            assert_eq!(fixture.refusal(&forged).await, Some(Refused::BadSignature));
        }
        assert_eq!(fixture.refusal(&token).await, None);
        let before = fixture.signatures();

        fixture.clock.advance(Duration::from_secs(3600 + LEEWAY - 1));
        assert_eq!(fixture.refusal(&token).await, None);
        fixture.clock.advance(Duration::from_secs(1));
        for _ in 0..2 {
            assert_eq!(fixture.refusal(&token).await, Some(Refused::Expired));
        }
        assert_eq!(fixture.signatures(), before);
    }

    #[tokio::test]
    async fn removed_key_invalidates_its_remembered_tokens_only() {
        let (old, new) = (Signer::p256("old"), Signer::ed25519("new"));
        let fixture = Fixture::new(&[&old]).await;
        let (first, second) = (old.sign(&fixture.claims()), new.sign(&fixture.claims()));
        assert_eq!(fixture.refusal(&first).await, None);
        fixture.rotate(&[&old, &new], &second, None).await;
        assert_eq!(fixture.refusal(&first).await, None);
        fixture.rotate(&[&new], &first, Some(Refused::UnknownKey)).await;
        assert_eq!(fixture.refusal(&second).await, None);
        assert_eq!(fixture.signatures(), 2, "one for each token, in spite of the new key sets");
    }

    #[tokio::test]
    async fn key_replaced_under_its_id_invalidates_tokens() {
        let (old, new) = (Signer::p256("same"), Signer::p256("same"));
        let fixture = Fixture::new(&[&old]).await;
        let token = old.sign(&fixture.claims());
        assert_eq!(fixture.refusal(&token).await, None);
        fixture.rotate(&[&new], &token, Some(Refused::BadSignature)).await;
    }

    #[tokio::test]
    async fn new_settings_keep_keys_of_same_issuer() {
        let signer = Signer::p256("a");
        let fixture = Fixture::new(&[&signer]).await;
        let (token, file) =
            (signer.sign(&fixture.claims()), fixture.folder.path().join("jwks.json"));
        assert_eq!(fixture.refusal(&token).await, None);
        let settings = |audience: &str| config::Issuer {
            issuer: ISSUER.to_owned(),
            audiences: vec![audience.to_owned()],
            jwks: config::Jwks::File { file: file.clone() },
        };
        let (clock, old) = (&fixture.clock, &fixture.issuers);
        let same = Issuers::new(&[settings("wechat-store-gateway")], clock, Some(old));
        assert!(Arc::ptr_eq(&same.issuers[ISSUER].keys, &old.issuers[ISSUER].keys));
        assert!(verify(&same, &token).await.is_ok());
        let other = Issuers::new(&[settings("another")], clock, Some(old));
        assert_eq!(verify(&other, &token).await, Err(Refused::WrongAudience));
        let none = Issuers::new(&[], clock, Some(old));
        assert_eq!(verify(&none, &token).await, Err(Refused::UnknownIssuer));
    }
}
