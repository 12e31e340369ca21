//! What may differ between a page as PostgreSQL has it and the same page made by redo: hints, command ids, unused space.
//! Follows `access/common/bufmask.c` and the `rm_mask` functions, but hides less: of a heap page `PD_ALL_VISIBLE` stays,
//! and of a tuple's infomask everything but the four bits that readers set as hints. A wrong lock bit or a page wrongly
//! all-visible gives wrong answers to queries; PostgreSQL's own masks would hide both. Used by oracles, never by redo.

use units::Page;
use wal::resource_manager;

use crate::bufpage::{PageMut, Pointer, State, aligned};
use crate::heap_tuple::{TupleId, XMAX_COMMITTED, XMAX_INVALID};
use crate::{brin, gin, gist, hashpage, nbtree, spgutils};

const MARKER: u8 = 0;
/// `PD_HAS_FREE_LINES`, `PD_PAGE_FULL`.
const HINTS: u16 = 0x0003;

/// Masks a page that a record of this resource manager changed. A page that is no page stays as it is.
pub fn mask(page: &mut Page, block: u32, manager: u8) {
    let mut page = PageMut::new(page);
    if page.is_new() {
        return;
    }
    // Their pages need not have line pointers, nor a hole where the header says so.
    match manager {
        resource_manager::GIN => return gin::mask(&mut page),
        resource_manager::BRIN => return brin::mask(&mut page),
        _ => {}
    }
    if page.check().is_err() {
        return;
    }
    page.bytes_mut()[..10].fill(MARKER);
    let (lower, upper) = (page.lower(), page.upper());
    page.bytes_mut()[lower..upper].fill(MARKER);
    if matches!(manager, resource_manager::SEQUENCE | resource_manager::GENERIC) {
        return;
    }
    let flags = page.u16(10);
    page.set_u16(10, flags & !HINTS);
    page.set_u32(20, 0);
    match manager {
        resource_manager::HEAP | resource_manager::HEAP2 => mask_heap(&mut page, block),
        resource_manager::BTREE => mask_btree(&mut page),
        resource_manager::HASH => mask_hash(&mut page),
        resource_manager::GIST => mask_gist(&mut page),
        resource_manager::SPGIST => spgutils::mask_last_used(&mut page),
        _ => {}
    }
}

/// LSN and checksum (`mask_page_lsn_and_checksum`), and of the hints those in the flags.
pub(crate) fn mask_header(page: &mut PageMut<'_>) {
    page.bytes_mut()[..10].fill(MARKER);
    let flags = page.u16(10);
    page.set_u16(10, flags & !HINTS);
}

fn mask_heap(page: &mut PageMut<'_>, block: u32) {
    /// `HEAP_XMIN_COMMITTED` and `HEAP_XMIN_INVALID`; both together are no hint but mean frozen.
    const XMIN_FROZEN: u16 = 0x0300;
    const COMBO_COMMAND: u16 = 0x0020;
    const SPECULATIVE: u16 = 0xFFFE;
    for number in 1..=page.pointers() {
        let Ok(pointer) = page.stored(number) else {
            continue;
        };
        let at = pointer.offset;
        if pointer.state == State::Normal && 23 <= pointer.bytes {
            let infomask = page.u16(at + 20);
            let is_frozen = infomask & XMIN_FROZEN == XMIN_FROZEN;
            let xmin_hints = if is_frozen { 0 } else { XMIN_FROZEN };
            let masked = infomask & !(xmin_hints | XMAX_INVALID | XMAX_COMMITTED | COMBO_COMMAND);
            page.set_u16(at + 20, masked);
            page.set_u32(at + 8, 0);
            if page.u16(at + 16) == SPECULATIVE {
                let own = TupleId { block, number };
                page.bytes_mut()[at + 12..at + 18].copy_from_slice(&own.encode());
            }
        }
        page.bytes_mut()[at + pointer.bytes..at + aligned(pointer.bytes)].fill(MARKER);
    }
}

/// `mask_lp_flags`: readers mark items dead without a record.
fn mask_dead_items(page: &mut PageMut<'_>) {
    for number in 1..=page.pointers() {
        if let Ok(pointer) = page.pointer(number)
            && pointer.state != State::Unused
        {
            let state = State::Unused;
            page.set_pointer(number, Pointer { state, ..pointer });
        }
    }
}

fn mask_btree(page: &mut PageMut<'_>) {
    if nbtree::is_leaf(page) {
        mask_dead_items(page);
    }
    nbtree::mask_opaque(page);
}

/// `hash_mask` also hides all of a page that is not in use; redo leaves it as PostgreSQL does.
fn mask_hash(page: &mut PageMut<'_>) {
    if page.check_bucket().is_ok() {
        mask_dead_items(page);
        // It belongs to a bucket, so it has flags.
        let _ = page.clear_hash_flags(hashpage::HAS_DEAD_TUPLES);
    }
}

/// `gist_mask` also hides the page's NSN and whether its right sibling has a downlink. Scans that miss a split give wrong
/// answers; [`crate::after_image`] makes images comparable in both.
fn mask_gist(page: &mut PageMut<'_>) {
    if gist::is_leaf_with_items(page) {
        mask_dead_items(page);
    }
    gist::mask_opaque(page);
}
