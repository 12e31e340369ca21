//! The page on which the log ends, made again as PostgreSQL wrote it.
//!
//! PostgreSQL goes on writing behind it, and whoever walks the log of a data directory (`pg_waldump`) begins at its header.
//! The records that stand on it come from the volume. What stood on it before the volume was made comes from the import;
//! those records are in no flush.
//!
//! Invariant: memory for the records of one page and the last page of a longer one, however long the log's end is.

use bytes::Bytes;
use units::Lsn;
use wal::{PageHeader, PageWriter, WAL_PAGE_BYTES, page_flag, record_start};
use wire_format::Item;

/// A record at the end of the log.
struct LastRecord {
    end: Lsn,
    record_bytes: u64,
    /// Its last bytes: all of it, or at least what fits on a page.
    bytes: Bytes,
}

/// What the import left of its log: the page on which it ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ImportedPage {
    /// Where the imported log ends.
    pub(crate) end: Lsn,
    /// The page from its beginning to that end.
    pub(crate) bytes: Bytes,
}

impl ImportedPage {
    /// As a value of the catalog: the end, eight bytes, then the page.
    pub(crate) fn encode(&self) -> Bytes {
        [&self.end.raw().to_le_bytes(), &self.bytes[..]].concat().into()
    }

    /// The inverse; `None` if it is not one.
    pub(crate) fn decode(mut value: Bytes) -> Option<ImportedPage> {
        let end = Lsn::from_raw(u64::from_le_bytes(*value.first_chunk::<8>()?));
        let bytes = value.split_off(8);
        (bytes.len() as u64 == end.raw() % WAL_PAGE_BYTES).then_some(ImportedPage { end, bytes })
    }
}

/// What every page of a log has in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogFacts {
    pub(crate) timeline: u32,
    pub(crate) system_identifier: u64,
    pub(crate) wal_file_bytes: u64,
}

/// Collects what stands on the last page, in the order of the log.
pub(crate) struct LastPage {
    start: Lsn,
    end: Lsn,
    facts: LogFacts,
    flags: u16,
    records: Vec<LastRecord>,
    /// The end of a record that comes in fragments, and the offset up to which it is here.
    fragments: Vec<u8>,
    fragments_through: u64,
}

impl LastPage {
    /// For the log that ends at `end`, which is no page's end.
    pub(crate) fn new(end: Lsn, facts: LogFacts) -> LastPage {
        LastPage {
            start: Lsn::from_raw(end.raw() - end.raw() % WAL_PAGE_BYTES),
            end,
            facts,
            flags: page_flag::IMAGES_REMOVABLE,
            records: Vec::new(),
            fragments: Vec::new(),
            fragments_through: 0,
        }
    }

    /// Flags of page headers, as a flush has them.
    pub(crate) fn flags(&mut self, flags: &[(Lsn, u16)]) {
        if let Some((_, flags)) = flags.iter().find(|(page, _)| *page == self.start) {
            self.flags = *flags;
        }
    }

    /// One item of a flush.
    pub(crate) fn item(&mut self, item: &Item) {
        match item {
            Item::Record { end, bytes } => self.record(*end, bytes.len() as u64, bytes.clone()),
            Item::Fragment {
                end,
                record_bytes,
                offset,
                bytes,
            } => {
                if self.fragments_through != u64::from(*offset) {
                    self.fragments.clear();
                }
                self.fragments.extend_from_slice(bytes);
                let surplus = self.fragments.len().saturating_sub(WAL_PAGE_BYTES as usize);
                self.fragments.drain(..surplus);
                self.fragments_through = u64::from(*offset) + bytes.len() as u64;
                if self.fragments_through == u64::from(*record_bytes) {
                    let bytes = std::mem::take(&mut self.fragments).into();
                    self.record(*end, u64::from(*record_bytes), bytes);
                }
            }
            Item::Image { .. } => {}
        }
    }

    fn record(&mut self, end: Lsn, record_bytes: u64, bytes: Bytes) {
        if self.start < end && end <= self.end {
            self.records.push(LastRecord {
                end,
                record_bytes,
                bytes,
            });
        }
    }

