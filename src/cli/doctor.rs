//! `doctor`: checks the settings, this machine and the accounts, and prints the next steps.

use std::fmt::Write as _;

use clap::builder::styling::{AnsiColor, Style};
use serde_json::json;

use super::{Failure, print, settings::Source};
use crate::{
    config::{ConfigError, Environment, Settings},
    doctor::{self, Check, Group, Options, Report, Verdict},
    util::clock::Clock,
};

const EXAMPLES: &str = "\
Only reads are sent to WeChat. A gateway that runs with the same settings is not disturbed.
Exits with 0 if no check failed, and with 1 otherwise. A warning is not a failure.

Examples:
  wechat-store-gateway doctor --config settings.toml
  wechat-store-gateway doctor --config settings.toml --account wx0123456789abcdef --json
  wechat-store-gateway doctor --config settings.toml \\
    --callback-url 'https://gateway.example.com/wechat/callback/{app_id}'";

const GOOD: Style = AnsiColor::Green.on_default();
const DOUBTFUL: Style = AnsiColor::Yellow.on_default().bold();

/// The arguments of `doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Doctor {
    #[command(flatten)]
    settings: Source,
    /// Check only this account or platform [default: all]
    #[arg(long, value_name = "APP_ID")]
    account: Option<String>,
    /// The public URL of the callback; {app_id} stands for the account [default: listen.callback]
    #[arg(long, value_name = "URL")]
    callback_url: Option<String>,
    /// Fetch classic tokens too; this ends the token that other programs use
    #[arg(long)]
    classic_token: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

impl Doctor {
    /// Runs the command.
    pub async fn run(self, environment: &Environment) -> Result<(), Failure> {
        let report = match Settings::parse_usable(&self.settings.text()?, environment) {
            (Some(settings), errors) => self.examine(&settings, &errors).await?,
            (None, errors) => doctor::of_wrong_settings(&errors),
        };
        match self.json {
            true => print::line(to_json(&report))?,
            false => print::styled_line(to_text(&report).trim_end())?,
        }
        match report.count(Verdict::Failed) {
            0 => Ok(()),
            _ => Err(Failure::printed(1)),
        }
    }

    async fn examine(
        &self,
        settings: &Settings,
        errors: &[ConfigError],
    ) -> Result<Report, Failure> {
        // The section of a known account can be one of those that are wrong.
        if let (Some(app_id), []) = (&self.account, errors) {
            let accounts = settings.accounts.iter().map(|one| &one.app_id);
            let platforms = settings.platforms.iter().map(|one| &one.app_id);
            if !accounts.chain(platforms).any(|one| one.as_str() == app_id) {
                let name = self.settings.name();
                return Err(Failure::usage(format_args!(
                    "--account: {name} has no account or platform {app_id:?}"
                )));
            }
        }
        let options = Options {
            account: self.account.clone(),
            callback_url: self.callback_url.clone(),
            classic_token: self.classic_token,
        };
        Ok(doctor::run(settings, errors, &options, &Clock::system()).await)
    }
}

fn to_json(report: &Report) -> String {
    let count = |result| report.count(result);
    let json = json!({
        "failed": count(Verdict::Failed),
        "warnings": count(Verdict::Warning),
        "groups": report.groups,
    });
    format!("{json:#}")
}

fn to_text(report: &Report) -> String {
    let mut text = String::new();
    for Group { account, platform, checks } in &report.groups {
        // Writing into a String cannot fail.
        let _ = match (account, platform) {
            (Some(account), _) => writeln!(text, "{account}"),
            (None, Some(platform)) => writeln!(text, "platform {platform}"),
            (None, None) => writeln!(text, "gateway"),
        };
        for check in checks {
            write_check(&mut text, check);
        }
        text.push('\n');
    }
    let [failed, warnings] = [Verdict::Failed, Verdict::Warning].map(|result| report.count(result));
    let warnings = print::counted(warnings as u64, "warning");
    let _ = writeln!(text, "{failed} failed, {warnings}");
    text
}

fn write_check(text: &mut String, Check { check, subject, result, found, next }: &Check) {
    let (style, result) = match result {
        Verdict::Ok => (GOOD, "ok     "),
        Verdict::Warning => (DOUBTFUL, "warning"),
        Verdict::Failed => (print::BAD, "failed "),
        Verdict::Skipped => (print::DIM, "skipped"),
    };
    let name = match subject {
        Some(subject) => format!("{check} {subject}"),
        None => (*check).to_owned(),
    };
    let (result, found) = (print::paint(style, result), print::without_controls(found));
    let _ = writeln!(text, "  {result}  {}: {found}", print::without_controls(&name));
    if let Some(next) = next {
        let _ = writeln!(text, "           → {}", print::without_controls(next));
    }
}
