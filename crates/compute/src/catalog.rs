//! The volume's catalog as the writer knows it: kept in step with the log it ships.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;
use engine::Touch;
use skeleton::blob::{self, Blob};
use units::{ForkKey, GroupId, Lsn, RelationKey, fork};
use volume::stripes::{Geometry, Stripes};
use wal::StateChange;
use wire_format::broker::ForkSize;
use wire_format::{CatalogEntry, CatalogKey};

use crate::broker::{ForkInfo, Forks};

/// Content of a database's `PG_VERSION`.
const VERSION: &[u8] = b"15\n";

/// Sizes of forks and small values, as of the last record that was looked at.
#[derive(Default, Debug)]
pub(crate) struct Catalog {
    forks: BTreeMap<ForkKey, u32>,
    blobs: BTreeMap<String, Bytes>,
    blocks: u64,
    /// Which group each page belongs to.
    pub(crate) stripes: Stripes,
    /// When the volume was durable up to where, as an earlier reign noted it.
    pub(crate) durable_times: Option<Bytes>,
}

impl Catalog {
    /// An empty catalog of a volume so divided.
    pub(crate) fn new(geometry: Geometry, groups_count: usize) -> Catalog {
        Catalog {
            stripes: Stripes::new(geometry, groups_count),
            ..Catalog::default()
        }
    }

    /// Takes over an entry that the volume has, or one that is about to be shipped.
    pub(crate) fn take(&mut self, key: &CatalogKey, value: Option<&Bytes>) {
        match key {
            CatalogKey::ForkBlocks(fork) => {
                let blocks = value
                    .and_then(|value| value.first_chunk::<4>())
                    .map(|four| u32::from_le_bytes(*four));
                let before = match blocks {
                    Some(blocks) => self.forks.insert(*fork, blocks),
                    None => self.forks.remove(fork),
                };
                let (before, blocks) = (before.unwrap_or(0), blocks.unwrap_or(0));
                self.blocks = self.blocks - u64::from(before) + u64::from(blocks);
                self.stripes.resize(*fork, before, blocks);
            }
            CatalogKey::Blob(name) => match value {
                Some(value) => drop(self.blobs.insert(name.clone(), value.clone())),
                None => drop(self.blobs.remove(name)),
            },
            CatalogKey::Stripes { fork, first } => {
                let group = value
                    .and_then(|value| value.first_chunk::<4>())
                    .map(|four| GroupId::from_raw(u32::from_le_bytes(*four)));
                let blocks = self.forks.get(fork).copied().unwrap_or(0);
                self.stripes.set(*fork, *first, group, blocks);
            }
            CatalogKey::DurableTimes => self.durable_times = value.cloned(),
        }
    }

