//! What is asked of a storage node, and what it answers.
//!
//! Every message names the segment it is for. A node answers each request once, except [`Request::Append`], which is
//! acknowledged by position: one [`Response::Appended`] may answer many.

#![allow(
    missing_docs,
    reason = "a message's fields are named after what they carry; the message's text explains them"
)]

use bytes::Bytes;
use timeline::Path;
use units::{ClusterId, Epoch, GroupId, Lsn, Page, PageKey, Position, SegmentId, SegmentKind, VolumeId, Zone};

use crate::log::{LogAsked, LogPart};
pub use crate::versions::{VersionCursor, Versions, VersionsAsked};
use crate::{CatalogEntry, CatalogKey, EncodedBatch};

/// One of the six: a segment and where it lives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// The copy.
    pub segment: SegmentId,
    /// Name of the storage node that holds it, such as `storage-1`.
    pub node: String,
    /// Where that node listens, such as `127.0.0.1:7001`.
    pub address: String,
    /// The failure domain the node stands in.
    pub zone: Zone,
    /// What it keeps.
    pub kind: SegmentKind,
}

/// First message on every connection, in both directions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Version of this protocol; a peer with another one is refused.
    pub version: u32,
    /// The cluster both must belong to.
    pub cluster: ClusterId,
    /// The cluster's secret.
    pub secret: [u8; 32],
    /// Who is calling, for logs: `instance-1`, `storage-3`.
    pub name: String,
}

/// What the called node says to a [`Hello`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HelloAnswer {
    /// Go on; the node's name.
    Welcome { name: String },
    /// The connection is closed after this.
    Refused { reason: String },
}

/// How far a segment is, and what it was told by the holder of the epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// The segment.
    pub segment: SegmentId,
    /// The installed path of timelines.
    pub path: Path,
    /// Up to where it is complete; [`Position::ZERO`] if it does not count.
    pub complete: Position,
    /// The highest durable position it was told.
    pub durable: Position,
    /// The floor it was told.
    pub floor: Position,
    /// Where it was told that all copies are complete.
    pub all_complete: Position,
    /// Where it was told that all full copies are complete.
    pub on_every_full: Position,
}

/// What is asked of a storage node.
#[derive(Clone, PartialEq, Debug)]
pub enum Request {
    /// Make a new segment, born with the creator's epoch as its promise. Repeating it is harmless. Without `copy_from` it is
    /// empty and whole, as in a new group. With it, it takes the place of a copy that is lost or damaged: it copies everything
    /// from these members, acknowledges [`Position::ZERO`] and does not vouch until it is whole.
    CreateSegment {
        volume: VolumeId,
        group: GroupId,
        segment: SegmentId,
        kind: SegmentKind,
        epoch: Epoch,
        path: Path,
        members: Vec<Member>,
        copy_from: Vec<Member>,
    },
    /// Delete the segment and everything it holds. Only the holder of the epoch asks for it, once a membership without the
    /// segment is recorded. A node that has no such segment says that it is removed: repeating it is harmless.
    RemoveSegment { segment: SegmentId, epoch: Epoch },
    /// Promise to refuse everything older than `epoch` from now on, and tell what the segment holds, in one step.
    /// `path` leads to the last opened timeline, as the volume's record has it: a segment that slept through its opening
    /// learns of it here. `above` is the highest position known to be durable on it: flushes above it are listed.
    Promise {
        segment: SegmentId,
        epoch: Epoch,
        path: Path,
        above: Position,
    },
    /// The path of timelines as the record has it now, and the group's members. Sent by the holder of the epoch at first
    /// contact after the opening was decided; until then a segment takes no batch of the new epoch.
    Install {
        segment: SegmentId,
        epoch: Epoch,
        path: Path,
        members: Vec<Member>,
    },
    /// Keep this batch. `epoch` is the sender's reign (the batch may be an older one, copied); `durable` announces the
    /// volume's durable position.
    Append {
        segment: SegmentId,
        epoch: Epoch,
        durable: Position,
        batch: EncodedBatch,
    },
    /// Announce the durable position and the floor while there is nothing to append. `all_complete` is where
    /// every one of the group's segments is complete: below it no peer will ask for batches. `on_every_full` is where every
    /// full one is: below it nobody needs the log of a tail.
    Announce {
        segment: SegmentId,
        epoch: Epoch,
        durable: Position,
        floor: Position,
        all_complete: Position,
        on_every_full: Position,
    },
    /// Give batches of the path's history, oldest first, that end after `after` and at or before `through`, up to about
    /// `bytes_max` bytes, at least one.
    FetchBatches {
        segment: SegmentId,
        path: Path,
        after: Position,
        through: Position,
        bytes_max: u32,
    },
    /// Give versions of the path's history above `after`, of the keys from `from` on and below `until` (empty: to the last
    /// key), up to about `bytes_max` bytes as layers have them, at least one. This is how a copy catches up when no journal
    /// has the batches any more.
    FetchVersions {
        segment: SegmentId,
        path: Path,
        after: Position,
        from: VersionCursor,
        until: Bytes,
        bytes_max: u32,
    },
    /// Tell how far the segment is and what it was told: for a peer that hears nothing from the writer.
    TellStanding { segment: SegmentId },
    /// Give `count` pages of one fork, from `first` on, as of `read_point` on the timeline of `epoch`. The segment must be
    /// complete up to `needed`.
    ReadPages {
        segment: SegmentId,
        epoch: Epoch,
        read_point: Lsn,
        needed: Position,
        first: PageKey,
        count: u32,
    },
    /// Give the catalog's entries as of `read_point`, in key order after `after`, at most `entries_max` of them.
    ScanCatalog {
        segment: SegmentId,
        epoch: Epoch,
        read_point: Lsn,
        needed: Position,
        after: Option<CatalogKey>,
        entries_max: u32,
    },
    /// Give the header of the last flush that ends at or below `at` in the history of `epoch`.
    ReadFlushHeader { segment: SegmentId, epoch: Epoch, at: Lsn },
    /// Give the segment's share of the log again, as it came: records, and of group 0 the flush headers. The segment must have all
    /// of it.
    ReadLog { segment: SegmentId, asked: LogAsked },
    /// Tell how the node and its segments are.
    Status,
    /// Begin to read everything at rest again, from the beginning, even if a pass is under way. Answered like
    /// [`Request::Status`]: [`ScrubStatus::asked`] then names the pass.
    Scrub,
}

