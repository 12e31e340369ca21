//! From a batch to versions: which keys its records touch.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use engine::{Engine, EngineError, Touch};
use units::{Epoch, Lsn, Position};
use wire_format::codec::Writer;
use wire_format::{Batch, Item};

use crate::key::{Key, Value, Version};

/// Long records of which not every piece has come yet.
#[derive(Default, Debug)]
pub(crate) struct Fragments {
    waiting: BTreeMap<(Epoch, Lsn), Pieces>,
}

#[derive(Debug)]
struct Pieces {
    record_bytes: u32,
    received: u32,
    pieces: BTreeMap<u32, Bytes>,
    first_offset: u64,
}

impl Fragments {
    /// The journal offset of the oldest piece of an unfinished record.
    pub(crate) fn oldest_offset(&self) -> Option<u64> {
        self.waiting.values().map(|pieces| pieces.first_offset).min()
    }

    /// Drops unfinished records of reigns that are over and can never be finished.
    pub(crate) fn drop_before(&mut self, epoch: Epoch) {
        self.waiting.retain(|(of, _), _| epoch <= *of);
    }

    fn add(
        &mut self,
        at: (Epoch, Lsn),
        record_bytes: u32,
        offset: u32,
        piece: Bytes,
        journal_offset: u64,
    ) -> Option<Bytes> {
        let pieces = self.waiting.entry(at).or_insert_with(|| Pieces {
            record_bytes,
            received: 0,
            pieces: BTreeMap::new(),
            first_offset: journal_offset,
        });
        let length = piece.len() as u32;
        if pieces.pieces.insert(offset, piece).is_none() {
            pieces.received += length;
        }
        if pieces.received < pieces.record_bytes {
            return None;
        }
        let pieces = self.waiting.remove(&at)?;
        let mut record = BytesMut::with_capacity(pieces.record_bytes as usize);
        for (offset, piece) in pieces.pieces {
            // Pieces of one reign are cut once: they follow each other. Anything else is no record.
            if offset as usize != record.len() {
                return None;
            }
            record.extend_from_slice(&piece);
        }
        Some(record.freeze())
    }
}

/// Calls `insert` with every version that the batch makes. A record that the engine cannot read is an error for the pages
/// it touches, not for the batch: it is reported to `unreadable`.
pub(crate) fn versions(
    engine: &dyn Engine,
    batch: &Batch,
    journal_offset: u64,
    fragments: &mut Fragments,
    mut insert: impl FnMut(Key, Version),
    mut unreadable: impl FnMut(EngineError),
) {
    let mut touches = Vec::new();
    for item in &batch.items {
        match item {
            Item::Record { end, bytes } => {
                let position = Position::new(batch.epoch, *end);
                record(engine, position, bytes, &mut touches, &mut insert, &mut unreadable);
            }
            Item::Fragment {
                end,
                record_bytes,
                offset,
                bytes,
            } => {
                let position = Position::new(batch.epoch, *end);
                let whole = fragments.add(
                    (batch.epoch, *end),
                    *record_bytes,
                    *offset,
                    bytes.clone(),
                    journal_offset,
                );
                if let Some(whole) = whole {
                    record(engine, position, &whole, &mut touches, &mut insert, &mut unreadable);
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

fn record(
    engine: &dyn Engine,
    position: Position,
    bytes: &Bytes,
    touches: &mut Vec<Touch>,
    insert: &mut impl FnMut(Key, Version),
    unreadable: &mut impl FnMut(EngineError),
) {
    touches.clear();
    if let Err(error) = engine.touches(bytes, position.lsn, touches) {
        unreadable(error);
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
