//! A toy engine: its pages list the records that made them, so that a page tells what is missing in it or too much.

use bytes::{Bytes, BytesMut};
use engine::{Engine, EngineError, Touch};
use units::{Epoch, ForkKey, Lsn, PAGE_BYTES, Page, PageKey, Position, RelationKey};
use wire_format::{CatalogEntry, CatalogKey};

use crate::random::Random;
use crate::writer::FLUSH_BYTES;

/// The one fork there is.
pub(crate) const FORK: ForkKey = ForkKey {
    relation: RelationKey {
        tablespace: 1663,
        database: 5,
        relation: 16384,
    },
    fork: 0,
};

const NAME_BYTES: usize = 16;
/// One change: what kind, and which block.
const CHANGE_BYTES: usize = 2;

/// Names in the catalog.
const NAMES: u64 = 5;

/// What a record does to one page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// Adds itself to the page's list.
    Add(u32),
    /// Makes the page anew: it lists only this record.
    Make(u32),
    /// Every page from here on is gone.
    Truncate(u32),
    /// The database is dropped, and every page of it.
    Drop,
}

/// A record of the toy engine: its own name, and its changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    pub(crate) name: Position,
    pub(crate) changes: Vec<Change>,
}

impl Record {
    /// One that changes a page or two of the first `blocks`, each once.
    pub(crate) fn any(name: Position, blocks: u32, random: &mut Random) -> Record {
        let block = random.below(u64::from(blocks)) as u32;
        let mut changes = match random.below(40) {
            0 | 1 => vec![Change::Truncate(block)],
            2 | 3 => vec![Change::Make(block)],
            4 if random.chance(300) => vec![Change::Drop],
            _ => vec![Change::Add(block)],
        };
        if random.chance(300) && matches!(changes[0], Change::Add(_) | Change::Make(_)) {
            changes.push(Change::Add((block + 1) % blocks));
        }
        Record { name, changes }
    }

    /// What it does, as the engine says it.
    pub(crate) fn touches(&self) -> Vec<Touch> {
        let touch = |change: &Change| match *change {
            Change::Add(block) | Change::Make(block) => Touch::Page {
                key: FORK.page(block),
                from_nothing: matches!(change, Change::Make(_)),
            },
            Change::Truncate(from_block) => Touch::Truncate { fork: FORK, from_block },
            Change::Drop => Touch::DropDatabase {
                tablespace: FORK.relation.tablespace,
                database: FORK.relation.database,
            },
        };
        self.changes.iter().map(touch).collect()
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(NAME_BYTES + self.changes.len() * CHANGE_BYTES);
        bytes.extend_from_slice(&name_bytes(self.name));
        for change in &self.changes {
            let (kind, block) = match change {
                Change::Add(block) => (0, block),
                Change::Make(block) => (1, block),
                Change::Truncate(block) => (2, block),
                Change::Drop => (3, &0),
            };
            bytes.extend_from_slice(&[kind, *block as u8]);
        }
        bytes.freeze()
    }

    fn decode(bytes: &[u8], end: Lsn) -> Result<Record, EngineError> {
        let malformed = |what: &str| EngineError::Malformed {
            end,
            what: what.to_owned(),
        };
        let (name, changes) = bytes.split_at_checked(NAME_BYTES).ok_or_else(|| malformed("no name"))?;
        let name = name_in(name);
        if name.lsn != end {
            return Err(malformed("its name says that it ends elsewhere"));
        }
        let change = |change: &[u8]| match change {
            [0, block] => Ok(Change::Add(u32::from(*block))),
            [1, block] => Ok(Change::Make(u32::from(*block))),
            [2, block] => Ok(Change::Truncate(u32::from(*block))),
            [3, _] => Ok(Change::Drop),
            _ => Err(malformed("an unknown change")),
        };
        let changes = changes.chunks(CHANGE_BYTES).map(change).collect::<Result<_, _>>()?;
        Ok(Record { name, changes })
    }

    /// What it does to the catalog: one of a few names stands for it from there on, or for nothing.
    pub(crate) fn entry(&self) -> CatalogEntry {
        let number = self.name.lsn.raw() / FLUSH_BYTES;
        let value = (!number.is_multiple_of(7)).then(|| Bytes::copy_from_slice(&name_bytes(self.name)));
        CatalogEntry {
            key: CatalogKey::Blob(format!("toy/{}", number % NAMES)),
            lsn: self.name.lsn,
            value,
        }
    }

    /// Whether it changes a page.
    pub(crate) fn changes_block(&self, block: u32) -> bool {
        self.changes.iter().any(|change| match change {
            Change::Add(at) | Change::Make(at) => *at == block,
            Change::Truncate(from) => *from <= block,
            Change::Drop => true,
        })
    }

    /// What becomes of a page's list with this record.
    pub(crate) fn change(&self, block: u32, listed: &mut Vec<Position>) {
        for change in &self.changes {
            match change {
                Change::Add(at) if *at == block => listed.push(self.name),
                Change::Make(at) if *at == block => *listed = vec![self.name],
                Change::Truncate(from) if *from <= block => listed.clear(),
                Change::Drop => listed.clear(),
                _ => {}
            }
        }
    }
}

/// The records that made a page, oldest first.
pub(crate) fn listed(page: &Page) -> Vec<Position> {
    let bytes = page.bytes();
    let count = usize::from(u16::from_le_bytes([bytes[0], bytes[1]]));
    let names = bytes[2..].chunks_exact(NAME_BYTES);
    names.take(count).map(name_in).collect()
}

fn name_bytes(name: Position) -> [u8; NAME_BYTES] {
    let mut bytes = [0; NAME_BYTES];
    bytes[..8].copy_from_slice(&name.epoch.raw().to_le_bytes());
    bytes[8..].copy_from_slice(&name.lsn.raw().to_le_bytes());
    bytes
}

fn name_in(bytes: &[u8]) -> Position {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes of sixteen"));
    Position::new(Epoch::from_raw(number(0)), Lsn::from_raw(number(8)))
}

/// The engine.
#[derive(Debug)]
pub(crate) struct Toy;

impl Engine for Toy {
    fn touches(&self, record: &[u8], end: Lsn, touches: &mut Vec<Touch>) -> Result<(), EngineError> {
        touches.extend(Record::decode(record, end)?.touches());
        Ok(())
    }

    fn apply(&self, record: &[u8], end: Lsn, key: PageKey, page: &mut Page) -> Result<(), EngineError> {
        let record = Record::decode(record, end)?;
        let mut listed = listed(page);
        record.change(key.block, &mut listed);
        let names: Vec<u8> = listed.iter().flat_map(|name| name_bytes(*name)).collect();
        if PAGE_BYTES < 2 + names.len() {
            return Err(EngineError::Mismatch {
                end,
                kind: "toy".to_owned(),
                key,
                what: "the page is full".to_owned(),
            });
        }
        let bytes = page.bytes_mut();
        bytes[..2].copy_from_slice(&(listed.len() as u16).to_le_bytes());
        bytes[2..2 + names.len()].copy_from_slice(&names);
        Ok(())
    }
}
