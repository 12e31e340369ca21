//! What a segment gives to a peer that no journal can help: every version of a range of keys.
//!
//! An answer has a run of blocks for each layer and each table that has some of them. Blocks of a layer that is wanted as a whole go
//! out as they lie in the file; only those at the ends of the range are unpacked, and those of layers with versions that the
//! asker does not see or already has. Many versions of one key that no answer has room for are given in the order of their
//! positions.
//!
//! Every answer is made from all tables and layers as they are at that moment. Between two answers records may come, and
//! versions may be folded up to a higher floor; the answers name both, and the asker relies on the lowest position and the
//! highest floor of all.

mod cut;
mod one_key;
mod runs;

use bytes::Bytes;
use units::{Position, SegmentId};
use wire_format::message::{VersionCursor, Versions, VersionsAsked};

use crate::key::Key;
use crate::read::ReadError;
use crate::segment_store::SegmentStore;
use crate::store::PageStore;
use cut::Cut;
use runs::{Runs, Wanted};

/// Bytes of blocks in one answer, at most, and what they exceed it by: it has to fit a frame.
const BYTES_MAX: usize = 8 << 20;
/// Keys taken from the index of each layer to divide what is there.
const SAMPLES_PER_LAYER: usize = 256;
/// Parts that it is divided into.
const PARTS: usize = 16;
/// Less than this is not worth dividing.
const DIVIDED_BYTES_MIN: u64 = 32 << 20;

impl PageStore {
    /// A part of the versions that are asked for.
    pub fn versions(&self, segment: SegmentId, asked: &VersionsAsked) -> Result<Versions, ReadError> {
        let segment = self.settled(segment)?;
        // Once everything that the segment is complete up to is indexed, and before anything is looked at.
        let through = segment.whole_through(&asked.path, asked.through);
        let key = |bytes: &Bytes| {
            let named = (!bytes.is_empty()).then(|| Key::decode(bytes.clone()));
            named
                .transpose()
                .map_err(|error| ReadError::Malformed(error.to_string()))
        };
        let (from, until) = (key(&asked.from.key)?, key(&asked.until)?);
        let given = give(&segment, asked, from.as_ref(), until.as_ref());
        let (runs, next) = self.noting_loss(&segment, given)?;
        let (splits, bytes_expected) = match (&from, &next) {
            (None, Some((next, _))) => self.noting_loss(&segment, divide(&segment, asked.after, next))?,
            _ => (Vec::new(), 0),
        };
        // After everything was looked at: what was folded until now was folded under this one or an earlier one.
        let folded = segment.horizon().map_or(Position::ZERO, |horizon| {
            Position::new(horizon.path.epoch(), horizon.fold_point())
        });
        let (runs, content) = runs.finish();
        Ok(Versions {
            runs,
            content,
            next: next.map(|(key, above)| VersionCursor {
                key: key.encode(),
                above,
            }),
            through,
            floor: if asked.floor.lsn < folded.lsn {
                folded
            } else {
                asked.floor
            },
            splits,
            bytes_expected,
        })
    }
}

/// Where an answer ends: before this key, or after this position of it.
type End = (Key, Position);

/// The runs of one answer, and where the next one begins.
fn give(
    segment: &SegmentStore,
    asked: &VersionsAsked,
    from: Option<&Key>,
    until: Option<&Key>,
) -> Result<(Runs, Option<End>), ReadError> {
    let bytes_max = BYTES_MAX.min(asked.bytes_max as usize).max(1);
    let goes_on = |(key, above): End| until.is_none_or(|until| key < *until).then_some((key, above));
    let continued = from.filter(|_| asked.from.above != Position::ZERO).cloned();
    let cut = Cut::of(segment, asked, from, bytes_max)?;
    let one_key = continued.or_else(|| cut.too_long(from));
    if let Some(key) = one_key.filter(|key| until.is_none_or(|until| key < until)) {
        let (runs, next) = one_key::give(segment, asked, &key, bytes_max)?;
        return Ok((runs, next.and_then(goes_on)));
    }
    let next = cut.before.clone().map(|key| (key, Position::ZERO)).and_then(goes_on);
    let wanted = Wanted {
        asked,
        from,
        before: next.as_ref().map(|(key, _)| key).or(until),
    };
    let mut runs = Runs::default();
    for layer in &cut.layers {
        runs.add_layer(wanted, layer)?;
    }
    for table in &cut.tables {
        runs.add_table(wanted, table);
    }
    Ok((runs, next))
}

/// Keys behind `next` that divide the layers into parts of about the same size, and the size of all of them.
fn divide(segment: &SegmentStore, after: Position, next: &Key) -> Result<(Vec<Bytes>, u64), ReadError> {
    let layers = segment.layers();
    let wanted = || layers.iter().filter(|layer| after < layer.extent.newest());
    let bytes: u64 = wanted().map(|layer| layer.file_bytes).sum();
    if bytes < DIVIDED_BYTES_MIN {
        return Ok((Vec::new(), bytes));
    }
    let mut samples = Vec::new();
    for layer in wanted() {
        let keys = layer.blocks.sample(SAMPLES_PER_LAYER)?;
        let weight = layer.file_bytes / keys.len().max(1) as u64;
        samples.extend(keys.into_iter().filter(|key| next < key).map(|key| (key, weight)));
    }
    samples.sort();
    let part_bytes = (samples.iter().map(|(_, weight)| weight).sum::<u64>() / PARTS as u64).max(1);
    let mut splits: Vec<Bytes> = Vec::new();
    let mut last: Option<Key> = None;
    let mut passed = 0;
    for (key, weight) in samples {
        let new = last.as_ref().is_none_or(|last| *last < key);
        if part_bytes * (splits.len() as u64 + 1) <= passed && new {
            splits.push(key.encode());
            last = Some(key);
        }
        passed += weight;
    }
    Ok((splits, bytes))
}
