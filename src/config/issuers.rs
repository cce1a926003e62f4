//! `[[issuers]]`: the issuers whose JWTs prove the identity of a caller.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::{
    CaFile, Callers, ConfigErrors, Environment, JwtSubject, SecretSource,
    callback::without_secrets,
    secret::{RawSecret, resolve},
    wechat::{has_credentials, is_loopback},
};

/// One section of `[[issuers]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Issuer {
    /// The `iss` of its tokens, character by character.
    pub issuer: String,
    /// The audiences that this gateway is. A token must name one of them.
    pub audiences: Vec<String>,
    /// The place of its public keys.
    pub jwks: Jwks,
}

/// The place of an issuer's public keys, a JSON Web Key Set. It serializes as it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Jwks {
    /// A file. A change of it counts at once.
    File {
        /// The path of the file.
        file: PathBuf,
    },
    /// A URL, which is fetched again regularly.
    Url {
        /// The address.
        #[serde(serialize_with = "without_secrets")]
        url: Url,
        /// Certificate authorities that are trusted in addition to the system's.
        #[serde(skip_serializing_if = "Option::is_none")]
        ca: Option<CaFile>,
        /// The bearer token for this address.
        #[serde(skip_serializing_if = "Option::is_none")]
        bearer: Option<SecretSource>,
    },
}

/// An issuer as it stands in the file.
#[derive(Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[cfg_attr(test, schemars(extend("required" = ["issuer", "audiences", "jwks"])))]
pub(super) struct RawIssuer {
    /// The `iss` of its tokens, character by character.
    issuer: String,
    /// A token must name one of these audiences.
    audiences: Vec<String>,
    /// The public keys: `file` or `url`.
    jwks: Option<RawJwks>,
}

/// The place of an issuer's public keys, a JSON Web Key Set.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct RawJwks {
    /// The path of a file.
    file: Option<PathBuf>,
    /// The address, instead of a file.
    url: Option<String>,
    /// Certificate authorities for the URL that are trusted in addition to the system's.
    ca: Option<PathBuf>,
    /// The bearer token for the URL.
    bearer: Option<RawSecret>,
}

/// Checks all issuers. The key files of `running`, those of a running gateway, are not checked again.
pub(super) fn check(
    raw: Vec<RawIssuer>,
    running: &[Issuer],
    callers: &Callers,
    environment: &Environment,
    errors: &mut ConfigErrors,
) -> Vec<Issuer> {
    let (mut names, mut issuers) = (HashSet::new(), Vec::new());
    for (index, RawIssuer { issuer, audiences, jwks }) in raw.into_iter().enumerate() {
        let key = |name: &str| format!("issuers[{index}].{name}");
        if issuer.is_empty() {
            errors.add(key("issuer"), "missing; set the `iss` of the issuer's tokens");
        } else if !names.insert(issuer.clone()) {
            errors.add(key("issuer"), format!("duplicate issuer {issuer}; remove one of the two"));
        }
        if audiences.is_empty() || audiences.iter().any(String::is_empty) {
            errors.add(
                key("audiences"),
                "must have at least one audience, and no empty one; otherwise a token for another \
                 service would count here",
            );
        }
        if let Some(jwks) = check_jwks(jwks, running, environment, &key("jwks"), errors) {
            issuers.push(Issuer { issuer, audiences, jwks });
        }
    }
    let Callers::Known(callers) = callers else { return issuers };
    for (index, caller) in callers.iter().enumerate() {
        for (at, JwtSubject { issuer, .. }) in caller.jwt.iter().enumerate() {
            if !names.contains(issuer) {
                let key = format!("callers[{index}].jwt[{at}].issuer");
                errors.add(
                    key,
                    format!("unknown issuer {issuer}; add an [[issuers]] section for it"),
                );
            }
        }
    }
    issuers
}

/// Checks the place of the keys. Adds an error if it returns `None`.
fn check_jwks(
    raw: Option<RawJwks>,
    running: &[Issuer],
    environment: &Environment,
    key: &str,
    errors: &mut ConfigErrors,
) -> Option<Jwks> {
    let RawJwks { file, url, ca, bearer } = match raw {
        Some(raw) if raw.file.is_some() != raw.url.is_some() => raw,
        _ => {
            errors.add(key, "must be { file = \"PATH\" } or { url = \"https://…\" }");
            return None;
        }
    };
    if let Some(file) = file {
        if ca.is_some() || bearer.is_some() {
            errors.add(key, "ca and bearer are only for a url; remove them");
        }
        let jwks = Jwks::File { file };
        if let Jwks::File { file } = &jwks
            && running.iter().all(|issuer| issuer.jwks != jwks)
            && let Err(problem) = check_file(file)
        {
            errors.add(format!("{key}.file"), format!("{}: {problem}", file.display()));
        }
        return Some(jwks);
    }
    let url = match Url::parse(&url.unwrap_or_default()) {
        Ok(url) if has_credentials(&url) => {
            errors.add(format!("{key}.url"), "has a password in it; use bearer instead");
            return None;
        }
        Ok(url) if url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url)) => url,
        _ => {
            errors.add(
                format!("{key}.url"),
                "must begin with https://; over plain HTTP anyone could replace the keys",
            );
            return None;
        }
    };
    let ca = ca.map(CaFile::from);
    if let Some(file) = &ca
        && let Err(error) = file.read()
    {
        errors.add(format!("{key}.ca"), format!("{file}: {error}"));
    }
    let bearer = match bearer {
        None => None,
        some => Some(resolve(some, environment, &format!("{key}.bearer"), errors)?),
    };
    Some(Jwks::Url { url, ca, bearer })
}

/// Returns what is wrong with a file of keys. Its single keys are not checked: issuers may publish keys that
/// are not for this gateway.
fn check_file(file: &Path) -> Result<(), String> {
    let text = fs::read(file).map_err(|error| error.to_string())?;
    match serde_json::from_slice::<serde_json::Value>(&text) {
        Ok(set) if set["keys"].is_array() => Ok(()),
        _ => Err("not a JSON Web Key Set; must be an object with a list of `keys`".to_owned()),
    }
}
