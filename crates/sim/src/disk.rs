//! A storage node's files: the real page store on a disk in memory that forgets what was not synced.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use io::{Disk as _, MemoryDisk};
use page_store::{AppendError, JournalEntry, PageStore, RecoveredBatch, StoreConfig};
use segment::{Link, Segment, SegmentState};
use units::{Lsn, Position, SegmentId};

use crate::random::Random;
use crate::toy::Toy;

/// Bytes of a file's unsynced part that a power cut may leave, at most.
const TORN_BYTES_MAX: u64 = 600;

/// The disk of a node with one segment, and the store on it while the node runs.
pub(crate) struct Disk {
    segment: SegmentId,
    memory: MemoryDisk,
    store: Option<PageStore>,
    config: StoreConfig,
    /// Written, but a power cut may take any tail of it.
    written: Vec<Position>,
    /// For the checker: names of the batches that were synced before this disk lost anything.
    kept: BTreeSet<Position>,
    lost_something: bool,
    /// A bit flipped, somewhere. What that costs, the store finds out: a vote, pages, or nothing where nothing was kept.
    rots: bool,
}

impl fmt::Debug for Disk {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Disk")
            .field("kept", &self.kept)
            .finish_non_exhaustive()
    }
}

/// Limits so small that tables are written, layers merged and files recycled all the time; every seed has its own.
fn config(random: &mut Random) -> StoreConfig {
    StoreConfig {
        table_bytes_max: 1500 + random.below(8000) as usize,
        cache_bytes_max: 16 << 10,
        page_cache_bytes_max: random.below(60 << 10) as usize,
        journal_file_bytes: 1000 + random.below(6000),
        journal_retained_bytes_max: 8000 + random.below(40_000),
        chain_deltas_max: 2 + random.below(8) as usize,
        chain_bytes_max: 100 + random.below(2000) as usize,
        merge_layers: 2 + random.below(3) as usize,
        ..StoreConfig::default()
    }
}

fn link(batch: RecoveredBatch) -> Link {
    Link {
        end: batch.end,
        previous: batch.previous,
        boundary: batch.boundary.unwrap_or(batch.end.lsn),
        groups: batch.groups,
    }
}

impl Disk {
    /// An empty disk.
    pub(crate) fn new(segment: SegmentId, random: &mut Random) -> Disk {
        Disk {
            segment,
            memory: MemoryDisk::new(),
            store: None,
            config: config(random),
            written: Vec::new(),
            kept: BTreeSet::new(),
            lost_something: false,
            rots: false,
        }
    }

