//! What the control process tells in numbers.

use telemetry::metrics::{Counter, CounterBy, Gauge, Histogram, Sampled, Scrape};

use crate::message::ControlRequest;
use crate::registry::Registry;
use crate::store::Store;

telemetry::metrics! {
    /// The metadata store.
    pub CONTROL;
    /// Requests that were understood, by what they ask.
    pub(crate) REQUESTS: CounterBy<12> = CounterBy::new("control_requests_total", &["request"], [
        "read", "plan", "create", "take_epoch", "compare_and_swap", "set_writer", "writer", "heartbeat", "storage",
        "wish", "forget_storage", "set_retention"
    ]);
    /// Changes that were not made, since the record was changed meanwhile or another epoch is taken: plans, creations and
    /// compare-and-swaps that came too late.
    pub(crate) CONFLICTS: Counter = Counter::new("control_conflicts_total");
    /// Requests that failed, since the store cannot be read or written, or since they could not be understood.
    pub(crate) FAILURES: Counter = Counter::new("control_requests_failed_total");
    /// How long a change takes until it is on disk: written and synced.
    pub(crate) SYNC_SECONDS: Histogram<16> = Histogram::seconds("control_store_sync_seconds");
    /// Connections that are open.
    pub(crate) CONNECTIONS: Gauge = Gauge::new("control_connections");
    /// Bytes of the volume's record; 0 before there is a volume.
    pub(crate) RECORD_BYTES: Sampled = Sampled::gauge("control_record_bytes", &[]);
    /// Changes of the volume's record and epoch so far, also those before the process was started.
    pub(crate) REVISION: Sampled = Sampled::gauge("control_record_revision", &[]);
    /// The epoch that is taken: the number of the reign.
    pub(crate) EPOCH: Sampled = Sampled::gauge("control_epoch", &[]);
    /// Storage nodes by how lately they were heard of: `alive`, `silent`, or `overdue`, whose copies are replaced without
    /// anybody's asking.
    pub(crate) STORAGE_NODES: Sampled = Sampled::gauge("control_storage_nodes", &["state"]);
}

/// Counts a request.
pub(crate) fn count(request: &ControlRequest) {
    let at = match request {
        ControlRequest::Read => 0,
        ControlRequest::Plan { .. } => 1,
        ControlRequest::Create { .. } => 2,
        ControlRequest::TakeEpoch => 3,
        ControlRequest::CompareAndSwap { .. } => 4,
        ControlRequest::SetWriter { .. } => 5,
        ControlRequest::Writer => 6,
        ControlRequest::Heartbeat(_) => 7,
        ControlRequest::Storage => 8,
        ControlRequest::Wish { .. } => 9,
        ControlRequest::ForgetStorage { .. } => 10,
        ControlRequest::SetRetention { .. } => 11,
    };
    REQUESTS.add(at, 1);
}

/// What stands in the store just now.
pub(crate) fn look_up(store: &Store, registry: &Registry, scrape: &mut Scrape) {
    let mut by_state = [("alive", 0), ("silent", 0), ("overdue", 0)];
    for node in registry.fleet().nodes {
        let at = match (node.is_alive, node.is_overdue) {
            (true, _) => 0,
            (false, false) => 1,
            (false, true) => 2,
        };
        by_state[at].1 += 1;
    }
    for (state, count) in by_state {
        scrape.set(&STORAGE_NODES, &[state], count);
    }
    match store.read() {
        Ok(volume) => {
            let record_bytes = volume.record.map_or(0, |record| record.len());
            scrape.set(&RECORD_BYTES, &[], record_bytes as u64);
            scrape.set(&REVISION, &[], volume.revision);
            scrape.set(&EPOCH, &[], volume.epoch);
        }
        Err(error) => tracing::warn!(%error, "metrics.look_up"),
    }
}
