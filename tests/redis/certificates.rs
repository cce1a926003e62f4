//! Certificates for servers with TLS and for their clients.

use std::{fs, path::PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName,
    ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use tempfile::TempDir;

/// A CA, a certificate of a server on this machine, and one of a client, each in a file.
pub(crate) struct Certificates {
    folder: TempDir,
    /// `yes` if clients need a certificate.
    clients: &'static str,
}

impl Certificates {
    /// Issues new certificates. `mutual` servers accept only clients with a certificate.
    pub(crate) fn new(mutual: bool) -> Self {
        Self::changed(mutual, |_| {})
    }

    /// Issues new certificates after a change of that of the server.
    pub(crate) fn changed(mutual: bool, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let folder = super::folder();
        let write = |name: &str, text: String| {
            fs::write(folder.path().join(name), text).expect("writable");
        };
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let ca = CertifiedIssuer::self_signed(ca, key).expect("a certificate");
        write("ca.pem", ca.pem());
        let issue = |name: &str, mut params: CertificateParams| {
            params.distinguished_name = DistinguishedName::new();
            let key = KeyPair::generate().expect("a key");
            let certificate = params.signed_by(&key, &ca).expect("a certificate");
            write(&format!("{name}.pem"), certificate.pem());
            write(&format!("{name}.key"), key.serialize_pem());
        };
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut server = CertificateParams::new(names).expect("names");
        // A server is a client of its primary, of other sentinels and of other nodes.
        server.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut server);
        issue("server", server);
        let mut client = CertificateParams::new(["gateway".to_owned()]).expect("a name");
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        issue("client", client);
        Self { folder, clients: if mutual { "yes" } else { "no" } }
    }

    /// Returns the path of `ca.pem`, `client.pem`, `client.key`, `server.pem` or `server.key`.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the section `[state.tls]`. If `mutual`, with the certificate of the client.
    pub(crate) fn section(&self, mutual: bool) -> String {
        let path = |name| self.path(name).display().to_string();
        let ca = format!("[state.tls]\nca = \"{}\"\n", path("ca.pem"));
        match mutual {
            false => ca,
            true => {
                let (certificate, key) = (path("client.pem"), path("client.key"));
                format!("{ca}certificate = \"{certificate}\"\nkey = \"{key}\"\n")
            }
        }
    }

    /// Returns the lines of a server that uses TLS on a port, and for its own connections to other servers.
    pub(super) fn settings(&self, port: u16) -> Vec<String> {
        let path = |name| self.path(name).display().to_string();
        vec![
            format!("tls-port {port}"),
            format!("tls-cert-file {}", path("server.pem")),
            format!("tls-key-file {}", path("server.key")),
            format!("tls-ca-cert-file {}", path("ca.pem")),
            format!("tls-auth-clients {}", self.clients),
            "tls-replication yes".to_owned(),
        ]
    }
}
