//! Which group a page belongs to, and which group gets the next stripe.
//!
//! A fork is cut into stripes. Each is assigned to a group when the fork grows into it, and keeps its group until the fork is
//! shorter than that. Stripes that follow each other in one group are one entry, so that a volume that fills one group after
//! the other needs few: what lies before a fork's first entry belongs to group 0, and a volume of one group has none at all.
//!
//! Invariants:
//! - Every stripe within a fork's size has exactly one group; entries lie within the size.
//! - The blocks of all groups together are the blocks of all forks.
//! - A group that is given stripes has room for them, and its stripes, were all of them full, take no more than
//!   [`STRIPES_BEYOND_SIZE`] times its size: many relations that grow later do not make it much larger than it is meant to be.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use units::{ForkKey, GroupId, PAGE_BYTES, PageKey};

/// How many times its size a group's stripes take at most, were all of them full. Most relations are small and stay so: if
/// each counted as a whole stripe, groups would be nearly empty.
pub const STRIPES_BEYOND_SIZE: u64 = 4;

/// How a volume is divided. Chosen when it is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Pages of one group, about: what its stripes grow to later comes on top.
    pub group_blocks: u64,
    /// Pages of one stripe.
    pub stripe_blocks: u32,
}

impl Geometry {
    /// 10 GiB and 8 MiB.
    pub const DEFAULT: Geometry = Geometry {
        group_blocks: (10 << 30) / PAGE_BYTES as u64,
        stripe_blocks: (8 << 20) / PAGE_BYTES as u32,
    };

    fn stripe_of(&self, block: u32) -> u32 {
        block / self.stripe_blocks
    }

    /// Blocks up to the end of a stripe, at most those of the fork.
    fn end_of(&self, stripe: u32, blocks: u32) -> u32 {
        let end = (u64::from(stripe) + 1) * u64::from(self.stripe_blocks);
        u32::try_from(end).map_or(blocks, |end| end.min(blocks))
    }
}

/// The stripe map.
#[derive(Clone, Debug)]
pub struct Stripes {
    geometry: Geometry,
    /// (fork, first stripe): the group of what follows.
    entries: BTreeMap<(ForkKey, u32), GroupId>,
    /// Blocks of each group, by its number.
    blocks: Vec<u64>,
    /// Stripes of each group that have blocks, by its number.
    begun: Vec<u64>,
    /// The group that gets the next stripe, as long as it has room.
    filling: usize,
}

impl Default for Stripes {
    fn default() -> Stripes {
        Stripes::new(Geometry::DEFAULT, 1)
    }
}

impl Stripes {
    /// No stripes yet, in so many groups.
    pub fn new(geometry: Geometry, groups_count: usize) -> Stripes {
        Stripes {
            geometry,
            entries: BTreeMap::new(),
            blocks: vec![0; groups_count.max(1)],
            begun: vec![0; groups_count.max(1)],
            filling: 0,
        }
    }

    /// Whether everything is group 0's.
    pub fn is_one_group(&self) -> bool {
        self.entries.is_empty()
    }

    /// The group of a page. Pages that belong to no fork with a size, such as those of transaction status, are group 0's.
    pub fn group_of(&self, page: PageKey) -> GroupId {
        if self.entries.is_empty() {
            return GroupId::FIRST;
        }
        self.group_of_stripe(page.fork, self.geometry.stripe_of(page.block))
    }

    fn group_of_stripe(&self, fork: ForkKey, stripe: u32) -> GroupId {
        let entry = self.entries.range(..=(fork, stripe)).next_back();
        entry
            .filter(|((of, _), _)| *of == fork)
            .map_or(GroupId::FIRST, |(_, group)| *group)
    }

