//! What records change besides pages they name: forks, databases and what lies beside them come and go.

use units::{ForkKey, Page, PageKey, RelationKey};
use wal::StateChange;

use crate::state::ClusterState;

impl ClusterState {
    /// Pages of a fork from a block on are gone.
    pub(crate) fn remove_pages(&mut self, fork: ForkKey, from_block: u32) {
        let gone: Vec<PageKey> = self
            .pages
            .range(fork.page(from_block)..=fork.page(u32::MAX))
            .map(|(key, _)| *key)
            .collect();
        gone.iter().for_each(|key| drop(self.pages.remove(key)));
    }

    /// What a database has in a tablespace is gone.
    pub(crate) fn remove_database(&mut self, tablespace: u32, database: u32) {
        for fork in self.forks_of(tablespace, database) {
            self.forks.remove(&fork);
            self.remove_pages(fork, 0);
        }
    }

    fn forks_of(&self, tablespace: u32, database: u32) -> Vec<ForkKey> {
        let relation = |relation| RelationKey {
            tablespace,
            database,
            relation,
        };
        let range = relation(0).fork(0)..=relation(u32::MAX).fork(u8::MAX);
        self.forks.range(range).map(|(fork, _)| *fork).collect()
    }

    /// `copydir`: files as they are.
    fn copy_database(&mut self, from: (u32, u32), to: (u32, u32)) {
        for fork in self.forks_of(from.0, from.1) {
            let mut copy = fork;
            (copy.relation.tablespace, copy.relation.database) = to;
            let pages: Vec<(PageKey, Page)> = self
                .pages
                .range(fork.page(0)..=fork.page(u32::MAX))
                .map(|(key, page)| (copy.page(key.block), page.clone()))
                .collect();
            self.pages.extend(pages);
            let blocks = self.forks.get(&fork).copied().unwrap_or(0);
            self.forks.insert(copy, blocks);
        }
        if let Some(map) = self.relation_maps.get(&from).cloned() {
            self.relation_maps.insert(to, map);
        }
    }

    /// One change that the log tells of.
    pub(crate) fn change(&mut self, change: &StateChange<'_>) {
        match *change {
            StateChange::ForkCreated { fork } => {
                self.forks.entry(fork).or_insert(0);
            }
            StateChange::ForkExtended { fork, if_exists, .. } if if_exists && !self.forks.contains_key(&fork) => {}
            StateChange::ForkExtended { fork, blocks, .. } => {
                let known = self.forks.entry(fork).or_insert(0);
                *known = blocks.max(*known);
            }
            StateChange::ForkTruncated { fork, blocks } => {
                if let Some(known) = self.forks.get_mut(&fork) {
                    *known = blocks.min(*known);
                }
            }
            StateChange::ForkDropped { fork } => {
                self.forks.remove(&fork);
            }
            StateChange::DatabaseCreated { tablespace, database } => {
                self.databases.insert((tablespace, database));
            }
            StateChange::DatabaseCopied {
                tablespace,
                database,
                source_tablespace,
                source_database,
            } => {
                let to = (tablespace, database);
                self.copy_database((source_tablespace, source_database), to);
                self.databases.insert(to);
            }
            StateChange::DatabaseDropped { tablespace, database } => {
                self.databases.remove(&(tablespace, database));
                self.relation_maps.remove(&(tablespace, database));
            }
            StateChange::RelationMapUpdated {
                tablespace,
                database,
                bytes,
            } => {
                self.relation_maps.insert((tablespace, database), bytes.to_vec());
            }
            StateChange::TablespaceCreated { tablespace, path } => {
                self.tablespaces.insert(tablespace, path.to_vec());
            }
            StateChange::TablespaceDropped { tablespace } => {
                self.tablespaces.remove(&tablespace);
            }
            StateChange::Prepared { transaction, payload } => {
                self.prepared.insert(transaction, payload.to_vec());
            }
            StateChange::PreparedFinished { transaction } => {
                self.prepared.remove(&transaction);
            }
            StateChange::OriginAdvanced {
                origin,
                remote_lsn,
                force,
            } => {
                let known = self.origins.entry(origin).or_insert(remote_lsn);
                *known = if force { remote_lsn } else { remote_lsn.max(*known) };
            }
            StateChange::OriginDropped { origin } => {
                self.origins.remove(&origin);
            }
            // Counters are the marks' business; the rest is no state of the cluster's.
            _ => {}
        }
    }
}
