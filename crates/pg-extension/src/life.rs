//! PostgreSQL does not outlive its instance process, and no process of it outlives the postmaster.
//!
//! A fenced writer whose backends still answered would show commits that nobody acknowledged. So the kernel kills the
//! postmaster with the instance process, and each child with the postmaster. The kernel's promise covers only deaths
//! after it was asked, hence the parent's pid is compared afterwards.

use std::sync::atomic::{AtomicI32, Ordering};

use crate::errors;
use crate::settings;

static POSTMASTER: AtomicI32 = AtomicI32::new(0);

/// Arms the postmaster, and every child it will fork. Does nothing without `borealis.instance_pid`.
pub fn tie_to_instance_process() {
    let Some(instance) = settings::instance_pid() else {
        return;
    };
    // SAFETY: plain system calls without memory; the handler only makes system calls and reads an atomic, all of them
    // async-signal-safe, as a child between fork and exec must.
    let (armed, registered) = unsafe { (arm(), libc::pthread_atfork(None, None, Some(arm_child))) };
    if !armed || registered != 0 {
        errors::die(
            "cannot ask the kernel to be killed with the instance process".to_owned(),
            "",
        );
    }
    // SAFETY: no arguments, no memory.
    let (own, parent) = unsafe { (libc::getpid(), libc::getppid()) };
    POSTMASTER.store(own, Ordering::Relaxed);
    if parent != instance {
        errors::die(
            format!("process {parent} started this server, not the instance process {instance}"),
            "Start it with \"borealis up\", which starts it as its own child.",
        );
    }
}

/// SAFETY: may be called anywhere; `prctl` with these arguments touches no memory.
unsafe fn arm() -> bool {
    // SAFETY: see above.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) == 0 }
}

/// Runs in every new process, right after the fork. A child of a child (`COPY TO PROGRAM`) is armed against its own parent.
unsafe extern "C" fn arm_child() {
    // SAFETY: only async-signal-safe system calls.
    unsafe {
        let postmaster = POSTMASTER.load(Ordering::Relaxed);
        // The parent died before we asked: it was re-parented to somebody who is not of this server. A grandchild's
        // parent is a backend, which itself goes down with the postmaster.
        if !arm() || (libc::getppid() == 1 && postmaster != 1) {
            libc::_exit(1);
        }
    }
}
