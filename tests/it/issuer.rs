//! Issuers of JWTs: private keys, and a server of their public keys. The unit tests of `src/callers/` use this
//! file, too.

use std::sync::{Arc, Mutex};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    rsa,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
        RsaKeyPair,
    },
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// A key of 2048 bits that only these tests use. It is a file because ring cannot make RSA keys.
const RSA_KEY: &[u8] = include_bytes!("../keys/rsa_2048.der");

/// A private key that signs tokens.
pub(crate) struct Signer {
    id: String,
    key: Private,
}

enum Private {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Signer {
    /// Returns the one RSA key of the tests, with this id.
    pub(crate) fn rsa(id: &str) -> Self {
        let key = RsaKeyPair::from_der(RSA_KEY).expect("a key");
        Self { id: id.to_owned(), key: Private::Rsa(key) }
    }

    /// Returns a new key for ES256.
    pub(crate) fn p256(id: &str) -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
        let key = EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).expect("a key");
        Self { id: id.to_owned(), key: Private::P256(key) }
    }

    /// Returns a new key for EdDSA.
    pub(crate) fn ed25519(id: &str) -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        let key = Ed25519KeyPair::from_pkcs8(key.as_ref()).expect("a key");
        Self { id: id.to_owned(), key: Private::Ed25519(key) }
    }

    /// Returns the public key as a JSON Web Key.
    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = match &self.key {
            Private::Rsa(key) => {
                let rsa::PublicKeyComponents::<Vec<u8>> { n, e } = key.public().into();
                json!({ "kty": "RSA", "n": encode(n), "e": encode(e) })
            }
            Private::P256(key) => {
                let (x, y) = key.public_key().as_ref()[1..].split_at(32);
                json!({ "kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y) })
            }
            Private::Ed25519(key) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(key.public_key()) })
            }
        };
        jwk["kid"] = self.id.as_str().into();
        jwk["alg"] = self.algorithm().into();
        jwk["use"] = "sig".into();
        jwk
    }

    /// Returns the header that this key's tokens usually have.
    pub(crate) fn header(&self) -> Value {
        json!({ "alg": self.algorithm(), "kid": self.id, "typ": "JWT" })
    }

    /// Returns a token with these claims.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.sign_with(&self.header(), claims)
    }

    /// Returns a token with this header, whatever the header contains.
    pub(crate) fn sign_with(&self, header: &Value, claims: &Value) -> String {
        self.sign_texts(&header.to_string(), &claims.to_string())
    }

    /// Returns a token with this text as its header and that one as its claims.
    pub(crate) fn sign_texts(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = self.signature(signed.as_bytes());
        format!("{signed}.{}", encode(signature))
    }

    fn algorithm(&self) -> &'static str {
        match self.key {
            Private::Rsa(_) => "RS256",
            Private::P256(_) => "ES256",
            Private::Ed25519(_) => "EdDSA",
        }
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Private::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).expect("signed");
                signature
            }
            Private::P256(key) => key.sign(&random, message).expect("signed").as_ref().to_vec(),
            Private::Ed25519(key) => key.sign(message).as_ref().to_vec(),
        }
    }
}

/// Returns the key set of an issuer with these keys.
pub(crate) fn key_set(signers: &[&Signer]) -> String {
    let keys = signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>();
    json!({ "keys": keys }).to_string()
}

/// Returns bytes in the form that the parts of a token have.
pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A server of key sets. It records the requests.
pub(crate) struct KeyServer {
    pub(crate) url: String,
    answer: watch::Sender<String>,
    requests: Arc<Mutex<Vec<String>>>,
    running: JoinHandle<()>,
}

impl KeyServer {
    /// Starts a server whose set has these keys.
    pub(crate) async fn start(signers: &[&Signer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/jwks", listener.local_addr().expect("bound"));
        let (answer, current) = watch::channel(answer("200 OK", &key_set(signers)));
        let requests = Arc::<Mutex<Vec<_>>>::default();
        let seen = requests.clone();
        let running = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let request = read_request(&mut socket).await;
                seen.lock().expect("no panic").push(request);
                let answer = current.borrow().clone();
                // The client leaves if an answer is too long.
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        });
        Self { url, answer, requests, running }
    }

    /// Replaces the keys.
    pub(crate) fn set_keys(&self, signers: &[&Signer]) {
        self.set_answer(answer("200 OK", &key_set(signers)));
    }

    /// Replaces the whole answer, with its head.
    pub(crate) fn set_answer(&self, answer: String) {
        self.answer.send_replace(answer);
    }

    /// Returns the heads of all requests.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no panic").clone()
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn read_request(socket: &mut TcpStream) -> String {
    let (mut request, mut chunk) = (Vec::new(), [0; 1024]);
    while !request.ends_with(b"\r\n\r\n") {
        let read = socket.read(&mut chunk).await.expect("readable");
        request.extend_from_slice(&chunk[..read]);
    }
    String::from_utf8(request).expect("UTF-8")
}

/// Returns an answer with its head.
pub(crate) fn answer(status: &str, content: &str) -> String {
    let length = content.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{content}")
}
