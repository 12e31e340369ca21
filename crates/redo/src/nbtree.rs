//! Btrees. Follows `btree_redo` in `access/nbtree/nbtxlog.c`.

use units::{Lsn, PAGE_BYTES};
use wal::{BlockReference, DecodedRecord};

use crate::bufpage::{HEADER_BYTES, PageMut, aligned};
use crate::fault::{Applied, Fault, slice_at, u16_at, u16s_at, u32_at};
use crate::nbtree_tuple::{IndexTuple, NewTuple, TupleIds};
use crate::numbers::Numbers;

/// `sizeof(BTPageOpaqueData)`, and what stands in it.
const OPAQUE_BYTES: usize = 16;
const PREVIOUS_AT: usize = 0;
const NEXT_AT: usize = 4;
const LEVEL_AT: usize = 8;
const FLAGS_AT: usize = 12;
const CYCLE_AT: usize = 14;

const LEAF: u16 = 1 << 0;
const ROOT: u16 = 1 << 1;
const DELETED: u16 = 1 << 2;
const META: u16 = 1 << 3;
const HALF_DEAD: u16 = 1 << 4;
const HAS_GARBAGE: u16 = 1 << 6;
const INCOMPLETE_SPLIT: u16 = 1 << 7;
const HAS_FULL_XID: u16 = 1 << 8;

/// `P_HIKEY`.
const HIGH_KEY: u16 = 1;

const SPLIT_L: u8 = 0x30;

struct Opaque {
    previous: u32,
    next: u32,
    level: u32,
    flags: u16,
}

impl PageMut<'_> {
    fn opaque(&self, at: usize) -> Result<usize, Fault> {
        self.check()?;
        if self.special() != PAGE_BYTES - OPAQUE_BYTES {
            return Err(Fault::Mismatch("the page is no btree page"));
        }
        Ok(self.special() + at)
    }

    /// `_bt_pageinit`, and its opaque space.
    fn init_btree(&mut self, opaque: &Opaque) {
        self.init(OPAQUE_BYTES);
        let special = self.special();
        self.set_u32(special + PREVIOUS_AT, opaque.previous);
        self.set_u32(special + NEXT_AT, opaque.next);
        self.set_u32(special + LEVEL_AT, opaque.level);
        self.set_u16(special + FLAGS_AT, opaque.flags);
    }

    fn change_flags(&mut self, clear: u16, set: u16) -> Applied {
        let at = self.opaque(FLAGS_AT)?;
        let flags = self.u16(at);
        self.set_u16(at, flags & !clear | set);
        Ok(())
    }

    fn set_sibling(&mut self, at: usize, block: u32) -> Applied {
        let at = self.opaque(at)?;
        self.set_u32(at, block);
        Ok(())
    }

    /// `P_FIRSTDATAKEY`: a page with a right sibling begins with its high key.
    fn first_data_key(&self) -> Result<u16, Fault> {
        let is_rightmost = self.u32(self.opaque(NEXT_AT)?) == 0;
        Ok(if is_rightmost { 1 } else { 2 })
    }
}

pub(crate) fn redo(
    record: &DecodedRecord<'_>,
    end: Lsn,
    block: &BlockReference<'_>,
    page: &mut PageMut<'_>,
) -> Applied {
    let operation = record.operation();
    match (operation, block.id) {
        (0x00 | 0x10 | 0x20, 0) => insert(record, block, page)?,
        (0x50, 0) => insert_into_posting(record, block, page)?,
        // The left child of what was inserted, whose split is thereby complete.
        (0x10 | 0x20, 1) | (0x30 | 0x40, 3) | (0xA0, 1) => page.change_flags(INCOMPLETE_SPLIT, 0)?,
        (0x20, 2) | (0xA0, 2) | (0x90, 4) | (0xE0, 0) => meta(block, page)?,
        (0x30 | 0x40, 0) => split_left(record, block, page)?,
        (0x30 | 0x40, 1) => split_right(record, block, page)?,
        (0x30 | 0x40, 2) => {
            let right = record
                .block(1)
                .ok_or(Fault::Mismatch("the record names no right page"))?;
            page.set_sibling(PREVIOUS_AT, right.key.block)?;
        }
        (0x60, 0) => deduplicate(record, block, page)?,
        (0x70, 0) => delete(block, page, u16_at(record.data, 4)?, u16_at(record.data, 6)?)?,
        (0xC0, 0) => delete(block, page, u16_at(record.data, 0)?, u16_at(record.data, 2)?)?,
        (0xB0, 0) => half_dead(
            page,
            u32_at(record.data, 8)?,
            u32_at(record.data, 12)?,
            u32_at(record.data, 16)?,
        )?,
        (0xB0, 1) => half_dead_parent(page, u16_at(record.data, 0)?)?,
        (0x80 | 0x90, 0) => unlink_target(record, page)?,
        (0x80 | 0x90, 1) => page.set_sibling(NEXT_AT, u32_at(record.data, 4)?)?,
        (0x80 | 0x90, 2) => page.set_sibling(PREVIOUS_AT, u32_at(record.data, 0)?)?,
        (0x80 | 0x90, 3) => half_dead(
            page,
            u32_at(record.data, 24)?,
            u32_at(record.data, 28)?,
            u32_at(record.data, 32)?,
        )?,
        (0xA0, 0) => new_root(record, block, page)?,
        _ => return Err(Fault::Unsupported),
    }
    page.set_lsn(end);
    Ok(())
}

