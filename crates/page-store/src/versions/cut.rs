//! Where an answer ends: found in the indexes of the layers, before anything is read.

use std::cmp::Reverse;
use std::sync::{Arc, PoisonError};

use wire_format::message::VersionsAsked;

use crate::key::{Key, Version};
use crate::layer::Layer;
use crate::read::ReadError;
use crate::segment_store::SegmentStore;

/// Bytes that a version in a table takes besides its content, about.
const ENTRY_BYTES: usize = 32;
/// Of a layer that has to be looked through, so many bytes count as one: little of it may be wanted.
const LOOKED_THROUGH_SHARE: usize = 4;

/// What a table has for an answer, sorted by key.
pub(super) type TableVersions = Vec<(Key, Version)>;

/// A layer with versions that may be wanted.
pub(super) struct WantedLayer {
    pub(super) layer: Arc<Layer>,
    /// Every version of it is.
    pub(super) is_all_wanted: bool,
}

/// What an answer is made of.
pub(super) struct Cut {
    pub(super) tables: Vec<TableVersions>,
    pub(super) layers: Vec<WantedLayer>,
    /// The first key that there is no room for.
    pub(super) before: Option<Key>,
}

impl Cut {
    /// As much as `bytes_max` has room for, of every key from `from` on. Tables before layers: what moves from one to the other
    /// in between is seen twice, never missed.
    pub(super) fn of(
        segment: &SegmentStore,
        asked: &VersionsAsked,
        from: Option<&Key>,
        bytes_max: usize,
    ) -> Result<Cut, ReadError> {
        let (tables, of_tables) = from_tables(segment, from, bytes_max);
        let all = segment.layers();
        let wanted = all
            .iter()
            .filter(|layer| asked.after < layer.extent.newest() && from.is_none_or(|from| *from <= layer.last_key));
        let mut layers: Vec<WantedLayer> = wanted
            .map(|layer| WantedLayer {
                layer: layer.clone(),
                is_all_wanted: layer.extent.is_all_wanted(&asked.path, asked.after),
            })
            .collect();
        // Of all answers those from large layers come together in one.
        layers.sort_by_key(|wanted| Reverse(wanted.layer.file_bytes));
        let of_layers = cut_of(&layers, from, bytes_max)?;
        let cuts = [of_tables, of_layers];
        Ok(Cut {
            tables,
            layers,
            before: cuts.into_iter().flatten().min(),
        })
    }

    /// The first key of all, if there is no room for its versions alone.
    pub(super) fn too_long(&self, from: Option<&Key>) -> Option<Key> {
        let before = self.before.as_ref()?;
        let first = from.cloned().or_else(|| {
            let of_tables = self.tables.iter().filter_map(|table| Some(&table.first()?.0));
            let of_layers = self.layers.iter().filter_map(|wanted| wanted.layer.blocks.first_key());
            of_tables.chain(of_layers).chain([before]).min().cloned()
        });
        first.filter(|first| before <= first)
    }
}

/// The first key that `bytes_max` bytes of blocks, in the order of their keys, have no room for.
fn cut_of(layers: &[WantedLayer], from: Option<&Key>, bytes_max: usize) -> Result<Option<Key>, ReadError> {
    let mut walks = Vec::with_capacity(layers.len());
    for wanted in layers {
        let blocks = &wanted.layer.blocks;
        walks.push(blocks.walk(from.map_or(Ok(0), |from| blocks.first_of(from))?));
    }
    let mut bytes = 0;
    loop {
        let mut least: Option<(usize, Key, u32)> = None;
        for (at, (wanted, walk)) in layers.iter().zip(&mut walks).enumerate() {
            if let Some(block) = walk.peek(&wanted.layer.blocks)?
                && least.as_ref().is_none_or(|(_, key, _)| block.first_key < *key)
            {
                least = Some((at, block.first_key.clone(), block.bytes));
            }
        }
        let Some((at, key, block_bytes)) = least else {
            return Ok(None);
        };
        if bytes_max <= bytes {
            return Ok(Some(key));
        }
        walks[at].advance();
        bytes += match layers[at].is_all_wanted {
            true => block_bytes as usize,
            false => (block_bytes as usize).div_ceil(LOOKED_THROUGH_SHARE),
        };
    }
}

/// What the tables hold from `from` on, as far as `bytes_max` of each has room for it, and the first key that was left out.
fn from_tables(segment: &SegmentStore, from: Option<&Key>, bytes_max: usize) -> (Vec<TableVersions>, Option<Key>) {
    let tables = segment.tables.read().unwrap_or_else(PoisonError::into_inner);
    let mut taken = Vec::new();
    let mut cut: Option<Key> = None;
    for table in std::iter::once(&tables.active).chain(tables.frozen.as_deref()) {
        let mut versions = Vec::new();
        let mut bytes = 0;
        let range = match from {
            Some(from) => table.versions.range(from.clone()..),
            None => table.versions.range(..),
        };
        for (key, of_key) in range {
            bytes += of_key.iter().map(|one| ENTRY_BYTES + one.bytes()).sum::<usize>();
            if bytes_max < bytes || cut.as_ref().is_some_and(|cut| cut <= key) {
                cut = Some(cut.map_or(key.clone(), |cut| cut.min(key.clone())));
                break;
            }
            versions.extend(of_key.iter().map(|version| (key.clone(), version.clone())));
        }
        taken.push(versions);
    }
    (taken, cut)
}