    /// How many of the `count` pages from `first` on are in its group, and follow each other there.
    pub fn run(&self, first: PageKey, count: u32) -> u32 {
        let stripe = self.geometry.stripe_of(first.block);
        let next = self
            .entries
            .range((Bound::Excluded((first.fork, stripe)), Bound::Unbounded))
            .next();
        match next.filter(|((fork, _), _)| *fork == first.fork) {
            Some(((_, stripe), _)) => {
                let begins = u64::from(*stripe) * u64::from(self.geometry.stripe_blocks);
                u64::from(count).min(begins - u64::from(first.block)) as u32
            }
            None => count,
        }
    }

    /// Adds the groups that hold blocks of a fork of `blocks` from `from_block` on.
    pub fn groups_from(&self, fork: ForkKey, from_block: u32, blocks: u32, groups: &mut BTreeSet<GroupId>) {
        if blocks <= from_block {
            return;
        }
        let (first, last) = (self.geometry.stripe_of(from_block), self.geometry.stripe_of(blocks - 1));
        groups.insert(self.group_of_stripe(fork, first));
        let entries = self.entries.range((fork, first)..=(fork, last));
        groups.extend(entries.map(|(_, group)| *group));
    }

    /// Takes over an entry: from this stripe on the fork, which has `blocks`, is in `group`; `None`: in that of the stripe
    /// before.
    pub fn set(&mut self, fork: ForkKey, first: u32, group: Option<GroupId>, blocks: u32) {
        self.count(fork, 0, blocks, |held, count| *held -= count);
        match group {
            Some(group) => drop(self.entries.insert((fork, first), group)),
            None => drop(self.entries.remove(&(fork, first))),
        }
        self.count(fork, 0, blocks, |held, count| *held += count);
    }

    /// Takes over that the size of a fork changes.
    pub fn resize(&mut self, fork: ForkKey, before: u32, after: u32) {
        if before < after {
            self.count(fork, before, after, |held, count| *held += count);
        } else {
            self.count(fork, after, before, |held, count| *held -= count);
        }
    }

    /// Changes what the groups of the blocks `from..until` hold: blocks, and stripes that begin there.
    fn count(&mut self, fork: ForkKey, from: u32, until: u32, change: impl Fn(&mut u64, u64)) {
        let mut at = from;
        while at < until {
            let run = self.run(fork.page(at), until - at).max(1);
            let group = self.group_of(fork.page(at)).raw() as usize;
            if self.blocks.len() <= group {
                self.blocks.resize(group + 1, 0);
                self.begun.resize(group + 1, 0);
            }
            let begun = |block: u32| u64::from(block.div_ceil(self.geometry.stripe_blocks));
            change(&mut self.begun[group], begun(at + run) - begun(at));
            change(&mut self.blocks[group], u64::from(run));
            at += run;
        }
    }

    /// How far a fork that has `before` blocks and grows to `after` can grow in one step, and the entry that says where:
    /// stripes are assigned one after the other.
    pub fn grow(&mut self, fork: ForkKey, before: u32, after: u32) -> (u32, Option<(u32, GroupId)>) {
        if self.blocks.len() == 1 {
            return (after, None);
        }
        let begins_stripe = before.is_multiple_of(self.geometry.stripe_blocks);
        let stripe = self.geometry.stripe_of(before);
        let end = self.geometry.end_of(stripe, after);
        if !begins_stripe {
            return (end, None);
        }
        let group = self.choose();
        let entry = (self.group_of_stripe(fork, stripe) != group).then_some((stripe, group));
        (end, entry)
    }

    /// The entries of a fork that go when it is cut to `blocks`.
    pub fn ended(&self, fork: ForkKey, blocks: u32) -> Vec<u32> {
        if self.entries.is_empty() {
            return Vec::new();
        }
        let first = blocks.div_ceil(self.geometry.stripe_blocks);
        let entries = self.entries.range((fork, first)..=(fork, u32::MAX));
        entries.map(|((_, first), _)| *first).collect()
    }

    /// Blocks that further stripes of a group may have.
    fn room(&self, group: usize) -> u64 {
        let Geometry {
            group_blocks,
            stripe_blocks,
        } = self.geometry;
        let if_full = self.begun[group].saturating_mul(u64::from(stripe_blocks));
        let beyond = group_blocks.saturating_mul(STRIPES_BEYOND_SIZE).saturating_sub(if_full);
        group_blocks.saturating_sub(self.blocks[group]).min(beyond)
    }

