//! How many of everything there is: small numbers, so that every state can be visited.

use std::ops::Range;

use crate::names::{EPOCHS_MAX, Epoch, Seat, Seats};

/// A model's size and what can happen in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Configuration {
    /// What it is called in tables and on the command line.
    pub name: &'static str,
    /// Segments of each group.
    pub copies: u8,
    /// Complete copies that make a flush durable.
    pub write: u8,
    /// Promises that stop every older writer.
    pub fence: u8,
    /// Group 0 alone, or group 0 and one more.
    pub groups: u8,
    /// Epochs that may be taken, the first included.
    pub epochs: u8,
    /// Flushes of each epoch, at most.
    pub flushes: [u8; EPOCHS_MAX],
    /// Flushes carry the durable LSN of the moment when they are sent.
    pub announcements: bool,
    /// An opener may choose any sealed point to go on from.
    pub backtrack: bool,
    /// Receiving and syncing are two steps, and power may go between them.
    pub restarts: bool,
    /// Copies are brought up to the branch by their peers after the opening, too.
    pub repair: bool,
    /// Writers may replace the last member of group 0 by a new one.
    pub joint: bool,
    /// Openers may replace lost members outright.
    pub replacements: bool,
    /// So many of the copies keep log only, and let go what every full copy has. In group 0 alone, without changes of its list.
    pub tails: u8,
}

/// One group, no extras: what the others differ from.
pub const PLAIN: Configuration = Configuration {
    name: "",
    copies: 4,
    write: 3,
    fence: 2,
    groups: 1,
    epochs: 2,
    flushes: [1; EPOCHS_MAX],
    announcements: false,
    backtrack: false,
    restarts: false,
    repair: false,
    joint: false,
    replacements: false,
    tails: 0,
};

impl Configuration {
    /// Seats that are empty in the beginning: one for a joint change, one for each opener that may replace.
    fn spares(&self) -> u8 {
        u8::from(self.joint) + if self.replacements { self.epochs - 1 } else { 0 }
    }

    /// The first members of group 0.
    pub fn group_0(&self) -> Seats {
        Seats::range(0, self.copies)
    }

    /// Those members of group 0 that keep log only: the last ones.
    pub fn tails(&self) -> Seats {
        Seats::range(self.copies - self.tails, self.copies)
    }

    /// Whether what these members have is durable by this list: enough of them, or all that have pages.
    pub fn is_durable(&self, list: Seats, complete: Seats) -> bool {
        let full = list.without(self.tails());
        self.write <= list.count_among(complete) || full.without(complete).is_empty()
    }

    /// Whether so many of these members promised, of whom one has pages.
    pub fn is_fence(&self, list: Seats, promised: Seats, fence: u8) -> bool {
        let full = list.without(self.tails());
        fence <= list.count_among(promised) && 0 < full.count_among(promised)
    }

    /// Everybody who is or may become a member of group 0.
    pub fn group_0_and_spares(&self) -> Seats {
        Seats::range(0, self.copies + self.spares())
    }

    /// Whether the seat belongs to group 0.
    pub fn in_group_0(&self, seat: Seat) -> bool {
        self.group_0_and_spares().contains(seat)
    }

    /// The members of group 1; none if there is no such group.
    pub fn group_1(&self) -> Seats {
        let first = self.copies + self.spares();
        Seats::range(first, first + (self.groups - 1) * self.copies)
    }

    /// All seats.
    pub fn every_seat(&self) -> Seats {
        self.group_0_and_spares().union(self.group_1())
    }

    /// How many flushes an epoch may send.
    pub fn flushes_of(&self, epoch: Epoch) -> u8 {
        self.flushes[epoch.index()]
    }

    /// Whether it makes a difference when a flush is sent, or what is in it.
    pub fn sends_one_by_one(&self) -> bool {
        self.announcements || self.groups == 2
    }

    /// The member that leaves in a joint change, and the one that comes.
    pub fn joining_seats(&self) -> (Seat, Seat) {
        (Seat(self.copies - 1), Seat(self.copies))
    }

    /// The old and the new list of a joint change, if there is one.
    pub fn change(&self) -> Option<(Seats, Seats)> {
        let (leaving, coming) = self.joining_seats();
        let change = || (self.group_0(), self.group_0().with_replaced(leaving, coming));
        self.joint.then(change)
    }

    /// Whom an opener may replace by whom. Names do not matter: the member that the second epoch replaces is called the last
    /// one, the one that the third replaces the last but one.
    pub fn replacement(&self, epoch: Epoch) -> Option<(Seat, Seat)> {
        let openers_before = epoch.index().checked_sub(1)? as u8;
        let seats = || {
            (
                Seat(self.copies - 1 - openers_before),
                Seat(self.copies + openers_before),
            )
        };
        self.replacements.then(seats)
    }

    /// Runs of seats that only differ in their names.
    pub fn interchangeable(&self) -> impl Iterator<Item = Range<usize>> {
        let alike = self.copies - self.spares().min(self.copies);
        let group_1 = usize::from(self.copies + self.spares());
        let others = group_1..group_1 + usize::from((self.groups - 1) * self.copies);
        let tails = self.tails.min(alike);
        let (full, alike) = (usize::from(alike - tails), usize::from(alike));
        [0..full, full..alike, others].into_iter()
    }
}
