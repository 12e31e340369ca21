//! Records back onto WAL pages, byte for byte as PostgreSQL wrote them.

use units::Lsn;

use crate::position::{
    LONG_HEADER_BYTES, PageHeader, WAL_PAGE_BYTES, header_bytes, is_wal_file_size, page_flag, record_start,
};
use crate::record::{ID_DATA_LONG, ID_DATA_SHORT, RECORD_HEADER_BYTES, RecordHeader, record_checksum};

/// The records given do not follow each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// There is a gap before a record, or it overlaps the one before.
    #[error("a record that begins at {got} cannot follow what ends at {end}")]
    Gap {
        /// Where the record begins.
        got: Lsn,
        /// Where the log written so far ends.
        end: Lsn,
    },
}

/// Writes records onto WAL pages. After a switch record it pads to the end of the WAL file.
#[derive(Clone, Debug)]
pub struct PageWriter {
    /// Where `bytes` begins.
    start: Lsn,
    bytes: Vec<u8>,
    timeline: u32,
    system_identifier: u64,
    wal_file_bytes: u64,
    flags: std::collections::BTreeMap<Lsn, u16>,
}

impl PageWriter {
    /// Begins at `start`, where a record begins or a page does. `page_flags` are the flags of page headers that the
    /// decoder reported; a page not among them has the usual ones. Panics if `wal_file_bytes` is not a
    /// size that `initdb --wal-segsize` accepts.
    pub fn new(
        start: Lsn,
        timeline: u32,
        system_identifier: u64,
        wal_file_bytes: u64,
        page_flags: &[(Lsn, u16)],
    ) -> PageWriter {
        assert!(
            is_wal_file_size(wal_file_bytes),
            "PostgreSQL has no WAL files of {wal_file_bytes} bytes"
        );
        let flags = page_flags.iter().copied().collect();
        PageWriter {
            start,
            bytes: Vec::new(),
            timeline,
            system_identifier,
            wal_file_bytes,
            flags,
        }
    }

    /// The end of what was written.
    pub fn end(&self) -> Lsn {
        self.start.advanced_by(self.bytes.len() as u64)
    }

    /// What was written, from the start on; it ends at a multiple of eight.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Appends one record, which must begin where the last one ended.
    pub fn append(&mut self, record_start_lsn: Lsn, record: &[u8]) -> Result<(), LayoutError> {
        let end = self.end();
        if record_start(end, self.wal_file_bytes) != record_start_lsn {
            return Err(LayoutError::Gap {
                got: record_start_lsn,
                end,
            });
        }
        let mut left = record;
        let mut is_continuation = false;
        while !left.is_empty() {
            let end = self.end();
            if end.raw().is_multiple_of(WAL_PAGE_BYTES) {
                let remaining = if is_continuation { left.len() as u32 } else { 0 };
                self.page_header(end, remaining);
            }
            let room = WAL_PAGE_BYTES - self.end().raw() % WAL_PAGE_BYTES;
            let take = left.len().min(room as usize);
            self.bytes.extend_from_slice(&left[..take]);
            left = &left[take..];
            is_continuation = true;
        }
        let mut padded_end = self.end().raw().next_multiple_of(8);
        if RecordHeader::decode(record).is_some_and(|header| header.is_switch()) {
            // PostgreSQL leaves even the page headers in the rest of the file zero (CopyXLogRecordToWAL).
            padded_end = padded_end.next_multiple_of(self.wal_file_bytes);
        }
        let padded = padded_end - self.start.raw();
        self.bytes.resize(padded as usize, 0);
        Ok(())
    }

    fn page_header(&mut self, address: Lsn, remaining_bytes: u32) {
        let is_long = header_bytes(address, self.wal_file_bytes) == LONG_HEADER_BYTES;
        let mut flags = self.flags.get(&address).copied().unwrap_or(page_flag::IMAGES_REMOVABLE);
        if is_long {
            flags |= page_flag::LONG_HEADER;
        }
        if remaining_bytes != 0 {
            flags |= page_flag::FIRST_IS_CONTINUATION;
        }
        let header = PageHeader {
            flags,
            timeline: self.timeline,
            address,
            remaining_bytes,
        };
        self.bytes.extend_from_slice(&header.encode());
        if is_long {
            self.bytes.extend_from_slice(&self.system_identifier.to_le_bytes());
            self.bytes
                .extend_from_slice(&(self.wal_file_bytes as u32).to_le_bytes());
            self.bytes.extend_from_slice(&(WAL_PAGE_BYTES as u32).to_le_bytes());
        }
    }
}

