//! Block range indexes (BRIN): summaries on regular pages, found by the range map on the pages behind the metapage.
//! Follows `brin_redo` in `access/brin/brin_xlog.c`, and `brin_pageops.c` and `brin_revmap.c` for what it calls.

use units::{Lsn, PAGE_BYTES};
use wal::{BlockReference, DecodedRecord};

use crate::bufpage::{HEADER_BYTES, PageMut};
use crate::fault::{Applied, Fault, u16_at, u32_at};
use crate::heap_tuple::{TUPLE_ID_BYTES, TupleId};
use crate::mask::mask_header;

const CREATE_INDEX: u8 = 0x00;
const INSERT: u8 = 0x10;
const UPDATE: u8 = 0x20;
const SAMEPAGE_UPDATE: u8 = 0x30;
const REVMAP_EXTEND: u8 = 0x40;
const DESUMMARIZE: u8 = 0x50;
const OPERATION_MASK: u8 = 0x70;
/// `XLOG_BRIN_INIT_PAGE`: the tuple is the first of its page.
const INIT_PAGE: u8 = 0x80;

/// `sizeof(BrinSpecialSpace)`: flags and the kind of the page are the last things on it.
const SPECIAL_BYTES: usize = 8;
const FLAGS_AT: usize = PAGE_BYTES - 4;
const KIND_AT: usize = PAGE_BYTES - 2;
/// `BRIN_EVACUATE_PAGE`.
const EVACUATED: u16 = 1 << 0;
const META: u16 = 0xF091;
const REVMAP: u16 = 0xF092;
const REGULAR: u16 = 0xF093;

/// `BrinMetaPageData`: magic, version, pages in a range, last page of the range map.
const META_BYTES: usize = 16;
const META_MAGIC: u32 = 0xA810_9CFA;
const LAST_REVMAP_PAGE_AT: usize = HEADER_BYTES + 12;
/// `REVMAP_PAGE_MAXITEMS`.
const REVMAP_ITEMS: u32 = ((PAGE_BYTES - HEADER_BYTES - SPECIAL_BYTES) / TUPLE_ID_BYTES) as u32;

impl PageMut<'_> {
    /// `brin_page_init`.
    fn init_brin(&mut self, kind: u16) {
        self.init(SPECIAL_BYTES);
        self.set_u16(KIND_AT, kind);
    }

    fn brin_kind(&self) -> Option<u16> {
        (self.special() == PAGE_BYTES - SPECIAL_BYTES).then(|| self.u16(KIND_AT))
    }

    fn expect_brin(&self, kind: u16) -> Applied {
        if self.brin_kind() == Some(kind) {
            Ok(())
        } else {
            Err(Fault::Mismatch(
                "the page is another kind of page than a BRIN index has there",
            ))
        }
    }
}

/// What `xl_brin_insert` and `xl_brin_desummarize` begin with: which item of the range map they set.
struct Range {
    heap_block: u32,
    pages_per_range: u32,
}

impl Range {
    /// `brinSetHeapBlockItemptr`.
    fn set(&self, page: &mut PageMut<'_>, to: TupleId) -> Applied {
        page.expect_brin(REVMAP)?;
        let range = self.heap_block.checked_div(self.pages_per_range);
        let range = range.ok_or(Fault::Mismatch("the record's ranges have no pages"))?;
        let at = HEADER_BYTES + TUPLE_ID_BYTES * (range % REVMAP_ITEMS) as usize;
        page.bytes_mut()[at..at + TUPLE_ID_BYTES].copy_from_slice(&to.encode());
        Ok(())
    }
}

