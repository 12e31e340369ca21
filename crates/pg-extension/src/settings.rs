//! The library's settings. The instance process gives them on PostgreSQL's command line, which wins over every file.
//!
//! All are fixed when the server starts (`PGC_POSTMASTER`), so that reading one needs no lock.

use std::ffi::{CStr, c_char, c_int};
use std::ptr;

use pgrx::pg_sys;
use units::Lsn;

static mut BROKER_SOCKET: *mut c_char = ptr::null_mut();
static mut SPILL_FILE: *mut c_char = ptr::null_mut();
static mut START_LSN: *mut c_char = ptr::null_mut();
static mut SYNCHRONOUS_NAME: *mut c_char = ptr::null_mut();
static mut ENDPOINT_SOCKET: *mut c_char = ptr::null_mut();
static mut OVERLAY_KIB: c_int = 0;
static mut SPILL_MIB_MAX: c_int = 0;
static mut RELATION_SIZES: c_int = 0;
static mut READAHEAD_BLOCKS: c_int = 0;
static mut INSTANCE_PID: c_int = 0;
static mut COMPARE: bool = false;

/// Tells PostgreSQL about the settings, and takes over what the command line says.
pub fn define() {
    const KIB: c_int = pg_sys::GUC_UNIT_KB as c_int;
    const MIB: c_int = pg_sys::GUC_UNIT_MB as c_int;
    text(
        c"borealis.broker_socket",
        c"Unix socket of the instance process; empty: relations stay in files.",
        &raw mut BROKER_SOCKET,
    );
    text(
        c"borealis.spill_file",
        c"File for what the overlay has no memory for; empty: borealis.spill.",
        &raw mut SPILL_FILE,
    );
    text(
        c"borealis.start_lsn",
        c"Where the volume's log ended when this instance started.",
        &raw mut START_LSN,
    );
    text(
        c"borealis.synchronous_name",
        c"Application name that only the instance process may use.",
        &raw mut SYNCHRONOUS_NAME,
    );
    text(
        c"borealis.endpoint_socket",
        c"Unix socket on which the cluster endpoint gives its clients away; empty: they stay with it.",
        &raw mut ENDPOINT_SOCKET,
    );
    number(
        c"borealis.overlay_size",
        c"Memory for pages that the volume does not have yet.",
        &raw mut OVERLAY_KIB,
        (64 << 10, 256, 1 << 30),
        KIB,
    );
    number(
        c"borealis.spill_size_max",
        c"The most the spill file may grow to.",
        &raw mut SPILL_MIB_MAX,
        (4 << 10, 1, 1 << 20),
        MIB,
    );
    number(
        c"borealis.relation_sizes",
        c"How many forks of relations the size table holds.",
        &raw mut RELATION_SIZES,
        (1 << 18, 1 << 10, 1 << 26),
        0,
    );
    number(
        c"borealis.readahead_blocks",
        c"The most pages announced ahead of a sequential read.",
        &raw mut READAHEAD_BLOCKS,
        (32, 1, 1024),
        0,
    );
    number(
        c"borealis.instance_pid",
        c"Process that PostgreSQL must not outlive; 0: none.",
        &raw mut INSTANCE_PID,
        (0, 0, c_int::MAX),
        0,
    );
    // SAFETY: called while libraries are preloaded, the only time these are allowed; names and addresses are static.
    unsafe {
        pg_sys::DefineCustomBoolVariable(
            c"borealis.compare".as_ptr(),
            c"For tests: also keep the files of the cluster, and compare every page read with them.".as_ptr(),
            ptr::null(),
            &raw mut COMPARE,
            false,
            pg_sys::GucContext::PGC_POSTMASTER,
            0,
            None,
            None,
            None,
        );
        pg_sys::MarkGUCPrefixReserved(c"borealis".as_ptr());
    }
}

fn text(name: &'static CStr, description: &'static CStr, value: *mut *mut c_char) {
    // SAFETY: as in `define`; `value` points to one of the statics above.
    unsafe {
        pg_sys::DefineCustomStringVariable(
            name.as_ptr(),
            description.as_ptr(),
            ptr::null(),
            value,
            c"".as_ptr(),
            pg_sys::GucContext::PGC_POSTMASTER,
            0,
            None,
            None,
            None,
        );
    }
}

