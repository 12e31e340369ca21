//! Opening a store: what the journal still says, and whether it can be believed.

use std::collections::BTreeMap;

use bytes::Bytes;
use io::Disk;
use units::{Position, SegmentId};

use crate::journal::{AppendError, Tail};
use crate::journal_files::{JournalFile, JournalFiles, Location, file_name};
use crate::journal_scan::{Content, FoundEntry, FoundFile, RecoveredBatch, Scan};
use crate::manifest::{Manifest, ManifestError};
use crate::read::ReadError;

/// Bytes that are written again at once.
const REWRITE_BYTES: u64 = 1 << 20;

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
    pub batches: Vec<RecoveredBatch>,
    /// False if something that the segment acknowledged may be gone, now or at an earlier start.
    pub vouches: bool,
}

/// A file of the journal, and where the one after it says that it ends.
struct Member<'a> {
    file: &'a FoundFile,
    end: Option<u64>,
    /// Where the one after it begins.
    room: u64,
}

impl Member<'_> {
    /// Where it first lacks something, as far as it can tell by itself: at its end, if that is not known.
    fn damage(&self) -> Option<u64> {
        let sound_through = self.file.sound_through;
        match self.end {
            Some(end) => (sound_through < end).then_some(sound_through),
            None => Some(sound_through),
        }
    }

    /// Its entries, without those behind its end.
    fn entries(&self) -> impl Iterator<Item = &FoundEntry> {
        let end = self.end.unwrap_or(self.room);
        self.file.entries.iter().filter(move |entry| entry.offset < end)
    }
}

/// The files of the journal in order, and the first offset at which one of them is missing. Files that no other names, like
/// one that was made ready and never begun, are none of them.
fn chain(files: &BTreeMap<u64, FoundFile>) -> (Vec<Member<'_>>, Option<u64>) {
    let begun_before = |start: u64| files.range(..start).rfind(|(_, file)| file.is_begun());
    let mut members = Vec::new();
    let (mut missing, mut room) = (None, u64::MAX);
    let mut next = begun_before(u64::MAX).map(|(_, file)| (file, None));
    while let Some((file, end)) = next {
        members.push(Member { file, end, room });
        let beginning = file.beginning.filter(|beginning| 0 < beginning.previous_end);
        let named = beginning.and_then(|named| Some((files.get(&named.previous_start)?, Some(named.previous_end))));
        room = file.start;
        next = named.or_else(|| {
            if file.beginning.is_some() && beginning.is_none() {
                // The first of all.
                return None;
            }
            let (_, before) = begun_before(file.start)?;
            missing = Some(beginning.map_or(file.start, |named| named.previous_start));
            Some((before, None))
        });
    }
    members.reverse();
    (members, missing)
}

/// What the journal's files say.
#[derive(Default)]
pub(crate) struct Recovered {
    pub(crate) files: BTreeMap<u64, JournalFile>,
    pub(crate) states: BTreeMap<SegmentId, Bytes>,
    /// In the order in which they came.
    pub(crate) batches: Vec<(SegmentId, Location, RecoveredBatch)>,
    pub(crate) tail: Tail,
    /// Everything below was durable before the last entry was written.
    synced: u64,
    /// Something below a synced offset is damaged.
    pub(crate) rot: bool,
    /// Starts of files that are none of the journal's.
    pub(crate) unused: Vec<u64>,
}

