//! Inverted indexes (GIN): the entry tree, posting trees below it, the list of pending entries. Follows `gin_redo` in
//! `access/gin/ginxlog.c`.

use units::Lsn;
use wal::{BlockReference, DecodedRecord};

use crate::bufpage::{HEADER_BYTES, PageMut};
use crate::fault::{Applied, Fault, slice_at, u16_at, u32_at};
use crate::ginblock::{
    COMPRESSED, DATA, DATA_AT, DATA_BYTES_MAX, DELETED, FULL_ROWS, INCOMPLETE_SPLIT, LEAF, LIST, META, NO_BLOCK,
    POSTING_ITEM_BYTES, block_id,
};
use crate::gindatapage::recompress;
use crate::itup::{Spacing, index_tuples};
use crate::mask::mask_header;

const CREATE_PTREE: u8 = 0x10;
const INSERT: u8 = 0x20;
const SPLIT: u8 = 0x30;
const VACUUM_PAGE: u8 = 0x40;
const DELETE_PAGE: u8 = 0x50;
const UPDATE_META_PAGE: u8 = 0x60;
const INSERT_LISTPAGE: u8 = 0x70;
const DELETE_LISTPAGE: u8 = 0x80;
const VACUUM_DATA_LEAF_PAGE: u8 = 0x90;

/// Flags of `ginxlogInsert` and `ginxlogSplit`.
const IS_DATA: u16 = 1 << 0;
const IS_LEAF: u16 = 1 << 1;

const TOO_FEW_TUPLES: Fault = Fault::Mismatch("the record has fewer index tuples than it says");

/// `sizeof(GinMetaPageData)`.
const META_BYTES: usize = 56;

pub(crate) fn redo(
    record: &DecodedRecord<'_>,
    end: Lsn,
    block: &BlockReference<'_>,
    page: &mut PageMut<'_>,
) -> Applied {
    match (record.operation(), block.id) {
        (CREATE_PTREE, 0) => create_posting_tree(record, page)?,
        (INSERT, 0) => insert(record, block, page)?,
        // The left child of what was inserted, whose split is thereby complete.
        (INSERT, 1) | (SPLIT, 3) => page.change_gin_flags(INCOMPLETE_SPLIT, 0)?,
        (SPLIT, 0..=2) | (VACUUM_PAGE, 0) => return Err(Fault::Mismatch("the record has no image of the page")),
        (VACUUM_DATA_LEAF_PAGE, 0) => recompress(page, block.data)?,
        (DELETE_PAGE, 0) => delete(page, u32_at(record.data, 8)?)?,
        (DELETE_PAGE, 1) => page.delete_posting_item(u16_at(record.data, 0)?)?,
        (DELETE_PAGE, 2) => {
            page.expect_gin_flags(DATA, DATA)?;
            page.set_gin_right(u32_at(record.data, 4)?)?;
        }
        (UPDATE_META_PAGE, 0) => meta(page, slice_at(record.data, 16, META_BYTES)?),
        (UPDATE_META_PAGE, 1) => pending_tail(record, block, page)?,
        (INSERT_LISTPAGE, 0) => insert_list_page(record, block, page)?,
        (DELETE_LISTPAGE, 0) => meta(page, slice_at(record.data, 0, META_BYTES)?),
        (DELETE_LISTPAGE, _) => page.init_gin(DELETED),
        _ => return Err(Fault::Unsupported),
    }
    page.set_lsn(end);
    Ok(())
}

/// `ginRedoCreatePTree`: a leaf that is the root of a new posting tree.
fn create_posting_tree(record: &DecodedRecord<'_>, page: &mut PageMut<'_>) -> Applied {
    let bytes = u32_at(record.data, 0)? as usize;
    let segments = slice_at(record.data, 4, bytes)?;
    if DATA_BYTES_MAX < bytes {
        return Err(Fault::Mismatch("a posting list is longer than a page"));
    }
    page.init_gin(DATA | LEAF | COMPRESSED);
    page.bytes_mut()[DATA_AT..DATA_AT + bytes].copy_from_slice(segments);
    page.set_gin_data_bytes(bytes);
    Ok(())
}

/// `ginRedoInsert`.
fn insert(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    let flags = u16_at(record.data, 0)?;
    let is_leaf = flags & IS_LEAF != 0;
    let is_data = flags & IS_DATA != 0;
    page.expect_gin_flags(
        DATA | LEAF,
        if is_data { DATA } else { 0 } | if is_leaf { LEAF } else { 0 },
    )?;
    // An inner page gets the downlink to the left child; the one that is there leads to the right child from now on.
    let right = if is_leaf { None } else { Some(right_child(record)?) };
    match (is_data, right) {
        (true, None) => recompress(page, block.data),
        (true, Some(right)) => insert_posting_item(block, page, right),
        (false, right) => insert_entry(block, page, right),
    }
}

/// The second of the two `BlockIdData` behind the flags of `ginxlogInsert`.
fn right_child(record: &DecodedRecord<'_>) -> Result<u32, Fault> {
    let (high, low) = (u16_at(record.data, 6)?, u16_at(record.data, 8)?);
    Ok(u32::from(high) << 16 | u32::from(low))
}

