//! Making the server's constant tables writable for a moment.

use std::ffi::{c_int, c_void};

use crate::errors;

/// The tables lie in memory that the loader made read-only after relocation. Before any child exists.
pub fn make_writable(table: *mut c_void, bytes: usize, writable: bool) {
    // SAFETY: `sysconf` touches no memory.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let start = table as usize & !(page_bytes - 1);
    let bytes = (table as usize + bytes).next_multiple_of(page_bytes) - start;
    let access: c_int = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
    // SAFETY: whole pages of the server's own data, which stay mapped and readable.
    if unsafe { libc::mprotect(start as *mut c_void, bytes, access) } != 0 {
        errors::die(
            format!(
                "cannot change a table of the server: {}",
                std::io::Error::last_os_error()
            ),
            "",
        );
    }
}
