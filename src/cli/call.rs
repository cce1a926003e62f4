//! `call`
use super::*;
/// Calls.
#[derive(Debug, clap::Args)]
pub struct Call {}
impl Call {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        Err(Failure::new("not yet"))
    }
}
