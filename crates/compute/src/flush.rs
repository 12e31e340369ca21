//! From the stream of WAL to flushes.
//!
//! Invariants:
//! - A flush ends at a record's end, or holds nothing but a piece of one record: its boundary is then the record end before.
//! - Marks and catalog entries of a flush are as of its boundary, in the order of the log.
//! - No byte of a record leaves that no storage node could redo: an extension's own, or of a later release. Nor does one that
//!   copies a database as files.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use units::Lsn;
use volume::{FlushParts, Share};
use wal::{DecodedRecord, Marks, Record, RecordHeader, StateChange, StreamDecoder, StreamError};
use wire_format::{CatalogEntry, Item};

use crate::catalog::Catalog;

/// WAL that is not what it should be: PostgreSQL and this build do not understand each other. Nothing of it is shipped, so no
/// commit behind it is ever acknowledged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FlushError {
    #[error("the log cannot be read: {0}")]
    Stream(#[from] StreamError),
    #[error("the record ending at {end} cannot be kept: {what}")]
    Record { end: Lsn, what: String },
}

/// Turns WAL into flushes of a bounded size.
pub(crate) struct FlushBuilder {
    decoder: StreamDecoder,
    marks: Marks,
    catalog: Rc<RefCell<Catalog>>,
    flush_bytes_max: usize,
    items: Vec<Item>,
    entries: Vec<CatalogEntry>,
    flags: Vec<(Lsn, u16)>,
    bytes: usize,
    /// A record that is being cut: it, and how much of it is sent.
    long: Option<(Record, usize)>,
}

impl FlushBuilder {
    /// Goes on right behind the record that `marks` are as of.
    pub(crate) fn new(
        marks: Marks,
        catalog: Rc<RefCell<Catalog>>,
        wal_file_bytes: u64,
        flush_bytes_max: usize,
    ) -> FlushBuilder {
        FlushBuilder {
            decoder: StreamDecoder::new(marks.end, Some(marks.last_record), wal_file_bytes),
            marks,
            catalog,
            flush_bytes_max,
            items: Vec::new(),
            entries: Vec::new(),
            flags: Vec::new(),
            bytes: 0,
            long: None,
        }
    }

    /// Takes WAL. Call [`FlushBuilder::next`] until it has nothing more before the next push.
    pub(crate) fn push(&mut self, start: Lsn, bytes: Bytes) -> Result<(), FlushError> {
        Ok(self.decoder.push(start, &bytes)?)
    }

    /// The next flush, as long as there is a whole record. `written_at_us`: the wall clock.
    pub(crate) fn next(&mut self, written_at_us: u64) -> Result<Option<FlushParts>, FlushError> {
        if self.long.is_some() {
            return self.piece(written_at_us).map(Some);
        }
        while self.bytes < self.flush_bytes_max {
            let Some(record) = self.decoder.next_record()? else {
                break;
            };
            if self.flush_bytes_max < record.bytes.len() {
                check_kind(&record)?;
                self.long = Some((record, 0));
                // What came before it is a flush of its own.
                return if self.items.is_empty() {
                    self.piece(written_at_us).map(Some)
                } else {
                    Ok(Some(self.take(self.marks.end, written_at_us)))
                };
            }
            self.pass(&record)?;
            self.bytes += record.bytes.len();
            self.items.push(Item::Record {
                end: record.end,
                bytes: record.bytes,
            });
        }
        Ok((!self.items.is_empty()).then(|| self.take(self.marks.end, written_at_us)))
    }

    /// The log as of which catalog and marks are.
    pub(crate) fn end(&self) -> Lsn {
        self.marks.end
    }

    fn pass(&mut self, record: &Record) -> Result<(), FlushError> {
        let unreadable = |what| unreadable(record, what);
        let decoded = DecodedRecord::decode(&record.bytes).map_err(|error| unreadable(error.to_string()))?;
        let mut changes = Vec::new();
        wal::state_changes(&decoded, &mut changes).map_err(|error| unreadable(error.to_string()))?;
        if let Some(StateChange::DatabaseCopied { database, .. }) = changes
            .iter()
            .find(|change| matches!(change, StateChange::DatabaseCopied { .. }))
        {
            // The library makes every strategy wal_log and refuses to move databases: what came around it must not be lost.
            let what = format!("database {database} is a copy of files, and the volume has no files");
            return Err(unreadable(what));
        }
        self.catalog
            .borrow_mut()
            .apply_all(&changes, record.end, &mut self.entries);
        let passed = self.marks.advance(&decoded, record.start, record.end);
        passed.map_err(|error| unreadable(error.to_string()))
    }

