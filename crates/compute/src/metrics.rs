//! What the instance process tells in numbers.
//!
//! What is about the volume as its writer sees it is named `volume_…`, what is about the process `instance_…`.

use std::os::unix::fs::MetadataExt;

use telemetry::metrics::{Counter, CounterBy, Gauge, Histogram, Sampled, Scrape};
use wire_format::broker::BrokerQuestion;

use crate::InstanceConfig;
use crate::pages::ReadPagesError;
use crate::status::{InstanceStatus, SharedStatus};

telemetry::metrics! {
    /// The instance.
    pub INSTANCE;
    /// Whether PostgreSQL runs and its log is shipped (1).
    AVAILABLE: Sampled = Sampled::gauge("instance_available", &[]);
    /// The epoch of the reign.
    EPOCH: Sampled = Sampled::gauge("instance_epoch", &[]);
    /// Reigns that began: each takes an epoch, opens the volume and starts a PostgreSQL.
    pub(crate) REIGNS: Counter = Counter::new("instance_reigns_total");
    /// Reigns that ended because something broke; the next one begins by itself.
    pub(crate) REIGNS_BROKEN: Counter = Counter::new("instance_reigns_broken_total");
    /// Times that PostgreSQL was started; all but the first are restarts.
    pub(crate) POSTGRESQL_STARTS: Counter = Counter::new("instance_postgresql_starts_total");
    /// How long a reign takes to open the volume, from the question for its epoch on.
    pub(crate) OPEN_SECONDS: Histogram<16> = Histogram::seconds("volume_open_seconds");
    /// Which quorums of the volume hold (1) or are lost (0): `write` for commits, `read` for an opening.
    QUORUM: Sampled = Sampled::gauge("volume_quorum", &["kind"]);
    /// Whether a copy takes log just now (1).
    COPY_LIVE: Sampled = Sampled::gauge("volume_copy_live", &["node", "segment"]);
    /// Log that is durable and is not acknowledged by this copy yet, in bytes.
    COPY_LAG_BYTES: Sampled = Sampled::gauge("volume_copy_lag_bytes", &["node", "segment"]);
    /// Requests that a copy refused, or that its connection did not take; the copy is left alone for a while then.
    pub(crate) COPY_REFUSALS: Counter = Counter::new("volume_copy_refusals_total");
    /// Log that was received from PostgreSQL and is not durable yet, in bytes: commits that wait are in it.
    DURABLE_LAG_BYTES: Sampled = Sampled::gauge("volume_durable_lag_bytes", &[]);
    /// Log that may be on its way at most, in bytes; beyond it PostgreSQL has to wait.
    WINDOW_BYTES: Sampled = Sampled::gauge("volume_window_limit_bytes", &[]);
    /// Bytes of the volume's relations.
    SIZE_BYTES: Sampled = Sampled::gauge("volume_size_bytes", &[]);
    /// For how long old versions of pages, and the log, are kept.
    RETENTION_SECONDS: Sampled = Sampled::seconds("volume_retention_seconds", &[]);
    /// Log between the floor, below which nothing is kept, and the durable LSN, in bytes.
    FLOOR_LAG_BYTES: Sampled = Sampled::gauge("volume_floor_lag_bytes", &[]);
    /// Log of each flush, in bytes; the count is that of flushes.
    pub(crate) FLUSH_BYTES: Histogram<9> = Histogram::bytes("volume_flush_bytes");
    /// Flushes that are not durable yet.
    pub(crate) FLUSHES_IN_FLIGHT: Gauge = Gauge::new("volume_flushes_in_flight");
    /// How long a flush takes from its making to a write quorum: what a commit waits for beside PostgreSQL itself.
    pub(crate) COMMIT_SECONDS: Histogram<16> = Histogram::seconds("volume_commit_seconds");
    /// Bytes of log that were received from PostgreSQL.
    pub(crate) LOG_RECEIVED_BYTES: Counter = Counter::new("instance_log_received_bytes_total");
    /// Bytes that were sent to storage nodes for the log since the reign began, with framing, to all copies together.
    LOG_SENT_BYTES: Sampled = Sampled::counter("instance_log_sent_bytes_total", &[]);
    /// Pages that were read from storage nodes, those that were read ahead included.
    pub(crate) PAGES_READ: Counter = Counter::new("instance_pages_read_total");
    /// How long a read of pages from storage nodes takes, all copies tried; those that failed are not in it.
    pub(crate) PAGE_READ_SECONDS: Histogram<16> = Histogram::seconds("instance_page_read_seconds");
    /// Reads of pages for which one more copy was asked while another one had not answered yet.
    pub(crate) READS_HEDGED: Counter = Counter::new("instance_page_reads_hedged_total");
    /// Reads of pages that failed: no copy answered in time (`unreachable`), a page cannot be made (`wrong`), or another
    /// writer has the volume (`fenced`).
    pub(crate) READS_FAILED: CounterBy<3> = CounterBy::new("instance_page_reads_failed_total", &["reason"], [
        "unreachable", "wrong", "fenced"
    ]);
    /// Reads of pages that are under way.
    pub(crate) READS_UNDER_WAY: Gauge = Gauge::new("instance_page_reads_under_way");
    /// Pages that were asked for ahead of a sequential scan.
    pub(crate) READ_AHEAD_PAGES: Counter = Counter::new("instance_readahead_pages_total");
    /// Pages that backends asked for and that had been read ahead.
    pub(crate) READ_AHEAD_HITS: Counter = Counter::new("instance_readahead_hits_total");
    /// Connections of PostgreSQL's backends to the page broker.
    pub(crate) BACKENDS: Gauge = Gauge::new("instance_backends");
    /// Connections of backends that were refused, since there are too many.
    pub(crate) BACKENDS_REFUSED: Counter = Counter::new("instance_backends_refused_total");
    /// Questions of backends, by what they ask for.
    pub(crate) QUESTIONS: CounterBy<3> = CounterBy::new("instance_questions_total", &["kind"], [
        "fork_size", "fork_list", "page"
    ]);
    /// Copies that began to move away from a disk by themselves, since it is nearly full (`full`) or slower than the others for
    /// minutes (`slow`).
    pub(crate) HEAT_MOVES: CounterBy<2> = CounterBy::new("volume_heat_moves_total", &["reason"], ["full", "slow"]);
    /// Bytes that the spill file takes on the disk: pages that the overlay in PostgreSQL's shared memory has no room for.
    /// The rest of the overlay `SELECT borealis_counters()` tells.
    SPILL_BYTES: Sampled = Sampled::gauge("instance_overlay_spill_bytes", &[]);
}

