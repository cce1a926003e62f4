//! The state in Redis 6.2 or later, shared by several processes.
//!
//! Every operation is one Lua script, in a file beside its caller, and therefore one round trip.
//! `prelude.lua` describes the stored data.

mod backup;
mod connection;
mod event;
mod failure;
mod foreign;
mod lease;
mod link;
mod place;
mod platform;
mod restore;
mod secret;
mod submission;
mod token;
mod transfer;
mod write;

use std::time::Duration;

use self::connection::Connection;
pub(super) use self::connection::{inspect, peek};
pub(crate) use self::foreign::foreign_value;
pub(super) use self::transfer::Transfer;
use crate::{
    config::{RedisSettings, RedisUrl},
    state::{Error, State},
};

/// The state in Redis.
#[derive(Debug)]
pub struct Redis {
    connection: Connection,
}

impl Redis {
    /// Connects, and logs a warning if this Redis may lose acknowledged data.
    pub async fn open(url: &RedisUrl, settings: &RedisSettings) -> Result<Self, Error> {
        Ok(Self { connection: Connection::open(url, settings).await? })
    }
}

#[tonic::async_trait]
impl State for Redis {
    async fn prune(&self, age: Duration) -> Result<u64, Error> {
        event::prune(&self.connection, age).await
    }

    async fn probe(&self) -> Result<(), Error> {
        self.connection.probe().await
    }
}
