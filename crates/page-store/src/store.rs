//! The store of one node: one journal, many segments.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use engine::Engine;
use io::Disk;
use timeline::Path;
use units::{Lsn, Page, PageKey, Position, SegmentId};
use wire_format::codec::Reader;
use wire_format::{CatalogEntry, CatalogKey, EncodedBatch};

use crate::cache::Cache;
use crate::catalog;
use crate::config::StoreConfig;
use crate::fold::Folder;
use crate::journal::{AppendError, Journal};
use crate::journal_entry::JournalEntry;
use crate::journal_files::{self, Held, JournalFiles};
use crate::journal_scan;
use crate::key::{Key, Value};
use crate::layer::{self, BlockCache, Layer, LayerWriter};
use crate::locked;
use crate::manifest::Manifest;
use crate::merge;
use crate::read::{PageCache, ReadError, Reading};
use crate::recovery::{self, OpenError, RecoveredSegment};
use crate::reserve::Reserve;
use crate::segment_store::{Horizon, SegmentStore};

/// Tables may outgrow their limit so many times before appending waits until one is written out.
const TABLES_OVERRUN: usize = 3;
/// Steps of a long piece of work between two looks at whether a table is due, or a journal file wanted.
const STEPS_PER_CHECK: u32 = 1024;

/// An opened store, and what its journal says of its segments.
pub struct Opened {
    /// The store.
    pub store: PageStore,
    /// Every segment that has a state.
    pub segments: Vec<RecoveredSegment>,
}

/// What one step of background work did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// There is nothing to do.
    Idle,
    /// A table became a layer.
    TableWritten,
    /// Layers were merged.
    LayersMerged,
    /// A journal file was given up.
    JournalRecycled,
    /// A journal file was made ready for what comes.
    JournalPrepared,
}

/// The header of a flush, as recovery needs it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlushedHeader {
    /// The flush.
    pub end: Position,
    /// The flush before it.
    pub previous: Position,
    /// How far the durable LSN may go with it.
    pub boundary: Lsn,
    /// The engine's marks.
    pub marks: Bytes,
}

/// How full the store is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreStatus {
    /// Bytes in the journal's files.
    pub journal_bytes: u64,
    /// Bytes that memory tables hold.
    pub table_bytes: u64,
    /// Bytes of cached blocks and pages.
    pub cache_bytes: u64,
    /// Bytes in layer files, by segment.
    pub layer_bytes: BTreeMap<SegmentId, u64>,
    /// Why the journal takes nothing more, if so.
    pub closed: Option<String>,
}

/// A storage node's files. Every function may be called from any thread; reads never wait for a sync.
pub struct PageStore {
    disk: Arc<dyn Disk>,
    engine: Arc<dyn Engine>,
    config: StoreConfig,
    blocks: BlockCache,
    pages: PageCache,
    /// Held over writes and syncs: only by who appends.
    journal: Mutex<Journal>,
    reserve: Arc<Reserve>,
    journal_files: Arc<Mutex<JournalFiles>>,
    /// Everything below this journal offset was handed to the segments.
    handed_over: AtomicU64,
    segments: RwLock<BTreeMap<SegmentId, Arc<SegmentStore>>>,
    manifest: Mutex<Manifest>,
    /// Held while a table is written out, by whoever does it: one at a time.
    writing: Mutex<()>,
    /// Held while layers are merged or journal files removed.
    merging: Mutex<()>,
}

