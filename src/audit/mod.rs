//! Reviews: the log of events, and who follows it.

use std::sync::Arc;

use crate::state::{self, Appended, NewEvent, State};

/// The log and what is done with it. Cheap to clone; clones share everything.
#[derive(Clone, Debug)]
pub struct Audits {
    state: Arc<dyn State>,
}

impl Audits {
    /// Over a state.
    pub fn new(state: Arc<dyn State>) -> Self {
        Self { state }
    }

    /// Takes an event into the log; durable when this returns. Its future may be dropped, but then
    /// nobody knows whether it is.
    pub async fn append(&self, event: NewEvent) -> Result<Appended, state::Error> {
        self.state.append(event).await
    }
}
