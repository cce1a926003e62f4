//! `state key`: makes a key for the secrets in the state.

use std::path::PathBuf;

use rustls::crypto::ring;
use zeroize::Zeroizing;

use super::super::{Failure, print, secret_file};
use crate::{
    config::{STATE_KEY_BYTES, state_key_text},
    util::id::Secret,
};

const EXAMPLES: &str = "\
The key seals access tokens, tickets and refresh tokens in the state. Every replica needs the same keys. Give them to
the gateway in a file or an environment variable:
  [state]
  keys = [{ env = \"STATE_KEY\" }]

Examples:
  wechat-store-gateway state key                    print a key
  wechat-store-gateway state key --output FILE      write a key to FILE

To replace a key, see docs/operations.md.";

/// The arguments of `state key`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Key {
    /// Write the key to this new file, which only you can read, instead of printing it
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Key {
    pub(super) fn run(self) -> Result<(), Failure> {
        let key = random()?;
        let Some(path) = self.output else { return Ok(print::line(key.expose())?) };
        let written = secret_file::write(&path, &format!("{}\n", key.expose()));
        written.map_err(|error| {
            Failure::new(format_args!("--output: failed to write {}: {error}", path.display()))
        })
    }
}

/// Returns a new key from the generator of random numbers of the system.
fn random() -> Result<Secret, Failure> {
    let mut bytes = Zeroizing::new([0; STATE_KEY_BYTES]);
    let filled = ring::default_provider().secure_random.fill(&mut *bytes);
    filled.map_err(|_| Failure::new("the system returned no random numbers"))?;
    Ok(state_key_text(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_state_key;

    #[test]
    fn new_keys_differ_and_are_accepted() {
        let [one, two] = [(); 2].map(|()| random().expect("a key"));
        assert_ne!(one, two);
        assert_eq!(parse_state_key(&one).map(|key| state_key_text(&key)), Some(one));
    }
}
