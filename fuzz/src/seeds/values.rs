//! Values of which messages and states are made.

use bytes::Bytes;
use segment::SegmentState;
use timeline::{Branch, Path};
use units::{Epoch, GroupId, Lsn, Position, RelationKey, SegmentId, VolumeId, Zone, fork};
use volume::record::{self, VolumeRecord};
use wire_format::message::Member;
use wire_format::{Batch, CatalogEntry, CatalogKey, EncodedBatch, FlushHeader, Item};

use super::log::marks;

pub(super) const SEGMENT: SegmentId = SegmentId::from_bytes([7; 16]);
pub(super) const VOLUME: VolumeId = VolumeId::from_bytes([1; 16]);
pub(super) const FORK: units::ForkKey = RelationKey {
    tablespace: 1663,
    database: 5,
    relation: 16384,
}
.fork(fork::MAIN);

pub(super) fn at(epoch: u64, lsn: u64) -> Position {
    Position::new(Epoch::from_raw(epoch), Lsn::from_raw(lsn))
}

pub(super) fn path() -> Path {
    let branch = |epoch, parent| Branch {
        epoch: Epoch::from_raw(epoch),
        parent,
    };
    Path::new(vec![branch(1, Position::ZERO), branch(3, at(1, 2000))]).expect("each leaves the one before")
}

pub(super) fn members() -> Vec<Member> {
    let member = |(number, zone): (u8, Zone)| Member {
        segment: SegmentId::from_bytes([number; 16]),
        node: format!("storage-{number}"),
        address: format!("127.0.0.1:700{number}"),
        zone,
        kind: units::SegmentKind::Full,
    };
    (1..)
        .zip([Zone::A, Zone::A, Zone::B, Zone::B, Zone::C, Zone::C])
        .map(member)
        .collect()
}

pub(super) fn batch() -> EncodedBatch {
    let record = Bytes::from_static(b"a record that is not one of PostgreSQL's");
    let lsn = Lsn::from_raw;
    EncodedBatch::new(Batch {
        volume: VOLUME,
        group: GroupId::FIRST,
        epoch: Epoch::from_raw(1),
        end: lsn(5000),
        previous: at(1, 1000),
        header: Some(FlushHeader {
            groups: vec![GroupId::FIRST],
            boundary: lsn(4000),
            written_at_us: 1_700_000_000_000_000,
            marks: marks().into(),
            catalog: vec![
                CatalogEntry {
                    key: CatalogKey::ForkBlocks(FORK),
                    lsn: lsn(1500),
                    value: Some(Bytes::from_static(&[3, 0, 0, 0])),
                },
                CatalogEntry {
                    key: CatalogKey::Blob("global/pg_filenode.map".to_owned()),
                    lsn: lsn(1600),
                    value: None,
                },
            ],
            page_flags: vec![(lsn(0), 4)],
        }),
        items: vec![
            Item::Record {
                end: lsn(1500),
                bytes: record.clone(),
            },
            Item::Fragment {
                end: lsn(6000),
                record_bytes: 80,
                offset: 0,
                bytes: record,
            },
        ],
        elsewhere: Vec::new(),
    })
}

pub(super) fn segment_state() -> Vec<u8> {
    let state = SegmentState {
        volume: VOLUME,
        group: GroupId::FIRST,
        segment: SEGMENT,
        kind: units::SegmentKind::Tail,
        promised: Epoch::from_raw(3),
        path: path(),
        members: members(),
        complete: at(3, 5000),
        durable: at(3, 4000),
        floor: at(1, 100),
        all_complete: at(3, 3000),
        on_every_full: at(3, 3500),
        let_go: at(3, 2000),
        copying: true,
        copy_from: members(),
        reads_from: at(1, 100),
    };
    state.encode().to_vec()
}

pub(super) fn volume_record() -> Vec<u8> {
    let member = |member: Member| record::MemberRecord {
        segment: member.segment,
        node: member.node,
        address: member.address,
        zone: member.zone,
        kind: member.kind,
    };
    let timeline = |epoch, parent: Position| record::OpenedTimeline {
        epoch: Epoch::from_raw(epoch),
        parent: parent.epoch,
        branch: parent.lsn,
        seal: None,
    };
    let record = VolumeRecord {
        format_version: record::RECORD_VERSION,
        volume: VOLUME,
        timelines: vec![timeline(1, Position::ZERO), timeline(3, at(1, 2000))],
        groups: vec![record::GroupRecord {
            group: 0,
            membership_version: 1,
            members: members().into_iter().map(member).collect(),
            joining: None,
        }],
        floor: Lsn::from_raw(100),
        log_floor: Lsn::from_raw(50),
        pins: vec!["0/5".to_owned()],
        retention_seconds: 600,
        group_blocks: 1280,
        stripe_blocks: 128,
        segments: volume::SegmentKinds::Full,
    };
    record.to_text().into_bytes()
}
