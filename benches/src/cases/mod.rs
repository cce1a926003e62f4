//! The cases, one file for each kind of call.

use std::{future::Future, pin::Pin};

use crate::{rounds::Report, world::World};

pub mod callbacks;
pub mod callers;
pub mod fanout;
pub mod growth;
pub mod overload;
pub mod platforms;
pub mod process;
pub mod profile;
pub mod reads;
pub mod redis;
pub mod slow;
pub mod uploads;
pub mod writes;

type Run = for<'a> fn(&'a World) -> Pin<Box<dyn Future<Output = anyhow::Result<Report>> + 'a>>;

/// All cases by name.
pub const CASES: &[(&str, Run)] = &[
    ("read", |world| Box::pin(reads::proxied(world))),
    ("callers", |world| Box::pin(callers::callers(world))),
    ("metrics", |world| Box::pin(process::metrics(world))),
    ("alone", |world| Box::pin(reads::alone(world))),
    ("cached", |world| Box::pin(reads::cached(world))),
    ("tree", |world| Box::pin(reads::tree(world))),
    ("write", |world| Box::pin(writes::writes(world))),
    ("callback", |world| Box::pin(callbacks::callbacks(world))),
    ("redis", |world| Box::pin(redis::redis(world))),
    ("overload", |world| Box::pin(overload::overload(world))),
    ("slow", |world| Box::pin(slow::slow(world))),
    ("uploads", |world| Box::pin(uploads::uploads(world))),
    ("fanout", |world| Box::pin(fanout::fanout(world))),
    ("start", |world| Box::pin(process::start(world))),
    ("memory", |world| Box::pin(process::memory(world))),
    ("accounts", |world| Box::pin(growth::accounts(world))),
    ("events", |world| Box::pin(growth::events(world))),
    ("platforms", |world| Box::pin(platforms::platforms(world))),
];
