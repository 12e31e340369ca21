//! Databases come and go as a whole: PostgreSQL names none of their relations then.
//!
//! Invariant: of a database that does not exist nothing is kept, neither pages nor sizes.

use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};

use pgrx::pg_guard;
use pgrx::pg_sys::{self, XactEvent};
use units::ForkKey;

use crate::{overlay, range_maps, sizes};

const NONE: u32 = 0;

/// The database that this process's transaction creates. One at most: `CREATE DATABASE` runs in no larger transaction.
static CREATED: AtomicU32 = AtomicU32::new(NONE);

/// Watches every transaction; in the postmaster, so that every process inherits it.
pub fn install() {
    // SAFETY: the callback lives as long as the library, which is never unloaded.
    unsafe { pg_sys::RegisterXactCallback(Some(on_transaction_event), std::ptr::null_mut()) };
}

/// Notes that this transaction creates a database, of which nothing is copied yet.
pub fn creating(database: u32) {
    CREATED.store(database, Ordering::Relaxed);
}

/// Notes that PostgreSQL asked how long a fork is.
pub fn asked(fork: ForkKey) {
    if CREATED.load(Ordering::Relaxed) != NONE {
        range_maps::asked(fork);
    }
}

/// Notes that a fork got blocks; it may be one of the database that is being created.
pub fn extended(fork: ForkKey) {
    let created = CREATED.load(Ordering::Relaxed);
    if created != NONE && created == fork.relation.database {
        range_maps::extended(fork);
    }
}

/// Forgets what is kept of a database that is gone. Raises nothing.
pub fn forget(database: u32) {
    overlay::remove_database(database);
    sizes::forget_database(database);
}

#[pg_guard]
unsafe extern "C-unwind" fn on_transaction_event(event: XactEvent::Type, _argument: *mut c_void) {
    match event {
        XactEvent::XACT_EVENT_COMMIT => CREATED.store(NONE, Ordering::Relaxed),
        XactEvent::XACT_EVENT_ABORT => {
            range_maps::forget();
            let database = CREATED.swap(NONE, Ordering::Relaxed);
            if database != NONE {
                // Or the checkpointer would write pages of it later.
                // SAFETY: nobody else could connect to the database, and this process pins no buffer any more.
                unsafe { pg_sys::DropDatabaseBuffers(pg_sys::Oid::from_u32(database)) };
                forget(database);
            }
        }
        _ => {}
    }
}
