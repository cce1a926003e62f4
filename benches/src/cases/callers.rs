//! Callers that prove who they are, over TLS.

use std::{
    fmt::Write as _,
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use prost::Message;
use ring::{
    digest,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::json;

use crate::{
    cases::reads::{BUSY, compare_all, get_store},
    floor::GET_STORE,
    load::{self, Shape, Token, Way},
    rounds::{self, Bound, Contender, GATEWAY, Report, TWIN},
    world::{Gateway, Identity, Server, Setup, World},
};

/// The gateway without TLS, tokens and limits.
const PLAIN: &str = "gateway, plain";
const JWT: &str = "gateway, JWT";
/// The gateway, which also records and exports a trace of each call.
const TRACED: &str = "gateway, all traced";
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Connections that make one call each.
const ONCE: Shape = Shape::once(200);

/// All that the parts of the case share.
struct Stage<'w> {
    world: &'w World,
    upstream: Server,
    sink: Server,
    identity: Identity,
    issuer: Arc<Issuer>,
}

/// Measures reads with TLS, a token of the caller, and limits.
pub async fn callers(world: &World) -> anyhow::Result<Report> {
    let (upstream, sink) = (world.upstream(Duration::ZERO).await?, world.sink().await?);
    let (identity, issuer) = (world.identity()?, Arc::new(Issuer::new(world)?));
    let stage = Stage { world, upstream, sink, identity, issuer };
    let mut report = Report::new("callers: GetStore, passed on, for callers that are known");
    stage.read(&mut report).await?;
    stage.many(&mut report).await?;
    Ok(report)
}

impl Stage<'_> {
    /// Starts a gateway with TLS and this many callers.
    async fn gateway(&self, name: &str, callers: usize) -> anyhow::Result<Gateway> {
        let more = self.settings(callers, true)?;
        let setup = Setup { twin: name == TWIN, more, ..Setup::default() };
        self.world.gateway(name, &self.upstream, &self.sink, setup).await
    }

    /// Returns the sections of the settings. The limit of a caller's rate is on, and never reached.
    fn settings(&self, callers: usize, tls: bool) -> anyhow::Result<String> {
        let Identity { certificate, key, .. } = &self.identity;
        let mut settings =
            String::from("[limits]\ncaller_rate = 1000000\ncaller_burst = 1000000\n");
        if tls {
            write!(
                settings,
                "[listen.tls]\ncertificate = \"{}\"\nkey = \"{}\"\n",
                certificate.display(),
                key.display()
            )?;
        }
        for number in 0..callers {
            let hash = digest::digest(&digest::SHA256, token(number).as_bytes());
            write!(
                settings,
                "[[callers]]\nname = \"caller-{number}\"\nrole = \"reader\"\ntokens = [\"{}\"]\n\
                 jwt = [{{ issuer = \"{ISSUER}\", subject = \"{}\" }}]\n",
                base16ct::lower::encode_string(hash.as_ref()),
                subject(number),
            )?;
        }
        write!(
            settings,
            "[[issuers]]\nissuer = \"{ISSUER}\"\naudiences = [\"wechat-store-gateway\"]\n\
             jwks = {{ file = \"{}\" }}\n",
            self.issuer.keys.display()
        )?;
        Ok(settings)
    }

    fn way(&self, gateway: &Gateway, token: &str) -> anyhow::Result<Way> {
        Ok(Way {
            authority: Some(self.identity.authority.clone()),
            token: Some(Token::bearer(token)?),
            ..gateway.grpc.into()
        })
    }

    /// Measures many calls on few connections, and one call on each of many connections.
    async fn read(&self, report: &mut Report) -> anyhow::Result<()> {
        let Self { world, upstream, sink, identity, issuer } = self;
        let [first, second] = [self.gateway(GATEWAY, 1).await?, self.gateway(TWIN, 1).await?];
        let more = self.settings(1, true)?;
        let setup = Setup { more, all_traced: true, ..Setup::default() };
        let traced = world.gateway("traced", upstream, sink, setup).await?;
        let plain = world.gateway(PLAIN, upstream, sink, Setup::default()).await?;
        let more = self.settings(1, false)?;
        let setup = Setup { more, ..Setup::default() };
        let known = world.gateway("known", upstream, sink, setup).await?;
        let proxy = world.tls_proxy(upstream, identity).await?;
        let plain_proxy = world.proxy(upstream).await?;
        let bearer = Some(Token::bearer(&token(0))?);
        let jwt = issuer.sign(0, 0)?;
        let bare = |token: &Option<Token>| Way {
            authority: proxy.authority.clone(),
            token: token.clone(),
            ..proxy.address.into()
        };
        let bare_jwt = bare(&Some(Token::bearer(&jwt)?));
        let servers = [
            (GATEWAY, first.process.pid(), self.way(&first, &token(0))?),
            (TWIN, second.process.pid(), self.way(&second, &token(0))?),
            (JWT, first.process.pid(), self.way(&first, &jwt)?),
            (TRACED, traced.process.pid(), self.way(&traced, &token(0))?),
            (PLAIN, plain.process.pid(), plain.grpc.into()),
            ("token, plain", known.process.pid(), Way { token: bearer, ..known.grpc.into() }),
            ("(b)", proxy.process.pid(), bare(&None)),
            ("(b), JWT", proxy.process.pid(), bare_jwt),
            ("(b), plain", plain_proxy.process.pid(), plain_proxy.address.into()),
        ];
        let request = get_store();
        let (measured, _) =
            compare_all(world, upstream, GET_STORE, &request, BUSY, &servers).await?;
        report.say(
            "4 connections with 16 calls each. The gateway with TLS, a bearer token and a limit of the \
             caller's rate; with a JWT instead; with a trace of each call; without all that; and with a token, without TLS. (b) \
             with TLS by tonic; with the JWT as well, which it ignores; and without TLS.",
        );
        report.samples(&measured);
        report.claims(&[
            measured.ratio(GATEWAY, PLAIN, "CPU", |sample| sample.cpu, Bound::AtMost(1.1)),
            measured.ratio(GATEWAY, "(b)", "CPU", |sample| sample.cpu, Bound::AtMost(1.0)),
            measured.ratio(TRACED, "(b)", "CPU", |sample| sample.cpu, Bound::AtMost(1.0)),
            measured.ratio(JWT, "(b), JWT", "CPU", |sample| sample.cpu, Bound::AtMost(1.0)),
            measured.difference(JWT, GATEWAY, "CPU µs", |sample| sample.cpu, Bound::Told),
            measured.difference("(b), JWT", "(b)", "CPU µs", |sample| sample.cpu, Bound::Told),
            measured.ratio("token, plain", PLAIN, "CPU", |sample| sample.cpu, Bound::Told),
            measured.ratio("(b)", "(b), plain", "CPU", |sample| sample.cpu, Bound::Told),
        ]);

        let (measured, _) =
            compare_all(world, upstream, GET_STORE, &request, ONCE, &servers).await?;
        report.say(
            "A connection for each call, 200 at a time: CPU of the connection, of its handshake and of \
             the call.",
        );
        report.samples(&measured);
        report.claims(&[
            measured.difference(GATEWAY, PLAIN, "CPU µs", |sample| sample.cpu, Bound::Told),
            measured.difference("(b)", "(b), plain", "CPU µs", |sample| sample.cpu, Bound::Told),
            measured.ratio(GATEWAY, "(b)", "CPU", |sample| sample.cpu, Bound::AtMost(1.1)),
        ]);
        Ok(())
    }

    /// Measures calls of a few callers and of many, and JWTs that were seen before or not.
    async fn many(&self, report: &mut Report) -> anyhow::Result<()> {
        let Self { world, upstream, issuer, .. } = self;
        let few = 10;
        let all = 10_000;
        // New tokens displace remembered ones, so they get a gateway of their own.
        let [first, second, third, fourth] = [
            self.gateway("few", few).await?,
            self.gateway(TWIN, few).await?,
            self.gateway("all", all).await?,
            self.gateway("new", few).await?,
        ];
        let tokens = |count| (0..count).map(|number| Token::bearer(&token(number)));
        let few_tokens = Arc::new(tokens(few).collect::<anyhow::Result<Vec<_>>>()?);
        let all_tokens = Arc::new(tokens(all).collect::<anyhow::Result<Vec<_>>>()?);
        let jwts = (0..all).map(|number| Token::bearer(&issuer.sign(number, 0)?));
        let all_jwts = Arc::new(jwts.collect::<anyhow::Result<Vec<_>>>()?);
        let (few_name, all_name) = (format!("{all} callers"), format!("{all} JWTs"));
        let servers = [
            (GATEWAY, &first, few_tokens.clone()),
            (TWIN, &second, few_tokens),
            (&*few_name, &third, all_tokens),
            (&*all_name, &third, all_jwts),
        ];
        let others = [upstream.process.pid()];
        let message = Bytes::from(get_store().encode_to_vec());
        let mut contenders = Vec::new();
        for (name, gateway, tokens) in servers {
            let (way, message) = (self.way(gateway, "x")?, message.clone());
            let call = move |number: u64| {
                let number = usize::try_from(number).unwrap_or_default() % tokens.len();
                (message.clone(), tokens.get(number).cloned())
            };
            // Each token is used once.
            load::calls_as(way.clone(), GET_STORE, BUSY, all as u64, call.clone()).await?;
            contenders.push(Contender::new(name, gateway.process.pid(), &others, move |calls| {
                load::calls_as(way.clone(), GET_STORE, BUSY, calls, call.clone())
            }));
        }
        let (way, issuer) = (self.way(&fourth, "x")?, issuer.clone());
        let new = move |_| {
            // Generated like all others, but never the same.
            let token = issuer.sign(0, fastrand::u64(1..)).and_then(|jwt| Token::bearer(&jwt));
            (message.clone(), token.ok())
        };
        contenders.push(Contender::new("new JWTs", fourth.process.pid(), &others, move |calls| {
            load::calls_as(way.clone(), GET_STORE, BUSY, calls, new.clone())
        }));
        let measured = rounds::run(world.rounds, world.seconds, &contenders).await?;
        report.say(&format!(
            "The calls of {few} callers, of {all} callers with a bearer token each, of {all} callers with \
             a JWT each, and calls with a new JWT each (ES256), which the gateway must verify."
        ));
        report.samples(&measured);
        report.claims(&[
            measured.ratio(&few_name, GATEWAY, "CPU", |sample| sample.cpu, Bound::AtMost(1.1)),
            measured.difference(&all_name, &few_name, "CPU µs", |sample| sample.cpu, Bound::Told),
            measured.difference("new JWTs", &all_name, "CPU µs", |sample| sample.cpu, Bound::Told),
        ]);
        Ok(())
    }
}

