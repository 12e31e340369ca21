//! What a checkpoint record says, and what the engine's parameters are.

use units::Lsn;

use crate::fields::Fields;
use crate::layout::encode_record;
use crate::{Kind, RecordError, resource_manager};

/// Bytes of a checkpoint record's main data: `sizeof(CheckPoint)`.
pub const CHECKPOINT_BYTES: usize = 88;
const CHECKPOINT_SHUTDOWN: u8 = 0x00;

/// `CheckPoint` in `catalog/pg_control.h`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Checkpoint {
    /// Where redo would begin. Of a shutdown checkpoint, where its record begins.
    pub redo: Lsn,
    /// PostgreSQL's timeline.
    pub timeline: u32,
    /// The timeline before, if this checkpoint begins a new one; otherwise the same.
    pub previous_timeline: u32,
    /// Whether pages are logged whole when first changed after a checkpoint.
    pub full_page_writes: bool,
    /// The next transaction, its wraparounds counted in the upper half.
    pub next_transaction: u64,
    /// The next object identifier.
    pub next_oid: u32,
    /// The next multixact.
    pub next_multixact: u32,
    /// Where its members will begin.
    pub next_multixact_offset: u32,
    /// The oldest transaction that any page may name unfrozen.
    pub oldest_transaction: u32,
    /// In which database.
    pub oldest_transaction_database: u32,
    /// The oldest multixact that any page may name.
    pub oldest_multixact: u32,
    /// In which database.
    pub oldest_multixact_database: u32,
    /// When, in seconds since 1970.
    pub time: i64,
    /// The oldest transaction with a commit timestamp, or zero.
    pub oldest_commit_timestamp: u32,
    /// The newest one, or zero.
    pub newest_commit_timestamp: u32,
    /// The oldest running transaction; zero of a shutdown.
    pub oldest_active_transaction: u32,
}

impl Checkpoint {
    /// The struct as it stands in the record and in `pg_control`, alignment and all.
    pub fn encode(&self) -> [u8; CHECKPOINT_BYTES] {
        let mut bytes = [0; CHECKPOINT_BYTES];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &self.redo.raw().to_le_bytes());
        put(8, &self.timeline.to_le_bytes());
        put(12, &self.previous_timeline.to_le_bytes());
        put(16, &[u8::from(self.full_page_writes)]);
        put(24, &self.next_transaction.to_le_bytes());
        put(32, &self.next_oid.to_le_bytes());
        put(36, &self.next_multixact.to_le_bytes());
        put(40, &self.next_multixact_offset.to_le_bytes());
        put(44, &self.oldest_transaction.to_le_bytes());
        put(48, &self.oldest_transaction_database.to_le_bytes());
        put(52, &self.oldest_multixact.to_le_bytes());
        put(56, &self.oldest_multixact_database.to_le_bytes());
        put(64, &self.time.to_le_bytes());
        put(72, &self.oldest_commit_timestamp.to_le_bytes());
        put(76, &self.newest_commit_timestamp.to_le_bytes());
        put(80, &self.oldest_active_transaction.to_le_bytes());
        bytes
    }

    /// The inverse of [`Checkpoint::encode`]; reads the field of `pg_control` as well.
    pub fn decode(bytes: &[u8; CHECKPOINT_BYTES]) -> Checkpoint {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at + 4)) << 32 | u64::from(u32_at(at));
        Checkpoint {
            redo: Lsn::from_raw(u64_at(0)),
            timeline: u32_at(8),
            previous_timeline: u32_at(12),
            full_page_writes: bytes[16] != 0,
            next_transaction: u64_at(24),
            next_oid: u32_at(32),
            next_multixact: u32_at(36),
            next_multixact_offset: u32_at(40),
            oldest_transaction: u32_at(44),
            oldest_transaction_database: u32_at(48),
            oldest_multixact: u32_at(52),
            oldest_multixact_database: u32_at(56),
            time: u64_at(64).cast_signed(),
            oldest_commit_timestamp: u32_at(72),
            newest_commit_timestamp: u32_at(76),
            oldest_active_transaction: u32_at(80),
        }
    }

    /// The record of a shutdown with this checkpoint. `previous` is where the record before it begins.
    pub fn shutdown_record(&self, previous: Lsn) -> Vec<u8> {
        encode_record(resource_manager::XLOG, CHECKPOINT_SHUTDOWN, 0, previous, &self.encode())
    }

    pub(crate) fn of(kind: Kind, data: &[u8]) -> Result<Checkpoint, RecordError> {
        let short = RecordError::Short {
            kind,
            field: "checkpoint",
        };
        data.first_chunk().map(Checkpoint::decode).ok_or(short)
    }
}

/// The parameters that the log must fit: `xl_parameter_change`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Parameters {
    /// `max_connections`.
    pub connections_max: u32,
    /// `max_worker_processes`.
    pub worker_processes_max: u32,
    /// `max_wal_senders`.
    pub wal_senders_max: u32,
    /// `max_prepared_transactions`.
    pub prepared_transactions_max: u32,
    /// `max_locks_per_transaction`.
    pub locks_per_transaction_max: u32,
    /// `wal_level`: 0 minimal, 1 replica, 2 logical.
    pub wal_level: u8,
    /// `wal_log_hints`.
    pub wal_log_hints: bool,
    /// `track_commit_timestamp`.
    pub track_commit_timestamp: bool,
}

impl Parameters {
    pub(crate) fn of(kind: Kind, data: &[u8]) -> Result<Parameters, RecordError> {
        let mut fields = Fields::new(kind, data);
        let mut next = || fields.u32("parameters");
        let [connections, workers, senders, prepared, locks, level] =
            [next()?, next()?, next()?, next()?, next()?, next()?];
        let wal_level = u8::try_from(level).ok().filter(|level| *level <= 2);
        Ok(Parameters {
            connections_max: connections,
            worker_processes_max: workers,
            wal_senders_max: senders,
            prepared_transactions_max: prepared,
            locks_per_transaction_max: locks,
            wal_level: wal_level.ok_or(fields.malformed("there is no such wal_level"))?,
            wal_log_hints: fields.u8("parameters")? != 0,
            track_commit_timestamp: fields.u8("parameters")? != 0,
        })
    }
}
