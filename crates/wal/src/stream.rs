//! The log as a walsender streams it, cut anywhere, to whole records.

use bytes::{Buf, Bytes, BytesMut};
use units::Lsn;

use crate::last_page::LastPage;
use crate::position::{LONG_HEADER_BYTES, SHORT_HEADER_BYTES, WAL_PAGE_BYTES, header_bytes, is_wal_file_size};
use crate::record::{RECORD_HEADER_BYTES, RecordHeader, record_checksum};
use crate::{DecodedRecord, PageHeader, page_flag};

/// The longest record PostgreSQL 15 accepts on reading back: its allocation limit, 1 GiB.
pub const RECORD_BYTES_MAX: u32 = 1 << 30;

/// One whole record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Where its first byte stands.
    pub start: Lsn,
    /// Its LSN: PostgreSQL's `EndRecPtr`. After a switch record that is the end of the WAL file.
    pub end: Lsn,
    /// The record without page headers.
    pub bytes: Bytes,
}

/// The bytes are not the log that should stand here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The bytes pushed do not continue the ones before.
    #[error("log at {got} was pushed, but {expected} comes next")]
    Gap {
        /// What comes next.
        expected: Lsn,
        /// What came.
        got: Lsn,
    },
    /// A page header is not one, or is another page's.
    #[error("page header at {at} is malformed: {what}")]
    PageHeader {
        /// Where the page begins.
        at: Lsn,
        /// What is wrong.
        what: &'static str,
    },
    /// A record's header cannot be true.
    #[error("record at {at} is malformed: {what}")]
    Record {
        /// Where it begins.
        at: Lsn,
        /// What is wrong.
        what: &'static str,
    },
    /// The record is not what was written.
    #[error("record at {at} has checksum {found:08x}, should be {computed:08x}")]
    Checksum {
        /// Where it begins.
        at: Lsn,
        /// What it says.
        found: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// The record does not follow the one before.
    #[error("record at {at} names {found} as the record before it, but that is {expected}")]
    PreviousLink {
        /// Where it begins.
        at: Lsn,
        /// What it says.
        found: Lsn,
        /// Where the record before it begins.
        expected: Lsn,
    },
}

/// Splits a stream of log into records. Memory: the record being assembled, and what was pushed and not yet taken. Records
/// are handed out in the buffers in which they came; these are used again once all of their records are dropped, so that a
/// stream whose records are taken one by one allocates nothing.
#[derive(Debug)]
pub struct StreamDecoder {
    wal_file_bytes: u64,
    input: BytesMut,
    /// Records that came in more than one piece: the one being assembled, and room for the next.
    assembled: BytesMut,
    /// Where `input` begins.
    at: Lsn,
    previous_start: Option<Lsn>,
    state: State,
    page_flags: Vec<(Lsn, u16)>,
    timeline: u32,
    system_identifier: Option<u64>,
    failure: Option<StreamError>,
    last_page: LastPage,
    /// Where the record begins that was given up just now; the next one must say so.
    given_up: Option<Lsn>,
}

#[derive(Debug)]
enum State {
    /// Before a record, after `end` of the one before.
    Between,
    /// In the middle of one, of which `StreamDecoder::assembled` has the first bytes.
    Inside { start: Lsn, expected: u32 },
    /// In the padding after a switch record, which extends to the end of the file.
    Padding { until: Lsn },
}

impl StreamDecoder {
    /// Begins at `start`, the end of a record (or where the first byte of one stands). `previous_start` is where the
    /// record before it begins, if known: then the first link is checked as well. Panics if `wal_file_bytes` is not a
    /// size that `initdb --wal-segsize` accepts.
    pub fn new(start: Lsn, previous_start: Option<Lsn>, wal_file_bytes: u64) -> StreamDecoder {
        assert!(
            is_wal_file_size(wal_file_bytes),
            "PostgreSQL has no WAL files of {wal_file_bytes} bytes"
        );
        StreamDecoder {
            wal_file_bytes,
            input: BytesMut::new(),
            assembled: BytesMut::new(),
            at: start,
            previous_start,
            state: State::Between,
            page_flags: Vec::new(),
            timeline: 0,
            system_identifier: None,
            failure: None,
            last_page: LastPage::new(start),
            given_up: None,
        }
    }

