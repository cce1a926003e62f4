//! What is measured, a file for each kind of call.

use std::{future::Future, pin::Pin};

use crate::{rounds::Report, world::World};

pub mod reads;

type Run = for<'a> fn(&'a World) -> Pin<Box<dyn Future<Output = anyhow::Result<Report>> + 'a>>;

/// All cases by name.
pub const CASES: &[(&str, Run)] = &[
    ("read", |world| Box::pin(reads::proxied(world))),
    ("alone", |world| Box::pin(reads::alone(world))),
    ("cached", |world| Box::pin(reads::cached(world))),
    ("tree", |world| Box::pin(reads::tree(world))),
];