    /// The page up to the end of the log; `None` if it cannot be made of what is here.
    pub(crate) fn bytes(&self, imported: Option<&ImportedPage>) -> Option<Vec<u8>> {
        let imported = imported.filter(|imported| self.start < imported.end && imported.end <= self.end);
        let (mut page, records) = match imported {
            Some(imported) => {
                let later = self.records.iter().position(|record| imported.end < record.end);
                (
                    imported.bytes.to_vec(),
                    &self.records[later.unwrap_or(self.records.len())..],
                )
            }
            None => (self.first_record()?, &self.records[1..]),
        };
        let facts = &self.facts;
        let behind = Lsn::from_raw(self.start.raw() + page.len() as u64);
        let mut writer = PageWriter::new(
            behind,
            facts.timeline,
            facts.system_identifier,
            facts.wal_file_bytes,
            &[],
        );
        for record in records {
            if record.bytes.len() as u64 != record.record_bytes {
                return None;
            }
            let begin = record_start(writer.end(), facts.wal_file_bytes);
            writer.append(begin, &record.bytes).ok()?;
            if writer.end() != record.end {
                return None;
            }
        }
        let is_whole = writer.end() == self.end;
        page.extend_from_slice(&writer.into_bytes());
        is_whole.then_some(page)
    }

    /// The page's header, and what stands on the page of the first record, which may have begun on an earlier one.
    fn first_record(&self) -> Option<Vec<u8>> {
        let record = self.records.first()?;
        let padding = record.record_bytes.next_multiple_of(8) - record.record_bytes;
        let header = self.header(0).len() as u64;
        let here = record.end.bytes_since(self.start)?.0.checked_sub(header + padding)?;
        // Shorter: something stands before it that is not here.
        let earlier = record.record_bytes.checked_sub(here)?;
        let from = record.bytes.len().checked_sub(usize::try_from(here).ok()?)?;
        let mut page = self.header(if earlier == 0 { 0 } else { here });
        page.extend_from_slice(&record.bytes[from..]);
        page.resize((header + here + padding) as usize, 0);
        Some(page)
    }

    /// The page where nothing tells what stood on it: up to the end of the log it says to be the rest of an earlier record, so
    /// that whoever walks the log goes on behind it.
    pub(crate) fn unknown(&self) -> Vec<u8> {
        let length = self.end.raw() - self.start.raw();
        let header = self.header(0).len() as u64;
        let mut page = self.header(length.saturating_sub(header));
        page.resize(length as usize, 0);
        page
    }

