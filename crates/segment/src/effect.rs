//! What a segment asks of its shell.

use bytes::Bytes;
use timeline::Path;
use units::{Lsn, PageKey, Position};
use wire_format::log::LogAsked;
use wire_format::message::{Member, Request, Response, VersionsAsked};
use wire_format::{CatalogKey, EncodedBatch};

use crate::PartId;

/// What the shell has to do, in this order.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// Journal the segment's state; it replaces the one before.
    KeepState(Bytes),
    /// Journal this batch.
    KeepBatch(EncodedBatch),
    /// Answer the request of this step, once everything journaled so far is synced.
    Answer(Response),
    /// Carry out this read, for the request of this step.
    Read(Read),
    /// The segment is not wanted any more: journal that, and remove it with everything it holds.
    Remove,
    /// Ask a peer for versions, and write what it gives; what became of it comes back through
    /// [`Segment::taken`](crate::Segment::taken).
    Take {
        /// Who is asked.
        peer: Member,
        /// What: a [`Request::FetchVersions`].
        request: Request,
        /// Which part of which pass it belongs to.
        part: PartId,
    },
    /// Ask a peer; its answer comes back through [`Segment::fetched`](crate::Segment::fetched).
    Fetch {
        /// Who is asked.
        peer: Member,
        /// What.
        request: Request,
    },
}

/// A read that was found permissible: every version it needs is here.
#[derive(Clone, PartialEq, Debug)]
pub enum Read {
    /// Pages of one fork, as of a read point.
    Pages {
        /// The history to read along.
        path: Path,
        /// As of where.
        read_point: Lsn,
        /// The first page.
        first: PageKey,
        /// How many.
        count: u32,
    },
    /// Catalog entries, as of a read point.
    Catalog {
        /// The history to read along.
        path: Path,
        /// As of where.
        read_point: Lsn,
        /// Only keys after this one.
        after: Option<CatalogKey>,
        /// At most so many.
        entries_max: u32,
    },
    /// The header of the last flush at or below a position.
    FlushHeader {
        /// The history to look along.
        path: Path,
        /// The position.
        at: Lsn,
    },
    /// Versions of every key, in the order of keys.
    Versions(VersionsAsked),
    /// The segment's share of the log.
    Log(LogAsked),
    /// These batches, oldest first, up to about so many bytes, at least one.
    Batches {
        /// Their names.
        positions: Vec<Position>,
        /// The limit.
        bytes_max: u32,
    },
}

/// Where a segment stands on its timeline: what the page store may fold, collect and recycle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Horizon {
    /// The installed path of timelines.
    pub path: Path,
    /// Announced as durable: nothing above is folded.
    pub durable: Position,
    /// The announced floor, as far as a synced state remembers it: older versions may be collapsed.
    pub floor: Position,
    /// Every copy is complete up to here: no peer asks for batches below.
    pub all_complete: Position,
    /// Of a tail: what lies at or below is to be dropped, and everything above is kept as it came.
    pub let_go: Option<Position>,
}
