//! What a storage node tells in numbers.

use std::path::Path;

use segment::Segment;
use telemetry::metrics::{Counter, CounterBy, Gauge, Histogram, Sampled, Scrape};
use units::Position;
use wire_format::message::{Refusal, Request, SegmentHealth};

use crate::network::Served;
use crate::node::{LINKS_MAX, Node};
use crate::{reads, turns};

telemetry::metrics! {
    /// A storage node.
    pub STORAGE;
    /// Bytes of each batch of log that was written to the journal; their sum and their count are the log that came in.
    pub(crate) APPEND_BYTES: Histogram<9> = Histogram::bytes("storage_log_append_bytes");
    /// How long the journal takes to write what has come in and to sync it: every acknowledgement waits for that. The count
    /// is that of syncs.
    pub(crate) SYNC_SECONDS: Histogram<16> = Histogram::seconds("storage_journal_sync_seconds");
    /// Times that the journal could not be written or synced; nothing of what was refused is acknowledged.
    pub(crate) SYNCS_FAILED: Counter = Counter::new("storage_journal_syncs_failed_total");
    /// Whether the node takes no more log (1), such as for a full disk or a failed sync.
    JOURNAL_STOPPED: Sampled = Sampled::gauge("storage_journal_stopped", &[]);
    /// Requests that wait for the journal's thread.
    JOURNAL_QUEUE: Sampled = Sampled::gauge("storage_journal_queue", &[]);
    /// Bytes of journal files, what is kept for copies that are behind included.
    JOURNAL_BYTES: Sampled = Sampled::gauge("storage_journal_bytes", &[]);
    /// Bytes of journal that are kept at most.
    JOURNAL_BYTES_MAX: Sampled = Sampled::gauge("storage_journal_limit_bytes", &[]);
    /// Journal files that nobody needed any more.
    JOURNAL_RECYCLED: Sampled = Sampled::counter("storage_journal_files_recycled_total", &[]);
    /// Links of batches that are held in memory.
    LINKS: Sampled = Sampled::gauge("storage_links", &[]);
    /// Links of batches that are held in memory at most; beyond it, the oldest durable ones are forgotten.
    LINKS_LIMIT: Sampled = Sampled::gauge("storage_links_limit", &[]);
    /// Segments by their state. `complete`: all log that is known to be durable is here; `catching_up`: some is on its way
    /// from the peers; `copying`: it was born as a copy of others and is not whole yet; `stranded`: it takes what no journal
    /// has any more from the layers of its peers; `mending`: what it lost is being taken from its peers, until then it has no vote;
    /// `damaged`: something that was acknowledged is lost, so that it has no vote.
    SEGMENTS: Sampled = Sampled::gauge("storage_segments", &["state"]);
    /// Log that is known to be durable and is not complete in this copy, in bytes: what its acknowledgements lag behind.
    SEGMENT_LAG_BYTES: Sampled = Sampled::gauge("storage_segment_lag_bytes", &["segment"]);
    /// Log between the floor, below which nobody reads, and the durable position, in bytes: versions that have to be kept.
    SEGMENT_FLOOR_LAG_BYTES: Sampled = Sampled::gauge("storage_segment_floor_lag_bytes", &["segment"]);
    /// Bytes of the segment's layer files.
    SEGMENT_LAYER_BYTES: Sampled = Sampled::gauge("storage_segment_layer_bytes", &["segment"]);
    /// Bytes that the segment took from the layers of its peers since it last began to.
    SEGMENT_COPIED_BYTES: Sampled = Sampled::gauge("storage_segment_repair_copied_bytes", &["segment"]);
    /// Bytes that the segment takes from the layers of its peers all in all, about.
    SEGMENT_COPIED_BYTES_EXPECTED: Sampled = Sampled::gauge("storage_segment_repair_expected_bytes", &["segment"]);
    /// Layer files of all segments.
    LAYERS: Sampled = Sampled::gauge("storage_layers", &[]);
    /// Bytes of all layer files.
    LAYER_BYTES: Sampled = Sampled::gauge("storage_layer_bytes", &[]);
    /// Memory tables that became layers.
    TABLES_WRITTEN: Sampled = Sampled::counter("storage_tables_written_total", &[]);
    /// Merges of layers.
    MERGES: Sampled = Sampled::counter("storage_merges_total", &[]);
    /// Bytes of layers that were read to be merged.
    MERGE_BYTES_READ: Sampled = Sampled::counter("storage_merge_read_bytes_total", &[]);
    /// Bytes of layers that were written, from memory tables (`table`), by merges (`merge`), and from versions that peers gave
    /// to copies that were behind (`repair`) or damaged (`mend`).
    LAYER_BYTES_WRITTEN: Sampled = Sampled::counter("storage_layer_written_bytes_total", &["from"]);
    /// Bytes at rest that were read again and compared with their checksums.
    pub(crate) SCRUB_BYTES: Counter = Counter::new("storage_scrub_read_bytes_total");
    /// Passes over everything at rest that came to their end.
    pub(crate) SCRUB_PASSES: Counter = Counter::new("storage_scrub_passes_total");
    /// Passes that met with a disk that could not be read.
    pub(crate) SCRUB_FAILED: Counter = Counter::new("storage_scrub_passes_failed_total");
    /// When the last pass ended, in seconds since 1970; zero: none has yet.
    SCRUB_ENDED: Sampled = Sampled::gauge("storage_scrub_last_pass_timestamp", &[]);
    /// Whether a pass is under way (1).
    SCRUB_UNDER_WAY: Sampled = Sampled::gauge("storage_scrub_running", &[]);
    /// Files found damaged, by a pass or by whoever needed them: their segment has no vote until they are mended.
    SCRUB_FOUND: Sampled = Sampled::counter("storage_scrub_damaged_files_total", &[]);
    /// Of these, files whose content is whole again.
    SCRUB_MENDED: Sampled = Sampled::counter("storage_scrub_mended_files_total", &[]);
    /// Bytes of versions that peers gave to mend what was damaged here.
    pub(crate) MEND_BYTES: Counter = Counter::new("storage_mend_received_bytes_total");
    /// Attempts to mend a segment that came to nothing; they are repeated.
    pub(crate) MEND_FAILED: Counter = Counter::new("storage_mend_failed_total");
    /// Steps of background work that failed: the node goes on, and tries them again.
    pub(crate) UPKEEP_FAILED: Counter = Counter::new("storage_upkeep_failed_total");
    /// Pages that were read.
    PAGES_READ: Sampled = Sampled::counter("storage_pages_read_total", &[]);
    /// How long a read of pages takes, from the thread that takes it up to its answer. The count is that of requests.
    pub(crate) PAGE_READ_SECONDS: Histogram<16> = Histogram::seconds("storage_page_read_seconds");
    /// Reads by what they ask for.
    pub(crate) READS: CounterBy<5> = CounterBy::new("storage_reads_total", &["kind"], [
        "pages", "catalog", "flush_header", "log", "other"
    ]);
    /// Reads that were refused; another copy is asked then.
    pub(crate) READS_REFUSED: CounterBy<7> = CounterBy::new("storage_reads_refused_total", &["reason"], [
        "stale_epoch", "not_complete", "below_floor", "log_collected", "damaged", "redo", "other"
    ]);
    /// Reads that wait for a thread.
    READ_QUEUE: Sampled = Sampled::gauge("storage_read_queue", &[]);
    /// Bytes that memory tables hold.
    TABLE_BYTES: Sampled = Sampled::gauge("storage_table_bytes", &[]);
    /// Bytes that caches hold: blocks and indexes of layers, and pages as they were made.
    CACHE_BYTES: Sampled = Sampled::gauge("storage_cache_bytes", &["cache"]);
    /// Questions that a cache had the answer to.
    CACHE_HITS: Sampled = Sampled::counter("storage_cache_hits_total", &["cache"]);
    /// Questions that a cache had no answer to.
    CACHE_MISSES: Sampled = Sampled::counter("storage_cache_misses_total", &["cache"]);
    /// Memory that the node may use, as it is set.
    MEMORY_LIMIT_BYTES: Sampled = Sampled::gauge("storage_memory_limit_bytes", &[]);
    /// Questions to peers: for log or versions that are missing here, or how far they are.
    pub(crate) CATCH_UP_QUESTIONS: Counter = Counter::new("storage_catch_up_questions_total");
    /// Questions to peers that were not answered.
    pub(crate) CATCH_UP_UNANSWERED: Counter = Counter::new("storage_catch_up_questions_failed_total");
    /// Bytes of log that peers gave to this node.
    pub(crate) CATCH_UP_BYTES: Counter = Counter::new("storage_catch_up_received_bytes_total");
    /// Bytes of log that this node gave to peers.
    pub(crate) CATCH_UP_SERVED_BYTES: Counter = Counter::new("storage_catch_up_served_bytes_total");
    /// Bytes of versions that peers gave to this node out of their layers, and that were written here.
    pub(crate) REPAIR_BYTES: Counter = Counter::new("storage_repair_received_bytes_total");
    /// Bytes of versions that this node gave to peers out of its layers.
    pub(crate) REPAIR_SERVED_BYTES: Counter = Counter::new("storage_repair_served_bytes_total");
    /// Times that versions of peers could not be written; they are asked for again.
    pub(crate) REPAIR_FAILED: Counter = Counter::new("storage_repair_writes_failed_total");
    /// Bytes of versions a second that repair gives and takes at most while log comes in, as it is set.
    REPAIR_LIMIT: Sampled = Sampled::gauge("storage_repair_limit_bytes", &[]);
    /// Connections of instances and peers that are open.
    pub(crate) CONNECTIONS: Gauge = Gauge::new("storage_connections");
    /// Connections that were refused, since too many are open.
    pub(crate) CONNECTIONS_REFUSED: Counter = Counter::new("storage_connections_refused_total");
    /// Bytes of this node's journal and layers on its disk.
    DISK_USED_BYTES: Sampled = Sampled::gauge("storage_disk_used_bytes", &[]);
    /// Bytes that are free on the node's disk.
    DISK_FREE_BYTES: Sampled = Sampled::gauge("storage_disk_free_bytes", &[]);
    /// Bytes of the node's disk, whoever uses them.
    DISK_SIZE_BYTES: Sampled = Sampled::gauge("storage_disk_size_bytes", &[]);
}

