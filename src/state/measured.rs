//! A state that measures its operations, counts the steps of writes, and notices how late events come.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    Acquired, Appended, Authorizer, Begun, Error, EventPage, EventQuery, Events, Leases, Log,
    NewEvent, NewSubmission, NewWrite, Origin, Outcome, Platforms, Segment, SharedToken, State,
    Submission, SubmissionPage, SubmissionQuery, Submissions, Ticket, Tokens, Write, WritePage,
    WriteQuery, WriteState, Writes,
};
use crate::{
    metrics::Metrics,
    util::{
        clock::Clock,
        id::{AppId, PoiId, Secret},
    },
};

/// A state behind which there is another one.
#[derive(Debug)]
pub(crate) struct Measured {
    state: Arc<dyn State>,
    metrics: Metrics,
    clock: Clock,
}

impl Measured {
    /// Measures a state.
    pub(crate) fn new(state: Arc<dyn State>, metrics: Metrics, clock: Clock) -> Self {
        Self { state, metrics, clock }
    }

    async fn timed<T>(
        &self,
        operation: &'static str,
        step: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let operation = self.metrics.begin_operation(operation);
        let result = step.await;
        operation.end(result.is_err());
        result
    }
}

/// Returns the name of an outcome.
fn name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Finished { .. } => "finished",
        Outcome::Released => "released",
        Outcome::Unknown => "unknown",
    }
}

/// Returns the name of an origin.
fn origin(origin: &Origin) -> &'static str {
    match origin {
        Origin::Pushed => "pushed",
        Origin::Polled { .. } => "polled",
    }
}

#[tonic::async_trait]
impl State for Measured {
    async fn prune(&self, age: Duration) -> Result<u64, Error> {
        self.timed("prune", self.state.prune(age)).await
    }

    async fn probe(&self) -> Result<(), Error> {
        self.timed("probe", self.state.probe()).await
    }

    fn closed_secrets(&self) -> Vec<(&'static str, u64)> {
        self.state.closed_secrets()
    }
}

#[tonic::async_trait]
impl Events for Measured {
    async fn append(&self, event: NewEvent) -> Result<Appended, Error> {
        let (event_time, origin) = (event.event_time, origin(&event.origin));
        let appended = self.timed("append", self.state.append(event)).await?;
        if let Appended::New(_) = appended {
            self.metrics.record_event(origin, event_time, self.clock.wall());
        }
        Ok(appended)
    }

    async fn events(&self, query: EventQuery) -> Result<EventPage, Error> {
        self.timed("events", self.state.events(query)).await
    }

    async fn newer(&self, position: u64) -> Result<Option<Segment>, Error> {
        // It waits until there is something new.
        self.state.newer(position).await
    }

    async fn log(&self) -> Result<Log, Error> {
        self.timed("log", self.state.log()).await
    }
}

#[tonic::async_trait]
impl Submissions for Measured {
    async fn remember(&self, submission: NewSubmission) -> Result<(), Error> {
        self.timed("remember", self.state.remember(submission)).await
    }

    async fn submission(&self, submission_id: &str) -> Result<Option<Submission>, Error> {
        self.timed("submission", self.state.submission(submission_id)).await
    }

    async fn pictures(&self, app_id: &AppId, poi_id: &PoiId) -> Result<Option<Submission>, Error> {
        self.timed("pictures", self.state.pictures(app_id, poi_id)).await
    }

    async fn submissions(&self, query: SubmissionQuery) -> Result<SubmissionPage, Error> {
        self.timed("submissions", self.state.submissions(query)).await
    }

    async fn take_due(&self, again: Duration, limit: usize) -> Result<Vec<Submission>, Error> {
        self.timed("take_due", self.state.take_due(again, limit)).await
    }
}

#[tonic::async_trait]
impl Writes for Measured {
    async fn begin(&self, write: NewWrite, term: Duration) -> Result<Begun, Error> {
        let begun = self.timed("begin", self.state.begin(write, term)).await?;
        self.metrics.count_journal_write(match &begun {
            Begun::Claimed { sent: true, .. } => "sent",
            Begun::Claimed { sent: false, .. } => "claimed",
            Begun::Known(Write { state: WriteState::Finished, .. }) => "replayed",
            Begun::Known(_) | Begun::Other => "repeated",
        });
        Ok(begun)
    }

    async fn sent(
        &self,
        write_id: &str,
        fence: u64,
        by: Duration,
        record: Bytes,
    ) -> Result<bool, Error> {
        let sent = self.timed("sent", self.state.sent(write_id, fence, by, record)).await?;
        self.metrics.count_journal_write(if sent { "sent" } else { "lost" });
        Ok(sent)
    }