    /// What a node finds when it starts; `None`: no segment, or files that it cannot start with.
    pub(crate) fn start(&mut self) -> Option<Segment> {
        let opened = PageStore::open(Arc::new(self.memory.clone()), self.config.clone(), Arc::new(Toy));
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                assert!(!self.is_sound(), "a sound disk cannot be opened: {error}");
                return None;
            }
        };
        self.store = Some(opened.store);
        let recovered = opened.segments.into_iter().find(|one| one.segment == self.segment)?;
        assert!(
            recovered.vouches || !self.is_sound(),
            "a disk that lost nothing finds itself damaged"
        );
        self.lost_something |= !recovered.vouches;
        self.written = recovered.batches.iter().map(|batch| batch.end).collect();
        self.keep_written();
        let state = SegmentState::decode(recovered.state).expect("a journaled state reads back as it was written");
        let links = recovered.batches.into_iter().map(link).collect();
        Some(Segment::recover(state, links, recovered.vouches))
    }

    fn is_sound(&self) -> bool {
        !self.lost_something && !self.rots
    }

    /// The store of a node that runs.
    pub(crate) fn store(&self) -> &PageStore {
        self.store.as_ref().expect("only a running node is asked for anything")
    }

    pub(crate) fn append(&mut self, entries: &[JournalEntry]) -> Result<(), AppendError> {
        self.store().append(entries)?;
        let batches = entries.iter().filter_map(|entry| match entry {
            JournalEntry::Batch { batch, .. } => Some(batch.batch().position()),
            JournalEntry::State { .. } => None,
        });
        self.written.extend(batches);
        Ok(())
    }

    pub(crate) fn sync(&mut self) -> Result<(), AppendError> {
        self.store().sync()?;
        self.keep_written();
        Ok(())
    }

    fn keep_written(&mut self) {
        let written = self.written.drain(..);
        if !self.lost_something {
            self.kept.extend(written);
        }
    }

    /// The last state that the journal has of the segment.
    pub(crate) fn last_state(&self) -> Option<SegmentState> {
        let bytes = self.store().last_state(self.segment)?;
        Some(SegmentState::decode(bytes).expect("a journaled state reads back as it was written"))
    }

    /// The next write fails after so many bytes, as on a disk that is full for a moment.
    pub(crate) fn fail_next_write(&self, after_bytes: usize) {
        self.memory.tear_next_write(after_bytes);
    }

    /// The next syncs fail, until the node has been stopped.
    pub(crate) fn fail_syncs(&self) {
        self.memory.fail_syncs(true);
    }

    /// The process ends; with the power, what was not synced goes, but for a torn end.
    pub(crate) fn stop(&mut self, power_cut: bool, random: &mut Random) {
        if random.chance(200)
            && let Some(store) = &self.store
        {
            // In the middle of background work.
            self.memory.stop_after(Some(random.below(20)));
            // However far it comes: what it could not finish must be as if it had never been begun.
            let _ = store.write_tables().and_then(|()| store.maintain(&|| ()));
        }
        self.store = None;
        self.written.clear();
        if power_cut {
            let torn = if random.chance(500) {
                0
            } else {
                random.below(TORN_BYTES_MAX)
            };
            self.memory.cut_power(torn as usize);
        }
        self.memory.stop_after(None);
        self.memory.fail_syncs(false);
    }

    /// Rot of a node that is down: one bit, where something was synced long ago. `false`: there is no such place.
    pub(crate) fn rot(&mut self, random: &mut Random) -> bool {
        let names = |folder: &str| self.memory.list(folder).expect("a disk in memory can be listed");
        let mut files: Vec<String> = names("layers").iter().map(|name| format!("layers/{name}")).collect();
        // The last entries of the newest files may be taken for a torn end, which nobody ever acknowledged.
        let journal = names("journal");
        let used = journal.iter().filter(|name| !name.starts_with("spare"));
        let older = used.rev().skip(2);
        files.extend(older.map(|name| format!("journal/{name}")));
        if files.is_empty() {
            return false;
        }
        let file = &files[random.below(files.len() as u64) as usize];
        let length = self.memory.length(file).expect("a listed file has a length");
        if length == 0 {
            return false;
        }
        self.memory.flip_bit(file, random.below(length));
        self.rots = true;
        true
    }

    /// The files of a node that is down are lost.
    pub(crate) fn wipe(&mut self) {
        self.memory = MemoryDisk::new();
        self.lost_something = true;
    }

    /// The segment is born on an empty disk.
    pub(crate) fn bear(&mut self, state: &Bytes) {
        let opened = PageStore::open(Arc::new(self.memory.clone()), self.config.clone(), Arc::new(Toy));
        let store = opened.expect("an empty disk is opened").store;
        let state = JournalEntry::State {
            segment: self.segment,
            bytes: state.clone(),
        };
        store.append(&[state]).expect("an empty disk takes a state");
        store.sync().expect("an empty disk syncs");
    }

    /// Whether this batch was synced here while the disk was sound: what was acknowledged is promised for as long as no more
    /// disks lose something than may.
    pub(crate) fn keeps(&self, position: Position) -> bool {
        self.kept.contains(&position)
    }

    /// Whether any batch that was synced here ends at this LSN.
    pub(crate) fn keeps_lsn(&self, lsn: Lsn) -> bool {
        self.kept.iter().any(|position| position.lsn == lsn)
    }
}