    /// Where the next byte to be pushed belongs.
    pub fn next_push(&self) -> Lsn {
        self.at.advanced_by(self.input.len() as u64)
    }

    /// Adds the bytes that stand at `at`.
    pub fn push(&mut self, at: Lsn, bytes: &[u8]) -> Result<(), StreamError> {
        let expected = self.next_push();
        if at != expected {
            return Err(StreamError::Gap { expected, got: at });
        }
        self.input.extend_from_slice(bytes);
        Ok(())
    }

    /// Header flags of the pages passed so far that neither follow from the records nor are usual
    /// (`IMAGES_REMOVABLE`), and forgets them. Take them with every batch: during a base backup each page has one.
    pub fn take_page_flags(&mut self) -> Vec<(Lsn, u16)> {
        std::mem::take(&mut self.page_flags)
    }

    /// PostgreSQL's timeline, as the latest page header names it; zero before the first.
    pub fn timeline(&self) -> u32 {
        self.timeline
    }

    /// The cluster that the log is of, as the latest WAL file names it; `None` before the first whole one.
    pub fn system_identifier(&self) -> Option<u64> {
        self.system_identifier
    }

    /// Where the record that was yielded last begins.
    pub fn previous_start(&self) -> Option<Lsn> {
        self.previous_start
    }

    /// The LSN of the record that was yielded last; before the first, where the stream began. What was pushed behind it
    /// belongs to a record that is not whole.
    pub fn last_end(&self) -> Lsn {
        self.last_page.record_end()
    }

    /// The WAL page on which [`StreamDecoder::last_end`] stands: where it begins (or where the stream began, if that is
    /// later) and its bytes up to there. Empty if a record ended with its page.
    pub fn last_page(&self) -> (Lsn, Vec<u8>) {
        self.last_page.up_to_record_end()
    }

    /// Bytes that were pushed and belong to no yielded record yet.
    pub fn pending_bytes(&self) -> usize {
        self.input.len() + self.assembled.len()
    }

    /// The next whole record, or `None` until more is pushed. An error is final: every later call returns it again.
    pub fn next_record(&mut self) -> Result<Option<Record>, StreamError> {
        if let Some(error) = &self.failure {
            return Err(error.clone());
        }
        let outcome = self.next_sound_record();
        self.failure = outcome.as_ref().err().cloned();
        outcome
    }

    fn next_sound_record(&mut self) -> Result<Option<Record>, StreamError> {
        // Every turn either consumes input or returns.
        loop {
            if !self.skip_padding() {
                return Ok(None);
            }
            if self.at.raw().is_multiple_of(WAL_PAGE_BYTES) && !self.pass_page_header()? {
                return Ok(None);
            }
            let (start, expected) = match self.state {
                State::Inside { start, expected } => (start, expected),
                _ => match self.begin_record()? {
                    Some(expected) => (self.at, expected),
                    None => return Ok(None),
                },
            };
            if let Some(bytes) = self.assemble(start, expected)? {
                return self.finish(start, bytes).map(Some);
            }
            if self.input.is_empty() {
                return Ok(None);
            }
        }
    }

    /// `false`: the padding goes on behind what was pushed.
    fn skip_padding(&mut self) -> bool {
        if let State::Padding { until } = self.state {
            let skip = (until.raw() - self.at.raw()).min(self.input.len() as u64);
            self.consume(skip as usize);
            if self.at < until {
                return false;
            }
            self.state = State::Between;
        }
        true
    }

