//! The scrubbing thread: everything at rest is read again, slowly, over and over.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::metrics::{SCRUB_BYTES, SCRUB_FAILED, SCRUB_FOUND, SCRUB_MENDED, SCRUB_PASSES};
use crate::node::Node;

/// The longest rest between two looks at whether the node stops.
const REST_MAX: Duration = Duration::from_millis(500);
/// How much this thread yields to the others (nice level).
const NICE: i32 = 15;

/// How often everything is read, and how fast.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// From the beginning of one pass to that of the next.
    pub(crate) interval: Duration,
    /// At most so many in a second, on average.
    pub(crate) bytes_per_second: u64,
}

/// Runs until the node stops.
pub(crate) fn run(node: &Node, schedule: Schedule, stop: &watch::Receiver<bool>) {
    // On Linux this is the calling thread's alone.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::warn!(%error, "store.scrub: as urgent as everything else");
    }
    // A restart of many nodes at once shall not make them all read their disks at once.
    let mut begin = Instant::now() + schedule.interval / 2;
    loop {
        if !rest_until(begin, stop) {
            return;
        }
        begin = Instant::now() + schedule.interval;
        pass(node, schedule.bytes_per_second, stop);
    }
}

fn pass(node: &Node, bytes_per_second: u64, stop: &watch::Receiver<bool>) {
    let started = Instant::now();
    let read = std::cell::Cell::new(0u64);
    let scrubbed = node.store.scrub(&|bytes| {
        read.set(read.get() + bytes);
        SCRUB_BYTES.add(bytes);
        let due = Duration::from_secs_f64(read.get() as f64 / bytes_per_second as f64);
        rest_until(started + due, stop)
    });
    node.note_damage();
    match &scrubbed {
        Ok(scrubbed) => {
            SCRUB_PASSES.increment();
            SCRUB_FOUND.add(scrubbed.damaged);
            SCRUB_MENDED.add(scrubbed.mended);
        }
        Err(_) => SCRUB_FAILED.increment(),
    }
    let seconds = started.elapsed().as_secs();
    match scrubbed {
        Ok(scrubbed) if scrubbed.damaged == 0 => {
            tracing::info!(
                bytes = scrubbed.bytes,
                seconds,
                "store.scrub: everything at rest is as it was written"
            );
        }
        Ok(scrubbed) => tracing::error!(?scrubbed, seconds, "store.scrub: damage was found"),
        Err(error) => tracing::error!(%error, "store.scrub: the disk cannot be read"),
    }
}

/// Sleeps until then; false: the node stops.
fn rest_until(then: Instant, stop: &watch::Receiver<bool>) -> bool {
    loop {
        if *stop.borrow() {
            return false;
        }
        let left = then.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(REST_MAX));
    }
}
