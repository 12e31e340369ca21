//! The engine's counters as of the end of a record.
//!
//! Whoever knows the marks at a place in the log can make the checkpoint that PostgreSQL would write if it were shut
//! down there, and so start an engine there without recovery. They follow the log as PostgreSQL's own redo does, so
//! they travel with every flush.
//!
//! Invariants:
//! - After [`Marks::advance`] failed, the marks are what they were.
//! - `next_transaction` is beyond every transaction that any record so far named.

use units::Lsn;

use crate::checkpoint::{Checkpoint, Parameters};
use crate::state_change::{StateChange, state_changes};
use crate::transaction::assigned;
use crate::{DecodedRecord, MultixactCreation, Prepare, RecordError, TransactionEnd, resource_manager};

/// `FirstNormalTransactionId`; those below have no status of their own.
const FIRST_TRANSACTION: u32 = 3;
const RUNNING_TRANSACTIONS: u8 = 0x10;
/// The first byte of encoded marks.
const VERSION: u8 = 1;

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Marks {
    /// The end of the record that these marks are as of: their LSN.
    pub end: Lsn,
    /// Where that record begins: the next one's `xl_prev`.
    pub last_record: Lsn,
    /// Where the last checkpoint record begins.
    pub checkpoint: Lsn,
    /// What a shutdown checkpoint at `end` would say, but for its place and time. `redo` is the last checkpoint's.
    pub state: Checkpoint,
    /// The engine's parameters.
    pub parameters: Parameters,
}

/// The bytes are not encoded marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeMarksError {
    /// They end too early.
    #[error("the marks are cut short")]
    Short,
    /// Written by another release.
    #[error("marks of version {0}, but only {VERSION} is known")]
    Version(u8),
    /// A number is larger than it can be.
    #[error("a number among the marks is out of range")]
    Range,
    /// Something follows.
    #[error("{0} bytes follow the marks")]
    Trailing(usize),
}

impl Marks {
    /// The marks after a checkpoint record that stands from `start` to `end`. `parameters` come from `pg_control`.
    pub fn from_checkpoint(checkpoint: &Checkpoint, parameters: Parameters, start: Lsn, end: Lsn) -> Marks {
        Marks {
            end,
            last_record: start,
            checkpoint: start,
            state: Checkpoint {
                oldest_active_transaction: 0,
                ..*checkpoint
            },
            parameters,
        }
    }

    /// The checkpoint of an engine that is shut down here, its record beginning at `start`. `time` is in seconds since
    /// 1970.
    pub fn shutdown_checkpoint(&self, start: Lsn, time: i64) -> Checkpoint {
        Checkpoint {
            redo: start,
            previous_timeline: self.state.timeline,
            time,
            oldest_active_transaction: 0,
            ..self.state
        }
    }

    /// Follows the log over one record, from `start` to `end`.
    pub fn advance(&mut self, record: &DecodedRecord<'_>, start: Lsn, end: Lsn) -> Result<(), RecordError> {
        let mut next = Marks {
            end,
            last_record: start,
            ..*self
        };
        next.pass_transactions(record)?;
        next.pass_multixact(record)?;
        // Ends of transactions and block references change no mark; do not list them.
        let has_state = matches!(
            record.header.resource_manager,
            resource_manager::XLOG
                | resource_manager::CLOG
                | resource_manager::COMMIT_TIMESTAMP
                | resource_manager::MULTIXACT
        );
        if has_state {
            let mut changes = Vec::new();
            state_changes(record, &mut changes)?;
            for change in &changes {
                next.apply(change, start);
            }
        }
        *self = next;
        Ok(())
    }

