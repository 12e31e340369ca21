//! Opening a store: what the journal still says, and whether it can be believed.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use io::Disk;
use units::{Position, SegmentId};
use wire_format::{Batch, EncodedBatch};

use crate::journal::{self, AppendError, ENTRY_BYTES_MAX, ENTRY_HEADER_BYTES, ENTRY_MAGIC, KIND_BATCH, KIND_STATE};
use crate::journal_files::{FOLDER, JournalFile, Location, file_name};
use crate::manifest::{Manifest, ManifestError};
use crate::read::ReadError;

/// Why a store could not be opened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// A file cannot be read or written.
    #[error("{file}: {what}")]
    Io {
        /// The file.
        file: String,
        /// What the operating system says.
        what: String,
    },
    /// A file without which nothing can be trusted is damaged.
    #[error("{0}: this copy is lost; remove its folder and let the volume replace it")]
    Damaged(String),
    /// The files are of another build.
    #[error("{0}")]
    Version(String),
    /// The journal cannot be continued.
    #[error(transparent)]
    Journal(#[from] AppendError),
    /// A layer is damaged or missing.
    #[error(transparent)]
    Layer(#[from] ReadError),
}

impl OpenError {
    pub(crate) fn io(file: &str, error: &std::io::Error) -> OpenError {
        OpenError::Io {
            file: file.to_owned(),
            what: error.to_string(),
        }
    }
}

impl From<ManifestError> for OpenError {
    fn from(error: ManifestError) -> OpenError {
        match error {
            ManifestError::Io(what) => OpenError::Io {
                file: "manifest".to_owned(),
                what,
            },
            ManifestError::Damaged(_) => OpenError::Damaged(error.to_string()),
            ManifestError::Version { .. } => OpenError::Version(error.to_string()),
        }
    }
}

/// One segment as the journal left it.
#[derive(Clone, Debug)]
pub struct RecoveredSegment {
    /// Which.
    pub segment: SegmentId,
    /// Its last state.
    pub state: Bytes,
    /// The batches that the journal holds, in the order in which they came.
    pub batches: Vec<Arc<Batch>>,
    /// False if something that the segment acknowledged may be gone, now or at an earlier start.
    pub vouches: bool,
}

/// One readable entry.
struct Entry {
    offset: u64,
    kind: u8,
    segment: SegmentId,
    payload: Bytes,
}

/// What the journal's files say.
#[derive(Default)]
pub(crate) struct Recovered {
    pub(crate) files: BTreeMap<u64, JournalFile>,
    pub(crate) states: BTreeMap<SegmentId, Bytes>,
    /// In the order in which they came.
    pub(crate) batches: Vec<(SegmentId, Location, EncodedBatch)>,
    /// Entries that were perhaps never synced: they are written again before anything is answered.
    pub(crate) unsynced: Vec<journal::JournalEntry>,
    /// Where the next file may start.
    pub(crate) end: u64,
    /// Something below a synced offset is damaged.
    pub(crate) rot: bool,
    /// Where a torn tail begins: from there on the last file is to be cut.
    pub(crate) torn_at: Option<u64>,
}

impl Recovered {
    /// Cuts a torn tail off, so that the next recovery does not take it for rot.
    pub(crate) fn cut_torn_tail(&mut self, disk: &dyn Disk) -> Result<(), OpenError> {
        let Some(torn_at) = self.torn_at else {
            return Ok(());
        };
        let Some((start, file)) = self.files.range_mut(..=torn_at).next_back() else {
            return Ok(());
        };
        let name = file_name(*start);
        disk.truncate(&name, torn_at - start)
            .map_err(|error| OpenError::io(&name, &error))?;
        file.bytes = torn_at - start;
        self.end = torn_at;
        Ok(())
    }

    /// What was read may have come from the operating system's cache: it must be durable before anything is said of it
    /// (protocol.md, hole 28). Every other file was synced before the one after it was begun.
    pub(crate) fn sync_last_file(&self, disk: &dyn Disk) -> Result<(), OpenError> {
        let Some(start) = self.files.keys().next_back() else {
            return Ok(());
        };
        let name = file_name(*start);
        disk.sync(&name).map_err(|error| OpenError::io(&name, &error))
    }
}

/// Reads all files. Nothing is changed.
pub(crate) fn recover(disk: &dyn Disk) -> Result<Recovered, OpenError> {
    let io = |file: &str, error: std::io::Error| OpenError::io(file, &error);
    let mut recovered = Recovered::default();
    let mut entries = Vec::new();
    let (mut synced, mut first_damage) = (0u64, None::<u64>);
    let names = disk.list(FOLDER).map_err(|error| io(FOLDER, error))?;
    for name in names {
        let Ok(start) = name.parse::<u64>() else {
            continue;
        };
        if start < recovered.end {
            // A file that was begun while the disk was full, and overlaps the one that went on.
            continue;
        }
        if recovered.end < start && !recovered.files.is_empty() {
            first_damage.get_or_insert(recovered.end);
        }
        let file = format!("{}/{name}", FOLDER);
        let bytes = Bytes::from(disk.read_all(&file).map_err(|error| io(&file, error))?);
        let length = bytes.len() as u64;
        let damage = read_file(bytes, start, &mut entries, &mut synced);
        if let Some(at) = damage {
            first_damage.get_or_insert(at);
        }
        let journal_file = JournalFile {
            bytes: length,
            ..JournalFile::default()
        };
        recovered.files.insert(start, journal_file);
        recovered.end = start + length;
    }
    recovered.rot = first_damage.is_some_and(|at| at < synced);
    recovered.torn_at = first_damage.filter(|_| !recovered.rot);
    if let Some(torn_at) = recovered.torn_at {
        // Nothing behind was ever acknowledged. The payload of the last entry before, if empty, "begins" where the tail does.
        entries.retain(|entry| entry.offset <= torn_at);
    }
    for entry in entries {
        take(&mut recovered, entry, synced)?;
    }
    Ok(recovered)
}

/// Collects the valid entries of one file; answers with the offset of the first damage.
fn read_file(bytes: Bytes, start: u64, entries: &mut Vec<Entry>, synced: &mut u64) -> Option<u64> {
    let mut at = 0;
    let mut damage = None;
    while at < bytes.len() {
        match entry_at(&bytes, start, at) {
            Some((entry, says_synced, next)) => {
                *synced = says_synced.max(*synced);
                entries.push(entry);
                at = next;
            }
            None => {
                damage.get_or_insert(start + at as u64);
                // Look past it: a valid entry further on tells whether this was ever synced, and if it was, what is left.
                let magic = ENTRY_MAGIC.to_le_bytes();
                let Some(next) = bytes[at + 1..].windows(4).position(|window| window == magic) else {
                    break;
                };
                at += 1 + next;
            }
        }
    }
    damage
}

/// The entry at an offset of the file that begins at `start` of the journal, what it says of the synced end, and where the next begins.
fn entry_at(bytes: &Bytes, start: u64, at: usize) -> Option<(Entry, u64, usize)> {
    let header = bytes.get(at..at + ENTRY_HEADER_BYTES)?;
    let number = |from: usize| u32::from_le_bytes(header[from..from + 4].try_into().expect("four bytes"));
    let length = number(4) as usize;
    if number(0) != ENTRY_MAGIC || ENTRY_BYTES_MAX < length {
        return None;
    }
    let payload_at = at + ENTRY_HEADER_BYTES;
    let payload = bytes.get(payload_at..payload_at + length)?;
    if journal::entry_checksum(start + at as u64, header, payload) != number(8) {
        return None;
    }
    let synced = u64::from_le_bytes(header[12..20].try_into().expect("eight bytes"));
    let entry = Entry {
        offset: start + payload_at as u64,
        kind: header[20],
        segment: SegmentId::from_bytes(header[21..37].try_into().expect("sixteen bytes")),
        payload: bytes.slice(payload_at..payload_at + length),
    };
    Some((entry, synced, payload_at + length))
}

fn take(recovered: &mut Recovered, entry: Entry, synced: u64) -> Result<(), OpenError> {
    let again = synced <= entry.offset;
    match entry.kind {
        KIND_STATE => {
            if again {
                recovered.unsynced.push(journal::JournalEntry::State {
                    segment: entry.segment,
                    bytes: entry.payload.clone(),
                });
            }
            recovered.states.insert(entry.segment, entry.payload);
        }
        KIND_BATCH => {
            let location = Location {
                offset: entry.offset,
                bytes: entry.payload.len() as u32,
            };
            let batch = EncodedBatch::decode(entry.payload)
                .map_err(|error| OpenError::Version(format!("a batch in the journal cannot be read: {error}")))?;
            if again {
                recovered.unsynced.push(journal::JournalEntry::Batch {
                    segment: entry.segment,
                    batch: batch.clone(),
                });
            }
            recovered.batches.push((entry.segment, location, batch));
        }
        kind => {
            return Err(OpenError::Version(format!(
                "the journal has an entry of unknown kind {kind}"
            )));
        }
    }
    Ok(())
}

/// Groups batches by segment, for the segments' own recovery.
pub(crate) fn by_segment(recovered: &Recovered, manifest: &Manifest) -> Vec<RecoveredSegment> {
    let mut segments: BTreeMap<SegmentId, RecoveredSegment> = BTreeMap::new();
    for (segment, state) in &recovered.states {
        let one = RecoveredSegment {
            segment: *segment,
            state: state.clone(),
            batches: Vec::new(),
            vouches: !manifest.is_damaged(*segment),
        };
        segments.insert(*segment, one);
    }
    for (segment, _, batch) in &recovered.batches {
        if let Some(one) = segments.get_mut(segment) {
            one.batches.push(batch.batch().clone());
        }
    }
    segments.into_values().collect()
}

/// A position that is not in the journal any more has no location.
pub(crate) fn known(recovered: &Recovered) -> impl Iterator<Item = (SegmentId, Position, Location)> + '_ {
    let batches = recovered.batches.iter();
    batches.map(|(segment, location, batch)| (*segment, batch.batch().position(), *location))
}
