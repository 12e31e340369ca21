//! The writer's catalog in the toy volume: how long its one fork is, and which groups its stripes are in.
//!
//! The stripe map is the real one ([`Stripes`]); around it is what the instance's catalog does: stripes are assigned when the
//! fork grows into them and ended when it is cut, both told in the flush header with the record's LSN, and a record goes
//! whole to every group that it touches.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use engine::Touch;
use units::{GroupId, Lsn};
use volume::stripes::{Geometry, Stripes};
use wire_format::{CatalogEntry, CatalogKey};

use crate::toy::{FORK, Record};

/// What a record is for other groups than one: (group, places in the list of its touches that are not for it).
pub(crate) type Route = Vec<(GroupId, Vec<u32>)>;

/// The catalog as of the last record that was looked at.
#[derive(Debug)]
pub(crate) struct Layout {
    blocks: Option<u32>,
    pub(crate) stripes: Stripes,
    /// The groups of all blocks, from each record on that changed them.
    groups: BTreeMap<Lsn, Vec<GroupId>>,
}

impl Layout {
    /// What a catalog says that was read as of an LSN.
    pub(crate) fn read(entries: &[CatalogEntry], geometry: Geometry, groups_count: usize, at: Lsn) -> Layout {
        let mut layout = Layout {
            blocks: None,
            stripes: Stripes::new(geometry, groups_count),
            groups: BTreeMap::new(),
        };
        entries
            .iter()
            .for_each(|entry| layout.take(&entry.key, entry.value.as_ref()));
        layout.groups.insert(at, layout.now());
        layout
    }

    fn now(&self) -> Vec<GroupId> {
        let blocks = 0..self.blocks.unwrap_or(0);
        blocks.map(|block| self.stripes.group_of(FORK.page(block))).collect()
    }

    /// The groups of all blocks as of an LSN.
    pub(crate) fn groups_at(&self, at: Lsn) -> &[GroupId] {
        let last = self.groups.range(..=at).next_back();
        last.map_or(&[], |(_, groups)| groups)
    }

    fn take(&mut self, key: &CatalogKey, value: Option<&Bytes>) {
        let number = value
            .and_then(|value| value.first_chunk::<4>())
            .map(|four| u32::from_le_bytes(*four));
        match key {
            CatalogKey::ForkBlocks(_) => {
                let (before, after) = (self.blocks.unwrap_or(0), number.unwrap_or(0));
                self.blocks = number;
                self.stripes.resize(FORK, before, after);
            }
            CatalogKey::Stripes { first, .. } => {
                let group = number.map(GroupId::from_raw);
                self.stripes.set(FORK, *first, group, self.blocks.unwrap_or(0));
            }
            CatalogKey::Blob(_) | CatalogKey::DurableTimes => {}
        }
    }

    /// Carries out what a record does: which groups it goes to, group 0 alone if that is empty, and the entries that say so.
    pub(crate) fn look(&mut self, record: &Record, entries: &mut Vec<CatalogEntry>) -> Route {
        let mut changed = BTreeMap::new();
        let mut groups = BTreeSet::new();
        let before = self.blocks.unwrap_or(0);
        let touches = record.touches();
        for touch in &touches {
            match touch {
                Touch::Page { .. } => {}
                Touch::Truncate { from_block, .. } => {
                    self.stripes.groups_from(FORK, *from_block, before, &mut groups);
                    if *from_block < before {
                        self.resize(Some(*from_block), &mut changed);
                    }
                }
                Touch::DropDatabase { .. } => {
                    self.stripes.groups_from(FORK, 0, before, &mut groups);
                    self.resize(None, &mut changed);
                }
            }
        }
        for touch in &touches {
            if let Touch::Page { key, .. } = touch
                && self.blocks.unwrap_or(0) <= key.block
            {
                self.resize(Some(key.block + 1), &mut changed);
            }
        }
        let lsn = record.name.lsn;
        if !changed.is_empty() {
            self.groups.insert(lsn, self.now());
        }
        entries.extend(changed.into_iter().map(|(key, value)| CatalogEntry { key, lsn, value }));
        self.route(&touches, groups)
    }

    /// As the instance's catalog sets a fork.
    fn resize(&mut self, blocks: Option<u32>, changed: &mut BTreeMap<CatalogKey, Option<Bytes>>) {
        let value = |number: u32| Bytes::copy_from_slice(&number.to_le_bytes());
        let (mut at, after) = (self.blocks.unwrap_or(0), blocks.unwrap_or(0));
        let size = CatalogKey::ForkBlocks(FORK);
        while at < after {
            let (end, assigned) = self.stripes.grow(FORK, at, after);
            if let Some((first, group)) = assigned {
                self.change(
                    CatalogKey::Stripes { fork: FORK, first },
                    Some(value(group.raw())),
                    changed,
                );
            }
            self.change(size.clone(), Some(value(end)), changed);
            at = end;
        }
        if after < at || blocks != self.blocks {
            self.change(size, blocks.map(value), changed);
            for first in self.stripes.ended(FORK, after) {
                self.change(CatalogKey::Stripes { fork: FORK, first }, None, changed);
            }
        }
    }

    fn change(&mut self, key: CatalogKey, value: Option<Bytes>, changed: &mut BTreeMap<CatalogKey, Option<Bytes>>) {
        self.take(&key, value.as_ref());
        changed.insert(key, value);
    }

    /// The groups of the pages that a record changes, beside those of what it takes away.
    fn route(&self, touches: &[Touch], mut groups: BTreeSet<GroupId>) -> Route {
        let of_page = |touch: &Touch| match touch {
            Touch::Page { key, .. } => Some(self.stripes.group_of(*key)),
            Touch::Truncate { .. } | Touch::DropDatabase { .. } => None,
        };
        let of_pages: Vec<Option<GroupId>> = touches.iter().map(of_page).collect();
        groups.extend(of_pages.iter().flatten());
        if groups.iter().all(|group| *group == GroupId::FIRST) {
            return Route::new();
        }
        let elsewhere = |group: GroupId| {
            let others = of_pages.iter().zip(0..);
            let others = others.filter(|(of, _)| of.is_some_and(|of| of != group));
            (group, others.map(|(_, at)| at).collect())
        };
        groups.into_iter().map(elsewhere).collect()
    }
}