/// States of segments, as the metrics call them.
const HEALTHS: [&str; 6] = ["complete", "catching_up", "copying", "stranded", "mending", "damaged"];

/// Counts a read.
pub(crate) fn count_read(request: &Request) {
    let at = match request {
        Request::ReadPages { .. } => 0,
        Request::ScanCatalog { .. } => 1,
        Request::ReadFlushHeader { .. } => 2,
        Request::ReadLog { .. } => 3,
        _ => 4,
    };
    READS.add(at, 1);
}

/// Counts a read that was refused.
pub(crate) fn count_refusal(refusal: &Refusal) {
    let at = match refusal {
        Refusal::StaleEpoch { .. } => 0,
        Refusal::NotComplete { .. } => 1,
        Refusal::BelowFloor { .. } => 2,
        Refusal::LogCollected { .. } => 3,
        Refusal::Damaged { .. } => 4,
        Refusal::Redo { .. } => 5,
        _ => 6,
    };
    READS_REFUSED.add(at, 1);
}

/// How the node is just now.
pub(crate) fn look_up(served: &Served, directory: &Path, memory_bytes: u64, scrape: &mut Scrape) {
    let node = &*served.node;
    let queued = |max: usize, free: usize| max.saturating_sub(free) as u64;
    scrape.set(&JOURNAL_QUEUE, &[], queued(turns::QUEUE_MAX, served.work.capacity()));
    scrape.set(&READ_QUEUE, &[], queued(reads::QUEUE_MAX, served.reads.capacity()));
    scrape.set(&JOURNAL_STOPPED, &[], u64::from(node.stopped().is_some()));
    scrape.set(&JOURNAL_BYTES_MAX, &[], node.journal_retained_bytes_max);
    scrape.set(&MEMORY_LIMIT_BYTES, &[], memory_bytes);
    scrape.set(&REPAIR_LIMIT, &[], node.repair_bytes_per_second_busy);
    segments(node, scrape);
    store(node, scrape);
    match rustix::fs::statvfs(directory) {
        Ok(disk) => {
            scrape.set(&DISK_FREE_BYTES, &[], disk.f_bavail.saturating_mul(disk.f_frsize));
            scrape.set(&DISK_SIZE_BYTES, &[], disk.f_blocks.saturating_mul(disk.f_frsize));
        }
        Err(error) => tracing::warn!(%error, "metrics.look_up"),
    }
}

