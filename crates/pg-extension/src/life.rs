//! PostgreSQL does not outlive its instance process, and no process of it outlives the postmaster.
//!
//! A fenced writer whose backends still answered would show commits that nobody acknowledged. So the kernel kills the
//! postmaster with the instance process, and each child with the postmaster. The kernel's promise covers only deaths
//! after it was asked, hence the parent's pid is compared afterwards. A child of PostgreSQL asks for another signal when it begins
//! (`PostmasterDeathSignalInit` in pmsignal.c), and goes on with what it does when that comes: so it is armed again once there
//! is a hook that runs in it.

use std::sync::atomic::{AtomicI32, Ordering};

use pgrx::pg_sys;

use crate::errors;
use crate::settings;

/// Who forks, noted right before: a child inherits the note.
static FORKING: AtomicI32 = AtomicI32::new(0);

/// Arms the postmaster, and every child it will fork. Does nothing without `borealis.instance_pid`.
pub fn tie_to_instance_process() {
    let Some(instance) = settings::instance_pid() else {
        return;
    };
    // SAFETY: plain system calls without memory; the handler only makes system calls and reads an atomic, all of them
    // async-signal-safe, as a child between fork and exec must.
    let (armed, registered) = unsafe { (arm(), libc::pthread_atfork(Some(note_parent), None, Some(arm_child))) };
    if !armed || registered != 0 {
        errors::die(
            "cannot ask the kernel to be killed with the instance process".to_owned(),
            "",
        );
    }
    // SAFETY: no arguments, no memory.
    let parent = unsafe { libc::getppid() };
    if parent != instance {
        errors::die(
            format!("process {parent} started this server, not the instance process {instance}"),
            "Start it with \"borealis up\", which starts it as its own child.",
        );
    }
}

/// In a child of the postmaster, when it lets its client in or is about to commit. Does nothing in the postmaster.
pub fn arm_again() {
    // SAFETY: plain variables of this process, and system calls without memory. Nobody is left who would miss an orderly end.
    unsafe {
        if settings::instance_pid().is_some()
            && pg_sys::IsUnderPostmaster
            && (!arm() || libc::getppid() != pg_sys::PostmasterPid)
        {
            libc::_exit(1);
        }
    }
}

/// SAFETY: may be called anywhere; `prctl` with these arguments touches no memory.
unsafe fn arm() -> bool {
    // SAFETY: see above.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) == 0 }
}

/// Runs in whoever forks, right before.
unsafe extern "C" fn note_parent() {
    // SAFETY: no arguments, no memory.
    FORKING.store(unsafe { libc::getpid() }, Ordering::Relaxed);
}

/// Runs in every new process, right after the fork.
unsafe extern "C" fn arm_child() {
    // SAFETY: only async-signal-safe system calls.
    unsafe {
        // Another parent than the one that forked us: it died before we asked, and somebody adopted us.
        if !arm() || libc::getppid() != FORKING.load(Ordering::Relaxed) {
            libc::_exit(1);
        }
    }
}
