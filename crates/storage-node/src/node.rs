//! The segments and the store, shared by all threads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use page_store::{LostBatch, Opened, PageStore, RecoveredBatch};
use segment::{Effect, Link, Needs, Segment, SegmentState};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use units::SegmentId;
use wire_format::message::{NodeStatus, Refusal, Request, Response, ScrubStatus, SegmentStatus};

use crate::scrub::Passes;
use crate::{StorageConfig, StorageError};

/// Links of batches held in memory, at most, by all segments together; beyond it the oldest durable ones are forgotten.
pub(crate) const LINKS_MAX: usize = 150_000;

/// Log that came so long ago still counts as a busy foreground.
const BUSY_FOR: Duration = Duration::from_millis(200);

pub(crate) struct Node {
    pub(crate) store: PageStore,
    segments: Mutex<BTreeMap<SegmentId, Segment>>,
    pub(crate) pages_read: AtomicU64,
    /// Why it takes no more log.
    stopped: Mutex<Option<String>>,
    pub(crate) journal_retained_bytes_max: u64,
    pub(crate) repair_bytes_per_second_busy: u64,
    /// Bytes of log that may wait for the journal thread. While it is behind, connections are not read, and the writer sees that
    /// too much is on its way to this node.
    waiting_log: Arc<Semaphore>,
    waiting_log_bytes: u32,
    /// When log last came in, in milliseconds since the start; zero: never.
    log_came_ms: AtomicU64,
    started: Instant,
    /// Passes over everything at rest.
    pub(crate) scrub: Passes,
}

fn link(batch: RecoveredBatch) -> Link {
    Link {
        end: batch.end,
        previous: batch.previous,
        boundary: batch.boundary.unwrap_or(batch.end.lsn),
        groups: batch.groups,
    }
}

impl Node {
    pub(crate) fn new(config: &StorageConfig, opened: Opened) -> Result<Node, StorageError> {
        let mut segments = BTreeMap::new();
        for recovered in opened.segments {
            let id = recovered.segment;
            let state =
                SegmentState::decode(recovered.state).map_err(|error| StorageError::State { segment: id, error })?;
            let links = recovered.batches.into_iter().map(link).collect();
            if !recovered.vouches {
                tracing::error!(segment = %id, "segment.damaged: it keeps serving as a source, but has no vote");
            }
            segments.insert(id, Segment::recover(state, links, recovered.vouches));
        }
        let waiting_log_bytes = config.waiting_log_bytes();
        let node = Node {
            store: opened.store,
            segments: Mutex::new(segments),
            pages_read: AtomicU64::new(0),
            stopped: Mutex::default(),
            journal_retained_bytes_max: config.journal_retained_bytes_max,
            repair_bytes_per_second_busy: config.repair_bytes_per_second_busy,
            waiting_log: Arc::new(Semaphore::new(waiting_log_bytes as usize)),
            waiting_log_bytes,
            log_came_ms: AtomicU64::new(0),
            started: Instant::now(),
            scrub: Passes::default(),
        };
        Ok(node)
    }

    /// Held for as long as segments decide, never over a write or a sync.
    pub(crate) fn segments(&self) -> MutexGuard<'_, BTreeMap<SegmentId, Segment>> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Segments of which the store has found something lost since the start have no vote any more.
    pub(crate) fn note_damage(&self) {
        for id in self.store.damaged() {
            if let Some(segment) = self.segments().get_mut(&id).filter(|segment| segment.vouches()) {
                tracing::error!(segment = %id, "segment.damaged: it keeps serving as a source, but has no vote");
                segment.damaged();
            }
        }
    }

    /// Along which history, and whom, a segment may ask for what it lost; `None`: it is gone.
    pub(crate) fn sources(&self, segment: SegmentId) -> Option<Needs> {
        self.segments().get(&segment).map(Segment::sources)
    }

