//! The report: checks in groups, with stable names for machines.

use serde::Serialize;

/// The results of all checks.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// The gateway itself first, then each platform and each account.
    pub(crate) groups: Vec<Group>,
}

/// The checks of one account or platform, or of the gateway itself.
#[derive(Debug, Serialize)]
pub(crate) struct Group {
    /// The account. `None` for a platform and for the gateway itself.
    pub(crate) account: Option<String>,
    /// The platform.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<String>,
    pub(crate) checks: Vec<Check>,
}

/// The result of one check. No text in it has a secret, a token or a telephone number.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    /// The name of the check, which stays the same in later versions.
    pub(crate) check: &'static str,
    /// The part that was checked, if there are several: a section, a host, an API family.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
    pub(crate) result: Verdict,
    /// The observation.
    pub(crate) found: String,
    /// The next step for the reader. `None` if there is nothing to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<String>,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Ok,
    /// The gateway works, but a person should look at this.
    Warning,
    Failed,
    /// Nothing was checked, because another check failed or the options do not allow it.
    Skipped,
}

impl Report {
    /// Returns the number of checks with this result.
    pub(crate) fn count(&self, result: Verdict) -> usize {
        self.groups
            .iter()
            .flat_map(|group| &group.checks)
            .filter(|one| one.result == result)
            .count()
    }
}

impl Check {
    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, subject: None, result: Verdict::Ok, found: found.into(), next: None }
    }

    pub(super) fn skipped(check: &'static str, found: impl Into<String>) -> Self {
        Self { result: Verdict::Skipped, ..Self::ok(check, found) }
    }

    pub(super) fn warning(
        check: &'static str,
        found: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { result: Verdict::Warning, next: Some(next.into()), ..Self::ok(check, found) }
    }

    pub(crate) fn failed(
        check: &'static str,
        found: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { result: Verdict::Failed, next: Some(next.into()), ..Self::ok(check, found) }
    }

    /// Names the part that was checked.
    pub(crate) fn of(self, subject: impl Into<String>) -> Self {
        Self { subject: Some(subject.into()), ..self }
    }
}