/// One flush in the answer to a promise: a link of the volume's chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldFlush {
    /// Its end.
    pub end: Position,
    /// The group's batch before it.
    pub previous: Position,
    /// How far the durable LSN may go with it.
    pub boundary: Lsn,
    /// The groups that have a part in it; empty in the answers of groups other than group 0.
    pub groups: Vec<GroupId>,
}

/// What a segment holds, said together with its promise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Promised {
    /// The segment.
    pub segment: SegmentId,
    /// The epoch promised: the asked one.
    pub epoch: Epoch,
    /// Whether the segment vouches for everything it ever acknowledged. If not, its answer gives data but counts for
    /// nothing.
    pub vouches: bool,
    /// The path of timelines it knows.
    pub path: Path,
    /// Up to where it is complete along that path.
    pub complete: Position,
    /// The highest durable position ever announced to it.
    pub durable: Position,
    /// Every batch above the asked position that it holds, complete or not, oldest first, of any timeline.
    pub held: Vec<HeldFlush>,
}

/// Health of one segment, in the answer to [`Request::Status`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentStatus {
    /// The segment.
    pub segment: SegmentId,
    /// Its volume.
    pub volume: VolumeId,
    /// Its group.
    pub group: GroupId,
    /// What it keeps.
    pub kind: SegmentKind,
    /// What it promised.
    pub promised: Epoch,
    /// Up to where it is complete.
    pub complete: Position,
    /// The durable position it knows.
    pub durable: Position,
    /// The announced floor under which it may fold versions: one that it remembers after a restart.
    pub floor: Position,
    /// Bytes in its layers.
    pub layer_bytes: u64,
    /// False once something that it held is lost or damaged. A segment that is only copying has lost nothing.
    pub vouches: bool,
    /// It lacks log that its peers no longer have, and takes what is missing from their layers.
    pub stranded: bool,
    /// It was born as a copy of others and is not whole yet: `complete` is [`Position::ZERO`], and it has no vote.
    pub copying: bool,
    /// Up to where it holds everything, whether that counts or not.
    pub copied_through: Position,
    /// Bytes taken from the layers of peers since it last began to, and about how many there are.
    pub copied_bytes: u64,
    /// See `copied_bytes`.
    pub copied_bytes_expected: u64,
    /// What it lost is being taken from its peers, or will be: it vouches again after that.
    pub mending: bool,
}

/// In one word how a segment is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentHealth {
    /// It has everything that is durable.
    Complete,
    /// It lacks something that is on its way.
    CatchingUp,
    /// It was born as a copy of others and is not whole yet.
    Copying,
    /// It lacks log that its peers no longer have, and takes what is missing from their layers.
    Stranded,
    /// Something that it held is lost, and is being taken from its peers.
    Mending,
    /// Something that it acknowledged is lost: it waits for a new segment to take its place.
    Damaged,
}

impl SegmentStatus {
    /// In one word.
    pub fn health(&self) -> SegmentHealth {
        match self {
            SegmentStatus {
                vouches: false,
                mending: true,
                ..
            } => SegmentHealth::Mending,
            SegmentStatus { vouches: false, .. } => SegmentHealth::Damaged,
            SegmentStatus { copying: true, .. } => SegmentHealth::Copying,
            SegmentStatus { stranded: true, .. } => SegmentHealth::Stranded,
            status if status.complete.lsn < status.durable.lsn => SegmentHealth::CatchingUp,
            _ => SegmentHealth::Complete,
        }
    }
}