/// Decides what of the scanned files counts. Nothing is changed.
pub(crate) fn recover(disk: &dyn Disk, scan: &Scan) -> Result<Recovered, OpenError> {
    let (members, missing) = chain(&scan.files);
    let said = |member: &Member| member.entries().map(|entry| entry.synced).max();
    let begun = members.iter().filter_map(|member| member.file.beginning);
    let synced = begun.map(|beginning| beginning.previous_end);
    let synced = synced.chain(members.iter().filter_map(said)).max().unwrap_or(0);
    let damage = members.iter().filter_map(Member::damage).chain(missing).min();
    let mut recovered = Recovered {
        rot: damage.is_some_and(|at| at < synced),
        synced,
        ..Recovered::default()
    };
    // Without rot nothing at or behind the first damage was ever acknowledged: it is where the journal ends.
    let end = damage.filter(|_| !recovered.rot).unwrap_or(u64::MAX);
    let mut states = BTreeMap::new();
    for member in members.iter().filter(|member| member.file.start < end) {
        let start = member.file.start;
        for entry in member.entries().filter(|entry| entry.offset < end) {
            match &entry.content {
                Content::State => drop(states.insert(entry.segment, entry.location)),
                Content::Batch(batch) => recovered.batches.push((entry.segment, entry.location, batch.clone())),
            }
        }
        let file_end = member
            .end
            .unwrap_or(member.file.valid_through.min(member.room))
            .min(end);
        let file = JournalFile {
            bytes: file_end - start,
            begun: true,
            ..JournalFile::default()
        };
        recovered.files.insert(start, file);
        recovered.tail.start = start;
        recovered.tail.end = file_end;
    }
    recovered.tail.next_start = scan.next_start;
    let unused = scan.files.keys().filter(|start| !recovered.files.contains_key(*start));
    recovered.unused = unused.copied().collect();
    let files = JournalFiles::new(recovered.files.clone());
    for (segment, location) in states {
        let state = read(disk, &files, location)?;
        if !state.is_empty() {
            recovered.states.insert(segment, state);
        }
    }
    Ok(recovered)
}

/// The payload of an entry that was found valid.
pub(crate) fn read(disk: &dyn Disk, files: &JournalFiles, location: Location) -> Result<Bytes, OpenError> {
    let (file, at) = files.place(location.offset).expect("the entry is of one of the files");
    let mut bytes = vec![0; location.bytes as usize];
    disk.read_at(&file, at, &mut bytes)
        .map_err(|error| OpenError::io(&file, &error))?;
    Ok(bytes.into())
}

impl Recovered {
    /// Makes all that was found durable, before anything is said of it: it may have been read from the operating system's
    /// cache after a sync that failed, and then another sync alone proves nothing (protocol.md, hole 28). So what was perhaps
    /// never synced is written again, in its place: that needs no room. Every file but the last was synced before the one
    /// after it was begun.
    pub(crate) fn secure(&self, disk: &dyn Disk) -> Result<(), OpenError> {
        let Tail { start, end, .. } = self.tail;
        if self.files.is_empty() {
            return Ok(());
        }
        let name = file_name(start);
        let io = |error: std::io::Error| OpenError::io(&name, &error);
        let mut at = self.synced.max(start) - start;
        while at < end - start {
            let mut bytes = vec![0; REWRITE_BYTES.min(end - start - at) as usize];
            disk.read_at(&name, at, &mut bytes).map_err(io)?;
            disk.write_at(&name, at, &bytes).map_err(io)?;
            at += bytes.len() as u64;
        }
        if !self.rot {
            // The torn tail, and room that was allocated in vain.
            disk.truncate(&name, end - start).map_err(io)?;
        }
        disk.sync(&name).map_err(io)
    }

    /// Groups batches by segment, for the segments' own recovery.
    pub(crate) fn by_segment(&self, manifest: &Manifest) -> Vec<RecoveredSegment> {
        let mut segments: BTreeMap<SegmentId, RecoveredSegment> = BTreeMap::new();
        for (segment, state) in &self.states {
            let one = RecoveredSegment {
                segment: *segment,
                state: state.clone(),
                batches: Vec::new(),
                vouches: !manifest.is_damaged(*segment),
            };
            segments.insert(*segment, one);
        }
        for (segment, _, batch) in &self.batches {
            if let Some(one) = segments.get_mut(segment) {
                one.batches.push(batch.clone());
            }
        }
        segments.into_values().collect()
    }

    /// Where each batch lies.
    pub(crate) fn locations(&self) -> impl Iterator<Item = (SegmentId, Position, Location)> + '_ {
        let batches = self.batches.iter();
        batches.map(|(segment, location, batch)| (*segment, batch.end, *location))
    }
}
