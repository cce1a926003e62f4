//! Where in which log a reader is.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

use crate::state;

/// A place in the log, with enough of its event's key to notice if another event stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The place; 0 before the first event.
    pub(crate) position: u64,
    /// The last bytes of the key.
    pub(crate) tag: u64,
}

impl From<state::Mark> for Mark {
    fn from(state::Mark { position, key }: state::Mark) -> Self {
        Self { position, tag: key.tag() }
    }
}

impl From<&state::Event> for Mark {
    fn from(event: &state::Event) -> Self {
        event.mark().into()
    }
}

/// A mark in a certain log: what a caller keeps. Opaque to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// Which log.
    pub(crate) epoch: u64,
    /// Where in it.
    pub(crate) mark: Mark,
}

impl Cursor {
    /// Reads a caller's cursor; `None` if it is none.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let bytes: [u8; 24] = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let number = |from: usize| bytes[from..from + 8].try_into().map(u64::from_be_bytes).ok();
        let mark = Mark { position: number(8)?, tag: number(16)? };
        Some(Self { epoch: number(0)?, mark })
    }

    /// As a caller gets it.
    pub(crate) fn text(self) -> String {
        let mut bytes = [0; 24];
        let numbers = [self.epoch, self.mark.position, self.mark.tag];
        for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_and_nothing_else_is() {
        let cursor = Cursor { epoch: u64::MAX, mark: Mark { position: 7, tag: 1 << 63 } };
        let text = cursor.text();
        assert_eq!((text.len(), Cursor::read(&text)), (32, Some(cursor)));
        for wrong in ["", "7", "not base64!", &text[1..], &format!("{text}AAAA")] {
            assert_eq!(Cursor::read(wrong), None, "{wrong:?}");
        }
    }
}
