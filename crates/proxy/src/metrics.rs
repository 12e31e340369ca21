//! What the cluster endpoint tells in numbers.

use telemetry::metrics::{Counter, CounterBy, Gauge, Histogram};

telemetry::metrics! {
    /// The cluster endpoint.
    pub PROXY;
    /// Connections of clients that came.
    pub(crate) ACCEPTED: Counter = Counter::new("proxy_connections_total");
    /// Connections of clients that are open, also those that their backends have.
    pub(crate) OPEN: Gauge = Gauge::new("proxy_connections_open");
    /// Connections that wait just now until a writer takes them.
    pub(crate) HELD: Gauge = Gauge::new("proxy_connections_held");
    /// Connections that were refused: all places are taken (`no_place`), so many that nobody was told (`overrun`), or there
    /// was no writer for as long as clients are held (`no_writer`).
    pub(crate) REFUSED: CounterBy<3> = CounterBy::new("proxy_connections_refused_total", &["reason"], [
        "no_place", "overrun", "no_writer"
    ]);
    /// How long a connection waits until a writer takes it.
    pub(crate) HOLD_SECONDS: Histogram<16> = Histogram::seconds("proxy_connection_hold_seconds");
    /// Connections that were handed to their backends: from then on nothing passes through the endpoint.
    pub(crate) HANDED_OVER: Counter = Counter::new("proxy_connections_handed_over_total");
    /// Connections that were cut, since the writer was replaced.
    pub(crate) CUT: Counter = Counter::new("proxy_connections_cut_total");
    /// Times that another writer was named, or the first one.
    pub(crate) WRITER_CHANGES: Counter = Counter::new("proxy_writer_changes_total");
    /// Times that the control process did not say who the writer is; the last one named stands meanwhile.
    pub(crate) WRITER_UNKNOWN: Counter = Counter::new("proxy_writer_questions_failed_total");
}

/// Why a connection was refused: places of the label's values.
#[derive(Clone, Copy)]
pub(crate) enum Reason {
    NoPlace,
    Overrun,
    NoWriter,
}

/// Counts a connection that was refused.
pub(crate) fn refused(reason: Reason) {
    REFUSED.add(reason as usize, 1);
}
