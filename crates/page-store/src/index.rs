//! From a batch to versions: which keys its records touch.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use engine::{Engine, EngineError, Touch};
use timeline::Path;
use units::Position;
use wire_format::codec::Writer;
use wire_format::{Batch, Item};

use crate::key::{Key, Value, Version};

/// Long records of which not every piece has come yet.
#[derive(Default, Debug)]
pub(crate) struct Fragments {
    waiting: BTreeMap<Position, Pieces>,
}

#[derive(Debug)]
struct Pieces {
    record_bytes: u32,
    received: u64,
    pieces: BTreeMap<u32, Bytes>,
    first_offset: u64,
}

impl Fragments {
    /// The journal offset of the oldest piece of an unfinished record.
    pub(crate) fn oldest_offset(&self) -> Option<u64> {
        self.waiting.values().map(|pieces| pieces.first_offset).min()
    }

    /// Drops unfinished records of reigns that are over and left no place in history for them: they are never finished.
    /// Those that the path sees may still be filled in by a peer.
    pub(crate) fn drop_invisible(&mut self, path: &Path) {
        self.waiting.retain(|at, _| path.epoch() <= at.epoch || path.sees(*at));
    }

    /// The record, once all of its pieces are there; an error if they do not make one.
    fn add(
        &mut self,
        at: Position,
        record_bytes: u32,
        offset: u32,
        piece: Bytes,
        journal_offset: u64,
    ) -> Option<Result<Bytes, EngineError>> {
        let pieces = self.waiting.entry(at).or_insert_with(|| Pieces {
            record_bytes,
            received: 0,
            pieces: BTreeMap::new(),
            first_offset: journal_offset,
        });
        let length = piece.len() as u64;
        if pieces.pieces.insert(offset, piece).is_none() {
            pieces.received += length;
        }
        if pieces.received < u64::from(pieces.record_bytes) {
            return None;
        }
        let pieces = self.waiting.remove(&at).expect("it was added to just now");
        let mut record = BytesMut::with_capacity(pieces.record_bytes as usize);
        for (offset, piece) in pieces.pieces {
            // Pieces of one reign are cut once: they follow each other.
            if offset as usize != record.len() {
                return Some(Err(EngineError::Malformed {
                    end: at.lsn,
                    what: "its fragments do not follow each other".to_owned(),
                }));
            }
            record.extend_from_slice(&piece);
        }
        Some(Ok(record.freeze()))
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
    for item in &batch.items {
        match item {
            Item::Record { end, bytes } => {
                let position = Position::new(batch.epoch, *end);
                record(engine, position, bytes, &mut touches, &mut insert);
            }
            Item::Fragment {
                end,
                record_bytes,
                offset,
                bytes,
            } => {
                let position = Position::new(batch.epoch, *end);
                match fragments.add(position, *record_bytes, *offset, bytes.clone(), journal_offset) {
                    Some(Ok(whole)) => record(engine, position, &whole, &mut touches, &mut insert),
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
    let mut out = Writer::with_capacity(96);
    out.position(batch.previous);
    out.lsn(header.boundary);
    out.bytes(&header.marks);
    insert(
        Key::FlushHeader,
        Version {
            position: batch.position(),
            value: Value::Header(out.finish()),
        },
    );
}

fn unreadable(position: Position, error: &EngineError) -> Version {
    let value = Value::Unreadable(Bytes::from(error.to_string()));
    Version { position, value }
}

fn record(
    engine: &dyn Engine,
    position: Position,
    bytes: &Bytes,
    touches: &mut Vec<Touch>,
    insert: &mut impl FnMut(Key, Version),
) {
    touches.clear();
    if let Err(error) = engine.touches(bytes, position.lsn, touches) {
        insert(Key::Unreadable, unreadable(position, &error));
        return;
    }
    for touch in touches.drain(..) {
        let (key, value) = match touch {
            Touch::Page { key, from_nothing } => (
                Key::Page(key),
                Value::Delta {
                    record: bytes.clone(),
                    from_nothing,
                },
            ),
            Touch::Truncate { fork, from_block } => (Key::Truncation(fork), Value::Truncation { from_block }),
            Touch::DropDatabase { tablespace, database } => (
                Key::DatabaseDrop { tablespace, database },
                Value::Truncation { from_block: 0 },
            ),
        };
        insert(key, Version { position, value });
    }
}
