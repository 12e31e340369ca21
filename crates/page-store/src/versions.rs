//! What a segment gives to a peer that no journal can help: versions, in the order of their keys.
//!
//! Every answer is made from all tables and layers as they are at that moment. Between two answers records may come, and
//! versions may be folded up to a higher floor; the answers name both, and the asker relies on the lowest position and the
//! highest floor of all.

use std::sync::PoisonError;
use std::vec;

use bytes::Bytes;
use units::{Position, SegmentId};
use wire_format::codec::Writer;
use wire_format::message::{VersionCursor, Versions, VersionsAsked};

use crate::key::{Key, Version};
use crate::layer::{self, Scan};
use crate::read::ReadError;
use crate::segment_store::{SegmentStore, order};
use crate::store::PageStore;

/// Bytes of versions in one answer, at most, and one more version: it has to fit a frame, packed or not.
const BYTES_MAX: usize = 16 << 20;
/// Bytes of versions looked at for one answer: where little is asked for, an answer may be short.
const SCANNED_BYTES_MAX: usize = 64 << 20;
/// Bytes that a version takes besides its content, about.
const ENTRY_BYTES: usize = 32;
/// Keys taken from the index of each layer to divide what is there.
const SAMPLES_PER_LAYER: usize = 256;
/// Parts that it is divided into.
const PARTS: usize = 16;
/// Less than this is not worth dividing.
const DIVIDED_BYTES_MIN: u64 = 32 << 20;

/// Where versions come from, in the order of keys.
enum Source {
    Table(vec::IntoIter<(Key, Version)>),
    Layer(Box<Scan>),
}

struct Peeked {
    source: Source,
    next: Option<(Key, Version)>,
}

impl Peeked {
    fn new(source: Source) -> Result<Peeked, ReadError> {
        let mut peeked = Peeked { source, next: None };
        peeked.advance()?;
        Ok(peeked)
    }

    fn advance(&mut self) -> Result<(), ReadError> {
        self.next = match &mut self.source {
            Source::Table(versions) => versions.next(),
            Source::Layer(scan) => scan.next()?,
        };
        Ok(())
    }
}

/// Versions in blocks, as a layer has them.
#[derive(Default)]
struct Packer {
    block: Writer,
    blocks: Vec<Bytes>,
    bytes: usize,
}

impl Packer {
    fn push(&mut self, key: &Key, version: &Version) {
        let before = self.block.written().len();
        key.write(&mut self.block);
        version.write(&mut self.block);
        self.bytes += self.block.written().len() - before;
        if layer::BLOCK_BYTES <= self.block.written().len() {
            self.close();
        }
    }

    fn close(&mut self) {
        if !self.block.written().is_empty() {
            let block = std::mem::replace(&mut self.block, Writer::with_capacity(2 * layer::BLOCK_BYTES));
            self.blocks.push(layer::pack(block.written()));
        }
    }
}

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
        let (blocks, next) = walk(&segment, asked, from.as_ref(), until.as_ref())?;
        let (splits, bytes_expected) = match (&from, &next) {
            (None, Some((next, _))) => divide(&segment, asked.after, next),
            _ => (Vec::new(), 0),
        };
        // After everything was looked at: what was folded until now was folded under this one or an earlier one.
        let folded = segment.horizon().map_or(Position::ZERO, |horizon| {
            Position::new(horizon.path.epoch(), horizon.fold_point())
        });
        Ok(Versions {
            blocks,
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

type Cursor = (Key, Position);

/// The blocks of one answer, and where the next one begins.
fn walk(
    segment: &SegmentStore,
    asked: &VersionsAsked,
    from: Option<&Key>,
    until: Option<&Key>,
) -> Result<(Vec<Bytes>, Option<Cursor>), ReadError> {
    let bytes_max = BYTES_MAX.min(asked.bytes_max as usize);
    // Tables before layers: what moves from one to the other in between is seen twice, never missed.
    let (tables, cut) = from_tables(segment, from, bytes_max);
    let mut sources = Vec::new();
    for table in tables {
        sources.push(Peeked::new(Source::Table(table.into_iter()))?);
    }
    for layer in segment.layers().iter().filter(|layer| asked.after < layer.newest) {
        sources.push(Peeked::new(Source::Layer(Box::new(layer.scan(from))))?);
    }
    let mut packer = Packer::default();
    let mut scanned = 0;
    loop {
        let keys = sources.iter().filter_map(|source| source.next.as_ref());
        let Some(key) = keys.map(|(key, _)| key).min().cloned() else {
            packer.close();
            let cut = cut.filter(|cut| until.is_none_or(|until| cut < until));
            return Ok((packer.blocks, cut.map(|key| (key, Position::ZERO))));
        };
        // Of what follows the cut, tables have more than was taken.
        let cut = cut.as_ref().filter(|cut| **cut <= key);
        let first = cut.unwrap_or(&key);
        if until.is_some_and(|until| until <= first) {
            packer.close();
            return Ok((packer.blocks, None));
        }
        if let Some(cut) = cut {
            packer.close();
            return Ok((packer.blocks, Some((cut.clone(), Position::ZERO))));
        }
        if bytes_max <= packer.bytes || SCANNED_BYTES_MAX <= scanned {
            packer.close();
            return Ok((packer.blocks, Some((key, Position::ZERO))));
        }
        let mut versions = Vec::new();
        for source in &mut sources {
            while let Some((_, version)) = source.next.take_if(|(found, _)| *found == key) {
                scanned += ENTRY_BYTES + version.bytes();
                versions.push(version);
                source.advance()?;
            }
        }
        let is_first = from == Some(&key);
        let above = if is_first { asked.from.above } else { Position::ZERO };
        versions.retain(|version| {
            let position = version.position;
            asked.after.max(above) < position && asked.path.sees(position)
        });
        order(&mut versions);
        let mut rest = versions.iter().peekable();
        while let Some(version) = rest.next() {
            packer.push(&key, version);
            if bytes_max <= packer.bytes && rest.peek().is_some() {
                packer.close();
                return Ok((packer.blocks, Some((key, version.position))));
            }
        }
    }
}

type TableVersions = Vec<(Key, Version)>;

/// What the tables hold from `from` on, until it comes to so many bytes, and the first key that was left out.
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
            if bytes_max <= bytes || cut.as_ref().is_some_and(|cut| cut <= key) {
                cut = Some(key.clone());
                break;
            }
            bytes += of_key.iter().map(|one| ENTRY_BYTES + one.bytes()).sum::<usize>();
            versions.extend(of_key.iter().map(|version| (key.clone(), version.clone())));
        }
        taken.push(versions);
    }
    (taken, cut)
}

/// Keys behind `next` that divide the layers into parts of about the same size, and the size of all of them.
fn divide(segment: &SegmentStore, after: Position, next: &Key) -> (Vec<Bytes>, u64) {
    let layers = segment.layers();
    let wanted = || layers.iter().filter(|layer| after < layer.newest);
    let bytes: u64 = wanted().map(|layer| layer.file_bytes).sum();
    if bytes < DIVIDED_BYTES_MIN {
        return (Vec::new(), bytes);
    }
    let mut samples = Vec::new();
    for layer in wanted() {
        let keys: Vec<&Key> = layer.sample(SAMPLES_PER_LAYER).collect();
        let weight = layer.file_bytes / keys.len().max(1) as u64;
        samples.extend(
            keys.into_iter()
                .filter(|key| next < *key)
                .map(|key| (key.clone(), weight)),
        );
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
    (splits, bytes)
}