    /// The same for a batch that the journal lost; `None`: the segment does not claim to have it.
    pub(crate) fn sources_of(&self, lost: LostBatch) -> Option<Needs> {
        let segments = self.segments();
        let segment = segments.get(&lost.segment)?;
        segment.claims(lost.position).then(|| segment.sources())
    }

    /// Segments that have lost something. None whose loss only a new segment in its place can mend.
    pub(crate) fn without_vote(&self) -> Vec<SegmentId> {
        let segments = self.segments();
        let without_vote = segments.values().filter(|segment| segment.is_to_be_mended());
        let mut without_vote: Vec<_> = without_vote.map(Segment::id).collect();
        drop(segments);
        without_vote.retain(|segment| self.store.is_mendable(*segment));
        without_vote
    }

    pub(crate) fn segment_count(&self) -> usize {
        self.segments().len()
    }

    /// Time since the start, on a clock that only goes forward.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits until there is room for what a request for the journal thread brings. A flush longer than all of it waits until it is
    /// alone. The semaphore is never closed.
    pub(crate) async fn room_for(&self, request: &Request) -> Option<OwnedSemaphorePermit> {
        let bytes = match request {
            Request::Append { batch, .. } => u32::try_from(batch.bytes().len()).unwrap_or(u32::MAX),
            _ => 0,
        };
        let room = self.waiting_log.clone();
        room.acquire_many_owned(bytes.min(self.waiting_log_bytes)).await.ok()
    }

    /// Log came in just now.
    pub(crate) fn note_log(&self) {
        let now = self.now().as_millis() as u64;
        self.log_came_ms.store(now.max(1), Ordering::Relaxed);
    }

    /// Whether log came in lately.
    pub(crate) fn is_busy(&self) -> bool {
        let came = self.log_came_ms.load(Ordering::Relaxed);
        came != 0 && self.now() < Duration::from_millis(came) + BUSY_FOR
    }

    /// How far a segment is, for a peer.
    pub(crate) fn standing(&self, segment: SegmentId) -> Response {
        let mut effects = Vec::new();
        match self.segments().get_mut(&segment) {
            Some(one) => one.request(&Request::TellStanding { segment }, &mut effects),
            None => effects.push(Effect::Answer(Response::Refused(Refusal::UnknownSegment { segment }))),
        }
        match effects.pop() {
            Some(Effect::Answer(response)) => response,
            other => unreachable!("a question for a standing is answered, not {other:?}"),
        }
    }

    pub(crate) fn stopped(&self) -> Option<String> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_stopped(&self, reason: Option<String>) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    pub(crate) fn scrub_status(&self) -> ScrubStatus {
        let activity = self.store.activity();
        ScrubStatus {
            damaged: activity.damaged_files,
            mended: activity.mended_files,
            ..self.scrub.status()
        }
    }

    pub(crate) fn status(&self) -> NodeStatus {
        let store = self.store.status();
        let segments = self.segments();
        let one = |segment: &Segment| {
            let horizon = segment.horizon();
            SegmentStatus {
                segment: segment.id(),
                volume: segment.volume(),
                group: segment.group(),
                kind: segment.kind(),
                promised: segment.promised(),
                complete: match segment.is_copying() {
                    true => segment.acknowledged(),
                    false => segment.complete(),
                },
                durable: horizon.durable,
                floor: horizon.floor,
                layer_bytes: store.layer_bytes.get(&segment.id()).copied().unwrap_or(0),
                vouches: segment.vouches(),
                stranded: segment.is_stranded(),
                copying: segment.is_copying(),
                copied_through: segment.complete(),
                copied_bytes: segment.copied_bytes().0,
                copied_bytes_expected: segment.copied_bytes().1,
                mending: segment.is_to_be_mended() && self.store.is_mendable(segment.id()),
            }
        };
        NodeStatus {
            segments: segments.values().map(one).collect(),
            journal_bytes: store.journal_bytes,
            memory_table_bytes: store.table_bytes,
            pages_read: self.pages_read.load(Ordering::Relaxed),
            stopped: self.stopped(),
            scrub: self.scrub_status(),
        }
    }
}