    /// `remaining`: bytes of a record that began earlier.
    fn header(&self, remaining: u64) -> Vec<u8> {
        let is_long = self.start.raw().is_multiple_of(self.facts.wal_file_bytes);
        let mut flags = self.flags & !page_flag::DERIVED;
        if is_long {
            flags |= page_flag::LONG_HEADER;
        }
        if remaining != 0 {
            flags |= page_flag::FIRST_IS_CONTINUATION;
        }
        let header = PageHeader {
            flags,
            timeline: self.facts.timeline,
            address: self.start,
            remaining_bytes: u32::try_from(remaining).expect("less than a page is left of it"),
        };
        let mut page = header.encode().to_vec();
        if is_long {
            page.extend_from_slice(&self.facts.system_identifier.to_le_bytes());
            page.extend_from_slice(&(self.facts.wal_file_bytes as u32).to_le_bytes());
            page.extend_from_slice(&(WAL_PAGE_BYTES as u32).to_le_bytes());
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wal::encode_record;

    use super::*;

    const FILE: u64 = 1 << 20;
    const FACTS: LogFacts = LogFacts {
        timeline: 1,
        system_identifier: 77,
        wal_file_bytes: FILE,
    };

    /// Records of these sizes from `start` on, and the pages PostgreSQL would have.
    fn log(start: u64, sizes: &[usize]) -> (Vec<(Lsn, Bytes)>, Vec<u8>, Lsn) {
        let start = Lsn::from_raw(start);
        let mut writer = PageWriter::new(start, 1, 77, FILE, &[]);
        let mut records = Vec::new();
        for (size, fill) in sizes.iter().zip(1..) {
            let record = encode_record(21, 0, 5, Lsn::from_raw(8), &vec![fill; *size]);
            writer
                .append(record_start(writer.end(), FILE), &record)
                .expect("they follow each other");
            records.push((writer.end(), Bytes::from(record)));
        }
        let end = writer.end();
        (records, writer.into_bytes(), end)
    }

    fn last_page(records: &[(Lsn, Bytes)], end: Lsn, fragment_bytes: usize) -> LastPage {
        let mut page = LastPage::new(end, FACTS);
        for (end, bytes) in records {
            if bytes.len() <= fragment_bytes {
                let (end, bytes) = (*end, bytes.clone());
                page.item(&Item::Record { end, bytes });
                continue;
            }
            for offset in (0..bytes.len()).step_by(fragment_bytes) {
                page.item(&Item::Fragment {
                    end: *end,
                    record_bytes: bytes.len() as u32,
                    offset: offset as u32,
                    bytes: bytes.slice(offset..bytes.len().min(offset + fragment_bytes)),
                });
            }
        }
        page
    }

    #[test]
    fn a_record_that_began_long_before_is_known_by_its_end() {
        for fragment_bytes in [100, 8000, 9000, 1 << 20] {
            let (records, bytes, end) = log(FILE, &[50_000, 10, 300]);
            let page = last_page(&records, end, fragment_bytes).bytes(None);
            let length = (end.raw() % WAL_PAGE_BYTES) as usize;
            let expected = &bytes[bytes.len() - length..];
            assert!(page.as_deref() == Some(expected), "in pieces of {fragment_bytes}");
            let without_its_end = last_page(&records[1..], end, fragment_bytes).bytes(None);
            assert!(without_its_end.is_none(), "in pieces of {fragment_bytes}");
        }
    }

    #[test]
    fn what_the_import_had_is_gone_on_from() {
        let (records, bytes, end) = log(FILE + 40, &[100, 200, 300]);
        let (imported_end, _) = records[0];
        let mut before = LastPage::new(end, FACTS).unknown();
        before.truncate(40);
        let real = [&before[..], &bytes].concat();
        let imported = ImportedPage {
            end: imported_end,
            bytes: Bytes::copy_from_slice(&real[..(imported_end.raw() - FILE) as usize]),
        };
        assert_eq!(ImportedPage::decode(imported.encode()), Some(imported.clone()));
        let all = last_page(&records[1..], end, FILE as usize);
        assert_eq!(all.bytes(Some(&imported)), Some(real.clone()));
        let none = LastPage::new(imported_end, FACTS);
        assert_eq!(none.bytes(Some(&imported)).as_deref(), Some(&imported.bytes[..]));
        assert_eq!(none.bytes(None), None);
        let one_missing = last_page(&records[2..], end, FILE as usize);
        assert_eq!(one_missing.bytes(Some(&imported)), None);
        let later = last_page(&records, end, FILE as usize);
        assert_eq!(
            later.bytes(Some(&imported)),
            Some(real),
            "what the import had already is passed over"
        );
    }

    #[test]
    fn a_value_that_is_no_imported_page_is_told() {
        assert_eq!(ImportedPage::decode(Bytes::from_static(b"short")), None);
        let wrong = [&(FILE + 100).to_le_bytes()[..], &[0; 99]].concat();
        assert_eq!(ImportedPage::decode(wrong.into()), None);
    }

    #[test]
    fn an_unknown_page_is_passed_over_by_its_header() {
        let end = Lsn::from_raw(FILE + 3 * WAL_PAGE_BYTES + 160);
        let page = LastPage::new(end, FACTS).unknown();
        assert_eq!(page.len(), 160);
        let header = PageHeader::decode(page.first_chunk().expect("a header")).expect("the magic");
        assert_eq!(header.remaining_bytes, 160 - 24);
        assert_ne!(header.flags & page_flag::FIRST_IS_CONTINUATION, 0);
    }

    proptest! {
        /// As long as the first record on the page is known, the page is what PostgreSQL wrote; never a wrong one.
        #[test]
        fn it_is_the_page_or_none(sizes in prop::collection::vec(0usize..12_000, 1..12), skipped in 0usize..12, start in 5u64..1000) {
            let start = FILE + start * 8;
            let (records, bytes, end) = log(start, &sizes);
            let length = end.raw() % WAL_PAGE_BYTES;
            prop_assume!(length != 0 && length <= bytes.len() as u64);
            let known = &records[skipped.min(records.len())..];
            let page_start = end.raw() - length;
            let first_end = known.iter().map(|(end, _)| end.raw()).find(|end| page_start < *end);
            let before = records.iter().rev().find(|(end, _)| Some(end.raw()) < first_end).map_or(start, |(end, _)| end.raw());
            let page = last_page(known, end, 1 << 20).bytes(None);
            if first_end.is_some() && before <= page_start {
                prop_assert!(page.as_deref() == Some(&bytes[bytes.len() - length as usize..]));
            } else {
                prop_assert!(page.is_none());
            }
        }
    }
}
