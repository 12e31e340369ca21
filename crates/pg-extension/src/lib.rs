//! The library that stock PostgreSQL preloads, so that its pages live in a Borealis volume.
//!
//! It replaces the storage manager's table of functions, keeps in shared memory what the volume does not have yet, asks
//! the instance process for everything else, and never lets a commit be reported that lacks its quorum.
//!
//! Invariants:
//! - With an empty `borealis.broker_socket` nothing of PostgreSQL is changed.
//! - A page of a permanent relation is never written to a file of the cluster (but for `borealis.compare`).
//! - This is the only crate with `unsafe`; every block says why it is sound.

mod self_check;
mod storage_manager;

mod broker_client;
mod judge;
mod last_words;
mod last_written;
mod logged_later;
mod overlay;
mod room;
mod sizes;

mod commit_guard;
mod copies_of_files;
mod databases;
mod handover;
mod protected_settings;
mod range_maps;
mod reserved_name;
mod resource_managers;
mod statements;
mod subscriptions;
mod tablespaces;

mod functions;
mod relation_bytes;

mod builtin_functions;
mod compare;
mod counters;
mod errors;
mod fixed_table;
mod function_table;
mod life;
mod log_position;
mod memory_access;
mod overlay_partition;
mod page;
mod readahead;
mod settings;
mod shared_memory;

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
    if !settings::start_lsn_is_valid() {
        errors::die(
            "borealis.start_lsn is not a log position such as 16/B374D848".to_owned(),
            "",
        );
    }
    life::tie_to_instance_process();
    let table = self_check::find_storage_manager();
    overlay::create_spill_file();
    hook_shared_memory();
    storage_manager::install(table);
    relation_bytes::install();
    commit_guard::install();
    reserved_name::install();
    copies_of_files::install();
    protected_settings::install();
    databases::install();
    logged_later::install();
    statements::install();
    handover::install();
    last_words::install();
    tablespaces::install();
}

static mut PREVIOUS_REQUEST: pg_sys::shmem_request_hook_type = None;
static mut PREVIOUS_STARTUP: pg_sys::shmem_startup_hook_type = None;

fn hook_shared_memory() {
    // SAFETY: hooks are plain variables, and this is the postmaster with its one thread.
    unsafe {
        PREVIOUS_REQUEST = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(request_shared_memory);
        PREVIOUS_STARTUP = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(create_shared_memory);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn request_shared_memory() {
    // SAFETY: set in `hook_shared_memory`; whoever hooked before expects to be called.
    if let Some(previous) = unsafe { PREVIOUS_REQUEST } {
        // SAFETY: as above.
        unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| previous()) };
    }
    resource_managers::refuse_custom();
    shared_memory::request();
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn create_shared_memory() {
    // SAFETY: as in `request_shared_memory`.
    if let Some(previous) = unsafe { PREVIOUS_STARTUP } {
        // SAFETY: as above.
        unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| previous()) };
    }
    shared_memory::create();
}
