//! `version`: prints the facts about this build.

use serde::Serialize;

use super::{Failure, print};
use crate::util::build_info::{COMMIT, RUSTC, TARGET, VERSION, features};

/// The arguments of `version`.
#[derive(Debug, clap::Args)]
pub struct Version {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The facts, in the order in which they are printed.
#[derive(Serialize)]
struct Facts {
    version: &'static str,
    commit: &'static str,
    target: &'static str,
    rustc: &'static str,
    features: Vec<&'static str>,
}

impl Version {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let facts = Facts {
            version: VERSION,
            commit: COMMIT,
            target: TARGET,
            rustc: RUSTC,
            features: features(),
        };
        if self.json {
            print::line(serde_json::to_string(&facts).map_err(Failure::new)?)?;
            return Ok(());
        }
        let Facts { version, commit, target, rustc, features } = facts;
        let features = features.join(" ");
        print::line(format_args!(
            "wechat-store-gateway {version}\ncommit    {commit}\ntarget    {target}\nrustc     {rustc}\nfeatures  {features}"
        ))?;
        Ok(())
    }
}