/// Returns the bearer token of a caller, as long as those of `token new`.
fn token(number: usize) -> String {
    format!("{number:047}")
}

fn subject(number: usize) -> String {
    format!("system:serviceaccount:shop:orders-{number}")
}

/// An issuer of JWTs.
struct Issuer {
    key: EcdsaKeyPair,
    random: SystemRandom,
    /// The file with its public key.
    keys: PathBuf,
    now: u64,
}

impl Issuer {
    fn new(world: &World) -> anyhow::Result<Self> {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let broken = |_| anyhow::anyhow!("no random numbers");
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(broken)?;
        let key = EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random)
            .map_err(|error| anyhow::anyhow!("{error}"))?;
        let (x, y) = key.public_key().as_ref()[1..].split_at(32);
        let jwk = json!({ "kty": "EC", "crv": "P-256", "kid": "a", "alg": "ES256",
            "use": "sig", "x": encode(x), "y": encode(y) });
        let keys = world.folder.join("keys.json");
        fs::write(&keys, json!({ "keys": [jwk] }).to_string())?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("a time before 1970")?;
        Ok(Self { key, random, keys, now: now.as_secs() })
    }

    /// Returns a token of a caller, with the content of those of Kubernetes. `id` makes it differ.
    fn sign(&self, caller: usize, id: u64) -> anyhow::Result<String> {
        let claims = json!({
            "aud": ["wechat-store-gateway"],
            "exp": self.now + 36_000,
            "iat": self.now,
            "iss": ISSUER,
            "jti": format!("5ba2dc4d-6f9d-4a3e-a6b5-{id:016x}"),
            "kubernetes.io": {
                "namespace": "shop",
                "node": { "name": "node-1", "uid": "2b3a0b5e-9f3c-4a0e-8a9a-0f1b2c3d4e5f" },
                "pod": { "name": "orders-7d9c6-x2x4z", "uid": "6fb3a7b4-1c57-4c40-9a55-8e0d1c2b3a4f" },
                "serviceaccount": { "name": "orders", "uid": "9c1f5a3d-77aa-4c55-b7a1-5d4c3b2a1f0e" },
            },
            "nbf": self.now,
            "sub": subject(caller),
        });
        let header = json!({ "alg": "ES256", "kid": "a" });
        let signed = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = self.key.sign(&self.random, signed.as_bytes());
        let signature = signature.map_err(|_| anyhow::anyhow!("no random numbers"))?;
        Ok(format!("{signed}.{}", encode(signature)))
    }
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