/// `btree_xlog_insert`, without a posting list.
fn insert(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    page.opaque(0)?;
    page.add_item(block.data, u16_at(record.data, 0)?, false)
}

/// `btree_xlog_insert` of a tuple that falls into the posting list before it.
fn insert_into_posting(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    page.opaque(0)?;
    let number = u16_at(record.data, 0)?;
    let at = u16_at(block.data, 0)?;
    let mut new = NewTuple::of(IndexTuple::at_head(slice_at(block.data, 2, block.data.len() - 2)?)?.bytes())?;
    let before = number
        .checked_sub(1)
        .ok_or(Fault::Mismatch("nothing stands before the new tuple"))?;
    let place = page.stored(before)?;
    let list = IndexTuple::at_head(page.item(before)?)?.swap(&mut new, at)?;
    page.bytes_mut()[place.offset..place.offset + list.bytes().len()].copy_from_slice(list.bytes());
    page.add_item(new.bytes(), number, false)
}

/// `_bt_restore_meta`.
fn meta(block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    const MAGIC: u32 = 0x0005_3162;
    /// `sizeof(BTMetaPageData)`.
    const META_BYTES: usize = 48;
    let logged = slice_at(block.data, 0, 25)?;
    page.init_btree(&Opaque {
        previous: 0,
        next: 0,
        level: 0,
        flags: META,
    });
    page.set_u32(HEADER_BYTES, MAGIC);
    // version, root, level, fastroot, fastlevel, last_cleanup_num_delpages
    page.bytes_mut()[HEADER_BYTES + 4..HEADER_BYTES + 28].copy_from_slice(&logged[..24]);
    page.bytes_mut()[HEADER_BYTES + 32..HEADER_BYTES + 40].copy_from_slice(&(-1.0f64).to_le_bytes());
    page.bytes_mut()[HEADER_BYTES + 40] = logged[24];
    page.set_lower(HEADER_BYTES + META_BYTES);
    Ok(())
}

/// `_bt_restore_page`: tuples of the record in the order in which they lie on the page, the last item first.
fn restore_items(page: &mut PageMut<'_>, data: &[u8]) -> Applied {
    let mut starts = Numbers::default();
    let mut at = 0;
    while at < data.len() {
        let tuple = IndexTuple::at_head(&data[at..])?;
        // Block data is never as long as 64 KiB.
        starts.push(at as u16)?;
        at += aligned(tuple.bytes().len());
    }
    if at != data.len() {
        return Err(Fault::Mismatch("an index tuple is shorter than it says"));
    }
    let mut end = at;
    for (start, number) in starts.iter().rev().zip(1..) {
        let start = usize::from(*start);
        page.add_item(&data[start..end], number, false)?;
        end = start;
    }
    Ok(())
}

/// `btree_xlog_split`: the new right page.
fn split_right(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    let level = u32_at(record.data, 0)?;
    let left = record
        .block(0)
        .ok_or(Fault::Mismatch("the record names no left page"))?;
    page.init_btree(&Opaque {
        previous: left.key.block,
        next: record.block(2).map_or(0, |next| next.key.block),
        level,
        flags: if level == 0 { LEAF } else { 0 },
    });
    restore_items(page, block.data)
}

