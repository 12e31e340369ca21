//! Decoded blocks of layer files, bounded in bytes.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

#[derive(Default)]
struct Blocks {
    blocks: HashMap<(u64, u32), (u64, Bytes)>,
    bytes: usize,
    clock: u64,
}

/// Blocks by (layer, number), the least recently used dropped first.
pub(crate) struct BlockCache {
    bytes_max: usize,
    blocks: Mutex<Blocks>,
}

impl BlockCache {
    pub(crate) fn new(bytes_max: usize) -> BlockCache {
        BlockCache {
            bytes_max,
            blocks: Mutex::default(),
        }
    }

    fn blocks(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, layer: u64, block: u32) -> Option<Bytes> {
        let mut blocks = self.blocks();
        blocks.clock += 1;
        let clock = blocks.clock;
        let (used, bytes) = blocks.blocks.get_mut(&(layer, block))?;
        *used = clock;
        Some(bytes.clone())
    }

    pub(crate) fn insert(&self, layer: u64, block: u32, bytes: Bytes) {
        let mut blocks = self.blocks();
        blocks.clock += 1;
        let clock = blocks.clock;
        blocks.bytes += bytes.len();
        if let Some((_, before)) = blocks.blocks.insert((layer, block), (clock, bytes)) {
            blocks.bytes -= before.len();
        }
        if self.bytes_max < blocks.bytes {
            // An eighth at a time, so that the scan for the oldest is rare.
            let mut used: Vec<u64> = blocks.blocks.values().map(|(used, _)| *used).collect();
            used.sort_unstable();
            let oldest_kept = used[used.len() / 8];
            blocks.blocks.retain(|_, (used, _)| oldest_kept < *used);
            blocks.bytes = blocks.blocks.values().map(|(_, bytes)| bytes.len()).sum();
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.blocks().bytes
    }
}
