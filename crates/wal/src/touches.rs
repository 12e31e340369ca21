//! Which pages a record changes.
//!
//! Most records say so by block references. The others change transaction-status pages, clear bits of a visibility map
//! they do not refer to, or take away the pages of whole files; PostgreSQL's redo functions know which, and so does
//! this file.
//!
//! Invariants:
//! - A page is named at most once, in the order in which the record names it first.
//! - A page of the visibility map is named also if the relation has none: clearing bits of zeros changes nothing.
//! - A commit names its page of commit timestamps whether they are tracked or not: the record does not know. Nobody reads
//!   what it says while they are not, nor later: tracking begins with the next transaction.
//! - No record takes single pages away from the arrays of transaction status. What a truncation leaves behind is a stretch
//!   of a circle that nobody reads before a record has made its pages anew, page by page, as numbers come around.

use std::collections::BTreeSet;

use engine::Touch;
use units::{ForkKey, PageKey, RelationKey, fork};

use crate::fields::Fields;
use crate::status_page::{
    commit_timestamp_page, multixact_member_page, multixact_offset_page, next_multixact, status_page,
    transaction_status_page,
};
use crate::{DecodedRecord, Kind, MultixactCreation, Parameters, RecordError, TransactionEnd, resource_manager};

/// Heap blocks on a page of the visibility map: `HEAPBLOCKS_PER_PAGE`, two bits each after the page header.
const VISIBILITY_BLOCKS_PER_PAGE: u32 = (8192 - 24) * 4;
/// Heap blocks on a lowest page of the free space map: `SlotsPerFSMPage`.
const FREE_SPACE_SLOTS_PER_PAGE: u32 = 4069;
/// Levels of the free space map: `FSM_TREE_DEPTH`.
const FREE_SPACE_LEVELS: u32 = 3;

/// Appends what `record` does to pages.
pub fn touches(record: &DecodedRecord<'_>, touches: &mut Vec<Touch>) -> Result<(), RecordError> {
    let kind = record.kind()?;
    let first = touches.len();
    match record.header.resource_manager {
        resource_manager::XLOG => log(record, kind, touches)?,
        resource_manager::TRANSACTION => transaction_end(record, touches)?,
        resource_manager::STORAGE => storage(record, kind, touches)?,
        resource_manager::CLOG => zeroed_page(record, kind, RelationKey::TRANSACTION_STATUS, touches)?,
        resource_manager::COMMIT_TIMESTAMP => zeroed_page(record, kind, RelationKey::COMMIT_TIMESTAMPS, touches)?,
        resource_manager::DATABASE => database(record, kind, touches)?,
        resource_manager::MULTIXACT => multixact(record, kind, touches)?,
        _ => {
            references(record, touches);
            for heap_page in cleared_visibility(record)?.into_iter().flatten() {
                page(touches, first, visibility_page(heap_page), false);
            }
        }
    }
    Ok(())
}

/// The heap pages (two at most) for which the record clears bits of the visibility map without a reference to it:
/// `heap_xlog_insert` and its neighbours in `access/heap/heapam.c`.
pub fn cleared_visibility(record: &DecodedRecord<'_>) -> Result<[Option<PageKey>; 2], RecordError> {
    /// Bits of the records' flags: `XLH_*_ALL_VISIBLE_CLEARED`, for locks `XLH_LOCK_ALL_FROZEN_CLEARED`.
    const CLEARED: u8 = 1 << 0;
    const UPDATE_NEW_CLEARED: u8 = 1 << 1;
    // Where the flags stand in xl_heap_insert, _delete, _update, _lock, _multi_insert and _lock_updated.
    let flags_at = match (record.header.resource_manager, record.operation() & 0x70) {
        (resource_manager::HEAP, 0x00) => 2,
        (resource_manager::HEAP, 0x10 | 0x20 | 0x40 | 0x60) => 7,
        (resource_manager::HEAP2, 0x50) => 0,
        (resource_manager::HEAP2, 0x60) => 7,
        _ => return Ok([None, None]),
    };
    let Some(flags) = record.data.get(flags_at) else {
        let kind = record.kind()?;
        return Err(RecordError::Short { kind, field: "flags" });
    };
    if flags & (CLEARED | UPDATE_NEW_CLEARED) == 0 {
        return Ok([None, None]);
    }
    let new = record.block(0).map(|block| block.key);
    let is_update =
        record.header.resource_manager == resource_manager::HEAP && matches!(record.operation() & 0x70, 0x20 | 0x40);
    let (first, second) = if is_update {
        // Without a second reference the old row stood on the same page.
        let old = record.block(1).map(|block| block.key).or(new);
        let new_cleared = flags & UPDATE_NEW_CLEARED != 0;
        (old.filter(|_| flags & CLEARED != 0), new.filter(|_| new_cleared))
    } else {
        (new.filter(|_| flags & CLEARED != 0), None)
    };
    Ok([first, second])
}

