//! One more group for a volume that fills up (DESIGN §4.6).
//!
//! The order: six segments are made, born with the reign's epoch as their promise; then the record names the group; then its
//! first stripe is assigned. An opener that reads the record knows every group that anybody could have written.

use std::collections::BTreeMap;

use timeline::Path;
use units::{GroupId, PAGE_BYTES, SegmentId, SegmentKind, Zone};
use wire_format::Request;

use crate::placement::{StorageNode, copies_of_nodes};
use crate::record::{GroupRecord, MemberRecord, VolumeRecord};

/// Copies of a group in each zone.
const COPIES_PER_ZONE: usize = 2;

/// Every node that the record knows, as if all were well: for who cannot ask anybody how they are.
pub fn known_nodes(record: &VolumeRecord) -> Vec<StorageNode> {
    let members = record.groups.iter().flat_map(GroupRecord::all_members);
    let nodes: BTreeMap<String, StorageNode> = members
        .map(|member| {
            let node = StorageNode::new(member.node.clone(), member.zone, member.address);
            (member.node, node)
        })
        .collect();
    nodes.into_values().collect()
}

/// How much a node has, or will have: the one with the least gets the next copy. What it holds counts, and so does what its
/// copies may grow to, so that groups that are made one after the other do not all go to whoever is empty now. A disk without
/// room for one more group comes last.
fn load(node: &StorageNode, copies: usize, group_bytes: u64) -> (bool, u64, u64) {
    let expected_bytes = (copies as u64).saturating_mul(group_bytes);
    let lacks_room = node.free_bytes().is_some_and(|free| free < group_bytes);
    (
        lacks_room,
        node.held_bytes.max(expected_bytes),
        // Among equals whoever has most free.
        u64::MAX - node.free_bytes().unwrap_or(0),
    )
}

/// The next group: on the two least loaded nodes of each zone, among those that may get copies. `None` if a zone has fewer
/// than two.
///
/// It is the one that an attempt `before` did not bring to its end, if nothing of it has changed: repeating that finds the
/// segments that were made. Otherwise its segments get `fresh` identities: one that was made already must not be asked for
/// on another node, as another kind, or with other peers.
pub fn next_group(
    record: &VolumeRecord,
    nodes: &[StorageNode],
    before: Option<&GroupRecord>,
    fresh: impl FnOnce() -> [SegmentId; quorum::COPIES_COUNT],
) -> Option<GroupRecord> {
    if let Some(before) = before {
        let again = group_of(record, nodes, before.members.iter().map(|member| member.segment))?;
        if again == *before {
            return Some(again);
        }
    }
    group_of(record, nodes, fresh())
}

fn group_of(
    record: &VolumeRecord,
    nodes: &[StorageNode],
    identities: impl IntoIterator<Item = SegmentId>,
) -> Option<GroupRecord> {
    let copies = copies_of_nodes(record);
    let mut full_copies: BTreeMap<&str, usize> = BTreeMap::new();
    let members = record
        .groups
        .iter()
        .flat_map(|group| group.members.iter().chain(group.joining.iter().flatten()));
    for member in members.filter(|member| member.kind == SegmentKind::Full) {
        *full_copies.entry(&member.node).or_default() += 1;
    }
    let group_bytes = record.group_blocks.saturating_mul(PAGE_BYTES as u64);
    let mut chosen = Vec::new();
    for zone in Zone::ALL {
        let here = nodes.iter().filter(|node| node.zone == zone && node.takes_copies());
        let mut here: Vec<&StorageNode> = here.collect();
        here.sort_by_key(|node| {
            let copies = copies.get(node.name.as_str()).copied().unwrap_or(0);
            (load(node, copies, group_bytes), &node.name)
        });
        if here.len() < COPIES_PER_ZONE {
            return None;
        }
        chosen.extend(here.into_iter().take(COPIES_PER_ZONE));
    }
    let number = record.groups.iter().map(|group| group.group).max()? + 1;
    let member = |(node, segment): (&StorageNode, SegmentId)| MemberRecord {
        segment,
        node: node.name.clone(),
        address: node.address.clone(),
        zone: node.zone,
        kind: SegmentKind::Full,
    };
    let mut members: Vec<MemberRecord> = chosen.into_iter().zip(identities).map(member).collect();
    let full_copies = |node: &str| full_copies.get(node).copied().unwrap_or(0);
    record.segments.assign(&mut members, full_copies);
    Some(GroupRecord {
        group: number,
        membership_version: 1,
        members,
        joining: None,
    })
}

