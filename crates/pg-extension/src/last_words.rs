//! Nothing leaves a server whose postmaster is dead.
//!
//! A commit that waits for its quorum gives up when the postmaster dies (`SyncRepWaitForLSN` in syncrep.c), and is then visible to
//! other sessions until the kernel has killed them all, although the volume may lose it. So whatever a session has found out, it
//! asks before it sends it whether the postmaster lives: the pipe by which a postmaster's death is told is closed before any wait
//! for a quorum ends by it, and what was found out after that is never sent.
//!
//! Invariant: between the last look at the pipe and any byte on the way to a client, nothing was added to what is sent.
//!
//! Source: libpq.h (`PQcommMethods`), pqcomm.c (`socket_putmessage`, `internal_putbytes`, `internal_flush`), pmsignal.c
//! (`PostmasterIsAliveInternal`) of PostgreSQL 15.

use std::ffi::{c_char, c_int};
use std::sync::atomic::{AtomicUsize, Ordering};

use pgrx::pg_guard;
use pgrx::pg_sys;

use crate::copies_of_files::{AuthenticationHook, CLIENT_AUTHENTICATION_HOOK};
use crate::life;

/// `PQ_SEND_BUFFER_SIZE` (pqcomm.c): when so much is waiting, some of it is sent without a call of `flush`.
const BUFFER_BYTES: usize = 8192;
/// Its kind and its length, before what a message holds.
const MESSAGE_HEAD_BYTES: usize = 5;

/// `PQcommMethods` (libpq.h).
#[repr(C)]
struct Methods {
    comm_reset: unsafe extern "C-unwind" fn(),
    flush: unsafe extern "C-unwind" fn() -> c_int,
    flush_if_writable: unsafe extern "C-unwind" fn() -> c_int,
    is_send_pending: unsafe extern "C-unwind" fn() -> bool,
    putmessage: unsafe extern "C-unwind" fn(c_char, *const c_char, usize) -> c_int,
    putmessage_noblock: unsafe extern "C-unwind" fn(c_char, *const c_char, usize),
}

unsafe extern "C" {
    #[link_name = "PqCommMethods"]
    static mut METHODS: *const Methods;
    /// The first one is what children read (`POSTMASTER_FD_WATCH`).
    #[link_name = "postmaster_alive_fds"]
    static POSTMASTER_ALIVE: [c_int; 2];
}

static mut PREVIOUS: AuthenticationHook = None;

/// PostgreSQL's own way to its client.
static mut STOCK: *const Methods = std::ptr::null();
/// What was put into the buffer since the last look, at most.
static UNSENT: AtomicUsize = AtomicUsize::new(0);

static OURS: Methods = Methods {
    comm_reset,
    flush,
    flush_if_writable,
    is_send_pending,
    putmessage,
    putmessage_noblock,
};

/// Looks from now on; in the postmaster, for every process that has a client.
pub fn install() {
    // SAFETY: hooks are plain variables, and this is the postmaster with its one thread.
    unsafe {
        PREVIOUS = CLIENT_AUTHENTICATION_HOOK;
        CLIENT_AUTHENTICATION_HOOK = Some(authenticated);
    }
}

/// Called when it is known who the client is, or that it may not come in.
#[pg_guard]
unsafe extern "C-unwind" fn authenticated(port: *mut pg_sys::Port, status: c_int) {
    life::arm_again();
    // SAFETY: the first is set in `install`, and its arguments are PostgreSQL's own. The others are plain variables of this process;
    // the tables live as long as it does.
    unsafe {
        if let Some(previous) = PREVIOUS {
            pg_sys::ffi::pg_guard_ffi_boundary(|| previous(port, status));
        }
        STOCK = METHODS;
        METHODS = &raw const OURS;
    }
}

fn stock() -> &'static Methods {
    // SAFETY: set in `authenticated`, before anybody has our table.
    unsafe { &*STOCK }
}

/// Ends this process if the postmaster is dead. Nobody is left who would miss what an orderly end cleans up.
fn look() {
    // SAFETY: a read of one byte from a pipe that is open, does not block and never holds any; `errno` is put back. Then a plain
    // end.
    unsafe {
        let errno = libc::__errno_location();
        let saved = *errno;
        let mut byte = 0_u8;
        let read = libc::read(POSTMASTER_ALIVE[0], (&raw mut byte).cast(), 1);
        if read != -1 || !matches!(*errno, libc::EAGAIN | libc::EINTR) {
            libc::_exit(1);
        }
        *errno = saved;
    }
    UNSENT.store(0, Ordering::Relaxed);
}

/// Before so many bytes more are put into the buffer.
fn look_before(bytes: usize) {
    let bytes = MESSAGE_HEAD_BYTES + bytes;
    if BUFFER_BYTES <= UNSENT.load(Ordering::Relaxed) + bytes {
        look();
    }
    UNSENT.fetch_add(bytes, Ordering::Relaxed);
}

unsafe extern "C-unwind" fn comm_reset() {
    // SAFETY: PostgreSQL's own, called as it calls it.
    unsafe { (stock().comm_reset)() }
}

unsafe extern "C-unwind" fn flush() -> c_int {
    look();
    // SAFETY: as above.
    unsafe { (stock().flush)() }
}

unsafe extern "C-unwind" fn flush_if_writable() -> c_int {
    look();
    // SAFETY: as above.
    unsafe { (stock().flush_if_writable)() }
}

unsafe extern "C-unwind" fn is_send_pending() -> bool {
    // SAFETY: as above.
    unsafe { (stock().is_send_pending)() }
}

unsafe extern "C-unwind" fn putmessage(kind: c_char, content: *const c_char, bytes: usize) -> c_int {
    look_before(bytes);
    // SAFETY: as above, with what we were given.
    unsafe { (stock().putmessage)(kind, content, bytes) }
}

unsafe extern "C-unwind" fn putmessage_noblock(kind: c_char, content: *const c_char, bytes: usize) {
    look_before(bytes);
    // SAFETY: as above, with what we were given.
    unsafe { (stock().putmessage_noblock)(kind, content, bytes) }
}