/// `btree_xlog_split`: the original page becomes the left one. Built anew, so that its items lie as PostgreSQL lays them.
fn split_left(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    let level = u32_at(record.data, 0)?;
    let (first_right, new_number) = (u16_at(record.data, 4)?, u16_at(record.data, 6)?);
    let posting_at = u16_at(record.data, 8)?;
    let new_on_left = record.operation() == SPLIT_L;
    let right = record
        .block(1)
        .ok_or(Fault::Mismatch("the record names no right page"))?;
    let mut rest = block.data;
    let mut new = None;
    let mut posting = None;
    if new_on_left || posting_at != 0 {
        let logged = IndexTuple::at_head(rest)?;
        let whole = aligned(logged.bytes().len());
        let mut tuple = NewTuple::of(slice_at(rest, 0, whole)?)?;
        rest = &rest[whole..];
        if posting_at != 0 {
            let before = new_number
                .checked_sub(1)
                .ok_or(Fault::Mismatch("nothing stands before the new tuple"))?;
            let list = IndexTuple::at_head(page.item(before)?)?.swap(&mut tuple, posting_at)?;
            posting = Some((before, list));
        }
        new = Some(tuple);
    }
    let new = new.filter(|_| new_on_left);
    let first = page.first_data_key()?;
    let mut scratch = [0; PAGE_BYTES];
    let mut left = PageMut::over(&mut scratch);
    left.init(OPAQUE_BYTES);
    left.add_item(rest, HIGH_KEY, false)?;
    let mut number = HIGH_KEY + 1;
    let mut add = |left: &mut PageMut<'_>, item: &[u8]| {
        number += 1;
        left.add_item(item, number - 1, false)
    };
    for old in first..first_right {
        match (&posting, &new) {
            (Some((replaced, list)), _) if *replaced == old => {
                add(&mut left, list.padded())?;
                continue;
            }
            (_, Some(item)) if new_number == old => add(&mut left, item.bytes())?,
            _ => {}
        }
        add(&mut left, page.item(old)?)?;
    }
    if let Some(item) = &new
        && first_right <= new_number
    {
        add(&mut left, item.bytes())?;
    }
    let opaque = page.opaque(0)?;
    left.bytes_mut()[opaque..].copy_from_slice(&page.bytes()[opaque..]);
    *page.bytes_mut() = scratch;
    page.set_u16(opaque + FLAGS_AT, INCOMPLETE_SPLIT | if level == 0 { LEAF } else { 0 });
    page.set_u32(opaque + NEXT_AT, right.key.block);
    page.set_u16(opaque + CYCLE_AT, 0);
    Ok(())
}

/// `btree_xlog_dedup`: runs of equal tuples become posting lists.
fn deduplicate(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    let count = usize::from(u16_at(record.data, 0)?);
    let mut numbers = u16s_at(block.data, 0, 2 * count)?;
    let mut intervals = std::iter::from_fn(|| Some((numbers.next()?, numbers.next()?))).peekable();
    let first = page.first_data_key()?;
    let opaque = page.opaque(0)?;
    let mut scratch = [0; PAGE_BYTES];
    let mut fresh = PageMut::over(&mut scratch);
    fresh.init(OPAQUE_BYTES);
    let mut to = 1;
    for number in 1..first {
        fresh.add_item(page.item(number)?, to, false)?;
        to += 1;
    }
    let mut number = first;
    let last = page.pointers();
    while number <= last {
        let base = IndexTuple::at_head(page.item(number)?)?;
        let items = intervals
            .next_if(|(at, _)| *at == number)
            .map_or(1, |(_, items)| items.max(1));
        if items == 1 {
            let (bytes, whole) = (base.bytes().len(), aligned(base.bytes().len()));
            let at = fresh.add_room(whole, to, false)?;
            fresh.bytes_mut()[at..at + bytes].copy_from_slice(base.bytes());
            fresh.bytes_mut()[at + bytes..at + whole].fill(0);
        } else {
            let mut ids = TupleIds::default();
            for merged in number..number.saturating_add(items) {
                ids.add(IndexTuple::at_head(page.item(merged)?)?.tuple_ids()?)?;
            }
            fresh.add_item(base.with_tuple_ids(&ids)?.bytes(), to, false)?;
        }
        to += 1;
        number = number.saturating_add(items);
    }
    if intervals.next().is_some() {
        return Err(Fault::Mismatch("intervals to merge are not on the page"));
    }
    fresh.bytes_mut()[opaque..].copy_from_slice(&page.bytes()[opaque..]);
    *page.bytes_mut() = scratch;
    page.change_flags(HAS_GARBAGE, 0)
}

