//! Writes that WeChat reviews: each one is recorded as a submission, to which its event is linked.

use super::{Answer, Begun, Error, Writes};
use crate::{
    accounts::Account,
    call::{self, Sending},
    context::Context,
    journal::{ExpectedEffect, Review, SubmissionRecord, WriteName},
    pb::{self, Recovered},
    translate::ReviewedCall,
    wechat::merchant::GetMerchantAuditInfo,
};

impl Writes {
    /// Runs a call that WeChat reviews, and stores its response for repeats. In addition to
    /// [`Writes::write`], it records the submission, waits in the call's write queue, and reads from WeChat
    /// what recovery must compare with.
    pub(crate) async fn submit<E, R>(
        &self,
        ctx: &Context,
        call: E,
        answer: impl FnOnce(E::Reply, pb::Submission) -> R + Send + 'static,
    ) -> Result<R, Error>
    where
        E: ReviewedCall,
        E::Reply: Default,
        R: Recovered + 'static,
    {
        let account = self.0.calls.account::<E>(ctx).await?;
        let now = self.clock().wall();
        self.detached(ctx, |writes, ctx, left| async move {
            let record = |write_id: &str| {
                let review = call.review(&E::Reply::default());
                let write = name(write_id, &account, &ctx);
                SubmissionRecord::new(review, call.expected_effect(), write, now).into()
            };
            let mut sending = match writes.begin::<E, R>(&account, &ctx, left, Some(record)).await?
            {
                Begun::Answered(response) => return Ok(response),
                Begun::New(sending) => sending,
            };
            let sent = writes.send(&account, &ctx, &call, &mut sending).await;
            let answered = sent.map(|(reply, record)| -> Answer<R> {
                (answer(reply, record.submission.clone()), Some(record))
            });
            writes.end::<E, R>(&ctx, sending, answered).await
        })
        .await
    }

    /// Sends a write that WeChat reviews, in its write queue if it has one. Returns the reply, and what
    /// is recorded of the submission.
    async fn send<E>(
        &self,
        account: &Account,
        ctx: &Context,
        call: &E,
        sending: &mut Sending,
    ) -> Result<(E::Reply, SubmissionRecord), Error>
    where
        E: ReviewedCall,
        E::Reply: Default,
    {
        let calls = &self.0.calls;
        let turn = match E::PACE {
            Some(pace) => {
                // Replicas of earlier versions have this name for the queue, too.
                let queue = format!("lane{}/{}", E::PATH, account.app_id);
                Some(calls.enter_queue::<E>(ctx, queue, pace, &sending.left).await?)
            }
            None => None,
        };
        let effect = self.effect_to_expect(account, ctx, call.expected_effect(), sending).await?;
        let now = self.clock().wall();
        let record = |review: Review, write_id: &str| {
            SubmissionRecord::new(review, effect.clone(), name(write_id, account, ctx), now)
        };
        sending.set_record(|write_id| record(call.review(&E::Reply::default()), write_id).into());
        if let Some(turn) = &turn {
            sending.within(turn);
        }
        let reply = calls.attempts(account, ctx, call, Some(sending)).await;
        if let Some(turn) = turn {
            turn.end(reply.as_ref().is_err_and(call::Error::leaves_doubt)).await;
        }
        let reply = reply?;
        let record = record(call.review(&reply), sending.write_id());
        Ok((reply, record))
    }

    /// Returns the effect by which WeChat shows the write. If that is a change of what WeChat shows now,
    /// reads it first. If the read fails the write is sent nevertheless: an operator can still resolve
    /// it.
    async fn effect_to_expect(
        &self,
        account: &Account,
        ctx: &Context,
        effect: Option<ExpectedEffect>,
        sending: &Sending,
    ) -> Result<Option<ExpectedEffect>, Error> {
        let Some(ExpectedEffect::MerchantAuditChanged(_)) = effect else { return Ok(effect) };
        let ctx = ctx.for_preflight_read();
        let read = self.0.calls.attempts(account, &ctx, &GetMerchantAuditInfo {}, None);
        let shown = sending.left.run_until_cancelled(read).await.ok_or(call::Error::Deadline)?;
        let audit = |shown| pb::GetMerchantAuditResponse::from(shown).into();
        Ok(shown.ok().map(|shown| ExpectedEffect::MerchantAuditChanged(audit(shown))))
    }
}

/// Names the write of the caller that has `ctx`.
pub(super) fn name<'a>(write_id: &'a str, account: &'a Account, ctx: &'a Context) -> WriteName<'a> {
    let Context { request_id, client_reference, trace, .. } = ctx;
    let (caller, app_id) = (ctx.caller().name(), &account.app_id);
    WriteName { write_id, caller, app_id, request_id: *request_id, client_reference, trace }
}
