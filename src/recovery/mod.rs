//! Determines the outcome of writes with a lost reply, and of reviews without a push.
//!
//! A write is never sent again to find out. Recovery asks WeChat for the effect that the journal expects
//! of the write: when the reply was lost, when the write is repeated, when an event arrives, and from time
//! to time. If WeChat shows the effect, the write was executed. If WeChat does not show it, this proves
//! something only once WeChat cannot execute the write any more. A write that does no harm twice, or that
//! WeChat refuses the second time, then counts as not executed, so that a repeat is sent. The outcome of
//! all others stays unknown. `docs/writes.md` has the table and the reasons.
//!
//! * `pending` recovers writes in the background.
//! * `reviews` polls reviews that are overdue.
//! * `store`, `legacy`, `nearby`, `map_poi` and `merchant` compare what WeChat shows with what was
//!   written, each for its family.
//! * `lists` reads WeChat's lists, `submissions` the other submissions that an effect may belong to.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

pub(crate) use self::{pending::recover_pending, reviews::poll_reviews};
use crate::{
    call::{Calls, Error},
    context::Context,
    journal::{ExpectedEffect, Journal, SubmissionRecord, WriteRecord, replay},
    pb::{self, Recovered},
    state::{self, State, Write, WriteState},
    wechat::{self, Errcode},
};

mod legacy;
mod lists;
mod map_poi;
mod merchant;
mod nearby;
mod pending;
mod reviews;
mod store;
mod submissions;

/// WeChat has no such store, or had one.
const STORE_GONE: [Errcode; 2] = [Errcode(65115), Errcode(65116)];
/// The time limit for all calls about one write or review that no caller waits for.
const TIME_LIMIT: Duration = Duration::from_secs(60);
/// If WeChat could not be asked, a repeat asks again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Recovers writes and polls reviews. Clones are cheap and share everything.
#[derive(Clone, Debug)]
pub(crate) struct Recovery(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    calls: Calls,
    journal: Journal,
    state: Arc<dyn State>,
    lists: lists::Lists,
}

/// The observation of a write at WeChat.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Observation {
    /// It was executed. The journal has its response and its submission now.
    Executed,
    /// It was not executed, or a second execution does no harm: it can be sent again.
    NotExecuted,
    /// WeChat shows neither.
    Inconclusive,
}

/// Whether the outcome of a write is known after [`Recovery::decide`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The journal has it.
    Known,
    /// It is still unknown.
    Unknown {
        /// The time after which a repeat may find out.
        retry: Option<Duration>,
    },
}

/// The effect of a write that was executed, as WeChat shows it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Effect {
    /// WeChat's number of the review. May be empty.
    audit_id: String,
    /// The store or nearby place that came of it. May be empty.
    poi_id: String,
}

/// A write with an unknown outcome, and what is asked about it.
#[derive(Clone, Copy, Debug)]
struct Question<'a> {
    ctx: &'a Context,
    write: &'a Write,
    /// The submission, if WeChat reviews what was written.
    submission: Option<&'a pb::Submission>,
    /// Older replies of WeChat's must not be used.
    asked: Instant,
}

impl<'a> Question<'a> {
    /// Returns the submission of a write that WeChat reviews.
    fn submission(&self) -> Result<&'a pb::Submission, Error> {
        self.submission
            .ok_or_else(|| state::Error::Damaged("a submission is missing".to_owned()).into())
    }
}

impl Recovery {
    /// Asks WeChat through `calls`, and records what it finds in `journal`.
    pub(crate) fn new(calls: Calls, journal: Journal, state: Arc<dyn State>) -> Self {
        Self(Arc::new(Inner { calls, journal, state, lists: lists::Lists::default() }))
    }

