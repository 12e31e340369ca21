//! Mending the journal: a file of it is written anew, with what it had lost.
//!
//! What a file of the journal said is known for as long as the process lives: the states are in memory, and where each batch lies
//! is, too. So the file can be written again as it was, the lost batches as peers have them, since a batch is encoded once and
//! then only passed on. Lost states are not needed: a later file begins with the newest of every segment. In their place, and in
//! that of batches that nobody needs any more, stand entries that say nothing.
//!
//! Invariants:
//! - The file that is written to is left first: what takes a file's place is never appended to.
//! - Every batch stays where it was. Until the file has its new content, durably, it counts as lost.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use io::Disk;
use units::{Position, SegmentId};
use wire_format::EncodedBatch;

use crate::journal::{AppendError, NO_SEGMENT};
use crate::journal_entry::{
    ENTRY_HEADER_BYTES, ENTRY_MAGIC, Entry, EntryWriter, FileBeginning, KIND_BATCH, KIND_FILE, KIND_FILLER,
};
use crate::journal_files::{FOLDER, Held, JournalFile, Location, file_name};
use crate::locked;
use crate::read::ReadError;
use crate::segment_store::SegmentStore;
use crate::store::PageStore;
use crate::upkeep;

/// What is to take a file's place. No file of the journal has such a name.
const NEXT: &str = "journal/mended";

/// Bytes that are compared at once with what was written.
const PIECE_BYTES: usize = 1 << 20;

/// A batch whose bytes are lost.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LostBatch {
    /// Whose.
    pub segment: SegmentId,
    /// Its name.
    pub position: Position,
}

/// Batches that are lost, by where their payloads begin.
type LostBatches = BTreeMap<u64, (LostBatch, Location)>;

/// The mending of a file of the journal.
pub struct JournalMend {
    start: u64,
    bytes: Vec<u8>,
    /// Bytes that are no entries any more, each with the batches that were there.
    gaps: Vec<(Range<usize>, LostBatches)>,
    /// Batches that layers have, and that peers would not ask for: nobody may have them in a journal any more.
    unneeded: BTreeSet<LostBatch>,
}

impl JournalMend {
    /// The batches that are wanted.
    pub fn lost(&self) -> impl Iterator<Item = LostBatch> + '_ {
        self.gone().filter(|batch| !self.unneeded.contains(batch))
    }

    /// The batches that were there.
    fn gone(&self) -> impl Iterator<Item = LostBatch> + '_ {
        let batches = self.gaps.iter().flat_map(|(_, batches)| batches.values());
        batches.map(|(batch, _)| *batch)
    }
}

impl PageStore {
    /// Files of the journal that were found rotten since the start.
    pub fn rotten_journal_files(&self) -> Vec<u64> {
        let segments = self.all_segments();
        let mut rotten: Vec<u64> = segments.iter().flat_map(|one| one.damage().journal_files).collect();
        rotten.sort_unstable();
        rotten.dedup();
        rotten
    }

    /// Reads a file of the journal again: what of it is lost? `None`: nobody needs the file any more.
    pub fn begin_journal_mend(&self, start: u64) -> Result<Option<JournalMend>, ReadError> {
        let name = file_name(start);
        let left = locked(&self.journal).leave(start);
        left.map_err(|error| match error {
            AppendError::DiskFull => ReadError::DiskFull { file: name.clone() },
            error => ReadError::Io {
                file: name.clone(),
                what: error.to_string(),
            },
        })?;
        let _alone = locked(&self.merging);
        let Some(file) = self.journal_file(start) else {
            self.note_journal_whole(start, &self.all_segments())?;
            return Ok(None);
        };
        let bytes = read_what_is_there(&*self.disk, &name, file.bytes as usize)?;
        let gaps = gaps(&bytes, start);
        let among = |gap: &Range<usize>| {
            let batches = file.locations.iter().filter(|(_, location)| {
                let begins = location.offset - start - ENTRY_HEADER_BYTES as u64;
                gap.contains(&(begins as usize))
            });
            let batches = batches.map(|((segment, position), location)| {
                let (segment, position) = (*segment, *position);
                (location.offset, (LostBatch { segment, position }, *location))
            });
            batches.collect::<LostBatches>()
        };
        let gaps: Vec<_> = gaps.into_iter().map(|gap| (gap.clone(), among(&gap))).collect();
        let lost = gaps.iter().flat_map(|(_, batches)| batches.values());
        let unneeded = self.unneeded_of(&file, lost)?;
        Ok(Some(JournalMend {
            start,
            bytes,
            gaps,
            unneeded,
        }))
    }

