//! The background thread: tables become layers, layers are merged, the journal is recycled.

use std::cell::Cell;
use std::time::Duration;

use page_store::Progress;
use tokio::sync::watch;

use crate::load::LOAD;
use crate::metrics::UPKEEP_FAILED;
use crate::node::Node;

const IDLE_PAUSE: Duration = Duration::from_millis(100);
/// The pause after work that failed: a full disk does not get emptier by trying.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// Keys merged between two short rests, so that a merge never takes a core for itself.
const KEYS_PER_REST: u32 = 512;
const REST: Duration = Duration::from_millis(1);
/// How much this thread yields to the others (nice level): an acknowledgement that waits for a core waits behind nobody who
/// merges layers. It keeps a tenth of a busy core.
const NICE: i32 = 10;
/// How often who rests looks whether log still comes in.
pub(crate) const BUSY_LOOK: Duration = Duration::from_millis(50);

/// Makes the calling thread yield to others.
pub(crate) fn yield_to_others() {
    // On Linux this is the calling thread's alone.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::warn!(%error, "store.maintain: as urgent as everything else");
    }
}

/// Runs until the node stops.
pub(crate) fn run(node: &Node, stop: &watch::Receiver<bool>) {
    yield_to_others();
    let keys = Cell::new(0u32);
    let pace = || {
        keys.set(keys.get().wrapping_add(1));
        if keys.get().is_multiple_of(KEYS_PER_REST) {
            std::thread::sleep(REST);
        }
    };
    while !*stop.borrow() {
        let status = node.store.status();
        LOAD.hold(status.journal_bytes + status.layer_bytes.values().sum::<u64>());
        let step = node.store.maintain(&pace);
        node.note_damage();
        match step {
            Ok(Progress::Idle) => std::thread::sleep(IDLE_PAUSE),
            Ok(progress) => tracing::debug!(?progress, "store.maintain"),
            Err(error) => {
                UPKEEP_FAILED.increment();
                tracing::error!(%error, "store.maintain");
                std::thread::sleep(FAILURE_PAUSE);
            }
        }
    }
}
