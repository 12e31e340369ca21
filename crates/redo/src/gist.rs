//! GiST. Follows `gist_redo` in `access/gist/gistxlog.c`, and of `gistutil.c` what makes and fills pages.
//!
//! `PAGE_REUSE` and `ASSIGN_LSN` touch no page.
//!
//! Up to 15.18 PostgreSQL marks pages that lost items (`F_TUPLES_DELETED`), in redo more often than before it; 15.20 does
//! not, and no version looks at the mark. Here it stays as it is.

use units::{Lsn, PAGE_BYTES};
use wal::{BlockReference, DecodedRecord};

use crate::bufpage::{HEADER_BYTES, PageMut};
use crate::fault::{Applied, Fault, slice_at, u8_at, u16_at, u32_at};
use crate::itup::{ItemNumbers, Spacing, index_tuples};

/// `sizeof(GISTPageOpaqueData)`, and what stands in it.
const OPAQUE_BYTES: usize = 16;
const NSN_AT: usize = 0;
const RIGHT_AT: usize = 8;
const FLAGS_AT: usize = 12;
const PAGE_ID_AT: usize = 14;
/// `GIST_PAGE_ID`.
const PAGE_ID: u16 = 0xFF81;

const LEAF: u16 = 1 << 0;
const DELETED: u16 = 1 << 1;
/// Never looked at.
const TUPLES_DELETED: u16 = 1 << 2;
/// The page to the right has no downlink yet.
const FOLLOW_RIGHT: u16 = 1 << 3;
/// A hint.
const HAS_GARBAGE: u16 = 1 << 4;

/// `GIST_ROOT_BLKNO`.
const ROOT: u32 = 0;
/// `InvalidBlockNumber`.
const NONE: u32 = u32::MAX;

const PAGE_UPDATE: u8 = 0x00;
const DELETE: u8 = 0x10;
const PAGE_SPLIT: u8 = 0x30;
const PAGE_DELETE: u8 = 0x60;

const COUNT_DIFFERS: Fault = Fault::Mismatch("the record has not as many tuples as it says");

impl PageMut<'_> {
    /// Where a field of the special space stands.
    fn gist_opaque(&self, at: usize) -> Result<usize, Fault> {
        self.check()?;
        let special = PAGE_BYTES - OPAQUE_BYTES;
        if self.special() != special || self.u16(special + PAGE_ID_AT) != PAGE_ID {
            return Err(Fault::Mismatch("the page is no page of a GiST index"));
        }
        Ok(special + at)
    }

    /// `gistinitpage`.
    fn init_gist(&mut self, flags: u16, nsn: Lsn, right: u32) {
        self.init(OPAQUE_BYTES);
        let special = self.special();
        self.set_u16(special + FLAGS_AT, flags);
        self.set_u16(special + PAGE_ID_AT, PAGE_ID);
        self.set_u32(special + RIGHT_AT, right);
        self.put_lsn(special + NSN_AT, nsn);
    }

    fn change_gist_flags(&mut self, clear: u16, set: u16) -> Applied {
        let at = self.gist_opaque(FLAGS_AT)?;
        let flags = self.u16(at);
        self.set_u16(at, flags & !clear | set);
        Ok(())
    }
}

pub(crate) fn redo(
    record: &DecodedRecord<'_>,
    end: Lsn,
    block: &BlockReference<'_>,
    page: &mut PageMut<'_>,
) -> Applied {
    match (record.operation(), block.id) {
        (PAGE_UPDATE, 0) => update(record, block, page)?,
        (PAGE_UPDATE, 1) | (PAGE_SPLIT, 0) => clear_follow_right(end, page)?,
        (DELETE, 0) => delete(record, page)?,
        (PAGE_SPLIT, _) => split(record, block, page)?,
        (PAGE_DELETE, 0) => delete_page(record, page)?,
        (PAGE_DELETE, 1) => {
            page.gist_opaque(0)?;
            page.delete_index_tuple(u16_at(record.data, 8)?)?;
        }
        _ => return Err(Fault::Unsupported),
    }
    page.set_lsn(end);
    Ok(())
}

/// A left child is logged before it loses its mark.
pub(crate) fn complete_image(
    record: &DecodedRecord<'_>,
    end: Lsn,
    block: &BlockReference<'_>,
    page: &mut PageMut<'_>,
) -> Applied {
    match (record.operation(), block.id) {
        (PAGE_UPDATE, 1) | (PAGE_SPLIT, 0) => redo(record, end, block, page),
        _ => Ok(()),
    }
}

/// `gistRedoClearFollowRight`: the left part of a split, whose right part has its downlink now. Scans that came from the
/// parent before that see the split by its NSN.
fn clear_follow_right(end: Lsn, page: &mut PageMut<'_>) -> Applied {
    let at = page.gist_opaque(NSN_AT)?;
    page.put_lsn(at, end);
    page.change_gist_flags(FOLLOW_RIGHT, 0)
}