impl PageStore {
    /// Opens the store on `disk`, or makes an empty one. When it returns, everything that it found is durable.
    pub fn open(disk: Arc<dyn Disk>, config: StoreConfig, engine: Arc<dyn Engine>) -> Result<Opened, OpenError> {
        let mut manifest = Manifest::load(&*disk)?;
        let mut damage_is_new = false;
        let scan = journal_scan::scan(&*disk)?;
        let recovered = recovery::recover(&*disk, &scan)?;
        remove_orphans(&*disk, &manifest)?;
        let mut segments = BTreeMap::new();
        for segment in recovered.states.keys() {
            let known = manifest.segments.entry(*segment).or_default();
            let found = (known.damaged, known.layers.len());
            known.damaged |= recovered.rot;
            let layers = open_layers(&disk, &known.layers)?;
            known.damaged |= layers.len() < known.layers.len();
            if known.damaged {
                tracing::error!(%segment, "store.open: something is lost, the segment has no vote and gives no pages");
            }
            damage_is_new |= (known.damaged, layers.len()) != found;
            let store = SegmentStore::new(*segment, layers, known.through_offset, known.damaged);
            segments.insert(*segment, Arc::new(store));
        }
        if damage_is_new {
            let stored = manifest.prepare(&*disk).and_then(|()| Manifest::replace(&*disk));
            stored.map_err(|error| OpenError::io("manifest", &error))?;
        }
        recovered.secure(&*disk)?;
        let reserve = Reserve::open(disk.clone(), config.journal_file_bytes, &scan.spares, &recovered.unused);
        let reserve = Arc::new(reserve.map_err(|error| OpenError::io(journal_files::FOLDER, &error))?);
        let mut files = JournalFiles::new(recovered.files.clone());
        for (segment, position, location) in recovered.locations() {
            files.note_batch(segment, position, location);
        }
        for (segment, location, _) in &recovered.batches {
            if let Some(store) = segments.get(segment)
                && !manifest.holds(*segment, location.offset)
            {
                let batch = EncodedBatch::decode(recovery::read(&*disk, &files, *location)?)
                    .map_err(|error| OpenError::Damaged(format!("a batch of the journal: {error}")))?;
                store.add_arrival(location.offset, batch.batch().clone());
                // Piece by piece, so that a long journal is not held decoded all at once.
                store.settle(&*engine, location.offset);
            }
        }
        let journal_files = Arc::new(Mutex::new(files));
        let mut journal = Journal::new(
            disk.clone(),
            config.journal_file_bytes,
            reserve.clone(),
            journal_files.clone(),
            recovered.tail,
            recovered.states.clone(),
        );
        journal.begin_file(0)?;
        journal.sync()?;
        let store = PageStore {
            blocks: Cache::new(config.cache_bytes_max),
            pages: Cache::new(config.page_cache_bytes_max),
            disk,
            engine,
            config,
            handed_over: AtomicU64::new(journal.end),
            journal: Mutex::new(journal),
            reserve,
            journal_files,
            segments: RwLock::new(segments),
            manifest: Mutex::new(manifest.clone()),
            writing: Mutex::default(),
            merging: Mutex::default(),
        };
        Ok(Opened {
            store,
            segments: recovered.by_segment(&manifest),
        })
    }

