//! PostgreSQL write-ahead log bytes to records and back.
//!
//! [`StreamDecoder`] takes the log as a walsender streams it and yields whole [`Record`]s; [`PageWriter`] lays records
//! out on WAL pages again, byte for byte; [`DecodedRecord`] looks inside one record; [`touches`] and [`state_changes`]
//! say what it does; [`Marks`] are the engine's counters at its end.
//!
//! Invariants:
//! - Decoders are total: any bytes give a value or an error, and nothing is allocated from an unchecked length.
//! - A record's LSN is its end, as PostgreSQL's `EndRecPtr`: a multiple of eight, and a page boundary stays one.

mod checkpoint;
mod fields;
mod kind;
mod last_page;
mod layout;
mod marks;
mod multixact;
mod position;
mod record;
mod state_change;
mod status_page;
mod stream;
#[cfg(test)]
mod tests;
mod touches;
mod transaction;

pub use checkpoint::{CHECKPOINT_BYTES, Checkpoint, Parameters};
pub use kind::{Kind, RecordError, kinds};
pub use layout::{LayoutError, PageWriter, encode_record};
pub use marks::{DecodeMarksError, Marks};
pub use multixact::{MultixactCreation, MultixactMember};
pub use position::{
    LONG_HEADER_BYTES, PageHeader, SHORT_HEADER_BYTES, WAL_PAGE_BYTES, WAL_PAGE_MAGIC, is_wal_file_size, page_flag,
    record_end, record_start,
};
pub use record::{
    BlockImage, BlockReference, Blocks, Compression, DecodeError, DecodedRecord, RECORD_HEADER_BYTES, RecordHeader,
    record_checksum,
};
pub use state_change::{StateChange, state_changes};
pub use status_page::{
    COMMIT_TIMESTAMPS_PER_PAGE, FIRST_MULTIXACT, MULTIXACT_MEMBERS_PER_PAGE, MULTIXACT_OFFSETS_PER_PAGE,
    TRANSACTIONS_PER_PAGE, commit_timestamp_page, multixact_member_page, multixact_offset_page, next_multixact,
    status_page, transaction_status_page,
};
pub use stream::{RECORD_BYTES_MAX, Record, StreamDecoder, StreamError};
pub use touches::{MapTruncation, cleared_visibility, touches, visibility_page};
pub use transaction::{Prepare, TransactionEnd};

/// Numbers of PostgreSQL 15's resource managers, as `access/rmgrlist.h` lists them.
pub mod resource_manager {
    /// The log itself: checkpoints, page images.
    pub const XLOG: u8 = 0;
    /// Commit, abort, prepare.
    pub const TRANSACTION: u8 = 1;
    /// Relation files: create, truncate.
    pub const STORAGE: u8 = 2;
    /// Transaction status pages.
    pub const CLOG: u8 = 3;
    /// Databases.
    pub const DATABASE: u8 = 4;
    /// Tablespaces.
    pub const TABLESPACE: u8 = 5;
    /// Multixacts.
    pub const MULTIXACT: u8 = 6;
    /// Relation maps.
    pub const RELATION_MAP: u8 = 7;
    /// Hot standby: locks, running transactions.
    pub const STANDBY: u8 = 8;
    /// Heap, second set.
    pub const HEAP2: u8 = 9;
    /// Heap.
    pub const HEAP: u8 = 10;
    /// Btree.
    pub const BTREE: u8 = 11;
    /// Hash index.
    pub const HASH: u8 = 12;
    /// GIN.
    pub const GIN: u8 = 13;
    /// GiST.
    pub const GIST: u8 = 14;
    /// Sequences.
    pub const SEQUENCE: u8 = 15;
    /// SP-GiST.
    pub const SPGIST: u8 = 16;
    /// BRIN.
    pub const BRIN: u8 = 17;
    /// Commit timestamps.
    pub const COMMIT_TIMESTAMP: u8 = 18;
    /// Replication origins.
    pub const REPLICATION_ORIGIN: u8 = 19;
    /// Generic page deltas.
    pub const GENERIC: u8 = 20;
    /// Logical messages.
    pub const LOGICAL_MESSAGE: u8 = 21;
    /// From here on they belong to extensions: `RM_MIN_CUSTOM_ID`.
    pub const FIRST_OF_EXTENSIONS: u8 = 128;
}
