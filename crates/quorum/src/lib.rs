//! When log is durable, and when an old writer is stopped: which of the six copies that takes.
//!
//! The six are full (log and pages), or three of them are tails (log only). Log is durable on four of six, or on every full
//! copy if some are tails. A promise counts on three of six of which one is full: pages can be made only there. While a
//! membership changes, both lists count (DESIGN §4.5). The rules stand in one place: whoever asks [`Membership`] hears of sets,
//! never of numbers.
//!
//! Invariants, for every set of copies, tested one by one (`tests.rs`):
//! - A set that stops the old writer meets every set that makes log durable: it holds a copy of everything acknowledged.
//! - Two sets that make log durable meet, and each has a full copy.
//! - A lost zone leaves a set that makes log durable; a lost zone and one more copy one that opens the volume.

use std::collections::BTreeSet;

use units::{Lsn, SegmentId};

/// Copies of each protection group.
pub const COPIES_COUNT: usize = 6;
/// Copies that must be complete before log counts as durable.
pub const WRITE_QUORUM: usize = 4;
/// Copies whose promise stops every older writer, and which include a copy of everything acknowledged. One of them is full.
pub const READ_QUORUM: usize = 3;
/// Full copies that a list has at least. Where the others are tails, these make log durable without them.
pub const FULL_COPIES_MIN: usize = 3;

const _: () = {
    // Every read quorum meets every write quorum: whoever asks three copies meets one with everything acknowledged.
    assert!(COPIES_COUNT < READ_QUORUM + WRITE_QUORUM);
    // Two write quorums meet: two writers cannot both succeed in one epoch.
    assert!(COPIES_COUNT < 2 * WRITE_QUORUM);
    // There are too few tails to make log durable without a full copy, which meets all the full ones.
    assert!(COPIES_COUNT - FULL_COPIES_MIN < WRITE_QUORUM);
};

/// The copies that count: one list, or two while one member is being replaced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    current: Vec<SegmentId>,
    joining: Option<Vec<SegmentId>>,
    /// Those of either list that keep log only.
    tails: BTreeSet<SegmentId>,
}

impl Membership {
    /// A settled list of full copies.
    pub fn new(current: Vec<SegmentId>) -> Membership {
        Membership {
            current,
            joining: None,
            tails: BTreeSet::new(),
        }
    }

    /// Two lists of full copies that both count.
    pub fn joint(current: Vec<SegmentId>, joining: Vec<SegmentId>) -> Membership {
        Membership {
            joining: Some(joining),
            ..Membership::new(current)
        }
    }

    /// The same lists, of which these copies keep log only. A segment is what it is in both lists.
    pub fn with_tails(self, tails: impl IntoIterator<Item = SegmentId>) -> Membership {
        Membership {
            tails: tails.into_iter().collect(),
            ..self
        }
    }

    /// Whether two lists count.
    pub fn is_joint(&self) -> bool {
        self.joining.is_some()
    }

    /// Whether this copy has pages.
    pub fn is_full(&self, segment: SegmentId) -> bool {
        !self.tails.contains(&segment)
    }

    /// Every copy of either list: those to connect to, to send log to, and to ask for a promise.
    pub fn segments(&self) -> BTreeSet<SegmentId> {
        self.lists().flatten().copied().collect()
    }

    fn lists(&self) -> impl Iterator<Item = &Vec<SegmentId>> {
        std::iter::once(&self.current).chain(&self.joining)
    }

    /// The highest LSN up to which copies that make log durable are complete, in every list.
    pub fn durable(&self, complete: impl Fn(SegmentId) -> Lsn) -> Lsn {
        let of_list = |list: &Vec<SegmentId>| {
            let mut held: Vec<Lsn> = list.iter().map(|segment| complete(*segment)).collect();
            held.sort_unstable_by(|one, other| other.cmp(one));
            let of_any = held.get(WRITE_QUORUM - 1).copied().unwrap_or(Lsn::ZERO);
            let full = list.iter().filter(|segment| self.is_full(**segment));
            let of_full = full.clone().map(|segment| complete(*segment)).min();
            let of_full = of_full.filter(|_| FULL_COPIES_MIN <= full.count());
            of_any.max(of_full.unwrap_or(Lsn::ZERO))
        };
        self.lists().map(of_list).min().unwrap_or(Lsn::ZERO)
    }

    /// Whether the promises of these copies stop every older writer, and tell everything acknowledged: three of every list, one
    /// of them full.
    pub fn fenced(&self, promised: &BTreeSet<SegmentId>) -> bool {
        self.lists().all(|list| {
            let mut present = list.iter().filter(|segment| promised.contains(segment));
            READ_QUORUM <= present.clone().count() && present.any(|segment| self.is_full(*segment))
        })
    }

    /// Whether log that these copies have is durable: four of every list, or all that are full.
    pub fn writable(&self, present: &BTreeSet<SegmentId>) -> bool {
        // One rule for both questions: what is durable if these copies have it, and no other has anything.
        let held = Lsn::from_raw(1);
        let complete = |segment| if present.contains(&segment) { held } else { Lsn::ZERO };
        self.durable(complete) == held
    }

    /// Up to where every full copy of either list is complete: below it nobody needs the log of a tail.
    pub fn on_every_full(&self, complete: impl Fn(SegmentId) -> Lsn) -> Lsn {
        let full = self.lists().flatten().filter(|segment| self.is_full(**segment));
        full.map(|segment| complete(*segment)).min().unwrap_or(Lsn::ZERO)
    }
}

#[cfg(test)]
mod tests;
