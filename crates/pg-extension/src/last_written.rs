//! Up to where the volume must have the log before a page may be read back from it.
//!
//! A fixed array indexed by a hash of the page's name: pages that share a slot only make each other wait longer.
//!
//! Invariant: a slot never goes back.

use std::sync::atomic::Ordering;

use units::{ForkKey, Lsn, PageKey};

use crate::fixed_table::Hashed;
use crate::{settings, shared_memory};

/// Stands for the fork as a whole: creation and truncation. No fork has this block (`InvalidBlockNumber`).
const WHOLE_FORK: u32 = u32::MAX;

fn raise_slot(key: &PageKey, lsn: Lsn) {
    let slots = shared_memory::last_written();
    slots[key.hashed() as usize % slots.len()].fetch_max(lsn.raw(), Ordering::AcqRel);
}

/// Notes that a page was written with this LSN.
pub fn note_page(key: &PageKey, lsn: Lsn) {
    raise_slot(key, lsn);
}

/// Notes that a fork as a whole changed.
pub fn note_fork(fork: ForkKey, lsn: Lsn) {
    raise_slot(&fork.page(WHOLE_FORK), lsn);
}

/// How much log a read of the page needs.
pub fn needed(key: &PageKey) -> Lsn {
    let slots = shared_memory::last_written();
    let of = |key: &PageKey| Lsn::from_raw(slots[key.hashed() as usize % slots.len()].load(Ordering::Acquire));
    of(key).max(of(&key.fork.page(WHOLE_FORK))).max(settings::start_lsn())
}
