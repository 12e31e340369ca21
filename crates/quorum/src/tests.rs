use proptest::prelude::*;

use super::*;

fn ids(names: &str) -> Vec<SegmentId> {
    names.bytes().map(|name| SegmentId::from_bytes([name; 16])).collect()
}

fn set(names: &str) -> BTreeSet<SegmentId> {
    ids(names).into_iter().collect()
}

fn durable(membership: &Membership, complete: &[(char, u64)]) -> u64 {
    let complete = |segment: SegmentId| {
        let found = complete
            .iter()
            .find(|(name, _)| SegmentId::from_bytes([*name as u8; 16]) == segment);
        Lsn::from_raw(found.map_or(0, |(_, lsn)| *lsn))
    };
    membership.durable(complete).raw()
}

#[test]
fn the_fourth_highest_copy_decides() {
    let six = Membership::new(ids("ABCDEF"));
    assert_eq!(durable(&six, &[('A', 9), ('B', 8), ('C', 7), ('D', 6), ('E', 5)]), 6);
    assert_eq!(
        durable(&six, &[('A', 9), ('B', 9), ('C', 9)]),
        0,
        "three are not enough"
    );
}

/// protocol.md, hole 7: counting only one of two lists loses what the other acknowledged.
#[test]
fn both_lists_count_while_a_member_is_replaced() {
    let joint = Membership::joint(ids("ABCDEF"), ids("ABCDEG"));
    assert_eq!(durable(&joint, &[('A', 9), ('B', 9), ('C', 9), ('F', 9)]), 0);
    assert_eq!(durable(&joint, &[('A', 9), ('B', 9), ('C', 9), ('D', 9)]), 9);
    assert!(!joint.fenced(&set("DEG")), "three of one list, two of the other");
    assert!(joint.fenced(&set("CDE")));
    assert!(!joint.writable(&set("ABCF")));
    assert_eq!(joint.segments(), set("ABCDEFG"));
}

/// Every set of copies that may exist: seven of them.
fn subsets(names: &str) -> impl Iterator<Item = BTreeSet<SegmentId>> {
    let all = ids(names);
    (0_u32..1 << all.len()).map(move |chosen| {
        let among = all.iter().enumerate().filter(|(at, _)| chosen >> at & 1 == 1);
        among.map(|(_, segment)| *segment).collect()
    })
}

/// Whoever counts by one membership and whoever fences by the other always meet.
fn meet(writing: &Membership, fencing: &Membership) -> bool {
    let fences: Vec<_> = subsets("ABCDEFG").filter(|promised| fencing.fenced(promised)).collect();
    let mut writes = subsets("ABCDEFG").filter(|present| writing.writable(present));
    writes.all(|present| fences.iter().all(|promised| !promised.is_disjoint(&present)))
}

/// The record may be one step ahead of the writer or behind it, so an opener fences by a neighbour of the membership that
/// counts (DESIGN §4.5). All 128 x 128 pairs of sets, for each pair of neighbours.
#[test]
fn every_fence_meets_every_write_of_the_same_step_and_of_its_neighbours() {
    let old = Membership::new(ids("ABCDEF"));
    let joint = Membership::joint(ids("ABCDEF"), ids("ABCDEG"));
    let new = Membership::new(ids("ABCDEG"));
    // The writer counts jointly before the record says so, and still when it does not say so any more.
    for fencing in [&old, &joint, &new] {
        assert!(meet(&joint, fencing), "a joint count is seen by {fencing:?}");
    }
    assert!(meet(&old, &old) && meet(&new, &new));
    // Counting one list while the record is joint: the writer before its switch, and after the end.
    assert!(meet(&old, &joint) && meet(&new, &joint));
    assert!(
        !meet(&old, &new),
        "two steps apart they may miss each other: that is what the joint step is for"
    );
}

/// Two writable sets meet, so that two histories never both get their acknowledgements.
#[test]
fn writes_meet_writes_also_across_the_change() {
    let joint = Membership::joint(ids("ABCDEF"), ids("ABCDEG"));
    for other in [
        Membership::new(ids("ABCDEF")),
        joint.clone(),
        Membership::new(ids("ABCDEG")),
    ] {
        let writes: Vec<_> = subsets("ABCDEFG").filter(|present| other.writable(present)).collect();
        let mut joint = subsets("ABCDEFG").filter(|present| joint.writable(present));
        assert!(joint.all(|present| writes.iter().all(|others| !others.is_disjoint(&present))));
    }
}

proptest! {
    /// What is durable jointly is durable for each list alone, whatever the copies hold, and is on a write quorum of both.
    #[test]
    fn the_joint_durable_lsn_is_the_lower_one(held in prop::collection::vec(0_u64..20, 7)) {
        let all = ids("ABCDEFG");
        let complete = |segment: SegmentId| {
            let at = all.iter().position(|other| *other == segment).expect("one of the seven");
            Lsn::from_raw(held[at])
        };
        let (old, new) = (ids("ABCDEF"), ids("ABCDEG"));
        let joint = Membership::joint(old.clone(), new.clone());
        let durable = joint.durable(complete);
        prop_assert_eq!(durable, Membership::new(old).durable(complete).min(Membership::new(new).durable(complete)));
        let holders: BTreeSet<SegmentId> = all.iter().copied().filter(|segment| durable <= complete(*segment)).collect();
        prop_assert!(joint.writable(&holders));
    }

    /// Losing a zone leaves every list of two copies a zone writable, also while a member of that or another zone is replaced.
    #[test]
    fn a_lost_zone_leaves_a_joint_list_writable_that_is_replaced_within_its_zone(lost in 0_usize..3) {
        // Zones AB, CD and EF; G takes F's place in the third.
        let joint = Membership::joint(ids("ABCDEF"), ids("ABCDEG"));
        let zones = ["AB", "CD", "EFG"];
        let present: String = zones.iter().enumerate().filter(|(zone, _)| *zone != lost).map(|(_, names)| *names).collect();
        prop_assert!(joint.writable(&set(&present)));
    }
}
