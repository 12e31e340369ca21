//! An engine whose pages are easily checked, and small stores with it.

use std::sync::Arc;

use bytes::Bytes;
use engine::{Engine, EngineError, Touch};
use io::MemoryDisk;
use units::{ForkKey, GroupId, Lsn, Page, PageKey, Position, RelationKey, SegmentId, VolumeId};
use wire_format::{Batch, CatalogEntry, CatalogKey, EncodedBatch, FlushHeader, Item};

use crate::{Opened, PageStore, StoreConfig};

pub(super) const SEGMENT: SegmentId = SegmentId::from_bytes([7; 16]);

pub(super) const BLOCKS: u32 = 6;

pub(super) const FORK: ForkKey = ForkKey {
    relation: RelationKey {
        tablespace: 1663,
        database: 5,
        relation: 16384,
    },
    fork: 0,
};

/// Records of this engine: pairs of (block, byte to mix into the page). Block 255 truncates to the block given; a record
/// that begins with 254 cannot be read, and one that begins with 253 finds a bug.
pub(super) struct Toy;

pub(super) const TRUNCATE: u8 = 255;

pub(super) const UNREADABLE: u8 = 254;

pub(super) const PANICKING: u8 = 253;

impl Engine for Toy {
    fn touches(&self, record: &[u8], end: Lsn, touches: &mut Vec<Touch>) -> Result<(), EngineError> {
        assert!(record.first() != Some(&PANICKING), "a bug of the engine");
        if record.first() == Some(&UNREADABLE) {
            let what = "254".to_owned();
            return Err(EngineError::Malformed { end, what });
        }
        for pair in record.chunks_exact(2) {
            touches.push(match pair {
                [TRUNCATE, from] => Touch::Truncate {
                    fork: FORK,
                    from_block: u32::from(*from),
                },
                [block, _] => Touch::Page {
                    key: FORK.page(u32::from(*block)),
                    from_nothing: false,
                },
                _ => unreachable!("chunks of two"),
            });
        }
        Ok(())
    }

    fn apply(&self, record: &[u8], end: Lsn, key: PageKey, page: &mut Page) -> Result<(), EngineError> {
        for pair in record.chunks_exact(2) {
            if u32::from(pair[0]) == key.block {
                if pair[1] == 13 {
                    return Err(EngineError::Unsupported {
                        end,
                        kind: "thirteen".to_owned(),
                    });
                }
                // Depends on what was there, so that a lost or repeated record shows.
                let bytes = page.bytes_mut();
                let at = usize::from(bytes[0]) % 100 + 1;
                bytes[0] = bytes[0].wrapping_mul(31).wrapping_add(pair[1]);
                bytes[at] = bytes[at].wrapping_add(pair[1] ^ bytes[0]);
            }
        }
        Ok(())
    }
}

pub(super) fn config() -> StoreConfig {
    StoreConfig {
        table_bytes_max: 6 << 10,
        cache_bytes_max: 64 << 10,
        index_cache_bytes_max: 1 << 10,
        page_cache_bytes_max: 40 << 10,
        journal_file_bytes: 8 << 10,
        journal_retained_bytes_max: 64 << 10,
        chain_deltas_max: 4,
        merge_layers: 3,
        ..StoreConfig::default()
    }
}

pub(super) fn open(disk: &MemoryDisk) -> Opened {
    PageStore::open(Arc::new(disk.clone()), config(), Arc::new(Toy)).expect("the store opens")
}

pub(super) fn batch(position: Position, previous: Position, records: &[Vec<u8>], catalog: u8) -> EncodedBatch {
    // Records lie close together below the flush's end.
    let count = records.len() as u64;
    let item = |(at, record): (usize, &Vec<u8>)| Item::Record {
        end: Lsn::from_raw(position.lsn.raw() + 1 + at as u64 - count),
        bytes: Bytes::copy_from_slice(record),
    };
    EncodedBatch::new(Batch {
        volume: VolumeId::from_bytes([1; 16]),
        group: GroupId::FIRST,
        epoch: position.epoch,
        end: position.lsn,
        previous,
        header: Some(FlushHeader {
            groups: vec![GroupId::FIRST],
            boundary: position.lsn,
            written_at_us: 0,
            marks: Bytes::copy_from_slice(&position.lsn.raw().to_le_bytes()),
            catalog: vec![CatalogEntry {
                key: CatalogKey::Blob(format!("key/{}", catalog % 5)),
                lsn: position.lsn,
                value: (!catalog.is_multiple_of(7)).then(|| Bytes::copy_from_slice(&[catalog])),
            }],
            page_flags: Vec::new(),
        }),
        items: records.iter().enumerate().map(item).collect(),
        elsewhere: Vec::new(),
    })
}
