//! Secrets: written in the file, in an environment variable, or in a file of their own.

use std::{fmt, io, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{ConfigErrors, Environment, invisible};
use crate::util::id::Secret;

/// The text that `check` prints instead of a secret.
const HIDDEN: &str = "[hidden]";

/// The place that a secret is read from. It serializes as it stands in the file, with the secret
/// itself hidden.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum SecretSource {
    /// A file, which is read again whenever the secret is needed.
    File {
        /// The path of the file.
        file: PathBuf,
    },
    /// An environment variable, which was read at the start.
    Env {
        /// The name of the variable.
        env: String,
        /// Its value.
        #[serde(skip)]
        secret: Secret,
    },
    /// The secret itself.
    #[serde(serialize_with = "hidden")]
    Value(Secret),
}

impl SecretSource {
    /// Returns the secret without the line break that editors and secret stores append.
    ///
    /// Returns an error that names the file if the file cannot be read, is empty or contains an
    /// invisible character or a placeholder. A file is empty for a moment while another program
    /// writes it. WeChat refuses a secret with an invisible character.
    pub fn read(&self) -> io::Result<Secret> {
        let path = match self {
            Self::File { file } => file,
            Self::Env { secret, .. } | Self::Value(secret) => return Ok(secret.clone()),
        };
        let wrong = |kind, what: &dyn fmt::Display| {
            io::Error::new(kind, format!("{}: {what}", path.display()))
        };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.kind(), &error))?;
        let invalid = io::ErrorKind::InvalidData;
        match text.trim() {
            "" => Err(wrong(invalid, &"the file is empty")),
            secret => match problem(secret) {
                Some(problem) => Err(wrong(invalid, &problem)),
                None => Ok(secret.to_owned().into()),
            },
        }
    }
}

fn hidden<S: serde::Serializer>(_: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(HIDDEN)
}

/// Returns a description of what is wrong with a secret that is not empty. It does not quote the
/// secret.
fn problem(secret: &str) -> Option<String> {
    if let Some(problem) = invisible::find(secret) {
        return Some(problem);
    }
    let is_placeholder = secret.contains('…')
        || secret == HIDDEN
        || secret.chars().all(|char| matches!(char, '.' | '*'));
    is_placeholder.then(|| "is a placeholder; set the real secret from WeChat's backend".to_owned())
}

/// A secret as it stands in the file.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "must be \"…\", { env = \"NAME\" } or { file = \"PATH\" }")]
pub(super) enum RawSecret {
    /// The secret itself.
    Literal(#[cfg_attr(test, schemars(with = "String"))] Secret),
    /// An environment variable.
    Env {
        /// The name of the variable.
        env: String,
    },
    /// A file, which is read again whenever the secret is needed.
    File {
        /// The path of the file.
        file: PathBuf,
    },
}

/// Returns the place of a secret. Returns `None` and adds an error if there is no secret.
pub(super) fn resolve(
    raw: Option<RawSecret>,
    environment: &Environment,
    key: &str,
    errors: &mut ConfigErrors,
) -> Option<SecretSource> {
    let (secret, variable) = match raw {
        None => {
            errors.add(key, "missing; set { env = \"NAME\" }, { file = \"PATH\" } or the text");
            return None;
        }
        Some(RawSecret::File { file }) => {
            let source = SecretSource::File { file };
            if let Err(error) = source.read() {
                errors.add(key, error.to_string());
            }
            return Some(source);
        }
        Some(RawSecret::Literal(secret)) => (secret, None),
        Some(RawSecret::Env { env }) => match environment.get(&env) {
            Some(secret) => (secret.clone().into(), Some(env)),
            None => {
                errors.add(key, format!("environment variable {env} is not set"));
                return None;
            }
        },
    };
    let secret = secret.expose().trim();
    let what = match &variable {
        Some(env) => format!("environment variable {env}"),
        None => "the secret".to_owned(),
    };
    if secret.is_empty() {
        errors.add(key, format!("{what} is empty"));
    } else if let Some(problem) = problem(secret) {
        errors.add(key, format!("{what} {problem}"));
    }
    let secret = Secret::from(secret.to_owned());
    Some(match variable {
        Some(env) => SecretSource::Env { env, secret },
        None => SecretSource::Value(secret),
    })
}
