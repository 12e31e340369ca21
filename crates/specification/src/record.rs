//! The volume's record in the metadata store, as far as the model needs it: taken epoch, opened timelines with their ends,
//! group 0's membership. Every change is a compare-and-swap; who may change it, the openers and writers decide.
//!
//! A compare-and-swap whose outcome is unknown is read again before the next step. In the model that is one step which takes
//! long: whoever does not know yet does nothing.

use crate::names::{EPOCHS_MAX, Epoch, Flush, FlushSet, Lsn, Seats};

/// The lists of segments that count: one, or two while a member is being replaced.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Membership {
    /// The list that counts.
    pub current: Seats,
    /// The list that counts as well.
    pub joining: Option<Seats>,
}

impl Membership {
    /// One list.
    pub fn settled(current: Seats) -> Membership {
        Membership { current, joining: None }
    }

    /// Everybody on either list.
    pub fn everybody(self) -> Seats {
        self.current.union(self.joining.unwrap_or_default())
    }

    /// Whether this is true of **each** list (DESIGN §4.5).
    pub fn each(self, is_enough: impl Fn(Seats) -> bool) -> bool {
        is_enough(self.current) && self.joining.is_none_or(is_enough)
    }

    /// Whether at least `count` of **some** list are among these seats: the Aurora paper's rule for reading, and a mistake.
    pub fn has_of_either(self, count: u8, among: Seats) -> bool {
        let enough = |list: Seats| count <= list.count_among(among);
        enough(self.current) || self.joining.is_some_and(enough)
    }
}

/// The log of one epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Timeline {
    /// Whose log it continues; the first timeline continues nobody's.
    pub parent: Epoch,
    /// Where it leaves its parent.
    pub branch: Lsn,
    /// Its recovered end, once it has been left.
    pub end: Option<Lsn>,
    /// Whether somebody wanted to go back: then the branch may lie below the end of the timeline that was left.
    pub backtracks: bool,
}

/// The volume's record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Record {
    /// The last epoch that was taken.
    pub taken: Epoch,
    /// The timelines that were opened, by epoch.
    pub timelines: [Option<Timeline>; EPOCHS_MAX],
    /// Group 0's segments.
    pub membership: Membership,
}

impl Record {
    /// A new volume: epoch 1 has opened its first timeline.
    pub fn new(members: Seats) -> Record {
        let mut timelines = [None; EPOCHS_MAX];
        timelines[Epoch::FIRST.index()] = Some(Timeline {
            parent: Epoch::NONE,
            branch: Lsn::ZERO,
            end: None,
            backtracks: false,
        });
        Record {
            taken: Epoch::FIRST,
            timelines,
            membership: Membership::settled(members),
        }
    }

    /// The timeline of an epoch, if it was opened.
    pub fn timeline(&self, epoch: Epoch) -> Option<&Timeline> {
        self.timelines[epoch.index()].as_ref()
    }

    /// Where an opened timeline leaves its parent.
    pub fn branch(&self, epoch: Epoch) -> Lsn {
        self.timeline(epoch).expect("asked of opened timelines only").branch
    }

    /// Every timeline that was opened, in order.
    pub fn opened(&self) -> impl DoubleEndedIterator<Item = (Epoch, &Timeline)> {
        Epoch::up_to(self.taken).filter_map(|epoch| self.timeline(epoch).map(|timeline| (epoch, timeline)))
    }

    /// The timeline that was opened last: the one that an opener recovers.
    pub fn last_opened(&self) -> Epoch {
        let last = self.opened().next_back();
        last.expect("the first timeline is open from the beginning").0
    }

    /// The flush that ends at `lsn` in the history of a timeline (DESIGN §4.2), whether it was ever written or not.
    pub fn flush_at(&self, timeline: Epoch, lsn: Lsn) -> Flush {
        let mut epoch = timeline;
        loop {
            let Timeline { parent, branch, .. } = self.timeline(epoch).expect("a path consists of opened timelines");
            if *branch < lsn {
                return Flush { epoch, lsn };
            }
            epoch = *parent;
        }
    }

    /// The history of a timeline up to an LSN.
    pub fn history(&self, timeline: Epoch, through: Lsn) -> FlushSet {
        Lsn::ZERO
            .up_to(through)
            .map(|lsn| self.flush_at(timeline, lsn))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Seat;

    fn opened(parent: Epoch, branch: u8, backtracks: bool) -> Option<Timeline> {
        Some(Timeline {
            parent,
            branch: Lsn::ZERO.plus(branch),
            end: None,
            backtracks,
        })
    }

    /// DESIGN §4.2: a flush is visible if its epoch lies on the path to the root, up to the branch of the next timeline on it.
    #[test]
    fn a_history_follows_the_path_to_the_root() {
        let [one, two, four] = [Epoch::FIRST, Epoch::FIRST.next(), Epoch::FIRST.next().next().next()];
        let mut record = Record::new(Seats::range(0, 4));
        record.taken = four;
        record.timelines[two.index()] = opened(one, 2, false);
        // Epoch 3 was used up. Epoch 4 goes back below the branch of epoch 2.
        record.timelines[four.index()] = opened(two, 1, true);
        let at = |timeline, lsn| record.flush_at(timeline, Lsn::ZERO.plus(lsn)).epoch;
        assert_eq!([at(two, 1), at(two, 2), at(two, 3)], [one, one, two]);
        assert_eq!([at(four, 1), at(four, 2), at(four, 3)], [one, four, four]);
        assert_eq!(record.last_opened(), four);
    }

    /// protocol.md, hole 7: one of the lists is not enough.
    #[test]
    fn both_lists_count() {
        let old = Seats::range(0, 6);
        let joint = Membership {
            current: old,
            joining: Some(old.with_replaced(Seat(5), Seat(6))),
        };
        let with_the_new_one: Seats = [Seat(3), Seat(4), Seat(6)].into_iter().collect();
        let has_three = |of: Seats| move |list: Seats| 3 <= list.count_among(of);
        assert!(!joint.each(has_three(with_the_new_one)));
        assert!(joint.has_of_either(3, with_the_new_one));
        assert!(joint.each(has_three(Seats::range(2, 5))));
    }
}
