//! Records in a row, checked against each other, and onto pages.

use units::Lsn;
use wal::{
    LONG_HEADER_BYTES, PageWriter, RecordHeader, SHORT_HEADER_BYTES, WAL_PAGE_BYTES, record_checksum, record_end,
    record_start,
};

use crate::last_page::LogFacts;
use crate::log::Records;

/// Records that are not the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Something between two records is in no group.
    #[error("log behind {after} is missing: the record that ends at {end} does not follow it")]
    Missing {
        /// Up to here everything is there.
        after: Lsn,
        /// What comes next.
        end: Lsn,
    },
    /// A record is not what was written.
    #[error("the record that ends at {end} is damaged: {what}")]
    Damaged {
        /// Which.
        end: Lsn,
        /// How that shows.
        what: &'static str,
    },
}

/// The end of what was laid out.
#[derive(Clone, Copy)]
struct Last {
    start: Lsn,
    end: Lsn,
}

/// Lays one run of records after the other onto WAL pages.
pub(super) struct Chain {
    facts: LogFacts,
    last: Option<Last>,
}

impl Chain {
    pub(super) fn new(facts: LogFacts) -> Chain {
        Chain { facts, last: None }
    }

    /// The bytes that these records make, and where they begin. `None`: there is no record whose beginning is known.
    pub(super) fn lay(
        &mut self,
        records: &Records,
        page_flags: &[(Lsn, u16)],
    ) -> Result<Option<(Lsn, Vec<u8>)>, ChainError> {
        let file_bytes = self.facts.wal_file_bytes;
        let begin = match self.last {
            Some(last) => Some(last.end),
            None => first_start(records, file_bytes),
        };
        let Some(begin) = begin.filter(|_| !records.is_empty()) else {
            return Ok(None);
        };
        let LogFacts {
            timeline,
            system_identifier,
            ..
        } = self.facts;
        let mut writer = PageWriter::new(begin, timeline, system_identifier, file_bytes, page_flags);
        for (end, record) in records {
            let damaged = |what| ChainError::Damaged { end: *end, what };
            let header = RecordHeader::decode(record).ok_or(damaged("it is shorter than its header"))?;
            if header.total_bytes as usize != record.len() {
                return Err(damaged("it has another length"));
            }
            if header.checksum != record_checksum(record) {
                return Err(damaged("it has another checksum"));
            }
            let start = record_start(writer.end(), file_bytes);
            let follows = self.last.is_none_or(|last| header.previous == last.start);
            let after = writer.end();
            let missing = ChainError::Missing { after, end: *end };
            let is_switch = header.is_switch();
            // Before it is written: a length alone must not make pages without end.
            if !follows || (!is_switch && record_end(start, record.len() as u64, file_bytes) != *end) {
                return Err(missing);
            }
            writer.append(start, record).map_err(|_| missing.clone())?;
            if writer.end() != *end {
                return Err(missing);
            }
            self.last = Some(Last { start, end: *end });
        }
        Ok(Some((begin, writer.into_bytes())))
    }
}

/// Where the first record begins: the second one says so, or there is but one place from which it would end where it does.
fn first_start(records: &Records, file_bytes: u64) -> Option<Lsn> {
    let mut records = records.iter();
    let (end, record) = records.next()?;
    if let Some((_, second)) = records.next() {
        return RecordHeader::decode(second).map(|header| header.previous);
    }
    let length = record.len() as u64;
    let pages = length / (WAL_PAGE_BYTES - LONG_HEADER_BYTES) + 2;
    let highest = end.raw().checked_sub(length)? & !7;
    let lowest = highest.saturating_sub(pages * LONG_HEADER_BYTES + 8);
    let ends_there = |start: &u64| {
        let start = Lsn::from_raw(*start);
        let on_page = start.raw() % WAL_PAGE_BYTES;
        SHORT_HEADER_BYTES <= on_page && record_end(start, length, file_bytes) == *end
    };
    (lowest..=highest).rev().step_by(8).find(ends_there).map(Lsn::from_raw)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use wal::encode_record;

    use super::*;

    const FILE: u64 = 1 << 20;
    const FACTS: LogFacts = LogFacts {
        timeline: 1,
        system_identifier: 77,
        wal_file_bytes: FILE,
    };
    /// `XLOG_SWITCH` of resource manager 0.
    const SWITCH: u8 = 0x40;

    /// Records of these sizes (0: a switch to the next file) from `start` on, and what PostgreSQL would have written.
    fn log(start: u64, sizes: &[usize]) -> (Records, Vec<u8>) {
        let start = record_start(Lsn::from_raw(start), FILE);
        let mut writer = PageWriter::new(start, 1, 77, FILE, &[]);
        let (mut records, mut previous) = (Records::new(), Lsn::from_raw(8));
        for (size, fill) in sizes.iter().zip(1..) {
            let record = match size {
                0 => encode_record(0, SWITCH, 0, previous, &[]),
                size => encode_record(21, 0, 5, previous, &vec![fill; *size]),
            };
            let at = record_start(writer.end(), FILE);
            writer.append(at, &record).expect("they follow each other");
            records.insert(writer.end(), Bytes::from(record));
            previous = at;
        }
        (records, writer.into_bytes())
    }

    #[test]
    fn runs_of_records_make_the_pages_again() {
        for start in [FILE, FILE + 4096, 2 * FILE - 64, FILE + 8192 - 32] {
            let sizes = [100, 9000, 1, 70_000, 8, 0, 500, 30];
            let (records, expected) = log(start, &sizes);
            for run in 1..=sizes.len() {
                let mut chain = Chain::new(FACTS);
                let mut bytes = Vec::new();
                let all: Vec<_> = records.iter().collect();
                for some in all.chunks(run) {
                    let some = some.iter().map(|(end, record)| (**end, (*record).clone())).collect();
                    let (at, more) = chain.lay(&some, &[]).expect("they follow").expect("it is known");
                    let expected_at = record_start(Lsn::from_raw(start), FILE).raw() + bytes.len() as u64;
                    assert_eq!(at.raw(), expected_at, "from {start} in runs of {run}");
                    bytes.extend(more);
                }
                assert!(bytes == expected, "from {start} in runs of {run}");
            }
        }
    }

    #[test]
    fn what_is_missing_or_damaged_is_told() {
        let (records, _) = log(FILE, &[100, 200, 9000, 300]);
        let ends: Vec<Lsn> = records.keys().copied().collect();
        let mut without = records.clone();
        without.remove(&ends[2]);
        let expected = ChainError::Missing {
            after: ends[1],
            end: ends[3],
        };
        assert_eq!(Chain::new(FACTS).lay(&without, &[]), Err(expected));
        let mut damaged = records.clone();
        let mut bytes = damaged[&ends[1]].to_vec();
        bytes[50] ^= 1;
        damaged.insert(ends[1], bytes.into());
        let laid = Chain::new(FACTS).lay(&damaged, &[]);
        assert!(matches!(laid, Err(ChainError::Damaged { end, .. }) if end == ends[1]));
        let mut moved = records.clone();
        let last = moved.remove(&ends[3]).expect("there are four");
        moved.insert(Lsn::from_raw(ends[3].raw() + 8), last);
        assert!(Chain::new(FACTS).lay(&moved, &[]).is_err());
        assert_eq!(Chain::new(FACTS).lay(&Records::new(), &[]), Ok(None));
    }
}
