//! What the journal's files hold, each by itself. Whether it can be believed is decided in `recovery.rs`.

use std::collections::BTreeMap;
use std::io as std_io;

use bytes::Bytes;
use io::Disk;
use units::{GroupId, Lsn, Position, SegmentId};
use wire_format::{Batch, EncodedBatch};

use crate::journal_entry::{ENTRY_MAGIC, Entry, FileBeginning, KIND_BATCH, KIND_FILE, KIND_FILLER, KIND_STATE};
use crate::journal_files::{FOLDER, Location, Named, named};
use crate::recovery::OpenError;

/// A batch that the journal holds: all that a segment has to know of it. Its bytes are read when they are asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecoveredBatch {
    /// Its name: where its flush ends.
    pub end: Position,
    /// The group's batch before it.
    pub previous: Position,
    /// How far the durable LSN may go with it, if it has a flush header.
    pub boundary: Option<Lsn>,
    /// The groups that take part in the flush; empty without a flush header.
    pub groups: Vec<GroupId>,
}

impl RecoveredBatch {
    fn of(batch: &Batch) -> RecoveredBatch {
        let header = batch.header.as_ref();
        RecoveredBatch {
            end: batch.position(),
            previous: batch.previous,
            boundary: header.map(|header| header.boundary),
            groups: header.map_or(Vec::new(), |header| header.groups.clone()),
        }
    }
}

/// What an entry holds.
pub(crate) enum Content {
    State,
    Batch(RecoveredBatch),
}

/// A valid entry: where, not what.
pub(crate) struct FoundEntry {
    /// Where it begins: its payload may be empty, and then begins where it ends.
    pub(crate) offset: u64,
    pub(crate) segment: SegmentId,
    /// Of its payload.
    pub(crate) location: Location,
    pub(crate) synced: u64,
    pub(crate) content: Content,
}

/// One file as it was found.
pub(crate) struct FoundFile {
    pub(crate) start: u64,
    /// What its first entry says, if that is valid.
    pub(crate) beginning: Option<FileBeginning>,
    /// All valid entries but the first.
    pub(crate) entries: Vec<FoundEntry>,
    /// From the beginning up to this offset there are valid entries only.
    pub(crate) sound_through: u64,
    /// Where the last valid entry ends.
    pub(crate) valid_through: u64,
}

impl FoundFile {
    /// Whether there is anything of the file's present life in it.
    pub(crate) fn is_begun(&self) -> bool {
        self.beginning.is_some() || !self.entries.is_empty()
    }

    fn read(file: &[u8], start: u64) -> Result<FoundFile, OpenError> {
        let mut found = FoundFile {
            start,
            beginning: None,
            entries: Vec::new(),
            sound_through: start,
            valid_through: start,
        };
        let mut at = 0;
        while at < file.len() {
            if let Some(entry) = Entry::decode(file, start, at) {
                at += entry.bytes();
                found.take(&entry)?;
            } else {
                // Look past it: a valid entry further on tells whether this was ever synced, and if it was, what is left.
                let magic = |window: &[u8]| window == ENTRY_MAGIC;
                let Some(next) = file[at + 1..].windows(ENTRY_MAGIC.len()).position(magic) else {
                    break;
                };
                at += 1 + next;
            }
        }
        Ok(found)
    }

    fn take(&mut self, entry: &Entry) -> Result<(), OpenError> {
        let end = entry.offset + entry.bytes() as u64;
        let content = match entry.kind {
            KIND_FILE | KIND_FILLER => None,
            KIND_STATE => Some(Content::State),
            KIND_BATCH => {
                let batch = EncodedBatch::decode(Bytes::copy_from_slice(entry.payload))
                    .map_err(|error| OpenError::Version(format!("a batch in the journal cannot be read: {error}")))?;
                Some(Content::Batch(RecoveredBatch::of(batch.batch())))
            }
            kind => {
                return Err(OpenError::Version(format!(
                    "the journal has an entry of unknown kind {kind}"
                )));
            }
        };
        match content {
            None if entry.kind == KIND_FILE && entry.offset == self.start => {
                let beginning = FileBeginning::decode(entry.payload);
                self.beginning = beginning.filter(|beginning| beginning.can_precede(self.start));
            }
            None => {}
            Some(content) => self.entries.push(FoundEntry {
                offset: entry.offset,
                segment: entry.segment,
                location: Location {
                    offset: entry.payload_offset(),
                    bytes: entry.payload.len() as u32,
                },
                synced: entry.synced,
                content,
            }),
        }
        if self.sound_through == entry.offset && self.beginning.is_some() {
            self.sound_through = end;
        }
        self.valid_through = end;
        Ok(())
    }
}

/// All files of the folder.
#[derive(Default)]
pub(crate) struct Scan {
    pub(crate) files: BTreeMap<u64, FoundFile>,
    pub(crate) spares: Vec<u64>,
    /// No file has had this or a higher start in any of its lives.
    pub(crate) next_start: u64,
}

/// Reads all files, one after the other. Nothing is changed.
pub(crate) fn scan(disk: &dyn Disk) -> Result<Scan, OpenError> {
    let io = |file: &str, error: std_io::Error| OpenError::io(file, &error);
    let mut scan = Scan::default();
    for name in disk.list(FOLDER).map_err(|error| io(FOLDER, error))? {
        let file = format!("{FOLDER}/{name}");
        let (number, length) = match named(&name) {
            Some(Named::File(start)) => {
                let bytes = disk.read_all(&file).map_err(|error| io(&file, error))?;
                scan.files.insert(start, FoundFile::read(&bytes, start)?);
                (start, bytes.len() as u64)
            }
            Some(Named::Spare(number)) => {
                scan.spares.push(number);
                (number, disk.length(&file).map_err(|error| io(&file, error))?)
            }
            None => continue,
        };
        scan.next_start = scan.next_start.max(number.saturating_add(length.max(1)));
    }
    Ok(scan)
}
