//! One entry of the journal as bytes. Layout: `docs/formats/journal.md`.

use bytes::Bytes;
use units::SegmentId;
use wire_format::EncodedBatch;

/// What an entry begins with; also what recovery looks for behind a damaged one.
pub(crate) const ENTRY_MAGIC: [u8; 4] = 0xB04E_A117_u32.to_le_bytes();
/// magic, length, checksum, offset, synced offset, kind, segment.
pub(crate) const ENTRY_HEADER_BYTES: usize = 4 + 4 + 4 + 8 + 8 + 1 + 16;
/// The longest entry that recovery believes in.
pub(crate) const ENTRY_BYTES_MAX: usize = 80 << 20;
pub(crate) const KIND_STATE: u8 = 1;
pub(crate) const KIND_BATCH: u8 = 2;
pub(crate) const KIND_FILE: u8 = 3;
/// Says nothing: it stands where something was lost that nobody needs.
pub(crate) const KIND_FILLER: u8 = 4;

/// One thing to journal.
#[derive(Clone, Debug)]
pub enum JournalEntry {
    /// A segment's state, opaque here. It replaces the one before.
    State {
        /// Whose.
        segment: SegmentId,
        /// Its bytes; none: the segment is removed.
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

impl JournalEntry {
    /// Removes a segment, with everything it holds, once it is synced.
    pub fn removal(segment: SegmentId) -> JournalEntry {
        let bytes = Bytes::new();
        JournalEntry::State { segment, bytes }
    }

    /// Bytes that it takes in the journal.
    pub(crate) fn journaled_bytes(&self) -> usize {
        ENTRY_HEADER_BYTES
            + match self {
                JournalEntry::State { bytes, .. } => bytes.len(),
                JournalEntry::Batch { batch, .. } => batch.bytes().len(),
            }
    }
}

/// What the first entry of a file says: which file is before it, and where that one ends. What stands behind that end was
/// refused, torn, or is left from an earlier life of the file: it counts for nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileBeginning {
    pub(crate) previous_start: u64,
    /// Zero: there is none before.
    pub(crate) previous_end: u64,
}

impl FileBeginning {
    pub(crate) const BYTES: usize = 16;

    pub(crate) fn encode(self) -> [u8; FileBeginning::BYTES] {
        let mut bytes = [0; FileBeginning::BYTES];
        bytes[..8].copy_from_slice(&self.previous_start.to_le_bytes());
        bytes[8..].copy_from_slice(&self.previous_end.to_le_bytes());
        bytes
    }

    /// Whether a file that begins at `start` can come after what it names.
    pub(crate) fn can_precede(self, start: u64) -> bool {
        let ends_after_start = self.previous_start < self.previous_end;
        self.previous_end == 0 || (ends_after_start && self.previous_end <= start)
    }

    pub(crate) fn decode(payload: &[u8]) -> Option<FileBeginning> {
        let (previous_start, previous_end) = payload.split_at_checked(8)?;
        Some(FileBeginning {
            previous_start: u64::from_le_bytes(previous_start.try_into().ok()?),
            previous_end: u64::from_le_bytes(previous_end.try_into().ok()?),
        })
    }
}

/// Of everything but magic and checksum.
fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut checksum = crc32c::crc32c(&header[4..8]);
    checksum = crc32c::crc32c_append(checksum, &header[12..ENTRY_HEADER_BYTES]);
    crc32c::crc32c_append(checksum, payload)
}

/// Entries that will stand behind each other.
pub(crate) struct EntryWriter {
    pub(crate) bytes: Vec<u8>,
    /// Offset in the journal of the first byte.
    start: u64,
    /// Everything below this offset is durable.
    synced: u64,
}

impl EntryWriter {
    pub(crate) fn new(start: u64, synced: u64, capacity: usize) -> EntryWriter {
        EntryWriter {
            bytes: Vec::with_capacity(capacity),
            start,
            synced,
        }
    }