/// The request that makes one of its segments, in the reign at the end of `path`.
pub fn create_segment(record: &VolumeRecord, path: &Path, group: &GroupRecord, segment: SegmentId) -> Request {
    let member = group.members.iter().find(|member| member.segment == segment);
    Request::CreateSegment {
        volume: record.volume,
        group: GroupId::from_raw(group.group),
        segment,
        kind: member.map_or_else(SegmentKind::default, |member| member.kind),
        epoch: path.epoch(),
        path: path.clone(),
        members: group.members.iter().map(MemberRecord::member).collect(),
        copy_from: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use units::VolumeId;

    use super::*;
    use crate::placement::Wish;
    use crate::{SegmentKinds, creation};

    fn node(number: u8, zone: Zone) -> StorageNode {
        StorageNode::new(format!("storage-{number}"), zone, String::new())
    }

    fn six() -> Vec<StorageNode> {
        (1..=6_u8)
            .map(|number| node(number, Zone::ALL[usize::from(number - 1) / 2]))
            .collect()
    }

    fn record(segments: SegmentKinds) -> VolumeRecord {
        let member = |(node, number): (StorageNode, u8)| MemberRecord {
            segment: SegmentId::from_bytes([number; 16]),
            node: node.name,
            address: node.address,
            zone: node.zone,
            kind: SegmentKind::Full,
        };
        let record = creation::record(
            VolumeId::from_bytes([1; 16]),
            six().into_iter().zip(1..).map(member).collect(),
        );
        creation::with_segments(record, segments)
    }

    fn identities(first: u8) -> [SegmentId; 6] {
        std::array::from_fn(|at| SegmentId::from_bytes([first + at as u8; 16]))
    }

    /// The numbers of the nodes that a new group goes to.
    fn chosen(record: &VolumeRecord, nodes: &[StorageNode]) -> Option<Vec<u8>> {
        let group = next_group(record, nodes, None, || identities(20))?;
        let number = |member: &MemberRecord| member.node.strip_prefix("storage-")?.parse().ok();
        group.members.iter().map(number).collect()
    }

    #[test]
    fn two_copies_stand_in_each_zone_on_the_nodes_with_the_fewest() {
        let mut nodes = six();
        assert_eq!(known_nodes(&record(SegmentKinds::Full)), nodes);
        nodes.push(node(7, Zone::B));
        assert_eq!(
            chosen(&record(SegmentKinds::Full), &nodes),
            Some(vec![1, 2, 7, 3, 5, 6])
        );
        let mut record = record(SegmentKinds::Full);
        record
            .groups
            .push(next_group(&record, &nodes, None, || identities(20)).expect("two nodes a zone"));
        assert_eq!(record.groups[1].group, 1);
        let next = next_group(&record, &nodes, None, || identities(40)).expect("two nodes a zone");
        assert_eq!(next.group, 2);
        let next = chosen(&record, &nodes).expect("two nodes a zone");
        assert!(next.contains(&4), "{next:?}");
    }

    #[test]
    fn a_zone_with_one_node_gets_no_group() {
        let mut nodes = six();
        nodes.remove(2);
        assert_eq!(
            next_group(&record(SegmentKinds::Full), &nodes, None, || identities(20)),
            None
        );
    }

    #[test]
    fn an_attempt_is_repeated_as_it_was_or_with_other_segments() {
        let (record, mut nodes) = (record(SegmentKinds::Full), six());
        nodes.push(node(7, Zone::C));
        let first = next_group(&record, &nodes, None, || identities(20)).expect("two nodes a zone");
        let again = next_group(&record, &nodes, Some(&first), || identities(40));
        assert_eq!(again.as_ref(), Some(&first));
        let taken = first.members.iter().any(|member| member.node == "storage-7");
        assert!(taken, "it has no copy yet");
        nodes.pop();
        let other = next_group(&record, &nodes, Some(&first), || identities(40)).expect("two nodes a zone");
        let segments: Vec<SegmentId> = other.members.iter().map(|member| member.segment).collect();
        assert_eq!(segments, identities(40), "not one of them is asked for a second time");
    }

    #[test]
    fn no_copy_goes_to_who_is_away_or_is_to_be_empty_or_is_full() {
        let spoilt: [fn(&mut StorageNode); 4] = [
            |node| node.is_alive = false,
            |node| node.wish = Wish::Drain,
            |node| node.wish = Wish::Replace([SegmentId::from_bytes([1; 16])].into()),
            |node| (node.disk_used_bytes, node.disk_total_bytes) = (99 << 30, 100 << 30),
        ];
        for spoil in spoilt {
            let mut nodes = six();
            spoil(&mut nodes[0]);
            assert_eq!(chosen(&record(SegmentKinds::Full), &nodes), None, "{:?}", nodes[0]);
            nodes.push(node(7, Zone::A));
            assert_eq!(
                chosen(&record(SegmentKinds::Full), &nodes),
                Some(vec![7, 2, 3, 4, 5, 6])
            );
        }
    }

    #[test]
    fn what_a_node_holds_and_has_room_for_decides() {
        let group_bytes = record(SegmentKinds::Full).group_blocks * PAGE_BYTES as u64;
        let mut nodes = six();
        nodes.extend([node(7, Zone::A), node(8, Zone::A), node(9, Zone::A)]);
        let mut hold = |number: usize, held_bytes: u64, free_bytes: u64| {
            let node: &mut StorageNode = &mut nodes[number - 1];
            (node.held_bytes, node.disk_total_bytes) = (held_bytes, 1000 << 30);
            node.disk_used_bytes = node.disk_total_bytes - free_bytes;
        };
        // 1 and 2 have a copy that may grow to a whole group; 7 has more than that, of groups that were dropped; 8 and 9 have
        // less, and 8 has no room for what it may become.
        hold(1, 0, 500 << 30);
        hold(2, 0, 600 << 30);
        hold(7, 2 * group_bytes, 900 << 30);
        hold(8, 0, group_bytes - 1);
        hold(9, 0, 100 << 30);
        assert_eq!(
            chosen(&record(SegmentKinds::Full), &nodes),
            Some(vec![9, 2, 3, 4, 5, 6])
        );
    }

    /// Each group has a full segment and a tail in each zone, and a node that has a tail of one has the full one of the next.
    #[test]
    fn full_segments_and_tails_are_spread() {
        let mut record = record(SegmentKinds::FullAndTail);
        record
            .groups
            .push(next_group(&record, &six(), None, || identities(20)).expect("two nodes a zone"));
        let full = |group: usize| -> Vec<&str> {
            let members = record.groups[group].members.iter();
            let full = members.filter(|member| member.kind == SegmentKind::Full);
            full.map(|member| member.node.as_str()).collect()
        };
        assert_eq!(full(0), ["storage-1", "storage-3", "storage-5"]);
        assert_eq!(full(1), ["storage-2", "storage-4", "storage-6"]);
        let text = record.to_text();
        assert_eq!(VolumeRecord::parse(&text), Ok(record.clone()));
        let mut unsound = record.clone();
        unsound.groups[1].members[0].kind = SegmentKind::Tail;
        unsound.groups[1].members[1].kind = SegmentKind::Tail;
        let refused = VolumeRecord::parse(&unsound.to_text());
        assert!(
            matches!(
                refused,
                Err(crate::record::RecordError::Copies { full: 2, tails: 4, .. })
            ),
            "{refused:?}"
        );
    }
}
