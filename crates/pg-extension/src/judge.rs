//! Until when a page has to stay in the overlay, and whether that is over.
//!
//! What is in no log, or not as it is, and for how long that matters:
//!
//! - Command ids: until the transaction is over. Cycle ids of split btree pages: until no VACUUM runs.
//! - Pages that nobody logged yet (an index being built, a heap page that is only initialised): as long as they are as
//!   they are. Those of an index are logged at the end of its build, and thereby become others, or see `logged_later`.
//! - A sequence: its log is ahead of it by up to 32 values. A page read back would skip them, which may happen after a
//!   crash only. So it stays, until its values have caught up with the log; at most one page a sequence.
//! - The free space map: changes to it are in no log. All of it is advice, and PostgreSQL takes any content of it, so it may
//!   go when there is no room for what must stay. Until the next VACUUM, inserts then find less free space.
//! - The visibility map: every change is in the log, but a bit is cleared before the record that says so is, and the page
//!   may be written in between. With that page gone, a read needs the log up to the moment it happens
//!   (`storage_manager::read_from_volume`): whoever clears a bit pins the page until the record is in the log, and a pinned
//!   page is not read; whoever truncates has the relation for itself. Such reads wait for the volume, so these pages, too,
//!   go only when there is no room.

use pgrx::pg_sys;
use units::{ForkKey, Lsn, PageKey, fork};

use crate::counters::count;
use crate::overlay_partition::Keep;
use crate::page::{self, PageBytes};
use crate::{log_position, shared_memory};

/// Until when a page has to stay, once it was written with this last-written LSN.
pub fn keep_for(key: &PageKey, page: &PageBytes, written: Lsn) -> Keep {
    let map = is_map(key.fork);
    let main = key.fork.fork == fork::MAIN;
    let next_xid = || {
        // SAFETY: needs shared memory only.
        unsafe { pg_sys::ReadNextFullTransactionId().value as u32 }
    };
    Keep {
        lsn: written.raw(),
        xid: if main {
            page::latest_command_xid(page, next_xid).unwrap_or(0)
        } else {
            0
        },
        vacuum: main && page::has_cycle_id(page),
        forever: (!map && page::lsn(page) < page::LOWEST_REAL_LSN) || (main && page::has_logged_values_left(page)),
        map,
    }
}

fn is_map(fork: ForkKey) -> bool {
    matches!(fork.fork, fork::FREE_SPACE | fork::VISIBILITY)
}

/// Why a page must stay: the reason that will last longest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// As long as the instance lives.
    Forever,
    /// It has command ids of a transaction that may still run.
    Commands,
    /// It was split while a VACUUM ran that still runs.
    Vacuum,
    /// Only because the volume does not have its log yet.
    Volume,
    /// It is one of a map, and there may be other room.
    Map,
}

/// What decides whether a page may be forgotten, looked up at most once.
pub struct Judge {
    durable: Lsn,
    oldest_xid: Option<u32>,
    vacuum: Option<bool>,
}

impl Judge {
    /// Judges by how much log the volume has now.
    pub fn new() -> Judge {
        Judge {
            durable: log_position::durable(),
            oldest_xid: None,
            vacuum: None,
        }
    }

    /// How much log the volume has.
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// Why the page must stay; `None` if it need not.
    pub fn reason(&mut self, keep: &Keep) -> Option<Reason> {
        if keep.forever {
            return Some(Reason::Forever);
        }
        if keep.xid != 0 && !page::precedes(keep.xid, *self.oldest_xid.get_or_insert_with(oldest_running_xid)) {
            return Some(Reason::Commands);
        }
        if keep.vacuum && *self.vacuum.get_or_insert_with(is_vacuum_running) {
            return Some(Reason::Vacuum);
        }
        if self.durable.raw() < keep.lsn {
            return Some(Reason::Volume);
        }
        keep.map.then_some(Reason::Map)
    }

    /// Whether the volume gives the page back as it is.
    pub fn may_forget(&mut self, keep: &Keep) -> bool {
        // The cheap question first: it decides nearly always, and the others take locks of the whole server.
        keep.lsn <= self.durable.raw() && self.reason(keep).is_none()
    }

    /// Whether it may be forgotten when there is no other room. Counts maps, which have to be read with care from then on.
    pub fn may_forget_at_last(&mut self, keep: &Keep) -> bool {
        match self.reason(keep) {
            None => true,
            Some(Reason::Map) => {
                count(&shared_memory::counters().maps_forgotten);
                true
            }
            _ => false,
        }
    }
}

fn oldest_running_xid() -> u32 {
    // SAFETY: needs shared memory and a server out of recovery, the only kind that writes. Takes ProcArrayLock and
    // XidGenLock for a moment; nobody holds those while using relations.
    pg_sys::TransactionId::into_inner(unsafe { pg_sys::GetOldestActiveTransactionId() })
}

/// Whether any process runs a VACUUM (`PROC_IN_VACUUM`).
///
/// `GetCurrentVirtualXIDs` looks at as many flags as there are processes, a number that is not exported. Behind those stand
/// copies of older ones (`ProcArrayRemove`), so a VACUUM may seem to run for longer: pages stay longer than they must.
fn is_vacuum_running() -> bool {
    const PROC_ARRAY_LOCK: usize = 4;
    const PROC_IN_VACUUM: u8 = 0x02;
    // SAFETY: `statusFlags` is as long as there are process slots, and stable while ProcArrayLock is held.
    unsafe {
        let lock = &raw mut (*pg_sys::MainLWLockArray.add(PROC_ARRAY_LOCK)).lock;
        pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_SHARED);
        let processes = pg_sys::ProcGlobal;
        let flags = std::slice::from_raw_parts((*processes).statusFlags, (*processes).allProcCount as usize);
        let running = flags.iter().any(|flags| flags & PROC_IN_VACUUM != 0);
        pg_sys::LWLockRelease(lock);
        running
    }
}
