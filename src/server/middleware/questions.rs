//! The questions of a reflection stream. Each counts as a call of its caller.

use std::sync::{Arc, Mutex};

use tonic::Status;

use super::request::PREFIX;
use crate::{
    callers::{Caller, TooFast},
    errors::Unfit,
    util::lock,
};

/// The questions of one stream. Clones share everything.
#[derive(Clone, Debug)]
pub(super) struct Questions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `None` if every client may ask.
    caller: Option<Arc<Caller>>,
    progress: Mutex<Progress>,
    refusal: Mutex<Option<Status>>,
}

/// The position in the messages of a stream.
#[derive(Debug, Default)]
struct Progress {
    messages: usize,
    /// The prefix of the next message, as far as it has arrived.
    prefix: Vec<u8>,
    /// The bytes of the current message that are still to come.
    rest: usize,
}

impl Questions {
    /// Returns the questions of a stream that was counted as a call when it began.
    pub(super) fn new(caller: Option<Arc<Caller>>) -> Self {
        let (progress, refusal) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { caller, progress, refusal }))
    }

    /// Counts the questions that begin in these bytes, except the first of the stream. Fails if the caller asks
    /// too often.
    pub(super) fn count(&self, data: &[u8]) -> Result<(), TooFast> {
        let Some(caller) = &self.0.caller else { return Ok(()) };
        let mut progress = lock(&self.0.progress);
        let before = progress.messages.max(1);
        progress.advance(data);
        (before..progress.messages).try_for_each(|_| caller.count_call())
    }

    /// Returns the failure of the stream. Keeps it for the end of its answers if the caller asked too often. Other
    /// failures end the answers in order: a tool that asks nothing more has made no mistake.
    pub(super) fn refuse(&self, unfit: Unfit) -> Status {
        let too_fast = matches!(unfit, Unfit::TooFast(_));
        let status = Status::from(unfit);
        if too_fast {
            *lock(&self.0.refusal) = Some(status.clone());
        }
        status
    }

    /// Returns the failure that the answers end with, if there is one.
    pub(super) fn refusal(&self) -> Option<Status> {
        lock(&self.0.refusal).clone()
    }
}

impl Progress {
    fn advance(&mut self, mut data: &[u8]) {
        loop {
            let skipped = self.rest.min(data.len());
            (self.rest, data) = (self.rest - skipped, &data[skipped..]);
            if data.is_empty() {
                return;
            }
            let missing = (PREFIX - self.prefix.len()).min(data.len());
            self.prefix.extend_from_slice(&data[..missing]);
            data = &data[missing..];
            if let Ok([_, length @ ..]) = <[u8; PREFIX]>::try_from(&*self.prefix) {
                self.rest = u32::from_be_bytes(length) as usize;
                self.messages += 1;
                self.prefix.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_they_are_split() {
        let bytes = b"\0\0\0\0\x03abc\0\0\0\0\0\0\0\0\0\x01a";
        for size in 1..=bytes.len() {
            let mut progress = Progress::default();
            bytes.chunks(size).for_each(|part| progress.advance(part));
            assert_eq!((progress.messages, progress.rest), (3, 0), "{size}");
        }
        let mut progress = Progress::default();
        progress.advance(&bytes[..4]);
        assert_eq!(progress.messages, 0);
        progress.advance(&bytes[4..6]);
        assert_eq!((progress.messages, progress.rest), (1, 2));
    }
}
