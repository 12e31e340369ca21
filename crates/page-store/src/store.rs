//! The store of one node: one journal, many segments.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use engine::Engine;
use io::Disk;
use timeline::Path;
use units::{Lsn, Page, PageKey, Position, SegmentId};
use wire_format::{CatalogEntry, CatalogKey, EncodedBatch};

use crate::activity::{Activity, Counters};
use crate::catalog;
use crate::config::StoreConfig;
use crate::damage::Loss;
use crate::header::KeptHeader;
use crate::journal::{AppendError, Journal};
use crate::journal_entry::JournalEntry;
use crate::journal_files::JournalFiles;
use crate::key::{Key, Value, Version};
use crate::layer::{BlockCache, IndexCache};
use crate::layer_writer::LayerWriter;
use crate::locked;
use crate::log::{RANGES_WITH_A_HEADER, Range};
use crate::manifest::Manifest;
use crate::read::{PageCache, ReadError, Reading};
use crate::reserve::Reserve;
use crate::segment_store::{Horizon, SegmentStore};

/// Tables may outgrow their limit so many times before appending waits until one is written out.
const TABLES_OVERRUN: usize = 3;

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
    /// Layer files of all segments.
    pub layers_count: usize,
    /// Why the journal takes nothing more, if so.
    pub closed: Option<String>,
}

/// A storage node's files. Every function may be called from any thread; reads never wait for a sync.
pub struct PageStore {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) config: StoreConfig,
    pub(crate) blocks: BlockCache,
    pub(crate) indexes: Arc<IndexCache>,
    pub(crate) pages: PageCache,
    /// Held over writes and syncs: only by who appends.
    pub(crate) journal: Mutex<Journal>,
    pub(crate) reserve: Arc<Reserve>,
    pub(crate) journal_files: Arc<Mutex<JournalFiles>>,
    /// Everything below this journal offset was handed to the segments.
    pub(crate) handed_over: AtomicU64,
    pub(crate) segments: RwLock<BTreeMap<SegmentId, Arc<SegmentStore>>>,
    pub(crate) manifest: Mutex<Manifest>,
    /// Whether the manifest on the disk knows of everything that was found lost.
    pub(crate) damage_saved: AtomicBool,
    pub(crate) counters: Counters,
    /// Held while a table is written out, by whoever does it: one at a time.
    pub(crate) writing: Mutex<()>,
    /// Held while layers are merged or journal files removed.
    pub(crate) merging: Mutex<()>,
}

