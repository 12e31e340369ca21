//! Opening a store: what its files say becomes tables, layers and a journal that goes on.
//!
//! Invariants:
//! - Nothing of it needs room: a full disk does not keep a store from being read. What could not be written is written when
//!   there is room, before anything that depends on it.
//! - Memory is bounded by what is in no layer yet, not by what the journal still holds: of batches only their positions are
//!   kept.

use std::collections::BTreeMap;
use std::io as std_io;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};

use engine::Engine;
use io::Disk;
use units::SegmentId;
use wire_format::EncodedBatch;

use crate::activity::Counters;
use crate::cache::Cache;
use crate::config::StoreConfig;
use crate::damage::Loss;
use crate::journal::{AppendError, Journal, is_full};
use crate::journal_files::{self, JournalFiles};
use crate::journal_scan;
use crate::layer::{self, IndexCache, Layer};
use crate::manifest::Manifest;
use crate::read::ReadError;
use crate::recovery::{self, OpenError, Recovered, RecoveredSegment};
use crate::reserve::Reserve;
use crate::segment_store::SegmentStore;
use crate::store::PageStore;

/// An opened store, and what its journal says of its segments.
pub struct Opened {
    /// The store.
    pub store: PageStore,
    /// Every segment that has a state.
    pub segments: Vec<RecoveredSegment>,
}

type Segments = BTreeMap<SegmentId, Arc<SegmentStore>>;

impl PageStore {
    /// Opens the store on `disk`, or makes an empty one. When it returns, everything that it found is durable.
    pub fn open(disk: Arc<dyn Disk>, config: StoreConfig, engine: Arc<dyn Engine>) -> Result<Opened, OpenError> {
        let mut manifest = Manifest::load(&*disk)?;
        let scan = journal_scan::scan(&*disk)?;
        let recovered = recovery::recover(&*disk, &scan)?;
        forget_removed(&*disk, &mut manifest, &recovered)?;
        remove_orphans(&*disk, &manifest)?;
        let indexes = Arc::new(Cache::new(config.index_cache_bytes_max));
        let (segments, damage_is_new) = open_segments(&disk, &indexes, &config, &mut manifest, &recovered)?;
        let damage_saved = !damage_is_new || save(&*disk, &manifest)?;
        recovered.secure(&*disk)?;
        let reserve = Reserve::open(disk.clone(), config.journal_file_bytes, &scan.spares, &recovered.unused);
        let reserve = Arc::new(reserve.map_err(|error| OpenError::io(journal_files::FOLDER, &error))?);
        let mut files = JournalFiles::new(recovered.files.clone());
        for (segment, position, location) in recovered.locations() {
            // What is in them is not known here.
            files.note_batch(segment, position, location, true);
        }
        index(&*disk, &*engine, &files, &recovered, &manifest, &segments)?;
        let journal_files = Arc::new(Mutex::new(files));
        let mut journal = Journal::new(
            disk.clone(),
            config.journal_file_bytes,
            reserve.clone(),
            journal_files.clone(),
            recovered.tail,
            recovered.states.clone(),
        );
        match journal.begin_file(0).and_then(|()| journal.sync()) {
            Err(AppendError::DiskFull) => {
                tracing::warn!("store.open: the disk is full, no log is taken until it is not")
            }
            begun => begun?,
        }
        let store = PageStore {
            blocks: Cache::new(config.cache_bytes_max),
            indexes,
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
            damage_saved: AtomicBool::new(damage_saved),
            counters: Counters::default(),
            writing: Mutex::default(),
            merging: Mutex::default(),
        };
        Ok(Opened {
            store,
            segments: recovered.by_segment(&manifest),
        })
    }
}

/// The segments with those of their layers that can still be read, and whether one of them was found damaged just now.
fn open_segments(
    disk: &Arc<dyn Disk>,
    indexes: &Arc<IndexCache>,
    config: &StoreConfig,
    manifest: &mut Manifest,
    recovered: &Recovered,
) -> Result<(Segments, bool), OpenError> {
    let mut segments = BTreeMap::new();
    let mut damage_is_new = false;
    for segment in recovered.states.keys() {
        let known = manifest.segments.entry(*segment).or_default();
        let found = (known.loss, known.layers.len());
        if recovered.rot {
            known.loss = Loss::Log;
        }
        let layers = open_layers(disk, indexes, &known.layers)?;
        if layers.len() < known.layers.len() {
            known.loss = known.loss.max(Loss::Layers);
        }
        if known.loss != Loss::Nothing {
            tracing::error!(%segment, "store.open: something is lost, the segment has no vote and gives no pages");
        }
        damage_is_new |= (known.loss, layers.len()) != found;
        let store = SegmentStore::new(*segment, config, layers, known.through_offset, known.loss);
        segments.insert(*segment, Arc::new(store));
    }
    Ok((segments, damage_is_new))
}

/// Whether there was room for it.
fn save(disk: &dyn Disk, manifest: &Manifest) -> Result<bool, OpenError> {
    match manifest.save(disk) {
        Ok(()) => Ok(true),
        Err(error) if is_full(&error) => Ok(false),
        Err(error) => Err(OpenError::io("manifest", &error)),
    }
}

/// Indexes the batches that are in no layer, one after the other.
fn index(
    disk: &dyn Disk,
    engine: &dyn Engine,
    files: &JournalFiles,
    recovered: &Recovered,
    manifest: &Manifest,
    segments: &Segments,
) -> Result<(), OpenError> {
    for (segment, location, _) in &recovered.batches {
        if let Some(store) = segments.get(segment)
            && !manifest.holds(*segment, location.offset)
        {
            let batch = EncodedBatch::decode(recovery::read(disk, files, *location)?)
                .map_err(|error| OpenError::Damaged(format!("a batch of the journal: {error}")))?;
            store.add_arrival(location.offset, batch.batch().clone());
            store.settle(engine, location.offset + 1);
        }
    }
    Ok(())
}

/// Those of the layers that can still be read.
fn open_layers(disk: &Arc<dyn Disk>, indexes: &Arc<IndexCache>, numbers: &[u64]) -> Result<Vec<Arc<Layer>>, OpenError> {
    let mut layers = Vec::new();
    for number in numbers {
        match Layer::open(disk.clone(), indexes.clone(), *number) {
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

/// Segments without a state were removed. Not if the journal has lost something: a state may be among it.
fn forget_removed(disk: &dyn Disk, manifest: &mut Manifest, recovered: &Recovered) -> Result<(), OpenError> {
    let mut next = manifest.clone();
    next.segments
        .retain(|segment, _| recovered.states.contains_key(segment));
    // Without room it is tried again at the next start.
    if next.segments.len() < manifest.segments.len() && !recovered.rot && save(disk, &next)? {
        *manifest = next;
    }
    Ok(())
}

/// Layers that no manifest names are left from work that a crash cut off.
fn remove_orphans(disk: &dyn Disk, manifest: &Manifest) -> Result<(), OpenError> {
    let io = |file: &str, error: std_io::Error| OpenError::io(file, &error);
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
