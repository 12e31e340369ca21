//! `global/pg_control` of PostgreSQL 15 on x86-64: `ControlFileData` in `catalog/pg_control.h`.

use units::Lsn;
use wal::{CHECKPOINT_BYTES, Checkpoint, Parameters, is_wal_file_size};

use crate::import::BLOCKS_PER_FILE;

/// Bytes of the file.
pub const FILE_BYTES: usize = 8192;
/// `PG_CONTROL_VERSION`.
const VERSION: u32 = 1300;
/// `DB_SHUTDOWNED`.
const SHUT_DOWN: u32 = 1;

const SYSTEM_IDENTIFIER_AT: usize = 0;
const VERSION_AT: usize = 8;
const STATE_AT: usize = 16;
const TIME_AT: usize = 24;
const CHECKPOINT_AT: usize = 32;
const CHECKPOINT_COPY_AT: usize = 40;
const RECOVERY_AT: std::ops::Range<usize> = 136..172;
const PARAMETERS_AT: usize = 172;
const BLOCK_BYTES_AT: usize = 216;
const BLOCKS_PER_FILE_AT: usize = 220;
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
    /// Compiled with other relation files.
    #[error("PostgreSQL was compiled with {0} pages to a relation file instead of {BLOCKS_PER_FILE}")]
    RelationFileSize(u32),
    /// WAL files of a size that PostgreSQL does not have.
    #[error("pg_control speaks of WAL files of {0} bytes, but no cluster has such files")]
    WalFileSize(u32),
    /// Data checksums are on.
    #[error("the cluster was made with data checksums, which the volume has no use for: leave --data-checksums away")]
    DataChecksums,
}

/// A control file whose checksum, version and sizes are right.
///
/// The bytes are kept as they are: what we do not name (the page format's alignment, the authentication nonce) survives
/// in [`ControlFile::shut_down_at`].
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
        if file.u32(BLOCKS_PER_FILE_AT) != BLOCKS_PER_FILE {
            return Err(ControlFileError::RelationFileSize(file.u32(BLOCKS_PER_FILE_AT)));
        }
        if !is_wal_file_size(file.wal_file_bytes()) {
            return Err(ControlFileError::WalFileSize(file.u32(WAL_FILE_BYTES_AT)));
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

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) const WAL_FILE_BYTES: u64 = 1 << 20;

    /// A control file with these values at these places.
    pub(crate) fn file(values: &[(usize, u32)]) -> Vec<u8> {
        let sizes = [
            (VERSION_AT, VERSION),
            (BLOCK_BYTES_AT, 8192),
            (BLOCKS_PER_FILE_AT, BLOCKS_PER_FILE),
            (WAL_BLOCK_BYTES_AT, 8192),
            (WAL_FILE_BYTES_AT, WAL_FILE_BYTES as u32),
        ];
        let mut bytes = vec![0; FILE_BYTES];
        for (at, value) in sizes.iter().chain(values) {
            bytes[*at..*at + 4].copy_from_slice(&value.to_le_bytes());
        }
        seal(&mut bytes);
        bytes
    }

    fn seal(bytes: &mut [u8]) {
        let checksum = crc32c::crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&checksum.to_le_bytes());
    }

    #[test]
    fn what_the_volume_cannot_serve_is_refused() {
        use ControlFileError::*;
        let refusal = |at, value| ControlFile::parse(&file(&[(at, value)])).err();
        assert_eq!(refusal(VERSION_AT, 1300), None);
        assert_eq!(refusal(VERSION_AT, 1700), Some(Version(1700)));
        let (what, found) = ("page size", 16384);
        assert_eq!(refusal(BLOCK_BYTES_AT, 16384), Some(BlockSize { what, found }));
        let (what, found) = ("WAL page size", 4096);
        assert_eq!(refusal(WAL_BLOCK_BYTES_AT, 4096), Some(BlockSize { what, found }));
        assert_eq!(refusal(BLOCKS_PER_FILE_AT, 1), Some(RelationFileSize(1)));
        assert_eq!(refusal(WAL_FILE_BYTES_AT, 0), Some(WalFileSize(0)));
        assert_eq!(refusal(WAL_FILE_BYTES_AT, 3 << 20), Some(WalFileSize(3 << 20)));
        assert_eq!(refusal(CHECKSUM_VERSION_AT, 1), Some(DataChecksums));
        let mut damaged = file(&[]);
        damaged[CHECKPOINT_AT] ^= 1;
        assert_eq!(ControlFile::parse(&damaged), Err(Checksum));
        assert_eq!(ControlFile::parse(&damaged[..296]), Err(Length(296)));
    }

    /// Of the file of a running server all but what says where and how it was shut down stays, bit by bit.
    #[test]
    fn shutting_down_changes_what_it_names_and_nothing_else() {
        let mut bytes = file(&[]);
        for (at, byte) in bytes[..CRC_AT].iter_mut().enumerate() {
            if !(VERSION_AT..VERSION_AT + 4).contains(&at) && !(BLOCK_BYTES_AT..256).contains(&at) {
                *byte = 0xA5;
            }
        }
        seal(&mut bytes);
        let control = ControlFile::parse(&bytes).expect("all that is checked is right");
        assert!(!control.is_shut_down());
        let checkpoint = Checkpoint {
            redo: Lsn::from_raw(0x1_0000_0028),
            next_transaction: 1 << 33 | 5,
            ..Checkpoint::default()
        };
        let parameters = Parameters {
            connections_max: 77,
            wal_level: 2,
            track_commit_timestamp: true,
            ..Parameters::default()
        };
        let after = control.shut_down_at(checkpoint.redo, &checkpoint, &parameters, 1_700_000_000);
        let unlogged_at = CHECKPOINT_COPY_AT + CHECKPOINT_BYTES;
        for kept in [
            0..STATE_AT,
            unlogged_at..RECOVERY_AT.start,
            204..CRC_AT,
            CRC_AT + 4..FILE_BYTES,
        ] {
            assert_eq!(after[kept.clone()], bytes[kept]);
        }
        let control = ControlFile::parse(&after).expect("it is a control file");
        assert!(control.is_shut_down());
        assert_eq!(control.checkpoint_start(), checkpoint.redo);
        assert_eq!(control.checkpoint(), checkpoint);
        assert_eq!(control.parameters(), parameters);
        let again = control.shut_down_at(checkpoint.redo, &checkpoint, &parameters, 1_700_000_000);
        assert_eq!(again, after);
    }

    proptest! {
        /// Even with a right checksum: nobody panics over what a control file says.
        #[test]
        fn arbitrary_control_files_are_read_or_refused(noise in prop::collection::vec(any::<u8>(), CRC_AT)) {
            let mut bytes = vec![0; FILE_BYTES];
            bytes[..CRC_AT].copy_from_slice(&noise);
            seal(&mut bytes);
            prop_assert!(ControlFile::parse(&bytes).is_err());
            bytes[VERSION_AT..VERSION_AT + 4].copy_from_slice(&VERSION.to_le_bytes());
            bytes[BLOCK_BYTES_AT..232].copy_from_slice(&file(&[])[BLOCK_BYTES_AT..232]);
            bytes[CHECKSUM_VERSION_AT..CHECKSUM_VERSION_AT + 4].fill(0);
            seal(&mut bytes);
            let control = ControlFile::parse(&bytes).expect("what is checked is right");
            control.shut_down_at(Lsn::from_raw(0), &control.checkpoint(), &control.parameters(), 0);
        }
    }
}
