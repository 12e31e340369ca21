//! The library that stock PostgreSQL preloads, so that its pages live in a Borealis volume.
//!
//! It replaces the storage manager's table of functions, keeps in shared memory what the volume does not have yet, asks
//! the instance process for everything else, and never lets a commit be reported that lacks its quorum.
//!
//! Invariants:
//! - With an empty `borealis.broker_socket` nothing of PostgreSQL is changed.
//! - A page of a permanent relation is never written to a file of the cluster (but for `borealis.compare`).
//! - This is the only crate with `unsafe`; every block says why it is sound.

mod errors;
mod life;
mod self_check;
mod settings;
mod storage_manager;

use pgrx::pg_sys;

pgrx::pg_module_magic!();

/// What PostgreSQL calls when it loads the library: in the postmaster, before shared memory exists.
///
/// Loaded any other way (`LOAD`, a SQL function in a server that did not preload it) it defines nothing.
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    // SAFETY: a plain flag, read on the only thread of the process.
    if !unsafe { pg_sys::process_shared_preload_libraries_in_progress } {
        return;
    }
    settings::define();
    if !settings::is_active() {
        pgrx::log!("borealis: borealis.broker_socket is empty, so relations stay in the files of this cluster");
        return;
    }
    life::tie_to_instance_process();
    let table = self_check::find_storage_manager();
    storage_manager::install(table);
}
