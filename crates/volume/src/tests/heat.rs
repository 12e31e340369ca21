//! Copies that move away from full and slow disks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use units::{GroupId, SegmentId, VolumeId, Zone};

use crate::creation;
use crate::heat::{Heat, HeatLimits, HeatMove, HeatReason};
use crate::placement::{StorageNode, Wish};
use crate::record::{GroupRecord, MemberRecord, VolumeRecord};

const LIMITS: HeatLimits = HeatLimits {
    free_percent_min: 10,
    slow_factor: 5,
    slow_after: Duration::from_secs(120),
    pause: Duration::from_secs(60),
};
const GIB: u64 = 1 << 30;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn segment(group: u32, number: usize) -> SegmentId {
    SegmentId::from_bytes([group as u8 + 1, number as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
}

/// A fleet whose disks have 100 GiB: nodes 0, 3, 6 … stand in zone a, and so on. The six of each group are on the first ones.
struct Fleet {
    nodes: Vec<StorageNode>,
    record: VolumeRecord,
    copy_bytes: BTreeMap<SegmentId, u64>,
    lost: BTreeSet<SegmentId>,
    heat: Heat,
}

impl Fleet {
    fn new(free_gib: &[u64], groups_count: u32, copy_gib: u64) -> Fleet {
        let node = |(at, free_gib): (usize, &u64)| StorageNode {
            name: format!("storage-{at}"),
            zone: Zone::ALL[at % 3],
            address: String::new(),
            is_alive: true,
            is_overdue: false,
            wish: Wish::Keep,
            disk_used_bytes: (100 - free_gib) * GIB,
            disk_total_bytes: 100 * GIB,
            held_bytes: 0,
            sync_time: Some(Duration::from_millis(2)),
        };
        let nodes: Vec<StorageNode> = free_gib.iter().enumerate().map(node).collect();
        let group = |group: u32| GroupRecord {
            group,
            membership_version: 1,
            members: (0..6)
                .map(|at| MemberRecord {
                    segment: segment(group, at),
                    node: nodes[at].name.clone(),
                    address: String::new(),
                    zone: nodes[at].zone,
                    kind: units::SegmentKind::Full,
                })
                .collect(),
            joining: None,
        };
        let mut record = creation::record(VolumeId::from_bytes([1; 16]), Vec::new());
        record.groups = (0..groups_count).map(group).collect();
        let members = record.groups.iter().flat_map(|group| &group.members);
        Fleet {
            copy_bytes: members.map(|member| (member.segment, copy_gib * GIB)).collect(),
            lost: BTreeSet::new(),
            heat: Heat::default(),
            nodes,
            record,
        }
    }

    fn decide(&mut self, now: Duration) -> Option<HeatMove> {
        let (nodes, bytes) = (&self.nodes, &self.copy_bytes);
        self.heat.decide(now, &LIMITS, &self.record, nodes, bytes, &self.lost)
    }

    /// The copy has moved.
    fn carry_out(&mut self, chosen: &HeatMove) {
        let bytes = self.copy_bytes[&chosen.leaving];
        let groups = self.record.groups.iter_mut().flat_map(|group| &mut group.members);
        for member in groups.filter(|member| member.segment == chosen.leaving) {
            for node in &mut self.nodes {
                if node.name == member.node {
                    node.disk_used_bytes -= bytes.min(node.disk_used_bytes);
                } else if node.name == chosen.to.name {
                    node.disk_used_bytes += bytes;
                }
            }
            member.node = chosen.to.name.clone();
        }
    }
}

#[test]
fn the_largest_copy_leaves_a_full_disk_for_the_emptiest_of_its_zone() {
    let mut fleet = Fleet::new(&[5, 50, 50, 50, 50, 50, 40, 90, 90, 60], 3, 2);
    fleet.copy_bytes.insert(segment(1, 0), 8 * GIB);
    let chosen = fleet.decide(seconds(0)).expect("storage-0 is full");
    assert_eq!((chosen.group, chosen.leaving), (GroupId::from_raw(1), segment(1, 0)));
    assert_eq!(
        (chosen.to.name.as_str(), chosen.reason),
        ("storage-9", HeatReason::Full)
    );
    assert_eq!(chosen.why, "the disk of storage-0 has 5120 MiB free of 102400 MiB");
    // One after the other, and none once it has room again.
    assert_eq!(fleet.decide(seconds(59)), None);
    fleet.carry_out(&chosen);
    assert_eq!(fleet.decide(seconds(60)), None);
}

#[test]
fn where_no_disk_is_clearly_better_nothing_moves() {
    // All are full; all share one disk; the other one of the zone would be nearly full with it.
    for free_gib in [
        [5, 5, 5, 5, 5, 5, 5],
        [8, 8, 8, 8, 8, 8, 8],
        [5, 90, 90, 50, 90, 90, 21],
    ] {
        let mut fleet = Fleet::new(&free_gib, 2, 2);
        assert_eq!(fleet.decide(seconds(0)), None, "{free_gib:?}");
    }
    let mut fleet = Fleet::new(&[5, 90, 90, 50, 90, 90, 22], 2, 2);
    assert!(fleet.decide(seconds(0)).is_some(), "22 GiB are enough for 2 more");
}

#[test]
fn nothing_moves_while_a_copy_is_lost_or_a_node_is_away() {
    let mut fleet = Fleet::new(&[5, 50, 50, 50, 50, 50, 60], 1, 2);
    fleet.lost.insert(segment(0, 4));
    assert_eq!(fleet.decide(seconds(0)), None);
    fleet.lost.clear();
    fleet.nodes[4].is_alive = false;
    assert_eq!(fleet.decide(seconds(1)), None);
    fleet.nodes[4].is_alive = true;
    fleet.nodes[6].wish = Wish::Drain;
    assert_eq!(fleet.decide(seconds(2)), None);
    fleet.nodes[6].wish = Wish::Keep;
    assert!(fleet.decide(seconds(3)).is_some());
}

#[test]
fn a_disk_that_is_slow_for_minutes_loses_its_copies_group_0_first() {
    let mut fleet = Fleet::new(&[50; 7], 3, 2);
    fleet.nodes[6].sync_time = None;
    fleet.nodes[0].sync_time = Some(Duration::from_millis(9));
    assert_eq!(
        (0..300).find_map(|now| fleet.decide(seconds(now))),
        None,
        "no disk of that speed is slow"
    );
    fleet.nodes[0].sync_time = Some(Duration::from_millis(40));
    let is_slow = (300..420).find_map(|now| fleet.decide(seconds(now)));
    assert_eq!(is_slow, None, "not for long enough");
    // A little quicker is not quick.
    fleet.nodes[0].sync_time = Some(Duration::from_millis(11));
    let chosen = fleet.decide(seconds(420)).expect("slow for two minutes");
    assert_eq!((chosen.group, chosen.leaving), (GroupId::FIRST, segment(0, 0)));
    assert_eq!(
        (chosen.to.name.as_str(), chosen.reason),
        ("storage-6", HeatReason::Slow)
    );
    assert_eq!(
        chosen.why,
        "the disk of storage-0 has been slow for 120 s: a sync takes 11 ms, 2 ms on the others"
    );
    fleet.carry_out(&chosen);
    fleet.nodes[0].sync_time = Some(Duration::from_millis(2));
    assert_eq!(
        (421..1000).find_map(|now| fleet.decide(seconds(now))),
        None,
        "it is quick again"
    );
}

/// A disk that has nothing to sync does not look slow: copies do not go back and forth between two slow ones.
#[test]
fn copies_do_not_go_back_to_a_disk_that_was_slow() {
    let mut fleet = Fleet::new(&[50; 7], 1, 2);
    fleet.nodes[6].sync_time = None;
    fleet.nodes[0].sync_time = Some(Duration::from_millis(50));
    let mut moves = 0;
    for now in 0..3000 {
        if let Some(chosen) = fleet.decide(seconds(now)) {
            moves += 1;
            fleet.carry_out(&chosen);
            let (left, right) = fleet.nodes.split_at_mut(6);
            std::mem::swap(&mut left[0].sync_time, &mut right[0].sync_time);
        }
    }
    assert_eq!(moves, 1);
}

/// What one disk is slower than is what the others are: a fleet that is slow as a whole moves nothing.
#[test]
fn a_fleet_that_is_slow_as_a_whole_moves_nothing() {
    let mut fleet = Fleet::new(&[50; 8], 2, 2);
    for (at, node) in fleet.nodes.iter_mut().enumerate() {
        node.sync_time = Some(Duration::from_millis(200 + 100 * (at as u64 % 3)));
    }
    assert_eq!((0..1000).find_map(|now| fleet.decide(seconds(now))), None);
}

proptest! {
    /// Whatever the disks are like: moves come one at a time, each goes to a disk of the same zone that is better with the
    /// copy than the other one, no copy comes back, and they come to an end.
    #[test]
    fn moves_are_few_and_never_undone(
        free_gib in proptest::collection::vec(0..100_u64, 6..14),
        groups_count in 1..6_u32,
        copy_gib in proptest::collection::vec(0..12_u64, 36),
        slow in proptest::collection::btree_set(0..14_usize, 0..3),
    ) {
        let mut fleet = Fleet::new(&free_gib, groups_count, 0);
        for (bytes, gib) in fleet.copy_bytes.values_mut().zip(copy_gib) {
            *bytes = gib * GIB;
        }
        for at in slow.into_iter().filter(|at| *at < free_gib.len()) {
            fleet.nodes[at].sync_time = Some(Duration::from_millis(100));
        }
        let mut places: BTreeMap<SegmentId, Vec<String>> = BTreeMap::new();
        let (mut moved_at, mut moves) = (None, 0);
        for now in (0..20_000).step_by(10).map(seconds) {
            let Some(chosen) = fleet.decide(now) else {
                continue;
            };
            prop_assert!(moved_at.is_none_or(|at| at + LIMITS.pause <= now));
            (moved_at, moves) = (Some(now), moves + 1);
            let group = fleet.record.group(chosen.group).expect("its group").clone();
            let member = group.members.iter().find(|member| member.segment == chosen.leaving).expect("a copy of it").clone();
            prop_assert_eq!(member.zone, chosen.to.zone);
            prop_assert!(group.members.iter().all(|member| member.node != chosen.to.name));
            let been = places.entry(chosen.leaving).or_insert_with(|| vec![member.node.clone()]);
            prop_assert!(!been.contains(&chosen.to.name), "{} was on {been:?}", chosen.leaving);
            been.push(chosen.to.name.clone());
            fleet.carry_out(&chosen);
            let free = |name: &str| fleet.nodes.iter().find(|node| node.name == name).and_then(StorageNode::free_bytes);
            if chosen.reason == HeatReason::Full {
                prop_assert!(free(&member.node) < free(&chosen.to.name));
                prop_assert!(Some(20 * GIB) <= free(&chosen.to.name));
            }
        }
        prop_assert!(moves <= 2 * 6 * groups_count, "{moves} moves");
        prop_assert!(moved_at.is_none_or(|at| at < seconds(10_000)), "still at it");
    }
}
