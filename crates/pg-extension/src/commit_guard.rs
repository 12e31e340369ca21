//! A commit is never reported without its quorum.
//!
//! PostgreSQL waits for its synchronous standby, the instance process, before it shows a commit to anybody. But a session
//! may turn that wait off, a cancel or a terminate cuts it short with a mere warning, and then the transaction is visible
//! and reported while the volume may lose it. So before every commit, those of prepared transactions by a statement
//! (`statements`) or by a subscription's worker (`subscriptions`) among them:
//!
//! - `synchronous_commit` is raised to `on`, whatever the session says;
//! - SIGINT and SIGTERM are held back until the commit is over. On SIGTERM the client's connection is shut, so that no answer
//!   ever leaves; the transaction stays invisible until its quorum;
//! - a process whose wait the postmaster's death cut short, a moment before the kernel kills it as well (`life`), ends at once:
//!   it would go on, and a subscription's worker would tell its publisher that it needs the transaction no more.
//!
//! Invariants:
//! - Between `hold` and `release` neither `QueryCancelPending` nor `ProcDiePending` becomes set by a signal.
//! - A process that has committed without a quorum does nothing any more, not even a worker of a subscription.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

use pgrx::pg_guard;
use pgrx::pg_sys::{self, SyncCommitLevel, XactEvent};

use crate::{life, subscriptions};

const WANTED: c_int = SyncCommitLevel::SYNCHRONOUS_COMMIT_REMOTE_FLUSH as c_int;
/// No value of `synchronous_commit`: nothing to put back.
const UNCHANGED: c_int = -1;

static HELD: AtomicBool = AtomicBool::new(false);
static SESSION_LEVEL: AtomicI32 = AtomicI32::new(UNCHANGED);

/// A signal that is held back, and who handled it before us.
struct Signal {
    number: c_int,
    previous: AtomicUsize,
    arrived: AtomicBool,
}

static SIGNALS: [Signal; 2] = [Signal::new(libc::SIGINT), Signal::new(libc::SIGTERM)];

impl Signal {
    const fn new(number: c_int) -> Signal {
        Signal {
            number,
            previous: AtomicUsize::new(0),
            arrived: AtomicBool::new(false),
        }
    }

    /// Puts our handler before the process's own. Called before every commit, since a process may set its handlers late.
    fn wrap(&self) {
        // SAFETY: both calls get valid structures. The handler that is put in does only what a handler may; with the
        // mask and flags of the one it replaces.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let known = libc::sigaction(self.number, std::ptr::null(), &raw mut action) == 0;
            let handler = action.sa_sigaction;
            let ours = on_signal as *const () as usize;
            if !known || handler == ours || handler == libc::SIG_DFL || handler == libc::SIG_IGN {
                return;
            }
            self.previous.store(handler, Ordering::SeqCst);
            action.sa_sigaction = ours;
            libc::sigaction(self.number, &raw const action, std::ptr::null_mut());
        }
    }

    fn forward(&self) {
        let previous = self.previous.load(Ordering::SeqCst);
        // SAFETY: the address came from `sigaction`, of a handler of PostgreSQL, all of which take the number.
        unsafe { std::mem::transmute::<usize, extern "C" fn(c_int)>(previous)(self.number) }
    }
}

/// Runs as signal handler: atomics, and one system call.
extern "C" fn on_signal(number: c_int) {
    let Some(signal) = SIGNALS.iter().find(|signal| signal.number == number) else {
        return;
    };
    if !HELD.load(Ordering::SeqCst) {
        return signal.forward();
    }
    signal.arrived.store(true, Ordering::SeqCst);
    if number == libc::SIGTERM
        && let Some(socket) = client_socket()
    {
        // SAFETY: shuts a socket down without closing it; harmless if it is shut already. `errno` is put back, as a
        // handler must.
        unsafe {
            let errno = libc::__errno_location();
            let saved = *errno;
            libc::shutdown(socket, libc::SHUT_RDWR);
            *errno = saved;
        }
    }
}

/// The socket of this process's client.
pub fn client_socket() -> Option<c_int> {
    // SAFETY: a plain variable of this process; the socket is the first field of PostgreSQL's `Port` (libpq-be.h).
    unsafe {
        let port = (&raw const pg_sys::MyProcPort).read_volatile();
        (!port.is_null())
            .then(|| *port.cast::<c_int>())
            .filter(|socket| *socket >= 0)
    }
}

