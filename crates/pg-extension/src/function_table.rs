//! PostgreSQL's table of storage manager functions: its type, and changing it.

use std::ffi::{c_char, c_void};

use pgrx::pg_sys::{BlockNumber, ForkNumber, RelFileNodeBackend, SMgrRelation};

use crate::memory_access;

/// PostgreSQL's table of storage manager functions (`f_smgr` in smgr.c), which no header declares.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Table {
    pub init: unsafe extern "C-unwind" fn(),
    pub shutdown: *mut c_void,
    pub open: unsafe extern "C-unwind" fn(SMgrRelation),
    pub close: unsafe extern "C-unwind" fn(SMgrRelation, ForkNumber::Type),
    pub create: unsafe extern "C-unwind" fn(SMgrRelation, ForkNumber::Type, bool),
    pub exists: unsafe extern "C-unwind" fn(SMgrRelation, ForkNumber::Type) -> bool,
    pub unlink: unsafe extern "C-unwind" fn(RelFileNodeBackend, ForkNumber::Type, bool),
    pub extend: unsafe extern "C-unwind" fn(SMgrRelation, ForkNumber::Type, BlockNumber, *mut c_char, bool),
    pub prefetch: unsafe extern "C-unwind" fn(SMgrRelation, ForkNumber::Type, BlockNumber) -> bool,
    pub read: unsafe extern "C-unwind" fn(SMgrRelation, ForkNumber::Type, BlockNumber, *mut c_char),
    pub write: unsafe extern "C-unwind" fn(SMgrRelation, ForkNumber::Type, BlockNumber, *mut c_char, bool),
    pub writeback: unsafe extern "C-unwind" fn(SMgrRelation, ForkNumber::Type, BlockNumber, BlockNumber),
    pub blocks: unsafe extern "C-unwind" fn(SMgrRelation, ForkNumber::Type) -> BlockNumber,
    pub truncate: unsafe extern "C-unwind" fn(SMgrRelation, ForkNumber::Type, BlockNumber, BlockNumber),
    pub sync_now: unsafe extern "C-unwind" fn(SMgrRelation, ForkNumber::Type),
}

const _: () = assert!(size_of::<Table>() == 15 * size_of::<usize>());

/// Changes entries of the server's table, in the postmaster: its children inherit them.
pub fn change_table(table: *mut Table, change: impl FnOnce(&mut Table)) {
    memory_access::make_writable(table.cast(), size_of::<Table>(), true);
    // SAFETY: `self_check` found the server's table there, it was just made writable, and this process has one thread.
    change(unsafe { &mut *table });
    memory_access::make_writable(table.cast(), size_of::<Table>(), false);
}
