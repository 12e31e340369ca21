//! What of a segment must survive: a small record in the node's journal, replaced whenever it changes.

use bytes::Bytes;
use timeline::Path;
use units::{Epoch, GroupId, Position, SegmentId, SegmentKind, VolumeId};
use wire_format::CodecError;
use wire_format::codec::{Reader, Writer};
use wire_format::message::Member;

/// Version of the record.
pub const STATE_VERSION: u8 = 3;

/// Bytes that are no segment's state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a segment's state cannot be read: {0}")]
pub struct StateError(#[from] CodecError);

/// Everything of a segment that is neither log nor pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentState {
    /// Whose log it keeps.
    pub volume: VolumeId,
    /// Which group of it.
    pub group: GroupId,
    /// Its identity: random, made at its birth, never reused.
    pub segment: SegmentId,
    /// What it keeps: log and pages, or log only.
    pub kind: SegmentKind,
    /// It refuses every epoch below this one.
    pub promised: Epoch,
    /// The path of timelines that was last installed.
    pub path: Path,
    /// The group's copies, itself among them.
    pub members: Vec<Member>,
    /// Complete up to here even without the batches that the journal holds.
    pub complete: Position,
    /// The highest durable position announced, as of the last time this record was written, or above.
    pub durable: Position,
    /// The announced floor, as of the last time this record was written, or above.
    pub floor: Position,
    /// Where all six were complete.
    pub all_complete: Position,
    /// Where all full copies were.
    pub on_every_full: Position,
    /// It holds nothing at or below this: a tail lets go of log that every full copy has.
    pub let_go: Position,
    /// It was born as a copy of others and is not whole yet: it neither votes nor acknowledges.
    pub copying: bool,
    /// Whom it copies, while it does: its group's other members, unless it was told otherwise.
    pub copy_from: Vec<Member>,
    /// What it took from its peers' layers may lack versions that reads below this need: it reads nothing before it is
    /// complete up to here.
    pub reads_from: Position,
}

impl SegmentState {
    /// Its bytes. The journal adds a checksum.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(512);
        out.u8(STATE_VERSION);
        out.raw(&self.volume.bytes());
        out.varint(u64::from(self.group.raw()));
        out.raw(&self.segment.bytes());
        out.kind(self.kind);
        out.epoch(self.promised);
        out.path(&self.path);
        out.members(&self.members);
        for position in [
            self.complete,
            self.durable,
            self.floor,
            self.all_complete,
            self.on_every_full,
            self.let_go,
        ] {
            out.position(position);
        }
        out.bool(self.copying);
        out.members(&self.copy_from);
        out.position(self.reads_from);
        out.finish()
    }

    /// The state in `bytes`.
    pub fn decode(bytes: Bytes) -> Result<SegmentState, StateError> {
        let mut input = Reader::new(bytes);
        let found = input.u8("state version")?;
        if found != STATE_VERSION {
            return Err(StateError(CodecError::Version {
                found,
                spoken: STATE_VERSION,
            }));
        }
        let state = SegmentState {
            volume: VolumeId::from_bytes(input.array("volume")?),
            group: GroupId::from_raw(input.u32("group")?),
            segment: input.segment()?,
            kind: input.kind()?,
            promised: input.epoch("promise")?,
            path: input.path()?,
            members: input.members()?,
            complete: input.position("complete position")?,
            durable: input.position("durable position")?,
            floor: input.position("floor")?,
            all_complete: input.position("complete position")?,
            on_every_full: input.position("complete position")?,
            let_go: input.position("end of what is gone")?,
            copying: input.bool("copying")?,
            copy_from: input.members()?,
            reads_from: input.position("first read point")?,
        };
        input.finish()?;
        Ok(state)
    }
}
