//! Giving and taking the versions of whole segments, as a rule to catch up with peers whose journals have moved on.
//!
//! Both threads yield to all others, and rest while log comes in: an acknowledgement waits for the same disk and the same
//! cores.

use std::time::{Duration, Instant};

use page_store::PassPart;
use segment::{PartId, Taken};
use tokio::sync::mpsc;
use units::SegmentId;
use wire_format::message::{Response, VersionCursor, Versions};

use crate::metrics::{REPAIR_BYTES, REPAIR_FAILED, REPAIR_SERVED_BYTES};
use crate::node::Node;
use crate::reads::{self, ReadWork};
use crate::turns::Work;
use crate::upkeep;

/// Answers with versions that wait to be written. There are no more questions than a few of each segment that may ask.
pub(crate) const QUEUE_MAX: usize = 16;
/// Segments that take from the layers of peers at once: each has a few megabytes on the way.
pub(crate) const SEGMENTS_MAX: usize = 2;
/// The longest rest at once, so that the pace follows what comes in.
const REST_MAX: Duration = Duration::from_millis(500);

/// Versions that a peer gave.
pub(crate) struct Arrived {
    pub(crate) segment: SegmentId,
    pub(crate) part: PartId,
    pub(crate) from: VersionCursor,
    pub(crate) versions: Versions,
}

/// Rests as long as the configured pace asks for after so many bytes, while log comes in.
fn rest(node: &Node, bytes: u64) {
    let began = Instant::now();
    let due = Duration::from_secs_f64(bytes as f64 / node.repair_bytes_per_second_busy.max(1) as f64);
    while node.is_busy() && began.elapsed() < due {
        let left = due.saturating_sub(began.elapsed());
        std::thread::sleep(left.min(REST_MAX).min(upkeep::BUSY_LOOK));
    }
}

/// Answers peers that ask for versions, until nobody can ask any more.
pub(crate) fn give(node: &Node, mut queue: mpsc::Receiver<ReadWork>) {
    upkeep::yield_to_others();
    while let Some(work) = queue.blocking_recv() {
        let response = reads::answer(node, &work.request).unwrap_or_else(Response::Refused);
        let bytes = match &response {
            Response::Versions(versions) => versions.content.len() as u64,
            _ => 0,
        };
        REPAIR_SERVED_BYTES.add(bytes);
        work.reply.send(&response);
        rest(node, bytes);
    }
}

/// Writes the versions that peers gave, and tells their segments.
pub(crate) fn take(node: &Node, mut queue: mpsc::Receiver<Arrived>, work: &mpsc::Sender<Work>) {
    upkeep::yield_to_others();
    while let Some(arrived) = queue.blocking_recv() {
        let Arrived {
            segment,
            part,
            from,
            versions,
        } = arrived;
        let bytes = versions.content.len() as u64;
        let name = PassPart {
            pass: part.pass,
            part: part.part,
            parts: part.parts,
        };
        let written = node.store.take_versions(segment, name, &from, &versions);
        let taken = match written {
            Ok(true) => {
                REPAIR_BYTES.add(bytes);
                let versions = versions.without_content();
                Taken::Written { from, versions, bytes }
            }
            // It came twice.
            Ok(false) => continue,
            Err(error) => {
                REPAIR_FAILED.increment();
                tracing::warn!(%segment, %error, "segment.copy: what a peer gave cannot be written");
                Taken::Failed
            }
        };
        if work.blocking_send(Work::Taken { segment, part, taken }).is_err() {
            return;
        }
        rest(node, bytes);
    }
}