fn number(
    name: &'static CStr,
    description: &'static CStr,
    value: *mut c_int,
    limits: (c_int, c_int, c_int),
    unit: c_int,
) {
    let (default, min, max) = limits;
    // SAFETY: as in `define`; `value` points to one of the statics above.
    unsafe {
        pg_sys::DefineCustomIntVariable(
            name.as_ptr(),
            description.as_ptr(),
            ptr::null(),
            value,
            default,
            min,
            max,
            pg_sys::GucContext::PGC_POSTMASTER,
            unit,
            None,
            None,
            None,
        );
    }
}

fn text_of(value: *mut c_char) -> &'static str {
    if value.is_null() {
        return "";
    }
    // SAFETY: PostgreSQL points a string setting to a NUL-terminated text, and PGC_POSTMASTER ones never change.
    unsafe { CStr::from_ptr(value) }.to_str().unwrap_or_default()
}

/// Whether relations live in a volume: a broker socket is set.
pub fn is_active() -> bool {
    !broker_socket().is_empty()
}

/// Where the instance process answers.
pub fn broker_socket() -> &'static str {
    // SAFETY: set once before the first fork, read on the only thread; so for every function below.
    text_of(unsafe { BROKER_SOCKET })
}

/// Where the cluster endpoint gives its clients away.
pub fn endpoint_socket() -> &'static str {
    // SAFETY: see `broker_socket`.
    text_of(unsafe { ENDPOINT_SOCKET })
}

/// The file for what the overlay has no memory for.
pub fn spill_file() -> &'static str {
    // SAFETY: see `broker_socket`.
    match text_of(unsafe { SPILL_FILE }) {
        "" => "borealis.spill",
        path => path,
    }
}

/// Where the volume's log ended when this instance started; zero, which asks for nothing, if not given.
pub fn start_lsn() -> Lsn {
    // SAFETY: see `broker_socket`.
    text_of(unsafe { START_LSN }).parse().unwrap_or(Lsn::ZERO)
}

/// Whether [`start_lsn`] is a log position, or not given.
pub fn start_lsn_is_valid() -> bool {
    // SAFETY: see `broker_socket`.
    let text = text_of(unsafe { START_LSN });
    text.is_empty() || text.parse::<Lsn>().is_ok()
}

/// The application name that only the instance process may use; empty: no name is protected.
pub fn synchronous_name() -> &'static str {
    // SAFETY: see `broker_socket`.
    text_of(unsafe { SYNCHRONOUS_NAME })
}

/// Pages the overlay has memory for.
pub fn overlay_pages() -> usize {
    // SAFETY: see `broker_socket`; never negative, by the limits above.
    unsafe { OVERLAY_KIB as usize * 1024 / units::PAGE_BYTES }
}

/// Pages the spill file may grow to.
pub fn spill_pages_max() -> usize {
    // SAFETY: see `broker_socket`; never negative, by the limits above.
    unsafe { SPILL_MIB_MAX as usize * 1024 * 1024 / units::PAGE_BYTES }
}

/// Forks the size table holds.
pub fn relation_sizes() -> usize {
    // SAFETY: see `broker_socket`; never negative, by the limits above.
    unsafe { RELATION_SIZES as usize }
}

/// The most pages announced ahead of a sequential read.
pub fn readahead_blocks() -> u16 {
    // SAFETY: see `broker_socket`; at most 1024, by the limits above.
    unsafe { READAHEAD_BLOCKS as u16 }
}

/// The process that PostgreSQL must not outlive.
pub fn instance_pid() -> Option<libc::pid_t> {
    // SAFETY: see `broker_socket`.
    let pid = unsafe { INSTANCE_PID };
    (pid != 0).then_some(pid)
}

/// Whether to keep the files of the cluster too, and compare.
pub fn compare() -> bool {
    // SAFETY: see `broker_socket`.
    unsafe { COMPARE }
}
