//! What the store holds of one segment: tables, layers, and how far they may be folded.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use engine::Engine;
use timeline::Path;
use units::{Lsn, Position, SegmentId};
use wire_format::Batch;

use crate::cache::BlockCache;
use crate::index::{self, Fragments};
use crate::key::{Key, Version};
use crate::layer::Layer;
use crate::read::ReadError;
use crate::table::Table;

/// How far a segment's log may be folded, collected and recycled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Horizon {
    /// The path of timelines that reads go along from now on.
    pub path: Path,
    /// The announced durable position: nothing above is folded.
    pub durable: Position,
    /// The granted floor: versions that only older reads need may go.
    pub floor: Position,
    /// Batches up to here are no longer wanted by anyone: their journal may go once they are in layers.
    pub recycle_through: Position,
}

impl Horizon {
    /// Up to where records may be folded into images.
    pub(crate) fn fold_point(&self) -> Lsn {
        self.floor.lsn.min(self.durable.lsn)
    }
}

#[derive(Default)]
struct Pending {
    batches: Vec<(u64, Arc<Batch>)>,
    fragments: Fragments,
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
    pending: Mutex<Pending>,
    pub(crate) tables: RwLock<Tables>,
    layers: RwLock<Arc<Vec<Arc<Layer>>>>,
    horizon: Mutex<Option<Horizon>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SegmentStore {
    pub(crate) fn new(id: SegmentId, layers: Vec<Arc<Layer>>, through_offset: u64) -> SegmentStore {
        let tables = Tables {
            active: Table {
                through_offset,
                ..Table::default()
            },
            frozen: None,
        };
        SegmentStore {
            id,
            pending: Mutex::default(),
            tables: RwLock::new(tables),
            layers: RwLock::new(Arc::new(layers)),
            horizon: Mutex::default(),
        }
    }

    /// Batches that are durable, but not indexed yet: indexing is not on the way of an acknowledgement.
    pub(crate) fn add_pending(&self, offset: u64, batch: Arc<Batch>) {
        locked(&self.pending).batches.push((offset, batch));
    }

    /// Indexes what is pending. `end` is the journal offset below which everything was handed over.
    pub(crate) fn settle(&self, engine: &dyn Engine, end: u64) {
        let mut pending = locked(&self.pending);
        if pending.batches.is_empty() {
            return;
        }
        let batches = std::mem::take(&mut pending.batches);
        let mut versions = Vec::new();
        for (offset, batch) in &batches {
            index::versions(
                engine,
                batch,
                *offset,
                &mut pending.fragments,
                |key, version| versions.push((key, version)),
                |error| tracing::error!(segment = %self.id, %error, "store.index: pages of this record are not known"),
            );
        }
        let through = pending.fragments.oldest_offset().unwrap_or(end).min(end);
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        for (key, version) in versions {
            tables.active.insert(key, version);
        }
        tables.active.through_offset = tables.active.through_offset.max(through);
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
        locked(&self.pending).fragments.drop_before(horizon.path.epoch());
        *locked(&self.horizon) = Some(horizon);
    }

    pub(crate) fn table_bytes(&self) -> usize {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        tables.active.bytes + tables.frozen.as_ref().map_or(0, |frozen| frozen.bytes)
    }

    /// Makes the active table the one to write out, unless one is being written already.
    pub(crate) fn freeze(&self) -> Option<Arc<Table>> {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(frozen) = &tables.frozen {
            return Some(frozen.clone());
        }
        if tables.active.versions.is_empty() {
            return None;
        }
        let next = Table {
            through_offset: tables.active.through_offset,
            ..Table::default()
        };
        let frozen = Arc::new(std::mem::replace(&mut tables.active, next));
        tables.frozen = Some(frozen.clone());
        Some(frozen)
    }

    pub(crate) fn thaw(&self) {
        self.tables.write().unwrap_or_else(PoisonError::into_inner).frozen = None;
    }

    /// Every version of `key` that the path sees at or below `read_point`, oldest first, each position once.
    pub(crate) fn visible(
        &self,
        key: &Key,
        path: &Path,
        read_point: Lsn,
        cache: &BlockCache,
    ) -> Result<Vec<Version>, ReadError> {
        let mut versions = Vec::new();
        {
            // Tables before layers: what moves from one to the other in between is seen twice, never missed.
            let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
            tables.active.collect(key, &mut versions);
            if let Some(frozen) = &tables.frozen {
                frozen.collect(key, &mut versions);
            }
        }
        for layer in self.layers().iter() {
            layer.collect(key, cache, &mut versions)?;
        }
        versions.retain(|version| version.position.lsn <= read_point && path.sees(version.position));
        order(&mut versions);
        Ok(versions)
    }
}

/// Sorts versions of one key by position; of two at one position an image stands for the record it was made with.
pub(crate) fn order(versions: &mut Vec<Version>) {
    versions.sort_by_key(|version| (version.position, !version.is_base()));
    versions.dedup_by_key(|version| version.position);
}