/// A record with main data only, no block references: what a checkpoint is. `previous` is where the record before it
/// begins. Follows `XLogRecordAssemble` in `access/transam/xloginsert.c`.
pub fn encode_record(resource_manager: u8, info: u8, transaction: u32, previous: Lsn, data: &[u8]) -> Vec<u8> {
    let mut record = vec![0; RECORD_HEADER_BYTES];
    match u8::try_from(data.len()) {
        Ok(0) => {}
        Ok(length) => record.extend([ID_DATA_SHORT, length]),
        Err(_) => {
            let length = u32::try_from(data.len()).expect("a record is shorter than a gigabyte");
            record.push(ID_DATA_LONG);
            record.extend(length.to_le_bytes());
        }
    }
    record.extend_from_slice(data);
    let total_bytes = u32::try_from(record.len()).expect("a record is shorter than a gigabyte");
    record[0..4].copy_from_slice(&total_bytes.to_le_bytes());
    record[4..8].copy_from_slice(&transaction.to_le_bytes());
    record[8..16].copy_from_slice(&previous.raw().to_le_bytes());
    record[16] = info;
    record[17] = resource_manager;
    let checksum = record_checksum(&record);
    record[20..24].copy_from_slice(&checksum.to_le_bytes());
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DecodedRecord, StreamDecoder, record_end};

    const FILE: u64 = 1 << 20;

    /// Lays records of these sizes out from `start` on, streams them back in pieces of `piece` bytes.
    fn round_trip(start: u64, sizes: &[usize], piece: usize) {
        let start = Lsn::from_raw(start);
        let mut writer = PageWriter::new(start, 1, 77, FILE, &[]);
        let mut previous = Lsn::from_raw(8);
        let mut written = Vec::new();
        for size in sizes {
            let record = encode_record(21, 0, 5, previous, &vec![7; *size]);
            let at = record_start(writer.end(), FILE);
            writer.append(at, &record).unwrap();
            assert_eq!(writer.end(), record_end(at, record.len() as u64, FILE));
            written.push((at, writer.end(), record));
            previous = at;
        }
        let bytes = writer.into_bytes();
        let mut decoder = StreamDecoder::new(start, Some(Lsn::from_raw(8)), FILE);
        let mut read = Vec::new();
        for piece in bytes.chunks(piece) {
            decoder.push(decoder.next_push(), piece).unwrap();
            while let Some(record) = decoder.next_record().unwrap() {
                DecodedRecord::decode(&record.bytes).unwrap();
                read.push((record.start, record.end, record.bytes.to_vec()));
            }
        }
        assert!(
            read == written,
            "from {start} in pieces of {piece}: {} of {} records",
            read.len(),
            written.len()
        );
    }

    #[test]
    fn records_come_back_from_the_pages_they_were_laid_on() {
        for start in [
            FILE,
            FILE + 8192,
            FILE + 16384 - 8,
            2 * FILE - 24,
            FILE + 8192 - 32,
            FILE + 48,
        ] {
            for piece in [1, 7, 24, 4096, 1 << 20] {
                round_trip(start, &[1, 8150, 20, 100_000, 0, 255, 256, 8192 - 24 - 24 - 2], piece);
            }
        }
    }

    #[test]
    fn a_record_that_does_not_follow_is_refused() {
        let mut writer = PageWriter::new(Lsn::from_raw(FILE), 1, 77, FILE, &[]);
        let record = encode_record(21, 0, 5, Lsn::ZERO, b"x");
        assert!(
            writer.append(Lsn::from_raw(FILE), &record).is_err(),
            "the page header belongs there"
        );
        assert!(writer.append(Lsn::from_raw(FILE + 40), &record).is_ok());
    }
}
