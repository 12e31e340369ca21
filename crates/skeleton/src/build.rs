//! A data directory that starts without recovery.

use std::collections::{BTreeMap, BTreeSet};

use units::{Lsn, Page, PageKey, RelationKey};
use wal::{LONG_HEADER_BYTES, Marks, PageHeader, PageWriter, WAL_PAGE_BYTES, page_flag, record_end, record_start};

use crate::ControlFile;
use crate::tablespaces::{self, folder};
use crate::{origins, status_files};

/// What `PG_VERSION` says.
const VERSION: &[u8] = b"15\n";

/// The directories of a data directory.
const DIRECTORIES: &[&str] = &[
    "base",
    "global",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical/mappings",
    "pg_logical/snapshots",
    "pg_multixact/members",
    "pg_multixact/offsets",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_twophase",
    "pg_wal/archive_status",
    "pg_xact",
];

/// What a skeleton is made from, all as of the end of the log.
#[derive(Debug)]
pub struct SkeletonInputs {
    /// The control file of the import.
    pub control: ControlFile,
    /// The engine's counters.
    pub marks: Marks,
    /// The page on which the log ends, from its beginning up to the end. Empty if the log ends at a page's end.
    pub last_page: Vec<u8>,
    /// (tablespace, database) of every database; the shared one has zero.
    pub databases: Vec<(u32, u32)>,
    /// (tablespace, database, content).
    pub relation_maps: Vec<(u32, u32, Vec<u8>)>,
    /// (transaction, file less its checksum).
    pub prepared: Vec<(u32, Vec<u8>)>,
    /// Tablespaces that users made.
    pub tablespaces: BTreeSet<u32>,
    /// Relations in them. Each gets an empty file, as when it was made: by its files PostgreSQL tells whether a tablespace
    /// is empty, and which databases use it.
    pub in_tablespaces: BTreeSet<RelationKey>,
    /// How far each replication origin was replayed.
    pub origins: BTreeMap<u16, Lsn>,
    /// Transaction-status pages: [`status_files::needed`] and [`status_files::needed_members`].
    pub status_pages: BTreeMap<PageKey, Page>,
    /// INIT forks with their pages: unlogged relations begin anew as them.
    pub init_forks: Vec<(RelationKey, Vec<Page>)>,
    /// Seconds since 1970.
    pub time: i64,
}

/// The record that the skeleton's log ends with. It has to be shipped before PostgreSQL starts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckpointRecord {
    /// Where it begins.
    pub start: Lsn,
    /// Its LSN.
    pub end: Lsn,
    /// The record.
    pub bytes: Vec<u8>,
}

/// A part of a WAL file; the rest of the file is zeros.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WalPiece {
    /// Path of the file.
    pub path: String,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Where the piece stands in it.
    pub offset: u64,
    /// The piece.
    pub bytes: Vec<u8>,
}

/// A data directory, less the settings.
#[derive(Debug)]
pub struct Skeleton {
    /// Directories to make.
    pub directories: Vec<String>,
    /// Files to write.
    pub files: Vec<(String, Vec<u8>)>,
    /// The log.
    pub wal: Vec<WalPiece>,
    /// Its last record.
    pub checkpoint: CheckpointRecord,
}

/// Why no skeleton can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The last page is not the one on which the log ends.
    #[error("{found} bytes were given of the last WAL page, which ends at {end}")]
    LastPage {
        /// The end of the log.
        end: Lsn,
        /// How many bytes there are.
        found: usize,
    },
}

/// Path of the WAL file that holds `start`: `XLogFileName` in `access/xlog_internal.h`.
pub fn wal_file(timeline: u32, start: Lsn, file_bytes: u64) -> String {
    let number = start.raw() / file_bytes;
    let per_id = (1u64 << 32) / file_bytes;
    format!("pg_wal/{timeline:08X}{:08X}{:08X}", number / per_id, number % per_id)
}

