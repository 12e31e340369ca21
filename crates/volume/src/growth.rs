//! One more group for a volume that fills up (DESIGN §4.6).
//!
//! The order: six segments are made, born with the reign's epoch as their promise; then the record names the group; then its
//! first stripe is assigned. An opener that reads the record knows every group that anybody could have written.

use std::collections::BTreeMap;

use timeline::Path;
use units::{GroupId, SegmentId, SegmentKind, Zone};
use wire_format::Request;

use crate::record::{GroupRecord, MemberRecord, VolumeRecord};

/// Copies of a group in each zone.
const COPIES_PER_ZONE: usize = 2;

/// A node that may get a copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its name.
    pub node: String,
    /// Where it listens.
    pub address: String,
    /// Where it stands.
    pub zone: Zone,
}

/// Every node that the record knows.
pub fn known_places(record: &VolumeRecord) -> Vec<Place> {
    let members = record.groups.iter().flat_map(GroupRecord::all_members);
    let places: BTreeMap<String, Place> = members
        .map(|member| {
            let place = Place {
                node: member.node.clone(),
                address: member.address,
                zone: member.zone,
            };
            (member.node, place)
        })
        .collect();
    places.into_values().collect()
}

/// The next group: on the two nodes of each zone that have the fewest copies. `None` if a zone has fewer than two.
pub fn next_group(
    record: &VolumeRecord,
    places: &[Place],
    identities: [SegmentId; quorum::COPIES_COUNT],
) -> Option<GroupRecord> {
    let mut copies: BTreeMap<&str, usize> = BTreeMap::new();
    let mut full_copies: BTreeMap<&str, usize> = BTreeMap::new();
    for group in &record.groups {
        for member in group.members.iter().chain(group.joining.iter().flatten()) {
            *copies.entry(&member.node).or_default() += 1;
            *full_copies.entry(&member.node).or_default() += usize::from(member.kind == SegmentKind::Full);
        }
    }
    let mut chosen = Vec::new();
    for zone in Zone::ALL {
        let mut here: Vec<&Place> = places.iter().filter(|place| place.zone == zone).collect();
        here.sort_by_key(|place| (copies.get(place.node.as_str()).copied().unwrap_or(0), &place.node));
        if here.len() < COPIES_PER_ZONE {
            return None;
        }
        chosen.extend(here.into_iter().take(COPIES_PER_ZONE));
    }
    let number = record.groups.iter().map(|group| group.group).max()? + 1;
    let member = |(place, segment): (&Place, SegmentId)| MemberRecord {
        segment,
        node: place.node.clone(),
        address: place.address.clone(),
        zone: place.zone,
        kind: units::SegmentKind::Full,
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
    use crate::{SegmentKinds, creation};

    fn place(number: u8, zone: Zone) -> Place {
        Place {
            node: format!("storage-{number}"),
            address: String::new(),
            zone,
        }
    }

    fn six() -> Vec<Place> {
        (1..=6_u8)
            .map(|number| place(number, Zone::ALL[usize::from(number - 1) / 2]))
            .collect()
    }

    fn record(segments: SegmentKinds) -> VolumeRecord {
        let member = |(place, number): (Place, u8)| MemberRecord {
            segment: SegmentId::from_bytes([number; 16]),
            node: place.node,
            address: place.address,
            zone: place.zone,
            kind: units::SegmentKind::Full,
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

    #[test]
    fn two_copies_stand_in_each_zone_on_the_nodes_with_the_fewest() {
        let mut places = six();
        assert_eq!(known_places(&record(SegmentKinds::Full)), places);
        places.push(place(7, Zone::B));
        let group = next_group(&record(SegmentKinds::Full), &places, identities(20)).expect("two nodes a zone");
        let nodes: Vec<&str> = group.members.iter().map(|member| member.node.as_str()).collect();
        assert_eq!(
            nodes,
            [
                "storage-1",
                "storage-2",
                "storage-7",
                "storage-3",
                "storage-5",
                "storage-6"
            ]
        );
        assert_eq!(group.group, 1);
        let mut record = record(SegmentKinds::Full);
        record.groups.push(group);
        let group = next_group(&record, &places, identities(40)).expect("two nodes a zone");
        let nodes: Vec<&str> = group.members.iter().map(|member| member.node.as_str()).collect();
        assert_eq!(group.group, 2);
        assert!(nodes.contains(&"storage-4"), "{nodes:?}");
    }

    #[test]
    fn a_zone_with_one_node_gets_no_group() {
        let mut places = six();
        places.remove(2);
        assert_eq!(next_group(&record(SegmentKinds::Full), &places, identities(20)), None);
    }

    /// Each group has a full segment and a tail in each zone, and a node that has a tail of one has the full one of the next.
    #[test]
    fn full_segments_and_tails_are_spread() {
        let mut record = record(SegmentKinds::FullAndTail);
        record
            .groups
            .push(next_group(&record, &six(), identities(20)).expect("two nodes a zone"));
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
