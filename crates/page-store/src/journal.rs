//! The journal: what makes an acknowledgement true.
//!
//! One sequence of entries over many files, each named by the offset at which it begins. Files are allocated before they are
//! needed, overwritten in place, and used again: see [`Reserve`]. Every entry says up to which offset the journal was synced
//! before it was written, so that recovery tells rot (below a synced offset) from a torn tail. A file begins with where the
//! one before it ends, and with the newest state of every segment, so that files before it can go. Layout:
//! `docs/formats/journal.md`.
//!
//! Invariants:
//! - No offset is ever given to two entries of which one was refused or torn: an entry that could not be written ends its
//!   file.
//! - A file is begun only after all of the one before it is durable, and from then on nothing is written to that one.

use std::collections::BTreeMap;
use std::io as std_io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use io::Disk;
use units::SegmentId;
use wire_format::Batch;

use crate::journal_entry::{
    ENTRY_BYTES_MAX, ENTRY_HEADER_BYTES, EntryWriter, FileBeginning, JournalEntry, KIND_BATCH, KIND_FILE, KIND_STATE,
};
use crate::journal_files::{FOLDER, JournalFile, JournalFiles, Location, file_name};
use crate::locked;
use crate::reserve::{NextFile, Reserve};
use crate::tail::has_pieces;

/// No segment: the beginning of a file belongs to none.
pub(crate) const NO_SEGMENT: SegmentId = SegmentId::from_bytes([0; 16]);

/// Why nothing more was journaled.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// There is no room; what was journaled before is unharmed, and appending works again when there is.
    #[error("the disk is full")]
    DiskFull,
    /// A sync failed: nobody knows what of the journal is durable, so it is closed until the node starts again.
    #[error("a sync of the journal failed ({0}): it is closed until the node is restarted")]
    Closed(String),
    /// The write failed.
    #[error("the journal cannot be written: {0}")]
    Write(String),
}

/// A batch that was appended: whose, where, and what.
pub(crate) type Appended = (SegmentId, u64, Arc<Batch>);

/// Where a journal goes on.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Tail {
    /// Start of the last file; it is not written to any more.
    pub(crate) start: u64,
    /// Where it ends: everything below is durable. Zero: there is no file.
    pub(crate) end: u64,
    /// Where the next file may begin: no file has had this start in any of its lives.
    pub(crate) next_start: u64,
}

/// The journal's end. Whoever holds it may be writing or syncing; what others need to know is in [`JournalFiles`].
pub(crate) struct Journal {
    disk: Arc<dyn Disk>,
    file_bytes: u64,
    reserve: Arc<Reserve>,
    files: Arc<Mutex<JournalFiles>>,
    /// Start of the file that is written.
    current: u64,
    /// Bytes of it that are allocated.
    allocated: u64,
    /// It takes nothing more: what was refused stands in it, or the next one may already name its end.
    sealed: bool,
    /// Where the next file will begin: the file that is written has room up to here.
    next_start: u64,
    /// The next file, if it was taken from the reserve and could not be begun yet.
    next: Option<NextFile>,
    /// Where the next entry goes.
    pub(crate) end: u64,
    /// Everything below is durable.
    pub(crate) synced: u64,
    pub(crate) states: BTreeMap<SegmentId, Bytes>,
    unsynced: Vec<Appended>,
}

