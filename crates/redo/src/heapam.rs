//! The heap. Follows `heap_redo` and `heap2_redo` in `access/heap/heapam.c`.

use std::ops::Range;

use units::Lsn;
use wal::{BlockReference, DecodedRecord};

use crate::bufpage::{DEAD, PageMut, Pointer, State, UNUSED};
use crate::fault::{Applied, Fault, slice_at, u8_at, u16_at, u16s_at, u32_at};
use crate::heap_tuple::{HEADER_BYTES, NewHeader, Tuple, TupleId};
use crate::maps;

/// `SizeOfHeapHeader`: infomask2, infomask, hoff.
const TUPLE_HEADER_BYTES: usize = 5;
/// `SizeOfMultiInsertTuple`: its length before those three.
const MULTI_TUPLE_HEADER_BYTES: usize = 7;
/// `FrozenTransactionId`.
const FROZEN: u32 = 2;

const ALL_VISIBLE_CLEARED: u8 = 1 << 0;
const ALL_FROZEN_SET: u8 = 1 << 5;

pub(crate) fn redo(
    record: &DecodedRecord<'_>,
    end: Lsn,
    block: &BlockReference<'_>,
    page: &mut PageMut<'_>,
) -> Applied {
    match record.operation() & 0x70 {
        0x00 => insert(record, block, page)?,
        0x10 => delete(record, block, page)?,
        0x20 => update(record, block, page, false)?,
        0x40 => update(record, block, page, true)?,
        0x50 => confirm(record, block, page)?,
        0x60 => lock(record, block, page)?,
        0x70 => inplace(record, block, page)?,
        // A truncation is logged by the storage manager as well; this record is for logical decoding.
        _ => return Ok(()),
    }
    page.set_lsn(end);
    Ok(())
}

pub(crate) fn redo2(
    record: &DecodedRecord<'_>,
    end: Lsn,
    block: &BlockReference<'_>,
    page: &mut PageMut<'_>,
) -> Applied {
    match record.operation() & 0x70 {
        0x10 => prune(record, block, page)?,
        0x20 => vacuum(record, block, page)?,
        0x30 => freeze(record, block, page)?,
        0x40 => return visible(record, end, block, page),
        0x50 => multi_insert(record, block, page)?,
        0x60 => lock_updated(record, page)?,
        _ => return Err(Fault::Unsupported),
    }
    page.set_lsn(end);
    Ok(())
}

/// `xl_heap_header` at the head of a new tuple, and what follows.
fn new_tuple(bytes: &[u8]) -> Result<(u16, u16, u8, &[u8]), Fault> {
    let rest = bytes
        .get(TUPLE_HEADER_BYTES..)
        .ok_or(Fault::Mismatch("the record's tuple is too short"))?;
    Ok((u16_at(bytes, 0)?, u16_at(bytes, 2)?, u8_at(bytes, 4)?, rest))
}

/// `heap_xlog_insert`.
fn insert(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    let number = u16_at(record.data, 0)?;
    let flags = u8_at(record.data, 2)?;
    if block.will_init {
        page.init(0);
    }
    let (infomask2, infomask, header_bytes, data) = new_tuple(block.data)?;
    let header = NewHeader {
        infomask2,
        infomask,
        header_bytes,
        xmin: record.header.transaction,
        xmax: 0,
        ctid: TupleId {
            block: block.key.block,
            number,
        },
    };
    header.add_to(page, data)?;
    if flags & ALL_VISIBLE_CLEARED != 0 {
        page.set_all_visible(false);
    }
    Ok(())
}

