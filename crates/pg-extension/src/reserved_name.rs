//! Only the instance process may be the synchronous standby.
//!
//! PostgreSQL takes any client with the right `application_name` for it, and a client that pretended to be it could
//! acknowledge commits that no storage node has. So the name is refused to everybody whose process, as the kernel tells it
//! about a unix socket, is not the instance process.

use std::ffi::{CStr, c_char, c_void};

use pgrx::pg_guard;
use pgrx::pg_sys::{self, GucSource, GucStringCheckHook};

use crate::{commit_guard, errors, settings};

static mut STOCK_CHECK: GucStringCheckHook = None;

/// Puts our check before PostgreSQL's own; in the postmaster.
pub fn install() {
    if settings::synchronous_name().is_empty() {
        return;
    }
    // SAFETY: PostgreSQL's list of settings exists once libraries are loaded, with this many entries; an entry that is a
    // text begins with the common part.
    unsafe {
        let all = std::slice::from_raw_parts(pg_sys::get_guc_variables(), pg_sys::GetNumConfigOptions() as usize);
        match all
            .iter()
            .find(|setting| CStr::from_ptr((***setting).name) == c"application_name")
        {
            Some(setting) if (**setting).vartype == pg_sys::config_type::PGC_STRING => {
                let setting = setting.cast::<pg_sys::config_string>();
                STOCK_CHECK = (*setting).check_hook;
                (*setting).check_hook = Some(check);
            }
            _ => errors::die(
                "PostgreSQL has no setting application_name".to_owned(),
                "Use PostgreSQL 15.",
            ),
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn check(value: *mut *mut c_char, extra: *mut *mut c_void, source: GucSource::Type) -> bool {
    // SAFETY: PostgreSQL's own check, with its own arguments; set before any process could call us.
    let accepted =
        unsafe { STOCK_CHECK.is_none_or(|stock| pg_sys::ffi::pg_guard_ffi_boundary(|| stock(value, extra, source))) };
    // SAFETY: PostgreSQL gives a text, or null for an unset default.
    let name = unsafe {
        if (*value).is_null() {
            c""
        } else {
            CStr::from_ptr(*value)
        }
    };
    // Standbys are matched without regard to case (syncrep.c).
    let reserved = name
        .to_bytes()
        .eq_ignore_ascii_case(settings::synchronous_name().as_bytes());
    accepted && (!reserved || is_instance_process())
}

/// Whether the client is the instance process. Without `borealis.instance_pid` (tests) any client may be.
pub fn is_instance_process() -> bool {
    let Some(instance) = settings::instance_pid() else {
        return true;
    };
    let Some(socket) = commit_guard::client_socket() else {
        return false;
    };
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut bytes = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: room for what the kernel writes, and its size. On other sockets than unix ones it fails or gives no process.
    let known = unsafe {
        libc::getsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut bytes,
        )
    };
    known == 0 && peer.pid == instance
}