/// Counts a question of a backend.
pub(crate) fn count_question(question: &BrokerQuestion) {
    let at = match question {
        BrokerQuestion::ForkBlocks { .. } => 0,
        BrokerQuestion::ListForks { .. } => 1,
        BrokerQuestion::ReadPage { .. } => 2,
    };
    QUESTIONS.add(at, 1);
}

/// Counts a read of pages that failed.
pub(crate) fn count_failure(error: &ReadPagesError) {
    let at = match error {
        ReadPagesError::Unreachable { .. } => 0,
        ReadPagesError::Wrong { .. } => 1,
        ReadPagesError::Fenced { .. } => 2,
    };
    READS_FAILED.add(at, 1);
}

/// How the instance is just now.
pub(crate) fn look_up(config: &InstanceConfig, status: &SharedStatus, scrape: &mut Scrape) {
    let InstanceStatus {
        state,
        epoch,
        quorum,
        copies,
        durable,
        in_flight_bytes,
        size_bytes,
        log_bytes_shipped,
        retention_seconds,
        floor,
        ..
    } = &*status.borrow();
    scrape.set(&AVAILABLE, &[], u64::from(state == "available"));
    scrape.set_known(&EPOCH, &[], *epoch);
    for (kind, word) in [("write", &quorum.write), ("read", &quorum.read)] {
        scrape.set(&QUORUM, &[kind], u64::from(word == "ok"));
    }
    for copy in copies {
        let segment = copy.member.segment.to_string();
        let labels = [copy.member.node.as_str(), segment.as_str()];
        scrape.set(&COPY_LIVE, &labels, u64::from(copy.live));
        let lag = durable.raw().saturating_sub(copy.complete.raw());
        scrape.set(&COPY_LAG_BYTES, &labels, lag);
    }
    scrape.set(&DURABLE_LAG_BYTES, &[], *in_flight_bytes);
    scrape.set(&WINDOW_BYTES, &[], config.limits.window_bytes_max);
    scrape.set(&SIZE_BYTES, &[], *size_bytes);
    scrape.set(&RETENTION_SECONDS, &[], retention_seconds.saturating_mul(1_000_000_000));
    scrape.set(&FLOOR_LAG_BYTES, &[], durable.raw().saturating_sub(floor.raw()));
    scrape.set(&LOG_SENT_BYTES, &[], *log_bytes_shipped);
    // Until the first PostgreSQL has made it, there is none. It has holes: its length says nothing.
    let spill = std::fs::metadata(config.spill_file());
    scrape.set(&SPILL_BYTES, &[], spill.map_or(0, |spill| 512 * spill.blocks()));
}
