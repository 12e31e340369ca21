//! When log is durable, and when an old writer is stopped: how many of the six copies that takes.
//!
//! While a membership changes, both lists count (DESIGN §4.5): log must be on four of each, a promise on three of each.

use std::collections::BTreeSet;

use units::{Lsn, SegmentId};

/// Copies of each protection group.
pub const COPIES_COUNT: usize = 6;
/// Copies that must be complete before log counts as durable.
pub const WRITE_QUORUM: usize = 4;
/// Copies whose promise stops every older writer, and which include a copy of everything acknowledged.
pub const READ_QUORUM: usize = 3;

const _: () = {
    // Every read quorum meets every write quorum: whoever asks three copies meets one with everything acknowledged.
    assert!(COPIES_COUNT < READ_QUORUM + WRITE_QUORUM);
    // Two write quorums meet: two writers cannot both succeed in one epoch.
    assert!(COPIES_COUNT < 2 * WRITE_QUORUM);
};

/// The copies that count: one list, or two while one member is being replaced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    current: Vec<SegmentId>,
    joining: Option<Vec<SegmentId>>,
}

impl Membership {
    /// A settled list of copies.
    pub fn new(current: Vec<SegmentId>) -> Membership {
        Membership { current, joining: None }
    }

    /// Two lists that both count.
    pub fn joint(current: Vec<SegmentId>, joining: Vec<SegmentId>) -> Membership {
        Membership {
            current,
            joining: Some(joining),
        }
    }

    fn lists(&self) -> impl Iterator<Item = &Vec<SegmentId>> {
        std::iter::once(&self.current).chain(&self.joining)
    }

    /// The highest LSN up to which a write quorum of every list is complete.
    pub fn durable(&self, complete: impl Fn(SegmentId) -> Lsn) -> Lsn {
        let of_list = |list: &Vec<SegmentId>| {
            let mut held: Vec<Lsn> = list.iter().map(|segment| complete(*segment)).collect();
            held.sort_unstable_by(|one, other| other.cmp(one));
            held.get(WRITE_QUORUM - 1).copied().unwrap_or(Lsn::ZERO)
        };
        self.lists().map(of_list).min().unwrap_or(Lsn::ZERO)
    }

    /// Whether a read quorum of every list has promised.
    pub fn fenced(&self, promised: &BTreeSet<SegmentId>) -> bool {
        self.lists().all(|list| count(list, promised) >= READ_QUORUM)
    }

    /// Whether a write quorum of every list is among these.
    pub fn writable(&self, present: &BTreeSet<SegmentId>) -> bool {
        self.lists().all(|list| count(list, present) >= WRITE_QUORUM)
    }
}

fn count(list: &[SegmentId], among: &BTreeSet<SegmentId>) -> usize {
    list.iter().filter(|segment| among.contains(segment)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(names: &str) -> Vec<SegmentId> {
        names.bytes().map(|name| SegmentId::from_bytes([name; 16])).collect()
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
        let present = |names| ids(names).into_iter().collect();
        assert_eq!(durable(&joint, &[('A', 9), ('B', 9), ('C', 9), ('F', 9)]), 0);
        assert_eq!(durable(&joint, &[('A', 9), ('B', 9), ('C', 9), ('D', 9)]), 9);
        assert!(!joint.fenced(&present("DEG")), "three of one list, two of the other");
        assert!(joint.fenced(&present("CDE")));
        assert!(!joint.writable(&present("ABCF")));
    }
}
