//! Checks whether the gateway can do its work with these settings, from this machine. `doctor` prints it.
//!
//! Nothing here writes at WeChat or into the state, and nothing disturbs a gateway that runs. Each check
//! has a time limit, and all of them run even if one fails.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::timeout;

pub(crate) use self::report::{Check, Group, Report, Verdict};
use crate::{
    config::{ConfigError, Settings},
    util::{clock::Clock, id::AppId},
    wechat::Client,
};

mod account;
mod callback;
mod machine;
mod permission;
mod platform;
mod report;

/// The time limit of one check. It is longer than the limits of the calls in it.
const LIMIT: Duration = Duration::from_secs(20);
/// The number of accounts or platforms that are checked at the same time.
const ACCOUNTS: usize = 4;

/// What the operator allows and names.
#[derive(Debug)]
pub(crate) struct Options {
    /// Only this account or platform.
    pub(crate) account: Option<String>,
    /// The public address of the callback. `{app_id}` stands for the account.
    pub(crate) callback_url: Option<String>,
    /// Whether a classic token may be fetched, which replaces the one of other programs.
    pub(crate) classic_token: bool,
}

/// Returns the report about settings. If these are only the usable part of wrong ones, it has the errors, too.
pub(crate) async fn run(
    settings: &Settings,
    errors: &[ConfigError],
    options: &Options,
    clock: &Clock,
) -> Report {
    let is_meant =
        |app_id: &AppId| options.account.as_deref().is_none_or(|meant| app_id.as_str() == meant);
    let client = Client::new(&settings.wechat, clock, crate::metrics::Metrics::default())
        .map_err(|error| format!("{error:#}"));
    let accounts = settings.accounts.iter().filter(|account| is_meant(&account.app_id));
    let accounts = accounts.map(|account| {
        let client = client.as_ref();
        async move {
            let mut checks = match client {
                Ok(client) => account::check(client, account, options.classic_token, clock).await,
                Err(error) => {
                    vec![Check::failed("secret", error, "check [wechat] in the settings")]
                }
            };
            checks.push(callback::check(settings, account, options, clock).await);
            Group { account: Some(account.app_id.to_string()), platform: None, checks }
        }
    });
    let platforms = settings.platforms.iter().filter(|platform| is_meant(&platform.app_id));
    let platforms = platforms.map(|platform| {
        let client = client.as_ref();
        async move {
            let checks = match client {
                Ok(client) => platform::check(settings, client, platform, clock).await,
                Err(error) => vec![Check::failed("token", error, "check [wechat] in the settings")],
            };
            Group { account: None, platform: Some(platform.app_id.to_string()), checks }
        }
    });
    let (machine, platforms, accounts) = tokio::join!(
        machine::check(settings, clock),
        stream::iter(platforms).buffered(ACCOUNTS).collect::<Vec<_>>(),
        stream::iter(accounts).buffered(ACCOUNTS).collect::<Vec<_>>()
    );
    let mut checks = match errors {
        [] => vec![Check::ok("settings", "no errors, and all secrets are readable")],
        errors => wrong(errors, "correct it; the other checks leave this part of the settings out"),
    };
    checks.extend(machine);
    let mut groups = vec![Group { account: None, platform: None, checks }];
    groups.extend(platforms);
    groups.extend(accounts);
    Report { groups }
}

/// Returns the report about settings of which nothing can be used.
pub(crate) fn of_wrong_settings(errors: &[ConfigError]) -> Report {
    let next = "correct the settings, then run doctor again for the other checks";
    let checks = wrong(errors, next);
    Report { groups: vec![Group { account: None, platform: None, checks }] }
}

/// Returns a failed check for each error of the settings.
fn wrong(errors: &[ConfigError], next: &str) -> Vec<Check> {
    let check = |error: &ConfigError| {
        Check::failed("settings", error.message.clone(), next).of(error.key.clone())
    };
    errors.iter().map(check).collect()
}

/// Returns the check, or a failed one if it took too long.
async fn limited(check: &'static str, run: impl Future<Output = Check>) -> Check {
    let late = |_| {
        let found = format!("no result within {} s", LIMIT.as_secs());
        Check::failed(check, found, "check the network between this machine and the other side")
    };
    timeout(LIMIT, run).await.unwrap_or_else(late)
}