impl PageStore {
    pub(crate) fn segment(&self, segment: SegmentId) -> Result<Arc<SegmentStore>, ReadError> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments
            .get(&segment)
            .cloned()
            .ok_or(ReadError::UnknownSegment(segment))
    }

    /// For a new layer.
    pub(crate) fn layer_writer(&self) -> LayerWriter {
        LayerWriter::new(self.disk.clone(), self.indexes.clone(), self.next_layer())
    }

    pub(crate) fn all_segments(&self) -> Vec<Arc<SegmentStore>> {
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
            if let JournalEntry::State { segment, bytes } = entry {
                if bytes.is_empty() {
                    self.forget_segment(*segment);
                    continue;
                }
                let known = self
                    .segments
                    .read()
                    .unwrap_or_else(PoisonError::into_inner)
                    .contains_key(segment);
                if !known {
                    let store = Arc::new(SegmentStore::new(
                        *segment,
                        &self.config,
                        Vec::new(),
                        journal.synced,
                        Loss::Nothing,
                    ));
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

    /// Its files go with the next steps of background work.
    fn forget_segment(&self, segment: SegmentId) {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(removed) = segments.remove(&segment) {
            removed.mark_removed();
        }
    }

    fn make_room(&self) -> Result<(), AppendError> {
        let table_bytes_limit = TABLES_OVERRUN * self.config.table_bytes_max;
        while table_bytes_limit <= self.table_bytes(&self.all_segments()) {
            let written = self.write_due_table(&|| ());
            let written = written.map_err(|error| match error {
                ReadError::DiskFull { .. } => AppendError::DiskFull,
                error => AppendError::Write(error.to_string()),
            });
            if !written? {
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
            if segment.is_tail() {
                // Most of it is never looked into.
                segment.let_arrivals_go();
            } else {
                segment.settle(&*self.engine, end);
            }
        }
    }

    pub(crate) fn settled(&self, segment: SegmentId) -> Result<Arc<SegmentStore>, ReadError> {
        let end = self.handed_over.load(Ordering::Acquire);
        let segment = self.segment(segment)?;
        if segment.is_damaged() {
            return Err(ReadError::Lost(segment.id));
        }
        segment.settle(&*self.engine, end);
        Ok(segment)
    }

    /// Batches in the order of `positions`, until they come to `bytes_max`. One that was recycled meanwhile ends them, too:
    /// what follows it would leave a hole.
    pub fn read_batches(
        &self,
        segment: SegmentId,
        positions: &[Position],
        bytes_max: usize,
    ) -> Result<Vec<EncodedBatch>, ReadError> {
        let mut batches = Vec::new();
        let mut bytes = 0;
        for position in positions {
            if bytes_max <= bytes {
                break;
            }
            let Some(batch) = self.read_batch(segment, *position)? else {
                break;
            };
            bytes += batch.bytes().len();
            batches.push(batch);
        }
        Ok(batches)
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
        match EncodedBatch::decode(buffer.into()) {
            Ok(batch) => Ok(Some(batch)),
            Err(error) => {
                let error = ReadError::corrupt(&file, &error.to_string());
                // Whoever opens the volume must not count on log that this copy holds, but cannot give.
                if let Some(start) = self.journal_file_of(segment, position) {
                    self.note_journal_loss(start, &[self.segment(segment)?], &error);
                }
                Err(error)
            }
        }
    }

    fn journal_file_of(&self, segment: SegmentId, position: Position) -> Option<u64> {
        let files = locked(&self.journal_files);
        let location = files.location(segment, position)?;
        let (start, _) = files.files.range(..=location.offset).next_back()?;
        Some(*start)
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
        let pages: Result<_, _> = blocks
            .map(|block| reading.page(&segment, first.fork.page(block), read_point))
            .collect();
        self.noting_loss(&segment, pages)
    }

    pub(crate) fn reading<'a>(&'a self, path: &'a Path) -> Reading<'a> {
        Reading {
            engine: &*self.engine,
            blocks: &self.blocks,
            pages: &self.pages,
            is_readers: true,
            path,
        }
    }

    /// Catalog entries as of the read point, in key order after `after`: at most `most`, or fewer if they are long. None: the
    /// end.
    pub fn scan_catalog(
        &self,
        segment: SegmentId,
        path: &Path,
        read_point: Lsn,
        after: Option<&CatalogKey>,
        most: usize,
    ) -> Result<Vec<CatalogEntry>, ReadError> {
        let segment = self.settled(segment)?;
        let scanned = catalog::scan(&segment, path, read_point, after, most);
        self.noting_loss(&segment, scanned)
    }

    /// The header of the last flush that ends at or below `at`.
    pub fn flush_header(&self, segment: SegmentId, path: &Path, at: Lsn) -> Result<FlushedHeader, ReadError> {
        let segment = self.settled(segment)?;
        let found = self.newest_flush_header(&segment, path, at);
        self.noting_loss(&segment, found)
    }

    fn newest_flush_header(&self, segment: &SegmentStore, path: &Path, at: Lsn) -> Result<FlushedHeader, ReadError> {
        let last = |key: Key, at: Lsn| -> Result<Option<Version>, ReadError> {
            Ok(segment.visible(&key, path, Position::ZERO, at, &self.blocks)?.pop())
        };
        let mut newest = last(Key::FlushHeader, at)?;
        // What was folded away before the last ones is still in the log, down to the floor.
        let end = last(Key::FlushHeader, Lsn::MAX)?.map_or(at, |end| at.min(end.position.lsn));
        let known = newest.as_ref().map_or(Position::ZERO, |newest| newest.position);
        let (from, to) = (Range::of(known.lsn).0, Range::of(end).0);
        for range in (from.max(to.saturating_sub(RANGES_WITH_A_HEADER))..=to).rev() {
            if let Some(found) = last(Key::Flushes(Range(range)), at)? {
                newest = newest.filter(|_| found.position <= known).or(Some(found));
                break;
            }
        }
        let Some((end, Value::Header(header))) = newest.map(|version| (version.position, version.value)) else {
            return Err(ReadError::NoFlush(at));
        };
        let header = KeptHeader::decode(header, end.lsn);
        let header = header.map_err(|error| ReadError::corrupt("a flush header", &error.to_string()))?;
        Ok(FlushedHeader {
            end,
            previous: header.previous,
            boundary: header.flush.boundary,
            marks: header.marks,
        })
    }

    /// The segments that have lost something, found at the start or since: they have no vote and make no pages.
    pub fn damaged(&self) -> Vec<SegmentId> {
        let segments = self.all_segments().into_iter();
        segments.filter(|one| one.is_damaged()).map(|one| one.id).collect()
    }

    /// Whether a segment has lost something.
    pub fn is_damaged(&self, segment: SegmentId) -> bool {
        self.segment(segment).is_ok_and(|segment| segment.is_damaged())
    }

    /// Whether a segment is whole, or can be made whole in its place: not if nobody knows what it acknowledged.
    pub fn is_mendable(&self, segment: SegmentId) -> bool {
        let damage = self.segment(segment).map(|segment| segment.damage());
        damage.is_ok_and(|damage| damage.at_start != Loss::Log)
    }

    /// Bytes that a pass over everything at rest reads, about.
    pub fn bytes_at_rest(&self) -> u64 {
        let status = self.status();
        status.journal_bytes + status.layer_bytes.values().sum::<u64>()
    }

    /// How far a segment may be folded and its journal recycled.
    pub fn set_horizon(&self, segment: SegmentId, horizon: Horizon) {
        if let Ok(segment) = self.segment(segment) {
            segment.set_horizon(horizon);
        }
    }

    /// Batches up to here need not stay in the journal, although the horizon does not cover them: the segment will take them from
    /// peers again.
    pub fn let_journal_go(&self, segment: SegmentId, through: Position) {
        if let Ok(segment) = self.segment(segment) {
            segment.set_unneeded(through.lsn);
        }
    }

    /// What it has done since it was opened.
    pub fn activity(&self) -> Activity {
        let caches = [self.blocks.so_far(), self.indexes.so_far(), self.pages.so_far()];
        self.counters.so_far(caches)
    }

    /// How full it is.
    pub fn status(&self) -> StoreStatus {
        let segments = self.all_segments();
        let layer_bytes = |segment: &Arc<SegmentStore>| segment.layers().iter().map(|layer| layer.file_bytes).sum();
        let journal = locked(&self.journal_files);
        StoreStatus {
            journal_bytes: journal.bytes(),
            table_bytes: self.table_bytes(&segments) as u64,
            cache_bytes: (self.blocks.bytes() + self.indexes.bytes() + self.pages.bytes()) as u64,
            layer_bytes: segments
                .iter()
                .map(|segment| (segment.id, layer_bytes(segment)))
                .collect(),
            layers_count: segments.iter().map(|segment| segment.layers().len()).sum(),
            closed: journal.closed.clone(),
        }
    }
}