/// `heap_xlog_multi_insert`.
fn multi_insert(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    let flags = u8_at(record.data, 0)?;
    let count = usize::from(u16_at(record.data, 2)?);
    if block.will_init {
        page.init(0);
    }
    let mut at = 0usize;
    for tuple in 0..count {
        let number = if block.will_init {
            tuple as u16 + 1
        } else {
            u16_at(record.data, 4 + 2 * tuple)?
        };
        at = at.next_multiple_of(2);
        let bytes = usize::from(u16_at(block.data, at)?);
        let data = slice_at(block.data, at + MULTI_TUPLE_HEADER_BYTES, bytes)?;
        let header = NewHeader {
            infomask2: u16_at(block.data, at + 2)?,
            infomask: u16_at(block.data, at + 4)?,
            header_bytes: u8_at(block.data, at + 6)?,
            xmin: record.header.transaction,
            xmax: 0,
            ctid: TupleId {
                block: block.key.block,
                number,
            },
        };
        header.add_to(page, data)?;
        at += MULTI_TUPLE_HEADER_BYTES + bytes;
    }
    if at != block.data.len() {
        return Err(Fault::Mismatch("its tuples are not as long as its data"));
    }
    if flags & ALL_VISIBLE_CLEARED != 0 {
        page.set_all_visible(false);
    }
    if flags & ALL_FROZEN_SET != 0 {
        page.set_all_visible(true);
    }
    Ok(())
}

/// `heap_xlog_delete`.
fn delete(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    const IS_SUPER: u8 = 1 << 3;
    const IS_PARTITION_MOVE: u8 = 1 << 4;
    let xmax = u32_at(record.data, 0)?;
    let number = u16_at(record.data, 4)?;
    let (bits, flags) = (u8_at(record.data, 6)?, u8_at(record.data, 7)?);
    let mut tuple = Tuple::of(page, number)?;
    tuple.set_hot_updated(false);
    tuple.set_xmax_bits(bits);
    if flags & IS_SUPER == 0 {
        tuple.set_xmax(xmax);
    } else {
        tuple.set_xmin(0);
    }
    tuple.clear_command();
    tuple.set_ctid(if flags & IS_PARTITION_MOVE != 0 {
        TupleId::MOVED_PARTITIONS
    } else {
        TupleId {
            block: block.key.block,
            number,
        }
    });
    page.set_prunable(record.header.transaction);
    if flags & ALL_VISIBLE_CLEARED != 0 {
        page.set_all_visible(false);
    }
    Ok(())
}

const PREFIX_FROM_OLD: u8 = 1 << 5;
const SUFFIX_FROM_OLD: u8 = 1 << 6;

/// Where on the page the old version lies, from which a new one may take its ends; nowhere if it takes nothing.
#[derive(Default)]
struct OldVersion {
    /// The whole tuple.
    whole: Range<usize>,
    /// What follows its header.
    data_at: usize,
}

/// `heap_xlog_update`: the page is the new version's, the old one's, or both.
fn update(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>, hot: bool) -> Applied {
    let new_block = record.block(0).ok_or(Fault::Mismatch("the record names no new page"))?;
    let new_id = TupleId {
        block: new_block.key.block,
        number: u16_at(record.data, 12)?,
    };
    let same_page = record.block(1).is_none();
    let old = if same_page || block.id == 1 {
        update_old_version(record, page, hot, new_id)?
    } else {
        OldVersion::default()
    };
    if block.id != 0 {
        return Ok(());
    }
    if new_block.will_init && !same_page {
        page.init(0);
    }
    add_new_version(record, new_block.data, page, &old, new_id)
}

/// The old version ends and leads to the new one.
fn update_old_version(
    record: &DecodedRecord<'_>,
    page: &mut PageMut<'_>,
    hot: bool,
    new_id: TupleId,
) -> Result<OldVersion, Fault> {
    let flags = u8_at(record.data, 7)?;
    let mut tuple = Tuple::of(page, u16_at(record.data, 4)?)?;
    tuple.set_hot_updated(hot);
    tuple.set_xmax_bits(u8_at(record.data, 6)?);
    tuple.set_xmax(u32_at(record.data, 0)?);
    tuple.clear_command();
    tuple.set_ctid(new_id);
    let mut old = OldVersion::default();
    if flags & (PREFIX_FROM_OLD | SUFFIX_FROM_OLD) != 0 {
        (old.whole, old.data_at) = tuple.place()?;
    }
    page.set_prunable(record.header.transaction);
    if flags & ALL_VISIBLE_CLEARED != 0 {
        page.set_all_visible(false);
    }
    Ok(old)
}

