//! `token`: makes bearer tokens for callers, and hashes them for `[[callers]]`.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::Subcommand;
use rustls::crypto::ring;
use sha2::{Digest, Sha256};

use super::{Failure, print, secret_file};
use crate::util::id::Secret;

/// The start of every token, so that scanners of repositories recognize one.
const PREFIX: &str = "wsg_";
/// The random bytes of a token.
const RANDOM: usize = 32;
/// A shorter token could be found from its hash.
const SHORTEST: usize = 32;
/// The gateway accepts no longer token.
const LONGEST: u64 = 8 * 1024;

const EXAMPLES: &str = "\
The settings of the gateway hold only the SHA-256 hash of a token. Give the token itself to the caller,
and to no other program.

Examples:
  wechat-store-gateway token new                    print a token, its hash, and what to paste
  wechat-store-gateway token new --output FILE      write the token to FILE, for --token-file
  wechat-store-gateway token hash < FILE            print the hash of the token in FILE";

/// The arguments of `token`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Token {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a token of 256 random bits
    New {
        /// Write the token to this new file, which only you can read, instead of printing it
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Print the hash of a token
    Hash {
        /// The file with the token; - reads standard input
        #[arg(value_name = "FILE", default_value = "-")]
        file: PathBuf,
    },
}

impl Token {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        match self.action {
            Action::New { output } => new(output.as_deref()),
            Action::Hash { file } => {
                let token = read(&file)?;
                if token.expose().len() < SHORTEST {
                    print::problem(
                        "warning: the token is short, so it could be found from its hash; use \
                         `token new`",
                    );
                }
                Ok(print::line(hash(&token))?)
            }
        }
    }
}

/// Makes a token and prints it with its hash.
fn new(output: Option<&Path>) -> Result<(), Failure> {
    let token = random()?;
    let hash = hash(&token);
    let token_line = match output {
        None => format!("token   {}", token.expose()),
        Some(path) => {
            let written = secret_file::write(path, &format!("{}\n", token.expose()));
            written.map_err(|error| {
                Failure::new(format_args!("--output: failed to write {}: {error}", path.display()))
            })?;
            format!("token   in {}", path.display())
        }
    };
    Ok(print::line(format_args!(
        r#"{token_line}
sha256  {hash}

Paste into the settings, with a name and a role of your choice (reader, writer or admin):
  [[callers]]
  name = "orders"
  role = "reader"
  tokens = ["{hash}"]

The caller sends `authorization: Bearer TOKEN`. `call` reads the token from --token-file FILE, or from the
environment variable WECHAT_STORE_GATEWAY_TOKEN."#
    ))?)
}

/// Returns a new token from the generator of random numbers of the system.
pub(super) fn random() -> Result<Secret, Failure> {
    let mut bytes = [0; RANDOM];
    let filled = ring::default_provider().secure_random.fill(&mut bytes);
    filled.map_err(|_| Failure::new("the system returned no random numbers"))?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)).into())
}

/// Returns the hash as `[[callers]]` has it.
pub(super) fn hash(token: &Secret) -> String {
    base16ct::lower::encode_string(&Sha256::digest(token.expose()))
}

/// Returns the token in a file or in standard input. Errors do not quote it.
fn read(path: &Path) -> Result<Secret, Failure> {
    let wrong = |problem: &dyn std::fmt::Display| {
        let name = if path == Path::new("-") {
            "standard input".into()
        } else {
            path.display().to_string()
        };
        Failure::usage(format_args!("{name}: {problem}"))
    };
    let mut text = String::new();
    let bytes: Box<dyn Read> = match path == Path::new("-") {
        true => Box::new(io::stdin()),
        false => Box::new(fs::File::open(path).map_err(|error| wrong(&error))?),
    };
    bytes.take(LONGEST + 2).read_to_string(&mut text).map_err(|error| wrong(&error))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(wrong(&"there is no token in it"));
    }
    if token.len() as u64 > LONGEST || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong(
            &"not a bearer token; must be one line of visible ASCII without spaces, at most 8 KiB",
        ));
    }
    Ok(token.to_owned().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_that_of_sha256sum() {
        let token = Secret::from("abc".to_owned());
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash(&token), expected);
    }

    #[test]
    fn new_tokens_differ_and_have_256_bits() {
        let [one, two] = [(); 2].map(|()| random().expect("a token"));
        assert_ne!(one, two);
        let random = one.expose().strip_prefix(PREFIX).expect("the prefix");
        assert_eq!(URL_SAFE_NO_PAD.decode(random).expect("base64url").len(), RANDOM);
    }
}