impl Skeleton {
    /// Makes it. PostgreSQL then finds itself shut down at a checkpoint and goes on right behind it.
    pub fn build(inputs: SkeletonInputs) -> Result<Skeleton, BuildError> {
        let marks = &inputs.marks;
        let file_bytes = inputs.control.wal_file_bytes();
        let checkpoint = checkpoint(marks, file_bytes, inputs.time);
        let state = marks.shutdown_checkpoint(checkpoint.start, inputs.time);
        let mut directories: Vec<String> = DIRECTORIES.iter().map(|name| (*name).to_owned()).collect();
        let mut files = vec![("PG_VERSION".to_owned(), VERSION.to_vec())];
        directories.extend(
            inputs
                .tablespaces
                .iter()
                .map(|tablespace| tablespaces::directory(*tablespace)),
        );
        for (tablespace, database) in &inputs.databases {
            let folder = folder(*tablespace, *database);
            files.push((format!("{folder}/PG_VERSION"), VERSION.to_vec()));
            directories.push(folder);
        }
        for (tablespace, database, map) in &inputs.relation_maps {
            let folder = folder(*tablespace, *database);
            files.push((format!("{folder}/pg_filenode.map"), map.clone()));
        }
        let places = inputs.in_tablespaces.iter();
        let places: BTreeSet<(u32, u32)> = places
            .map(|relation| (relation.tablespace, relation.database))
            .collect();
        directories.extend(
            places
                .into_iter()
                .map(|(tablespace, database)| folder(tablespace, database)),
        );
        let unlogged: BTreeSet<RelationKey> = inputs.init_forks.iter().map(|(relation, _)| *relation).collect();
        let empty = inputs.in_tablespaces.difference(&unlogged);
        files.extend(empty.map(|relation| (tablespaces::file(*relation), Vec::new())));
        if !inputs.origins.is_empty() {
            files.push((origins::PATH.to_owned(), origins::file(&inputs.origins)));
        }
        for (transaction, payload) in &inputs.prepared {
            let checksum = crc32c::crc32c(payload).to_le_bytes();
            let content = [&payload[..], &checksum].concat();
            files.push((format!("pg_twophase/{transaction:08X}"), content));
        }
        for (relation, pages) in &inputs.init_forks {
            let content = pages.iter().flat_map(|page| page.bytes().iter().copied()).collect();
            files.push((tablespaces::file(*relation), content));
        }
        files.extend(status_files::files(&inputs.status_pages));
        let control = inputs
            .control
            .shut_down_at(checkpoint.start, &state, &marks.parameters, inputs.time);
        // Last: a directory without it is no data directory yet.
        files.push(("global/pg_control".to_owned(), control));
        let wal = wal_pieces(&inputs, &checkpoint)?;
        Ok(Skeleton {
            directories,
            files,
            wal,
            checkpoint,
        })
    }
}

/// The shutdown-checkpoint record right behind the end of the log.
fn checkpoint(marks: &Marks, file_bytes: u64, time: i64) -> CheckpointRecord {
    let start = record_start(marks.end, file_bytes);
    let bytes = marks
        .shutdown_checkpoint(start, time)
        .shutdown_record(marks.last_record);
    CheckpointRecord {
        start,
        end: record_end(start, bytes.len() as u64, file_bytes),
        bytes,
    }
}

