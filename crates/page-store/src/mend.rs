//! Mending layers: what is lost of them comes from peers, and takes its place by one change of the manifest.
//!
//! A layer that has lost blocks is written anew without them, and what peers have under their keys becomes layers beside it:
//! whoever reads has both, and of what both have one stands for the other. What peers give is folded up to their floor, so the
//! segment has to refuse reads below that before [`PageStore::end_mend`] puts it in place.
//!
//! Invariants:
//! - What takes a lost part's place was read again from the disk before.
//! - Nothing is in place while something that was found lost meanwhile is not mended, too.
//! - What comes to nothing leaves no files behind.

use std::collections::BTreeSet;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use timeline::Path;
use units::{Lsn, Position, SegmentId};
use wire_format::message::{VersionCursor, Versions};

use crate::damage::Loss;
use crate::key::Key;
use crate::layer::{Layer, Lost};
use crate::layer_writer::{LayerWriter, checked_runs};
use crate::locked;
use crate::manifest::Manifest;
use crate::read::ReadError;
use crate::segment_store::SegmentStore;
use crate::store::PageStore;

/// Pieces of keys that are asked for, each by itself; if there were more, what lies between them is asked for, too.
const PIECES_MAX: usize = 64;
/// Bytes of versions in one layer, about.
const LAYER_BYTES: u64 = 256 << 20;

/// Keys whose versions are lost.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Piece {
    /// `None`: from the first of all.
    first: Option<Key>,
    /// `None`: to the last of all.
    last: Option<Key>,
}

impl Piece {
    fn cursor(&self) -> VersionCursor {
        VersionCursor {
            key: self.first.as_ref().map(Key::encode).unwrap_or_default(),
            above: Position::ZERO,
        }
    }
}

/// The mending of a segment's layers, from the first question to the last answer.
pub struct Mend {
    segment: Arc<SegmentStore>,
    /// What had been found when it began.
    noted: u64,
    rotten: Vec<(Arc<Layer>, Lost)>,
    /// Whole layers are gone: any version may be lost.
    of_everything: bool,
    /// What is still to come, the next one last.
    pieces: Vec<Piece>,
    /// Where the next piece goes on, if a part of it has come.
    at: Option<VersionCursor>,
    /// One for each run that an answer had.
    writers: Vec<LayerWriter>,
    written: Vec<Layer>,
}

impl Drop for Mend {
    fn drop(&mut self) {
        self.written.iter().for_each(Layer::make_obsolete);
    }
}

impl Mend {
    /// What a peer is to be asked for next; `None`: everything has come.
    pub fn wants(&self) -> Option<VersionCursor> {
        let piece = self.pieces.last()?;
        Some(self.at.clone().unwrap_or_else(|| piece.cursor()))
    }

    /// Layers that are written anew.
    pub fn layers_count(&self) -> usize {
        self.rotten.len()
    }

    /// Up to where whoever gives must have everything along a history, for nothing of it to be missing. `None`: whole layers are
    /// gone, and nobody here knows what they had.
    pub fn needs_through(&self, path: &Path) -> Option<Lsn> {
        let newest = |(layer, _): &(Arc<Layer>, Lost)| layer.extent.reach(path);
        let is_known = !self.of_everything;
        is_known.then(|| self.rotten.iter().map(newest).max().unwrap_or(Lsn::ZERO))
    }

    fn close_layers(&mut self) -> Result<(), ReadError> {
        for writer in mem::take(&mut self.writers) {
            self.written.extend(writer.finish()?);
        }
        Ok(())
    }
}

impl PageStore {
    /// Begins to mend the layers of a segment: all of them are read again. `None`: there is nothing that peers could mend.
    pub fn begin_mend(&self, segment: SegmentId) -> Result<Option<Mend>, ReadError> {
        let segment = self.segment(segment)?;
        let damage = segment.damage();
        if damage.in_layers == Loss::Nothing || damage.at_start == Loss::Log {
            return Ok(None);
        }
        let mut rotten = Vec::new();
        for layer in segment.layers().iter() {
            let lost = layer.lost()?;
            if !lost.is_empty() || layer.is_rotten() {
                layer.mark_rotten();
                rotten.push((layer.clone(), lost));
            }
        }
        let of_everything = damage.in_layers == Loss::Layers;
        let pieces = if of_everything {
            vec![Piece {
                first: None,
                last: None,
            }]
        } else {
            pieces(&rotten)
        };
        Ok(Some(Mend {
            segment,
            noted: damage.noted,
            rotten,
            of_everything,
            pieces,
            at: None,
            writers: Vec::new(),
            written: Vec::new(),
        }))
    }