/// `ginRedoInsertData` on an inner page.
fn insert_posting_item(block: &BlockReference<'_>, page: &mut PageMut<'_>, right: u32) -> Applied {
    let item = slice_at(block.data, 2, POSTING_ITEM_BYTES)?;
    let item = item.first_chunk().expect("the slice is as long as an item");
    page.insert_posting_item(u16_at(block.data, 0)?, item, right)
}

/// `ginRedoInsertEntry`: a tuple of the entry tree, perhaps in place of its old version.
fn insert_entry(block: &BlockReference<'_>, page: &mut PageMut<'_>, right: Option<u32>) -> Applied {
    let number = u16_at(block.data, 0)?;
    let replaces = slice_at(block.data, 2, 1)?[0] != 0;
    let tuple = slice_at(block.data, 4, block.data.len().saturating_sub(4))?;
    let tuple = index_tuples(tuple, Spacing::Exact).next().ok_or(TOO_FEW_TUPLES)??;
    if let Some(right) = right {
        // GinSetDownlink: a block number and no offset number.
        let [one, two, three, four] = block_id(right);
        let pointer = page.stored(number)?;
        let downlink = page.bytes_mut()[pointer.offset..pointer.offset + pointer.bytes].get_mut(..6);
        downlink
            .ok_or(Fault::Mismatch("an index tuple is shorter than its header"))?
            .copy_from_slice(&[one, two, three, four, 0, 0]);
    }
    if replaces {
        page.delete_index_tuple(number)?;
    }
    page.add_item(tuple, number, false)
}

/// `ginRedoDeletePage`: the page itself keeps its contents and its right link for those who are on the way to it.
fn delete(page: &mut PageMut<'_>, delete_xid: u32) -> Applied {
    page.expect_gin_flags(DATA, DATA)?;
    page.change_gin_flags(0, DELETED)?;
    page.set_prune_xid(delete_xid);
    Ok(())
}

/// `GinInitMetabuffer` with the record's metadata.
fn meta(page: &mut PageMut<'_>, metadata: &[u8]) {
    page.init_gin(META);
    page.bytes_mut()[HEADER_BYTES..HEADER_BYTES + META_BYTES].copy_from_slice(metadata);
    page.set_lower(HEADER_BYTES + META_BYTES);
}

/// `ginRedoUpdateMetapage`, the last page of the pending list: it gets the tuples of one more row, or a list of pages that
/// were filled apart follows it.
fn pending_tail(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    let previous_tail = u32_at(record.data, 72)?;
    let new_right = u32_at(record.data, 76)?;
    let tuples = u32_at(record.data, 80)? as i32;
    if 0 < tuples {
        add_tuples(page, block.data, tuples)?;
        let rows = page.gin_count()?;
        page.set_gin_count(rows.wrapping_add(1))
    } else if previous_tail != NO_BLOCK {
        page.set_gin_right(new_right)
    } else {
        Err(Fault::Mismatch(
            "the record does nothing to the last page of the pending list",
        ))
    }
}

/// `ginRedoInsertListPage`: a page of the pending list is made anew. The last of a sublist ends with its row.
fn insert_list_page(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    let right = u32_at(record.data, 0)?;
    let tuples = u32_at(record.data, 4)? as i32;
    let is_tail = right == NO_BLOCK;
    page.init_gin(if is_tail { LIST | FULL_ROWS } else { LIST });
    page.set_gin_right(right)?;
    page.set_gin_count(u16::from(is_tail))?;
    add_tuples(page, block.data, tuples)
}

/// Index tuples behind those that are on the page: as many, and no byte more.
fn add_tuples(page: &mut PageMut<'_>, data: &[u8], count: i32) -> Applied {
    let mut tuples = index_tuples(data, Spacing::Exact);
    for _ in 0..count {
        let tuple = tuples.next().ok_or(TOO_FEW_TUPLES)??;
        page.add_item(tuple, page.pointers() + 1, false)?;
    }
    if tuples.next().is_none() {
        Ok(())
    } else {
        Err(Fault::Mismatch("the record has more index tuples than it says"))
    }
}

/// `gin_mask`, which hides less of deleted pages and of what else stands in `pd_prune_xid`. A page of a posting tree that
/// is deleted keeps its contents, and the transaction that must be over before it is used again. A page of the pending
/// list that is deleted keeps them too, but redo, as PostgreSQL's own, makes it empty.
pub(crate) fn mask(page: &mut PageMut<'_>) {
    let Ok(flags) = page.gin_flags() else {
        return;
    };
    mask_header(page);
    let (lower, upper, special) = (page.lower(), page.upper(), page.special());
    if flags & (DELETED | DATA) == DELETED {
        page.bytes_mut()[HEADER_BYTES..special + 6].fill(0);
        page.set_lower(0);
        page.set_upper(0);
    } else if HEADER_BYTES < lower && lower <= upper && upper <= special {
        page.bytes_mut()[lower..upper].fill(0);
    }
}