    fn segment(&self, segment: SegmentId) -> Result<Arc<SegmentStore>, ReadError> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments
            .get(&segment)
            .cloned()
            .ok_or(ReadError::UnknownSegment(segment))
    }

    fn all_segments(&self) -> Vec<Arc<SegmentStore>> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.values().cloned().collect()
    }

    /// Journals the entries, in order. They count once [`PageStore::sync`] has returned. If tables are written out much more
    /// slowly than log comes in, the caller is made to help: memory stays bounded.
    pub fn append(&self, entries: &[JournalEntry]) -> Result<(), AppendError> {
        self.make_room()?;
        let mut journal = locked(&self.journal);
        journal.append(entries)?;
        for entry in entries {
            if let JournalEntry::State { segment, .. } = entry {
                let known = self
                    .segments
                    .read()
                    .unwrap_or_else(PoisonError::into_inner)
                    .contains_key(segment);
                if !known {
                    let store = Arc::new(SegmentStore::new(*segment, Vec::new(), journal.synced, false));
                    let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
                    segments.insert(*segment, store);
                }
            }
        }
        Ok(())
    }

    /// Makes everything appended durable, and readable.
    pub fn sync(&self) -> Result<(), AppendError> {
        let mut journal = locked(&self.journal);
        journal.sync()?;
        for (segment, offset, batch) in journal.take_synced() {
            if let Ok(store) = self.segment(segment) {
                store.add_arrival(offset, batch);
            }
        }
        self.handed_over.store(journal.synced, Ordering::Release);
        Ok(())
    }

    fn make_room(&self) -> Result<(), AppendError> {
        let table_bytes_limit = TABLES_OVERRUN * self.config.table_bytes_max;
        while table_bytes_limit <= self.table_bytes(&self.all_segments()) {
            let written = self.write_due_table(&|| ());
            if !written.map_err(|error| AppendError::Write(error.to_string()))? {
                break;
            }
        }
        Ok(())
    }

    /// The segment's state as the journal has it.
    pub fn last_state(&self, segment: SegmentId) -> Option<Bytes> {
        locked(&self.journal).states.get(&segment).cloned()
    }

    /// Indexes what was synced since the last time. Reads do it by themselves; doing it when there is time spares them.
    pub fn settle(&self) {
        let end = self.handed_over.load(Ordering::Acquire);
        for segment in self.all_segments() {
            segment.settle(&*self.engine, end);
        }
    }

    fn settled(&self, segment: SegmentId) -> Result<Arc<SegmentStore>, ReadError> {
        let end = self.handed_over.load(Ordering::Acquire);
        let segment = self.segment(segment)?;
        if segment.damaged {
            return Err(ReadError::Lost(segment.id));
        }
        segment.settle(&*self.engine, end);
        Ok(segment)
    }

    /// The bytes of a batch that the journal still holds.
    pub fn read_batch(&self, segment: SegmentId, position: Position) -> Result<Option<EncodedBatch>, ReadError> {
        let found = || {
            let files = locked(&self.journal_files);
            let location = files.location(segment, position)?;
            Some((files.place(location.offset)?, location.bytes))
        };
        let Some(((file, at), bytes)) = found() else {
            return Ok(None);
        };
        let mut buffer = vec![0; bytes as usize];
        let read = self.disk.read_at(&file, at, &mut buffer);
        // The file may have been given up meanwhile, and begun another life.
        if found().is_none() {
            return Ok(None);
        }
        read.map_err(|error| ReadError::io(&file, &error))?;
        let batch =
            EncodedBatch::decode(buffer.into()).map_err(|error| ReadError::corrupt(&file, &error.to_string()))?;
        Ok(Some(batch))
    }

    /// `count` pages of one fork from `first` on, as of the read point. Zeros where nothing was ever written.
    pub fn read_pages(
        &self,
        segment: SegmentId,
        path: &Path,
        read_point: Lsn,
        first: PageKey,
        count: u32,
    ) -> Result<Vec<Page>, ReadError> {
        let segment = self.settled(segment)?;
        let reading = self.reading(path);
        let blocks = first.block..first.block.saturating_add(count);
        blocks
            .map(|block| reading.page(&segment, first.fork.page(block), read_point))
            .collect()
    }

    fn reading<'a>(&'a self, path: &'a Path) -> Reading<'a> {
        Reading {
            engine: &*self.engine,
            blocks: &self.blocks,
            pages: &self.pages,
            keeps_pages: true,
            path,
        }
    }

    /// Catalog entries as of the read point, in key order after `after`. Fewer than `most`: the end.
    pub fn scan_catalog(
        &self,
        segment: SegmentId,
        path: &Path,
        read_point: Lsn,
        after: Option<&CatalogKey>,
        most: usize,
    ) -> Result<Vec<CatalogEntry>, ReadError> {
        let segment = self.settled(segment)?;
        catalog::scan(&segment, path, read_point, after, most)
    }

    /// The header of the last flush that ends at or below `at`.
    pub fn flush_header(&self, segment: SegmentId, path: &Path, at: Lsn) -> Result<FlushedHeader, ReadError> {
        let segment = self.settled(segment)?;
        let newest = segment
            .visible(&Key::FlushHeader, path, Position::ZERO, at, &self.blocks)?
            .pop();
        let Some((end, Value::Header(header))) = newest.map(|version| (version.position, version.value)) else {
            return Err(ReadError::NoFlush(at));
        };
        let mut input = Reader::new(header);
        let mut read = || {
            Ok::<_, wire_format::CodecError>(FlushedHeader {
                end,
                previous: input.position("previous flush")?,
                boundary: input.lsn("boundary")?,
                marks: input.bytes("marks")?,
            })
        };
        read().map_err(|error| ReadError::corrupt("a flush header", &error.to_string()))
    }

    /// How far a segment may be folded and its journal recycled.
    pub fn set_horizon(&self, segment: SegmentId, horizon: Horizon) {
        if let Ok(segment) = self.segment(segment) {
            segment.set_horizon(horizon);
        }
    }

    /// One step of background work: at most one table or one merge. `pace` is called often while it lasts, and may sleep.
    pub fn maintain(&self, pace: &dyn Fn()) -> Result<Progress, ReadError> {
        // However long a step takes, the journal must not run out of files meanwhile.
        let steps = Cell::new(0u32);
        let pace = &|| {
            pace();
            steps.set(steps.get().wrapping_add(1));
            if steps.get().is_multiple_of(STEPS_PER_CHECK)
                && let Err(error) = self.reserve.prepare(pace)
            {
                // The step after this one says so, too.
                tracing::debug!(%error, "journal.prepare");
            }
        };
        if self.write_due_table(pace)? {
            return Ok(Progress::TableWritten);
        }
        let _alone = locked(&self.merging);
        let segments = self.all_segments();
        if self.recycle_journal(&segments)? {
            return Ok(Progress::JournalRecycled);
        }
        // What fails must not keep the rest from being done: a disk without room for another file, a segment with a damaged
        // layer.
        let mut failed = None;
        match self.reserve.prepare(pace) {
            Ok(true) => return Ok(Progress::JournalPrepared),
            Ok(false) => {}
            Err(error) => failed = Some(ReadError::io(journal_files::FOLDER, &error)),
        }
        for segment in &segments {
            match self.merge_layers(segment, pace) {
                Ok(true) => return Ok(Progress::LayersMerged),
                Ok(false) => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(Progress::Idle), Err)
    }

    fn table_bytes(&self, segments: &[Arc<SegmentStore>]) -> usize {
        segments.iter().map(|segment| segment.table_bytes()).sum()
    }

    /// Writes out the table that is due, if one is: the largest when tables take too much memory, or one that keeps a journal
    /// that is too long.
    fn write_due_table(&self, pace: &dyn Fn()) -> Result<bool, ReadError> {
        let _alone = locked(&self.writing);
        self.settle();
        let segments = self.all_segments();
        let due = match self.segment_that_pins_the_journal() {
            Some(pinning) => segments.iter().find(|segment| segment.id == pinning),
            None if self.config.table_bytes_max <= self.table_bytes(&segments) => {
                segments.iter().max_by_key(|segment| segment.table_bytes())
            }
            None => None,
        };
        due.map_or(Ok(false), |segment| self.write_table(segment, pace))
    }

    /// If the journal is too long: a segment that has to write its table out before the oldest file can go.
    fn segment_that_pins_the_journal(&self) -> Option<SegmentId> {
        let manifest = locked(&self.manifest);
        let files = locked(&self.journal_files);
        let (_, oldest) = files.oldest()?;
        if files.bytes() < self.config.journal_retained_bytes_max {
            return None;
        }
        let pins = |(segment, held): &(&SegmentId, &Held)| !manifest.holds(**segment, held.last_offset);
        oldest.held.iter().find(pins).map(|(segment, _)| *segment)
    }

    /// Writes every table out, so that the journal is not needed at the next start.
    pub fn write_tables(&self) -> Result<(), ReadError> {
        let _alone = locked(&self.writing);
        self.settle();
        for segment in self.all_segments() {
            self.write_table(&segment, &|| ())?;
        }
        Ok(())
    }

    fn next_layer(&self) -> u64 {
        let mut manifest = locked(&self.manifest);
        manifest.next_layer += 1;
        manifest.next_layer
    }

    fn folder<'a>(&'a self, segment: &'a SegmentStore, horizon: &'a Horizon) -> Folder<'a> {
        let reading = Reading {
            keeps_pages: false,
            ..self.reading(&horizon.path)
        };
        Folder::new(&self.config, reading, horizon, segment)
    }

    /// The horizon, once every record that it covers is indexed: a fold must not miss one that is still to be.
    fn settled_horizon(&self, segment: &SegmentStore) -> Option<Horizon> {
        let horizon = segment.horizon();
        segment.settle(&*self.engine, self.handed_over.load(Ordering::Acquire));
        horizon
    }

    fn write_table(&self, segment: &SegmentStore, pace: &dyn Fn()) -> Result<bool, ReadError> {
        let horizon = self.settled_horizon(segment);
        let layered_through = locked(&self.manifest).through_offset(segment.id);
        let Some(table) = segment.freeze(layered_through) else {
            return Ok(false);
        };
        let mut folder = horizon.as_ref().map(|horizon| self.folder(segment, horizon));
        let writer = LayerWriter::new(self.disk.clone(), self.next_layer());
        let layer = merge::write_table(&table, folder.as_mut(), writer, pace)?;
        self.change_layers(segment, &[], layer, table.through_offset)?;
        segment.thaw();
        Ok(true)
    }

    fn merge_layers(&self, segment: &SegmentStore, pace: &dyn Fn()) -> Result<bool, ReadError> {
        let Some(horizon) = self.settled_horizon(segment) else {
            return Ok(false);
        };
        let Some(chosen) = merge::choose(&segment.layers(), self.config.merge_layers) else {
            return Ok(false);
        };
        let writer = LayerWriter::new(self.disk.clone(), self.next_layer());
        // A long merge must not keep tables from being written out.
        let keys = Cell::new(0u32);
        let pace = || {
            pace();
            keys.set(keys.get().wrapping_add(1));
            if keys.get().is_multiple_of(STEPS_PER_CHECK)
                && let Err(error) = self.write_due_table(pace)
            {
                tracing::warn!(%error, "store.merge: a table that is due cannot be written");
            }
        };
        let merged = merge::merge(&chosen, &mut self.folder(segment, &horizon), writer, &pace)?;
        self.change_layers(segment, &chosen, merged, 0)?;
        Ok(true)
    }

    /// Durable in the manifest first, then for readers.
    fn change_layers(
        &self,
        segment: &SegmentStore,
        old: &[Arc<Layer>],
        new: Option<Layer>,
        through_offset: u64,
    ) -> Result<(), ReadError> {
        // A table is written and layers are merged at the same time: what one adds, the other must not leave out.
        let mut manifest = locked(&self.manifest);
        let new = new.map(Arc::new);
        let is_old = |layer: &Arc<Layer>| old.iter().any(|one| one.number == layer.number);
        let mut layers: Vec<Arc<Layer>> = segment
            .layers()
            .iter()
            .filter(|layer| !is_old(layer))
            .cloned()
            .collect();
        layers.extend(new.clone());
        let mut next = manifest.clone();
        let known = next.segments.entry(segment.id).or_default();
        known.layers = layers.iter().map(|layer| layer.number).collect();
        known.through_offset = known.through_offset.max(through_offset);
        let io = |error: std::io::Error| ReadError::io("manifest", &error);
        if let Err(error) = next.prepare(&*self.disk) {
            new.iter().for_each(|layer| layer.make_obsolete());
            return Err(io(error));
        }
        Manifest::replace(&*self.disk).map_err(io)?;
        *manifest = next;
        segment.set_layers(layers);
        old.iter().for_each(|layer| layer.make_obsolete());
        Ok(())
    }

    /// Gives up the oldest file of the journal if nobody needs it.
    fn recycle_journal(&self, segments: &[Arc<SegmentStore>]) -> Result<bool, ReadError> {
        let unneeded = |segment: &SegmentId, held: &Held, manifest: &Manifest| {
            let store = segments.iter().find(|store| store.id == *segment);
            let through = store
                .and_then(|store| store.horizon())
                .map(|horizon| horizon.recycle_through.lsn);
            through.is_some_and(|through| held.highest_lsn <= through) && manifest.holds(*segment, held.last_offset)
        };
        let start = {
            let manifest = locked(&self.manifest);
            let mut files = locked(&self.journal_files);
            let Some((start, oldest)) = files.oldest() else {
                return Ok(false);
            };
            if !oldest
                .held
                .iter()
                .all(|(segment, held)| unneeded(segment, held, &manifest))
            {
                return Ok(false);
            }
            files.forget_batches(start);
            start
        };
        // One after the other, each durably, so that no power cut leaves a gap.
        let given_back = self.reserve.give_back(start);
        given_back.map_err(|error| ReadError::io(journal_files::FOLDER, &error))?;
        locked(&self.journal_files).files.remove(&start);
        Ok(true)
    }

    /// How full it is.
    pub fn status(&self) -> StoreStatus {
        let segments = self.all_segments();
        let layer_bytes = |segment: &Arc<SegmentStore>| segment.layers().iter().map(|layer| layer.file_bytes).sum();
        let journal = locked(&self.journal_files);
        StoreStatus {
            journal_bytes: journal.bytes(),
            table_bytes: self.table_bytes(&segments) as u64,
            cache_bytes: (self.blocks.bytes() + self.pages.bytes()) as u64,
            layer_bytes: segments
                .iter()
                .map(|segment| (segment.id, layer_bytes(segment)))
                .collect(),
            closed: journal.closed.clone(),
        }
    }
}

