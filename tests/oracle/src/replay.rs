//! Redo over a log that carries the pages as PostgreSQL left them: makes the cluster's state, and compares as it goes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use engine::{Engine, Touch};
use redo::PostgreSql;
use redo::mask::mask;
use units::{ForkKey, Page, PageKey, RelationKey, fork};
use wal::{DecodedRecord, Kind, Marks, StateChange, state_changes};

use crate::state::ClusterState;

/// Of so many differences the place is told; of the others, the number.
const DIFFERENCES_TOLD_MAX: usize = 40;

/// What became of the records of one kind.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Tally {
    /// Records.
    pub seen: u64,
    /// Pages that redo made by a change, not by a copy of an image.
    pub applied: u64,
    /// Those among them that were compared with PostgreSQL's own.
    pub compared: u64,
    /// Pages that were copied from an image.
    pub copied: u64,
    /// Pages that differ from PostgreSQL's own, or that redo refused to make.
    pub different: u64,
}

/// See the module.
pub struct Replay {
    /// As of the last record.
    pub state: ClusterState,
    /// The engine's counters as of the last record.
    pub marks: Marks,
    /// By kind.
    pub tallies: BTreeMap<Kind, Tally>,
    /// The first differences, each with its place.
    pub differences: Vec<String>,
    /// Pages of visibility maps that were logged without their bits. `RelationCopyStorageUsingBuffer` logs every page of
    /// a new database's template as one with a hole between its pointers and its rows, and a map is all hole: redo, ours
    /// as PostgreSQL's, then has a page without bits where the server has the template's.
    pub hollow_maps: BTreeSet<PageKey>,
}

impl Replay {
    /// Begins with the cluster as it was before the log.
    pub fn new(state: ClusterState, marks: Marks) -> Replay {
        Replay {
            state,
            marks,
            tallies: BTreeMap::new(),
            differences: Vec::new(),
            hollow_maps: BTreeSet::new(),
        }
    }

    /// Follows the log over one record.
    pub fn follow(&mut self, record: &wal::Record) -> Result<()> {
        let decoded = DecodedRecord::decode(&record.bytes).with_context(|| format!("record at {}", record.start))?;
        let kind = decoded.kind()?;
        self.tallies.entry(kind).or_default().seen += 1;
        let mut touches = Vec::new();
        PostgreSql.touches(&record.bytes, record.end, &mut touches)?;
        for touch in touches {
            match touch {
                Touch::Truncate { fork, from_block } => self.state.remove_pages(fork, from_block),
                Touch::DropDatabase { tablespace, database } => self.state.remove_database(tablespace, database),
                Touch::Page { key, .. } => self.page(record, &decoded, kind, key)?,
            }
        }
        self.marks.advance(&decoded, record.start, record.end)?;
        let mut changes = Vec::new();
        state_changes(&decoded, &mut changes)?;
        changes.iter().for_each(|change| self.state.change(change));
        Ok(())
    }

    fn page(&mut self, record: &wal::Record, decoded: &DecodedRecord<'_>, kind: Kind, key: PageKey) -> Result<()> {
        let tally = self.tallies.entry(kind).or_default();
        let block = decoded.blocks().find(|block| block.key == key);
        let image = block.and_then(|block| block.image);
        if key.fork.fork == fork::VISIBILITY && image.is_some_and(|image| image.hole_bytes != 0) {
            self.hollow_maps.insert(key);
        }
        let is_copy = image.as_ref().is_some_and(|image| image.apply);
        let after = block.filter(|_| !is_copy);
        let after = after.map(|block| redo::after_image(decoded, record.end, &block));
        let after = after.transpose()?.flatten();
        let page = self.state.pages.entry(key).or_insert_with(Page::zeroed);
        let applied = PostgreSql.apply(&record.bytes, record.end, key, page);
        if is_copy {
            tally.copied += 1;
        } else {
            tally.applied += 1;
        }
        let difference = match (applied, &after) {
            (Err(error), _) => Some(error.to_string()),
            // Bits of a visibility map are cleared before it is logged: an image may be ahead of its place in the log.
            (Ok(()), Some(_)) if key.fork.fork == fork::VISIBILITY => None,
            (Ok(()), Some(after)) => {
                tally.compared += 1;
                let manager = decoded.header.resource_manager;
                let first = first_masked_difference(page, after, key.block, manager);
                first.map(|first| format!("{kind} ending at {}: {key}, first at byte {first}", record.end))
            }
            (Ok(()), None) => None,
        };
        if let Some(difference) = difference {
            tally.different += 1;
            if self.differences.len() < DIFFERENCES_TOLD_MAX {
                self.differences.push(difference);
            }
            // Go on from what is right, so that one difference is told once.
            if let Some(after) = after {
                self.state.pages.insert(key, after);
            }
        }
        Ok(())
    }
}

/// Where two pages that a resource manager changed last begin to differ, but for what may differ.
pub fn first_masked_difference(one: &Page, other: &Page, block: u32, manager: u8) -> Option<usize> {
    if one == other {
        return None;
    }
    let (mut one, mut other) = (one.clone(), other.clone());
    mask(&mut one, block, manager);
    mask(&mut other, block, manager);
    let mut pairs = one.bytes().iter().zip(other.bytes());
    pairs.position(|(one, other)| one != other)
}

impl ClusterState {
    fn remove_pages(&mut self, fork: ForkKey, from_block: u32) {
        let gone: Vec<PageKey> = self
            .pages
            .range(fork.page(from_block)..=fork.page(u32::MAX))
            .map(|(key, _)| *key)
            .collect();
        gone.iter().for_each(|key| drop(self.pages.remove(key)));
    }

    fn remove_database(&mut self, tablespace: u32, database: u32) {
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

    fn change(&mut self, change: &StateChange<'_>) {
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
            // Counters are the marks' business; the rest is no state of the cluster's.
            _ => {}
        }
    }
}
