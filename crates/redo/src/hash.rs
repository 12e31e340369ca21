//! Hash indexes. Follows `hash_redo` in `access/hash/hash_xlog.c`; the pages themselves are `hashpage.rs`.
//!
//! Some records name a bucket's primary page as block 0 only so that a replica waits for its readers there. Redo leaves
//! that page as it is, its LSN included.

use units::Lsn;
use wal::{BlockReference, DecodedRecord};

use crate::bufpage::PageMut;
use crate::fault::{Applied, Fault, slice_at, u8_at, u16_at, u16s_at, u32_at};
use crate::hashpage::{HAS_DEAD_TUPLES, NEEDS_SPLIT_CLEANUP, NEXT_AT, NONE, OVERFLOW, PREVIOUS_AT, UNUSED};
use crate::itup::{ItemNumbers, Spacing, index_tuples};

const INIT_META_PAGE: u8 = 0x00;
const INIT_BITMAP_PAGE: u8 = 0x10;
const INSERT: u8 = 0x20;
const ADD_OVERFLOW_PAGE: u8 = 0x30;
const SPLIT_ALLOCATE_PAGE: u8 = 0x40;
const SPLIT_PAGE: u8 = 0x50;
const SPLIT_COMPLETE: u8 = 0x60;
const MOVE_PAGE_CONTENTS: u8 = 0x70;
const SQUEEZE_PAGE: u8 = 0x80;
const DELETE: u8 = 0x90;
const SPLIT_CLEANUP: u8 = 0xA0;
const UPDATE_META_PAGE: u8 = 0xB0;
const VACUUM_ONE_PAGE: u8 = 0xC0;

pub(crate) fn redo(
    record: &DecodedRecord<'_>,
    end: Lsn,
    block: &BlockReference<'_>,
    page: &mut PageMut<'_>,
) -> Applied {
    let main = record.data;
    match (record.operation(), block.id) {
        (INIT_META_PAGE, 0) => page.init_hash_meta(f64_at(main, 0)?, u32_at(main, 8)?, u16_at(main, 12)?)?,
        (INIT_BITMAP_PAGE, 0) | (ADD_OVERFLOW_PAGE, 3) => page.init_hash_bitmap(u16_at(main, 0)?)?,
        (INIT_BITMAP_PAGE, 1) => page.add_first_hash_bitmap()?,
        (INSERT, 0) => insert(record, block, page)?,
        (INSERT, 1) => page.change_hash_tuples(|tuples| tuples + 1.0)?,
        (ADD_OVERFLOW_PAGE, 0) => page.init_hash(block_of(record, 1)?, u32_at(block.data, 0)?, OVERFLOW),
        (ADD_OVERFLOW_PAGE, 1) => page.set_hash_link(NEXT_AT, block_of(record, 0)?)?,
        (ADD_OVERFLOW_PAGE, 2) => page.set_hash_bit(u32_at(block.data, 0)?, true)?,
        (ADD_OVERFLOW_PAGE, 4) => count_overflow_page(record, block, page)?,
        (SPLIT_ALLOCATE_PAGE | SPLIT_COMPLETE, 0) => split_old_bucket(record, page)?,
        (SPLIT_ALLOCATE_PAGE, 1) => {
            let bucket = u32_at(main, 0)?;
            page.init_hash(bucket, bucket, u16_at(main, 6)?);
        }
        (SPLIT_ALLOCATE_PAGE, 2) => count_bucket(record, block, page)?,
        (SPLIT_PAGE, 0) => return Err(Fault::Mismatch("a record that is all image comes without it")),
        (SPLIT_COMPLETE, 1) => page.set_hash_flags(u16_at(main, 2)?)?,
        (MOVE_PAGE_CONTENTS | SQUEEZE_PAGE | DELETE, 0) => return Ok(()),
        (MOVE_PAGE_CONTENTS, 1) => insert_many(block, page, u16_at(main, 0)?)?,
        (MOVE_PAGE_CONTENTS, 2) => delete(page, block.data)?,
        (SQUEEZE_PAGE, _) => squeeze(record, block, page)?,
        (DELETE, 1) => {
            delete(page, block.data)?;
            if u8_at(main, 0)? != 0 {
                page.clear_hash_flags(HAS_DEAD_TUPLES)?;
            }
        }
        (SPLIT_CLEANUP, 0) => page.clear_hash_flags(NEEDS_SPLIT_CLEANUP)?,
        (UPDATE_META_PAGE, 0) => {
            let tuples = f64_at(main, 0)?;
            page.change_hash_tuples(|_| tuples)?;
        }
        (VACUUM_ONE_PAGE, 0) => vacuum_one_page(record, page)?,
        (VACUUM_ONE_PAGE, 1) => {
            let gone = u32_at(main, 4)? as i32;
            page.change_hash_tuples(|tuples| tuples - f64::from(gone))?;
        }
        _ => return Err(Fault::Unsupported),
    }
    page.set_lsn(end);
    Ok(())
}

/// What redo changes on a page that an image restored, too: flags of buckets that begin or end a split.
pub(crate) fn complete_image(
    record: &DecodedRecord<'_>,
    end: Lsn,
    block: &BlockReference<'_>,
    page: &mut PageMut<'_>,
) -> Applied {
    match (record.operation(), block.id) {
        (SPLIT_ALLOCATE_PAGE, 0 | 1) | (SPLIT_COMPLETE, 0 | 1) => redo(record, end, block, page),
        _ => Ok(()),
    }
}

