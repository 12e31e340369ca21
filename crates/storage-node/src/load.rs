//! How loaded the node is, for whoever chooses where copies go: told to the control process with every heartbeat.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Looks that a time of syncs is the mean of: at one a second, what a disk did in the last ten seconds. A single slow sync,
/// such as by a merge of layers, says little.
const LOOKS_MAX: usize = 10;

/// The load of the node in this process.
pub static LOAD: Load = Load::new();

/// What is counted as it happens.
#[derive(Debug)]
pub struct Load {
    held_bytes: AtomicU64,
    syncs: AtomicU64,
    nanoseconds: AtomicU64,
    /// Since when the journal is being written and synced, if it is.
    began: Mutex<Option<Instant>>,
}

impl Load {
    const fn new() -> Load {
        Load {
            held_bytes: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            nanoseconds: AtomicU64::new(0),
            began: Mutex::new(None),
        }
    }

    fn set_began(&self, began: Option<Instant>) {
        *self.began.lock().unwrap_or_else(PoisonError::into_inner) = began;
    }

    /// The journal is about to be written and synced.
    pub(crate) fn sync_begins(&self, now: Instant) {
        self.set_began(Some(now));
    }

    /// It was, well or not.
    pub(crate) fn sync_ended(&self, took: Duration) {
        self.set_began(None);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        self.syncs.fetch_add(1, Ordering::Relaxed);
    }

    /// So many bytes are in the journal and the layers.
    pub(crate) fn hold(&self, bytes: u64) {
        self.held_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Bytes in the journal and the layers.
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Ordering::Relaxed)
    }
}

/// Looks at a load from time to time.
#[derive(Debug, Default)]
pub struct SyncTimes {
    /// Syncs, and the time that they took, as of the last looks.
    looks: VecDeque<(u64, u64)>,
}

impl SyncTimes {
    /// How long syncs take on average, over the last looks; how long the present one has taken, if that is longer: a disk that
    /// hangs ends none. `None`: nothing was synced.
    pub fn look(&mut self, load: &Load, now: Instant) -> Option<Duration> {
        let total = (
            load.syncs.load(Ordering::Relaxed),
            load.nanoseconds.load(Ordering::Relaxed),
        );
        if LOOKS_MAX < self.looks.len() {
            self.looks.pop_front();
        }
        self.looks.push_back(total);
        let (syncs, nanoseconds) = self.looks.front().copied().unwrap_or_default();
        let mean = total.1.saturating_sub(nanoseconds).checked_div(total.0 - syncs);
        let began = *load.began.lock().unwrap_or_else(PoisonError::into_inner);
        let running = began.map(|began| now.saturating_duration_since(began));
        match mean.map(Duration::from_nanos) {
            Some(mean) => Some(mean.max(running.unwrap_or_default())),
            // One that has only begun says nothing yet.
            None => running.filter(|running| Duration::from_millis(1) < *running),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn the_time_of_syncs_is_that_of_the_last_looks_and_of_one_that_hangs() {
        let (load, mut times, now) = (Load::new(), SyncTimes::default(), Instant::now());
        assert_eq!(times.look(&load, now), None);
        load.sync_ended(4 * MILLISECOND);
        load.sync_ended(8 * MILLISECOND);
        assert_eq!(times.look(&load, now), Some(6 * MILLISECOND));
        for _ in 1..LOOKS_MAX {
            load.sync_ended(MILLISECOND);
            times.look(&load, now);
        }
        load.sync_ended(MILLISECOND);
        assert_eq!(times.look(&load, now), Some(MILLISECOND), "the first two are long ago");
        load.sync_begins(now);
        assert_eq!(times.look(&load, now + 300 * MILLISECOND), Some(300 * MILLISECOND));
        load.sync_ended(300 * MILLISECOND);
        for _ in 0..=LOOKS_MAX {
            times.look(&load, now);
        }
        assert_eq!(times.look(&load, now), None, "idle");
    }
}
