//! `[activity]`: where the lines about writes go.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::ConfigErrors;

/// `[activity]`
#[derive(Clone, Debug, Default, Serialize)]
pub struct Activity {
    /// The place of the activity log.
    pub log: ActivityTarget,
}

/// The place of the activity log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivityTarget {
    /// `"stderr"`: the normal log.
    #[default]
    Stderr,
    /// A file of its own.
    #[serde(untagged)]
    File(PathBuf),
}

impl fmt::Display for ActivityTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stderr => f.write_str("stderr"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// The section as it stands in the file.
#[derive(Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawActivity {
    /// `stderr` (the normal log), or the absolute path of a file.
    log: Option<String>,
}

pub(super) fn check(raw: RawActivity, errors: &mut ConfigErrors) -> Activity {
    let log = match raw.log.as_deref() {
        None | Some("stderr") => ActivityTarget::Stderr,
        Some(path) => ActivityTarget::File(path.into()),
    };
    if matches!(&log, ActivityTarget::File(path) if !path.is_absolute()) {
        errors.add(
            "activity.log",
            "must be \"stderr\", or the absolute path of a file such as \
             /var/log/wechat-store-gateway/activity.jsonl",
        );
    }
    Activity { log }
}
