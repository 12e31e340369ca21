//! A storage node's files: the journal that acknowledges, and the layers that pages are made from.
//!
//! Log comes in through [`PageStore::append`] and is durable after [`PageStore::sync`]. From then on every record is a
//! version of the pages it touches, first in a table in memory, then in sorted, immutable layer files. A page is made when
//! it is asked for: the newest visible image at or below the read point, and the visible records after it, applied by the
//! [`engine::Engine`].
//!
//! Invariants:
//! - Everything received is kept with its position, whatever its timeline; what is *visible* is decided by the path and the
//!   read point of each read.
//! - Records are folded into images, and superseded versions dropped, only at or below the announced durable position and
//!   the granted floor.
//! - A journal whose sync failed is closed for ever; nothing is read from a file without its checksum.
//! - Memory is bounded by [`StoreConfig`]: tables, cached blocks, and one block per file while layers are merged.

use std::sync::{Mutex, MutexGuard, PoisonError};

mod activity;
mod block;
mod cache;
mod catalog;
mod config;
mod damage;
mod fold;
mod header;
mod incoming;
mod index;
mod journal;
mod journal_entry;
mod journal_files;
mod journal_scan;
mod key;
mod layer;
mod layer_writer;
mod log;
mod manifest;
mod mend;
mod mend_journal;
mod merge;
mod opening;
mod read;
mod recovery;
mod reserve;
mod scrub;
mod segment_store;
mod store;
mod table;
mod tail;
mod upkeep;
mod versions;

pub use activity::{Activity, CacheUse};
pub use config::StoreConfig;
pub use incoming::PassPart;
pub use journal::AppendError;
pub use journal_entry::JournalEntry;
pub use journal_scan::RecoveredBatch;
pub use manifest::STORE_VERSION;
pub use mend::Mend;
pub use mend_journal::{JournalMend, LostBatch};
pub use opening::Opened;
pub use read::ReadError;
pub use recovery::{OpenError, RecoveredSegment};
pub use scrub::Scrubbed;
pub use segment_store::Horizon;
pub use store::{FlushedHeader, PageStore, StoreStatus};
pub use upkeep::Progress;

/// Takes a lock whose critical sections all leave what it guards whole, even one that a panic cuts off.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
