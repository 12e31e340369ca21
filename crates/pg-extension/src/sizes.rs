//! How many blocks each fork has, exactly, and whose it is.
//!
//! A fork may be ahead of the log: extending it with zeros is not logged. So what this instance changed is kept; what merely
//! came from the volume, or what the volume says by now, too, may make room.
//!
//! Invariants:
//! - A size shrinks by truncation only.
//! - An entry that differs from what the volume knows is never evicted, nor is one of a fork in a file.
//! - Of a fork that is not known nothing is in the overlay, unless `sizes_left_out` counted something.
//! - An answer of the volume is not noted over a newer size, even if that one was evicted meanwhile.
//! - A truncation (critical section) needs no room: if nothing is known of the fork, the volume is only asked again once it
//!   knows of the truncation.

use std::sync::atomic::Ordering;

use pgrx::PgSqlErrorCode;
use units::{ForkKey, Lsn, fork};

use crate::counters::count;
use crate::fixed_table::{FixedTable, Hashed, mix};
use crate::{broker_client, errors, log_position, shared_memory};

/// How many entries that the volume knows are looked for at a time, once there is no other room.
const ROOM_WANTED: usize = 64;
/// The most questions a reader asks for that. One that has nowhere to note a change asks about its whole partition.
const READERS_QUESTIONS_MAX: usize = 8;

/// A partition of the table.
pub type SizesTable<'a> = FixedTable<'a, ForkKey, SizeEntry>;

/// What is known about a fork.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SizeEntry {
    /// How many blocks it has; `None` if there is no such fork.
    pub blocks: Option<u32>,
    /// Whether it belongs to an unlogged relation, and lies in a file of the cluster: then `blocks` means nothing.
    pub local: bool,
    /// Whether this instance changed it, and the volume may not know that yet.
    pub changed: bool,
    /// Where the log ended at the last change.
    pub changed_at: Lsn,
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
            changed_at: Lsn::ZERO,
            in_files: false,
        }
    }

    /// Whether the volume says the same.
    fn is(&self, volume: SizeEntry) -> bool {
        self.local == volume.local && (self.local || self.blocks == volume.blocks)
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

/// What is known about the fork; if nothing is, how many entries of its partition were removed so far.
pub fn get_or_removals(fork: ForkKey) -> Result<SizeEntry, u64> {
    shared_memory::with_sizes(fork.hashed(), |table| match table.get(&fork) {
        Some(entry) => Ok(*entry),
        None => Err(table.removals()),
    })
}

/// Notes what the volume said, unless something is known already; gives what is known now. It was asked after so many
/// `removals`.
///
/// If there were more since, another process may have noted, changed and evicted the fork's size. Then the answer is given
/// and not noted: it was right when it was asked for, like any size, which only a lock on the relation keeps right.
pub fn note_from_volume(fork: ForkKey, entry: SizeEntry, removals: u64) -> SizeEntry {
    let (known, has_room) = shared_memory::with_sizes(fork.hashed(), |table| match table.get(&fork).copied() {
        Some(known) => (known, true),
        None if table.removals() != removals => {
            count(&shared_memory::counters().sizes_left_out);
            (entry, true)
        }
        None => (entry, insert(table, fork, entry)),
    });
    if !has_room {
        // The volume is asked again next time; perhaps there is room by then.
        make_room(fork, READERS_QUESTIONS_MAX, log_position::durable());
    }
    known
}

/// How much log the volume must know of before it is asked about a fork of which nothing is known here.
pub fn needed() -> Lsn {
    Lsn::from_raw(shared_memory::unnoted_truncation().load(Ordering::Acquire))
}

/// Notes that the fork was created, empty.
pub fn create(fork: ForkKey, in_files: bool) {
    note(fork, |entry| {
        (entry.blocks, entry.local, entry.in_files) = (Some(0), false, in_files)
    });
}

/// Notes that the fork was cut to this many blocks. Raises nothing, and asks nobody.
pub fn truncate(fork: ForkKey, blocks: u32, in_files: bool) {
    if !change(fork, |entry| (entry.blocks, entry.in_files) = (Some(blocks), in_files)) {
        let inserted = log_position::inserted();
        shared_memory::unnoted_truncation().fetch_max(inserted.raw(), Ordering::AcqRel);
    }
}

/// Notes that the fork has at least this many blocks.
pub fn grow(fork: ForkKey, blocks: u32, in_files: bool) {
    note(fork, |entry| {
        (entry.blocks, entry.in_files) = (Some(entry.blocks.unwrap_or(0).max(blocks)), in_files);
    });
}

/// Notes that the fork lies in a file of the cluster.
pub fn set_local(fork: ForkKey) {
    if get(fork).is_none_or(|entry| !entry.local) {
        note(fork, |entry| (entry.blocks, entry.local) = (None, true));
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

/// Changes an entry, and makes room for it if there is none.
fn note(fork: ForkKey, change_entry: impl Fn(&mut SizeEntry)) {
    if change(fork, &change_entry) {
        return;
    }
    let inserted = log_position::inserted();
    log_position::flush(inserted);
    make_room(fork, usize::MAX, inserted);
    if !change(fork, &change_entry) {
        errors::raise(
            PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY,
            format!(
                "the table of relation sizes has no room for {fork}: it is full of what the volume does not know, and of \
                 unlogged relations"
            ),
            "Raise borealis.relation_sizes and restart the instance.",
        );
    }
}

/// Changes an entry, or makes one; whether there was room.
fn change(fork: ForkKey, change_entry: impl Fn(&mut SizeEntry)) -> bool {
    let changed_at = log_position::inserted();
    shared_memory::with_sizes(fork.hashed(), |table| {
        let changed = |entry: &mut SizeEntry| {
            change_entry(entry);
            (entry.changed, entry.changed_at) = (true, changed_at);
        };
        if let Some(entry) = table.get(&fork) {
            changed(entry);
            return true;
        }
        let mut entry = SizeEntry::from_volume(None, false);
        changed(&mut entry);
        insert(table, fork, entry)
    })
}

/// Looks among the fork's neighbours in the table, if they were not changed after `at`, for some that the volume knows as
/// they are by now: they may be evicted.
fn make_room(fork: ForkKey, questions_max: usize, at: Lsn) {
    let hash = fork.hashed();
    let entries = shared_memory::with_sizes(hash, |table| table.len());
    let mut found = 0;
    for _ in 0..entries.min(questions_max) {
        let candidate = shared_memory::with_sizes(hash, |table| {
            let fork = table.sweep(|_, entry| entry.changed && entry.changed_at <= at)?;
            table.get(&fork).map(|entry| (fork, *entry))
        });
        let Some((candidate, entry)) = candidate else { return };
        // Asked about a time after the change: records of before it could still come otherwise.
        if !entry.is(broker_client::fork_blocks(candidate, entry.changed_at.max(needed()))) {
            continue;
        }
        shared_memory::with_sizes(hash, |table| {
            if let Some(now) = table.get(&candidate).filter(|now| **now == entry) {
                now.changed = false;
            }
        });
        found += 1;
        if found == ROOM_WANTED {
            return;
        }
    }
}

fn insert(table: &mut SizesTable<'_>, fork: ForkKey, entry: SizeEntry) -> bool {
    if table.insert(fork, entry).is_some() {
        return true;
    }
    count(&shared_memory::counters().sizes_left_out);
    // Of a fork in a file, a truncation that did not know so would cut nothing.
    let Some(unchanged) = table.sweep(|_, entry| !entry.changed && !entry.local) else {
        return false;
    };
    table.remove(&unchanged);
    table.insert(fork, entry).is_some()
}
