//! `[listen]`: the addresses that the gateway listens on.

use std::net::{Ipv4Addr, SocketAddr};

use http::HeaderName;
use serde::{Deserialize, Deserializer, Serialize, de::Error};

use super::{Callers, ConfigErrors, TokenService};
use crate::{
    tls::{self, Fault, Files},
    util::clock::Clock,
};

/// `[listen]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// The gRPC address. Port 0 takes any free port.
    #[serde(deserialize_with = "address")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub grpc: SocketAddr,
    /// The HTTP address that receives WeChat's pushes, for accounts with a `callback`.
    #[serde(deserialize_with = "address")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub callback: SocketAddr,
    /// The HTTP address for operators: `/livez`, `/readyz` and `/metrics`.
    #[serde(deserialize_with = "address")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub admin: SocketAddr,
    /// `"behind-a-mesh"` allows gRPC without TLS on a non-loopback address.
    pub plaintext: Option<Plaintext>,
    /// The header in which the mesh sends the caller's identity, such as `x-forwarded-client-cert`. It is
    /// trusted, so the mesh must remove it from what clients send.
    pub mesh_identity_header: Option<String>,
    /// The callers that can use gRPC's reflection service.
    pub reflection: Reflection,
    /// `[listen.tls]`: TLS for gRPC.
    pub tls: Option<Files>,
    /// `[listen.admin_tls]`: TLS for operators.
    pub admin_tls: Option<Files>,
}

/// The reason why the gateway itself does not need to encrypt gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Plaintext {
    /// A service mesh, or a proxy on the same host, provides TLS.
    BehindAMesh,
}

/// The callers that can use gRPC's reflection service, which describes the methods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Reflection {
    /// Every client, also one that is no known caller.
    Anyone,
    /// Every caller.
    #[default]
    Callers,
    /// No caller. The service is not there.
    Off,
}

impl Default for Listen {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            grpc: loopback(50051),
            callback: loopback(8080),
            admin: loopback(9464),
            plaintext: None,
            mesh_identity_header: None,
            reflection: Reflection::default(),
            tls: None,
            admin_tls: None,
        }
    }
}

/// Returns an address to listen on, such as `127.0.0.1:50051`.
///
/// Returns an error for a host name, because it can have several addresses.
pub fn parse_address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| {
        "must be an IP address and a port, such as 127.0.0.1:50051 or [::1]:50051; a host name such \
         as localhost is not accepted"
    })
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    parse_address(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// Checks the section. The files of `running`, the section of a running gateway, are not checked again.
pub(super) fn check(listen: Listen, running: Option<&Listen>, errors: &mut ConfigErrors) -> Listen {
    if !listen.grpc.ip().is_loopback() && listen.plaintext.is_none() && listen.tls.is_none() {
        errors.add(
            "listen.grpc",
            "a non-loopback address would expose plaintext gRPC; add [listen.tls], or, if a mesh or \
             proxy provides TLS, set listen.plaintext = \"behind-a-mesh\"",
        );
    }
    check_tls(&listen, running, errors);
    if let Some(name) = &listen.mesh_identity_header {
        let key = "listen.mesh_identity_header";
        let reserved = ["authorization", "content-type", "te", "grpc-timeout"];
        if listen.plaintext.is_none() {
            errors.add(
                key,
                "requires listen.plaintext = \"behind-a-mesh\"; else any client can set the header",
            );
        } else if listen.mesh_header().is_none_or(|name| reserved.contains(&name.as_str())) {
            errors.add(
                key,
                format!("{name:?} cannot be used; set a header such as x-forwarded-client-cert"),
            );
        }
    }
    listen
}

impl Listen {
    /// Returns the header in which the mesh sends the caller's identity.
    pub fn mesh_header(&self) -> Option<HeaderName> {
        self.mesh_identity_header.as_ref().and_then(|name| name.parse().ok())
    }
}

/// Checks that the address and the callers fit: without a list of callers, only this machine can be allowed
/// to call. A mesh or a proxy brings calls of other machines to a loopback address, too.
pub(super) fn check_exposure(
    listen: &Listen,
    callers: &Callers,
    token_service: &TokenService,
    errors: &mut ConfigErrors,
) {
    if token_service.enabled && matches!(callers, Callers::Anyone) {
        errors.add(
            "token_service.enabled",
            "would give the access tokens to anyone, because callers = \"anyone\"; add [[callers]] sections \
             with the role \"admin\" for the programs that need a token",
        );
    }
    if matches!(callers, Callers::Loopback) {
        let exposed = if !listen.grpc.ip().is_loopback() {
            Some("on a non-loopback address")
        } else if listen.plaintext.is_some() {
            Some("behind a mesh or a proxy (listen.plaintext), also on a loopback address")
        } else {
            None
        };
        if let Some(place) = exposed {
            errors.add(
                "callers",
                format!(
                    "missing; {place}, anyone who reaches it could change every store; add \
                     [[callers]] sections, or set callers = \"anyone\" if the network lets only \
                     trusted programs through"
                ),
            );
        }
    }
    if listen.mesh_identity_header.is_some() && !callers.are_known() {
        errors.add(
            "listen.mesh_identity_header",
            "identifies no caller, because without [[callers]] every caller may do everything; add \
             [[callers]] sections with certificates, or remove the header",
        );
    }
}

/// Adds every problem of the certificate files. A running gateway keeps its last good ones, so a wrong file does
/// not refuse other settings.
fn check_tls(listen: &Listen, running: Option<&Listen>, errors: &mut ConfigErrors) {
    if listen.tls.is_some() && listen.plaintext.is_some() {
        errors.add("listen.plaintext", "contradicts [listen.tls]; remove one of them");
    }
    let used = |section: fn(&Listen) -> &Option<Files>| running.and_then(|it| section(it).as_ref());
    for (section, files, used) in [
        ("listen.tls", &listen.tls, used(|listen| &listen.tls)),
        ("listen.admin_tls", &listen.admin_tls, used(|listen| &listen.admin_tls)),
    ] {
        if files.as_ref() == used {
            continue;
        }
        for Fault { key, message } in
            files.iter().flat_map(|files| tls::check(files, &Clock::system()))
        {
            errors.add(format!("{section}.{key}"), message);
        }
    }
}