    /// Reads a record's length; `None`: it is not here yet.
    fn begin_record(&self) -> Result<Option<u32>, StreamError> {
        let malformed = |what| StreamError::Record { at: self.at, what };
        // A record begins at a multiple of eight, so its length never crosses a page.
        if !self.at.raw().is_multiple_of(8) {
            return Err(malformed("does not begin at a multiple of eight"));
        }
        let Some(length) = self.input.first_chunk() else {
            return Ok(None);
        };
        let expected = u32::from_le_bytes(*length);
        if (expected as usize) < RECORD_HEADER_BYTES {
            return Err(malformed("is shorter than a record's header"));
        }
        if RECORD_BYTES_MAX < expected {
            return Err(malformed("is longer than a record can be"));
        }
        Ok(Some(expected))
    }

    /// Takes what this page has of the record that begins at `start`; its bytes once they are whole.
    fn assemble(&mut self, start: Lsn, expected: u32) -> Result<Option<Bytes>, StreamError> {
        let room = (WAL_PAGE_BYTES - self.at.raw() % WAL_PAGE_BYTES) as usize;
        let before = self.assembled.len();
        let missing = expected as usize - before;
        let take = missing.min(room).min(self.input.len());
        let is_whole = take == missing;
        // The padding to the next multiple of eight never crosses a page. If it is not here yet, it is skipped later.
        let end = self.at.raw() + take as u64;
        let padding = (end.next_multiple_of(8) - end) as usize;
        let padding = if is_whole && take + padding <= self.input.len() {
            padding
        } else {
            0
        };
        self.last_page.pass(&self.input[..take + padding]);
        self.at = self.at.advanced_by((take + padding) as u64);
        if before == 0 && is_whole {
            let record = self.input.split_to(take).freeze();
            self.input.advance(padding);
            return Ok(Some(record));
        }
        self.assembled.extend_from_slice(&self.input[..take]);
        self.input.advance(take + padding);
        self.state = State::Inside { start, expected };
        // Before a wrong length makes us wait for a gigabyte.
        if before < RECORD_HEADER_BYTES
            && let Some(header) = RecordHeader::decode(&self.assembled)
        {
            check_previous(self.previous_start, start, &header)?;
        }
        Ok(is_whole.then(|| self.take_assembled()))
    }

    /// The assembled record. Its buffer is kept for the next ones, unless a record was so long that others would waste it.
    fn take_assembled(&mut self) -> Bytes {
        const KEPT_BYTES_MAX: usize = 1 << 20;
        if KEPT_BYTES_MAX < self.assembled.len() {
            std::mem::take(&mut self.assembled).freeze()
        } else {
            self.assembled.split().freeze()
        }
    }

    fn finish(&mut self, start: Lsn, bytes: Bytes) -> Result<Record, StreamError> {
        let malformed = StreamError::Record {
            at: start,
            what: "is shorter than a record's header",
        };
        let header = RecordHeader::decode(&bytes).ok_or(malformed)?;
        check_previous(self.previous_start, start, &header)?;
        let computed = record_checksum(&bytes);
        if computed != header.checksum {
            return Err(StreamError::Checksum {
                at: start,
                found: header.checksum,
                computed,
            });
        }
        check_given_up(self.given_up.take(), start, &header, &bytes)?;
        self.previous_start = Some(start);
        let mut end = self.at.raw().next_multiple_of(8);
        if header.is_switch() {
            end = end.next_multiple_of(self.wal_file_bytes);
        }
        let end = Lsn::from_raw(end);
        self.last_page.record_ended(end);
        self.state = if self.at < end {
            State::Padding { until: end }
        } else {
            State::Between
        };
        Ok(Record { start, end, bytes })
    }

