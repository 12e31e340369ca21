//! What the store holds of one segment: tables, layers, and how far they may be folded.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use engine::Engine;
use timeline::Path;
use units::{Lsn, PAGE_BYTES, Position, SegmentId};
use wire_format::{Batch, Item};

use crate::config::StoreConfig;
use crate::damage::{Damage, Loss};
use crate::incoming::Incoming;
use crate::index::{self, Fragments};
use crate::key::{Key, Value, Version};
use crate::layer::{BlockCache, Layer};
use crate::locked;
use crate::read::ReadError;
use crate::table::{Table, VERSION_BYTES};

/// How far a segment's log may be folded, collected and recycled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Horizon {
    /// The path of timelines that reads go along from now on.
    pub path: Path,
    /// The announced durable position: nothing above is folded.
    pub durable: Position,
    /// The granted floor: versions that only older reads need may go.
    pub floor: Position,
    /// Batches up to here are no longer wanted by anyone: their journal may go once they are in layers. The segment holds
    /// everything that the path sees up to here, synced; nothing above is folded either, since an image made over a hole
    /// would swallow the record that fills it.
    pub recycle_through: Position,
    /// Of a tail, which keeps log only: nobody wants anything at or below this any more. What lies above stays as it came,
    /// and nothing is folded. `None`: it is a full segment.
    pub let_go: Option<Position>,
}

impl Horizon {
    /// Up to where records may be folded into images.
    pub(crate) fn fold_point(&self) -> Lsn {
        self.floor.lsn.min(self.settled_point())
    }

    /// Up to where no record comes any more: all that the path sees is here, and stays. Of a tail nothing is folded.
    pub(crate) fn settled_point(&self) -> Lsn {
        if self.let_go.is_some() {
            return Lsn::ZERO;
        }
        self.durable.lsn.min(self.recycle_through.lsn)
    }
}

/// What indexing has come to.
struct Indexed {
    fragments: Fragments,
    /// Every batch below this journal offset is in a table or a layer.
    through_offset: u64,
    /// The highest position of all versions.
    newest: Position,
}

#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) active: Table,
    /// Being written out as a layer.
    pub(crate) frozen: Option<Arc<Table>>,
}

/// One segment's versions.
pub(crate) struct SegmentStore {
    pub(crate) id: SegmentId,
    /// Whether something that it once held is lost: it makes no pages then.
    damaged: AtomicBool,
    /// What. Changed by whoever holds the manifest.
    damage: Mutex<Damage>,
    /// It is not wanted any more: nothing of it is written down again.
    removed: AtomicBool,
    /// What comes from the layers of peers and is no layer yet.
    pub(crate) incoming: Mutex<Incoming>,
    /// Synced, but not indexed. Apart from `indexed`, so that handing over never waits for indexing.
    pub(crate) arrivals: Mutex<Vec<(u64, Arc<Batch>)>>,
    /// About how much memory the arrivals take.
    pub(crate) arrived_bytes: AtomicUsize,
    /// Held while arrivals are indexed: whoever holds it next finds all of them in the table. After a panic meanwhile nobody
    /// does: see [`SegmentStore::indexed`].
    indexed: Mutex<Indexed>,
    pub(crate) tables: RwLock<Tables>,
    layers: RwLock<Arc<Vec<Arc<Layer>>>>,
    horizon: Mutex<Option<Horizon>>,
    /// Batches up to here need not stay in the journal, although the horizon does not cover them.
    unneeded_lsn: AtomicU64,
    generation: AtomicU64,
}