    /// Every transaction the record names is in the past.
    fn pass_transactions(&mut self, record: &DecodedRecord<'_>) -> Result<(), RecordError> {
        let kind = record.kind()?;
        self.pass(record.header.transaction);
        assigned(record, kind)?.for_each(|transaction| self.pass(transaction));
        if let Some(prepare) = Prepare::of(record)? {
            self.pass(prepare.transaction);
            prepare.subtransactions().for_each(|transaction| self.pass(transaction));
        }
        if let Some(end) = TransactionEnd::of(record)? {
            self.pass(end.transaction);
            end.subtransactions().for_each(|transaction| self.pass(transaction));
            if end.is_commit && self.parameters.track_commit_timestamp {
                // TransactionTreeSetCommitTsData: the last subtransaction counts as the newest.
                let newest = end.subtransactions().next_back().unwrap_or(end.transaction);
                if precedes(self.state.newest_commit_timestamp, newest) {
                    self.state.newest_commit_timestamp = newest;
                }
            }
        }
        if record.header.resource_manager == resource_manager::STANDBY && record.operation() == RUNNING_TRANSACTIONS {
            let mut fields = crate::fields::Fields::new(kind, record.data);
            // Counts, a flag and padding.
            fields.bytes(12, "counts")?;
            self.pass(fields.u32("next transaction")?.wrapping_sub(1));
        }
        Ok(())
    }

    /// `AdvanceNextFullTransactionIdPastXid` in `access/transam/varsup.c`.
    fn pass(&mut self, transaction: u32) {
        let next = self.state.next_transaction as u32;
        if transaction < FIRST_TRANSACTION || precedes(transaction, next) {
            return;
        }
        let wraps = self.state.next_transaction >> 32;
        let after = transaction.wrapping_add(1).max(FIRST_TRANSACTION);
        let wraps = if after < next {
            wraps.wrapping_add(1) & 0xFFFF_FFFF
        } else {
            wraps
        };
        self.state.next_transaction = wraps << 32 | u64::from(after);
    }

    /// `multixact_redo`, and `MultiXactAdvanceNextMXact` beneath it.
    fn pass_multixact(&mut self, record: &DecodedRecord<'_>) -> Result<(), RecordError> {
        if let Some(creation) = MultixactCreation::of(record)? {
            self.advance_multixact(creation.multixact.wrapping_add(1), creation.next_offset());
            creation.members().for_each(|member| self.pass(member.transaction));
        }
        Ok(())
    }

    fn advance_multixact(&mut self, next: u32, next_offset: u32) {
        if follows(next, self.state.next_multixact) {
            self.state.next_multixact = next;
        }
        if follows(next_offset, self.state.next_multixact_offset) {
            self.state.next_multixact_offset = next_offset;
        }
    }

    fn apply(&mut self, change: &StateChange<'_>, start: Lsn) {
        match *change {
            StateChange::Checkpoint {
                checkpoint,
                is_shutdown,
            } => {
                self.checkpoint = start;
                if is_shutdown {
                    self.state = Checkpoint {
                        oldest_active_transaction: 0,
                        ..checkpoint
                    };
                } else {
                    self.pass_online_checkpoint(&checkpoint);
                }
            }
            StateChange::NextOid { next_oid } => self.state.next_oid = next_oid,
            StateChange::ParametersChanged(parameters) => self.change_parameters(parameters),
            StateChange::FullPageWritesChanged { full_page_writes } => self.state.full_page_writes = full_page_writes,
            StateChange::EndOfRecovery {
                timeline,
                previous_timeline,
            } => {
                self.state.timeline = timeline;
                self.state.previous_timeline = previous_timeline;
            }
            StateChange::TransactionStatusTruncated {
                oldest_transaction,
                database,
                ..
            } => self.advance_oldest_transaction(oldest_transaction, database),
            StateChange::CommitTimestampsTruncated { oldest_transaction, .. } => {
                // AdvanceOldestCommitTsXid.
                let oldest = &mut self.state.oldest_commit_timestamp;
                if *oldest != 0 && precedes(*oldest, oldest_transaction) {
                    *oldest = oldest_transaction;
                }
            }
            StateChange::MultixactsTruncated {
                oldest_multixact,
                database,
                ..
            } => {
                self.state.oldest_multixact = oldest_multixact;
                self.state.oldest_multixact_database = database;
            }
            _ => {}
        }
    }

