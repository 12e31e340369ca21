//! What a volume would know of a crashed cluster: its log, its state at the end of it, its pages.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use skeleton::blob::Blob;
use skeleton::import::{ImportedFile, classify};
use skeleton::status_files::{self, StatusRange};
use skeleton::{ControlFile, SkeletonInputs};
use units::{Lsn, PAGE_BYTES, Page, PageKey, RelationKey, fork};
use wal::{DecodedRecord, Marks, StateChange, StreamDecoder, WAL_PAGE_BYTES, state_changes};

pub fn control_file(data: &Path) -> ControlFile {
    let bytes = std::fs::read(data.join("global/pg_control")).expect("pg_control");
    ControlFile::parse(&bytes).expect("a control file")
}

/// The end of a crashed cluster's log.
pub struct LogEnd {
    pub control: ControlFile,
    pub marks: Marks,
    /// Prepared transactions with their files, less the checksums.
    pub prepared: BTreeMap<u32, Vec<u8>>,
    pub last_page: Vec<u8>,
}

fn wal_file(data: &Path, at: Lsn, file_bytes: u64) -> PathBuf {
    let (number, files_per_id) = (at.raw() / file_bytes, (1 << 32) / file_bytes);
    data.join(format!(
        "pg_wal/{:08X}{:08X}{:08X}",
        1,
        number / files_per_id,
        number % files_per_id
    ))
}

/// Follows the log from the last checkpoint's redo point until it breaks off.
pub fn log_end(data: &Path) -> LogEnd {
    let control = control_file(data);
    let file_bytes = control.wal_file_bytes();
    let checkpoint = control.checkpoint();
    let redo = checkpoint.redo;
    let mut marks = Marks::from_checkpoint(&checkpoint, control.parameters(), redo, redo);
    let mut prepared = two_phase_files(data);
    let mut decoder = StreamDecoder::new(redo, None, file_bytes);
    let mut at = redo;
    'log: while let Ok(file) = std::fs::read(wal_file(data, at, file_bytes)) {
        let rest = &file[(at.raw() % file_bytes) as usize..];
        decoder.push(at, rest).expect("file after file");
        at = at.advanced_by(rest.len() as u64);
        loop {
            // An error is what a crash leaves behind the last record.
            let Ok(record) = decoder.next_record() else { break 'log };
            let Some(record) = record else { break };
            let decoded = DecodedRecord::decode(&record.bytes).expect("PostgreSQL's own record");
            marks
                .advance(&decoded, record.start, record.end)
                .expect("PostgreSQL's own record");
            let mut changes = Vec::new();
            state_changes(&decoded, &mut changes).expect("PostgreSQL's own record");
            for change in changes {
                match change {
                    StateChange::Prepared { transaction, payload } => {
                        prepared.insert(transaction, payload.to_vec());
                    }
                    StateChange::PreparedFinished { transaction } => drop(prepared.remove(&transaction)),
                    _ => {}
                }
            }
        }
    }
    let (page, last_page) = decoder.last_page();
    assert_eq!(decoder.last_end(), marks.end);
    assert!(
        page.raw().is_multiple_of(WAL_PAGE_BYTES),
        "the log is longer than a page"
    );
    LogEnd {
        control,
        marks,
        prepared,
        last_page,
    }
}

pub fn two_phase_files(data: &Path) -> BTreeMap<u32, Vec<u8>> {
    let files = std::fs::read_dir(data.join("pg_twophase")).expect("its folder");
    let file = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("hexadecimal");
        let mut content = std::fs::read(entry.path()).expect("a file");
        content.truncate(content.len() - 4);
        (u32::from_str_radix(&name, 16).expect("hexadecimal"), content)
    };
    files.map(file).collect()
}

/// Every file below `data`, relative to it.
pub fn files(data: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut folders = vec![data.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(data).expect("it is below").to_str().expect("ASCII");
                files.push(name.to_owned());
            }
        }
    }
    files.sort();
    files
}

fn pages(bytes: &[u8]) -> impl Iterator<Item = Page> {
    assert!(bytes.len().is_multiple_of(PAGE_BYTES), "whole pages");
    bytes
        .chunks(PAGE_BYTES)
        .map(|page| Page::from_bytes(page).expect("one page"))
}

/// The inputs of a skeleton: the end of the log from the crashed cluster; what the volume's redo would have made of the
/// rest, from `recovered`, the same cluster after PostgreSQL's own recovery. Also the paths of the relation files.
pub fn inputs(end: LogEnd, recovered: &Path, time: i64) -> (SkeletonInputs, Vec<String>) {
    let mut inputs = SkeletonInputs {
        control: end.control,
        marks: end.marks,
        last_page: end.last_page,
        databases: Vec::new(),
        relation_maps: Vec::new(),
        prepared: end.prepared.into_iter().collect(),
        tablespaces: BTreeSet::new(),
        in_tablespaces: BTreeSet::new(),
        origins: BTreeMap::new(),
        status_pages: BTreeMap::new(),
        init_forks: Vec::new(),
        time,
    };
    let mut status: BTreeMap<PageKey, Page> = BTreeMap::new();
    let mut forks: Vec<(RelationKey, String)> = Vec::new();
    for path in files(recovered) {
        if path.starts_with("pg_twophase/") {
            // Those are of the log.
            continue;
        }
        let bytes = || std::fs::read(recovered.join(&path)).expect("a file");
        match classify(&path).expect("a file of PostgreSQL") {
            ImportedFile::Fork { fork, .. } => {
                if fork.fork == fork::INIT {
                    inputs.init_forks.push((fork.relation, pages(&bytes()).collect()));
                }
                forks.push((fork.relation, path));
            }
            ImportedFile::Status { array, first_page } => {
                let numbers = (first_page..).map(|page| array.fork(fork::MAIN).page(page));
                status.extend(numbers.zip(pages(&bytes())));
            }
            ImportedFile::Blob(name) => match Blob::parse(&name) {
                Some(Blob::Database { tablespace, database }) => inputs.databases.push((tablespace, database)),
                Some(Blob::RelationMap { tablespace, database }) => {
                    inputs.relation_maps.push((tablespace, database, bytes()));
                }
                // The crashed one is used.
                Some(Blob::ControlFile) => {}
                Some(_) | None => panic!("{path} became {name}"),
            },
            ImportedFile::Ignored => {}
        }
    }
    inputs.status_pages = needed_status(&inputs.marks, &status);
    let unlogged: Vec<RelationKey> = inputs.init_forks.iter().map(|(relation, _)| *relation).collect();
    // Of unlogged relations the volume has the INIT fork and nothing else.
    forks.retain(|(relation, path)| !unlogged.contains(relation) || path.ends_with("_init"));
    (inputs, forks.into_iter().map(|(_, path)| path).collect())
}

/// Exactly the pages that a skeleton says it needs; one that does not exist yet is zeros.
fn needed_status(marks: &Marks, all: &BTreeMap<PageKey, Page>) -> BTreeMap<PageKey, Page> {
    let mut wanted = BTreeMap::new();
    let mut take = |range: &StatusRange| {
        for (first, count) in range.runs() {
            for block in first..first + count {
                let key = range.array.fork(fork::MAIN).page(block);
                wanted.insert(key, all.get(&key).cloned().unwrap_or_else(Page::zeroed));
            }
        }
    };
    status_files::needed(marks).iter().for_each(&mut take);
    let oldest = all.get(&wal::multixact_offset_page(marks.state.oldest_multixact));
    let oldest = oldest.and_then(|page| status_files::oldest_offset(marks, page));
    take(&status_files::needed_members(marks, oldest));
    wanted
}
