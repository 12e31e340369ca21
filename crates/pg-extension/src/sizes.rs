//! How many blocks each fork has, exactly, and whose it is.
//!
//! A fork may be ahead of the log: extending it with zeros is not logged. So what this instance changed is kept as long as
//! it lives; what merely came from the volume may make room.
//!
//! Invariants:
//! - A size shrinks by truncation only.
//! - An entry that differs from what the volume knew is never evicted.

use pgrx::PgSqlErrorCode;
use units::{ForkKey, fork};

use crate::errors;
use crate::fixed_table::{FixedTable, Hashed, mix};
use crate::shared_memory;

/// A partition of the table.
pub type SizesTable<'a> = FixedTable<'a, ForkKey, SizeEntry>;

/// What is known about a fork.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SizeEntry {
    /// How many blocks it has; `None` if there is no such fork.
    pub blocks: Option<u32>,
    /// Whether it belongs to an unlogged relation, and lies in a file of the cluster: then `blocks` is not kept.
    pub local: bool,
    /// Whether this instance changed it.
    pub changed: bool,
    /// For `borealis.compare`: whether md's file has the same pages.
    pub in_files: bool,
}

impl SizeEntry {
    /// What the volume says about a fork.
    pub fn from_volume(blocks: Option<u32>, local: bool) -> SizeEntry {
        SizeEntry {
            blocks,
            local,
            changed: false,
            in_files: false,
        }
    }
}

impl Hashed for ForkKey {
    fn hashed(&self) -> u64 {
        let relation = self.relation;
        mix(&[
            relation.tablespace,
            relation.database,
            relation.relation,
            u32::from(self.fork),
        ])
    }
}

/// What is known about the fork.
pub fn get(fork: ForkKey) -> Option<SizeEntry> {
    shared_memory::with_sizes(fork.hashed(), |table| table.get(&fork).copied())
}

/// Notes what the volume said, unless something is known already; gives what is known now.
pub fn note_from_volume(fork: ForkKey, entry: SizeEntry) -> SizeEntry {
    shared_memory::with_sizes(fork.hashed(), |table| match table.get(&fork) {
        Some(known) => *known,
        None => {
            // Not noted if the table is full of what must stay: then the volume is asked again next time.
            insert(table, fork, entry);
            entry
        }
    })
}

/// Notes that the fork was created, empty.
pub fn create(fork: ForkKey, in_files: bool) {
    change(fork, |entry| {
        *entry = SizeEntry {
            blocks: Some(0),
            local: false,
            changed: true,
            in_files,
        };
    });
}

/// Notes that the fork was cut to this many blocks.
pub fn truncate(fork: ForkKey, blocks: u32) {
    change(fork, |entry| (entry.blocks, entry.changed) = (Some(blocks), true));
}

/// Notes that the fork has at least this many blocks.
pub fn grow(fork: ForkKey, blocks: u32) {
    change(fork, |entry| {
        entry.blocks = Some(entry.blocks.unwrap_or(0).max(blocks));
        entry.changed = true;
    });
}

/// Notes that the fork lies in a file of the cluster.
pub fn set_local(fork: ForkKey) {
    if get(fork).is_none_or(|entry| !entry.local) {
        change(fork, |entry| {
            (entry.blocks, entry.local, entry.changed) = (None, true, true)
        });
    }
}

/// Forgets the fork.
pub fn forget(fork: ForkKey) {
    shared_memory::with_sizes(fork.hashed(), |table| table.remove(&fork));
}

/// Forgets all forks of a database.
pub fn forget_database(database: u32) {
    shared_memory::for_all_sizes(|table| {
        while let Some(fork) = table.sweep(|fork, _| fork.relation.database == database) {
            table.remove(&fork);
        }
    });
}

/// Blocks of all permanent forks that are known and that `wanted` accepts.
pub fn blocks_where(wanted: impl Fn(&ForkKey) -> bool) -> u64 {
    let mut blocks = 0;
    shared_memory::for_all_sizes(|table| {
        let wanted = table.iter().filter(|(fork, entry)| !entry.local && wanted(fork));
        blocks += wanted
            .map(|(_, entry)| u64::from(entry.blocks.unwrap_or(0)))
            .sum::<u64>();
    });
    blocks
}

/// How many forks are known, and how many of them differ from what the volume said.
pub fn usage() -> (u64, u64) {
    let (mut known, mut changed) = (0, 0);
    shared_memory::for_all_sizes(|table| {
        known += table.len() as u64;
        changed += table.iter().filter(|(_, entry)| entry.changed).count() as u64;
    });
    (known, changed)
}

/// Whether the relation is known to have an INIT fork, which makes it an unlogged one.
pub fn is_known_unlogged(fork: ForkKey) -> bool {
    let init = fork.relation.fork(fork::INIT);
    get(init).is_some_and(|entry| entry.blocks.is_some())
}

fn change(fork: ForkKey, change: impl FnOnce(&mut SizeEntry)) {
    let done = shared_memory::with_sizes(fork.hashed(), |table| {
        if let Some(entry) = table.get(&fork) {
            change(entry);
            return true;
        }
        let mut entry = SizeEntry {
            changed: true,
            ..SizeEntry::from_volume(None, false)
        };
        change(&mut entry);
        insert(table, fork, entry)
    });
    if !done {
        errors::raise(
            PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY,
            format!("the table of relation sizes has no room for {fork}"),
            "Raise borealis.relation_sizes and restart the instance.",
        );
    }
}

fn insert(table: &mut SizesTable<'_>, fork: ForkKey, entry: SizeEntry) -> bool {
    if table.insert(fork, entry).is_some() {
        return true;
    }
    let Some(unchanged) = table.sweep(|_, entry| !entry.changed) else {
        return false;
    };
    table.remove(&unchanged);
    table.insert(fork, entry).is_some()
}
