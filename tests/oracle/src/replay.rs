//! Redo over a log that carries the pages as PostgreSQL left them: makes the cluster's state, and compares as it goes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use engine::{Engine, Touch};
use redo::PostgreSql;
use redo::mask::mask;
use units::{Page, PageKey, fork};
use wal::{Checkpoint, DecodedRecord, Kind, Marks, StateChange, state_changes};

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

impl Tally {
    /// Adds what another run counted.
    pub fn add(&mut self, other: Tally) {
        self.seen += other.seen;
        self.applied += other.applied;
        self.compared += other.compared;
        self.copied += other.copied;
        self.different += other.different;
    }
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
        let mut changes = Vec::new();
        state_changes(&decoded, &mut changes)?;
        for change in &changes {
            if let StateChange::Checkpoint {
                checkpoint,
                is_shutdown: true,
            } = change
            {
                self.compare_counters(record, kind, checkpoint);
            }
            self.state.change(change);
        }
        self.marks.advance(&decoded, record.start, record.end)?;
        Ok(())
    }

    /// At a shutdown PostgreSQL says its counters exactly: the marks, as of the record before, must be as far. Of the oldest
    /// transaction and multixact they may only not be ahead, because a vacuum that takes no status pages away changes them
    /// without a record. Left out is `full_page_writes`, which a start changes so.
    fn compare_counters(&mut self, record: &wal::Record, kind: Kind, theirs: &Checkpoint) {
        /// `VAR_OID_PREFETCH`: object identifiers are logged so far ahead.
        const OIDS_AHEAD_MAX: u32 = 8192;
        let ours = self.marks.shutdown_checkpoint(record.start, theirs.time);
        let exact = |checkpoint: &Checkpoint| {
            [
                checkpoint.next_transaction,
                checkpoint.next_multixact.into(),
                checkpoint.next_multixact_offset.into(),
                checkpoint.newest_commit_timestamp.into(),
                checkpoint.timeline.into(),
            ]
        };
        // Such numbers go around in a circle.
        let is_ahead = |ours: u32, theirs: u32| (theirs.wrapping_sub(ours) as i32) < 0;
        self.tallies.entry(kind).or_default().compared += 1;
        if exact(&ours) != exact(theirs)
            || is_ahead(ours.oldest_transaction, theirs.oldest_transaction)
            || is_ahead(ours.oldest_multixact, theirs.oldest_multixact)
            || OIDS_AHEAD_MAX < ours.next_oid.wrapping_sub(theirs.next_oid)
        {
            let what = format!("counters at {}: {ours:?} from the log, but {theirs:?}", record.start);
            self.differ(kind, what);
        }
    }

    fn differ(&mut self, kind: Kind, what: String) {
        self.tallies.entry(kind).or_default().different += 1;
        if self.differences.len() < DIFFERENCES_TOLD_MAX {
            self.differences.push(what);
        }
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
            // Nor is it locked: it may have taken what is logged later.
            (Ok(()), Some(_)) if is_only_pinned(decoded, key) => None,
            (Ok(()), Some(after)) => {
                tally.compared += 1;
                let manager = decoded.header.resource_manager;
                let first = first_masked_difference(page, after, key.block, manager);
                first.map(|first| format!("{kind} ending at {}: {key}, first at byte {first}", record.end))
            }
            (Ok(()), None) => None,
        };
        if let Some(difference) = difference {
            self.differ(kind, difference);
            // Go on from what is right, so that one difference is told once.
            if let Some(after) = after {
                self.state.pages.insert(key, after);
            }
        }
        Ok(())
    }
}

/// Whether the page is the primary page of a hash bucket of which another page is vacuumed: the record names it so that redo locks the
/// bucket, and changes nothing of it. The server only holds a pin on it meanwhile (`hashbucketcleanup` in hash.c), and others insert
/// into it.
fn is_only_pinned(decoded: &DecodedRecord<'_>, key: PageKey) -> bool {
    /// `XLOG_HASH_DELETE` (hash_xlog.h).
    const DELETE: u8 = 0x90;
    let is_delete =
        decoded.header.resource_manager == wal::resource_manager::HASH && decoded.header.info & 0xF0 == DELETE;
    let blocks_count = decoded.blocks().count();
    is_delete && blocks_count == 2 && decoded.blocks().next().is_some_and(|first| first.key == key)
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
