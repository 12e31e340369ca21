//! From a batch to versions: which keys its records touch.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bytes::{Bytes, BytesMut};
use engine::{Engine, EngineError, Touch};
use timeline::Path;
use units::Position;
use wire_format::{Batch, Item};

use crate::header::KeptHeader;
use crate::key::{Key, Value, Version};
use crate::log::{self, Place, Range};
use crate::segment_store::Horizon;

/// Long records of which not every piece has come yet. What their pieces take is bounded: a record for which there is no
/// room is followed to its end, and then counts as one that cannot be read.
#[derive(Debug)]
pub(crate) struct Fragments {
    bytes_max: u64,
    /// Bytes of all pieces.
    bytes: u64,
    waiting: BTreeMap<Position, Pieces>,
}

#[derive(Debug)]
struct Pieces {
    record_bytes: u32,
    received: u64,
    /// Without their content, if there was no room for it.
    pieces: BTreeMap<u32, Bytes>,
    given_up: bool,
    first_offset: u64,
    /// The group's batch before the first one with a piece.
    after: Position,
}

impl Pieces {
    fn bytes(&self) -> u64 {
        self.pieces.values().map(|piece| piece.len() as u64).sum()
    }

    /// The record; an error if the pieces do not make one.
    fn join(self, at: Position, bytes_max: u64) -> Result<Bytes, EngineError> {
        let malformed = |what: String| EngineError::Malformed { end: at.lsn, what };
        if self.given_up {
            let bytes = self.record_bytes;
            return Err(malformed(format!(
                "with others that wait for their ends, its {bytes} bytes are more than the {bytes_max} that may"
            )));
        }
        let mut record = BytesMut::with_capacity(self.record_bytes as usize);
        for (offset, piece) in self.pieces {
            // Pieces of one reign are cut once: they follow each other.
            if offset as usize != record.len() {
                return Err(malformed("its fragments do not follow each other".to_owned()));
            }
            record.extend_from_slice(&piece);
        }
        Ok(record.freeze())
    }
}

impl Fragments {
    pub(crate) fn new(bytes_max: u64) -> Fragments {
        Fragments {
            bytes_max,
            bytes: 0,
            waiting: BTreeMap::new(),
        }
    }

    /// The journal offset of the oldest piece of an unfinished record.
    pub(crate) fn oldest_offset(&self) -> Option<u64> {
        self.waiting.values().map(|pieces| pieces.first_offset).min()
    }

    /// The batch before the first piece of any record that goes on above `through` in this history: who begins after a later
    /// batch never gets that record.
    pub(crate) fn whole_through(&self, path: &Path, through: Position) -> Position {
        let goes_on = |at: &Position| through.lsn < at.lsn && path.sees(*at);
        let waiting = self.waiting.iter().filter(|(at, _)| goes_on(at));
        waiting.map(|(_, pieces)| pieces.after).fold(through, Position::min)
    }

    /// Drops unfinished records that are never finished: those of reigns that are over and left no place in history for
    /// them, and those of which every piece has been indexed. The latter were finished before the last start and are in a
    /// layer; a longer record between their pieces made the journal be read again from there. Any other that the path sees
    /// may still be filled in by a peer. Everything that `horizon` covers must have been indexed.
    pub(crate) fn drop_finished(&mut self, horizon: &Horizon) {
        let path = &horizon.path;
        self.waiting.retain(|at, _| {
            let indexed = at.lsn <= horizon.recycle_through.lsn;
            if path.sees(*at) {
                !indexed
            } else {
                path.epoch() <= at.epoch
            }
        });
        self.bytes = self.waiting.values().map(Pieces::bytes).sum();
    }

    /// The record, once all of its pieces are there; an error if they do not make one.
    fn add(
        &mut self,
        at: Position,
        record_bytes: u32,
        offset: u32,
        piece: Bytes,
        journal_offset: u64,
        after: Position,
    ) -> Option<Result<Bytes, EngineError>> {
        let pieces = self.waiting.entry(at).or_insert_with(|| Pieces {
            record_bytes,
            received: 0,
            pieces: BTreeMap::new(),
            given_up: false,
            first_offset: journal_offset,
            after,
        });
        pieces.after = pieces.after.min(after);
        let length = piece.len() as u64;
        if !pieces.given_up && self.bytes_max < u64::from(record_bytes).max(self.bytes + length) {
            self.bytes -= pieces.bytes();
            pieces.pieces.values_mut().for_each(|piece| *piece = Bytes::new());
            pieces.given_up = true;
        }
        if let Entry::Vacant(place) = pieces.pieces.entry(offset) {
            pieces.received += length;
            if pieces.given_up {
                place.insert(Bytes::new());
            } else {
                self.bytes += length;
                place.insert(piece);
            }
        }
        if pieces.received < u64::from(pieces.record_bytes) {
            return None;
        }
        let pieces = self.waiting.remove(&at).expect("it was added to just now");
        self.bytes -= pieces.bytes();
        Some(pieces.join(at, self.bytes_max))
    }
}