    /// Finds out the outcome of a write that is repeated. Waits until WeChat cannot execute the write any
    /// more, if `ctx` leaves time for that.
    ///
    /// Fails when `left` is canceled, or if the state fails.
    pub(crate) async fn decide(
        &self,
        ctx: &Context,
        write: &Write,
        left: &CancellationToken,
    ) -> Result<Decision, Error> {
        let Inner { calls, journal, .. } = &*self.0;
        let clock = calls.clock();
        loop {
            let Some(write) = journal.write(&write.write_id).await? else {
                return Ok(Decision::Known);
            };
            if write.state != WriteState::Unknown {
                return Ok(Decision::Known);
            }
            let recovered = tokio::select! {
                biased;
                () = left.cancelled() => return Err(Error::Deadline),
                recovered = self.recover(ctx, &write, clock.now()) => recovered,
                () = clock.sleep(ctx.wait_limit(clock)) => {
                    return Ok(Decision::Unknown { retry: Some(ASK_AGAIN) });
                }
            };
            match recovered {
                Ok(Observation::Executed) => return Ok(Decision::Known),
                Ok(Observation::NotExecuted) => {
                    journal.close_as_not_executed(&write.write_id).await?;
                    return Ok(Decision::Known);
                }
                Ok(Observation::Inconclusive) => {}
                Err(error) => {
                    let write_id = write.write_id;
                    tracing::warn!(write_id, "failed to query WeChat about a write: {error}");
                    return Ok(Decision::Unknown { retry: Some(ASK_AGAIN) });
                }
            }
            if write.rest.is_zero() {
                return Ok(Decision::Unknown { retry: None });
            }
            if write.rest >= ctx.wait_limit(clock) {
                return Ok(Decision::Unknown { retry: Some(write.rest) });
            }
            // That WeChat shows nothing proves something only after this time.
            left.run_until_cancelled(clock.sleep(write.rest)).await.ok_or(Error::Deadline)?;
        }
    }

    /// Returns the response to a write whose reply was just lost, if WeChat shows at once that it was
    /// executed. Otherwise returns the time after which a repeat may have the response.
    pub(crate) async fn find_response<R: Recovered>(
        &self,
        ctx: &Context,
        write_id: &str,
    ) -> Result<R, Option<Duration>> {
        let Inner { calls, journal, .. } = &*self.0;
        let clock = calls.clock();
        let find = async {
            let Some(write) = journal.write(write_id).await? else { return Ok(Err(None)) };
            if write.state == WriteState::Unknown {
                self.recover(ctx, &write, clock.now()).await?;
            }
            let recovered = journal.write(write_id).await?;
            Ok::<_, Error>(match recovered.and_then(|write| write.reply) {
                Some(reply) => Ok(replay(&reply)?),
                None => Err(Some(write.rest).filter(|rest| !rest.is_zero())),
            })
        };
        let too_late = clock.now() + ctx.wait_limit(clock);
        tokio::select! {
            biased;
            found = find => found.unwrap_or(Err(Some(ASK_AGAIN))),
            () = clock.sleep_until(too_late) => Err(Some(ASK_AGAIN)),
        }
    }

    /// Records what an operator found out about a write. Returns the write as it was before, or `None` if
    /// its outcome was known already.
    pub(crate) async fn resolve(
        &self,
        write: &Write,
        executed: bool,
    ) -> Result<Option<Write>, Error> {
        let journal = &self.0.journal;
        Ok(match executed {
            true => journal.close_as_executed(write, WriteRecord::parse(&write.record)?).await?,
            false => journal.close_as_not_executed(&write.write_id).await?,
        })
    }

    /// Asks WeChat what became of a write with an unknown outcome, and records it if WeChat shows that
    /// the write was executed. Replies from before `asked` are not used.
    ///
    /// Fails if WeChat cannot be asked, or if its answer shows neither.
    async fn recover(
        &self,
        ctx: &Context,
        write: &Write,
        asked: Instant,
    ) -> Result<Observation, Error> {
        let Inner { journal, state, .. } = &*self.0;
        let mut record = WriteRecord::parse(&write.record)?;
        if record.repeatable {
            return Ok(Observation::NotExecuted);
        }
        // The state has a submission only if WeChat accepted it: only the end of the write could not be
        // recorded.
        if let Some(stored) = state.submission(&write.write_id).await? {
            let SubmissionRecord { submission, .. } = SubmissionRecord::parse(&stored.message)?;
            record.submission = Some(submission.into());
            journal.close_as_executed(write, record).await?;
            return Ok(Observation::Executed);
        }
        let Some(expected) = &record.expected_effect else { return Ok(Observation::Inconclusive) };
        let mut ctx = ctx.for_preflight_read();
        write.app_id.as_str().clone_into(&mut ctx.app_id);
        let submission = record.submission.clone().map(pb::Submission::from);
        let question = Question { ctx: &ctx, write, submission: submission.as_ref(), asked };
        match self.observe(question, expected).await? {
            Some(Effect { audit_id, poi_id }) => {
                if let Some(submission) = &mut record.submission {
                    if !audit_id.is_empty() {
                        submission.audit_id = audit_id;
                    }
                    if !poi_id.is_empty() {
                        submission.poi_id = poi_id;
                    }
                }
                journal.close_as_executed(write, record).await?;
                tracing::info!(
                    write_id = write.write_id,
                    method = write.method,
                    "write confirmed at WeChat after its reply was lost"
                );
                Ok(Observation::Executed)
            }
            // The write may still arrive.
            None if !write.rest.is_zero() => Ok(Observation::Inconclusive),
            None if expected.allows_repeat() => Ok(Observation::NotExecuted),
            None => Ok(Observation::Inconclusive),
        }
    }

