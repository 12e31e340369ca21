//! The journal: what makes an acknowledgement true.
//!
//! One sequence of bytes over many files, each named by the offset at which it starts. Every entry says up to which offset
//! the journal was synced before it was written, so that recovery tells rot (below a synced offset) from a torn tail. A new
//! file begins with the newest state of every segment, so that files before it can go. Layout: `docs/formats/journal.md`.

use std::collections::BTreeMap;
use std::io as std_io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use io::Disk;
use units::SegmentId;
use wire_format::{Batch, EncodedBatch};

use crate::config::StoreConfig;
use crate::journal_files::{FOLDER, JournalFiles, Location, file_name};
use crate::locked;

/// What an entry begins with; also what recovery looks for behind a damaged one.
pub(crate) const ENTRY_MAGIC: u32 = 0xB04E_A116;
/// magic, length, checksum, synced offset, kind, segment.
pub(crate) const ENTRY_HEADER_BYTES: usize = 4 + 4 + 4 + 8 + 1 + 16;
/// The longest entry that recovery believes in.
pub(crate) const ENTRY_BYTES_MAX: usize = 80 << 20;
pub(crate) const KIND_STATE: u8 = 1;
pub(crate) const KIND_BATCH: u8 = 2;

/// One thing to journal.
#[derive(Clone, Debug)]
pub enum JournalEntry {
    /// A segment's state, opaque here. It replaces the one before.
    State {
        /// Whose.
        segment: SegmentId,
        /// Its bytes.
        bytes: Bytes,
    },
    /// A batch of the log.
    Batch {
        /// The segment that keeps it.
        segment: SegmentId,
        /// The batch.
        batch: EncodedBatch,
    },
}

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

/// The journal's end. Whoever holds it may be writing or syncing; what others need to know is in [`JournalFiles`].
pub(crate) struct Journal {
    disk: Arc<dyn Disk>,
    file_bytes_max: u64,
    files: Arc<Mutex<JournalFiles>>,
    /// Start of the file that is written.
    current: u64,
    /// Where the next entry goes.
    pub(crate) end: u64,
    /// Everything below is durable.
    pub(crate) synced: u64,
    /// A write failed: bytes that count for nothing may stand behind the end.
    spoiled: bool,
    pub(crate) states: BTreeMap<SegmentId, Bytes>,
    unsynced: Vec<Appended>,
}

/// The checksum of an entry that begins at `offset` of the journal: of its header but for magic and checksum, and its
/// payload. The offset is part of it, so that bytes which only look like an entry, say inside a record, or left over
/// from a write that failed, are none.
pub(crate) fn entry_checksum(offset: u64, header: &[u8], payload: &[u8]) -> u32 {
    let mut checksum = crc32c::crc32c(&offset.to_le_bytes());
    checksum = crc32c::crc32c_append(checksum, &header[4..8]);
    checksum = crc32c::crc32c_append(checksum, &header[12..ENTRY_HEADER_BYTES]);
    crc32c::crc32c_append(checksum, payload)
}

/// Appends an entry to `out`, whose first byte will stand at `start` of the journal.
fn encode_entry(out: &mut Vec<u8>, start: u64, synced: u64, kind: u8, segment: SegmentId, payload: &[u8]) {
    let at = out.len();
    out.extend_from_slice(&ENTRY_MAGIC.to_le_bytes());
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&synced.to_le_bytes());
    out.push(kind);
    out.extend_from_slice(&segment.bytes());
    // A batch carries a checksum of its own; adding its bytes here costs little and covers states, too.
    let checksum = entry_checksum(start + at as u64, &out[at..], payload);
    out[at + 8..at + 12].copy_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(payload);
}