    fn take(&mut self, end: Lsn, written_at_us: u64) -> FlushParts {
        let mut marks = Vec::with_capacity(64);
        self.marks.encode(&mut marks);
        self.flags.extend(self.decoder.take_page_flags());
        self.bytes = 0;
        FlushParts {
            end,
            boundary: self.marks.end,
            first: Share::of(std::mem::take(&mut self.items)),
            others: Vec::new(),
            marks: marks.into(),
            catalog: std::mem::take(&mut self.entries),
            page_flags: std::mem::take(&mut self.flags),
            written_at_us,
        }
    }

    /// The next piece of a long record. Its flush is named as if the record ended with it, counted back from the end.
    fn piece(&mut self, written_at_us: u64) -> Result<FlushParts, FlushError> {
        let (record, sent) = self.long.take().expect("called while a record is being cut");
        let whole = record.bytes.len();
        let next = whole.min(sent + self.flush_bytes_max);
        self.items.push(Item::Fragment {
            end: record.end,
            record_bytes: whole as u32,
            offset: sent as u32,
            bytes: record.bytes.slice(sent..next),
        });
        let end = Lsn::from_raw(record.end.raw() - (whole - next) as u64);
        if next == whole {
            self.pass(&record)?;
        } else {
            self.long = Some((record, next));
        }
        Ok(self.take(end, written_at_us))
    }
}

fn unreadable(record: &Record, what: String) -> FlushError {
    FlushError::Record { end: record.end, what }
}

/// Before the first piece of a long record leaves, whose inside is looked at with the last.
fn check_kind(record: &Record) -> Result<(), FlushError> {
    let header = RecordHeader::decode(&record.bytes);
    let header = header.ok_or_else(|| unreadable(record, "it is shorter than a header".to_owned()))?;
    header
        .kind()
        .map(drop)
        .map_err(|error| unreadable(record, error.to_string()))
}

#[cfg(test)]
mod tests {
    use wal::{PageWriter, encode_record, record_start, resource_manager};

    use super::*;

    const WAL_FILE_BYTES: u64 = 1 << 20;
    const FLUSH_BYTES_MAX: usize = 4096;

    /// A builder that was given a message of so many bytes and a record of this resource manager with as much in it.
    fn given(manager: u8, data_bytes: usize) -> (FlushBuilder, Lsn) {
        let begin = Lsn::from_raw(3 * WAL_FILE_BYTES);
        let marks = Marks {
            end: begin,
            last_record: Lsn::from_raw(begin.raw() - 64),
            ..Marks::default()
        };
        let mut flushes = FlushBuilder::new(marks, Rc::default(), WAL_FILE_BYTES, FLUSH_BYTES_MAX);
        let mut writer = PageWriter::new(begin, 1, 77, WAL_FILE_BYTES, &[]);
        let mut previous = marks.last_record;
        let mut first_end = begin;
        for manager in [resource_manager::LOGICAL_MESSAGE, manager] {
            let start = record_start(writer.end(), WAL_FILE_BYTES);
            let record = encode_record(manager, 0, 0, previous, &vec![7; data_bytes]);
            writer.append(start, &record).expect("it follows the one before");
            (previous, first_end) = (start, if first_end == begin { writer.end() } else { first_end });
        }
        flushes
            .push(begin, writer.into_bytes().into())
            .expect("it begins there");
        (flushes, first_end)
    }

    #[test]
    fn a_long_record_leaves_in_pieces_and_counts_with_the_last() {
        let (mut flushes, first_end) = given(resource_manager::LOGICAL_MESSAGE, 2 * FLUSH_BYTES_MAX);
        let mut pieces = 0;
        while flushes.end() < first_end {
            let flush = flushes.next(0).expect("sound log").expect("a piece");
            assert!(matches!(flush.first.items[..], [Item::Fragment { .. }]));
            assert_eq!(flush.boundary, flushes.end());
            pieces += 1;
        }
        assert_eq!(pieces, 3);
    }

    /// What nobody could redo never leaves, not even the first piece of it, and neither does anything behind it.
    #[test]
    fn a_record_of_an_extension_is_refused_and_the_extension_named() {
        for (data_bytes, flushes_before) in [(100, 0), (2 * FLUSH_BYTES_MAX, 3)] {
            let (mut flushes, first_end) = given(128, data_bytes);
            for _ in 0..flushes_before {
                let flush = flushes.next(0).expect("the first record").expect("a piece of it");
                assert!(flush.end <= first_end);
            }
            let refused = flushes.next(0).expect_err("no flush has it").to_string();
            assert!(refused.contains("resource manager 128"), "{refused}");
            assert!(refused.contains("shared_preload_libraries"), "{refused}");
            assert!(flushes.end() <= first_end);
        }
    }

    #[test]
    fn a_database_copied_as_files_is_refused() {
        let (mut flushes, _) = given(resource_manager::DATABASE, 16);
        let refused = flushes.next(0).expect_err("no flush has it").to_string();
        assert!(refused.contains("copy of files"), "{refused}");
    }
}