/// The last page as it was, the checkpoint behind it, and the header of each file's first page, without which no reader of
/// WAL takes a file for one.
fn wal_pieces(inputs: &SkeletonInputs, checkpoint: &CheckpointRecord) -> Result<Vec<WalPiece>, BuildError> {
    let marks = &inputs.marks;
    let end = marks.end;
    if inputs.last_page.len() as u64 != end.raw() % WAL_PAGE_BYTES {
        return Err(BuildError::LastPage {
            end,
            found: inputs.last_page.len(),
        });
    }
    let file_bytes = inputs.control.wal_file_bytes();
    let timeline = marks.state.timeline;
    let system = inputs.control.system_identifier();
    let mut writer = PageWriter::new(end, timeline, system, file_bytes, &[]);
    let appended = writer.append(checkpoint.start, &checkpoint.bytes);
    appended.expect("the checkpoint begins where the log ends");
    let page_start = end.raw() - inputs.last_page.len() as u64;
    let bytes = [&inputs.last_page[..], &writer.into_bytes()].concat();
    let mut pieces = Vec::new();
    let first_file = page_start - page_start % file_bytes;
    if first_file != page_start {
        let header = PageHeader {
            flags: page_flag::LONG_HEADER | page_flag::IMAGES_REMOVABLE,
            timeline,
            address: Lsn::from_raw(first_file),
            remaining_bytes: 0,
        };
        let mut header = header.encode().to_vec();
        header.extend_from_slice(&system.to_le_bytes());
        header.extend_from_slice(&(file_bytes as u32).to_le_bytes());
        header.extend_from_slice(&(WAL_PAGE_BYTES as u32).to_le_bytes());
        assert_eq!(header.len() as u64, LONG_HEADER_BYTES);
        pieces.push(WalPiece {
            path: wal_file(timeline, Lsn::from_raw(first_file), file_bytes),
            file_bytes,
            offset: 0,
            bytes: header,
        });
    }
    let mut at = page_start;
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let room = file_bytes - at % file_bytes;
        let (here, later) = rest.split_at(rest.len().min(room as usize));
        pieces.push(WalPiece {
            path: wal_file(timeline, Lsn::from_raw(at), file_bytes),
            file_bytes,
            offset: at % file_bytes,
            bytes: here.to_vec(),
        });
        at += here.len() as u64;
        rest = later;
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wal::StreamDecoder;

    use super::*;
    use crate::control_file::tests::{WAL_FILE_BYTES, file};
    use crate::import::{DEFAULT_TABLESPACE, GLOBAL_TABLESPACE};

    /// The inputs of an empty cluster whose log ends here.
    fn inputs(end: Lsn, last_page: Vec<u8>) -> SkeletonInputs {
        let mut marks = Marks {
            end,
            last_record: Lsn::from_raw(end.raw() - 64),
            ..Marks::default()
        };
        marks.state.timeline = 1;
        SkeletonInputs {
            control: ControlFile::parse(&file(&[])).expect("a control file"),
            marks,
            last_page,
            databases: vec![(DEFAULT_TABLESPACE, 5)],
            relation_maps: vec![(GLOBAL_TABLESPACE, 0, b"map".to_vec())],
            prepared: vec![(0x2F1, b"payload".to_vec())],
            tablespaces: BTreeSet::new(),
            in_tablespaces: BTreeSet::new(),
            origins: BTreeMap::new(),
            status_pages: BTreeMap::new(),
            init_forks: Vec::new(),
            time: 1,
        }
    }

    #[test]
    fn a_last_page_that_does_not_end_with_the_log_is_refused() {
        let end = Lsn::from_raw(3 * WAL_FILE_BYTES + 80);
        let found = Skeleton::build(inputs(end, vec![0; 72])).err();
        assert_eq!(found, Some(BuildError::LastPage { end, found: 72 }));
    }

    #[test]
    fn tablespaces_are_directories_in_which_each_relation_has_its_file() {
        let mut inputs = inputs(Lsn::from_raw(3 * WAL_FILE_BYTES), Vec::new());
        inputs.databases.push((16_400, 7));
        inputs.relation_maps.push((16_400, 7, b"map".to_vec()));
        inputs.tablespaces.extend([16_400, 16_401, 16_402]);
        let relation = |tablespace, relation| RelationKey {
            tablespace,
            database: 7,
            relation,
        };
        inputs
            .in_tablespaces
            .extend([relation(16_400, 1), relation(16_401, 2), relation(16_401, 3)]);
        let page = Page::from_bytes(&[7; units::PAGE_BYTES]).expect("one page");
        inputs.init_forks.push((relation(16_401, 3), vec![page]));
        let skeleton = Skeleton::build(inputs).expect("a skeleton");
        let found = |path: &str| {
            let mut files = skeleton.files.iter().filter(|(name, _)| name == path);
            let file = files.next().map(|(_, content)| content.len());
            assert_eq!(files.next(), None, "{path} is written twice");
            file
        };
        let version = "PG_15_202209061";
        assert_eq!(found(&format!("pg_tblspc/16400/{version}/7/PG_VERSION")), Some(3));
        assert_eq!(found(&format!("pg_tblspc/16400/{version}/7/pg_filenode.map")), Some(3));
        assert_eq!(found(&format!("pg_tblspc/16400/{version}/7/1")), Some(0));
        assert_eq!(found(&format!("pg_tblspc/16401/{version}/7/2")), Some(0));
        assert_eq!(
            found(&format!("pg_tblspc/16401/{version}/7/3")),
            Some(units::PAGE_BYTES)
        );
        for folder in [
            "16400/PG_15_202209061/7",
            "16401/PG_15_202209061/7",
            "16402/PG_15_202209061",
        ] {
            assert!(
                skeleton.directories.contains(&format!("pg_tblspc/{folder}")),
                "{folder}"
            );
        }
    }

    #[test]
    fn the_control_file_comes_last_and_prepared_transactions_end_with_their_checksum() {
        let skeleton = Skeleton::build(inputs(Lsn::from_raw(3 * WAL_FILE_BYTES), Vec::new())).expect("a skeleton");
        assert_eq!(skeleton.files.last().expect("files").0, "global/pg_control");
        let path = "pg_twophase/000002F1";
        let (_, content) = skeleton.files.iter().find(|(name, _)| name == path).expect("its file");
        let (payload, checksum) = content.split_at(7);
        assert_eq!(
            (payload, checksum),
            (&b"payload"[..], &crc32c::crc32c(b"payload").to_le_bytes()[..])
        );
        assert!(skeleton.directories.contains(&"base/5".to_owned()));
    }

    proptest! {
        /// Wherever the log ends, the record can be read from the files, and each file begins with its header.
        #[test]
        fn the_checkpoint_is_found_where_the_control_file_says(words in 0..2 * WAL_FILE_BYTES / 8, near_page in any::<bool>()) {
            let at = if near_page { (words / 1024 * 1024).saturating_sub(words % 24) } else { words };
            // No record ends within a page's header.
            let end = Lsn::from_raw(3 * WAL_FILE_BYTES + 8 * at);
            prop_assume!(end.raw().is_multiple_of(WAL_PAGE_BYTES) || LONG_HEADER_BYTES < end.raw() % WAL_PAGE_BYTES);
            let last_page = vec![0xEE; (end.raw() % WAL_PAGE_BYTES) as usize];
            let skeleton = Skeleton::build(inputs(end, last_page.clone())).expect("a skeleton");
            let mut log = BTreeMap::new();
            for piece in &skeleton.wal {
                prop_assert_eq!(piece.file_bytes, WAL_FILE_BYTES);
                prop_assert!(piece.offset + piece.bytes.len() as u64 <= WAL_FILE_BYTES);
                let number = u64::from_str_radix(&piece.path["pg_wal/0000000100000000".len()..], 16).expect("hexadecimal");
                log.insert(number * WAL_FILE_BYTES + piece.offset, &piece.bytes);
            }
            let page = end.raw() - last_page.len() as u64;
            prop_assert!(log.contains_key(&(page - page % WAL_FILE_BYTES)), "the first page of the file");
            prop_assert!(log[&page].starts_with(&last_page));
            let bytes: Vec<u8> = log.range(page..).flat_map(|(_, bytes)| bytes.iter().copied()).collect();
            let previous = Lsn::from_raw(end.raw() - 64);
            let mut decoder = StreamDecoder::new(end, Some(previous), WAL_FILE_BYTES);
            decoder.push(end, &bytes[last_page.len()..]).expect("it begins here");
            let record = decoder.next_record().expect("sound log").expect("a whole record");
            prop_assert_eq!(&record.bytes[..], &skeleton.checkpoint.bytes[..]);
            prop_assert_eq!((record.start, record.end), (skeleton.checkpoint.start, skeleton.checkpoint.end));
            let (_, control) = skeleton.files.last().expect("files");
            let control = ControlFile::parse(control).expect("a control file");
            prop_assert_eq!((control.checkpoint_start(), control.checkpoint().redo), (record.start, record.start));
        }
    }
}