fn f64_at(bytes: &[u8], at: usize) -> Result<f64, Fault> {
    let bits = u64::from(u32_at(bytes, at + 4)?) << 32 | u64::from(u32_at(bytes, at)?);
    Ok(f64::from_bits(bits))
}

/// The number of another page of the record.
fn block_of(record: &DecodedRecord<'_>, id: u8) -> Result<u32, Fault> {
    let block = record.block(id);
    Ok(block
        .ok_or(Fault::Mismatch("the record names too few pages"))?
        .key
        .block)
}

/// `hash_xlog_insert`: the bucket's page.
fn insert(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    page.check_bucket()?;
    page.add_item(block.data, u16_at(record.data, 0)?, false)
}

/// `hash_xlog_add_ovfl_page`: the meta page. A new bitmap is an overflow page, too.
fn count_overflow_page(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    page.set_hash_first_free(u32_at(block.data, 0)?)?;
    let is_recycled = u8_at(record.data, 2)? != 0;
    if is_recycled {
        return Ok(());
    }
    page.add_hash_spare()?;
    if let Some(bitmap) = record.block(3) {
        page.add_hash_bitmap(bitmap.key.block)?;
        page.add_hash_spare()?;
    }
    Ok(())
}

/// `hash_xlog_split_allocate_page` and `hash_xlog_split_complete`: the bucket that is split. While that goes on, it says
/// up to which bucket the index reached.
fn split_old_bucket(record: &DecodedRecord<'_>, page: &mut PageMut<'_>) -> Applied {
    if record.operation() == SPLIT_COMPLETE {
        return page.set_hash_flags(u16_at(record.data, 0)?);
    }
    page.set_hash_link(PREVIOUS_AT, u32_at(record.data, 0)?)?;
    page.set_hash_flags(u16_at(record.data, 4)?)
}

/// `hash_xlog_split_allocate_page`: the meta page.
fn count_bucket(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    /// `XLH_SPLIT_META_UPDATE_MASKS`, `XLH_SPLIT_META_UPDATE_SPLITPOINT`.
    const NEW_MASKS: u8 = 1 << 0;
    const NEW_SPLIT_POINT: u8 = 1 << 1;
    let flags = u8_at(record.data, 8)?;
    page.set_hash_max_bucket(u32_at(record.data, 0)?)?;
    let mut at = 0;
    if flags & NEW_MASKS != 0 {
        page.set_hash_masks(u32_at(block.data, 0)?, u32_at(block.data, 4)?)?;
        at = 8;
    }
    if flags & NEW_SPLIT_POINT != 0 {
        page.set_hash_split_point(u32_at(block.data, at)?, u32_at(block.data, at + 4)?)?;
    }
    Ok(())
}

/// Where each of `count` tuples goes, then the tuples.
fn insert_many(block: &BlockReference<'_>, page: &mut PageMut<'_>, count: u16) -> Applied {
    const COUNT_DIFFERS: Fault = Fault::Mismatch("the record has not as many tuples as it says");
    page.check_bucket()?;
    if count == 0 {
        return Ok(());
    }
    let count = usize::from(count);
    let mut numbers = u16s_at(block.data, 0, count)?;
    for tuple in index_tuples(&block.data[2 * count..], Spacing::Aligned) {
        page.add_item(tuple?, numbers.next().ok_or(COUNT_DIFFERS)?, false)?;
    }
    match numbers.next() {
        None => Ok(()),
        Some(_) => Err(COUNT_DIFFERS),
    }
}

/// The items with these numbers go.
fn delete(page: &mut PageMut<'_>, numbers: &[u8]) -> Applied {
    page.check_bucket()?;
    let gone = ItemNumbers::at_head(numbers, numbers.len() / 2)?;
    page.delete_index_tuples(gone.as_slice())
}

/// `hash_xlog_squeeze_page`: what was on an overflow page moves to an earlier one, and the overflow page is free.
fn squeeze(record: &DecodedRecord<'_>, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    let (previous, next) = (u32_at(record.data, 0)?, u32_at(record.data, 4)?);
    let written_is_previous = u8_at(record.data, 11)? != 0;
    match block.id {
        1 => {
            insert_many(block, page, u16_at(record.data, 8)?)?;
            if written_is_previous {
                page.set_hash_link(NEXT_AT, next)?;
            }
            Ok(())
        }
        2 => {
            page.init_hash(NONE, NONE, UNUSED);
            Ok(())
        }
        3 => page.set_hash_link(NEXT_AT, next),
        4 => page.set_hash_link(PREVIOUS_AT, previous),
        5 => page.set_hash_bit(u32_at(block.data, 0)?, false),
        6 => page.set_hash_first_free(u32_at(block.data, 0)?),
        _ => Err(Fault::Unsupported),
    }
}

/// `hash_xlog_vacuum_one_page`: the bucket's page.
fn vacuum_one_page(record: &DecodedRecord<'_>, page: &mut PageMut<'_>) -> Applied {
    /// `SizeOfHashVacuumOnePage`: a transaction and a count.
    const HEADER_BYTES: usize = 8;
    let count = u32_at(record.data, 4)? as usize;
    let numbers = slice_at(record.data, HEADER_BYTES, record.data.len() - HEADER_BYTES)?;
    page.check_bucket()?;
    if !numbers.is_empty() {
        let gone = ItemNumbers::at_head(numbers, count)?;
        page.delete_index_tuples(gone.as_slice())?;
    }
    page.clear_hash_flags(HAS_DEAD_TUPLES)
}