pub(crate) fn redo(
    record: &DecodedRecord<'_>,
    end: Lsn,
    block: &BlockReference<'_>,
    page: &mut PageMut<'_>,
) -> Applied {
    let operation = record.operation() & OPERATION_MASK;
    // xl_brin_update is an insertion behind the offset number of the old tuple.
    let insertion_at = if operation == UPDATE { 4 } else { 0 };
    match (operation, block.id) {
        (CREATE_INDEX, 0) => create_index(record, page)?,
        (INSERT | UPDATE, 0) => insert(block, page, u16_at(record.data, insertion_at + 8)?, record)?,
        (INSERT | UPDATE, 1) => map_insertion(record, insertion_at, page)?,
        (UPDATE, 2) => delete(page, u16_at(record.data, 0)?)?,
        (SAMEPAGE_UPDATE, 0) => {
            page.expect_brin(REGULAR)?;
            page.overwrite_index_tuple(u16_at(record.data, 0)?, block.data)?;
        }
        (REVMAP_EXTEND, 0) => {
            page.expect_brin(META)?;
            page.set_u32(LAST_REVMAP_PAGE_AT, u32_at(record.data, 0)?);
            page.set_lower(HEADER_BYTES + META_BYTES);
        }
        (REVMAP_EXTEND, 1) => page.init_brin(REVMAP),
        (DESUMMARIZE, 0) => {
            let range = Range {
                pages_per_range: u32_at(record.data, 0)?,
                heap_block: u32_at(record.data, 4)?,
            };
            range.set(page, TupleId::INVALID)?;
        }
        (DESUMMARIZE, 1) => delete(page, u16_at(record.data, 8)?)?,
        _ => return Err(Fault::Unsupported),
    }
    page.set_lsn(end);
    Ok(())
}

/// `brin_xlog_createidx`: the metapage. That zero is the last page of the range map means that there is none yet.
fn create_index(record: &DecodedRecord<'_>, page: &mut PageMut<'_>) -> Applied {
    let pages_per_range = u32_at(record.data, 0)?;
    let version = u16_at(record.data, 4)?;
    page.init_brin(META);
    let fields = [META_MAGIC, u32::from(version), pages_per_range, 0];
    for (at, field) in (HEADER_BYTES..).step_by(4).zip(fields) {
        page.set_u32(at, field);
    }
    page.set_lower(HEADER_BYTES + META_BYTES);
    Ok(())
}

/// `brin_xlog_insert_update`: the summary.
fn insert(block: &BlockReference<'_>, page: &mut PageMut<'_>, number: u16, record: &DecodedRecord<'_>) -> Applied {
    if record.operation() & INIT_PAGE != 0 {
        page.init_brin(REGULAR);
    }
    page.expect_brin(REGULAR)?;
    page.add_item(block.data, number, true)
}

/// `brin_xlog_insert_update`: the range map leads to the summary.
fn map_insertion(record: &DecodedRecord<'_>, insertion_at: usize, page: &mut PageMut<'_>) -> Applied {
    let range = Range {
        heap_block: u32_at(record.data, insertion_at)?,
        pages_per_range: u32_at(record.data, insertion_at + 4)?,
    };
    let number = u16_at(record.data, insertion_at + 8)?;
    let summary = record
        .block(0)
        .ok_or(Fault::Mismatch("the record names no regular page"))?;
    let block = summary.key.block;
    range.set(page, TupleId { block, number })
}

/// What `brin_xlog_update` and `brin_xlog_desummarize_page` do to the page of a summary that goes.
fn delete(page: &mut PageMut<'_>, number: u16) -> Applied {
    page.expect_brin(REGULAR)?;
    page.delete_index_tuple_in_place(number)
}

/// `brin_mask`. A page of the range map is full of items, whatever its header says.
pub(crate) fn mask(page: &mut PageMut<'_>) {
    let Some(kind) = page.brin_kind() else {
        return;
    };
    mask_header(page);
    let (lower, upper, special) = (page.lower(), page.upper(), page.special());
    let has_hole = kind == REGULAR || (kind == META && HEADER_BYTES < lower);
    if has_hole && HEADER_BYTES <= lower && lower <= upper && upper <= special {
        page.bytes_mut()[lower..upper].fill(0);
    }
    let flags = page.u16(FLAGS_AT);
    page.set_u16(FLAGS_AT, flags & !EVACUATED);
}