impl Journal {
    /// A journal that goes on after `tail` with a new file.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        file_bytes: u64,
        reserve: Arc<Reserve>,
        files: Arc<Mutex<JournalFiles>>,
        tail: Tail,
        states: BTreeMap<SegmentId, Bytes>,
    ) -> Journal {
        Journal {
            disk,
            file_bytes,
            reserve,
            files,
            current: tail.start,
            allocated: 0,
            sealed: true,
            next_start: tail.next_start,
            next: None,
            end: tail.end,
            synced: tail.end,
            states,
            unsynced: Vec::new(),
        }
    }

    fn check_open(&self) -> Result<(), AppendError> {
        match &locked(&self.files).closed {
            Some(reason) => Err(AppendError::Closed(reason.clone())),
            None => Ok(()),
        }
    }

    /// Writes the entries behind each other. On an error none of them counts.
    pub(crate) fn append(&mut self, entries: &[JournalEntry]) -> Result<(), AppendError> {
        self.check_open()?;
        let long = entries.iter().map(JournalEntry::journaled_bytes);
        if let Some(bytes) = long.clone().find(|bytes| ENTRY_BYTES_MAX < *bytes) {
            return Err(AppendError::Write(format!("an entry of {bytes} bytes is too long")));
        }
        let bytes: usize = long.sum();
        if self.sealed || self.next_start < self.end + bytes as u64 {
            self.begin_file(bytes as u64)?;
        }
        self.allocate(self.end + bytes as u64 - self.current)?;
        let mut out = EntryWriter::new(self.end, self.synced, bytes);
        let mut batches = Vec::new();
        for entry in entries {
            match entry {
                JournalEntry::State { segment, bytes } => out.push(KIND_STATE, *segment, bytes),
                JournalEntry::Batch { segment, batch } => {
                    out.push(KIND_BATCH, *segment, batch.bytes());
                    let bytes = batch.bytes().len();
                    let location = Location {
                        offset: out.end() - bytes as u64,
                        bytes: bytes as u32,
                    };
                    batches.push((*segment, batch.batch().clone(), location));
                }
            }
        }
        self.write(&out.bytes)?;
        let mut files = locked(&self.files);
        for (segment, batch, location) in batches {
            files.note_batch(segment, batch.position(), location, has_pieces(&batch));
            self.unsynced.push((segment, location.offset, batch));
        }
        drop(files);
        for entry in entries {
            if let JournalEntry::State { segment, bytes } = entry {
                // As long as older files have a state of a removed segment, the file with its removal is there, too.
                match bytes.is_empty() {
                    true => self.states.remove(segment),
                    false => self.states.insert(*segment, bytes.clone()),
                };
            }
        }
        if self.next.is_none() && self.current.midpoint(self.next_start) <= self.end {
            self.reserve.want(self.next_start);
        }
        Ok(())
    }

    /// Makes sure that the file that is written has so many bytes.
    fn allocate(&mut self, needed: u64) -> Result<(), AppendError> {
        if self.allocated < needed {
            let extended = self.reserve.extend(&file_name(self.current), self.allocated, needed);
            self.allocated = extended.map_err(|error| refused(&error))?;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), AppendError> {
        let written = self
            .disk
            .write_log_at(&file_name(self.current), self.end - self.current, bytes);
        if let Err(error) = written {
            // What is refused must never come back behind what is accepted later.
            self.sealed = true;
            return Err(refused(&error));
        }
        self.end += bytes.len() as u64;
        locked(&self.files).files.entry(self.current).or_default().bytes = self.end - self.current;
        Ok(())
    }

    /// Begins a file with the newest state of every segment, and room for `bytes` more. The file before it must be durable
    /// first: what recovery finds in a later file proves that everything before was synced.
    pub(crate) fn begin_file(&mut self, bytes: u64) -> Result<(), AppendError> {
        self.sync()?;
        let start = self.next_start;
        let states_bytes: usize = self.states.values().map(|state| ENTRY_HEADER_BYTES + state.len()).sum();
        let mut out = EntryWriter::new(start, self.synced, states_bytes);
        let beginning = FileBeginning {
            previous_start: self.current,
            previous_end: self.end,
        };
        out.push(KIND_FILE, NO_SEGMENT, &beginning.encode());
        for (segment, state) in &self.states {
            out.push(KIND_STATE, *segment, state);
        }
        let needed = out.bytes.len() as u64 + bytes;
        let allocated = self.next_file(needed)?;
        // The new file may say from now on where this one ends. If it cannot be written, the same bytes are tried again:
        // nothing can change the states before.
        self.sealed = true;
        let written = self.disk.write_log_at(&file_name(start), 0, &out.bytes);
        written.map_err(|error| refused(&error))?;
        let file = JournalFile {
            bytes: out.bytes.len() as u64,
            ..JournalFile::default()
        };
        locked(&self.files).files.insert(start, file);
        self.next = None;
        self.current = start;
        self.allocated = allocated;
        self.next_start = start + self.file_bytes.max(needed);
        self.end = out.end();
        self.sealed = false;
        Ok(())
    }

    /// If the file that begins here is written to, goes on with another one. Then it has no newest state of any segment.
    pub(crate) fn leave(&mut self, start: u64) -> Result<(), AppendError> {
        self.check_open()?;
        if self.current == start {
            self.begin_file(0)?;
            self.sync()?;
        }
        Ok(())
    }

    /// Makes sure that the next file is there, has so many bytes, and that its name is durable. Answers with how many it has.
    fn next_file(&mut self, needed: u64) -> Result<u64, AppendError> {
        let start = self.next_start;
        let mut next = match self.next {
            Some(next) => next,
            None => self.reserve.take(start).map_err(|error| refused(&error))?,
        };
        self.next = Some(next);
        if next.allocated < needed {
            let extended = self.reserve.extend(&file_name(start), next.allocated, needed);
            next.allocated = extended.map_err(|error| refused(&error))?;
        }
        if !next.named {
            self.disk.sync_names(FOLDER).map_err(|error| self.close(&error))?;
            next.named = true;
        }
        self.next = Some(next);
        Ok(next.allocated)
    }

    fn close(&mut self, error: &std_io::Error) -> AppendError {
        let reason = error.to_string();
        locked(&self.files).closed = Some(reason.clone());
        AppendError::Closed(reason)
    }

    /// Makes everything appended durable.
    pub(crate) fn sync(&mut self) -> Result<(), AppendError> {
        self.check_open()?;
        if self.synced == self.end {
            return Ok(());
        }
        let end = self.end;
        if let Err(error) = self.disk.sync(&file_name(self.current)) {
            return Err(self.close(&error));
        }
        self.synced = end;
        if let Some(file) = locked(&self.files).files.get_mut(&self.current) {
            file.begun = true;
        }
        Ok(())
    }

    /// The batches that syncs have made durable since this was last asked.
    pub(crate) fn take_synced(&mut self) -> Vec<Appended> {
        let synced = self.synced;
        let durable = self.unsynced.partition_point(|(_, offset, _)| *offset < synced);
        self.unsynced.drain(..durable).collect()
    }
}

fn refused(error: &std_io::Error) -> AppendError {
    if is_full(error) {
        AppendError::DiskFull
    } else {
        AppendError::Write(error.to_string())
    }
}

/// Whether this is an error of a disk without room.
pub(crate) fn is_full(error: &std_io::Error) -> bool {
    matches!(
        error.kind(),
        std_io::ErrorKind::StorageFull | std_io::ErrorKind::QuotaExceeded
    )
}
