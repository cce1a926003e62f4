//! Redis: shared by several processes.

use std::time::Duration;

use crate::{
    id::{AppId, PoiId, Secret},
    state::{
        Acquired, Appended, Error, EventPage, EventQuery, Log, NewEvent, NewSubmission,
        SharedToken, State, Submission, SubmissionPage, SubmissionQuery,
    },
};

/// The state at a Redis.
#[derive(Debug)]
pub struct Redis;

impl Redis {
    /// Connects.
    pub async fn open(_: &str) -> Result<Self, Error> {
        Ok(Self)
    }
}

#[tonic::async_trait]
impl State for Redis {
    async fn append(&self, _: NewEvent) -> Result<Appended, Error> {
        unimplemented!()
    }
    async fn events(&self, _: EventQuery) -> Result<EventPage, Error> {
        unimplemented!()
    }
    async fn newer(&self, _: u64) -> Result<(), Error> {
        unimplemented!()
    }
    async fn log(&self) -> Result<Log, Error> {
        unimplemented!()
    }
    async fn prune(&self, _: Duration) -> Result<u64, Error> {
        unimplemented!()
    }
    async fn remember(&self, _: NewSubmission) -> Result<(), Error> {
        unimplemented!()
    }
    async fn submission(&self, _: &str) -> Result<Option<Submission>, Error> {
        unimplemented!()
    }
    async fn pictures(&self, _: &AppId, _: &PoiId) -> Result<Option<Submission>, Error> {
        unimplemented!()
    }
    async fn submissions(&self, _: SubmissionQuery) -> Result<SubmissionPage, Error> {
        unimplemented!()
    }
    async fn take_due(&self, _: Duration, _: usize) -> Result<Vec<Submission>, Error> {
        unimplemented!()
    }
    async fn acquire(&self, _: &str, _: Duration) -> Result<Acquired, Error> {
        unimplemented!()
    }
    async fn renew(&self, _: &str, _: u64, _: Duration) -> Result<bool, Error> {
        unimplemented!()
    }
    async fn free(&self, _: &str, _: u64, _: Duration) -> Result<(), Error> {
        unimplemented!()
    }
    async fn token(&self, _: &AppId) -> Result<Option<SharedToken>, Error> {
        unimplemented!()
    }
    async fn put_token(
        &self,
        _: &AppId,
        _: u64,
        _: &Secret,
        _: Duration,
    ) -> Result<SharedToken, Error> {
        unimplemented!()
    }
    async fn spend(&self, _: &str, _: u32, _: Duration) -> Result<bool, Error> {
        unimplemented!()
    }
    async fn refund(&self, _: &str) -> Result<(), Error> {
        unimplemented!()
    }
    async fn probe(&self) -> Result<(), Error> {
        unimplemented!()
    }
}
