//! The log in flight: one flush's part for one group.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use units::{Epoch, GroupId, Lsn, Page, PageKey, Position, VolumeId};

use crate::{CatalogKey, CodecError};

/// The part of one flush that goes to one group. Once sent, a flush is never cut differently. It is named by the position of
/// its end; the group's previous batch links the chain.
#[derive(Clone, PartialEq, Debug)]
pub struct Batch {
    /// The volume that the log belongs to.
    pub volume: VolumeId,
    /// The group.
    pub group: GroupId,
    /// The reign it was written in; stays the same however often the batch is copied.
    pub epoch: Epoch,
    /// End of the flush.
    pub end: Lsn,
    /// End of the group's previous batch. For the first batch of a timeline: the group's last batch that the timeline
    /// sees on its parent.
    pub previous: Position,
    /// Present in group 0's batches, and only there.
    pub header: Option<FlushHeader>,
    /// The log itself, in LSN order.
    pub items: Vec<Item>,
    /// Records of this batch that change pages of other groups, too, in LSN order.
    pub elsewhere: Vec<Elsewhere>,
}

/// A record that goes whole to several groups: what of it is not for the group whose batch says so. Truncations and dropped
/// databases are for every group that the record goes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Elsewhere {
    /// The record's LSN.
    pub end: Lsn,
    /// Which of the things that the engine says the record touches are pages of other groups: their places in its list,
    /// rising.
    pub touches: Vec<u32>,
}

impl Batch {
    /// Where the batch ends.
    pub fn position(&self) -> Position {
        Position::new(self.epoch, self.end)
    }
}

/// A batch as bytes: encoded once by the writer, then shared by six sends, journals and peers. Who only passes it on, as the
/// writer does, holds nothing but the bytes; the batch in them is made when it is first asked for.
#[derive(Clone, Debug)]
pub struct EncodedBatch {
    position: Position,
    bytes: Bytes,
    batch: Arc<OnceLock<Arc<Batch>>>,
}

impl EncodedBatch {
    /// Encodes the batch and lets go of it.
    pub fn new(batch: Batch) -> EncodedBatch {
        EncodedBatch {
            position: batch.position(),
            bytes: batch.encode(),
            batch: Arc::default(),
        }
    }

    /// Decodes and checks the bytes of a batch, and keeps them.
    pub fn decode(bytes: Bytes) -> Result<EncodedBatch, CodecError> {
        let batch = Arc::new(Batch::decode(bytes.clone())?);
        Ok(EncodedBatch {
            position: batch.position(),
            bytes,
            batch: Arc::new(OnceLock::from(batch)),
        })
    }

    /// Where the batch ends.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The batch. Its records are slices of the bytes.
    ///
    /// # Panics
    /// Never: the bytes were decoded before, or encoded here.
    pub fn batch(&self) -> &Arc<Batch> {
        let decode = || Batch::decode(self.bytes.clone()).expect("a batch that was encoded can be decoded");
        self.batch.get_or_init(|| Arc::new(decode()))
    }

    /// Its bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl PartialEq for EncodedBatch {
    fn eq(&self, other: &EncodedBatch) -> bool {
        self.bytes == other.bytes
    }
}

/// What group 0's batch says about the whole flush.
#[derive(Clone, PartialEq, Debug)]
pub struct FlushHeader {
    /// Every group that has a part in the flush, group 0 first.
    pub groups: Vec<GroupId>,
    /// The last record end at or below the flush's end: how far the durable LSN may go once the flush is complete. Lower
    /// than the end while the flush ends inside a long record.
    pub boundary: Lsn,
    /// Wall clock of the writer, in microseconds since 1970. For reports and restore by time, never for decisions.
    pub written_at_us: u64,
    /// The engine's marks as of `boundary` (next transaction id, start of the last record …), opaque here.
    pub marks: Bytes,
    /// What the flush's records did to the catalog, each with the LSN of its record.
    pub catalog: Vec<CatalogEntry>,
    /// Flags of WAL page headers in the flush that cannot be derived from the records: (page address, flags).
    pub page_flags: Vec<(Lsn, u16)>,
}

/// A change of one catalog value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CatalogEntry {
    /// What is named.
    pub key: CatalogKey,
    /// LSN of the record that changed it.
    pub lsn: Lsn,
    /// Its value from there on; `None`: gone.
    pub value: Option<Bytes>,
}

/// One piece of the log.
#[derive(Clone, PartialEq, Debug)]
pub enum Item {
    /// One whole engine record.
    Record {
        /// The record's LSN.
        end: Lsn,
        /// The record as the engine wrote it, without page headers.
        bytes: Bytes,
    },
    /// A piece of a record too large for one flush. The record is whole once all its fragments are there.
    Fragment {
        /// The record's LSN: its end, far above this flush's.
        end: Lsn,
        /// Length of the whole record.
        record_bytes: u32,
        /// Where in the record this piece stands.
        offset: u32,
        /// The piece.
        bytes: Bytes,
    },
    /// A page as such, not from any record: how a volume is imported.
    Image {
        /// The version's LSN.
        end: Lsn,
        /// Which page.
        key: PageKey,
        /// Its content.
        page: Page,
    },
}