    /// What is known of a file; `None`: it was given up.
    fn journal_file(&self, start: u64) -> Option<JournalFile> {
        locked(&self.journal_files).files.get(&start).cloned()
    }

    /// Which batches of a file nobody needs. What only a table has of those that nobody wants is written out first.
    fn unneeded_of<'a>(
        &self,
        file: &JournalFile,
        lost: impl Iterator<Item = &'a (LostBatch, Location)>,
    ) -> Result<BTreeSet<LostBatch>, ReadError> {
        let segments = self.all_segments();
        let released = upkeep::released(&segments);
        let held = |(batch, location): &(LostBatch, Location)| Held {
            highest_lsn: batch.position.lsn,
            last_offset: location.offset,
            has_pieces: file.held.get(&batch.segment).is_some_and(|held| held.has_pieces),
        };
        let is_wanted = |lost: &(LostBatch, Location)| {
            let released = released.get(&lost.0.segment);
            released.is_some_and(|released| !released.wants_not(&held(lost)))
        };
        let unwanted: Vec<_> = lost.filter(|lost| !is_wanted(lost)).collect();
        let is_kept = |lost: &(LostBatch, Location)| {
            let manifest = locked(&self.manifest);
            let released = released.get(&lost.0.segment);
            released.is_none_or(|released| released.is_kept_without(&held(lost), &manifest))
        };
        for segment in &segments {
            let mut of_it = unwanted.iter().filter(|(batch, _)| batch.segment == segment.id);
            if of_it.any(|lost| !is_kept(lost)) {
                let _alone = locked(&self.writing);
                self.write_table(segment, &|| ())?;
            }
        }
        let unneeded = unwanted.into_iter().filter(|lost| is_kept(lost));
        Ok(unneeded.map(|(batch, _)| *batch).collect())
    }

    /// Writes the file anew with these batches. Those that are not among them are forgotten: nobody needs them, or no history sees
    /// them any more.
    pub fn end_journal_mend(
        &self,
        mut mend: JournalMend,
        batches: &BTreeMap<LostBatch, EncodedBatch>,
    ) -> Result<(), ReadError> {
        let _alone = locked(&self.merging);
        let segments = self.all_segments();
        if self.journal_file(mend.start).is_some() {
            for (gap, lost) in &mend.gaps {
                let filled = self.fill(mend.start, gap, lost, batches)?;
                mend.bytes[gap.clone()].copy_from_slice(&filled);
            }
            self.replace_file(mend.start, &mend.bytes)?;
            let forgotten = mend.gone().filter(|batch| !batches.contains_key(batch));
            let mut files = locked(&self.journal_files);
            if let Some(file) = files.files.get_mut(&mend.start) {
                for batch in forgotten {
                    file.locations.remove(&(batch.segment, batch.position));
                }
            }
        }
        self.note_journal_whole(mend.start, &segments)
    }

    /// The entries of a gap.
    fn fill(
        &self,
        start: u64,
        gap: &Range<usize>,
        lost: &LostBatches,
        batches: &BTreeMap<LostBatch, EncodedBatch>,
    ) -> Result<Vec<u8>, ReadError> {
        let name = file_name(start);
        // Everything before the file was durable when it was begun.
        let mut out = EntryWriter::new(start + gap.start as u64, start, gap.len());
        let end = start + gap.end as u64;
        if gap.start == 0 {
            let files = locked(&self.journal_files);
            let before = files.files.range(..start).next_back();
            let beginning = FileBeginning {
                previous_start: before.map_or(0, |(previous, _)| *previous),
                previous_end: before.map_or(0, |(previous, file)| previous + file.bytes),
            };
            out.push(KIND_FILE, NO_SEGMENT, &beginning.encode());
        }
        for (lost, location) in lost.values() {
            let Some(batch) = batches.get(lost) else {
                continue;
            };
            if batch.bytes().len() != location.bytes as usize || batch.batch().position() != lost.position {
                let what = format!("a peer has another batch at {}", lost.position);
                return Err(ReadError::Malformed(what));
            }
            say_nothing(&mut out, location.offset - ENTRY_HEADER_BYTES as u64, &name)?;
            out.push(KIND_BATCH, lost.segment, batch.bytes());
        }
        say_nothing(&mut out, end, &name)?;
        Ok(out.bytes)
    }

    /// What is written is read again from the disk before it takes the place of what was there.
    fn replace_file(&self, start: u64, bytes: &[u8]) -> Result<(), ReadError> {
        let io = |error: std::io::Error| ReadError::io(NEXT, &error);
        self.disk.remove(NEXT).map_err(io)?;
        self.disk.write_at(NEXT, 0, bytes).map_err(io)?;
        self.disk.sync(NEXT).map_err(io)?;
        if !is_there(&*self.disk, NEXT, bytes)? || !gaps(bytes, start).is_empty() {
            return Err(ReadError::corrupt(NEXT, "it is not what was written just now"));
        }
        self.disk.rename(NEXT, &file_name(start)).map_err(io)?;
        self.disk.sync_names(FOLDER).map_err(io)
    }

    /// Whose batches a rotten file has.
    pub fn holders_of(&self, start: u64) -> Vec<SegmentId> {
        let holds = |segment: &Arc<SegmentStore>| segment.damage().journal_files.contains(&start);
        let segments = self.all_segments().into_iter();
        segments.filter(holds).map(|segment| segment.id).collect()
    }
}

