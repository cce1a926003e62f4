//! Where secrets are: written out, in a variable of the environment, or in a file.

use std::{fmt, io, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{Environment, Mistakes, invisible};
use crate::util::id::Secret;

/// Where a secret is.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretSource {
    /// In a file, which is read again whenever the secret is needed.
    File(PathBuf),
    /// Known.
    #[serde(serialize_with = "hidden")]
    Value(Secret),
}

impl SecretSource {
    /// Returns the secret, without the line's end that editors and secret stores add. Never empty: a
    /// file is, for a moment, while somebody writes it.
    ///
    /// Fails, and names the file, if it cannot be read, is empty, or has a character that no person
    /// sees: WeChat would call such a secret wrong.
    pub fn read(&self) -> io::Result<Secret> {
        let path = match self {
            Self::File(path) => path,
            Self::Value(secret) => return Ok(secret.clone()),
        };
        let wrong = |kind, what: &dyn fmt::Display| {
            io::Error::new(kind, format!("{}: {what}", path.display()))
        };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.kind(), &error))?;
        let invalid = io::ErrorKind::InvalidData;
        match text.trim() {
            "" => Err(wrong(invalid, &"the file is empty")),
            secret => match invisible::found(secret) {
                Some(mistake) => Err(wrong(invalid, &mistake)),
                None => Ok(secret.to_owned().into()),
            },
        }
    }
}

fn hidden<S: serde::Serializer>(_: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("[hidden]")
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "write \"…\", { env = \"NAME\" } or { file = \"PATH\" }")]
pub(super) enum WrittenSecret {
    Literal(Secret),
    Env { env: String },
    File { file: PathBuf },
}

/// Finds what was written; `None` where that is a mistake, which is then noted.
pub(super) fn resolve(
    written: Option<WrittenSecret>,
    environment: &Environment,
    key: &str,
    mistakes: &mut Mistakes,
) -> Option<SecretSource> {
    let secret = match written {
        None => {
            mistakes.add(key, "missing");
            return None;
        }
        Some(WrittenSecret::File { file }) => {
            let source = SecretSource::File(file);
            if let Err(error) = source.read() {
                mistakes.add(key, error.to_string());
            }
            return Some(source);
        }
        Some(WrittenSecret::Literal(secret)) => secret,
        Some(WrittenSecret::Env { env }) => match environment.get(&env) {
            Some(secret) => {
                if let Some(mistake) = invisible::found(secret.trim()) {
                    mistakes.add(key, format!("the environment's {env} {mistake}"));
                }
                secret.clone().into()
            }
            None => {
                mistakes.add(key, format!("the environment has no {env}"));
                return None;
            }
        },
    };
    let secret = secret.expose().trim();
    if secret.is_empty() {
        mistakes.add(key, "empty");
    }
    Some(SecretSource::Value(secret.to_owned().into()))
}
