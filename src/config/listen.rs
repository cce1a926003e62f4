//! `[listen]`: where callers, WeChat and operators are served.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::Mistakes;

/// `[listen]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// The gRPC address. Port 0 takes any free one.
    pub grpc: SocketAddr,
    /// The HTTP address that WeChat pushes to, for accounts with a `callback`.
    pub callback: SocketAddr,
    /// The HTTP address for operators: `/livez`, `/readyz`.
    pub admin: SocketAddr,
    /// `"behind-a-mesh"` allows gRPC without TLS beyond loopback.
    pub plaintext: Option<Plaintext>,
}

/// Who encrypts instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Plaintext {
    /// A service mesh or a proxy on the same host.
    BehindAMesh,
}

impl Default for Listen {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            grpc: loopback(50051),
            callback: loopback(8080),
            admin: loopback(9464),
            plaintext: None,
        }
    }
}

pub(super) fn check(listen: Listen, mistakes: &mut Mistakes) -> Listen {
    if !listen.grpc.ip().is_loopback() && listen.plaintext.is_none() {
        mistakes.add(
            "listen.grpc",
            "beyond loopback callers would speak without TLS; if a mesh or proxy encrypts, say \
             plaintext = \"behind-a-mesh\"",
        );
    }
    listen
}