    /// `xlog_redo`: an online checkpoint's counters are minima; its next object identifier is out of date.
    fn pass_online_checkpoint(&mut self, checkpoint: &Checkpoint) {
        let state = &mut self.state;
        state.redo = checkpoint.redo;
        state.time = checkpoint.time;
        state.full_page_writes = checkpoint.full_page_writes;
        state.timeline = checkpoint.timeline;
        state.previous_timeline = checkpoint.previous_timeline;
        state.next_transaction = state.next_transaction.max(checkpoint.next_transaction);
        if follows(checkpoint.oldest_multixact, state.oldest_multixact) {
            state.oldest_multixact = checkpoint.oldest_multixact;
            state.oldest_multixact_database = checkpoint.oldest_multixact_database;
        }
        self.advance_multixact(checkpoint.next_multixact, checkpoint.next_multixact_offset);
        self.advance_oldest_transaction(checkpoint.oldest_transaction, checkpoint.oldest_transaction_database);
    }

    fn advance_oldest_transaction(&mut self, oldest: u32, database: u32) {
        if precedes(self.state.oldest_transaction, oldest) {
            self.state.oldest_transaction = oldest;
            self.state.oldest_transaction_database = database;
        }
    }

    /// `CommitTsParameterChange`, and `ActivateCommitTs` and `DeactivateCommitTs` beneath it.
    fn change_parameters(&mut self, parameters: Parameters) {
        let state = &mut self.state;
        if !parameters.track_commit_timestamp {
            state.oldest_commit_timestamp = 0;
            state.newest_commit_timestamp = 0;
        } else if state.oldest_commit_timestamp == 0 {
            state.oldest_commit_timestamp = state.next_transaction as u32;
            state.newest_commit_timestamp = state.next_transaction as u32;
        }
        self.parameters = parameters;
    }

    /// The marks as a flush carries them, about fifty bytes. The first byte is the version; then follow numbers, seven
    /// bits a byte, the lowest first, the eighth bit set if the number goes on:
    ///
    /// | number | is |
    /// |---|---|
    /// | 0 | `end` |
    /// | 1, 2 | how far `last_record` and `checkpoint` begin before it |
    /// | 3 | how far the checkpoint's `redo` is before `checkpoint` |
    /// | 4, 5 | timeline, and how many timelines before it the previous one is |
    /// | 6, 7, 8, 9 | next transaction, object identifier, multixact, multixact offset |
    /// | 10, 11, 12, 13 | oldest transaction, its database, oldest multixact, its database |
    /// | 14 | time of the checkpoint |
    /// | 15, 16 | oldest and newest transaction with a commit timestamp |
    /// | 17 to 21 | connections, worker processes, WAL senders, prepared transactions, locks per transaction |
    /// | 22 | bit 0 full page writes, 1 `wal_log_hints`, 2 `track_commit_timestamp`, from 3 on `wal_level` |
    ///
    /// Differences and the time wrap around at 64 bits (timelines at 32), so that every value survives.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.push(VERSION);
        for number in self.numbers() {
            let mut rest = number;
            while 0x80 <= rest {
                bytes.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            bytes.push(rest as u8);
        }
    }

    /// The inverse of [`Marks::encode`]; `bytes` are nothing but the marks.
    pub fn decode(bytes: &[u8]) -> Result<Marks, DecodeMarksError> {
        let (version, mut rest) = bytes.split_first().ok_or(DecodeMarksError::Short)?;
        if *version != VERSION {
            return Err(DecodeMarksError::Version(*version));
        }
        let mut numbers = [0; NUMBERS];
        for number in &mut numbers {
            *number = varint(&mut rest)?;
        }
        if !rest.is_empty() {
            return Err(DecodeMarksError::Trailing(rest.len()));
        }
        Marks::from_numbers(&numbers)
    }

