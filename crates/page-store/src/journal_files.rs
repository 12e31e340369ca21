//! What is known of the journal's files and where batches lie in them, apart from the journal's end, so that nobody who
//! only wants to read waits for a write or a sync.

use std::collections::BTreeMap;

use units::{Lsn, Position, SegmentId};

/// The folder of the files.
pub(crate) const FOLDER: &str = "journal";

/// The file that begins at this offset of the journal.
pub(crate) fn file_name(start: u64) -> String {
    format!("{FOLDER}/{start:020}")
}

const SPARE: &str = "spare-";
/// No file begins as high as this: four exabytes of journal would have to be written first.
const OFFSET_MAX: u64 = 1 << 62;

/// A file that the journal does not use. `number` is a start that the file had, or was meant to have.
pub(crate) fn spare_name(number: u64) -> String {
    format!("{FOLDER}/{SPARE}{number:020}")
}

/// What a name in the folder stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Named {
    File(u64),
    Spare(u64),
}

/// What a name in the folder stands for, if it is one of ours.
pub(crate) fn named(name: &str) -> Option<Named> {
    let number = |digits: &str| digits.parse().ok().filter(|number| *number < OFFSET_MAX);
    let (named, ours) = match name.strip_prefix(SPARE) {
        Some(digits) => number(digits).map(|number| (Named::Spare(number), spare_name(number))),
        None => number(name).map(|start| (Named::File(start), file_name(start))),
    }?;
    (ours == format!("{FOLDER}/{name}")).then_some(named)
}

/// Where a batch lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Location {
    pub(crate) offset: u64,
    pub(crate) bytes: u32,
}

/// The batches of one segment in one file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) highest_lsn: Lsn,
    pub(crate) last_offset: u64,
    /// A record reaches into it or out of it.
    pub(crate) has_pieces: bool,
}

/// One file.
#[derive(Clone, Default, Debug)]
pub(crate) struct JournalFile {
    /// Bytes of it that count: it may be longer.
    pub(crate) bytes: u64,
    /// Whether its beginning is durable, with the states that the files before it are no longer needed for.
    pub(crate) begun: bool,
    /// What it holds of each segment.
    pub(crate) held: BTreeMap<SegmentId, Held>,
    /// Where in it each batch lies.
    pub(crate) locations: Locations,
}

pub(crate) type Locations = BTreeMap<(SegmentId, Position), Location>;

/// All files, by the offset at which they start, and the batches in them.
#[derive(Default, Debug)]
pub(crate) struct JournalFiles {
    pub(crate) files: BTreeMap<u64, JournalFile>,
    /// Why the journal takes nothing more, if so.
    pub(crate) closed: Option<String>,
}

impl JournalFiles {
    pub(crate) fn new(files: BTreeMap<u64, JournalFile>) -> JournalFiles {
        JournalFiles {
            files,
            ..JournalFiles::default()
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.bytes).sum()
    }

    /// The oldest file, if it could go: the one after it must have all states.
    pub(crate) fn oldest(&self) -> Option<(u64, &JournalFile)> {
        let mut files = self.files.iter();
        let (start, oldest) = files.next()?;
        let (_, second) = files.next()?;
        second.begun.then_some((*start, oldest))
    }

    pub(crate) fn note_batch(&mut self, segment: SegmentId, position: Position, location: Location, has_pieces: bool) {
        if let Some((_, file)) = self.files.range_mut(..=location.offset).next_back() {
            let held = file.held.entry(segment).or_insert(Held {
                highest_lsn: position.lsn,
                last_offset: location.offset,
                has_pieces,
            });
            held.has_pieces |= has_pieces;
            held.highest_lsn = position.lsn.max(held.highest_lsn);
            held.last_offset = location.offset.max(held.last_offset);
            file.locations.insert((segment, position), location);
        }
    }

    pub(crate) fn location(&self, segment: SegmentId, position: Position) -> Option<Location> {
        let mut files = self.files.values().rev();
        files.find_map(|file| file.locations.get(&(segment, position)).copied())
    }

    /// The file that holds an offset, and where in it.
    pub(crate) fn place(&self, offset: u64) -> Option<(String, u64)> {
        let (start, _) = self.files.range(..=offset).next_back()?;
        Some((file_name(*start), offset - start))
    }

    /// Forgets the batches of the file that starts here: it is about to be removed. Who appends waits for this lock: where
    /// they were is to be dropped without it.
    #[must_use]
    pub(crate) fn forget_batches(&mut self, start: u64) -> Locations {
        let file = self.files.get_mut(&start);
        file.map(|file| std::mem::take(&mut file.locations)).unwrap_or_default()
    }
}