impl Journal {
    /// A journal that goes on at `end` with a new file, after `files`.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        config: &StoreConfig,
        files: Arc<Mutex<JournalFiles>>,
        end: u64,
        states: BTreeMap<SegmentId, Bytes>,
    ) -> Journal {
        Journal {
            disk,
            file_bytes_max: config.journal_file_bytes,
            files,
            current: end,
            end,
            synced: end,
            spoiled: false,
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
        if self.file_bytes_max <= self.end - self.current {
            self.begin_file()?;
        }
        if let Some(bytes) = entries.iter().map(entry_bytes).find(|bytes| ENTRY_BYTES_MAX < *bytes) {
            return Err(AppendError::Write(format!("an entry of {bytes} bytes is too long")));
        }
        let mut out = Vec::with_capacity(entries.iter().map(entry_bytes).sum());
        let mut batches = Vec::new();
        for entry in entries {
            match entry {
                JournalEntry::State { segment, bytes } => {
                    encode_entry(&mut out, self.end, self.synced, KIND_STATE, *segment, bytes)
                }
                JournalEntry::Batch { segment, batch } => {
                    encode_entry(&mut out, self.end, self.synced, KIND_BATCH, *segment, batch.bytes());
                    let bytes = batch.bytes().len();
                    let location = Location {
                        offset: self.end + (out.len() - bytes) as u64,
                        bytes: bytes as u32,
                    };
                    batches.push((*segment, batch.batch().clone(), location));
                }
            }
        }
        self.write(&out)?;
        let mut files = locked(&self.files);
        for (segment, batch, location) in batches {
            files.note_batch(segment, batch.position(), location);
            self.unsynced.push((segment, location.offset, batch));
        }
        drop(files);
        for entry in entries {
            if let JournalEntry::State { segment, bytes } = entry {
                self.states.insert(*segment, bytes.clone());
            }
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), AppendError> {
        let name = file_name(self.current);
        let at = self.end - self.current;
        if self.spoiled {
            self.disk.truncate(&name, at).map_err(|error| refused(&error))?;
            self.spoiled = false;
        }
        if let Err(error) = self.disk.write_at(&name, at, bytes) {
            // What was refused must never come back behind what is accepted later. If the cut fails now, the next write
            // begins with it.
            self.spoiled = self.disk.truncate(&name, at).is_err();
            return Err(refused(&error));
        }
        self.end += bytes.len() as u64;
        locked(&self.files).files.entry(self.current).or_default().bytes = self.end - self.current;
        Ok(())
    }

    /// Begins a file with the newest state of every segment. The file before it must be durable first: what recovery
    /// finds in a later file proves that everything before was synced.
    pub(crate) fn begin_file(&mut self) -> Result<(), AppendError> {
        self.sync()?;
        let before = self.current;
        self.current = self.end;
        let mut out = Vec::new();
        for (segment, state) in &self.states {
            encode_entry(&mut out, self.end, self.synced, KIND_STATE, *segment, state);
        }
        let begun = self.write(&out).and_then(|()| {
            let name = file_name(self.current);
            let synced = self.disk.sync(&name).and_then(|()| self.disk.sync_names(FOLDER));
            synced.map_err(|error| self.close(&error))
        });
        match begun {
            Ok(()) => {
                self.synced = self.end;
                Ok(())
            }
            Err(error) => {
                // A file that was never begun must not be taken for one; if even this fails, recovery sees that it overlaps.
                let _ = self.disk.remove(&file_name(self.current));
                locked(&self.files).files.remove(&self.current);
                self.current = before;
                Err(error)
            }
        }
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
    match error.kind() {
        std_io::ErrorKind::StorageFull | std_io::ErrorKind::QuotaExceeded => AppendError::DiskFull,
        _ => AppendError::Write(error.to_string()),
    }
}

fn entry_bytes(entry: &JournalEntry) -> usize {
    ENTRY_HEADER_BYTES
        + match entry {
            JournalEntry::State { bytes, .. } => bytes.len(),
            JournalEntry::Batch { batch, .. } => batch.bytes().len(),
        }
}
