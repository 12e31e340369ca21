//! Pages that sequential scans will want next.
//!
//! Invariants:
//! - A page is kept with the LSN up to which the copy that it came from was complete, and given only to who needs no more.
//! - Bounded: the oldest page goes first.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use units::{Lsn, Page, PageKey};

/// The most pages one request asks a storage node for.
const BATCH_PAGES_MAX: u16 = 64;

/// Pages that were read ahead, and those on their way.
pub(crate) struct ReadAhead {
    /// Each with the LSN up to which its copy was complete.
    pages: BTreeMap<PageKey, (Lsn, Page)>,
    /// Oldest first; some may be gone already.
    order: VecDeque<PageKey>,
    pages_max: usize,
    on_the_way: BTreeSet<PageKey>,
}

impl ReadAhead {
    /// Keeps at most `pages_max` pages.
    pub(crate) fn new(pages_max: usize) -> ReadAhead {
        ReadAhead {
            pages: BTreeMap::new(),
            order: VecDeque::new(),
            pages_max,
            on_the_way: BTreeSet::new(),
        }
    }

    /// The page, if its copy was complete up to `needed`. Leaves either way: a page is asked for once.
    pub(crate) fn take(&mut self, key: PageKey, needed: Lsn) -> Option<Page> {
        let (complete, page) = self.pages.remove(&key)?;
        (needed <= complete).then_some(page)
    }

    /// Whether it was asked for, and is not here yet.
    pub(crate) fn is_on_the_way(&self, key: &PageKey) -> bool {
        self.on_the_way.contains(key)
    }

    /// What to ask for now, so that the `count - 1` pages after `key` will be here: those that are neither here nor on their
    /// way, once half of a batch is missing. They count as on their way until [`ReadAhead::arrived`].
    pub(crate) fn begin(&mut self, key: PageKey, count: u16, fork_blocks: u32) -> Option<Vec<PageKey>> {
        let count = count.min(BATCH_PAGES_MAX);
        let end = fork_blocks.min(key.block.saturating_add(u32::from(count)));
        let known = |block: &u32| {
            let key = key.fork.page(*block);
            self.pages.contains_key(&key) || self.on_the_way.contains(&key)
        };
        let first = (key.block + 1..end).find(|block| !known(block))?;
        if count < 2 || end - first < u32::from(count / 2) {
            return None;
        }
        let keys: Vec<PageKey> = (first..end).map(|block| key.fork.page(block)).collect();
        self.on_the_way.extend(&keys);
        Some(keys)
    }

    /// The answer to what [`ReadAhead::begin`] asked for: pages of a copy that was complete up to `complete`; none, if it
    /// failed.
    pub(crate) fn arrived(&mut self, keys: &[PageKey], complete: Lsn, pages: Vec<Page>) {
        for key in keys {
            self.on_the_way.remove(key);
        }
        for (key, page) in keys.iter().zip(pages) {
            self.put(*key, complete, page);
        }
    }

    fn put(&mut self, key: PageKey, complete: Lsn, page: Page) {
        if self.pages.insert(key, (complete, page)).is_none() {
            self.order.push_back(key);
        }
        while self.pages_max < self.pages.len() || 2 * self.pages_max < self.order.len() {
            let Some(oldest) = self.order.pop_front() else { break };
            self.pages.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use units::{ForkKey, RelationKey};

    use super::*;

    const FORK: ForkKey = ForkKey {
        relation: RelationKey {
            tablespace: 1663,
            database: 5,
            relation: 9,
        },
        fork: 0,
    };

    const NONE: [u32; 0] = [];

    fn blocks(keys: Option<Vec<PageKey>>) -> Vec<u32> {
        keys.into_iter().flatten().map(|key| key.block).collect()
    }

    #[test]
    fn a_page_is_given_once_and_only_if_its_copy_was_complete_enough() {
        let mut ahead = ReadAhead::new(2);
        let at = Lsn::from_raw;
        ahead.put(FORK.page(1), at(100), Page::zeroed());
        assert!(ahead.take(FORK.page(1), at(101)).is_none(), "older than needed");
        assert!(
            ahead.take(FORK.page(1), at(100)).is_none(),
            "a stale page must not stay"
        );
        for block in 0..10 {
            ahead.put(FORK.page(block), at(100), Page::zeroed());
        }
        assert_eq!(ahead.pages.len(), 2, "bounded");
        assert!(ahead.take(FORK.page(9), at(50)).is_some());
        assert!(ahead.take(FORK.page(9), at(50)).is_none());
    }

    #[test]
    fn what_is_here_or_on_its_way_is_not_asked_for_again() {
        let mut ahead = ReadAhead::new(100);
        assert_eq!(blocks(ahead.begin(FORK.page(0), 1, 100)), NONE);
        assert_eq!(blocks(ahead.begin(FORK.page(0), 4, 100)), [1, 2, 3]);
        assert_eq!(
            blocks(ahead.begin(FORK.page(1), 4, 100)),
            NONE,
            "less than half is missing"
        );
        let keys = ahead.begin(FORK.page(2), 4, 100).expect("half is missing");
        assert_eq!(blocks(Some(keys.clone())), [4, 5]);
        ahead.arrived(&keys, Lsn::from_raw(9), Vec::new());
        assert!(!ahead.is_on_the_way(&FORK.page(4)), "a failed read is over, too");
        assert_eq!(blocks(ahead.begin(FORK.page(97), 8, 100)), NONE, "near the fork's end");
        assert_eq!(
            blocks(ahead.begin(FORK.page(10), u16::MAX, 100)).len(),
            usize::from(BATCH_PAGES_MAX) - 1
        );
    }
}
