//! A storage node's files: the real page store on a disk in memory that forgets what was not synced.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use io::{Disk as _, MemoryDisk};
use page_store::{AppendError, JournalEntry, PageStore, RecoveredBatch, StoreConfig};
use segment::{Link, Segment, SegmentState};
use units::{Lsn, Position, SegmentId};

use crate::Broken;
use crate::random::Random;
use crate::toy::Toy;

/// Bytes of a file's unsynced part that a power cut may leave, at most.
const TORN_BYTES_MAX: u64 = 600;

/// The disk of a node, and the store on it while the node runs.
pub(crate) struct Disk {
    memory: MemoryDisk,
    store: Option<PageStore>,
    config: StoreConfig,
    /// Written, but a power cut may take any tail of it.
    written: Vec<(SegmentId, Position)>,
    /// For the checker: names of the batches of each segment that were synced before it lost anything.
    kept: BTreeMap<SegmentId, BTreeSet<Position>>,
    /// Segments that lost something.
    unsound: BTreeSet<SegmentId>,
    /// Names of the batches that those took since: they count once nothing is lost any more.
    withheld: BTreeMap<SegmentId, BTreeSet<Position>>,
    /// A bit flipped, somewhere. What that costs, the store finds out: a vote, pages, or nothing where nothing was kept.
    rots: bool,
    /// There is no room for a while.
    full: bool,
    /// Changes of disks that are gone.
    changes_before: u64,
}

/// What a power cut took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PowerCut {
    NothingLost,
    /// Everything that was not synced.
    Lost,
    /// All of it but a first part.
    Torn,
    /// Some sectors of it.
    Shuffled,
}

/// Why a node did not start.
#[derive(Debug)]
pub(crate) enum NotStarted {
    /// It will be started again.
    Yet,
    /// Its disk should be sound.
    Damaged(String),
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
        index_cache_bytes_max: 1 << 10,
        page_cache_bytes_max: random.below(60 << 10) as usize,
        journal_file_bytes: 1000 + random.below(6000),
        journal_retained_bytes_max: 3000 + random.below(20_000),
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
    pub(crate) fn new(random: &mut Random) -> Disk {
        Disk {
            memory: MemoryDisk::new(),
            store: None,
            config: config(random),
            written: Vec::new(),
            kept: BTreeMap::new(),
            unsound: BTreeSet::new(),
            withheld: BTreeMap::new(),
            rots: false,
            full: false,
            changes_before: 0,
        }
    }

    /// The segments that a node finds when it starts. A start may end early, after so many changes of the disk.
    pub(crate) fn start(
        &mut self,
        broken: Option<Broken>,
        changes: Option<u64>,
    ) -> Result<BTreeMap<SegmentId, Segment>, NotStarted> {
        self.memory.stop_after(changes);
        self.memory.lie_about_syncs(broken == Some(Broken::StartsUnsynced));
        let opened = PageStore::open(Arc::new(self.memory.clone()), self.config.clone(), Arc::new(Toy));
        self.memory.lie_about_syncs(false);
        let interrupted = self.memory.has_stopped();
        self.memory.stop_after(None);
        let opened = match opened {
            _ if interrupted => return Err(NotStarted::Yet),
            Ok(opened) => opened,
            // What rotted may be what a start needs.
            Err(_) if self.full || self.rots => return Err(NotStarted::Yet),
            Err(error) => return Err(NotStarted::Damaged(error.to_string())),
        };
        self.store = Some(opened.store);
        let mut segments = BTreeMap::new();
        for mut recovered in opened.segments {
            let id = recovered.segment;
            if !recovered.vouches && !self.rots {
                return Err(NotStarted::Damaged(format!("it finds that {id} lost something")));
            }
            match recovered.vouches {
                false => drop(self.unsound.insert(id)),
                // What it had lost was in its place again before the node stopped.
                true if self.rots => self.has_all_again(id),
                true => {}
            }
            recovered.vouches |= broken == Some(Broken::RotForgotten);
            let batches = recovered.batches.iter();
            self.written.extend(batches.map(|batch| (id, batch.end)));
            let state = SegmentState::decode(recovered.state).expect("a journaled state reads back as it was written");
            let links = recovered.batches.into_iter().map(link).collect();
            segments.insert(id, Segment::recover(state, links, recovered.vouches));
        }
        self.keep_written();
        Ok(segments)
    }