    /// The group of the next stripe: the one that is being filled, or else the first with room. Where none has room the one
    /// with the least in it grows beyond its size: nothing ever waits for a new group.
    fn choose(&mut self) -> GroupId {
        let stripe = u64::from(self.geometry.stripe_blocks);
        if self.room(self.filling) < stripe {
            let with_room = (0..self.blocks.len()).find(|group| stripe <= self.room(*group));
            let least = (0..self.blocks.len()).min_by_key(|at| self.blocks[*at]);
            self.filling = with_room.or(least).unwrap_or(0);
        }
        GroupId::from_raw(self.filling as u32)
    }

    /// Whether so little is free that another group is to be made: less than eight stripes, or an eighth of a group.
    pub fn wants_group(&self) -> bool {
        let ahead = (self.geometry.group_blocks / 8).max(8 * u64::from(self.geometry.stripe_blocks));
        self.free_blocks() < ahead.min(self.geometry.group_blocks)
    }

    /// A group was made; its number is the next.
    pub fn add_group(&mut self) {
        self.blocks.push(0);
        self.begun.push(0);
    }

    /// How many groups there are.
    pub fn groups_count(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that the groups there are have room for.
    pub fn free_blocks(&self) -> u64 {
        (0..self.blocks.len()).map(|group| self.room(group)).sum()
    }

    /// Blocks of each group, group 0 first.
    pub fn blocks(&self) -> &[u64] {
        &self.blocks
    }
}

#[cfg(test)]
mod tests {
    use units::RelationKey;

    use super::*;

    const TINY: Geometry = Geometry {
        group_blocks: 10,
        stripe_blocks: 2,
    };

    fn fork(relation: u32) -> ForkKey {
        RelationKey {
            tablespace: 1663,
            database: 5,
            relation,
        }
        .fork(0)
    }

    /// What the catalog does with a fork that grows.
    fn grow(stripes: &mut Stripes, fork: ForkKey, before: u32, after: u32) -> usize {
        let (mut at, mut entries) = (before, 0);
        while at < after {
            let (end, entry) = stripes.grow(fork, at, after);
            if let Some((first, group)) = entry {
                stripes.set(fork, first, Some(group), at);
                entries += 1;
            }
            stripes.resize(fork, at, end);
            at = end;
        }
        entries
    }

    fn cut(stripes: &mut Stripes, fork: ForkKey, before: u32, after: u32) {
        stripes.resize(fork, before, after);
        for first in stripes.ended(fork, after) {
            stripes.set(fork, first, None, after);
        }
    }

    fn groups(stripes: &Stripes, fork: ForkKey, blocks: u32) -> Vec<u32> {
        (0..blocks)
            .map(|block| stripes.group_of(fork.page(block)).raw())
            .collect()
    }

    #[test]
    fn one_group_has_no_entries() {
        let mut stripes = Stripes::new(TINY, 1);
        assert_eq!(grow(&mut stripes, fork(1), 0, 100), 0);
        assert!(stripes.is_one_group());
        assert_eq!(stripes.blocks(), [100]);
        assert!(stripes.wants_group());
    }

    #[test]
    fn groups_are_filled_one_after_the_other_and_a_stripe_stays_where_it_is() {
        let mut stripes = Stripes::new(TINY, 3);
        assert_eq!(grow(&mut stripes, fork(1), 0, 13), 1);
        assert_eq!(groups(&stripes, fork(1), 13), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1]);
        assert_eq!(grow(&mut stripes, fork(2), 0, 6), 1);
        assert_eq!(groups(&stripes, fork(2), 6), [1; 6]);
        grow(&mut stripes, fork(1), 13, 17);
        assert_eq!(groups(&stripes, fork(1), 17)[12..], [1, 1, 2, 2, 2]);
        assert_eq!(stripes.blocks(), [10, 10, 3]);
        assert_eq!(stripes.run(fork(1).page(3), 100), 7);
        assert_eq!(stripes.run(fork(1).page(3), 2), 2);
        assert_eq!(stripes.run(fork(1).page(15), 100), 100);
    }

