//! Nearby places.

use super::{Error, Operations};
use crate::{
    context::Context,
    pb,
    translate::{
        nearby::{Cut, cut, window},
        page::Cursor,
    },
};

/// A token whose place is not found within so many of WeChat's pages of a thousand is none of ours.
const MOST_CALLS: u32 = 10;

impl Operations {
    /// Lists the places after `cursor`, `size` at most. One call mostly; more where so many places
    /// were deleted meanwhile that the rows stand on another page.
    pub(crate) async fn nearby_pois(
        &self,
        ctx: &Context,
        cursor: &Cursor,
        size: u32,
    ) -> Result<pb::ListNearbyPoisResponse, Error> {
        let mut offset = cursor.offset;
        for _ in 0..MOST_CALLS {
            let call = window(offset);
            let reply = self.read(ctx, call).await?;
            match cut(call, reply, cursor, size) {
                Cut::Elsewhere(row) => offset = row,
                Cut::Page(page) => return Ok(page),
            }
        }
        Err(Error::PageToken)
    }
}
