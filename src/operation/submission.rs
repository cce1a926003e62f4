//! Writes that WeChat reviews: each is remembered, so that the event about it finds it.

use std::time::Duration;

use super::{Error, Operations};
use crate::{
    context::Context,
    id::AppId,
    pb::{self, Settled},
    state::{self, NewSubmission},
    translate::{Remembered, Review, Reviewed},
};

/// Whoever waits for an answer waits no longer for it to be remembered.
const PATIENCE: Duration = Duration::from_secs(1);
/// After the first failure; doubles with each further one up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

impl Operations {
    /// Runs a write that WeChat reviews, as [`Operations::write`] does, and remembers it.
    pub(crate) async fn submit<E: Reviewed, R: Settled + 'static>(
        &self,
        ctx: &Context,
        call: E,
        answer: impl FnOnce(E::Reply, pb::Submission) -> R + Send + 'static,
    ) -> Result<R, Error> {
        self.journaled::<E, _, _>(ctx, |ops, account, ctx, sending| async move {
            let lane = match E::PACE {
                Some(pace) => {
                    let lane = format!("lane{}/{}", E::PATH, account.app_id);
                    Some(ops.enter_lane::<E>(&ctx, lane, pace, &sending.left).await?)
                }
                None => None,
            };
            let reply = ops.attempts(&account, &ctx, &call, Some(&sending)).await;
            if let Some(lane) = lane {
                lane.leave(reply.as_ref().is_err_and(Error::leaves_doubt)).await;
            }
            let reply = reply?;
            let review = call.review(&reply);
            let submission = ops.remember(&account.app_id, &ctx, review).await;
            Ok(answer(reply, submission))
        })
        .await
    }

    /// Remembers what WeChat took. It took it, so that this does not fail: where the state does, it
    /// is tried again, beside the answer, until it works or the process ends.
    pub(super) async fn remember(
        &self,
        app_id: &AppId,
        ctx: &Context,
        review: Review,
    ) -> pb::Submission {
        let remembered = Remembered::new(review, app_id, ctx, self.clock().wall());
        let new = remembered.to_state(self.0.ask_after);
        let remembering = self.0.writes.spawn(self.clone().remembered(new));
        // Whether it ended or not: the caller has what WeChat answered.
        let _ = tokio::time::timeout(PATIENCE, remembering).await;
        remembered.submission
    }

    async fn remembered(self, new: NewSubmission) {
        let mut pause = FIRST_PAUSE;
        while let Err(error) = self.0.state.remember(new.clone()).await {
            if let state::Error::Damaged(_) = error {
                pause = LONGEST_PAUSE;
            }
            tracing::error!(
                submission_id = new.submission_id,
                audit_id = %new.audit_id,
                "WeChat took a submission that cannot be remembered yet: {error}"
            );
            self.clock().sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