/// Calls `insert` with every version that the batch makes. A record that the engine cannot read may have changed any page:
/// it becomes a version under [`Key::Unreadable`], at which reads stop.
pub(crate) fn versions(
    engine: &dyn Engine,
    batch: &Batch,
    journal_offset: u64,
    fragments: &mut Fragments,
    mut insert: impl FnMut(Key, Version),
) {
    let mut touches = Vec::new();
    let mut places = Vec::new();
    for item in &batch.items {
        match item {
            Item::Record { end, bytes } => {
                let position = Position::new(batch.epoch, *end);
                let elsewhere = elsewhere(batch, position);
                let place = record(engine, position, bytes, elsewhere, &mut touches, &mut insert);
                places.push((*end, place));
            }
            Item::Fragment {
                end,
                record_bytes,
                offset,
                bytes,
            } => {
                let position = Position::new(batch.epoch, *end);
                let (piece, after) = (bytes.clone(), batch.previous);
                match fragments.add(position, *record_bytes, *offset, piece, journal_offset, after) {
                    Some(Ok(whole)) => {
                        let elsewhere = elsewhere(batch, position);
                        let place = record(engine, position, &whole, elsewhere, &mut touches, &mut insert);
                        places.push((*end, place));
                    }
                    Some(Err(error)) => insert(Key::Unreadable, unreadable(position, &error)),
                    None => {}
                }
            }
            Item::Image { end, key, page } => insert(
                Key::Page(*key),
                Version {
                    position: Position::new(batch.epoch, *end),
                    value: Value::Image(Bytes::copy_from_slice(page.bytes())),
                },
            ),
        }
    }
    if let Some(last) = places.iter().map(|(end, _)| *end).max() {
        let position = Position::new(batch.epoch, last);
        let value = Value::Records(log::encode(last, &places));
        insert(Key::Records(Range::of(last)), Version { position, value });
    }
    let Some(header) = &batch.header else {
        return;
    };
    for entry in &header.catalog {
        insert(
            Key::Catalog(entry.key.clone()),
            Version {
                position: Position::new(batch.epoch, entry.lsn),
                value: Value::Entry(entry.value.clone()),
            },
        );
    }
    let kept = KeptHeader::of(batch, header).encode();
    for key in [Key::FlushHeader, Key::Flushes(Range::of(batch.end))] {
        let (position, value) = (batch.position(), Value::Header(kept.clone()));
        insert(key, Version { position, value });
    }
}

fn unreadable(position: Position, error: &EngineError) -> Version {
    let value = Value::Unreadable(Bytes::from(error.to_string()));
    Version { position, value }
}

/// The places among a record's touches that are pages of other groups. Every piece of a long record says so.
fn elsewhere(batch: &Batch, record: Position) -> &[u32] {
    match batch
        .elsewhere
        .binary_search_by_key(&record.lsn, |elsewhere| elsewhere.end)
    {
        Ok(at) => &batch.elsewhere[at].touches,
        Err(_) => &[],
    }
}

/// The versions that one record makes, and where the log finds it again.
fn record(
    engine: &dyn Engine,
    position: Position,
    bytes: &Bytes,
    elsewhere: &[u32],
    touches: &mut Vec<Touch>,
    insert: &mut impl FnMut(Key, Version),
) -> Place {
    touches.clear();
    if let Err(error) = engine.touches(bytes, position.lsn, touches) {
        insert(Key::Unreadable, unreadable(position, &error));
        return Place::Here(bytes.clone());
    }
    let mut place = None;
    for (touch, at) in touches.drain(..).zip(0_u32..) {
        let (key, value) = match touch {
            Touch::Page { .. } if elsewhere.binary_search(&at).is_ok() => continue,
            Touch::Page { key, from_nothing } => {
                place.get_or_insert(key);
                let record = bytes.clone();
                (Key::Page(key), Value::Delta { record, from_nothing })
            }
            Touch::Truncate { fork, from_block } => (Key::Truncation(fork), Value::Truncation { from_block }),
            Touch::DropDatabase { tablespace, database } => (
                Key::DatabaseDrop { tablespace, database },
                Value::Truncation { from_block: 0 },
            ),
        };
        insert(key, Version { position, value });
    }
    place.map_or_else(|| Place::Here(bytes.clone()), Place::Page)
}
