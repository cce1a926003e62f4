//! The cursor of a reader: a log, and a position in it.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

use crate::state::{Event, LogPosition};

/// A position in the log, with enough of its event's key to detect another event at the same position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaggedPosition {
    /// The position. 0 before the first event.
    pub(crate) position: u64,
    /// The last bytes of the key.
    pub(crate) tag: u64,
}

impl From<LogPosition> for TaggedPosition {
    fn from(LogPosition { position, key }: LogPosition) -> Self {
        Self { position, tag: key.tag() }
    }
}

impl From<&Event> for TaggedPosition {
    fn from(event: &Event) -> Self {
        event.log_position().into()
    }
}

/// A position in a certain log. Callers keep it as opaque text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// The log.
    pub(crate) epoch: u64,
    /// The last event that the reader has, or position 0.
    pub(crate) at: TaggedPosition,
}

impl Cursor {
    /// Parses a caller's cursor. Returns `None` if it is malformed.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; 24] = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let number = |from: usize| bytes[from..from + 8].try_into().map(u64::from_be_bytes).ok();
        let at = TaggedPosition { position: number(8)?, tag: number(16)? };
        Some(Self { epoch: number(0)?, at })
    }

    /// Returns the text for a caller.
    pub(crate) fn text(self) -> String {
        let mut bytes = [0; 24];
        let numbers = [self.epoch, self.at.position, self.at.tag];
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
    fn only_the_text_of_a_cursor_is_parsed() {
        let at = TaggedPosition { position: 7, tag: 1 << 63 };
        let cursor = Cursor { epoch: u64::MAX, at };
        let text = cursor.text();
        assert_eq!((text.len(), Cursor::parse(&text)), (32, Some(cursor)));
        for wrong in ["", "7", "not base64!", &text[1..], &format!("{text}AAAA")] {
            assert_eq!(Cursor::parse(wrong), None, "{wrong:?}");
        }
    }
}