/// `gistRedoPageUpdateRecord`: the page itself.
fn update(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    page.gist_opaque(0)?;
    let (deleted, inserted) = (u16_at(record.data, 0)?, u16_at(record.data, 2)?);
    let numbers_bytes = 2 * usize::from(deleted);
    let numbers = slice_at(block.data, 0, numbers_bytes)?;
    let mut tuples = index_tuples(&block.data[numbers_bytes..], Spacing::Exact);
    if (deleted, inserted) == (1, 1) {
        let tuple = tuples.next().ok_or(COUNT_DIFFERS)??;
        page.overwrite_index_tuple(u16_at(numbers, 0)?, tuple)?;
        return match tuples.next() {
            None => Ok(()),
            Some(_) => Err(COUNT_DIFFERS),
        };
    }
    if 0 < deleted {
        let gone = ItemNumbers::at_head(numbers, usize::from(deleted))?;
        page.delete_index_tuples(gone.as_slice())?;
    }
    append(page, tuples, u32::from(inserted))
}

/// `gistfillbuffer`: behind what is there.
fn append<'a>(
    page: &mut PageMut<'_>,
    tuples: impl Iterator<Item = Result<&'a [u8], Fault>>,
    count_expected: u32,
) -> Applied {
    let mut count = 0;
    for tuple in tuples {
        let last = page.pointers();
        page.add_item(tuple?, last + 1, false)?;
        count += 1;
    }
    if count == count_expected {
        Ok(())
    } else {
        Err(COUNT_DIFFERS)
    }
}

/// `gistRedoDeleteRecord`.
fn delete(record: &DecodedRecord<'_>, page: &mut PageMut<'_>) -> Applied {
    /// `SizeOfGistxlogDelete`: a transaction and a count.
    const HEADER_BYTES: usize = 6;
    let count = usize::from(u16_at(record.data, 4)?);
    let numbers = &record.data[HEADER_BYTES..];
    page.gist_opaque(0)?;
    if !numbers.is_empty() {
        let gone = ItemNumbers::at_head(numbers, count)?;
        page.delete_index_tuples(gone.as_slice())?;
    }
    page.change_gist_flags(HAS_GARBAGE, 0)
}

/// `gistRedoPageSplitRecord`: one of the pages that a page became. If that was the root, it comes first and is no part of
/// the chain that the others are.
fn split(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    let right_of_all = u32_at(record.data, 0)?;
    let nsn = Lsn::from_raw(u64::from(u32_at(record.data, 12)?) << 32 | u64::from(u32_at(record.data, 8)?));
    let is_leaf = u8_at(record.data, 16)? != 0;
    let pages_count = u16_at(record.data, 18)?;
    let marks = u8_at(record.data, 20)? != 0;
    let (mut flags, mut right) = (if is_leaf { LEAF } else { 0 }, right_of_all);
    if block.key.block == ROOT {
        (flags, right) = (0, NONE);
    } else if u16::from(block.id) < pages_count {
        let next = record.block(block.id + 1);
        right = next.ok_or(Fault::Mismatch("the record names too few pages"))?.key.block;
        let is_root_split = record.block(1).is_some_and(|first| first.key.block == ROOT);
        if marks && !is_root_split {
            flags |= FOLLOW_RIGHT;
        }
    }
    page.init_gist(flags, nsn, right);
    let count = u32_at(block.data, 0)?;
    append(page, index_tuples(&block.data[4..], Spacing::Exact), count)
}

/// `gistRedoPageDelete`: an empty leaf keeps nothing but the last transaction that could see it (`GistPageSetDeleted`).
fn delete_page(record: &DecodedRecord<'_>, page: &mut PageMut<'_>) -> Applied {
    let transaction = slice_at(record.data, 0, 8)?;
    page.change_gist_flags(0, DELETED)?;
    if page.pointers() != 0 {
        return Err(Fault::Mismatch("the page to delete is not empty"));
    }
    let end = HEADER_BYTES + transaction.len();
    if page.upper() < end {
        return Err(Fault::Mismatch("the page has no room"));
    }
    page.set_lower(end);
    page.bytes_mut()[HEADER_BYTES..end].copy_from_slice(transaction);
    Ok(())
}

/// `GistPageIsLeaf`; a deleted leaf has no items.
pub(crate) fn is_leaf_with_items(page: &PageMut<'_>) -> bool {
    let flags = page.gist_opaque(FLAGS_AT).map(|at| page.u16(at));
    flags.is_ok_and(|flags| flags & (LEAF | DELETED) == LEAF)
}

/// Redo never says that there is garbage, and not every version that there was some.
pub(crate) fn mask_opaque(page: &mut PageMut<'_>) {
    // A page that is none of GiST's has no flags to hide.
    let _ = page.change_gist_flags(HAS_GARBAGE | TUPLES_DELETED, 0);
}
