//! The made-up identities of `--secure`: a certificate authority, certificates, and a token for each role.

use std::{
    fmt::Write as _,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};

use crate::cli::{Failure, secret_file, target::Target, token};

/// The callers that prove their identity by a token. Each is named after its role.
pub(super) const ROLES: [&str; 3] = ["reader", "writer", "admin"];
/// The caller that proves its identity by a client certificate. It is a writer.
pub(super) const CERTIFIED: &str = "client";
/// Has a token that the settings do not have.
pub(super) const STRANGER: &str = "stranger";
/// Has no proof of identity.
pub(super) const NONE: &str = "none";
/// The name in the client certificate.
const SPIFFE: &str = "spiffe://sandbox/client";

/// The files of all callers, and the settings that name these callers.
#[derive(Clone, Debug)]
pub(super) struct Identities {
    folder: PathBuf,
    settings: String,
}

impl Identities {
    /// Writes new files into a folder. The server's certificate is for this address and for localhost.
    pub(super) fn create(folder: &Path, grpc: SocketAddr) -> Result<Self, Failure> {
        let files = Self { folder: folder.to_owned(), settings: String::new() };
        files.issue_certificates(grpc).map_err(Failure::new)?;
        let mut settings = format!(
            "client_certificates = \"optional\"\n\
             certificate = {:?}\nkey = {:?}\nclient_ca = {:?}\n",
            files.file("server.pem"),
            files.file("server.key"),
            files.file("ca.pem"),
        );
        for role in ROLES {
            let hash = files.write_token(role)?;
            // Writing to a text does not fail.
            let _ = write!(
                settings,
                "[[callers]]\nname = \"{role}\"\nrole = \"{role}\"\ntokens = [\"{hash}\"]\n"
            );
        }
        let _ = write!(
            settings,
            "[[callers]]\nname = \"{CERTIFIED}\"\nrole = \"writer\"\ncertificates = [\"{SPIFFE}\"]\n"
        );
        files.write_token(STRANGER)?;
        Ok(Self { settings, ..files })
    }

    /// Returns the settings from `[listen.tls]` on.
    pub(super) fn settings(&self) -> &str {
        &self.settings
    }

    /// Returns the folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the gateway as this caller reaches it.
    pub(super) fn target(&self, caller: &str, grpc: SocketAddr) -> Target {
        let (token, certificate) = match caller {
            NONE => (None, None),
            CERTIFIED => (None, Some((self.file("client.pem"), self.file("client.key")))),
            _ => (Some(self.file(&format!("{caller}.token"))), None),
        };
        Target::with_tls(format!("https://{grpc}"), self.file("ca.pem"), token, certificate)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a new token, and returns its hash.
    fn write_token(&self, caller: &str) -> Result<String, Failure> {
        let token = token::random()?;
        let file = self.file(&format!("{caller}.token"));
        secret_file::write(&file, &format!("{}\n", token.expose()))?;
        Ok(token::hash(&token))
    }

    fn issue_certificates(&self, grpc: SocketAddr) -> anyhow::Result<()> {
        let mut params = named("wechat-store-gateway sandbox CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // The CA's key stays in memory.
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        fs::write(self.file("ca.pem"), ca.pem())?;

        let mut params = named("wechat-store-gateway sandbox");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names.push(SanType::DnsName("localhost".try_into()?));
        let mut addresses = vec![[127, 0, 0, 1].into(), grpc.ip()];
        addresses.dedup();
        params.subject_alt_names.extend(addresses.into_iter().map(SanType::IpAddress));
        self.issue("server", params, &ca)?;

        let mut params = named("sandbox client");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names.push(SanType::URI(SPIFFE.try_into()?));
        self.issue("client", params, &ca)
    }

    fn issue(
        &self,
        name: &str,
        mut params: CertificateParams,
        ca: &CertifiedIssuer<'_, KeyPair>,
    ) -> anyhow::Result<()> {
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate: Certificate = params.signed_by(&key, ca)?;
        fs::write(self.file(&format!("{name}.pem")), certificate.pem())?;
        let written: io::Result<()> =
            secret_file::write(&self.file(&format!("{name}.key")), &key.serialize_pem());
        Ok(written?)
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
