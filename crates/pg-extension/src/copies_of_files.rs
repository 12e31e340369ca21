//! Backups made of the cluster's files are refused: the files of permanent relations are empty.
//!
//! - `pg_backup_start` and `pg_backup_stop`, around a copy of the files, are replaced by errors.
//! - `BASE_BACKUP` is a command of replication connections, of which only the instance process may have one. That also
//!   refuses receivers of the log: it is streamed before it has its quorum, so they could get what the volume loses.

use std::ffi::c_int;

use pgrx::pg_guard;
use pgrx::pg_sys::{self, Datum, FunctionCallInfo};

use crate::statements::refuse;
use crate::{builtin_functions, errors, reserved_name};

const HINT: &str =
    "All data lives in the volume, in six copies, and not in PostgreSQL's files. Use pg_dump for a copy outside of it.";

/// `ClientAuthentication_hook_type` (auth.h).
pub type AuthenticationHook = Option<unsafe extern "C-unwind" fn(*mut pg_sys::Port, c_int)>;

unsafe extern "C" {
    #[link_name = "ClientAuthentication_hook"]
    pub static mut CLIENT_AUTHENTICATION_HOOK: AuthenticationHook;
}

static mut PREVIOUS_AUTHENTICATION: AuthenticationHook = None;

/// Refuses from now on; in the postmaster.
pub fn install() {
    builtin_functions::replace([(c"pg_backup_start", backup), (c"pg_backup_stop", backup)]);
    // SAFETY: hooks are plain variables, and this is the postmaster with its one thread.
    unsafe {
        PREVIOUS_AUTHENTICATION = CLIENT_AUTHENTICATION_HOOK;
        CLIENT_AUTHENTICATION_HOOK = Some(authenticated);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn backup(_call: FunctionCallInfo) -> Datum {
    refuse("a backup of PostgreSQL's files", HINT)
}

/// Called when it is known who the client is, or that it may not come in.
#[pg_guard]
unsafe extern "C-unwind" fn authenticated(port: *mut pg_sys::Port, status: c_int) {
    // SAFETY: set in `install`; the arguments are PostgreSQL's own; the flag is a plain one of this process.
    let is_replication = unsafe {
        if let Some(previous) = PREVIOUS_AUTHENTICATION {
            pg_sys::ffi::pg_guard_ffi_boundary(|| previous(port, status));
        }
        pg_sys::am_walsender
    };
    let is_welcome = status == pg_sys::STATUS_OK as c_int;
    if is_welcome && is_replication && !reserved_name::is_instance_process() {
        errors::refuse_connection(
            "replication connections, and with them pg_basebackup: not supported by this version of Borealis yet"
                .to_owned(),
            HINT,
        );
    }
}