    /// Returns the effect of a write that was executed, or `None` if WeChat shows that there is no such
    /// effect. Fails if WeChat shows neither, as an incomplete list does.
    async fn observe(
        &self,
        question: Question<'_>,
        expected: &ExpectedEffect,
    ) -> Result<Option<Effect>, Error> {
        let submission = || question.submission();
        match expected {
            ExpectedEffect::NewStore(wanted) => {
                self.new_store(question, submission()?, wanted).await
            }
            ExpectedEffect::StoreValues(values) => self.store_values(question, values).await,
            ExpectedEffect::StoreDeleted(poi_id) => self.store_deleted(question, poi_id).await,
            ExpectedEffect::Migration(poi_id) => {
                self.migration(question, submission()?, poi_id).await
            }
            ExpectedEffect::LegacyStoreDeleted(poi_id) => {
                self.legacy_store_deleted(question, poi_id).await
            }
            ExpectedEffect::NearbyPoi(wanted) => {
                self.nearby_poi(question, submission()?, wanted).await
            }
            ExpectedEffect::NearbyPoiDeleted(poi_id) => {
                self.nearby_poi_deleted(question, poi_id).await
            }
            ExpectedEffect::MapPoiEvent(proposed) => {
                self.map_poi_event(question, submission()?, proposed).await
            }
            ExpectedEffect::MerchantAuditChanged(before) => {
                self.merchant_audit_changed(question, submission()?, before).await
            }
        }
    }
}

/// Returns whether WeChat answered a question about something with the statement that there is none.
fn gone(answer: Option<Error>) -> Result<Option<Effect>, Error> {
    match answer {
        None => Ok(None),
        Some(Error::WeChat { error: wechat::Error::Refused { code, .. }, .. })
            if STORE_GONE.contains(&code) =>
        {
            Ok(Some(Effect::default()))
        }
        Some(error) => Err(error),
    }
}

/// Values for the unit tests of this room.
#[cfg(test)]
mod testing {
    use crate::{
        pb::{AuditState, Submission, SubmissionKind},
        state,
    };

    /// Another submission in this state, with these ids.
    pub(super) fn other(state: AuditState, audit_id: &str, poi_id: &str) -> state::Submission {
        state::Submission {
            number: 1,
            message: Default::default(),
            created: 1_000,
            audit_id: audit_id.to_owned().into(),
            state,
            reason: String::new(),
            poi_id: poi_id.to_owned().into(),
            map_poi_id: Default::default(),
            event_id: String::new(),
            decided: 0,
        }
    }

    /// The submission that is asked about.
    pub(super) fn submission(kind: SubmissionKind, audit_id: &str, poi_id: &str) -> Submission {
        Submission {
            submission_id: "write".to_owned(),
            kind: kind.into(),
            audit_id: audit_id.to_owned(),
            poi_id: if kind == SubmissionKind::NearbyPoi { "" } else { poi_id }.to_owned(),
            nearby_poi_id: if kind == SubmissionKind::NearbyPoi { poi_id } else { "" }.to_owned(),
            ..Submission::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wechat::Safety;

    fn answer(error: wechat::Error) -> Error {
        Error::WeChat { path: "/wxa/get_store_info", safety: Safety::Read, error }
    }

    fn refused(code: i64) -> wechat::Error {
        wechat::Error::Refused { code: Errcode(code), message: String::new() }
    }

    #[test]
    fn only_the_two_documented_refusals_show_a_deletion() {
        assert!(matches!(gone(None), Ok(None)), "it is still there");
        for code in [65115, 65116] {
            let shown = gone(Some(answer(refused(code))));
            assert!(matches!(shown, Ok(Some(effect)) if effect == Effect::default()), "{code}");
        }
        for error in [refused(-1), refused(40001), wechat::Error::Page] {
            assert!(gone(Some(answer(error.clone()))).is_err(), "{error}");
        }
    }
}