    async fn ended(&self, write_id: &str, fence: u64, outcome: Outcome) -> Result<(), Error> {
        let name = name(&outcome);
        self.timed("ended", self.state.ended(write_id, fence, outcome)).await?;
        self.metrics.count_journal_write(name);
        Ok(())
    }

    async fn write(&self, write_id: &str) -> Result<Option<Write>, Error> {
        self.timed("write", self.state.write(write_id)).await
    }

    async fn writes(&self, query: WriteQuery) -> Result<WritePage, Error> {
        self.timed("writes", self.state.writes(query)).await
    }

    async fn resolve(&self, write_id: &str, outcome: Outcome) -> Result<Option<Write>, Error> {
        let resolved = match outcome {
            Outcome::Finished { .. } => "resolved_finished",
            Outcome::Released | Outcome::Unknown => "resolved_released",
        };
        let before = self.timed("resolve", self.state.resolve(write_id, outcome)).await?;
        if before.is_some() {
            self.metrics.count_journal_write(resolved);
        }
        Ok(before)
    }
}

#[tonic::async_trait]
impl Leases for Measured {
    async fn acquire(&self, name: &str, term: Duration) -> Result<Acquired, Error> {
        self.timed("acquire", self.state.acquire(name, term)).await
    }

    async fn renew(&self, name: &str, fence: u64, term: Duration) -> Result<bool, Error> {
        self.timed("renew", self.state.renew(name, fence, term)).await
    }

    async fn free(&self, name: &str, fence: u64, rest: Duration) -> Result<(), Error> {
        self.timed("free", self.state.free(name, fence, rest)).await
    }
}

#[tonic::async_trait]
impl Tokens for Measured {
    async fn token(&self, app_id: &AppId) -> Result<Option<SharedToken>, Error> {
        self.timed("token", self.state.token(app_id)).await
    }

    async fn put_token(
        &self,
        app_id: &AppId,
        before: u64,
        value: &Secret,
        life: Duration,
    ) -> Result<SharedToken, Error> {
        self.timed("put_token", self.state.put_token(app_id, before, value, life)).await
    }

    async fn drop_token(&self, app_id: &AppId) -> Result<(), Error> {
        self.timed("drop_token", self.state.drop_token(app_id)).await
    }

    async fn spend(&self, counter: &str, limit: u32, window: Duration) -> Result<bool, Error> {
        self.timed("spend", self.state.spend(counter, limit, window)).await
    }

    async fn refund(&self, counter: &str) -> Result<(), Error> {
        self.timed("refund", self.state.refund(counter)).await
    }
}

#[tonic::async_trait]
impl Platforms for Measured {
    async fn put_ticket(
        &self,
        platform: &AppId,
        ticket: &Secret,
        sent_at: u64,
    ) -> Result<bool, Error> {
        self.timed("put_ticket", self.state.put_ticket(platform, ticket, sent_at)).await
    }

    async fn ticket(&self, platform: &AppId) -> Result<Option<Ticket>, Error> {
        self.timed("ticket", self.state.ticket(platform)).await
    }

    async fn put_authorizer(&self, authorizer: &Authorizer, only_new: bool) -> Result<bool, Error> {
        self.timed("put_authorizer", self.state.put_authorizer(authorizer, only_new)).await
    }

    async fn authorizer(
        &self,
        platform: &AppId,
        app_id: &AppId,
    ) -> Result<Option<Authorizer>, Error> {
        self.timed("authorizer", self.state.authorizer(platform, app_id)).await
    }

    async fn replace_refresh_token(
        &self,
        platform: &AppId,
        app_id: &AppId,
        before: Option<&Secret>,
        value: &Secret,
    ) -> Result<bool, Error> {
        let replace = self.state.replace_refresh_token(platform, app_id, before, value);
        self.timed("replace_refresh_token", replace).await
    }

    async fn describe_authorizer(
        &self,
        platform: &AppId,
        app_id: &AppId,
        changed_at: u64,
        record: &[u8],
    ) -> Result<bool, Error> {
        let describe = self.state.describe_authorizer(platform, app_id, changed_at, record);
        self.timed("describe_authorizer", describe).await
    }

    async fn authorizers(
        &self,
        platform: &AppId,
        after: Option<&AppId>,
        most: usize,
    ) -> Result<Vec<Authorizer>, Error> {
        self.timed("authorizers", self.state.authorizers(platform, after, most)).await
    }
}
