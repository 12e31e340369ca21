//! How the batches that a segment holds hang together.

use std::collections::{BTreeMap, BTreeSet};

use timeline::Path;
use units::{GroupId, Lsn, Position};
use wire_format::Batch;
use wire_format::message::HeldFlush;

/// What a segment remembers of a batch: its name, its predecessor, and what its flush header says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// The batch's name: where its flush ends.
    pub end: Position,
    /// The group's batch before it.
    pub previous: Position,
    /// How far the durable LSN may go with it; its own end outside group 0.
    pub boundary: Lsn,
    /// The groups that take part in the flush; empty outside group 0.
    pub groups: Vec<GroupId>,
}

impl Link {
    /// The link of a batch.
    pub fn of(batch: &Batch) -> Link {
        Link {
            end: batch.position(),
            previous: batch.previous,
            boundary: batch.header.as_ref().map_or(batch.end, |header| header.boundary),
            groups: batch.header.as_ref().map_or(Vec::new(), |header| header.groups.clone()),
        }
    }
}

/// Log below what may be forgotten whose links are kept nevertheless, for copies that lag a moment behind. Of group 0 only:
/// another group may be idle for long, and must not pin the journal that it shares.
pub(crate) const LOG_KEPT_BYTES: u64 = 256 << 10;

/// The links, by name and by predecessor. Bounded by the journal: what is recycled there is forgotten here.
#[derive(Clone, Default, Debug)]
pub(crate) struct Chain {
    links: BTreeMap<Position, Link>,
    /// (predecessor, name): two reigns may both continue one batch.
    after: BTreeSet<(Position, Position)>,
    /// Batches visible at or below this are no longer known by name.
    forgotten: Position,
}

impl Chain {
    /// A chain whose batches at or below `forgotten` are complete, but no longer known by name.
    pub(crate) fn starting_at(forgotten: Position) -> Chain {
        Chain {
            forgotten,
            ..Chain::default()
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.links.len()
    }

    pub(crate) fn get(&self, end: Position) -> Option<&Link> {
        self.links.get(&end)
    }

    pub(crate) fn insert(&mut self, link: Link) {
        self.after.insert((link.previous, link.end));
        self.links.insert(link.end, link);
    }

    pub(crate) fn remove(&mut self, end: Position) {
        if let Some(link) = self.links.remove(&end) {
            self.after.remove(&(link.previous, end));
        }
    }

    pub(crate) fn forgotten(&self) -> Position {
        self.forgotten
    }

    /// Whether a batch of this name may have been held and forgotten.
    pub(crate) fn forgot(&self, end: Position) -> bool {
        end.epoch <= self.forgotten.epoch && end.lsn <= self.forgotten.lsn
    }

    /// The last batch at or before `from` on its chain that the path sees.
    pub(crate) fn back_to_visible(&self, mut from: Position, path: &Path) -> Position {
        while from != Position::ZERO && !path.sees(from) {
            from = match self.links.get(&from) {
                Some(link) => link.previous,
                // What was forgotten is known to be complete: up to where this history left it.
                None => return path.reach(from),
            };
        }
        from
    }

    /// As far as visible batches follow `from` without a hole.
    pub(crate) fn forward_from(&self, mut from: Position, path: &Path) -> Position {
        while let Some(next) = self.next(from, path) {
            from = next;
        }
        from
    }

    fn next(&self, from: Position, path: &Path) -> Option<Position> {
        let from_here = (from, Position::ZERO)..;
        let candidates = self.after.range(from_here).take_while(|(before, _)| *before == from);
        candidates.map(|(_, end)| *end).find(|end| path.sees(*end))
    }

    /// Whether something visible is held that lies beyond `complete`.
    pub(crate) fn beyond(&self, complete: Position, path: &Path) -> bool {
        self.links
            .range((std::ops::Bound::Excluded(complete), std::ops::Bound::Unbounded))
            .any(|(end, _)| path.sees(*end) && complete.lsn < end.lsn)
    }

    /// Where the last batch of all ends that is held and that the path sees, whatever is missing before it.
    pub(crate) fn highest(&self, path: &Path) -> Lsn {
        let ends = self.links.keys().filter(|end| path.sees(**end)).map(|end| end.lsn);
        ends.max().unwrap_or(Lsn::ZERO)
    }

    /// Every batch that is not known to lie at or below `known`, oldest first.
    pub(crate) fn held_above(&self, known: Position) -> Vec<HeldFlush> {
        let above = |link: &&Link| known.epoch < link.end.epoch || (known.epoch == link.end.epoch && known < link.end);
        let flush = |link: &Link| HeldFlush {
            end: link.end,
            previous: link.previous,
            boundary: link.boundary,
            groups: link.groups.clone(),
        };
        self.links.values().filter(above).map(flush).collect()
    }

    /// Names of visible batches that end after `after` and at or before `through`, oldest first, at most `most`.
    pub(crate) fn visible_between(
        &self,
        path: &Path,
        after: Position,
        through: Position,
        most: usize,
    ) -> Vec<Position> {
        let range = (std::ops::Bound::Excluded(after), std::ops::Bound::Included(through));
        if through <= after {
            return Vec::new();
        }
        let visible = self.links.range(range).map(|(end, _)| *end);
        let visible = visible.filter(|end| path.sees(*end) && after.lsn < end.lsn);
        visible.take(most).collect()
    }

    /// Forgets every batch at or below `through`, the name of one: the segment is complete up to there without them.
    pub(crate) fn forget_through(&mut self, through: Position) {
        let old = |end: &&Position| end.lsn <= through.lsn && end.epoch <= through.epoch;
        let gone: Vec<Position> = self.links.keys().filter(old).copied().collect();
        gone.into_iter().for_each(|end| self.remove(end));
        self.forgotten = through;
    }

    /// Forgets visible batches above `complete`, up to `through`: there is a hole before them, and nothing says that the segment has
    /// what they bring.
    pub(crate) fn forget_above(&mut self, complete: Position, through: Position, path: &Path) {
        let is_between = |end: &&Position| complete.lsn < end.lsn && end.lsn <= through.lsn && path.sees(**end);
        let gone: Vec<Position> = self.links.keys().filter(is_between).copied().collect();
        gone.into_iter().for_each(|end| self.remove(end));
    }

    /// The last batch at or before `from` on its chain that ends at or below `bound`, if it is known by name.
    pub(crate) fn back_to(&self, mut from: Position, bound: units::Lsn) -> Option<Position> {
        while bound < from.lsn {
            from = self.links.get(&from)?.previous;
        }
        Some(from)
    }

    /// Forgets batches at or below `bound`, but for those of the last `kept_bytes`. The segment is complete without them up
    /// to the last forgotten one on the path.
    pub(crate) fn forget(&mut self, bound: Position, kept_bytes: u64, path: &Path) {
        let through = bound.lsn.raw().saturating_sub(kept_bytes);
        let old = |end: &&Position| end.lsn.raw() <= through && end.epoch <= bound.epoch;
        let gone: Vec<Position> = self.links.keys().filter(old).copied().collect();
        // After a restart the journal may still hold batches below what was forgotten before: it never goes back for them.
        let last = gone.iter().rev().find(|end| path.sees(**end));
        if let Some(last) = last.filter(|last| !path.sees(self.forgotten) || self.forgotten.lsn < last.lsn) {
            self.forgotten = *last;
        }
        let forgotten = self.forgotten;
        for end in gone.iter().filter(|end| end.lsn <= forgotten.lsn) {
            self.remove(*end);
        }
    }
}
