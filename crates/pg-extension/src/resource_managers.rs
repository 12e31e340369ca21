//! Extensions that write records of their own (`RegisterCustomRmgr`) are refused before they write one: no storage node
//! could make pages from them.

use std::ffi::CStr;

use pgrx::pg_sys::{self, RmgrData};

use crate::errors;

/// `RM_MAX_ID`.
const LAST: usize = u8::MAX as usize;
/// `RM_MIN_CUSTOM_ID`.
const FIRST_CUSTOM: usize = 128;

/// Ends the server if an extension registered a resource manager. Called when all libraries are loaded.
pub fn refuse_custom() {
    // SAFETY: PostgreSQL's own table has an entry for every number, and this is the postmaster with its one thread.
    let table: &[RmgrData] =
        unsafe { std::slice::from_raw_parts((&raw const pg_sys::RmgrTable).cast::<RmgrData>(), LAST + 1) };
    let mut custom = table.iter().enumerate().skip(FIRST_CUSTOM);
    if let Some((id, manager)) = custom.find(|(_, manager)| !manager.rm_name.is_null()) {
        // SAFETY: a registered name ends with zero and lives as long as its library.
        let name = unsafe { CStr::from_ptr(manager.rm_name) }.to_string_lossy();
        errors::die(
            format!("an extension brings resource manager {id}, \"{name}\", whose records no storage node can redo"),
            "Take it out of shared_preload_libraries.",
        );
    }
}