/// The new version: what the record says of it, between what it shares with the old one.
fn add_new_version(
    record: &DecodedRecord<'_>,
    logged: &[u8],
    page: &mut PageMut<'_>,
    old: &OldVersion,
    new_id: TupleId,
) -> Applied {
    const NEW_ALL_VISIBLE_CLEARED: u8 = 1 << 1;
    let flags = u8_at(record.data, 7)?;
    let mut at = 0;
    let mut shared = |flag: u8| -> Result<usize, Fault> {
        if flags & flag == 0 {
            return Ok(0);
        }
        at += 2;
        Ok(usize::from(u16_at(logged, at - 2)?))
    };
    let prefix = shared(PREFIX_FROM_OLD)?;
    let suffix = shared(SUFFIX_FROM_OLD)?;
    let tuple = logged
        .get(at..)
        .ok_or(Fault::Mismatch("the record's tuple is too short"))?;
    let (infomask2, infomask, header_bytes, own) = new_tuple(tuple)?;
    let header = NewHeader {
        infomask2,
        infomask,
        header_bytes,
        xmin: record.header.transaction,
        xmax: u32_at(record.data, 8)?,
        ctid: new_id,
    };
    // The null bitmap and what fills it up come from the record; the prefix stands behind them.
    let bitmap = if prefix == 0 {
        own.len()
    } else {
        usize::from(header_bytes)
            .checked_sub(HEADER_BYTES)
            .filter(|bitmap| *bitmap <= own.len())
            .ok_or(Fault::Mismatch("the record's tuple is too short"))?
    };
    let (bitmap, own) = own.split_at(bitmap);
    let prefix = old.data_at..old.data_at + prefix;
    let suffix = old.whole.end.checked_sub(suffix).filter(|at| old.whole.start <= *at);
    let (Some(suffix_at), true) = (suffix, prefix.end <= old.whole.end) else {
        return Err(Fault::Mismatch(
            "the old version is shorter than what the new one takes from it",
        ));
    };
    let suffix = suffix_at..old.whole.end;
    let bytes = HEADER_BYTES + bitmap.len() + prefix.len() + own.len() + suffix.len();
    let at = page.add_room(bytes, new_id.number, true)?;
    let page_bytes = page.bytes_mut();
    let mut at = at;
    let mut add = |part: Part<'_>| {
        let end = match part {
            Part::New(bytes) => {
                page_bytes[at..at + bytes.len()].copy_from_slice(bytes);
                at + bytes.len()
            }
            Part::Old(from) => {
                let end = at + from.len();
                page_bytes.copy_within(from, at);
                end
            }
        };
        at = end;
    };
    add(Part::New(&header.encode()));
    add(Part::New(bitmap));
    add(Part::Old(prefix));
    add(Part::New(own));
    add(Part::Old(suffix));
    if flags & NEW_ALL_VISIBLE_CLEARED != 0 {
        page.set_all_visible(false);
    }
    Ok(())
}

/// A piece of a new version: from the record, or from the old version on the same page.
enum Part<'a> {
    New(&'a [u8]),
    Old(Range<usize>),
}

/// `heap_xlog_confirm`.
fn confirm(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    let number = u16_at(record.data, 0)?;
    Tuple::of(page, number)?.set_ctid(TupleId {
        block: block.key.block,
        number,
    });
    Ok(())
}

/// `heap_xlog_lock`.
fn lock(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    let xmax = u32_at(record.data, 0)?;
    let number = u16_at(record.data, 4)?;
    let mut tuple = Tuple::of(page, number)?;
    tuple.set_xmax_bits(u8_at(record.data, 6)?);
    if tuple.is_locked_only() {
        tuple.set_hot_updated(false);
        tuple.set_ctid(TupleId {
            block: block.key.block,
            number,
        });
    }
    tuple.set_xmax(xmax);
    tuple.clear_command();
    Ok(())
}

