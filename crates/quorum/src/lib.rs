//! When log is durable, and when an old writer is stopped: how many of the six copies that takes.
//!
//! While a membership changes, both lists count (DESIGN §4.5): log must be on four of each, a promise on three of each. The
//! numbers stand in one place, so that a later kind of group, with copies of different worth, changes nothing around it:
//! whoever asks [`Membership`] hears of sets, never of numbers.

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

    /// Whether two lists count.
    pub fn is_joint(&self) -> bool {
        self.joining.is_some()
    }

    /// Every copy of either list: those to connect to, to send log to, and to ask for a promise.
    pub fn segments(&self) -> BTreeSet<SegmentId> {
        self.lists().flatten().copied().collect()
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
mod tests;
