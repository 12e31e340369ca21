//! What a store has done since it was opened, for whoever measures it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::layer::Layer;

/// What a store has done since it was opened. Bytes of layers are those of their files.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Activity {
    /// Memory tables that became layers.
    pub tables_written: u64,
    /// Bytes of the layers that they became.
    pub table_bytes_written: u64,
    /// Merges of layers.
    pub merges: u64,
    /// Bytes of the layers that were merged.
    pub merge_bytes_read: u64,
    /// Bytes of the layers that they became.
    pub merge_bytes_written: u64,
    /// Bytes of the layers that were made of versions of other stores.
    pub repair_bytes_written: u64,
    /// Journal files that were given up.
    pub journal_files_recycled: u64,
    /// Files found damaged.
    pub damaged_files: u64,
    /// Of these, files whose content is whole again.
    pub mended_files: u64,
    /// Bytes of the layers that took the place of damaged ones.
    pub mended_bytes_written: u64,
    /// How the cache of layers' blocks did.
    pub blocks: CacheUse,
    /// How the cache of layers' indexes did.
    pub indexes: CacheUse,
    /// How the cache of pages did.
    pub pages: CacheUse,
}

/// How a cache did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CacheUse {
    /// Times that it had what was asked for.
    pub hits: u64,
    /// Times that it had not.
    pub misses: u64,
    /// Bytes that it holds just now.
    pub bytes: u64,
}

/// The counters behind [`Activity`].
#[derive(Default)]
pub(crate) struct Counters {
    tables_written: AtomicU64,
    table_bytes_written: AtomicU64,
    merges: AtomicU64,
    merge_bytes_read: AtomicU64,
    merge_bytes_written: AtomicU64,
    repair_bytes_written: AtomicU64,
    journal_files_recycled: AtomicU64,
    damaged_files: AtomicU64,
    mended_files: AtomicU64,
    mended_bytes_written: AtomicU64,
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

impl Counters {
    /// A table became a layer, or nothing of it had to stay.
    pub(crate) fn table_written(&self, layer: Option<&Layer>) {
        add(&self.tables_written, 1);
        add(&self.table_bytes_written, layer.map_or(0, |layer| layer.file_bytes));
    }

    /// Layers became one, or nothing of them had to stay.
    pub(crate) fn merged<'a>(&self, old: impl Iterator<Item = &'a Layer>, new: Option<&Layer>) {
        add(&self.merges, 1);
        add(&self.merge_bytes_read, old.map(|layer| layer.file_bytes).sum());
        add(&self.merge_bytes_written, new.map_or(0, |layer| layer.file_bytes));
    }

    /// Versions of another store became a layer.
    pub(crate) fn repaired(&self, layer: Option<&Layer>) {
        add(&self.repair_bytes_written, layer.map_or(0, |layer| layer.file_bytes));
    }

    /// A journal file was given up.
    pub(crate) fn journal_file_recycled(&self) {
        add(&self.journal_files_recycled, 1);
    }

    /// A file was found damaged.
    pub(crate) fn damaged(&self) {
        add(&self.damaged_files, 1);
    }

    /// The content of damaged files is whole again.
    pub(crate) fn mended(&self, files: u64, bytes: u64) {
        add(&self.mended_files, files);
        add(&self.mended_bytes_written, bytes);
    }

    pub(crate) fn so_far(&self, [blocks, indexes, pages]: [CacheUse; 3]) -> Activity {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Activity {
            tables_written: read(&self.tables_written),
            table_bytes_written: read(&self.table_bytes_written),
            merges: read(&self.merges),
            merge_bytes_read: read(&self.merge_bytes_read),
            merge_bytes_written: read(&self.merge_bytes_written),
            repair_bytes_written: read(&self.repair_bytes_written),
            journal_files_recycled: read(&self.journal_files_recycled),
            damaged_files: read(&self.damaged_files),
            mended_files: read(&self.mended_files),
            mended_bytes_written: read(&self.mended_bytes_written),
            blocks,
            indexes,
            pages,
        }
    }
}