    /// What is encoded, in order. Places in the log are relative to the one before them; they are near each other.
    fn numbers(&self) -> [u64; NUMBERS] {
        let (state, parameters) = (&self.state, &self.parameters);
        let flags = u64::from(state.full_page_writes)
            | u64::from(parameters.wal_log_hints) << 1
            | u64::from(parameters.track_commit_timestamp) << 2
            | u64::from(parameters.wal_level) << 3;
        [
            self.end.raw(),
            self.end.raw().wrapping_sub(self.last_record.raw()),
            self.end.raw().wrapping_sub(self.checkpoint.raw()),
            self.checkpoint.raw().wrapping_sub(state.redo.raw()),
            state.timeline.into(),
            u64::from(state.timeline.wrapping_sub(state.previous_timeline)),
            state.next_transaction,
            state.next_oid.into(),
            state.next_multixact.into(),
            state.next_multixact_offset.into(),
            state.oldest_transaction.into(),
            state.oldest_transaction_database.into(),
            state.oldest_multixact.into(),
            state.oldest_multixact_database.into(),
            state.time.cast_unsigned(),
            state.oldest_commit_timestamp.into(),
            state.newest_commit_timestamp.into(),
            parameters.connections_max.into(),
            parameters.worker_processes_max.into(),
            parameters.wal_senders_max.into(),
            parameters.prepared_transactions_max.into(),
            parameters.locks_per_transaction_max.into(),
            flags,
        ]
    }

    fn from_numbers(numbers: &[u64; NUMBERS]) -> Result<Marks, DecodeMarksError> {
        let small = |index: usize| u32::try_from(numbers[index]).map_err(|_| DecodeMarksError::Range);
        let end = numbers[0];
        let checkpoint = end.wrapping_sub(numbers[2]);
        let timeline = small(4)?;
        let flags = numbers[22];
        if 3 <= flags >> 3 {
            return Err(DecodeMarksError::Range);
        }
        Ok(Marks {
            end: Lsn::from_raw(end),
            last_record: Lsn::from_raw(end.wrapping_sub(numbers[1])),
            checkpoint: Lsn::from_raw(checkpoint),
            state: Checkpoint {
                redo: Lsn::from_raw(checkpoint.wrapping_sub(numbers[3])),
                timeline,
                previous_timeline: timeline.wrapping_sub(small(5)?),
                full_page_writes: flags & 1 != 0,
                next_transaction: numbers[6],
                next_oid: small(7)?,
                next_multixact: small(8)?,
                next_multixact_offset: small(9)?,
                oldest_transaction: small(10)?,
                oldest_transaction_database: small(11)?,
                oldest_multixact: small(12)?,
                oldest_multixact_database: small(13)?,
                time: numbers[14].cast_signed(),
                oldest_commit_timestamp: small(15)?,
                newest_commit_timestamp: small(16)?,
                oldest_active_transaction: 0,
            },
            parameters: Parameters {
                connections_max: small(17)?,
                worker_processes_max: small(18)?,
                wal_senders_max: small(19)?,
                prepared_transactions_max: small(20)?,
                locks_per_transaction_max: small(21)?,
                wal_level: (flags >> 3) as u8,
                wal_log_hints: flags & 2 != 0,
                track_commit_timestamp: flags & 4 != 0,
            },
        })
    }
}

/// How many numbers the encoded marks have.
const NUMBERS: usize = 23;

fn varint(bytes: &mut &[u8]) -> Result<u64, DecodeMarksError> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(DecodeMarksError::Short)?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7F);
        if shift == 63 && 1 < bits {
            return Err(DecodeMarksError::Range);
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(DecodeMarksError::Range)
}

/// `TransactionIdPrecedes`: transactions stand on a circle, but the first three are before all others.
fn precedes(left: u32, right: u32) -> bool {
    if left < FIRST_TRANSACTION || right < FIRST_TRANSACTION {
        return left < right;
    }
    left.wrapping_sub(right).cast_signed() < 0
}

/// `MultiXactIdPrecedes` and `MultiXactOffsetPrecedes`, turned around: all of them stand on the circle.
fn follows(left: u32, right: u32) -> bool {
    right.wrapping_sub(left).cast_signed() < 0
}