impl SegmentStore {
    pub(crate) fn new(
        id: SegmentId,
        config: &StoreConfig,
        layers: Vec<Arc<Layer>>,
        through_offset: u64,
        loss: Loss,
    ) -> SegmentStore {
        let indexed = Indexed {
            fragments: Fragments::new(config.fragment_bytes_max),
            through_offset,
            newest: layers
                .iter()
                .map(|layer| layer.extent.newest())
                .max()
                .unwrap_or_default(),
        };
        SegmentStore {
            id,
            damaged: AtomicBool::new(loss != Loss::Nothing),
            damage: Mutex::new(Damage::at_start(loss)),
            removed: AtomicBool::new(false),
            incoming: Mutex::default(),
            arrivals: Mutex::default(),
            arrived_bytes: AtomicUsize::new(0),
            indexed: Mutex::new(indexed),
            tables: RwLock::default(),
            layers: RwLock::new(Arc::new(layers)),
            horizon: Mutex::default(),
            unneeded_lsn: AtomicU64::new(0),
            generation: AtomicU64::new(0),
        }
    }

    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Acquire)
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// It is not wanted any more.
    pub(crate) fn mark_removed(&self) {
        self.removed.store(true, Ordering::Release);
    }

    /// See [`Fragments::whole_through`].
    pub(crate) fn whole_through(&self, path: &Path, through: Position) -> Position {
        self.indexed().fragments.whole_through(path, through)
    }

    /// Versions came that lie below others.
    pub(crate) fn note_late(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// What of it is lost.
    pub(crate) fn damage(&self) -> Damage {
        locked(&self.damage).clone()
    }

    /// Something was found lost, or is no longer: answers with what the manifest has to remember.
    pub(crate) fn change_damage(&self, change: impl FnOnce(&mut Damage)) -> Loss {
        let mut damage = locked(&self.damage);
        change(&mut damage);
        let loss = damage.loss();
        self.damaged.store(loss != Loss::Nothing, Ordering::Release);
        loss
    }

    /// Batches that are durable, but not indexed yet: indexing is not on the way of an acknowledgement.
    pub(crate) fn add_arrival(&self, offset: u64, batch: Arc<Batch>) {
        let mut arrivals = locked(&self.arrivals);
        self.arrived_bytes.fetch_add(batch_bytes(&batch), Ordering::Relaxed);
        arrivals.push((offset, batch));
    }

    /// What was taken to be indexed when a panic came is in no table: every page made without it would be wrong, and the
    /// journal that still has it must not go. So the panic spreads to whoever comes next.
    fn indexed(&self) -> MutexGuard<'_, Indexed> {
        self.indexed.lock().expect("no batch was lost while it was indexed")
    }

    /// What has arrived below `end`, and whether that was all. Nothing above: a record may not be in a table that is written
    /// out as one that ends at `end`, and its last piece above.
    fn take_arrivals(&self, end: u64) -> (Vec<(u64, Arc<Batch>)>, bool) {
        let mut arrivals = locked(&self.arrivals);
        let taken: Vec<_> = match arrivals.last() {
            Some((last, _)) if *last < end => std::mem::take(&mut *arrivals),
            _ => {
                let below = arrivals.partition_point(|(offset, _)| *offset < end);
                arrivals.drain(..below).collect()
            }
        };
        let bytes = taken.iter().map(|(_, batch)| batch_bytes(batch)).sum();
        self.arrived_bytes.fetch_sub(bytes, Ordering::Relaxed);
        (taken, arrivals.is_empty())
    }

    /// Indexes what has arrived. `end` is the journal offset below which everything was handed over.
    pub(crate) fn settle(&self, engine: &dyn Engine, end: u64) {
        self.let_arrivals_go();
        let mut indexed = self.indexed();
        // Before the arrivals are taken: if none is left, everything that it covers has been indexed afterwards.
        let horizon = indexed.fragments.oldest_offset().and_then(|_| self.horizon());
        let (arrivals, all) = self.take_arrivals(end);
        let mut versions = Vec::new();
        for (offset, batch) in &arrivals {
            index::versions(engine, batch, *offset, &mut indexed.fragments, |key, version| {
                if let Value::Unreadable(what) = &version.value {
                    let what = String::from_utf8_lossy(what);
                    tracing::error!(segment = %self.id, at = %version.position, %what, "store.index: unreadable record");
                }
                versions.push((key, version));
            });
        }
        if let Some(horizon) = horizon.filter(|_| all) {
            indexed.fragments.drop_finished(&horizon);
        }
        let through = indexed.fragments.oldest_offset().unwrap_or(end).min(end);
        indexed.through_offset = indexed.through_offset.max(through);
        if versions.is_empty() {
            return;
        }
        let newest = versions.iter().map(|(_, version)| version.position).max();
        let late = versions.iter().any(|(_, version)| version.position <= indexed.newest);
        indexed.newest = indexed.newest.max(newest.unwrap_or_default());
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        for (key, version) in versions {
            tables.active.insert(key, version);
        }
        if late {
            // After they are there, and before anyone can see them.
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    pub(crate) fn layers(&self) -> Arc<Vec<Arc<Layer>>> {
        self.layers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_layers(&self, layers: Vec<Arc<Layer>>) {
        *self.layers.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(layers);
    }

    pub(crate) fn horizon(&self) -> Option<Horizon> {
        locked(&self.horizon).clone()
    }

    pub(crate) fn set_horizon(&self, horizon: Horizon) {
        *locked(&self.horizon) = Some(horizon);
    }

    /// An error if versions as of `read_point` may have been folded, as background work does whenever it likes: what was just read
    /// may lack some. A reader's floor keeps that from happening, but not on a copy that could only show it less, and went on
    /// meanwhile.
    pub(crate) fn check_not_folded(&self, read_point: Lsn) -> Result<(), ReadError> {
        let fold_point = locked(&self.horizon).as_ref().map_or(Lsn::ZERO, Horizon::fold_point);
        if read_point < fold_point {
            return Err(ReadError::Folded {
                read_point,
                through: fold_point,
            });
        }
        Ok(())
    }

    pub(crate) fn set_unneeded(&self, through: Lsn) {
        self.unneeded_lsn.store(through.raw(), Ordering::Relaxed);
    }

    /// Up to where nobody wants batches from the journal, once they are in layers; `None`: that is not known yet.
    pub(crate) fn unneeded_through(&self) -> Option<Lsn> {
        let recycled = self.horizon()?.recycle_through.lsn;
        Some(recycled.max(Lsn::from_raw(self.unneeded_lsn.load(Ordering::Relaxed))))
    }

    pub(crate) fn table_bytes(&self) -> usize {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let indexed = tables.active.bytes + tables.frozen.as_ref().map_or(0, |frozen| frozen.bytes);
        indexed + self.arrived_bytes.load(Ordering::Relaxed)
    }

    /// Every batch below this journal offset is in a table or a layer.
    pub(crate) fn indexed_through(&self) -> u64 {
        self.indexed().through_offset
    }

    /// Makes the active table the one to write out, unless one is being written already. A table without versions is worth
    /// it, too, if it says that the journal is not needed beyond `layered_through`.
    pub(crate) fn freeze(&self, layered_through: u64) -> Option<Arc<Table>> {
        let indexed = self.indexed();
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(frozen) = &tables.frozen {
            return Some(frozen.clone());
        }
        if tables.active.versions.is_empty() && indexed.through_offset <= layered_through {
            return None;
        }
        let mut frozen = std::mem::take(&mut tables.active);
        frozen.through_offset = indexed.through_offset;
        let frozen = Arc::new(frozen);
        tables.frozen = Some(frozen.clone());
        Some(frozen)
    }

    pub(crate) fn thaw(&self) {
        self.tables.write().unwrap_or_else(PoisonError::into_inner).frozen = None;
    }

    /// Every version of `key` above `after` that the path sees at or below `read_point`, oldest first, each position once.
    pub(crate) fn visible(
        &self,
        key: &Key,
        path: &Path,
        after: Position,
        read_point: Lsn,
        cache: &BlockCache,
    ) -> Result<Vec<Version>, ReadError> {
        let wanted = |position: Position| after < position && position.lsn <= read_point && path.sees(position);
        let mut versions = Vec::new();
        {
            // Tables before layers: what moves from one to the other in between is seen twice, never missed.
            let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
            tables.active.collect(key, wanted, &mut versions);
            if let Some(frozen) = &tables.frozen {
                frozen.collect(key, wanted, &mut versions);
            }
        }
        for layer in self.layers().iter() {
            layer.collect(key, after, cache, &mut versions)?;
        }
        versions.retain(|version| wanted(version.position));
        order(&mut versions);
        Ok(versions)
    }

    /// Counts how often a version came late, below another one. What was made of versions is as good as made now while this
    /// is the same: every version that it missed lies above the newest that it has.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

/// Bytes that the versions of a batch will take, about.
pub(crate) fn batch_bytes(batch: &Batch) -> usize {
    let item_bytes = |item: &Item| match item {
        Item::Record { bytes, .. } | Item::Fragment { bytes, .. } => bytes.len(),
        Item::Image { .. } => PAGE_BYTES,
    };
    let items: usize = batch.items.iter().map(item_bytes).sum();
    let header_versions = batch.header.as_ref().map_or(0, |header| 1 + header.catalog.len());
    items + (batch.items.len() + header_versions) * VERSION_BYTES
}

/// Sorts versions of one key by position. Of several at one position an image stands for the record it was made with, and the
/// last of a record's catalog entries for those before it: they are together wherever they lie, and in their order.
pub(crate) fn order(versions: &mut Vec<Version>) {
    versions.sort_by_key(|version| (version.position, version.is_base()));
    versions.dedup_by(|later, kept| {
        let same = later.position == kept.position;
        if same {
            std::mem::swap(later, kept);
        }
        same
    });
}