/// Those of the layers that can still be read.
fn open_layers(disk: &Arc<dyn Disk>, numbers: &[u64]) -> Result<Vec<Arc<Layer>>, OpenError> {
    let mut layers = Vec::new();
    for number in numbers {
        match Layer::open(disk.clone(), *number) {
            Ok(layer) => layers.push(Arc::new(layer)),
            Err(error @ (ReadError::Corrupt { .. } | ReadError::Missing { .. })) => {
                tracing::error!(%error, "store.open: a layer is lost");
            }
            // It may well be there the next time.
            Err(error) => return Err(error.into()),
        }
    }
    Ok(layers)
}

/// Layers that no manifest names are left from work that a crash cut off.
fn remove_orphans(disk: &dyn Disk, manifest: &Manifest) -> Result<(), OpenError> {
    let io = |file: &str, error: std::io::Error| OpenError::io(file, &error);
    let named: Vec<String> = manifest
        .segments
        .values()
        .flat_map(|segment| segment.layers.iter().map(|layer| layer::file_name(*layer)))
        .collect();
    for name in disk.list(layer::FOLDER).map_err(|error| io(layer::FOLDER, error))? {
        let file = format!("{}/{name}", layer::FOLDER);
        if !named.contains(&file) {
            disk.remove(&file).map_err(|error| io(&file, error))?;
        }
    }
    Ok(())
}
