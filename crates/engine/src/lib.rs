//! What the storage asks of a database engine: which pages a record touches, and how to apply it.
//!
//! The storage node, the volume and the page store know log records and pages as opaque bytes; whatever they need to
//! know of the inside is behind [`Engine`], which `redo` implements for PostgreSQL.
//!
//! Invariants:
//! - Both functions are total: any bytes give a value or an error, never a panic.
//! - Both are pure: the same arguments give the same answer on every copy, for ever.

use units::{ForkKey, Lsn, Page, PageKey};

/// One thing that a log record does to the volume's pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touch {
    /// The record changes this page.
    Page {
        /// Which.
        key: PageKey,
        /// The record makes the page from nothing (an image, or an initialisation): no earlier version is needed.
        from_nothing: bool,
    },
    /// Every page of the fork from `from_block` on is gone; when it is named again it begins as zeros. A dropped fork is
    /// truncated to nothing.
    Truncate {
        /// Which fork.
        fork: ForkKey,
        /// The first block that is gone.
        from_block: u32,
    },
    /// Every page of every relation of this database in this tablespace is gone.
    DropDatabase {
        /// OID of the tablespace.
        tablespace: u32,
        /// OID of the database.
        database: u32,
    },
}

/// Why an engine could not read or apply a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The bytes are not a record of this engine, or contradict themselves.
    #[error("log record ending at {end} is malformed: {what}")]
    Malformed {
        /// The record's LSN.
        end: Lsn,
        /// What is wrong with it.
        what: String,
    },
    /// The record is sound, but applying it is not implemented.
    #[error("log record ending at {end} is of a kind that redo cannot apply yet: {kind}")]
    Unsupported {
        /// The record's LSN.
        end: Lsn,
        /// Resource manager and operation, as `pg_waldump` prints them.
        kind: String,
    },
    /// The record does not fit the page it was applied to: one of them is wrong.
    #[error("log record ending at {end} ({kind}) does not fit {key}: {what}")]
    Mismatch {
        /// The record's LSN.
        end: Lsn,
        /// Resource manager and operation, as `pg_waldump` prints them.
        kind: String,
        /// The page.
        key: PageKey,
        /// What does not fit.
        what: String,
    },
}

/// A database engine, as the storage sees it.
pub trait Engine: Send + Sync {
    /// Appends to `touches` what the record does to pages, each page at most once, in the record's own order. `end` is
    /// the record's LSN.
    fn touches(&self, record: &[u8], end: Lsn, touches: &mut Vec<Touch>) -> Result<(), EngineError>;

    /// Applies the record to one page that it touches. `page` is the version just before the record (zeros if there is
    /// none); on an error its content is undefined.
    fn apply(&self, record: &[u8], end: Lsn, key: PageKey, page: &mut Page) -> Result<(), EngineError>;
}