/// `heap_xlog_lock_updated`.
fn lock_updated(record: &DecodedRecord<'_>, page: &mut PageMut<'_>) -> Applied {
    let mut tuple = Tuple::of(page, u16_at(record.data, 4)?)?;
    tuple.set_xmax_bits(u8_at(record.data, 6)?);
    tuple.set_xmax(u32_at(record.data, 0)?);
    Ok(())
}

/// `heap_xlog_inplace`.
fn inplace(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    let mut tuple = Tuple::of(page, u16_at(record.data, 0)?)?;
    let data = tuple.data_mut()?;
    if data.len() != block.data.len() {
        return Err(Fault::Mismatch("the tuple's length is another"));
    }
    data.copy_from_slice(block.data);
    Ok(())
}

/// `heap_xlog_prune` and `heap_page_prune_execute`.
fn prune(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    page.check()?;
    let redirected = usize::from(u16_at(record.data, 4)?);
    let dead = usize::from(u16_at(record.data, 6)?);
    let mut numbers = u16s_at(block.data, 0, block.data.len() / 2)?;
    if numbers.len() < 2 * redirected + dead {
        return Err(Fault::Mismatch("the record is too short"));
    }
    for _ in 0..redirected {
        let (Some(number), Some(target)) = (numbers.next(), numbers.next()) else {
            break;
        };
        page.pointer(number)?;
        let redirect = Pointer {
            offset: usize::from(target) & 0x7FFF,
            state: State::Redirect,
            bytes: 0,
        };
        page.set_pointer(number, redirect);
    }
    for (at, number) in numbers.enumerate() {
        page.pointer(number)?;
        page.set_pointer(number, if at < dead { DEAD } else { UNUSED });
    }
    page.repair_fragmentation()
}

/// `heap_xlog_vacuum`.
fn vacuum(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    page.check()?;
    let count = usize::from(u16_at(record.data, 0)?);
    for number in u16s_at(block.data, 0, count)? {
        page.pointer(number)?;
        page.set_pointer(number, UNUSED);
    }
    page.truncate_pointers()
}

/// `heap_xlog_freeze_page` and `heap_execute_freeze_tuple`.
fn freeze(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    const FREEZE_XVAC: u8 = 0x02;
    const INVALID_XVAC: u8 = 0x04;
    /// `sizeof(xl_heap_freeze_tuple)`.
    const TUPLE_BYTES: usize = 12;
    let count = usize::from(u16_at(record.data, 4)?);
    let tuples = slice_at(block.data, 0, TUPLE_BYTES * count)?;
    for frozen in tuples.chunks_exact(TUPLE_BYTES) {
        let mut tuple = Tuple::of(page, u16_at(frozen, 4)?)?;
        tuple.set_xmax(u32_at(frozen, 0)?);
        if frozen[10] & FREEZE_XVAC != 0 {
            tuple.set_xvac(FROZEN);
        }
        if frozen[10] & INVALID_XVAC != 0 {
            tuple.set_xvac(0);
        }
        tuple.set_infomask2(u16_at(frozen, 6)?);
        tuple.set_infomask(u16_at(frozen, 8)?);
    }
    Ok(())
}

/// `heap_xlog_visible`: block 0 is the map's page, block 1 the heap's, whose LSN stays (no checksums, no logged hints).
fn visible(record: &DecodedRecord<'_>, end: Lsn, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    if block.id == 1 {
        page.check()?;
        page.set_all_visible(true);
        return Ok(());
    }
    let heap = record
        .block(1)
        .ok_or(Fault::Mismatch("the record names no heap page"))?;
    maps::set_visibility(page, heap.key.block, u8_at(record.data, 4)?, end);
    Ok(())
}
