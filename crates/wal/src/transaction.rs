//! The ends of transactions: commit, abort and prepare records.

use units::{Lsn, RelationKey};

use crate::fields::{Fields, relations, u32s};
use crate::{DecodedRecord, Kind, RecordError, resource_manager};

const COMMIT: u8 = 0x00;
const PREPARE: u8 = 0x10;
const ABORT: u8 = 0x20;
const COMMIT_PREPARED: u8 = 0x30;
const ABORT_PREPARED: u8 = 0x40;
const ASSIGNMENT: u8 = 0x50;
const OPERATION_MASK: u8 = 0x70;
/// `XLOG_XACT_HAS_INFO`.
const HAS_INFO: u8 = 0x80;

const HAS_DATABASE: u32 = 1 << 0;
const HAS_SUBTRANSACTIONS: u32 = 1 << 1;
const HAS_RELATIONS: u32 = 1 << 2;
const HAS_INVALIDATIONS: u32 = 1 << 3;
const HAS_TWO_PHASE: u32 = 1 << 4;
const HAS_ORIGIN: u32 = 1 << 5;
const HAS_IDENTIFIER: u32 = 1 << 7;
const HAS_DROPPED_STATISTICS: u32 = 1 << 8;

/// `sizeof(SharedInvalidationMessage)`.
const INVALIDATION_BYTES: usize = 16;
/// `sizeof(xl_xact_stats_item)`.
const STATISTICS_ITEM_BYTES: usize = 12;
const RELATION_BYTES: usize = 12;

/// A commit or an abort, of a running or a prepared transaction: `xl_xact_parsed_commit` and `xl_xact_parsed_abort`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransactionEnd<'a> {
    /// Whose end. For a prepared transaction that is not the transaction of the record's header.
    pub transaction: u32,
    /// Committed, or aborted.
    pub is_commit: bool,
    /// It had been prepared.
    pub was_prepared: bool,
    /// When, in PostgreSQL's microseconds; where it was first committed, if it was replicated.
    pub time: i64,
    /// Where the record stands in the log it was replicated from.
    pub origin_lsn: Option<Lsn>,
    subtransactions: &'a [u8],
    dropped: &'a [u8],
}

impl<'a> TransactionEnd<'a> {
    /// `None` if the record does not end a transaction. Follows `ParseCommitRecord` and `ParseAbortRecord` in
    /// `access/rmgrdesc/xactdesc.c`.
    pub fn of(record: &DecodedRecord<'a>) -> Result<Option<TransactionEnd<'a>>, RecordError> {
        if record.header.resource_manager != resource_manager::TRANSACTION {
            return Ok(None);
        }
        let (is_commit, was_prepared) = match record.operation() & OPERATION_MASK {
            COMMIT => (true, false),
            ABORT => (false, false),
            COMMIT_PREPARED => (true, true),
            ABORT_PREPARED => (false, true),
            _ => return Ok(None),
        };
        let mut fields = Fields::new(record.kind()?, record.data);
        let mut end = TransactionEnd {
            transaction: record.header.transaction,
            is_commit,
            was_prepared,
            time: fields.i64("time")?,
            origin_lsn: None,
            subtransactions: &[],
            dropped: &[],
        };
        let has_info = record.operation() & HAS_INFO != 0;
        let info = if has_info { fields.u32("flags")? } else { 0 };
        let has = |flag: u32| info & flag != 0;
        if has(HAS_DATABASE) {
            fields.bytes(8, "database")?;
        }
        if has(HAS_SUBTRANSACTIONS) {
            end.subtransactions = fields.counted(4, "subtransactions")?;
        }
        if has(HAS_RELATIONS) {
            end.dropped = fields.counted(RELATION_BYTES, "dropped relations")?;
        }
        if has(HAS_DROPPED_STATISTICS) {
            fields.counted(STATISTICS_ITEM_BYTES, "dropped statistics")?;
        }
        if is_commit && has(HAS_INVALIDATIONS) {
            fields.counted(INVALIDATION_BYTES, "invalidations")?;
        }
        if has(HAS_TWO_PHASE) {
            end.transaction = fields.u32("prepared transaction")?;
            if has(HAS_IDENTIFIER) {
                fields.terminated("identifier of the prepared transaction")?;
            }
        } else if was_prepared {
            return Err(fields.malformed("it does not name the prepared transaction"));
        }
        if has(HAS_ORIGIN) {
            end.origin_lsn = Some(fields.lsn("origin")?);
            end.time = fields.i64("origin")?;
        }
        Ok(Some(end))
    }

    /// Its subtransactions.
    pub fn subtransactions(&self) -> impl DoubleEndedIterator<Item = u32> + ExactSizeIterator + Clone + 'a {
        u32s(self.subtransactions)
    }

    /// The relations whose files are dropped with it: on commit those it dropped, on abort those it made.
    pub fn dropped(&self) -> impl Iterator<Item = RelationKey> + 'a {
        relations(self.dropped)
    }
}

/// A prepared transaction: the record's main data is the content of its `pg_twophase` file, less the file's checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prepare<'a> {
    /// Which transaction.
    pub transaction: u32,
    /// The content of the file, to which a CRC-32C is appended on disk.
    pub payload: &'a [u8],
    /// Where the record stands in the log it was replicated from; zero if it was not.
    pub origin_lsn: Lsn,
    subtransactions: &'a [u8],
}

impl<'a> Prepare<'a> {
    /// `None` if the record does not prepare a transaction. Follows `ParsePrepareRecord`.
    pub fn of(record: &DecodedRecord<'a>) -> Result<Option<Prepare<'a>>, RecordError> {
        let is_transaction = record.header.resource_manager == resource_manager::TRANSACTION;
        if !is_transaction || record.operation() & OPERATION_MASK != PREPARE {
            return Ok(None);
        }
        let mut fields = Fields::new(record.kind()?, record.data);
        fields.bytes(8, "magic and length")?;
        let transaction = fields.u32("transaction")?;
        // Database, time and owner.
        fields.bytes(4 + 8 + 4, "header")?;
        let subtransactions_count = fields.u32("count of subtransactions")?;
        // Counts of relations, statistics and invalidations, a flag, and padding.
        fields.bytes(5 * 4 + 2, "header")?;
        let identifier_bytes = usize::from(fields.u16("length of the identifier")?);
        let origin_lsn = fields.lsn("origin")?;
        fields.i64("time at the origin")?;
        fields.bytes(identifier_bytes, "identifier")?;
        fields.align(identifier_bytes, "identifier")?;
        let subtransactions = fields.elements(subtransactions_count, 4, "subtransactions")?;
        Ok(Some(Prepare {
            transaction,
            payload: record.data,
            origin_lsn,
            subtransactions,
        }))
    }

    /// Its subtransactions.
    pub fn subtransactions(&self) -> impl Iterator<Item = u32> + 'a {
        u32s(self.subtransactions)
    }
}

/// The subtransactions that an assignment record names: `xl_xact_assignment`.
pub(crate) fn assigned<'a>(
    record: &DecodedRecord<'a>,
    kind: Kind,
) -> Result<impl Iterator<Item = u32> + use<'a>, RecordError> {
    let is_transaction = record.header.resource_manager == resource_manager::TRANSACTION;
    let bytes = if is_transaction && record.operation() & OPERATION_MASK == ASSIGNMENT {
        let mut fields = Fields::new(kind, record.data);
        fields.u32("top-level transaction")?;
        fields.counted(4, "subtransactions")?
    } else {
        &[]
    };
    Ok(u32s(bytes))
}