    /// Reads the header of the page that begins here. `false`: not all of it is here.
    fn pass_page_header(&mut self) -> Result<bool, StreamError> {
        let at = self.at;
        let length = header_bytes(at, self.wal_file_bytes);
        if (self.input.len() as u64) < length {
            return Ok(false);
        }
        let wrong = |what| StreamError::PageHeader { at, what };
        let short: &[u8; SHORT_HEADER_BYTES as usize] = self.input.first_chunk().ok_or(wrong("it is cut short"))?;
        let header = PageHeader::decode(short).ok_or(wrong("another magic than PostgreSQL 15's"))?;
        if header.address != at {
            return Err(wrong("it is another page's"));
        }
        if header.flags & !page_flag::ALL != 0 {
            return Err(wrong("unknown flags"));
        }
        if (header.flags & page_flag::LONG_HEADER != 0) != (length == LONG_HEADER_BYTES) {
            return Err(wrong("its length does not fit its place"));
        }
        let continues = header.flags & page_flag::FIRST_IS_CONTINUATION != 0;
        if header.flags & page_flag::FIRST_IS_OVERWRITTEN_CONTINUATION != 0 {
            // The record that should go on here was never finished; PostgreSQL wrote others over its rest.
            if let State::Inside { start, .. } = self.state {
                self.given_up = Some(start);
            }
            self.state = State::Between;
            self.assembled.clear();
        } else {
            match self.state {
                State::Inside { expected, .. } => {
                    let left = u64::from(expected) - self.assembled.len() as u64;
                    if !continues {
                        return Err(wrong("a record should go on here, but the page does not say so"));
                    }
                    if u64::from(header.remaining_bytes) != left {
                        return Err(wrong("it announces another rest of the record"));
                    }
                }
                _ if continues => return Err(wrong("it continues a record that ended")),
                _ => {}
            }
        }
        let unusual = header.flags & !page_flag::DERIVED;
        if unusual != page_flag::IMAGES_REMOVABLE {
            self.page_flags.push((at, unusual));
        }
        if length == LONG_HEADER_BYTES {
            self.check_long_header()?;
        }
        self.timeline = header.timeline;
        self.consume(length as usize);
        Ok(true)
    }

    /// What a WAL file's first header has more than the others: the cluster, and the sizes of files and pages
    /// (`XLogReaderValidatePageHeader`).
    fn check_long_header(&mut self) -> Result<(), StreamError> {
        let at = self.at;
        let wrong = |what| StreamError::PageHeader { at, what };
        let header: &[u8; LONG_HEADER_BYTES as usize] = self.input.first_chunk().ok_or(wrong("it is cut short"))?;
        let u32_at = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let system_identifier = u64::from(u32_at(28)) << 32 | u64::from(u32_at(24));
        if u64::from(u32_at(32)) != self.wal_file_bytes {
            return Err(wrong("another size of WAL files"));
        }
        if u64::from(u32_at(36)) != WAL_PAGE_BYTES {
            return Err(wrong("another size of WAL pages"));
        }
        if self.system_identifier.is_some_and(|known| known != system_identifier) {
            return Err(wrong("another cluster's"));
        }
        self.system_identifier = Some(system_identifier);
        Ok(())
    }

    fn consume(&mut self, bytes: usize) {
        self.last_page.pass(&self.input[..bytes]);
        self.input.advance(bytes);
        self.at = self.at.advanced_by(bytes as u64);
    }
}

/// `VerifyOverwriteContrecord` in `access/transam/xlogrecovery.c`; and no other record follows one that was given up. A
/// stream that begins behind it does not know which it was.
fn check_given_up(given_up: Option<Lsn>, at: Lsn, header: &RecordHeader, record: &[u8]) -> Result<(), StreamError> {
    let Some(given_up) = given_up else {
        return Ok(());
    };
    let wrong = |what| Err(StreamError::Record { at, what });
    if !header.is_overwrite() {
        return wrong("does not say that the record before it was given up");
    }
    let data = DecodedRecord::decode(record).map(|record| record.data.first_chunk().copied());
    match data {
        Ok(Some(named)) if u64::from_le_bytes(named) == given_up.raw() => Ok(()),
        _ => wrong("says that another record was given up than the one before it"),
    }
}

/// `ValidXLogRecordHeader` in `access/transam/xlogreader.c`.
fn check_previous(expected: Option<Lsn>, at: Lsn, header: &RecordHeader) -> Result<(), StreamError> {
    let found = header.previous;
    match expected {
        Some(expected) if expected != found => Err(StreamError::PreviousLink { at, found, expected }),
        None if at <= found => Err(StreamError::Record {
            at,
            what: "names a later record as the one before it",
        }),
        _ => Ok(()),
    }
}
