//! A segment's share of the log, given again as it came.
//!
//! A record that changes a page is kept with the page, and is not kept twice: of each batch there is one value that says where
//! its records are. Only records that change no page of the segment stand in it themselves. Group 0 keeps the flush headers,
//! too. All of that lies under keys for parts of the log ([`Range`]), so that neither reading nor merging takes more than a
//! part into memory.
//!
//! Invariant: whatever the path sees above the fold point is here, since no delta above the fold point goes.

use std::collections::BTreeMap;

use bytes::Bytes;
use timeline::Path;
use units::{Epoch, Lsn, PageKey, Position, SegmentId};
use wire_format::codec::{Reader, Writer};
use wire_format::log::{LogAsked, LogPart, LoggedFlush};
use wire_format::{CodecError, Item};

use crate::header::KeptHeader;
use crate::key::{Key, Value};
use crate::layer::BlockCache;
use crate::read::ReadError;
use crate::segment_store::SegmentStore;
use crate::store::PageStore;

/// Log under one key, in bytes, as a power of two.
const RANGE_BITS: u32 = 22;
/// Parts below the fold point that keep their last flush header. There are flushes in every part, but where PostgreSQL went on to
/// another WAL file, which may have a gigabyte.
pub(crate) const RANGES_WITH_A_HEADER: u64 = 512;
/// Bytes of one answer, whatever is asked for: it has to fit into a frame.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// Records that are looked up at once: few at first, since they may be long.
const RECORDS_AT_ONCE_MIN: usize = 64;
const RECORDS_AT_ONCE_MAX: usize = 1024;
/// Parts of the log that are looked at for one answer: there may be none of the segment in them.
const RANGES_AT_ONCE: u64 = 64;
/// An answer goes on at least so far.
const ANSWER_BYTES_MIN: usize = 4096;
/// Bytes that a record or a flush takes in an answer besides its content, about.
const ENTRY_BYTES: usize = 48;
/// What the damage of a value is told of.
const VALUE: &str = "a value of the log";

/// A part of the log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Range(pub(crate) u64);

impl Range {
    /// The part in which `lsn` is.
    pub(crate) fn of(lsn: Lsn) -> Range {
        Range(lsn.raw() >> RANGE_BITS)
    }
}

/// Where a record is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// Among the versions of this page.
    Page(PageKey),
    /// Nowhere else.
    Here(Bytes),
}

const PAGE: u8 = 0;
const HERE: u8 = 1;

/// Where the records of a batch are; `last` is the last one's end.
pub(crate) fn encode(last: Lsn, places: &[(Lsn, Place)]) -> Bytes {
    let mut out = Writer::with_capacity(16 * places.len());
    for (end, place) in places {
        out.varint(last.raw() - end.raw());
        match place {
            Place::Page(key) => {
                out.u8(PAGE);
                out.page_key(*key);
            }
            Place::Here(record) => {
                out.u8(HERE);
                out.bytes(record);
            }
        }
    }
    out.finish()
}

fn decode(last: Lsn, bytes: Bytes) -> Result<Vec<(Lsn, Place)>, CodecError> {
    let mut input = Reader::new(bytes);
    let mut places = Vec::new();
    while input.remaining() != 0 {
        let before = input.varint("record")?;
        let end = last.raw().checked_sub(before).ok_or(CodecError::Malformed("record"))?;
        let place = match input.u8("place of a record")? {
            PAGE => Place::Page(input.page_key("page of a record")?),
            HERE => Place::Here(input.bytes("record")?),
            _ => return Err(CodecError::Malformed("place of a record")),
        };
        places.push((Lsn::from_raw(end), place));
    }
    Ok(places)
}

impl PageStore {
    /// A part of the segment's log: what is visible along the path and ends above `after`. Permitted by the segment, which knows
    /// that it has all of it.
    pub fn log(&self, segment: SegmentId, asked: &LogAsked) -> Result<LogPart, ReadError> {
        let segment = self.settled(segment)?;
        let reading = LogReading {
            segment: &segment,
            path: &asked.path,
            blocks: &self.blocks,
        };
        let part = reading.part(asked);
        // What was folded while this was read may be missing.
        match segment.horizon().map(|horizon| horizon.fold_point()) {
            Some(folded) if asked.after < folded => Err(ReadError::Collected(folded)),
            _ => self.noting_loss(&segment, part),
        }
    }
}

struct LogReading<'a> {
    segment: &'a SegmentStore,
    path: &'a Path,
    blocks: &'a BlockCache,
}

/// An answer that is being put together.
struct Answer {
    part: LogPart,
    bytes: usize,
    bytes_max: usize,
}

impl Answer {
    fn is_full(&self) -> bool {
        self.bytes_max <= self.bytes
    }

    /// Adds a record from `offset` on, or as much of it as there is room for. `false`: that was not all.
    fn add(&mut self, end: Lsn, record: Bytes, offset: usize) -> bool {
        let room = self.bytes_max.saturating_sub(self.bytes).max(1);
        let from = offset.min(record.len());
        let is_whole = record.len() - from <= room;
        let bytes = record.slice(from..record.len().min(from + room));
        self.bytes += ENTRY_BYTES + bytes.len();
        let item = match is_whole && offset == 0 {
            true => Item::Record { end, bytes },
            false => Item::Fragment {
                end,
                record_bytes: record.len() as u32,
                offset: from as u32,
                bytes,
            },
        };
        self.part.items.push(item);
        if is_whole {
            self.part.through = end;
        }
        is_whole
    }
}