/// The page of the visibility map with the bits of this heap page: `HEAPBLK_TO_MAPBLOCK`.
pub fn visibility_page(heap_page: PageKey) -> PageKey {
    let map = heap_page.fork.relation.fork(fork::VISIBILITY);
    map.page(heap_page.block / VISIBILITY_BLOCKS_PER_PAGE)
}

/// How a truncation of a relation to `blocks` blocks changes one of its maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapTruncation {
    /// Which map.
    pub map: ForkKey,
    /// Blocks that are left of the map.
    pub blocks: u32,
    /// Whether the last of them loses what it says about blocks that are gone.
    pub clears_tail: bool,
}

impl MapTruncation {
    /// Of the visibility map: `visibilitymap_prepare_truncate`.
    pub fn of_visibility(relation: RelationKey, blocks: u32) -> MapTruncation {
        let clears_tail = !blocks.is_multiple_of(VISIBILITY_BLOCKS_PER_PAGE);
        MapTruncation {
            map: relation.fork(fork::VISIBILITY),
            blocks: blocks / VISIBILITY_BLOCKS_PER_PAGE + u32::from(clears_tail),
            clears_tail,
        }
    }

    /// Of the free space map: `FreeSpaceMapPrepareTruncateRel`. Its upper levels are left as they are; they are hints
    /// that correct themselves.
    pub fn of_free_space(relation: RelationKey, blocks: u32) -> MapTruncation {
        let clears_tail = !blocks.is_multiple_of(FREE_SPACE_SLOTS_PER_PAGE);
        // fsm_logical_to_physical: before the lowest page number n stand n others and the upper ones that begin so far.
        let mut above = blocks / FREE_SPACE_SLOTS_PER_PAGE;
        let mut physical = FREE_SPACE_LEVELS - 1;
        for _ in 0..FREE_SPACE_LEVELS {
            physical += above;
            above /= FREE_SPACE_SLOTS_PER_PAGE;
        }
        MapTruncation {
            map: relation.fork(fork::FREE_SPACE),
            blocks: physical + u32::from(clears_tail),
            clears_tail,
        }
    }

    /// The page whose tail is cleared.
    pub fn tail(&self) -> Option<PageKey> {
        self.clears_tail.then(|| self.map.page(self.blocks - 1))
    }
}

/// `xl_smgr_truncate`: what becomes of the three forks.
pub(crate) struct Truncation {
    pub(crate) main: Option<(ForkKey, u32)>,
    pub(crate) maps: [Option<MapTruncation>; 2],
    pub(crate) relation: RelationKey,
}

impl Truncation {
    pub(crate) fn decode(record: &DecodedRecord<'_>, kind: Kind) -> Result<Truncation, RecordError> {
        const MAIN: u32 = 1;
        const VISIBILITY: u32 = 2;
        const FREE_SPACE: u32 = 4;
        let mut fields = Fields::new(kind, record.data);
        let blocks = fields.u32("number of blocks")?;
        let relation = fields.relation()?;
        let flags = fields.u32("flags")?;
        let of = |flag: u32| flags & flag != 0;
        Ok(Truncation {
            main: of(MAIN).then(|| (relation.fork(fork::MAIN), blocks)),
            maps: [
                of(FREE_SPACE).then(|| MapTruncation::of_free_space(relation, blocks)),
                of(VISIBILITY).then(|| MapTruncation::of_visibility(relation, blocks)),
            ],
            relation,
        })
    }
}

/// The forks that are dropped with a relation: `DropRelationFiles` drops all there can be.
pub(crate) const FORKS: [u8; 4] = [fork::MAIN, fork::FREE_SPACE, fork::VISIBILITY, fork::INIT];
pub(crate) const SMGR_CREATE: u8 = 0x10;
pub(crate) const SMGR_TRUNCATE: u8 = 0x20;
pub(crate) const DATABASE_DROP: u8 = 0x20;

fn page(touches: &mut Vec<Touch>, first: usize, key: PageKey, from_nothing: bool) {
    let named = |touch: &Touch| matches!(touch, Touch::Page { key: known, .. } if *known == key);
    if !touches[first..].iter().any(named) {
        touches.push(Touch::Page { key, from_nothing });
    }
}

fn references(record: &DecodedRecord<'_>, touches: &mut Vec<Touch>) {
    let first = touches.len();
    for block in record.blocks() {
        page(touches, first, block.key, block.from_nothing());
    }
}