/// `btree_xlog_delete` and `btree_xlog_vacuum`: shortened posting lists first (`btree_xlog_updates`), then what goes as a
/// whole.
fn delete(block: &BlockReference<'_>, page: &mut PageMut<'_>, deleted: u16, updated: u16) -> Applied {
    let (deleted, updated) = (usize::from(deleted), usize::from(updated));
    page.opaque(0)?;
    let gone = Numbers::of(u16s_at(block.data, 0, deleted)?)?;
    let changed = u16s_at(block.data, 2 * deleted, updated)?;
    let mut at = 2 * (deleted + updated);
    for number in changed {
        let count = usize::from(u16_at(block.data, at)?);
        let ids = u16s_at(block.data, at + 2, count)?;
        let shorter = IndexTuple::at_head(page.item(number)?)?.without(ids)?;
        page.overwrite_index_tuple(number, shorter.padded())?;
        at += 2 + 2 * count;
    }
    page.delete_index_tuples(&gone)?;
    page.change_flags(HAS_GARBAGE, 0)
}

/// `btree_xlog_mark_page_halfdead`: the leaf, which keeps nothing but the way to the subtree's top parent.
fn half_dead(page: &mut PageMut<'_>, previous: u32, next: u32, top_parent: u32) -> Applied {
    page.init_btree(&Opaque {
        previous,
        next,
        level: 0,
        flags: HALF_DEAD | LEAF,
    });
    page.add_item(NewTuple::top_parent(top_parent).bytes(), HIGH_KEY, false)
}

/// `btree_xlog_mark_page_halfdead`: the parent's downlink to the leaf leads to the right sibling from now on.
fn half_dead_parent(page: &mut PageMut<'_>, number: u16) -> Applied {
    page.opaque(0)?;
    let next = number
        .checked_add(1)
        .ok_or(Fault::Mismatch("the page has no such line pointer"))?;
    let right = IndexTuple::at_head(page.item(next)?)?.block();
    let place = page.stored(number)?;
    let mut downlink = NewTuple::of(IndexTuple::at_head(page.item(number)?)?.bytes())?;
    downlink.set_block(right);
    page.bytes_mut()[place.offset..place.offset + downlink.bytes().len()].copy_from_slice(downlink.bytes());
    page.delete_index_tuple(next)
}

/// `btree_xlog_unlink_page`: the page itself, empty and deleted (`BTPageSetDeleted`).
fn unlink_target(record: &DecodedRecord<'_>, page: &mut PageMut<'_>) -> Applied {
    let level = u32_at(record.data, 8)?;
    let safe_xid = slice_at(record.data, 16, 8)?;
    page.init_btree(&Opaque {
        previous: u32_at(record.data, 0)?,
        next: u32_at(record.data, 4)?,
        level,
        flags: DELETED | HAS_FULL_XID | if level == 0 { LEAF } else { 0 },
    });
    page.set_lower(HEADER_BYTES + safe_xid.len());
    page.bytes_mut()[HEADER_BYTES..HEADER_BYTES + safe_xid.len()].copy_from_slice(safe_xid);
    Ok(())
}

/// `btree_xlog_newroot`.
fn new_root(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    let level = u32_at(record.data, 4)?;
    page.init_btree(&Opaque {
        previous: 0,
        next: 0,
        level,
        flags: ROOT | if level == 0 { LEAF } else { 0 },
    });
    if 0 < level {
        restore_items(page, block.data)
    } else {
        Ok(())
    }
}

/// `btpo_cycleid` of a btree page: redo never sets it.
pub(crate) fn mask_opaque(page: &mut PageMut<'_>) {
    const SPLIT_END: u16 = 1 << 5;
    if page.change_flags(HAS_GARBAGE | SPLIT_END, 0).is_ok() {
        let at = page.special() + CYCLE_AT;
        page.set_u16(at, 0);
    }
}

/// `P_ISLEAF`.
pub(crate) fn is_leaf(page: &PageMut<'_>) -> bool {
    page.opaque(FLAGS_AT).is_ok_and(|at| page.u16(at) & LEAF != 0)
}
