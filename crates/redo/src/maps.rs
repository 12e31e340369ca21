//! Visibility map and free space map. Follows `access/heap/visibilitymap.c` and `storage/freespace`.

use units::{Lsn, PAGE_BYTES, PageKey};
use wal::{DecodedRecord, resource_manager};

use crate::bufpage::{HEADER_BYTES, PageMut};
use crate::fault::{Applied, Fault, u32_at};

/// `VISIBILITYMAP_ALL_VISIBLE` and `VISIBILITYMAP_ALL_FROZEN`.
const VALID_BITS: u8 = 0x03;
const ALL_FROZEN: u8 = 0x02;
/// Heap blocks in a byte of the map, and on a page of it.
const BLOCKS_PER_BYTE: u32 = 4;
const BLOCKS_PER_PAGE: u32 = (PAGE_BYTES - HEADER_BYTES) as u32 * BLOCKS_PER_BYTE;

/// Byte on the map's page, and bit in it, of a heap block.
fn place(heap_block: u32) -> (usize, u32) {
    let on_page = heap_block % BLOCKS_PER_PAGE;
    let byte = HEADER_BYTES + (on_page / BLOCKS_PER_BYTE) as usize;
    (byte, 2 * (on_page % BLOCKS_PER_BYTE))
}

/// `visibilitymap_set` as redo calls it: the page gets the record's LSN if a bit changes.
pub(crate) fn set_visibility(page: &mut PageMut<'_>, heap_block: u32, flags: u8, end: Lsn) {
    if page.is_new() {
        page.init(0);
    }
    let (byte, shift) = place(heap_block);
    let flags = flags & VALID_BITS;
    let map = page.bytes()[byte];
    if map >> shift & VALID_BITS != flags {
        page.bytes_mut()[byte] = map | flags << shift;
        page.set_lsn(end);
    }
}

/// `visibilitymap_clear` for the heap pages of this record whose bits are on this page of the map. The page's LSN stays;
/// a page of zeros stays one.
pub(crate) fn clear_visibility(record: &DecodedRecord<'_>, key: PageKey, page: &mut PageMut<'_>) -> Applied {
    let cleared = wal::cleared_visibility(record).map_err(|_| Fault::Mismatch("its flags cannot be read"))?;
    // Locks take only the frozen bit.
    let is_lock = matches!(
        (record.header.resource_manager, record.operation() & 0x70),
        (resource_manager::HEAP | resource_manager::HEAP2, 0x60)
    );
    let bits = if is_lock { ALL_FROZEN } else { VALID_BITS };
    for heap_page in cleared.into_iter().flatten() {
        if wal::visibility_page(heap_page) == key {
            let (byte, shift) = place(heap_page.block);
            page.bytes_mut()[byte] &= !(bits << shift);
        }
    }
    Ok(())
}

/// `visibilitymap_prepare_truncate`: bits of blocks that are gone, on the last page that stays.
pub(crate) fn truncate_visibility(record: &DecodedRecord<'_>, page: &mut PageMut<'_>) -> Applied {
    let (byte, shift) = place(u32_at(record.data, 0)?);
    page.bytes_mut()[byte] &= (1 << shift) - 1;
    page.bytes_mut()[byte + 1..].fill(0);
    Ok(())
}

/// `fsm_truncate_avail` and `fsm_rebuild_page`: slots of blocks that are gone, on the last lowest page that stays.
pub(crate) fn truncate_free_space(record: &DecodedRecord<'_>, page: &mut PageMut<'_>) -> Applied {
    /// After the page's header and `fp_next_slot`.
    const NODES_AT: usize = HEADER_BYTES + 4;
    const NODES: usize = PAGE_BYTES - NODES_AT;
    const UPPER_NODES: usize = PAGE_BYTES / 2 - 1;
    const SLOTS: u32 = (NODES - UPPER_NODES) as u32;
    if page.is_new() {
        return Ok(());
    }
    let first_gone = (u32_at(record.data, 0)? % SLOTS) as usize;
    let nodes = &mut page.bytes_mut()[NODES_AT..];
    nodes[UPPER_NODES + first_gone..].fill(0);
    for node in (0..UPPER_NODES).rev() {
        let child = |at: usize| if at < NODES { nodes[at] } else { 0 };
        nodes[node] = child(2 * node + 1).max(child(2 * node + 2));
    }
    Ok(())
}