/// `xlog_redo`. `XLOG_FPI` and `XLOG_FPI_FOR_HINT`: a reference without an image changes nothing.
/// `XLOG_PARAMETER_CHANGE`: without tracking all commit timestamps go (`DeactivateCommitTs`).
fn log(record: &DecodedRecord<'_>, kind: Kind, touches: &mut Vec<Touch>) -> Result<(), RecordError> {
    const PARAMETER_CHANGE: u8 = 0x60;
    let first = touches.len();
    for block in record.blocks().filter(|block| block.image.is_some()) {
        page(touches, first, block.key, block.from_nothing());
    }
    if record.operation() == PARAMETER_CHANGE && !Parameters::of(kind, record.data)?.track_commit_timestamp {
        touches.push(Touch::Truncate {
            fork: RelationKey::COMMIT_TIMESTAMPS.fork(fork::MAIN),
            from_block: 0,
        });
    }
    Ok(())
}

fn transaction_end(record: &DecodedRecord<'_>, touches: &mut Vec<Touch>) -> Result<(), RecordError> {
    let Some(end) = TransactionEnd::of(record)? else {
        return Ok(());
    };
    status_pages(&end, transaction_status_page, touches);
    if end.is_commit {
        status_pages(&end, commit_timestamp_page, touches);
    }
    for relation in end.dropped() {
        for fork in FORKS {
            let fork = relation.fork(fork);
            touches.push(Touch::Truncate { fork, from_block: 0 });
        }
    }
    Ok(())
}

fn status_pages(end: &TransactionEnd<'_>, page_of: fn(u32) -> PageKey, touches: &mut Vec<Touch>) {
    let own = page_of(end.transaction);
    let mut push = |key| {
        touches.push(Touch::Page {
            key,
            from_nothing: false,
        })
    };
    push(own);
    // Nearly always the subtransactions stand on the same page: no set is made then.
    let others = end.subtransactions().map(page_of).filter(|key| *key != own);
    let mut named = BTreeSet::new();
    for key in others {
        if named.insert(key) {
            push(key);
        }
    }
}

fn storage(record: &DecodedRecord<'_>, kind: Kind, touches: &mut Vec<Touch>) -> Result<(), RecordError> {
    if record.operation() != SMGR_TRUNCATE {
        return Ok(());
    }
    let truncation = Truncation::decode(record, kind)?;
    if let Some((fork, from_block)) = truncation.main {
        touches.push(Touch::Truncate { fork, from_block });
    }
    for map in truncation.maps.into_iter().flatten() {
        if let Some(key) = map.tail() {
            touches.push(Touch::Page {
                key,
                from_nothing: false,
            });
        }
        touches.push(Touch::Truncate {
            fork: map.map,
            from_block: map.blocks,
        });
    }
    Ok(())
}

/// `CLOG_ZEROPAGE` and `COMMIT_TS_ZEROPAGE`; the other operation of both takes away old pages, which is
/// [`crate::StateChange`]'s business: nobody reads them again.
fn zeroed_page(
    record: &DecodedRecord<'_>,
    kind: Kind,
    array: RelationKey,
    touches: &mut Vec<Touch>,
) -> Result<(), RecordError> {
    if record.operation() == 0 {
        let number = Fields::new(kind, record.data).u32("page number")?;
        touches.push(Touch::Page {
            key: status_page(array, number),
            from_nothing: true,
        });
    }
    Ok(())
}

fn database(record: &DecodedRecord<'_>, kind: Kind, touches: &mut Vec<Touch>) -> Result<(), RecordError> {
    if record.operation() == DATABASE_DROP {
        let mut fields = Fields::new(kind, record.data);
        let database = fields.u32("database")?;
        let tablespaces = crate::fields::u32s(fields.counted(4, "tablespaces")?);
        touches.extend(tablespaces.map(|tablespace| Touch::DropDatabase { tablespace, database }));
    }
    Ok(())
}

/// `multixact_redo` in `access/transam/multixact.c`.
fn multixact(record: &DecodedRecord<'_>, kind: Kind, touches: &mut Vec<Touch>) -> Result<(), RecordError> {
    match record.operation() {
        0x00 => return zeroed_page(record, kind, RelationKey::MULTIXACT_OFFSETS, touches),
        0x10 => {
            let number = Fields::new(kind, record.data).u32("page number")?;
            touches.push(Touch::Page {
                key: status_page(RelationKey::MULTIXACT_MEMBERS, number),
                from_nothing: true,
            });
        }
        _ => {}
    }
    let Some(creation) = MultixactCreation::of(record)? else {
        return Ok(());
    };
    let mut push = |key| {
        touches.push(Touch::Page {
            key,
            from_nothing: false,
        })
    };
    // RecordNewMultiXact also writes where the members of the next multixact begin, maybe on the next page.
    let own = multixact_offset_page(creation.multixact);
    let next = multixact_offset_page(next_multixact(creation.multixact));
    push(own);
    if next != own {
        push(next);
    }
    let mut last = None;
    for index in 0..creation.members().len() as u32 {
        let key = multixact_member_page(creation.offset.wrapping_add(index));
        if last != Some(key) {
            push(key);
            last = Some(key);
        }
    }
    Ok(())
}
