//! The reading threads: pages, catalog entries and batches, without waiting for the journal.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use page_store::ReadError;
use segment::{Effect, Read};
use tokio::sync::mpsc;
use units::{Epoch, Position, SegmentId};
use wire_format::message::{Refusal, Request, Response};

use crate::metrics::{self, CATCH_UP_SERVED_BYTES, PAGE_READ_SECONDS};
use crate::network::ReplyTo;
use crate::node::Node;

/// Reads waiting for a thread; beyond it connections are no longer read.
pub(crate) const QUEUE_MAX: usize = 256;
/// Threads that read.
pub(crate) const THREADS: usize = 2;

/// Bytes of batches in one answer, whatever was asked for: with one long batch more it still fits into a frame.
const BATCHES_BYTES_MAX: u32 = 8 << 20;

/// One read to do.
pub(crate) struct ReadWork {
    pub(crate) reply: ReplyTo,
    pub(crate) request: Request,
}

pub(crate) type SharedQueue = Arc<Mutex<mpsc::Receiver<ReadWork>>>;

pub(crate) fn shared(queue: mpsc::Receiver<ReadWork>) -> SharedQueue {
    Arc::new(Mutex::new(queue))
}

/// Whether a request is for these threads.
pub(crate) fn is_read(request: &Request) -> bool {
    matches!(
        request,
        Request::FetchBatches { .. }
            | Request::ReadPages { .. }
            | Request::ScanCatalog { .. }
            | Request::ReadLog { .. }
            | Request::ReadFlushHeader { .. }
    )
}

/// Runs until nobody can ask any more.
pub(crate) fn run(node: &Node, queue: &SharedQueue) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Some(work) = next else {
            return;
        };
        metrics::count_read(&work.request);
        let response = answer(node, &work.request).unwrap_or_else(Response::Refused);
        if let Response::Refused(refusal) = &response {
            metrics::count_refusal(refusal);
        }
        work.reply.send(&response);
    }
}

pub(crate) fn answer(node: &Node, request: &Request) -> Result<Response, Refusal> {
    let id = request.segment().ok_or_else(|| Refusal::Malformed {
        what: "a read without a segment".to_owned(),
    })?;
    let mut effects = Vec::new();
    node.segments()
        .get_mut(&id)
        .ok_or(Refusal::UnknownSegment { segment: id })?
        .request(request, &mut effects);
    match effects.pop() {
        Some(Effect::Read(read)) => perform(node, id, read).map_err(refusal),
        Some(Effect::Answer(response)) => Ok(response),
        other => unreachable!("a read is answered or carried out, not {other:?}"),
    }
}

fn perform(node: &Node, id: SegmentId, read: Read) -> Result<Response, ReadError> {
    let store = &node.store;
    Ok(match read {
        Read::Pages {
            path,
            read_point,
            first,
            count,
        } => {
            let began = Instant::now();
            let pages = store.read_pages(id, &path, read_point, first, count)?;
            PAGE_READ_SECONDS.observe_duration(began.elapsed());
            node.pages_read.fetch_add(u64::from(count), Ordering::Relaxed);
            Response::Pages(pages)
        }
        Read::Catalog {
            path,
            read_point,
            after,
            entries_max,
        } => Response::Catalog(store.scan_catalog(id, &path, read_point, after.as_ref(), entries_max as usize)?),
        Read::FlushHeader { path, at } => {
            let header = store.flush_header(id, &path, at)?;
            Response::FlushHeader {
                end: header.end,
                previous: header.previous,
                boundary: header.boundary,
                marks: header.marks,
            }
        }
        Read::Versions(asked) => Response::Versions(store.versions(id, &asked)?),
        Read::Log(asked) => Response::Log(store.log(id, &asked)?),
        Read::Batches { positions, bytes_max } => {
            let bytes_max = bytes_max.min(BATCHES_BYTES_MAX);
            let batches = store.read_batches(id, &positions, bytes_max as usize)?;
            let bytes: usize = batches.iter().map(|batch| batch.bytes().len()).sum();
            CATCH_UP_SERVED_BYTES.add(bytes as u64);
            Response::Batches(batches)
        }
    })
}

fn refusal(error: ReadError) -> Refusal {
    match error {
        ReadError::UnknownSegment(segment) => Refusal::UnknownSegment { segment },
        ReadError::Folded { read_point, through } => Refusal::BelowFloor {
            read_point,
            floor: Position::new(Epoch::ZERO, through),
        },
        ReadError::Collected(oldest) => Refusal::LogCollected {
            oldest: Position::new(Epoch::ZERO, oldest),
        },
        ReadError::Malformed(what) => Refusal::Malformed { what },
        ReadError::Engine(error) => {
            tracing::warn!(%error, "page.redo");
            Refusal::Redo {
                what: error.to_string(),
            }
        }
        other => {
            tracing::error!(error = %other, "page.read");
            Refusal::Damaged {
                what: other.to_string(),
            }
        }
    }
}