    /// Bytes of all forks.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.blocks * units::PAGE_BYTES as u64
    }

    /// The small values, by name.
    pub(crate) fn blobs(&self) -> &BTreeMap<String, Bytes> {
        &self.blobs
    }

    /// Relations that begin anew with every start, with the size of the fork they begin as.
    pub(crate) fn init_forks(&self) -> impl Iterator<Item = (RelationKey, u32)> + '_ {
        let forks = self.forks.iter().filter(|(key, _)| key.fork == fork::INIT);
        forks.map(|(key, blocks)| (key.relation, *blocks))
    }

    /// Every relation of which there is a fork.
    pub(crate) fn relations(&self) -> impl Iterator<Item = RelationKey> + '_ {
        self.forks.keys().map(|fork| fork.relation)
    }

    /// Tablespaces that users made, with the locations that they named.
    pub(crate) fn tablespaces(&self) -> impl Iterator<Item = (u32, &Bytes)> + '_ {
        self.blobs
            .iter()
            .filter_map(|(name, location)| match Blob::parse(name) {
                Some(Blob::Tablespace { tablespace }) => Some((tablespace, location)),
                _ => None,
            })
    }

    /// Carries out what a record does, and appends the entries that say so: one of each key, because a storage node keeps one
    /// value of a key at a position. A record that extends a fork by several blocks changes its size as often.
    pub(crate) fn apply_all(&mut self, changes: &[StateChange<'_>], lsn: Lsn, entries: &mut Vec<CatalogEntry>) {
        let before = entries.len();
        for change in changes {
            self.apply(change, lsn, entries);
        }
        if before + 1 < entries.len() {
            let changed = entries.drain(before..).map(|entry| (entry.key, entry.value));
            // The last value of each.
            let changed: BTreeMap<CatalogKey, Option<Bytes>> = changed.collect();
            entries.extend(changed.into_iter().map(|(key, value)| CatalogEntry { key, lsn, value }));
        }
    }

    fn apply(&mut self, change: &StateChange<'_>, lsn: Lsn, entries: &mut Vec<CatalogEntry>) {
        match change {
            StateChange::ForkCreated { fork } if !self.forks.contains_key(fork) => {
                self.set_fork(*fork, Some(0), lsn, entries)
            }
            StateChange::ForkExtended {
                fork,
                blocks,
                if_exists,
            } => match self.forks.get(fork) {
                Some(before) if *blocks <= *before => {}
                None if *if_exists => {}
                _ => self.set_fork(*fork, Some(*blocks), lsn, entries),
            },
            StateChange::ForkTruncated { fork, blocks }
                if self.forks.get(fork).is_some_and(|before| blocks < before) =>
            {
                self.set_fork(*fork, Some(*blocks), lsn, entries);
            }
            StateChange::ForkDropped { fork } if self.forks.contains_key(fork) => {
                self.set_fork(*fork, None, lsn, entries)
            }
            StateChange::DatabaseCreated { tablespace, database } => {
                let name = blob::database(*tablespace, *database);
                self.set_blob(name, Some(Bytes::from_static(VERSION)), lsn, entries);
            }
            StateChange::DatabaseDropped { tablespace, database } => {
                let within =
                    |key: &&ForkKey| (key.relation.tablespace, key.relation.database) == (*tablespace, *database);
                let gone: Vec<ForkKey> = self.forks.keys().filter(within).copied().collect();
                gone.into_iter()
                    .for_each(|fork| self.set_fork(fork, None, lsn, entries));
                for name in [
                    blob::database(*tablespace, *database),
                    blob::relation_map(*tablespace, *database),
                ] {
                    self.remove_blob(name, lsn, entries);
                }
            }
            StateChange::RelationMapUpdated {
                tablespace,
                database,
                bytes,
            } => {
                let name = blob::relation_map(*tablespace, *database);
                self.set_blob(name, Some(Bytes::copy_from_slice(bytes)), lsn, entries);
            }
            StateChange::Prepared { transaction, payload } => {
                let name = blob::two_phase(*transaction);
                self.set_blob(name, Some(Bytes::copy_from_slice(payload)), lsn, entries);
            }
            StateChange::PreparedFinished { transaction } => {
                self.set_blob(blob::two_phase(*transaction), None, lsn, entries);
            }
            StateChange::TablespaceCreated { tablespace, path } => {
                let name = blob::tablespace(*tablespace);
                self.set_blob(name, Some(Bytes::copy_from_slice(path)), lsn, entries);
            }
            StateChange::TablespaceDropped { tablespace } => {
                self.remove_blob(blob::tablespace(*tablespace), lsn, entries);
            }
            StateChange::OriginAdvanced {
                origin,
                remote_lsn,
                force,
            } => {
                // `replorigin_advance`.
                let name = blob::origin(*origin);
                let before = self.blobs.get(&name).and_then(|value| blob::position(value));
                if *force || before.is_none_or(|before| before < *remote_lsn) {
                    let value = Bytes::copy_from_slice(&remote_lsn.raw().to_le_bytes());
                    self.set_blob(name, Some(value), lsn, entries);
                }
            }
            StateChange::OriginDropped { origin } => self.remove_blob(blob::origin(*origin), lsn, entries),
            // Counters are marks; copied databases are refused before they are logged; the rest outlives no start.
            _ => {}
        }
    }

    fn set_fork(&mut self, fork: ForkKey, blocks: Option<u32>, lsn: Lsn, entries: &mut Vec<CatalogEntry>) {
        let value = |blocks: u32| Bytes::copy_from_slice(&blocks.to_le_bytes());
        let (mut at, after) = (self.forks.get(&fork).copied().unwrap_or(0), blocks.unwrap_or(0));
        // INIT forks are read before any group but the first is awake: they stay there.
        while at < after && fork.fork != fork::INIT {
            let (end, assigned) = self.stripes.grow(fork, at, after);
            if let Some((first, group)) = assigned {
                let group = Bytes::copy_from_slice(&group.raw().to_le_bytes());
                self.change(CatalogKey::Stripes { fork, first }, Some(group), lsn, entries);
            }
            self.change(CatalogKey::ForkBlocks(fork), Some(value(end)), lsn, entries);
            at = end;
        }
        if after < at || blocks != self.forks.get(&fork).copied() {
            self.change(CatalogKey::ForkBlocks(fork), blocks.map(value), lsn, entries);
            for first in self.stripes.ended(fork, after) {
                self.change(CatalogKey::Stripes { fork, first }, None, lsn, entries);
            }
        }
    }

    /// The groups of what a record takes away, before it does: every one that has a page of the range (protocol.md, hole 16).
    pub(crate) fn groups_that_lose(&self, touches: &[Touch], groups: &mut BTreeSet<GroupId>) {
        for touch in touches {
            match touch {
                Touch::Page { .. } => {}
                Touch::Truncate { fork, from_block } => {
                    let blocks = self.forks.get(fork).copied().unwrap_or(0);
                    self.stripes.groups_from(*fork, *from_block, blocks, groups);
                }
                Touch::DropDatabase { tablespace, database } => {
                    let first = RelationKey {
                        tablespace: *tablespace,
                        database: *database,
                        relation: 0,
                    };
                    let last = RelationKey {
                        relation: u32::MAX,
                        ..first
                    };
                    for (fork, blocks) in self.forks.range(first.fork(0)..=last.fork(u8::MAX)) {
                        self.stripes.groups_from(*fork, 0, *blocks, groups);
                    }
                }
            }
        }
    }

    fn set_blob(&mut self, name: String, value: Option<Bytes>, lsn: Lsn, entries: &mut Vec<CatalogEntry>) {
        self.change(CatalogKey::Blob(name), value, lsn, entries);
    }

    fn remove_blob(&mut self, name: String, lsn: Lsn, entries: &mut Vec<CatalogEntry>) {
        if self.blobs.contains_key(&name) {
            self.set_blob(name, None, lsn, entries);
        }
    }

    fn change(&mut self, key: CatalogKey, value: Option<Bytes>, lsn: Lsn, entries: &mut Vec<CatalogEntry>) {
        self.take(&key, value.as_ref());
        entries.push(CatalogEntry { key, lsn, value });
    }
}