    /// Where the next byte will stand in the journal.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Adds an entry. The offset in it tells it from one that stood at this place in an earlier life of the file, and from
    /// bytes inside a record that only look like one.
    pub(crate) fn push(&mut self, kind: u8, segment: SegmentId, payload: &[u8]) {
        let (at, offset) = (self.bytes.len(), self.end());
        let out = &mut self.bytes;
        out.extend_from_slice(&ENTRY_MAGIC);
        out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&self.synced.to_le_bytes());
        out.push(kind);
        out.extend_from_slice(&segment.bytes());
        // A batch carries a checksum of its own; adding its bytes here costs little and covers states, too.
        let checksum = checksum(&out[at..], payload);
        out[at + 8..at + 12].copy_from_slice(&checksum.to_le_bytes());
        out.extend_from_slice(payload);
    }
}

/// A valid entry.
pub(crate) struct Entry<'a> {
    /// Where it begins in the journal.
    pub(crate) offset: u64,
    pub(crate) synced: u64,
    pub(crate) kind: u8,
    pub(crate) segment: SegmentId,
    pub(crate) payload: &'a [u8],
}

impl Entry<'_> {
    /// The entry that begins at `at` of the file that begins at `start` of the journal, if there is one.
    pub(crate) fn decode(file: &[u8], start: u64, at: usize) -> Option<Entry<'_>> {
        let header = file.get(at..at.checked_add(ENTRY_HEADER_BYTES)?)?;
        let number = |from: usize| u32::from_le_bytes(header[from..from + 4].try_into().expect("four bytes"));
        let offset = |from: usize| u64::from_le_bytes(header[from..from + 8].try_into().expect("eight bytes"));
        let length = number(4) as usize;
        let here = start.checked_add(at as u64)?;
        if header[..4] != ENTRY_MAGIC || ENTRY_BYTES_MAX < length || offset(12) != here {
            return None;
        }
        let payload_at = at + ENTRY_HEADER_BYTES;
        let payload = file.get(payload_at..payload_at + length)?;
        (checksum(header, payload) == number(8)).then(|| Entry {
            offset: here,
            synced: offset(20),
            kind: header[28],
            segment: SegmentId::from_bytes(header[29..45].try_into().expect("sixteen bytes")),
            payload,
        })
    }

    /// Bytes that it takes in the file.
    pub(crate) fn bytes(&self) -> usize {
        ENTRY_HEADER_BYTES + self.payload.len()
    }

    /// Where its payload begins in the journal.
    pub(crate) fn payload_offset(&self) -> u64 {
        self.offset + ENTRY_HEADER_BYTES as u64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEGMENT: SegmentId = SegmentId::from_bytes([3; 16]);

    fn entry(start: u64) -> Vec<u8> {
        let mut writer = EntryWriter::new(start, 5, 0);
        writer.push(KIND_STATE, SEGMENT, b"state");
        writer.bytes
    }

    #[test]
    fn an_entry_is_one_only_where_it_was_written() {
        let bytes = entry(4096);
        let found = Entry::decode(&bytes, 4096, 0).expect("it is one");
        assert_eq!(
            (found.kind, found.synced, found.payload),
            (KIND_STATE, 5, &b"state"[..])
        );
        assert_eq!((found.offset, found.bytes()), (4096, bytes.len()));
        // In another life of the file, and elsewhere in it.
        assert!(Entry::decode(&bytes, 8192, 0).is_none());
        let moved = [&[0; 7], &bytes[..]].concat();
        assert!(Entry::decode(&moved, 4096, 7).is_none());
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_found(at in 0..ENTRY_HEADER_BYTES + 5, bit in 0..8u8) {
            let mut bytes = entry(4096);
            bytes[at] ^= 1 << bit;
            prop_assert!(Entry::decode(&bytes, 4096, 0).is_none());
        }

        #[test]
        fn arbitrary_bytes_are_no_entry(bytes in prop::collection::vec(any::<u8>(), 0..200), start: u64, at in 0..300usize) {
            prop_assert!(Entry::decode(&bytes, start, at).is_none());
            let _ = FileBeginning::decode(&bytes);
        }
    }
}
