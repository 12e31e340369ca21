//! Making a new volume: six segments, and the record that names them.

use units::{Epoch, GroupId, Lsn, SegmentId, SegmentKind, VolumeId};
use wire_format::{Member, Request};

use crate::record::{GroupRecord, MemberRecord, OpenedTimeline, RECORD_VERSION, VolumeRecord};
use crate::segment_kinds::SegmentKinds;
use crate::stripes::Geometry;

/// The reign that imports the first content.
pub const IMPORT_EPOCH: Epoch = Epoch::from_raw(1);

/// The record of a volume that has nothing yet but its segments. Its first timeline is the import's.
pub fn record(volume: VolumeId, members: Vec<MemberRecord>) -> VolumeRecord {
    VolumeRecord {
        format_version: RECORD_VERSION,
        volume,
        timelines: vec![OpenedTimeline {
            epoch: IMPORT_EPOCH,
            parent: Epoch::ZERO,
            branch: Lsn::ZERO,
            seal: None,
        }],
        groups: vec![GroupRecord {
            group: GroupId::FIRST.raw(),
            membership_version: 1,
            members,
            joining: None,
        }],
        floor: Lsn::ZERO,
        log_floor: Lsn::ZERO,
        pins: Vec::new(),
        retention_seconds: 0,
        group_blocks: Geometry::DEFAULT.group_blocks,
        stripe_blocks: Geometry::DEFAULT.stripe_blocks,
        segments: SegmentKinds::Full,
    }
}

/// The same new volume with segments of these kinds.
pub fn with_segments(record: VolumeRecord, segments: SegmentKinds) -> VolumeRecord {
    let mut next = VolumeRecord { segments, ..record };
    next.groups
        .iter_mut()
        .for_each(|group| segments.assign(&mut group.members, |_| 0));
    next
}

/// The same volume, made by a later reign: an attempt to make it that broke off before has no place in its history, and what
/// that attempt wrote is invisible.
pub fn begun_anew(plan: &VolumeRecord, epoch: Epoch) -> VolumeRecord {
    let root = OpenedTimeline {
        epoch,
        parent: Epoch::ZERO,
        branch: Lsn::ZERO,
        seal: None,
    };
    VolumeRecord {
        timelines: vec![root],
        ..plan.clone()
    }
}

/// The request that makes one of the segments, with the creating reign's epoch as its promise.
pub fn create_segment(record: &VolumeRecord, segment: SegmentId) -> Result<Request, crate::record::RecordError> {
    let members: Vec<Member> = record.members();
    let path = record.path()?;
    let kind = members.iter().find(|member| member.segment == segment);
    Ok(Request::CreateSegment {
        volume: record.volume,
        group: GroupId::FIRST,
        segment,
        kind: kind.map_or_else(SegmentKind::default, |member| member.kind),
        epoch: path.epoch(),
        path,
        members,
        copy_from: Vec::new(),
    })
}

/// The request that makes a copy of a group that has content: it copies that from the others, and has no vote before it is whole.
/// The copy that it replaces may be among those that it copies from. Pages come from full copies only.
pub fn create_copy(
    record: &VolumeRecord,
    group: &GroupRecord,
    new: &MemberRecord,
) -> Result<Request, crate::record::RecordError> {
    let path = record.path()?;
    let members = group.all_members().iter().map(MemberRecord::member).collect();
    let gives = |member: &&MemberRecord| new.kind == SegmentKind::Tail || member.kind == SegmentKind::Full;
    Ok(Request::CreateSegment {
        volume: record.volume,
        group: GroupId::from_raw(group.group),
        segment: new.segment,
        kind: new.kind,
        epoch: path.epoch(),
        path,
        members,
        copy_from: group.members.iter().filter(gives).map(MemberRecord::member).collect(),
    })
}