fn segments(node: &Node, scrape: &mut Scrape) {
    let mut by_health = [0; HEALTHS.len()];
    for segment in node.status().segments {
        let id = segment.segment.to_string();
        let durable = segment.durable.lsn.raw();
        let behind = |at: Position| durable.saturating_sub(at.lsn.raw());
        scrape.set(&SEGMENT_LAG_BYTES, &[&id], behind(segment.complete));
        scrape.set(&SEGMENT_FLOOR_LAG_BYTES, &[&id], behind(segment.floor));
        scrape.set(&SEGMENT_LAYER_BYTES, &[&id], segment.layer_bytes);
        scrape.set(&SEGMENT_COPIED_BYTES, &[&id], segment.copied_bytes);
        scrape.set(&SEGMENT_COPIED_BYTES_EXPECTED, &[&id], segment.copied_bytes_expected);
        let at = match segment.health() {
            SegmentHealth::Complete => 0,
            SegmentHealth::CatchingUp => 1,
            SegmentHealth::Copying => 2,
            SegmentHealth::Stranded => 3,
            SegmentHealth::Mending => 4,
            SegmentHealth::Damaged => 5,
        };
        by_health[at] += 1;
    }
    for (state, count) in HEALTHS.iter().zip(by_health) {
        scrape.set(&SEGMENTS, &[state], count);
    }
    let links: usize = node.segments().values().map(Segment::links_held).sum();
    scrape.set(&LINKS, &[], links as u64);
    scrape.set(&LINKS_LIMIT, &[], LINKS_MAX as u64);
}

