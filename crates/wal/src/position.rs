//! Where records can stand: WAL pages, WAL files and their headers.

use units::Lsn;

/// Bytes of a WAL page: PostgreSQL's `XLOG_BLCKSZ`.
pub const WAL_PAGE_BYTES: u64 = 8192;
/// Bytes of the header of an ordinary WAL page: `SizeOfXLogShortPHD`.
pub const SHORT_HEADER_BYTES: u64 = 24;
/// Bytes of the header of a WAL file's first page: `SizeOfXLogLongPHD`.
pub const LONG_HEADER_BYTES: u64 = 40;
/// `XLOG_PAGE_MAGIC` of PostgreSQL 15.
pub const WAL_PAGE_MAGIC: u16 = 0xD110;

/// Flags of a WAL page header: `XLP_*` in `access/xlog_internal.h`.
pub mod page_flag {
    /// The page begins with the rest of a record.
    pub const FIRST_IS_CONTINUATION: u16 = 0x0001;
    /// The header is the long one.
    pub const LONG_HEADER: u16 = 0x0002;
    /// Page images on this page may be left out by archivers.
    pub const IMAGES_REMOVABLE: u16 = 0x0004;
    /// The continuation that should stand here was lost and replaced.
    pub const FIRST_IS_OVERWRITTEN_CONTINUATION: u16 = 0x0008;
    /// Every flag there is.
    pub const ALL: u16 = 0x000F;
    /// The flags that follow from the records.
    pub const DERIVED: u16 = FIRST_IS_CONTINUATION | LONG_HEADER;
}

/// `IsValidWalSegSize`: a power of two from one megabyte to one gigabyte.
pub fn is_wal_file_size(bytes: u64) -> bool {
    bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes)
}

/// Bytes of the header of the page that begins at `page`.
pub fn header_bytes(page: Lsn, wal_file_bytes: u64) -> u64 {
    if page.raw().is_multiple_of(wal_file_bytes) {
        LONG_HEADER_BYTES
    } else {
        SHORT_HEADER_BYTES
    }
}

/// Where the record after the one that ends at `end` begins: behind the page header if `end` is a page boundary.
pub fn record_start(end: Lsn, wal_file_bytes: u64) -> Lsn {
    if end.raw().is_multiple_of(WAL_PAGE_BYTES) {
        end.advanced_by(header_bytes(end, wal_file_bytes))
    } else {
        end
    }
}

/// Where a record of `record_bytes` bytes that begins at `start` ends, as PostgreSQL's `EndRecPtr`. A switch record
/// extends to the end of its WAL file instead.
pub fn record_end(start: Lsn, record_bytes: u64, wal_file_bytes: u64) -> Lsn {
    let mut at = start.raw();
    let mut left = record_bytes;
    loop {
        let room = WAL_PAGE_BYTES - at % WAL_PAGE_BYTES;
        if left <= room {
            return Lsn::from_raw((at + left).next_multiple_of(8));
        }
        left -= room;
        at += room;
        at += header_bytes(Lsn::from_raw(at), wal_file_bytes);
    }
}

/// The header of a WAL page: `XLogPageHeaderData`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageHeader {
    /// `page_flag` bits.
    pub flags: u16,
    /// PostgreSQL's timeline.
    pub timeline: u32,
    /// Where the page begins.
    pub address: Lsn,
    /// Bytes of the continued record that are left, this page's included.
    pub remaining_bytes: u32,
}

impl PageHeader {
    /// The first 24 bytes of a page; `None` if the magic is another.
    pub fn decode(bytes: &[u8; SHORT_HEADER_BYTES as usize]) -> Option<PageHeader> {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let address = Lsn::from_raw(u64::from(u32_at(12)) << 32 | u64::from(u32_at(8)));
        let header = PageHeader {
            flags: u16_at(2),
            timeline: u32_at(4),
            address,
            remaining_bytes: u32_at(16),
        };
        (u16_at(0) == WAL_PAGE_MAGIC).then_some(header)
    }

    /// The first 24 bytes of a page.
    pub fn encode(&self) -> [u8; SHORT_HEADER_BYTES as usize] {
        let mut bytes = [0; SHORT_HEADER_BYTES as usize];
        bytes[0..2].copy_from_slice(&WAL_PAGE_MAGIC.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.flags.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.timeline.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.address.raw().to_le_bytes());
        bytes[16..20].copy_from_slice(&self.remaining_bytes.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: u64 = 16 << 20;

    #[test]
    fn records_end_where_postgresql_says_they_end() {
        let check = |start: u64, bytes: u64, end: u64| {
            assert_eq!(
                record_end(Lsn::from_raw(start), bytes, FILE),
                Lsn::from_raw(end),
                "{start} + {bytes}"
            );
        };
        check(FILE + 40, 114, FILE + 160);
        check(FILE + 8192 - 24, 24, FILE + 8192);
        check(FILE + 8192 - 24, 25, FILE + 8192 + 24 + 8);
        check(2 * FILE - 8, 9, 2 * FILE + 40 + 8);
        check(FILE + 40, 8192 - 40 + 8192 - 24 + 1, FILE + 2 * 8192 + 24 + 8);
    }

    #[test]
    fn a_record_begins_behind_the_header_of_its_page() {
        assert_eq!(record_start(Lsn::from_raw(FILE), FILE), Lsn::from_raw(FILE + 40));
        assert_eq!(
            record_start(Lsn::from_raw(FILE + 8192), FILE),
            Lsn::from_raw(FILE + 8192 + 24)
        );
        assert_eq!(
            record_start(Lsn::from_raw(FILE + 8200), FILE),
            Lsn::from_raw(FILE + 8200)
        );
    }
}
