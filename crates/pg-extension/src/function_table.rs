//! PostgreSQL's table of storage manager functions: its type, and changing it.

use std::ffi::{c_char, c_int, c_void};

use pgrx::pg_sys::{BlockNumber, ForkNumber, RelFileNodeBackend, SMgrRelation};

use crate::errors;

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
    make_writable(table, true);
    // SAFETY: `self_check` found the server's table there, it was just made writable, and this process has one thread.
    change(unsafe { &mut *table });
    make_writable(table, false);
}

/// The table lies in memory that the loader made read-only after relocation.
fn make_writable(table: *mut Table, writable: bool) {
    // SAFETY: `sysconf` touches no memory.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let start = table as usize & !(page_bytes - 1);
    let bytes = (table as usize + size_of::<Table>()).next_multiple_of(page_bytes) - start;
    let access: c_int = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
    // SAFETY: whole pages of the server's own data, which stay mapped and readable.
    if unsafe { libc::mprotect(start as *mut c_void, bytes, access) } != 0 {
        errors::die(
            format!(
                "cannot change the storage manager's table: {}",
                std::io::Error::last_os_error()
            ),
            "",
        );
    }
}