fn store(node: &Node, scrape: &mut Scrape) {
    let status = node.store.status();
    let layer_bytes: u64 = status.layer_bytes.values().sum();
    scrape.set(&JOURNAL_BYTES, &[], status.journal_bytes);
    scrape.set(&TABLE_BYTES, &[], status.table_bytes);
    scrape.set(&LAYERS, &[], status.layers_count as u64);
    scrape.set(&LAYER_BYTES, &[], layer_bytes);
    scrape.set(&DISK_USED_BYTES, &[], status.journal_bytes + layer_bytes);
    let pages_read = node.pages_read.load(std::sync::atomic::Ordering::Relaxed);
    scrape.set(&PAGES_READ, &[], pages_read);
    let activity = node.store.activity();
    scrape.set(&JOURNAL_RECYCLED, &[], activity.journal_files_recycled);
    scrape.set(&TABLES_WRITTEN, &[], activity.tables_written);
    scrape.set(&MERGES, &[], activity.merges);
    scrape.set(&MERGE_BYTES_READ, &[], activity.merge_bytes_read);
    scrape.set(&LAYER_BYTES_WRITTEN, &["table"], activity.table_bytes_written);
    scrape.set(&LAYER_BYTES_WRITTEN, &["merge"], activity.merge_bytes_written);
    scrape.set(&LAYER_BYTES_WRITTEN, &["repair"], activity.repair_bytes_written);
    scrape.set(&LAYER_BYTES_WRITTEN, &["mend"], activity.mended_bytes_written);
    let scrub = node.scrub_status();
    scrape.set(&SCRUB_ENDED, &[], scrub.ended_at);
    scrape.set(&SCRUB_UNDER_WAY, &[], u64::from(scrub.is_under_way));
    scrape.set(&SCRUB_FOUND, &[], scrub.damaged);
    scrape.set(&SCRUB_MENDED, &[], scrub.mended);
    let caches = [
        ("blocks", activity.blocks),
        ("indexes", activity.indexes),
        ("pages", activity.pages),
    ];
    for (cache, used) in caches {
        scrape.set(&CACHE_BYTES, &[cache], used.bytes);
        scrape.set(&CACHE_HITS, &[cache], used.hits);
        scrape.set(&CACHE_MISSES, &[cache], used.misses);
    }
}