    /// protocol.md, hole 16.
    #[test]
    fn a_truncation_is_for_every_group_of_the_range_and_ends_what_is_gone() {
        let mut stripes = Stripes::new(TINY, 3);
        grow(&mut stripes, fork(1), 0, 25);
        let from = |from, blocks| {
            let mut groups = BTreeSet::new();
            stripes.groups_from(fork(1), from, blocks, &mut groups);
            groups.into_iter().map(GroupId::raw).collect::<Vec<u32>>()
        };
        assert_eq!(from(0, 25), [0, 1, 2]);
        assert_eq!(from(11, 25), [1, 2]);
        assert_eq!(from(24, 25), [2]);
        assert!(from(25, 25).is_empty());
        cut(&mut stripes, fork(1), 25, 11);
        assert_eq!(stripes.blocks(), [10, 1, 0]);
        cut(&mut stripes, fork(1), 11, 0);
        assert_eq!(stripes.blocks(), [0, 0, 0]);
        assert!(stripes.is_one_group());
    }

    #[test]
    fn where_no_group_has_room_the_emptiest_grows_beyond_its_size() {
        let mut stripes = Stripes::new(TINY, 2);
        grow(&mut stripes, fork(1), 0, 40);
        assert_eq!(stripes.blocks().iter().sum::<u64>(), 40);
        assert!(stripes.blocks().iter().all(|blocks| 18 <= *blocks), "{stripes:?}");
        stripes.add_group();
        grow(&mut stripes, fork(2), 0, 2);
        assert_eq!(groups(&stripes, fork(2), 2), [2, 2]);
    }

    /// Ten groups' worth of relations of one page each, which then all grow by one more.
    #[test]
    fn small_relations_that_grow_later_do_not_make_a_group_much_larger() {
        let geometry = Geometry {
            group_blocks: 100,
            stripe_blocks: 20,
        };
        let mut stripes = Stripes::new(geometry, 2);
        let relations = 1..=200_u32;
        for relation in relations.clone() {
            if stripes.wants_group() {
                stripes.add_group();
            }
            grow(&mut stripes, fork(relation), 0, 1);
        }
        // 20 stripes are 4 times a group: one page each, where 100 would have room.
        assert_eq!(stripes.blocks()[..2], [20, 20]);
        assert_eq!(stripes.begun[..2], [20, 20]);
        for relation in relations.clone() {
            grow(&mut stripes, fork(relation), 1, 20);
        }
        let largest = stripes.blocks().iter().max().copied();
        assert_eq!(largest, Some(STRIPES_BEYOND_SIZE * geometry.group_blocks));
        for relation in relations {
            cut(&mut stripes, fork(relation), 20, 0);
        }
        assert!(stripes.blocks().iter().chain(&stripes.begun).all(|count| *count == 0));
    }

    /// The catalog is read key by key: all sizes first.
    #[test]
    fn what_is_read_back_is_what_was_assigned() {
        let mut stripes = Stripes::new(TINY, 3);
        grow(&mut stripes, fork(1), 0, 13);
        grow(&mut stripes, fork(2), 0, 14);
        let mut read = Stripes::new(TINY, 3);
        for (fork, blocks) in [(fork(1), 13), (fork(2), 14)] {
            read.resize(fork, 0, blocks);
        }
        for ((of, first), group) in &stripes.entries {
            let blocks = if *of == fork(1) { 13 } else { 14 };
            read.set(*of, *first, Some(*group), blocks);
        }
        assert_eq!(read.blocks(), stripes.blocks());
        assert_eq!(groups(&read, fork(2), 14), groups(&stripes, fork(2), 14));
    }
}
