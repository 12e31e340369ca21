//! `global/pg_control` of PostgreSQL 15 on x86-64: `ControlFileData` in `catalog/pg_control.h`.

use units::Lsn;
use wal::{CHECKPOINT_BYTES, Checkpoint, Parameters};

/// Bytes of the file.
pub const FILE_BYTES: usize = 8192;
/// `PG_CONTROL_VERSION`.
const VERSION: u32 = 1300;
/// `DB_SHUTDOWNED`.
const SHUT_DOWN: u32 = 1;

const SYSTEM_IDENTIFIER_AT: usize = 0;
const VERSION_AT: usize = 8;
const CATALOG_VERSION_AT: usize = 12;
const STATE_AT: usize = 16;
const TIME_AT: usize = 24;
const CHECKPOINT_AT: usize = 32;
const CHECKPOINT_COPY_AT: usize = 40;
const RECOVERY_AT: std::ops::Range<usize> = 136..172;
const PARAMETERS_AT: usize = 172;
const BLOCK_BYTES_AT: usize = 216;
const WAL_BLOCK_BYTES_AT: usize = 224;
const WAL_FILE_BYTES_AT: usize = 228;
const CHECKSUM_VERSION_AT: usize = 252;
const CRC_AT: usize = 288;

/// Why a control file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlFileError {
    /// Its length is another.
    #[error("pg_control has {0} bytes instead of {FILE_BYTES}")]
    Length(usize),
    /// It belongs to another major version.
    #[error("pg_control has version {0}; PostgreSQL 15 writes version {VERSION}")]
    Version(u32),
    /// It is damaged.
    #[error("pg_control is damaged: its checksum is another")]
    Checksum,
    /// Compiled with other sizes.
    #[error("PostgreSQL was compiled with a {what} of {found} bytes instead of 8192")]
    BlockSize {
        /// Which.
        what: &'static str,
        /// How large.
        found: u32,
    },
    /// Data checksums are on.
    #[error("the cluster was made with data checksums, which the volume has no use for: leave --data-checksums away")]
    DataChecksums,
}

/// A control file whose checksum and version are right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlFile {
    bytes: Vec<u8>,
}

impl ControlFile {
    /// Checks the file.
    pub fn parse(bytes: &[u8]) -> Result<ControlFile, ControlFileError> {
        if bytes.len() != FILE_BYTES {
            return Err(ControlFileError::Length(bytes.len()));
        }
        let file = ControlFile { bytes: bytes.to_vec() };
        if file.u32(VERSION_AT) != VERSION {
            return Err(ControlFileError::Version(file.u32(VERSION_AT)));
        }
        if file.u32(CRC_AT) != crc32c::crc32c(&bytes[..CRC_AT]) {
            return Err(ControlFileError::Checksum);
        }
        for (what, at) in [("page size", BLOCK_BYTES_AT), ("WAL page size", WAL_BLOCK_BYTES_AT)] {
            if file.u32(at) != 8192 {
                return Err(ControlFileError::BlockSize {
                    what,
                    found: file.u32(at),
                });
            }
        }
        if file.u32(CHECKSUM_VERSION_AT) != 0 {
            return Err(ControlFileError::DataChecksums);
        }
        Ok(file)
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }

    fn array<const COUNT: usize>(&self, at: usize) -> [u8; COUNT] {
        let mut array = [0; COUNT];
        array.copy_from_slice(&self.bytes[at..at + COUNT]);
        array
    }

    /// Identity of the PostgreSQL cluster.
    pub fn system_identifier(&self) -> u64 {
        self.u64(SYSTEM_IDENTIFIER_AT)
    }

    /// Version of the system catalogs.
    pub fn catalog_version(&self) -> u32 {
        self.u32(CATALOG_VERSION_AT)
    }

    /// Whether the cluster was shut down cleanly.
    pub fn is_shut_down(&self) -> bool {
        self.u32(STATE_AT) == SHUT_DOWN
    }

    /// Where the last checkpoint record begins.
    pub fn checkpoint_start(&self) -> Lsn {
        Lsn::from_raw(self.u64(CHECKPOINT_AT))
    }

    /// The last checkpoint.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint::decode(&self.array::<CHECKPOINT_BYTES>(CHECKPOINT_COPY_AT))
    }

    /// Bytes of a WAL file.
    pub fn wal_file_bytes(&self) -> u64 {
        u64::from(self.u32(WAL_FILE_BYTES_AT))
    }

    /// The parameters that standbys must match.
    pub fn parameters(&self) -> Parameters {
        let number = |index: usize| self.u32(PARAMETERS_AT + 4 * index);
        Parameters {
            wal_level: number(0) as u8,
            wal_log_hints: number(1) & 0xFF != 0,
            connections_max: number(2),
            worker_processes_max: number(3),
            wal_senders_max: number(4),
            prepared_transactions_max: number(5),
            locks_per_transaction_max: number(6),
            track_commit_timestamp: number(7) & 0xFF != 0,
        }
    }

    /// The file of an engine that was shut down with this checkpoint, whose record begins at `start`. `time`: seconds
    /// since 1970.
    pub fn shut_down_at(&self, start: Lsn, checkpoint: &Checkpoint, parameters: &Parameters, time: i64) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(STATE_AT, &SHUT_DOWN.to_le_bytes());
        put(TIME_AT, &time.to_le_bytes());
        put(CHECKPOINT_AT, &start.raw().to_le_bytes());
        put(CHECKPOINT_COPY_AT, &checkpoint.encode());
        put(RECOVERY_AT.start, &[0; RECOVERY_AT.end - RECOVERY_AT.start]);
        let numbers = [
            u32::from(parameters.wal_level),
            u32::from(parameters.wal_log_hints),
            parameters.connections_max,
            parameters.worker_processes_max,
            parameters.wal_senders_max,
            parameters.prepared_transactions_max,
            parameters.locks_per_transaction_max,
            u32::from(parameters.track_commit_timestamp),
        ];
        for (index, number) in numbers.iter().enumerate() {
            put(PARAMETERS_AT + 4 * index, &number.to_le_bytes());
        }
        let checksum = crc32c::crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }
}