    /// Whether something on it rotted, or was overwritten.
    pub(crate) fn rots(&self) -> bool {
        self.rots
    }

    /// The store of a node that runs.
    pub(crate) fn store(&self) -> &PageStore {
        self.store.as_ref().expect("only a running node is asked for anything")
    }

    pub(crate) fn append(&mut self, entries: &[JournalEntry]) -> Result<(), AppendError> {
        self.store().append(entries)?;
        let batches = entries.iter().filter_map(|entry| match entry {
            JournalEntry::Batch { segment, batch } => Some((*segment, batch.batch().position())),
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
        for (segment, at) in self.written.drain(..) {
            let to = if self.unsound.contains(&segment) {
                &mut self.withheld
            } else {
                &mut self.kept
            };
            to.entry(segment).or_default().insert(at);
        }
    }

    /// One pass of the real scrub over all of it: whether nothing is lost.
    pub(crate) fn scrub(&self) -> bool {
        let scrubbed = self.store().scrub(&|_| true);
        scrubbed.is_ok_and(|scrubbed| scrubbed.damaged == 0) && self.store().damaged().is_empty()
    }

    /// A segment got back what it had lost.
    pub(crate) fn has_all_again(&mut self, segment: SegmentId) {
        self.unsound.remove(&segment);
        let withheld = self.withheld.remove(&segment).unwrap_or_default();
        self.kept.entry(segment).or_default().extend(withheld);
    }

    /// Nothing on it is lost any more, and nothing that it was about to write elsewhere will be.
    pub(crate) fn is_sound_again(&mut self) {
        self.memory.calm();
        self.rots = false;
    }

    /// Whether the journal is longer than it should be.
    pub(crate) fn is_crowded(&self) -> bool {
        self.config.journal_retained_bytes_max < self.store().status().journal_bytes
    }

    /// What these batches did is durable, in a segment's layers.
    pub(crate) fn keep(&mut self, segment: SegmentId, batches: impl Iterator<Item = Position>) {
        let to = if self.unsound.contains(&segment) {
            &mut self.withheld
        } else {
            &mut self.kept
        };
        to.entry(segment).or_default().extend(batches);
    }

    /// The last state that the journal has of a segment.
    pub(crate) fn last_state(&self, segment: SegmentId) -> Option<SegmentState> {
        let bytes = self.store().last_state(segment)?;
        Some(SegmentState::decode(bytes).expect("a journaled state reads back as it was written"))
    }

    /// The next write fails after so many bytes, as on a disk that is full for a moment.
    pub(crate) fn fail_next_write(&self, after_bytes: usize) {
        self.memory.tear_next_write(after_bytes);
    }

    /// Whether syncs fail from now on, at the latest until the node has been stopped.
    pub(crate) fn fail_syncs(&self, fail: bool) {
        self.memory.fail_syncs(fail);
    }

    /// A sync fails, and whoever asked for it goes on as if it had not.
    pub(crate) fn lie_about_syncs(&self, lie: bool) {
        self.memory.lie_about_syncs(lie);
    }

    /// The disk stops after so many more changes, as if the node crashed in the middle of what it is about to do.
    pub(crate) fn stop_after(&self, changes: u64) {
        self.memory.stop_after(Some(changes));
    }

    /// Whether it did. If not, it goes on.
    pub(crate) fn stopped(&self) -> bool {
        let stopped = self.memory.has_stopped();
        if !stopped {
            self.memory.stop_after(None);
        }
        stopped
    }

    /// Only so many bytes more fit, until [`Disk::free`].
    pub(crate) fn fill(&mut self, room: u64) {
        self.full = true;
        self.memory.set_capacity(Some(self.memory.bytes_used() + room));
    }

    pub(crate) fn free(&mut self) {
        self.full = false;
        self.memory.set_capacity(None);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    /// Writes, syncs and changes of names so far.
    pub(crate) fn changes(&self) -> u64 {
        self.changes_before + self.memory.changes()
    }

    /// The process ends; with the power, what was not synced goes, but for what is torn.
    pub(crate) fn stop(&mut self, power_cut: bool, random: &mut Random) -> PowerCut {
        self.store = None;
        self.written.clear();
        let unsynced = self.memory.unsynced_bytes();
        let mut cut = PowerCut::NothingLost;
        if power_cut {
            cut = match random.below(4) {
                0 | 1 => PowerCut::Lost,
                2 => PowerCut::Torn,
                _ => PowerCut::Shuffled,
            };
            match cut {
                PowerCut::Shuffled => self.memory.cut_power_anyhow(|| random.chance(500)),
                PowerCut::Torn => self.memory.cut_power(random.below(TORN_BYTES_MAX) as usize),
                _ => self.memory.cut_power(0),
            }
            if unsynced == 0 {
                cut = PowerCut::NothingLost;
            }
        }
        self.memory.calm();
        cut
    }

    /// Files in which damage can be told from a torn end: all but the newest of the journal, whose last entries nobody can
    /// miss.
    fn old_files(&self) -> Vec<String> {
        let names = |folder: &str| self.memory.list(folder).expect("a disk in memory can be listed");
        let mut files: Vec<String> = names("layers").iter().map(|name| format!("layers/{name}")).collect();
        let journal = names("journal");
        let used = journal.iter().filter(|name| !name.starts_with("spare"));
        let older = used.rev().skip(2);
        files.extend(older.map(|name| format!("journal/{name}")));
        files
    }

    /// Some place where something was synced long ago.
    fn old_place(&self, random: &mut Random) -> Option<(String, u64)> {
        let files = self.old_files();
        let file = files.get(random.below(files.len().max(1) as u64) as usize)?;
        let length = self.memory.length(file).expect("a listed file has a length");
        (0 < length).then(|| (file.clone(), random.below(length)))
    }

    /// Rot: one bit, where something was synced long ago. `false`: there is no such place.
    pub(crate) fn rot(&mut self, random: &mut Random) -> bool {
        let Some((file, at)) = self.old_place(random) else {
            return false;
        };
        self.memory.flip_bit(&file, at);
        self.rots = true;
        true
    }

    /// The next write of a layer lands on something that was synced long ago. `false`: there is no such place.
    pub(crate) fn misdirect(&mut self, random: &mut Random) -> bool {
        let Some((file, at)) = self.old_place(random) else {
            return false;
        };
        self.memory.misdirect_next_write("layers", &file, at);
        self.rots = true;
        true
    }

    /// The files of a node that is down are lost.
    pub(crate) fn wipe(&mut self) {
        self.changes_before += self.memory.changes();
        self.memory = MemoryDisk::new();
        self.full = false;
        self.rots = false;
        self.unsound.extend(self.kept.keys());
        self.withheld.clear();
    }

    /// What an earlier segment of this name kept, or lost, does not concern the one that is made now.
    pub(crate) fn forget(&mut self, segment: SegmentId) {
        self.kept.remove(&segment);
        self.unsound.remove(&segment);
        self.withheld.remove(&segment);
    }

    /// Segments are born on an empty disk, with these states.
    pub(crate) fn bear(&mut self, births: &[(SegmentId, Bytes)]) {
        let opened = PageStore::open(Arc::new(self.memory.clone()), self.config.clone(), Arc::new(Toy));
        let store = opened.expect("an empty disk is opened").store;
        let state = |(segment, bytes): &(SegmentId, Bytes)| JournalEntry::State {
            segment: *segment,
            bytes: bytes.clone(),
        };
        let states: Vec<JournalEntry> = births.iter().map(state).collect();
        store.append(&states).expect("an empty disk takes states");
        store.sync().expect("an empty disk syncs");
    }

    /// Whether this batch was synced here while its segment was sound: what was acknowledged is promised for as long as no
    /// more copies lose something than may.
    pub(crate) fn keeps(&self, segment: SegmentId, position: Position) -> bool {
        self.kept.get(&segment).is_some_and(|kept| kept.contains(&position))
    }

    /// Whether any batch of a segment that was synced here ends at this LSN.
    pub(crate) fn keeps_lsn(&self, segment: SegmentId, lsn: Lsn) -> bool {
        let kept = self.kept.get(&segment).into_iter().flatten();
        kept.into_iter().any(|position| position.lsn == lsn)
    }
}
