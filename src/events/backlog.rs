//! The work of an account that is not finished: open submissions, and writes with an unknown outcome.

use super::{Audits, Error};
use crate::{
    pb::{AccountBacklog, AuditState},
    state::{SubmissionQuery, WriteQuery, WriteState},
    util::{id::AppId, scope::Scope},
};

/// The highest count, as `proto/` states.
const MOST: usize = 10_000;
/// The rows that are read at a time.
const ROWS: usize = 1_000;

impl Audits {
    /// Returns the unfinished work of an account.
    ///
    /// Fails if the state cannot be read.
    pub(crate) async fn backlog(&self, app_id: &AppId) -> Result<AccountBacklog, Error> {
        let mut backlog = AccountBacklog::default();
        let (mut open, mut overdue) = (0, 0);
        let mut query = SubmissionQuery {
            limit: ROWS,
            accounts: Scope::one(app_id.clone()),
            states: vec![AuditState::AwaitingAdmin, AuditState::InReview],
            ..SubmissionQuery::default()
        };
        while open < MOST {
            let (submissions, _, next) = self.submissions(query.clone()).await?;
            if let (0, Some(oldest)) = (open, submissions.first()) {
                backlog.oldest_submission_id.clone_from(&oldest.submission_id);
                backlog.oldest_submission_time = oldest.create_time;
            }
            open += submissions.len();
            overdue += submissions.iter().filter(|submission| submission.overdue).count();
            let Some(next) = next else { break };
            query.after = next;
        }
        backlog.open_submission_count = count(open);
        backlog.overdue_submission_count = count(overdue);
        backlog.unknown_write_count = count(self.unknown_writes(app_id).await?);
        Ok(backlog)
    }

    /// Returns the number of writes whose outcome is unknown.
    async fn unknown_writes(&self, app_id: &AppId) -> Result<usize, Error> {
        let mut unknown = 0;
        let mut query = WriteQuery {
            limit: ROWS,
            accounts: Scope::one(app_id.clone()),
            states: vec![WriteState::Unknown],
            ..WriteQuery::default()
        };
        while unknown < MOST {
            let page = self.0.state.writes(query.clone()).await?;
            unknown += page.writes.len();
            if page.at_end {
                break;
            }
            query.after = page.seen;
        }
        Ok(unknown)
    }
}

fn count(number: usize) -> i32 {
    number.min(MOST).try_into().unwrap_or(i32::MAX)
}
