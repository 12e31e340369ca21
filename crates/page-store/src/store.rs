//! The store of one node: one journal, many segments.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use engine::Engine;
use io::Disk;
use timeline::Path;
use units::{Lsn, Page, PageKey, Position, SegmentId};
use wire_format::codec::Reader;
use wire_format::{CatalogEntry, CatalogKey, EncodedBatch};

use crate::cache::BlockCache;
use crate::catalog;
use crate::config::StoreConfig;
use crate::fold::Folder;
use crate::journal::{AppendError, Held, Journal, JournalEntry};
use crate::key::{Key, Value};
use crate::layer::{self, Layer, LayerWriter};
use crate::manifest::Manifest;
use crate::merge;
use crate::read::{ReadError, Reading};
use crate::recovery::{self, OpenError, RecoveredSegment};
use crate::segment_store::{Horizon, SegmentStore};

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
    /// Journal files were removed.
    JournalRecycled,
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
    /// Bytes of cached blocks.
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
    cache: BlockCache,
    journal: Mutex<Journal>,
    /// Batches appended, but not synced.
    unsynced: Mutex<Vec<(SegmentId, u64, EncodedBatch)>>,
    /// Everything below this journal offset was handed to the segments.
    handed_over: Mutex<u64>,
    segments: RwLock<BTreeMap<SegmentId, Arc<SegmentStore>>>,
    manifest: Mutex<Manifest>,
    /// Held by whoever writes layers: one at a time.
    upkeep: Mutex<()>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in one thread must not make the store unusable for the others; every critical section leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PageStore {
    /// Opens the store on `disk`, or makes an empty one. When it returns, everything that it found is durable.
    pub fn open(disk: Arc<dyn Disk>, config: StoreConfig, engine: Arc<dyn Engine>) -> Result<Opened, OpenError> {
        let manifest = Manifest::load(&*disk)?;
        // A manifest whose name is not durable yet may give way to the one before it, which names other layers.
        disk.sync_names("").map_err(|error| OpenError::io("manifest", &error))?;
        let mut recovered = recovery::recover(&*disk)?;
        remove_orphans(&*disk, &manifest)?;
        let mut segments = BTreeMap::new();
        let mut lost = Vec::new();
        for segment in recovered.states.keys() {
            let known = manifest.segments.get(segment).cloned().unwrap_or_default();
            let mut layers = Vec::new();
            for number in &known.layers {
                match Layer::open(disk.clone(), *number) {
                    Ok(layer) => layers.push(Arc::new(layer)),
                    Err(error) => {
                        tracing::error!(%segment, %error, "store.open: a layer is lost, the segment loses its vote");
                        lost.push(*segment);
                    }
                }
            }
            let store = SegmentStore::new(*segment, layers, known.through_offset);
            segments.insert(*segment, Arc::new(store));
        }
        let report = recovery::by_segment(&recovered, &lost);
        recovered.cut_torn_tail(&*disk)?;
        recovered.sync_last_file(&*disk)?;
        let mut journal = Journal::new(disk.clone(), &config, recovered.files.clone(), recovered.end);
        journal.states = recovered.states.clone();
        for (segment, position, location) in recovery::known(&recovered) {
            journal.note_batch(segment, position, location);
        }
        journal.begin_file()?;
        journal.append(&recovered.unsynced)?;
        journal.sync()?;
        for (segment, location, batch) in &recovered.batches {
            if let Some(store) = segments.get(segment)
                && !manifest.holds(*segment, location.offset)
            {
                store.add_arrival(location.offset, batch.batch().clone());
                // Piece by piece, so that a long journal is not held decoded all at once.
                store.settle(&*engine, location.offset);
            }
        }
        let end = journal.end;
        let store = PageStore {
            cache: BlockCache::new(config.cache_bytes_max),
            disk,
            engine,
            config,
            journal: Mutex::new(journal),
            unsynced: Mutex::default(),
            handed_over: Mutex::new(end),
            segments: RwLock::new(segments),
            manifest: Mutex::new(manifest),
            upkeep: Mutex::default(),
        };
        Ok(Opened {
            store,
            segments: report,
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

    /// Journals the entries, in order. They count once [`PageStore::sync`] has returned.
    pub fn append(&self, entries: &[JournalEntry]) -> Result<(), AppendError> {
        let mut journal = locked(&self.journal);
        journal.append(entries)?;
        let mut unsynced = locked(&self.unsynced);
        for entry in entries {
            match entry {
                JournalEntry::State { segment, .. } => {
                    let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
                    let new = || Arc::new(SegmentStore::new(*segment, Vec::new(), journal.synced));
                    segments.entry(*segment).or_insert_with(new);
                }
                JournalEntry::Batch { segment, batch } => {
                    let position = batch.batch().position();
                    let offset = journal
                        .locations
                        .get(&(*segment, position))
                        .map_or(0, |location| location.offset);
                    unsynced.push((*segment, offset, batch.clone()));
                }
            }
        }
        Ok(())
    }

    /// Makes everything appended durable, and readable.
    pub fn sync(&self) -> Result<(), AppendError> {
        let end = {
            let mut journal = locked(&self.journal);
            journal.sync()?;
            journal.end
        };
        for (segment, offset, batch) in std::mem::take(&mut *locked(&self.unsynced)) {
            if let Ok(store) = self.segment(segment) {
                store.add_arrival(offset, batch.batch().clone());
            }
        }
        *locked(&self.handed_over) = end;
        Ok(())
    }

    /// The segment's state as the journal has it.
    pub fn last_state(&self, segment: SegmentId) -> Option<Bytes> {
        locked(&self.journal).states.get(&segment).cloned()
    }

    /// Indexes what was synced since the last time. Reads do it by themselves; doing it when there is time spares them.
    pub fn settle(&self) {
        let end = *locked(&self.handed_over);
        for segment in self.all_segments() {
            segment.settle(&*self.engine, end);
        }
    }

    fn settled(&self, segment: SegmentId) -> Result<Arc<SegmentStore>, ReadError> {
        let end = *locked(&self.handed_over);
        let segment = self.segment(segment)?;
        segment.settle(&*self.engine, end);
        Ok(segment)
    }

    /// The bytes of a batch that the journal still holds.
    pub fn read_batch(&self, segment: SegmentId, position: Position) -> Result<Option<EncodedBatch>, ReadError> {
        let place = {
            let journal = locked(&self.journal);
            let location = journal.locations.get(&(segment, position)).copied();
            location.and_then(|location| Some((journal.place(location.offset)?, location.bytes)))
        };
        let Some(((file, at), bytes)) = place else {
            return Ok(None);
        };
        let mut buffer = vec![0; bytes as usize];
        self.disk
            .read_at(&file, at, &mut buffer)
            .map_err(|error| ReadError::io(&file, &error))?;
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
            cache: &self.cache,
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
        let newest = segment.visible(&Key::FlushHeader, path, at, &self.cache)?.pop();
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
        let _alone = locked(&self.upkeep);
        self.settle();
        let segments = self.all_segments();
        let table_bytes: usize = segments.iter().map(|segment| segment.table_bytes()).sum();
        let largest = segments.iter().max_by_key(|segment| segment.table_bytes());
        let due = match self.segment_that_pins_the_journal() {
            Some(pinning) => segments.iter().find(|segment| segment.id == pinning),
            None => largest.filter(|_| self.config.table_bytes_max <= table_bytes),
        };
        if let Some(segment) = due
            && self.write_table(segment, pace)?
        {
            return Ok(Progress::TableWritten);
        }
        if 0 < self.recycle_journal(&segments)? {
            return Ok(Progress::JournalRecycled);
        }
        // A segment with a damaged layer must not keep the others from being merged.
        let mut failed = None;
        for segment in &segments {
            match self.merge_layers(segment, pace) {
                Ok(true) => return Ok(Progress::LayersMerged),
                Ok(false) => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(Progress::Idle), Err)
    }

    /// If the journal is too long: a segment that has to write its table out before the oldest file can go.
    fn segment_that_pins_the_journal(&self) -> Option<SegmentId> {
        let manifest = locked(&self.manifest);
        let journal = locked(&self.journal);
        let (_, oldest) = journal.files.first_key_value()?;
        if journal.bytes() < self.config.journal_retained_bytes_max || journal.files.len() == 1 {
            return None;
        }
        let pins = |(segment, held): &(&SegmentId, &Held)| !manifest.holds(**segment, held.last_offset);
        oldest.held.iter().find(pins).map(|(segment, _)| *segment)
    }

    /// Writes every table out, so that the journal is not needed at the next start.
    pub fn write_tables(&self) -> Result<(), ReadError> {
        let _alone = locked(&self.upkeep);
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
        Folder::new(&self.config, self.reading(&horizon.path), horizon, segment)
    }

    fn write_table(&self, segment: &SegmentStore, pace: &dyn Fn()) -> Result<bool, ReadError> {
        let layered_through = locked(&self.manifest).through_offset(segment.id);
        let Some(table) = segment.freeze(layered_through) else {
            return Ok(false);
        };
        let horizon = segment.horizon();
        let mut folder = horizon.as_ref().map(|horizon| self.folder(segment, horizon));
        let writer = LayerWriter::new(self.disk.clone(), self.next_layer());
        let layer = merge::write_table(&table, folder.as_mut(), writer, pace)?;
        self.change_layers(segment, &[], layer, table.through_offset)?;
        segment.thaw();
        Ok(true)
    }

    fn merge_layers(&self, segment: &SegmentStore, pace: &dyn Fn()) -> Result<bool, ReadError> {
        let Some(horizon) = segment.horizon() else {
            return Ok(false);
        };
        let Some(chosen) = merge::choose(&segment.layers(), self.config.merge_layers) else {
            return Ok(false);
        };
        let writer = LayerWriter::new(self.disk.clone(), self.next_layer());
        let merged = merge::merge(&chosen, &mut self.folder(segment, &horizon), writer, pace)?;
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
        let new = new.map(Arc::new);
        let is_old = |layer: &Arc<Layer>| old.iter().any(|one| one.number == layer.number);
        let mut layers: Vec<Arc<Layer>> = segment
            .layers()
            .iter()
            .filter(|layer| !is_old(layer))
            .cloned()
            .collect();
        layers.extend(new.clone());
        let mut manifest = locked(&self.manifest);
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

    fn recycle_journal(&self, segments: &[Arc<SegmentStore>]) -> Result<usize, ReadError> {
        let manifest = locked(&self.manifest).clone();
        let horizons: BTreeMap<SegmentId, Option<Lsn>> = segments
            .iter()
            .map(|segment| (segment.id, segment.horizon().map(|horizon| horizon.recycle_through.lsn)))
            .collect();
        let mut journal = locked(&self.journal);
        journal
            .recycle(|file| {
                file.held.iter().all(|(segment, held)| {
                    let through = horizons.get(segment).copied().flatten();
                    let unwanted = through.is_some_and(|through| held.highest_lsn <= through);
                    unwanted && manifest.holds(*segment, held.last_offset)
                })
            })
            .map_err(|error| ReadError::io("journal", &error))
    }

    /// How full it is.
    pub fn status(&self) -> StoreStatus {
        let segments = self.all_segments();
        let layer_bytes = |segment: &Arc<SegmentStore>| segment.layers().iter().map(|layer| layer.file_bytes).sum();
        let journal = locked(&self.journal);
        StoreStatus {
            journal_bytes: journal.bytes(),
            table_bytes: segments.iter().map(|segment| segment.table_bytes() as u64).sum(),
            cache_bytes: self.cache.bytes() as u64,
            layer_bytes: segments
                .iter()
                .map(|segment| (segment.id, layer_bytes(segment)))
                .collect(),
            closed: journal.closed().map(str::to_owned),
        }
    }
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