/// What a node has read again of what it has at rest. Passes are numbered from one since it was started.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ScrubStatus {
    /// The last pass that was asked for, or begun by itself.
    pub asked: u64,
    /// The last pass that was done. A later one that was asked for ends one that is under way: it has no end of its own.
    pub ended: u64,
    /// When that was, in seconds since 1970; zero: there was none yet.
    pub ended_at: u64,
    /// A pass is under way.
    pub is_under_way: bool,
    /// Bytes read by the pass that is under way, or by the last one.
    pub bytes: u64,
    /// Bytes that there were to read when it began, about.
    pub bytes_expected: u64,
    /// Files found damaged, by whatever read them.
    pub damaged: u64,
    /// Of these, files whose content is whole again.
    pub mended: u64,
    /// Why the last pass could not read everything: the disk does not answer.
    pub failed: Option<String>,
}

/// Health of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeStatus {
    /// Its segments.
    pub segments: Vec<SegmentStatus>,
    /// Bytes in its journal.
    pub journal_bytes: u64,
    /// Bytes its memory tables hold.
    pub memory_table_bytes: u64,
    /// Pages served since the start.
    pub pages_read: u64,
    /// Why it takes no more log, if so: disk full, a failed sync.
    pub stopped: Option<String>,
    /// What became of what it has at rest.
    pub scrub: ScrubStatus,
}

/// Why a segment does not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// A later reign was promised: the sender is fenced.
    #[error("epoch {asked} is over: epoch {promised} holds the volume")]
    StaleEpoch { asked: Epoch, promised: Epoch },
    /// The node has no such segment.
    #[error("this node has no segment {segment}")]
    UnknownSegment { segment: SegmentId },
    /// The segment does not know the timeline (not installed yet, or never on its path).
    #[error("the timeline of epoch {epoch} is not known here")]
    UnknownTimeline { epoch: Epoch },
    /// The segment is not complete up to what the request needs; another copy may be.
    #[error("this copy is complete up to {complete}, not up to {needed}")]
    NotComplete { complete: Position, needed: Position },
    /// The read point lies below the floor: the version may be gone.
    #[error("read point {read_point} lies below the floor {floor}")]
    BelowFloor { read_point: Lsn, floor: Position },
    /// A question for pages to a tail, which has none.
    #[error("this copy keeps log only")]
    LogOnly,
    /// The log asked for is no longer kept here.
    #[error("log below {oldest} is no longer kept here")]
    LogCollected { oldest: Position },
    /// The copy cannot be trusted: rot, a failed sync, a lost file.
    #[error("this copy is damaged: {what}")]
    Damaged { what: String },
    /// The node takes no more log for now: disk full, a failed sync.
    #[error("this node takes no more log: {what}")]
    Stopped { what: String },
    /// The engine could not make the page from its records.
    #[error("page cannot be made: {what}")]
    Redo { what: String },
    /// The request contradicts itself or what is known.
    #[error("malformed request: {what}")]
    Malformed { what: String },
}

/// What a storage node answers.
#[derive(Clone, PartialEq, Debug)]
pub enum Response {
    /// The segment exists.
    SegmentCreated,
    /// The promise, and what is held.
    Promised(Promised),
    /// The path is installed. `vouches` is false if the segment no longer vouches for everything it ever acknowledged; it
    /// then is complete up to nothing.
    Installed {
        segment: SegmentId,
        complete: Position,
        vouches: bool,
    },
    /// Synced: the segment holds everything of its group up to `complete`, on the path of the sender's epoch.
    Appended {
        segment: SegmentId,
        epoch: Epoch,
        complete: Position,
    },
    /// Announcement taken. Also tells where the segment stands, and whether it has a vote: a copy that is whole of a group that
    /// nobody ever wrote is complete up to nothing, like one that is not.
    Announced {
        segment: SegmentId,
        complete: Position,
        vouches: bool,
    },
    /// The segment is gone, or never was.
    SegmentRemoved,
    /// A part of the versions.
    Versions(Versions),
    /// How far a segment is.
    Standing(Standing),
    /// A part of the log.
    Log(LogPart),
    /// Batches, oldest first.
    Batches(Vec<EncodedBatch>),
    /// Pages, in block order.
    Pages(Vec<Page>),
    /// Catalog entries with values, in key order; fewer than asked for if they are long. None: the end.
    Catalog(Vec<CatalogEntry>),
    /// A flush header: end of its flush, the flush before it, and the encoded header's parts that recovery needs.
    FlushHeader {
        end: Position,
        previous: Position,
        boundary: Lsn,
        marks: Bytes,
    },
    /// How the node is.
    Status(NodeStatus),
    /// Refused.
    Refused(Refusal),
}
