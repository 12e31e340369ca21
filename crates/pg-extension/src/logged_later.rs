//! Pages that were written past shared buffers before they were logged.
//!
//! A sorted GiST build writes pages right to the storage manager and logs them afterwards, as do the builders of INIT forks
//! (`gist_indexsortbuild_flush_ready_pages`, `btbuildempty`, `spgbuildempty`). What was written keeps the mark of a page that
//! nobody logged, so the overlay would keep it for ever. But whoever writes past the buffers has to have logged everything
//! by the commit: a crash right behind it must not cost the pages (`log_newpage` in xloginsert.c). So they go then.
//!
//! Invariants:
//! - A page goes only if it is still the one without a log: what changed since has its own keeping.
//! - Pages of a relation that turned out to be unlogged are in its file by then, and no concern of this.

use std::cell::RefCell;
use std::ffi::c_void;

use pgrx::pg_guard;
use pgrx::pg_sys::{self, XactEvent};
use units::{ForkKey, PageKey};

use crate::overlay_partition::Keep;
use crate::{last_written, log_position, overlay, page};

/// The most runs of blocks that a transaction remembers. A build makes two, whatever its size: all pages, then its root.
/// Pages of further runs stay in the overlay, as long as the instance lives.
const RUNS_MAX: usize = 4096;

/// Blocks of a fork, from `first` up to `end`, exclusive.
struct Run {
    fork: ForkKey,
    first: u32,
    end: u32,
}

thread_local! {
    /// What this process's transaction wrote.
    static RUNS: RefCell<Vec<Run>> = const { RefCell::new(Vec::new()) };
}

/// Watches every transaction; in the postmaster, so that every process inherits it.
pub fn install() {
    // SAFETY: the callback lives as long as the library, which is never unloaded.
    unsafe { pg_sys::RegisterXactCallback(Some(on_transaction_event), std::ptr::null_mut()) };
}

/// Whether a page is kept because nobody logged it yet.
pub fn is_unlogged(keep: &Keep) -> bool {
    keep.forever && keep.lsn < page::LOWEST_REAL_LSN.raw()
}

/// Notes that this process wrote such a page from memory of its own.
pub fn note(key: &PageKey) {
    let run = Run {
        fork: key.fork,
        first: key.block,
        end: key.block + 1,
    };
    RUNS.with_borrow_mut(|runs| {
        if let Some(last) = runs.last_mut()
            && (last.fork, last.end) == (run.fork, run.first)
        {
            last.end = run.end;
        } else if runs.len() < RUNS_MAX {
            runs.push(run);
        }
    });
}

#[pg_guard]
unsafe extern "C-unwind" fn on_transaction_event(event: XactEvent::Type, _argument: *mut c_void) {
    match event {
        XactEvent::XACT_EVENT_PRE_COMMIT | XactEvent::XACT_EVENT_PRE_PREPARE => {
            RUNS.take().iter().for_each(forget);
        }
        XactEvent::XACT_EVENT_ABORT => RUNS.with_borrow_mut(Vec::clear),
        _ => {}
    }
}

/// From now on the volume gives the pages.
fn forget(run: &Run) {
    last_written::note_fork(run.fork, log_position::inserted());
    overlay::remove_blocks_if(run.fork, run.first, run.end, is_unlogged);
}
