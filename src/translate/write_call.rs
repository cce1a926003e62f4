//! The additions of a translated write to its WeChat call: its expected effect and its review.
//! `docs/writes.md` describes which effect proves an execution, and why.

use crate::{
    journal::{ExpectedEffect, Review, WriteRecord},
    wechat::{Endpoint, Safety},
};

/// A call that changes something.
pub(crate) trait WriteCall: Endpoint {
    /// Returns the effect that shows that the call was executed, as far as the call alone determines it.
    /// Returns `None` if the call can be repeated.
    fn expected_effect(&self) -> Option<ExpectedEffect> {
        None
    }

    /// Returns what the journal records about the call if WeChat does not review it.
    fn record(&self) -> WriteRecord {
        let repeatable = !matches!(Self::SAFETY, Safety::Once(_));
        let expected_effect = self.expected_effect();
        WriteRecord { expected_effect, repeatable, ..WriteRecord::default() }
    }
}

/// A write that WeChat reviews.
pub(crate) trait ReviewedCall: WriteCall {
    /// Returns what WeChat reviews, after it accepted the call.
    fn review(&self, reply: &Self::Reply) -> Review;
}