impl Forks for Catalog {
    fn fork(&self, fork: ForkKey) -> ForkInfo {
        ForkInfo {
            blocks: self.forks.get(&fork).copied(),
            unlogged: self.forks.contains_key(&fork.relation.fork(fork::INIT)),
        }
    }

    fn list(&self, tablespace: Option<u32>, database: Option<u32>, after: ForkKey, count_max: usize) -> Vec<ForkSize> {
        let wanted = |relation: RelationKey| {
            tablespace.is_none_or(|tablespace| relation.tablespace == tablespace)
                && database.is_none_or(|database| relation.database == database)
        };
        self.forks
            .range((Bound::Excluded(after), Bound::Unbounded))
            .filter(|(fork, _)| wanted(fork.relation))
            .take(count_max)
            .map(|(fork, blocks)| ForkSize {
                fork: *fork,
                blocks: *blocks,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_the_log() {
        let relation = RelationKey {
            tablespace: 1663,
            database: 5,
            relation: 16384,
        };
        let (main, map) = (relation.fork(fork::MAIN), relation.fork(fork::VISIBILITY));
        let mut catalog = Catalog::default();
        let mut entries = Vec::new();
        let lsn = Lsn::from_raw(100);
        let changes = [
            StateChange::ForkCreated { fork: main },
            StateChange::ForkExtended {
                fork: main,
                blocks: 7,
                if_exists: false,
            },
            StateChange::ForkExtended {
                fork: main,
                blocks: 3,
                if_exists: false,
            },
            StateChange::ForkExtended {
                fork: map,
                blocks: 1,
                if_exists: true,
            },
            StateChange::ForkCreated { fork: main },
        ];
        catalog.apply_all(&changes, lsn, &mut entries);
        assert_eq!(catalog.fork(main).blocks, Some(7));
        assert_eq!(catalog.fork(map).blocks, None, "clearing bits makes no map");
        assert_eq!(catalog.size_bytes(), 7 * 8192);
        let told: Vec<Option<&[u8]>> = entries.iter().map(|entry| entry.value.as_deref()).collect();
        assert_eq!(
            told,
            [Some(&7_u32.to_le_bytes()[..])],
            "one entry of a key at one position: the last"
        );
        let list = |database, after, count_max| {
            let listed = catalog.list(None, Some(database), after, count_max);
            listed.iter().map(|size| size.fork).collect::<Vec<_>>()
        };
        let first = RelationKey {
            tablespace: 0,
            database: 0,
            relation: 0,
        };
        assert_eq!(list(5, first.fork(0), 10), [main]);
        assert_eq!(list(5, main, 10), []);
        assert_eq!(list(5, first.fork(0), 0), []);
        assert_eq!(list(6, first.fork(0), 10), []);
        let dropped = StateChange::DatabaseDropped {
            tablespace: 1663,
            database: 5,
        };
        catalog.apply_all(&[dropped], Lsn::from_raw(200), &mut entries);
        assert_eq!((catalog.fork(main).blocks, catalog.size_bytes()), (None, 0));
        let of_main = entries.iter().filter(|entry| entry.key == CatalogKey::ForkBlocks(main));
        let positions: Vec<u64> = of_main.map(|entry| entry.lsn.raw()).collect();
        assert_eq!(positions, [100, 200], "another record has an entry of its own");
    }
}