    /// Takes what a peer gave for what [`Mend::wants`] named.
    pub fn mend(&self, mend: &mut Mend, versions: &Versions) -> Result<(), ReadError> {
        for (at, (run, content)) in checked_runs(versions)?.into_iter().enumerate() {
            if mend.writers.len() <= at {
                mend.writers.push(self.layer_writer());
            }
            mend.writers[at].push_run(run, content)?;
        }
        let next = match &versions.next {
            None => None,
            Some(next) => {
                let key = Key::decode(next.key.clone()).map_err(|error| ReadError::Malformed(error.to_string()))?;
                let last = mend.pieces.last().and_then(|piece| piece.last.as_ref());
                last.is_none_or(|last| key <= *last).then(|| next.clone())
            }
        };
        let is_long = |writer: &LayerWriter| LAYER_BYTES <= writer.written();
        if next.is_none() {
            mend.pieces.pop();
        }
        // What the next piece brings may overlap with what came beyond the end of this one.
        if next.is_none() || mend.writers.iter().any(is_long) {
            mend.close_layers()?;
        }
        mend.at = next;
        Ok(())
    }

    /// Puts what came in the place of what was lost. `false`: more was found lost meanwhile, and nothing has changed. The
    /// segment refuses reads below every floor that peers named, durably, before this is called.
    pub fn end_mend(&self, mut mend: Mend) -> Result<bool, ReadError> {
        assert!(mend.pieces.is_empty(), "everything that was lost has come");
        mend.close_layers()?;
        let rotten = mem::take(&mut mend.rotten);
        for (layer, lost) in &rotten {
            let mut writer = self.layer_writer();
            layer.copy_sound(lost, &mut writer)?;
            mend.written.extend(writer.finish()?);
        }
        for layer in &mend.written {
            layer.check(&|_| true)?;
        }
        let bytes = mend.written.iter().map(|layer| layer.file_bytes).sum();
        let old: BTreeSet<u64> = rotten.iter().map(|(layer, _)| layer.number).collect();
        if !self.put_in_place(&mut mend, &old)? {
            return Ok(false);
        }
        rotten.iter().for_each(|(layer, _)| layer.make_obsolete());
        self.counters.mended(rotten.len() as u64, bytes);
        Ok(true)
    }

    fn put_in_place(&self, mend: &mut Mend, old: &BTreeSet<u64>) -> Result<bool, ReadError> {
        let mut manifest = locked(&self.manifest);
        let segment = mend.segment.clone();
        if segment.is_removed() || segment.damage().noted != mend.noted {
            return Ok(false);
        }
        let io = |error: std::io::Error| ReadError::io(Manifest::FILE, &error);
        let stay = segment.layers();
        let stay = stay.iter().filter(|layer| !old.contains(&layer.number)).cloned();
        let mut next = manifest.clone();
        let known = next.segments.entry(segment.id).or_default();
        let mut damage = segment.damage();
        damage.in_layers = Loss::Nothing;
        known.loss = damage.loss();
        known.layers = stay.clone().map(|layer| layer.number).collect();
        known.layers.extend(mend.written.iter().map(|layer| layer.number));
        next.prepare(&*self.disk).map_err(io)?;
        // From here on the manifest on the disk may name them.
        let written = mem::take(&mut mend.written);
        Manifest::replace(&*self.disk).map_err(io)?;
        *manifest = next;
        self.damage_saved.store(true, Ordering::Release);
        segment.set_layers(stay.chain(written.into_iter().map(Arc::new)).collect());
        segment.note_late();
        segment.change_damage(|damage| damage.in_layers = Loss::Nothing);
        Ok(true)
    }
}

/// The keys of all blocks that are lost, in pieces that lie apart, the last ones first.
fn pieces(rotten: &[(Arc<Layer>, Lost)]) -> Vec<Piece> {
    let mut ranges: Vec<(&Key, &Key)> = Vec::new();
    for (_, lost) in rotten {
        ranges.extend(lost.keys.iter().map(|(first, last)| (first, last)));
    }
    ranges.sort();
    let mut joined: Vec<(&Key, &Key)> = Vec::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            Some(before) if first <= before.1 => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    let each = joined.len().div_ceil(PIECES_MAX).max(1);
    let pieces = joined.chunks(each).map(|run| Piece {
        first: run.first().map(|(first, _)| (*first).clone()),
        last: run.last().map(|(_, last)| (*last).clone()),
    });
    pieces.rev().collect()
}
