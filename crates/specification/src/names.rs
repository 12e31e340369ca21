//! The small vocabulary of the model: epochs, LSNs, flushes and sets of them, seats of segments.
//!
//! Everything is a few bits wide on purpose: a state of the model is hashed, compared and copied tens of millions of times.

use std::fmt;

/// Epochs that a model may reach.
pub const EPOCHS_MAX: usize = 4;
/// LSNs that a model may reach: a flush is one LSN long, so every LSN that is used twice collides.
pub const LSNS_MAX: usize = 8;

/// The number of a reign. Zero is nobody's: a segment that is not born yet has promised it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(u8);

impl Epoch {
    /// Nobody's.
    pub const NONE: Epoch = Epoch(0);
    /// The reign that made the volume.
    pub const FIRST: Epoch = Epoch(1);

    /// The reign after this one.
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }

    /// Where what belongs to this epoch stands in an array of one entry an epoch.
    pub fn index(self) -> usize {
        usize::from(self.0) - 1
    }

    /// Every epoch up to and with this one.
    pub fn up_to(last: Epoch) -> impl DoubleEndedIterator<Item = Epoch> {
        (1..=last.0).map(Epoch)
    }

    /// Every epoch below this one.
    pub fn below(self) -> impl DoubleEndedIterator<Item = Epoch> {
        (1..self.0).map(Epoch)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A position in the log, counted in flushes. Zero is the beginning, where nothing stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(u8);

impl Lsn {
    /// The beginning.
    pub const ZERO: Lsn = Lsn(0);

    /// The LSN of the flush after the one that ends here.
    pub fn next(self) -> Lsn {
        Lsn(self.0 + 1)
    }

    /// So many flushes further on.
    pub fn plus(self, flushes: u8) -> Lsn {
        Lsn(self.0 + flushes)
    }

    /// The LSNs of the flushes that end above `self` and not above `last`, in order.
    pub fn up_to(self, last: Lsn) -> impl DoubleEndedIterator<Item = Lsn> {
        (self.0 + 1..=last.0).map(Lsn)
    }

    /// The LSN as a count of flushes.
    pub fn count(self) -> u8 {
        self.0
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The name of a flush. An LSN alone names nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flush {
    /// Who wrote it.
    pub epoch: Epoch,
    /// Where it ends.
    pub lsn: Lsn,
}

impl fmt::Debug for Flush {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}@{:?}", self.lsn, self.epoch)
    }
}

/// A set of flushes: eight bits an epoch, one bit an LSN.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FlushSet(u32);

const _: () = assert!(EPOCHS_MAX * LSNS_MAX <= u32::BITS as usize);

impl FlushSet {
    /// No flush.
    pub const EMPTY: FlushSet = FlushSet(0);

    fn bit(flush: Flush) -> u32 {
        let lsn = usize::from(flush.lsn.0) - 1;
        assert!(lsn < LSNS_MAX);
        1 << (flush.epoch.index() * LSNS_MAX + lsn)
    }

    /// Adds a flush.
    pub fn insert(&mut self, flush: Flush) {
        self.0 |= FlushSet::bit(flush);
    }

    /// Whether the flush is in the set.
    pub fn contains(self, flush: Flush) -> bool {
        self.0 & FlushSet::bit(flush) != 0
    }

    /// Whether every flush of the other set is in this one.
    pub fn includes(self, other: FlushSet) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether nothing is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What is in either.
    pub fn union(self, other: FlushSet) -> FlushSet {
        FlushSet(self.0 | other.0)
    }

    /// What is in both.
    pub fn intersection(self, other: FlushSet) -> FlushSet {
        FlushSet(self.0 & other.0)
    }

    /// What is in this one only.
    pub fn difference(self, other: FlushSet) -> FlushSet {
        FlushSet(self.0 & !other.0)
    }

    /// Whether some epoch's flush ends at this LSN: what one asks who believes that an LSN names something.
    pub fn contains_lsn(self, lsn: Lsn) -> bool {
        Epoch::up_to(Epoch(EPOCHS_MAX as u8)).any(|epoch| self.contains(Flush { epoch, lsn }))
    }

    /// The flushes, by epoch and LSN.
    pub fn iter(self) -> impl Iterator<Item = Flush> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let bit = left.trailing_zeros() as u8;
            left &= left - 1;
            Some(Flush {
                epoch: Epoch(bit / LSNS_MAX as u8 + 1),
                lsn: Lsn(bit % LSNS_MAX as u8 + 1),
            })
        })
    }
}

impl FromIterator<Flush> for FlushSet {
    fn from_iter<T: IntoIterator<Item = Flush>>(flushes: T) -> FlushSet {
        let mut set = FlushSet::EMPTY;
        for flush in flushes {
            set.insert(flush);
        }
        set
    }
}

impl fmt::Debug for FlushSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// A place for a segment: group 0's come first, then its spares, then group 1's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seat(pub u8);

impl Seat {
    /// Where the segment stands in the state.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", char::from(b'A' + self.0))
    }
}

/// A set of seats.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seats(u16);

impl Seats {
    /// Seats `first`, `first + 1` … below `end`.
    pub fn range(first: u8, end: u8) -> Seats {
        (first..end).map(Seat).collect()
    }

    /// Whether the seat is in the set.
    pub fn contains(self, seat: Seat) -> bool {
        self.0 & (1 << seat.0) != 0
    }

    /// What is in either.
    pub fn union(self, other: Seats) -> Seats {
        Seats(self.0 | other.0)
    }

    /// What is in this one only.
    pub fn without(self, other: Seats) -> Seats {
        Seats(self.0 & !other.0)
    }

    /// Whether nobody is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many are in both.
    pub fn count_among(self, other: Seats) -> u8 {
        (self.0 & other.0).count_ones() as u8
    }

    /// One member replaced by another.
    pub fn with_replaced(self, leaving: Seat, coming: Seat) -> Seats {
        Seats((self.0 & !(1 << leaving.0)) | (1 << coming.0))
    }

    /// The seats, in order.
    pub fn iter(self) -> impl Iterator<Item = Seat> {
        (0..u16::BITS as u8).map(Seat).filter(move |seat| self.contains(*seat))
    }
}

impl FromIterator<Seat> for Seats {
    fn from_iter<T: IntoIterator<Item = Seat>>(seats: T) -> Seats {
        Seats(seats.into_iter().fold(0, |set, seat| set | (1 << seat.0)))
    }
}

impl fmt::Debug for Seats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|seat| write!(f, "{seat:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flush_has_a_bit_of_its_own() {
        let last = Lsn::ZERO.plus(LSNS_MAX as u8);
        let epochs = Epoch::up_to(Epoch(EPOCHS_MAX as u8));
        let all: Vec<Flush> = epochs
            .flat_map(|epoch| Lsn::ZERO.up_to(last).map(move |lsn| Flush { epoch, lsn }))
            .collect();
        let set: FlushSet = all.iter().copied().collect();
        assert_eq!(set.iter().collect::<Vec<Flush>>(), all);
        for flush in all {
            let alone: FlushSet = [flush].into_iter().collect();
            assert_eq!(alone.iter().collect::<Vec<Flush>>(), [flush]);
            assert!(alone.contains_lsn(flush.lsn) && set.includes(alone));
            assert!(!set.difference(alone).contains(flush));
        }
    }

    #[test]
    fn one_member_takes_the_place_of_another() {
        let new = Seats::range(0, 6).with_replaced(Seat(5), Seat(6));
        assert_eq!(format!("{new:?}"), "ABCDEG");
        assert_eq!(new.count_among(Seats::range(0, 6)), 5);
    }
}
