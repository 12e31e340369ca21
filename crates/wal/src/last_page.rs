//! The WAL page on which the last whole record ends, as far as it is known.
//!
//! A writer that goes on behind that record must find the page as it was: PostgreSQL copies it into its buffers when it
//! starts. The page cannot be made again from one record, so the decoder keeps it.
//!
//! Invariant: holds two pages at most.

use units::Lsn;

use crate::position::WAL_PAGE_BYTES;

#[derive(Debug)]
pub(crate) struct LastPage {
    /// Where `bytes` begins: at a page boundary, or where the stream began.
    start: Lsn,
    /// What was passed of the current page.
    bytes: Vec<u8>,
    /// The end of the last whole record.
    record_end: Lsn,
    /// Where the page of `record_end` begins, if the stream is on a later page by now.
    passed: Option<Lsn>,
    /// That page, up to `record_end`.
    passed_bytes: Vec<u8>,
}

impl LastPage {
    pub(crate) fn new(start: Lsn) -> LastPage {
        LastPage {
            start,
            bytes: Vec::new(),
            record_end: start,
            passed: None,
            passed_bytes: Vec::new(),
        }
    }

    /// The stream goes on by these bytes.
    #[inline]
    pub(crate) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let at = self.start.advanced_by(self.bytes.len() as u64);
            if at.raw().is_multiple_of(WAL_PAGE_BYTES) {
                self.turn(at);
            }
            let room = (WAL_PAGE_BYTES - at.raw() % WAL_PAGE_BYTES) as usize;
            let (here, rest) = bytes.split_at(room.min(bytes.len()));
            self.bytes.extend_from_slice(here);
            bytes = rest;
        }
    }

    fn turn(&mut self, page: Lsn) {
        if let Some(length) = self.known_bytes() {
            self.passed = Some(self.start);
            std::mem::swap(&mut self.passed_bytes, &mut self.bytes);
            self.passed_bytes.truncate(length);
        }
        self.start = page;
        self.bytes.clear();
    }

    /// How much of `bytes` belongs to records up to the last whole one; `None` if that one ended on an earlier page, or
    /// if its padding, which never crosses a page, is still to come.
    fn known_bytes(&self) -> Option<usize> {
        let length = self.record_end.bytes_since(self.start)?.0 as usize;
        (length <= self.bytes.len()).then_some(length)
    }

    /// A record is whole, and its LSN is `end`.
    pub(crate) fn record_ended(&mut self, end: Lsn) {
        self.record_end = end;
        self.passed = None;
    }

    pub(crate) fn record_end(&self) -> Lsn {
        self.record_end
    }

    /// Where the page begins, and its bytes up to the end of the last whole record.
    pub(crate) fn up_to_record_end(&self) -> (Lsn, Vec<u8>) {
        if self.record_end.raw().is_multiple_of(WAL_PAGE_BYTES) {
            return (self.record_end, Vec::new());
        }
        if let Some(start) = self.passed {
            return (start, self.passed_bytes.clone());
        }
        let Some(length) = self.record_end.bytes_since(self.start) else {
            return (self.record_end, Vec::new());
        };
        let mut bytes = self.bytes.clone();
        // Cuts off what follows, or adds the padding that is still to come.
        bytes.resize(length.0 as usize, 0);
        (self.start, bytes)
    }
}
