//! The state in Redis 6.2 or later, shared by several processes.
//!
//! Every operation is one Lua script, in a file beside its caller, and therefore one round trip.
//! `prelude.lua` describes the stored data.

mod backup;
mod connection;
mod event;
mod failure;
mod lease;
mod link;
mod restore;
mod submission;
mod token;
mod write;

use std::time::Duration;

use bytes::Bytes;

use self::connection::Connection;
use crate::{
    state::{
        Acquired, Appended, Begun, Error, EventPage, EventQuery, Log, NewEvent, NewSubmission,
        NewWrite, Outcome, SharedToken, State, Stretch, Submission, SubmissionPage,
        SubmissionQuery, Write, WritePage, WriteQuery,
    },
    util::id::{AppId, PoiId, Secret},
};

/// The state in Redis.
#[derive(Debug)]
pub struct Redis {
    connection: Connection,
}

impl Redis {
    /// Connects, and logs a warning if this Redis may lose acknowledged data.
    pub async fn open(url: &str) -> Result<Self, Error> {
        Ok(Self { connection: Connection::open(url).await? })
    }
}

#[tonic::async_trait]
impl State for Redis {
    async fn append(&self, event: NewEvent) -> Result<Appended, Error> {
        event::append(&self.connection, event).await
    }

    async fn events(&self, query: EventQuery) -> Result<EventPage, Error> {
        event::events(&self.connection, query).await
    }

    async fn newer(&self, position: u64) -> Result<Option<Stretch>, Error> {
        event::newer(&self.connection, position).await?;
        Ok(None)
    }

    async fn log(&self) -> Result<Log, Error> {
        event::log(&self.connection).await
    }

    async fn prune(&self, age: Duration) -> Result<u64, Error> {
        event::prune(&self.connection, age).await
    }

    async fn remember(&self, submission: NewSubmission) -> Result<(), Error> {
        submission::remember(&self.connection, submission).await
    }

    async fn submission(&self, submission_id: &str) -> Result<Option<Submission>, Error> {
        submission::submission(&self.connection, submission_id).await
    }

    async fn pictures(&self, app_id: &AppId, poi_id: &PoiId) -> Result<Option<Submission>, Error> {
        submission::pictures(&self.connection, app_id, poi_id).await
    }

    async fn submissions(&self, query: SubmissionQuery) -> Result<SubmissionPage, Error> {
        submission::submissions(&self.connection, query).await
    }

    async fn take_due(&self, again: Duration, limit: usize) -> Result<Vec<Submission>, Error> {
        submission::take_due(&self.connection, again, limit).await
    }

    async fn begin(&self, write: NewWrite, term: Duration) -> Result<Begun, Error> {
        write::begin(&self.connection, write, term).await
    }

    async fn sent(
        &self,
        write_id: &str,
        fence: u64,
        by: Duration,
        sought: Bytes,
    ) -> Result<bool, Error> {
        write::sent(&self.connection, write_id, fence, by, sought).await
    }

    async fn ended(&self, write_id: &str, fence: u64, outcome: Outcome) -> Result<(), Error> {
        write::ended(&self.connection, write_id, fence, outcome).await
    }

    async fn write(&self, write_id: &str) -> Result<Option<Write>, Error> {
        write::write(&self.connection, write_id).await
    }

    async fn writes(&self, query: WriteQuery) -> Result<WritePage, Error> {
        write::writes(&self.connection, query).await
    }

    async fn resolve(&self, write_id: &str, outcome: Outcome) -> Result<Option<Write>, Error> {
        write::resolve(&self.connection, write_id, outcome).await
    }

    async fn acquire(&self, name: &str, term: Duration) -> Result<Acquired, Error> {
        lease::acquire(&self.connection, name, term).await
    }

    async fn renew(&self, name: &str, fence: u64, term: Duration) -> Result<bool, Error> {
        lease::renew(&self.connection, name, fence, term).await
    }

    async fn free(&self, name: &str, fence: u64, rest: Duration) -> Result<(), Error> {
        lease::free(&self.connection, name, fence, rest).await
    }

    async fn token(&self, app_id: &AppId) -> Result<Option<SharedToken>, Error> {
        token::token(&self.connection, app_id).await
    }

    async fn put_token(
        &self,
        app_id: &AppId,
        before: u64,
        value: &Secret,
        life: Duration,
    ) -> Result<SharedToken, Error> {
        token::put(&self.connection, app_id, before, value, life).await
    }

    async fn spend(&self, counter: &str, limit: u32, window: Duration) -> Result<bool, Error> {
        token::spend(&self.connection, counter, limit, window).await
    }

    async fn refund(&self, counter: &str) -> Result<(), Error> {
        token::refund(&self.connection, counter).await
    }

    async fn probe(&self) -> Result<(), Error> {
        self.connection.probe().await
    }
}