/// Watches every transaction; in the postmaster, so that every process inherits it.
pub fn install() {
    // SAFETY: the callback lives as long as the library, which is never unloaded.
    unsafe { pg_sys::RegisterXactCallback(Some(on_transaction_event), std::ptr::null_mut()) };
}

#[pg_guard]
unsafe extern "C-unwind" fn on_transaction_event(event: XactEvent::Type, _argument: *mut c_void) {
    match event {
        XactEvent::XACT_EVENT_PRE_COMMIT | XactEvent::XACT_EVENT_PRE_PREPARE => {
            arm_again_once();
            subscriptions::watch();
            hold();
        }
        XactEvent::XACT_EVENT_COMMIT | XactEvent::XACT_EVENT_PREPARE => {
            end_if_cut_short();
            release();
        }
        XactEvent::XACT_EVENT_ABORT => release(),
        _ => {}
    }
}

/// A background worker lets no client in: its first commit is where it is tied to the postmaster's life.
fn arm_again_once() {
    static ARMED: AtomicBool = AtomicBool::new(false);
    if !ARMED.swap(true, Ordering::Relaxed) {
        life::arm_again();
    }
}

/// From here on a commit cannot be cut short. May raise an error: the last chance for a cancel that came before.
pub fn hold() {
    if HELD.load(Ordering::SeqCst) {
        // What it was held for, the end of a prepared transaction, has no event of its own.
        end_if_cut_short();
    }
    SIGNALS.iter().for_each(Signal::wrap);
    HELD.store(true, Ordering::SeqCst);
    // What arrived before must not be pending during the wait either.
    if is_interrupt_pending() {
        HELD.store(false, Ordering::SeqCst);
        // SAFETY: a place before the commit where PostgreSQL checks for interrupts itself.
        unsafe { pg_sys::ProcessInterrupts() };
        HELD.store(true, Ordering::SeqCst);
        take_over_pending();
    }
    // SAFETY: a plain variable of this process.
    let level = unsafe { pg_sys::synchronous_commit };
    if level < WANTED {
        SESSION_LEVEL.store(level, Ordering::SeqCst);
        set_level(WANTED);
    }
}

/// Ends this process if its wait for the quorum was cut short. No signal sets `ProcDiePending` during the hold; only the death
/// of the postmaster does (`SyncRepWaitForLSN` in syncrep.c), without `InterruptPending`, so that the process would go on
/// for as long as it finds something to do.
fn end_if_cut_short() {
    // SAFETY: a plain variable of this process. Nobody is left who would miss what an orderly end cleans up: without the
    // postmaster, every process of the server ends.
    unsafe {
        if HELD.load(Ordering::SeqCst) && (&raw const pg_sys::ProcDiePending).read_volatile() != 0 {
            libc::_exit(1);
        }
    }
}

/// Sets `synchronous_commit` for this commit only: `release` puts it back, before PostgreSQL undoes `SET LOCAL`. The
/// function is the setting's assign hook, which keeps what is waited for in a variable of its own (syncrep.c).
fn set_level(level: c_int) {
    // SAFETY: a plain variable of this process, and a function that sets another one; both take any level.
    unsafe {
        pg_sys::synchronous_commit = level;
        pg_sys::assign_synchronous_commit(level, std::ptr::null_mut());
    }
}

fn is_interrupt_pending() -> bool {
    // SAFETY: plain variables, set by signal handlers of this thread.
    unsafe {
        (&raw const pg_sys::QueryCancelPending).read_volatile() != 0
            || (&raw const pg_sys::ProcDiePending).read_volatile() != 0
    }
}

/// Turns what is still pending, where interrupts are held off, into what arrived during the hold.
fn take_over_pending() {
    // SAFETY: plain variables; the handlers that set them are held back now.
    unsafe {
        for (pending, signal) in [&raw mut pg_sys::QueryCancelPending, &raw mut pg_sys::ProcDiePending]
            .into_iter()
            .zip(&SIGNALS)
        {
            if pending.replace(0) != 0 {
                signal.arrived.store(true, Ordering::SeqCst);
            }
        }
    }
}

/// The commit is over, or given up: lets through what was held back. Raises nothing.
pub fn release() {
    let level = SESSION_LEVEL.swap(UNCHANGED, Ordering::SeqCst);
    if level != UNCHANGED {
        set_level(level);
    }
    HELD.store(false, Ordering::SeqCst);
    for signal in &SIGNALS {
        if signal.arrived.swap(false, Ordering::SeqCst) {
            signal.forward();
        }
    }
}
