//! How a simulated volume begins: its nodes, its groups and its first writer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use segment::Segment;
use units::{GroupId, Lsn, Position, SegmentKind, VolumeId};
use volume::growth;
use volume::placement::Wish;
use volume::record::MemberRecord;
use volume::{GroupMembers, Shipper, ShipperLimits, VolumeRecord, creation};

use super::{FAULTS_FROM, NODES, SPARES, World, storage_node};
use crate::Broken;
use crate::checker::Checker;
use crate::disk::Disk;
use crate::event::Event;
use crate::holding::Holding;
use crate::layout::Layout;
use crate::metadata::Metadata;
use crate::mistakes::Focus;
use crate::node::Node;
use crate::random::Random;
use crate::tally::Tally;
use crate::weather::Weather;
use crate::writer::{FLUSH_BYTES, Stage, Writer};

impl World {
    /// A new volume, with its first writer.
    pub(crate) fn new(seed: u64, broken: Option<Broken>, focus: Focus) -> World {
        let mut random = Random::new(seed);
        let weather = Weather::any(&mut random, focus);
        let nodes = if weather.spares { NODES + SPARES } else { NODES };
        let record = creation::record(VolumeId::from_bytes([7; 16]), Vec::new());
        let mut world = World {
            weather,
            random,
            tally: Tally::default(),
            broken,
            now: Duration::ZERO,
            scheduled: 0,
            events: BTreeMap::new(),
            nodes: Vec::new(),
            wishes: vec![Wish::Keep; nodes],
            homes: BTreeMap::new(),
            on_node: vec![Vec::new(); nodes],
            births: BTreeMap::new(),
            segments_made: 0,
            writers: Vec::new(),
            links: BTreeMap::new(),
            cuts: BTreeMap::new(),
            metadata: Metadata::new(
                record.clone(),
                creation::IMPORT_EPOCH,
                broken == Some(Broken::LooseSwap),
            ),
            checker: Checker::default(),
            wiped: BTreeSet::new(),
            unborn: BTreeSet::new(),
            lost_since: BTreeMap::new(),
            replaced: 0,
            taken_back: 0,
            rebuilt: 0,
            mended: 0,
            grown: 0,
            pages_read: 0,
            outdated_stops: 0,
            layered: 0,
            messages: 0,
            ticks: 0,
            steps: 0,
            history: seed,
        };
        let record = world.first_record(record);
        world.metadata = Metadata::new(
            record.clone(),
            creation::IMPORT_EPOCH,
            broken == Some(Broken::LooseSwap),
        );
        for at in 0..nodes {
            let mut disk = Disk::new(&mut world.random);
            let here = world.on_node[at].iter();
            let births: Vec<_> = here.map(|segment| (*segment, world.births[segment].clone())).collect();
            disk.bear(&births);
            world.nodes.push(Node::new(disk, &world.random));
            world.start_node(at).expect("a segment that was just born is complete");
        }
        let grouped = world.grouped(&record);
        grouped.expect("nothing is acknowledged yet");
        world.add_first_writer(record);
        world.schedule(FAULTS_FROM, Event::Fault);
        world.schedule(FAULTS_FROM, Event::Supervise);
        world
    }

    /// The record of the volume with as many groups as it begins with, whose segments are born.
    fn first_record(&mut self, mut record: VolumeRecord) -> VolumeRecord {
        (record.group_blocks, record.stripe_blocks) =
            (self.weather.geometry.group_blocks, self.weather.geometry.stripe_blocks);
        let six = (0..NODES).map(|node| self.member(node, GroupId::FIRST, SegmentKind::Full));
        record.groups[0].members = six.collect();
        record = creation::with_segments(record, self.weather.segments);
        let nodes: Vec<_> = (0..self.on_node.len()).map(storage_node).collect();
        for group in 1..self.weather.groups {
            let next = growth::next_group(&record, &nodes, None, || self.identities()).expect("two nodes a zone");
            assert_eq!(next.group, group);
            self.settle_homes(&next);
            record.groups.push(next);
        }
        let path = record.path().expect("a new volume has one timeline");
        for group in &record.groups {
            for member in &group.members {
                let request = growth::create_segment(&record, &path, group, member.segment);
                let segment = Segment::create(&request, &mut Vec::new()).expect("the request is one for a new segment");
                self.births.insert(member.segment, segment.state());
            }
        }
        record
    }

    fn add_first_writer(&mut self, record: VolumeRecord) {
        let path = record.path().expect("a new volume has one timeline");
        let limits = ShipperLimits {
            window_bytes_max: 10 * FLUSH_BYTES,
            small_flushes_max: usize::MAX,
            retained_bytes_max: 4000,
        };
        let mut shipper = Shipper::new(record.volume, path, record.members(), Position::ZERO, Lsn::ZERO, limits);
        for group in &record.groups[1..] {
            shipper.add_group(GroupMembers {
                group: GroupId::from_raw(group.group),
                membership: group.membership(),
                members: group.members.iter().map(MemberRecord::member).collect(),
                last: Some(Position::ZERO),
            });
        }
        let mut first = Writer::new(creation::IMPORT_EPOCH, 1, Stage::Writing(Box::new(shipper)));
        first.layout = Some(Layout::read(&[], record.geometry(), record.groups.len(), Lsn::ZERO));
        first.holding = Some(Box::new(Holding::of(record)));
        self.add_writer(first);
    }
}