impl LogReading<'_> {
    fn part(&self, asked: &LogAsked) -> Result<LogPart, ReadError> {
        let mut answer = Answer {
            part: LogPart {
                through: asked.after,
                items: Vec::new(),
                flushes: Vec::new(),
            },
            bytes: 0,
            bytes_max: (asked.bytes_max as usize).clamp(ANSWER_BYTES_MIN, ANSWER_BYTES_MAX),
        };
        let mut offset = asked.offset as usize;
        let first = Range::of(asked.after).0;
        let last = Range::of(asked.through).0.min(first + RANGES_AT_ONCE);
        for range in first..=last {
            let flushes = self.flushes(Range(range), asked)?;
            let records = self.records(Range(range), asked)?;
            let is_whole = self.add_all(&records, &mut offset, &mut answer)?;
            let through = answer.part.through;
            let up_to = |flush: &LoggedFlush| is_whole || flush.end <= through;
            for flush in flushes.into_iter().filter(up_to) {
                answer.bytes += ENTRY_BYTES;
                answer.part.flushes.push(flush);
            }
            if !is_whole {
                return Ok(answer.part);
            }
            let range_end = Lsn::from_raw(((range + 1) << RANGE_BITS) - 1);
            answer.part.through = range_end.min(asked.through);
            if answer.is_full() {
                break;
            }
        }
        Ok(answer.part)
    }

    /// Adds records to an answer until it is full. `false`: there are more.
    fn add_all(
        &self,
        mut records: &[(Position, Place)],
        offset: &mut usize,
        answer: &mut Answer,
    ) -> Result<bool, ReadError> {
        let mut at_once = RECORDS_AT_ONCE_MIN;
        while !records.is_empty() {
            let (some, rest) = records.split_at(at_once.min(records.len()));
            (records, at_once) = (rest, RECORDS_AT_ONCE_MAX.min(2 * at_once));
            let mut found = self.find(some)?;
            for (position, _) in some {
                let missing = || ReadError::corrupt(VALUE, &format!("the record at {position} is not with its page"));
                let record = found.remove(position).ok_or_else(missing)?;
                if answer.is_full() || !answer.add(position.lsn, record, std::mem::take(offset)) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn flushes(&self, range: Range, asked: &LogAsked) -> Result<Vec<LoggedFlush>, ReadError> {
        let versions = self.segment.visible(
            &Key::Flushes(range),
            self.path,
            Position::ZERO,
            asked.through,
            self.blocks,
        )?;
        let mut flushes = Vec::new();
        for version in versions {
            let end = version.position.lsn;
            if let Value::Header(header) = version.value
                && asked.after < end
            {
                flushes.push(KeptHeader::decode(header, end).map_err(malformed)?.flush);
            }
        }
        Ok(flushes)
    }

    /// The records that end in this part, in order, with their places.
    fn records(&self, range: Range, asked: &LogAsked) -> Result<Vec<(Position, Place)>, ReadError> {
        let versions = self.segment.visible(
            &Key::Records(range),
            self.path,
            Position::ZERO,
            asked.through,
            self.blocks,
        )?;
        let mut records = Vec::new();
        for version in versions {
            let Position { epoch, lsn } = version.position;
            if let Value::Records(bytes) = version.value
                && asked.after < lsn
            {
                let places = decode(lsn, bytes).map_err(malformed)?;
                let wanted = places.into_iter().filter(|(end, _)| asked.after < *end);
                records.extend(wanted.map(|(end, place)| (Position::new(epoch, end), place)));
            }
        }
        Ok(records)
    }

    /// The records themselves. Those of one page are looked up together.
    fn find(&self, records: &[(Position, Place)]) -> Result<BTreeMap<Position, Bytes>, ReadError> {
        let mut found = BTreeMap::new();
        let mut of_pages: BTreeMap<PageKey, Vec<Position>> = BTreeMap::new();
        for (position, place) in records {
            match place {
                Place::Here(record) => drop(found.insert(*position, record.clone())),
                Place::Page(key) => of_pages.entry(*key).or_default().push(*position),
            }
        }
        for (key, positions) in of_pages {
            let (Some(first), Some(last)) = (positions.iter().min(), positions.iter().max()) else {
                continue;
            };
            let versions = self
                .segment
                .visible(&Key::Page(key), self.path, before(*first), last.lsn, self.blocks)?;
            for version in versions {
                if let Value::Delta { record, .. } = version.value
                    && positions.binary_search(&version.position).is_ok()
                {
                    found.insert(version.position, record);
                }
            }
        }
        Ok(found)
    }
}

/// The last position before another one.
fn before(position: Position) -> Position {
    match position.lsn.raw().checked_sub(1) {
        Some(lsn) => Position::new(position.epoch, Lsn::from_raw(lsn)),
        None => Position::new(Epoch::from_raw(position.epoch.raw().saturating_sub(1)), Lsn::MAX),
    }
}

fn malformed(error: CodecError) -> ReadError {
    ReadError::corrupt(VALUE, &error.to_string())
}
