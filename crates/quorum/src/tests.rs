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

/// Zones aA, bB and cC: a full copy and a tail in each.
fn mixed() -> Membership {
    Membership::new(ids("abcABC")).with_tails(ids("ABC"))
}

#[test]
fn four_of_any_kind_or_every_full_copy_decide() {
    let mixed = mixed();
    assert_eq!(durable(&mixed, &[('a', 9), ('b', 8), ('c', 7)]), 7, "three full ones");
    assert_eq!(durable(&mixed, &[('A', 9), ('B', 9), ('C', 9)]), 0, "three tails");
    assert_eq!(durable(&mixed, &[('A', 9), ('B', 8), ('C', 7), ('a', 6)]), 6, "four");
    assert_eq!(durable(&mixed, &[('a', 9), ('b', 9), ('c', 2), ('A', 5), ('B', 4)]), 4);
    assert!(!mixed.fenced(&set("ABC")), "no page could be made");
    assert!(mixed.fenced(&set("ABc")) && !mixed.fenced(&set("ab")));
    assert_eq!(
        mixed.on_every_full(|segment| Lsn::from_raw(u64::from(segment.bytes()[0]))),
        Lsn::from_raw(u64::from(b'a'))
    );
}

#[test]
fn six_full_copies_are_as_many_as_ever() {
    let six = Membership::new(ids("ABCDEF"));
    for present in subsets("ABCDEF") {
        assert_eq!(six.writable(&present), WRITE_QUORUM <= present.len());
        assert_eq!(six.fenced(&present), READ_QUORUM <= present.len());
    }
}

/// Every set of the copies that are left when a zone is lost, and one more.
#[test]
fn a_lost_zone_leaves_writes_and_one_more_copy_leaves_reads() {
    let mixed = mixed();
    for zone in ["aA", "bB", "cC"] {
        let left: BTreeSet<_> = set("abcABC").difference(&set(zone)).copied().collect();
        assert!(mixed.writable(&left), "without zone {zone}");
        for one_more in &left {
            let mut left = left.clone();
            left.remove(one_more);
            assert!(mixed.fenced(&left), "without zone {zone} and {one_more}");
            assert!(left.iter().any(|segment| mixed.is_full(*segment)));
        }
    }
}

/// Full copies, tails, and one of either kind that takes another's place: `g` for `c`, `G` for `C`.
fn mixed_changes() -> [(&'static str, Membership, Membership, Membership); 2] {
    let tails = ids("ABCG");
    let change = |all, new: &str| {
        let old = Membership::new(ids("abcABC")).with_tails(tails.clone());
        let joint = Membership::joint(ids("abcABC"), ids(new)).with_tails(tails.clone());
        (all, old, joint, Membership::new(ids(new)).with_tails(tails.clone()))
    };
    [change("abcABCg", "abgABC"), change("abcABCG", "abcABG")]
}

/// All pairs of sets of seven copies, for every step of a change of either kind and its neighbours: what promised meets what
/// acknowledged, in a copy that has what was acknowledged.
#[test]
fn every_fence_meets_every_write_also_with_tails() {
    for (all, old, joint, new) in mixed_changes() {
        let meets = |writing: &Membership, fencing: &Membership| {
            let fences: Vec<_> = subsets(all).filter(|promised| fencing.fenced(promised)).collect();
            let mut writes = subsets(all).filter(|present| writing.writable(present));
            writes.all(|present| fences.iter().all(|promised| !promised.is_disjoint(&present)))
        };
        for fencing in [&old, &joint, &new] {
            assert!(meets(&joint, fencing), "a joint count is seen by {fencing:?}");
        }
        assert!(meets(&old, &old) && meets(&new, &new));
        assert!(meets(&old, &joint) && meets(&new, &joint));
        assert!(!meets(&old, &new), "that is what the joint step is for");
    }
}

#[test]
fn writes_meet_writes_and_have_a_full_copy_also_with_tails() {
    for (all, old, joint, new) in mixed_changes() {
        let joint_writes: Vec<_> = subsets(all).filter(|present| joint.writable(present)).collect();
        for other in [&old, &joint, &new] {
            for present in subsets(all).filter(|present| other.writable(present)) {
                assert!(present.iter().any(|segment| other.is_full(*segment)));
                assert!(joint_writes.iter().all(|others| !others.is_disjoint(&present)));
            }
        }
    }
}

/// A tail lets log go once every full copy has it, so a set that opens the volume has everything acknowledged if it has a full
/// copy, and a copy of what some full one lacks. Who has each acknowledged record: any set that makes it durable. Which tails
/// let it go: all, if every full copy has it. Then whoever promises has it.
#[test]
fn what_tails_let_go_is_on_a_full_copy_of_every_fence() {
    for (all, old, joint, new) in mixed_changes() {
        for membership in [&old, &joint, &new] {
            for holders in subsets(all).filter(|present| membership.writable(present)) {
                let has = |segment| {
                    if holders.contains(&segment) {
                        Lsn::from_raw(1)
                    } else {
                        Lsn::ZERO
                    }
                };
                let let_go = membership.on_every_full(has) == Lsn::from_raw(1);
                let left = |segment: &&SegmentId| membership.is_full(**segment) || !let_go;
                let left: BTreeSet<SegmentId> = holders.iter().filter(left).copied().collect();
                let mut fences = subsets(all).filter(|promised| membership.fenced(promised));
                assert!(
                    fences.all(|promised| !promised.is_disjoint(&left)),
                    "held by {holders:?}"
                );
            }
        }
    }
}

/// The same for a tail that lets go too early, when one full copy has the log: that must be seen.
#[test]
fn a_tail_that_lets_go_too_early_is_seen() {
    let mixed = mixed();
    let acknowledged = set("aABC");
    assert!(mixed.writable(&acknowledged));
    let left = set("a");
    let fence = set("bBC");
    assert!(mixed.fenced(&fence) && fence.is_disjoint(&left));
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