/// An entry that says nothing, up to `until`.
fn say_nothing(out: &mut EntryWriter, until: u64, name: &str) -> Result<(), ReadError> {
    let room = until.checked_sub(out.end()).map(|room| room as usize);
    match room {
        Some(0) => Ok(()),
        Some(room) if ENTRY_HEADER_BYTES <= room => {
            out.push(KIND_FILLER, NO_SEGMENT, &vec![0; room - ENTRY_HEADER_BYTES]);
            Ok(())
        }
        _ => Err(ReadError::corrupt(name, "what it had lost does not fit into its place")),
    }
}

/// Zeros stand for what is not there any more.
fn read_what_is_there(disk: &dyn Disk, name: &str, length: usize) -> Result<Vec<u8>, ReadError> {
    let there = match disk.length(name) {
        Ok(there) => length.min(usize::try_from(there).unwrap_or(usize::MAX)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(ReadError::io(name, &error)),
    };
    let mut bytes = vec![0; length];
    if 0 < there {
        let read = disk.read_at_rest(name, 0, &mut bytes[..there]);
        read.map_err(|error| ReadError::io(name, &error))?;
    }
    Ok(bytes)
}

/// Whether a file says this, read piece by piece.
fn is_there(disk: &dyn Disk, name: &str, bytes: &[u8]) -> Result<bool, ReadError> {
    let mut at = 0;
    for piece in bytes.chunks(PIECE_BYTES) {
        let mut read = vec![0; piece.len()];
        let answered = disk.read_at_rest(name, at, &mut read);
        answered.map_err(|error| ReadError::io(name, &error))?;
        if read != piece {
            return Ok(false);
        }
        at += piece.len() as u64;
    }
    Ok(true)
}

/// Where there are no entries.
fn gaps(bytes: &[u8], start: u64) -> Vec<Range<usize>> {
    let mut gaps = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if let Some(entry) = Entry::decode(bytes, start, at) {
            at += entry.bytes();
            continue;
        }
        let mut next = at + 1;
        loop {
            let magic = |window: &[u8]| window == ENTRY_MAGIC;
            match bytes[next..].windows(ENTRY_MAGIC.len()).position(magic) {
                None => {
                    next = bytes.len();
                    break;
                }
                Some(found) if Entry::decode(bytes, start, next + found).is_some() => {
                    next += found;
                    break;
                }
                Some(found) => next += found + 1,
            }
        }
        gaps.push(at..next);
        at = next;
    }
    gaps
}
