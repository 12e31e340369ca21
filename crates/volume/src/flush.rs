//! A run of log that is sent at once.

use bytes::Bytes;
use units::{ByteCount, GroupId, Lsn};
use wire_format::frame::BATCH_BYTES_MAX;
use wire_format::{CatalogEntry, Elsewhere, Item};

/// One flush, before it is linked and sent.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct FlushParts {
    /// Its end.
    pub end: Lsn,
    /// The last record end at or below it. A flush that ends inside a record holds nothing but pieces of that record.
    pub boundary: Lsn,
    /// Group 0's share of the log.
    pub first: Share,
    /// The shares of other groups: none of group 0, each group at most once, none empty.
    pub others: Vec<(GroupId, Share)>,
    /// The engine's marks as of the boundary.
    pub marks: Bytes,
    /// What the records did to the catalog.
    pub catalog: Vec<CatalogEntry>,
    /// WAL page flags that the records do not tell.
    pub page_flags: Vec<(Lsn, u16)>,
    /// The writer's wall clock.
    pub written_at_us: u64,
}

/// What of a flush goes to one group.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Share {
    /// Records, pieces and images, in LSN order.
    pub items: Vec<Item>,
    /// What of these records is for other groups.
    pub elsewhere: Vec<Elsewhere>,
}

impl Share {
    /// Items that change pages of this group only.
    pub fn of(items: Vec<Item>) -> Share {
        Share {
            items,
            elsewhere: Vec::new(),
        }
    }
}

/// A flush that no message can carry: one record, or the catalog entries of one, are too much. Nothing of it was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the flush that ends at {end} takes {}, more than {} in one message: a prepared transaction, or the relations that one \
     transaction drops, are too many",
    ByteCount(*.bytes as u64), ByteCount(BATCH_BYTES_MAX as u64)
)]
pub struct FlushTooLong {
    /// Its end.
    pub end: Lsn,
    /// Its bytes.
    pub bytes: usize,
}
