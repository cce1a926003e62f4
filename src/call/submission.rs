//! Writes that WeChat reviews: each is remembered, so that the event about it finds it.

use tokio_util::sync::CancellationToken;

use super::{Error, Operations};
use crate::{
    context::Context,
    pb::{self, Recovered},
    translate::{Evidence, Remembered, Reviewed, for_caller},
    util::id::AppId,
    wechat::merchant::GetMerchantAuditInfo,
};

impl Operations {
    /// Runs a write that WeChat reviews, as [`Operations::write`] does, and remembers it.
    pub(crate) async fn submit<E, R>(
        &self,
        ctx: &Context,
        call: E,
        answer: impl FnOnce(E::Reply, pb::Submission) -> R + Send + 'static,
    ) -> Result<R, Error>
    where
        E: Reviewed,
        E::Reply: Default,
        R: Recovered + 'static,
    {
        let (evidence, now) = (call.evidence(), self.clock().wall());
        let (review, known) = (call.review(&E::Reply::default()), evidence.clone());
        let sought = move |ctx: &Context, app_id: &AppId, write_id: &str| {
            Remembered::new(review, known, write_id, app_id, ctx, now).into()
        };
        self.journaled::<E, _, _>(ctx, Some(sought), move |ops, account, ctx, sending| async move {
            let lane = match E::PACE {
                Some(pace) => {
                    let lane = format!("lane{}/{}", E::PATH, account.app_id);
                    Some(ops.enter_lane::<E>(&ctx, lane, pace, &sending.left).await?)
                }
                None => None,
            };
            let app_id = &account.app_id;
            let evidence = ops.evidence(&ctx, evidence, &sending.left).await?;
            let now = ops.clock().wall();
            let remembered = |review, write_id: &str| {
                Remembered::new(review, evidence.clone(), write_id, app_id, &ctx, now)
            };
            let write_id = sending.write_id().to_owned();
            let sought = || remembered(call.review(&E::Reply::default()), &write_id).into();
            let mut sending = sending.seeking(sought).within(lane.as_ref());
            let reply = ops.attempts(&account, &ctx, &call, Some(&mut sending)).await;
            if let Some(lane) = lane {
                lane.leave(reply.as_ref().is_err_and(Error::leaves_doubt)).await;
            }
            let reply = reply?;
            let remembered = remembered(call.review(&reply), sending.write_id());
            Ok((answer(reply, for_caller(remembered.submission.clone())), Some(remembered)))
        })
        .await
    }

    /// What a call leaves behind. Where that is a change of what WeChat shows, this asks for it; the
    /// call is made, too, where that fails, for it may still be settled by hand.
    async fn evidence(
        &self,
        ctx: &Context,
        evidence: Option<Evidence>,
        left: &CancellationToken,
    ) -> Result<Option<Evidence>, Error> {
        let Some(Evidence::OtherMerchantAudit(_)) = evidence else { return Ok(evidence) };
        let ctx = ctx.beforehand();
        let look = self.read(&ctx, GetMerchantAuditInfo {});
        let shown = left.run_until_cancelled(look).await.ok_or(Error::Deadline)?;
        Ok(shown.ok().map(|shown| Evidence::OtherMerchantAudit(shown.into())))
    }
}
