//! Where the blocks of a layer lie.
//!
//! The index is read once, when the layer is opened. Of each part of it the first key stays in memory, and a checksum; its
//! entries are read again when they are needed, into a cache that all layers share. So what is in memory of the indexes is bounded,
//! but for some 64 bytes for each two megabytes of versions.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use io::Disk;
use wire_format::CodecError;
use wire_format::codec::Reader;
use wire_format::versions::Extent;

use super::{file_name, read_at};
use crate::cache::Cache;
use crate::key::Key;
use crate::read::ReadError;

/// Blocks whose entries are read together. Few in tests, so that small layers have many parts.
const PART_BLOCKS: usize = if cfg!(test) { 3 } else { 128 };

/// Parts of indexes, by layer and number.
pub(crate) type IndexCache = Cache<(u64, u32), Arc<[BlockEntry]>>;

/// A block, as the index names it.
#[derive(Clone)]
pub(crate) struct BlockEntry {
    pub(crate) first_key: Key,
    pub(crate) offset: u64,
    pub(crate) bytes: u32,
    pub(crate) checksum: u32,
}

impl BlockEntry {
    fn read(input: &mut Reader) -> Result<BlockEntry, CodecError> {
        Ok(BlockEntry {
            first_key: Key::read(input)?,
            offset: input.varint("block offset")?,
            bytes: input.u32("block length")?,
            checksum: input.u32("block checksum")?,
        })
    }

    pub(crate) fn end(&self) -> u64 {
        self.offset + u64::from(self.bytes)
    }

    /// Whether these are its bytes.
    pub(crate) fn is_of(&self, packed: &[u8]) -> bool {
        crc32c::crc32c(packed) == self.checksum
    }
}

/// A part of an index, as it lies in the file.
struct Part {
    first_key: Key,
    offset: u64,
    bytes: u32,
    checksum: u32,
}

/// What a layer's index says.
pub(super) struct Index {
    /// Of the layer: one that was written in the place of another is told by it.
    pub(super) number: u64,
    pub(super) blocks: Blocks,
    pub(super) last_key: Key,
    pub(super) extent: Extent,
}

/// The blocks of a layer, in the order of their keys, which need not be the order in the file.
pub(crate) struct Blocks {
    layer: u64,
    disk: Arc<dyn Disk>,
    cache: Arc<IndexCache>,
    count: usize,
    parts: Vec<Part>,
}

impl Index {
    /// The index in `bytes`, which begins at `index_at` in the layer's file.
    pub(super) fn read(
        disk: Arc<dyn Disk>,
        cache: Arc<IndexCache>,
        index_at: u64,
        bytes: Bytes,
    ) -> Result<Index, CodecError> {
        let mut input = Reader::new(bytes.clone());
        let number = input.varint("layer")?;
        let count = input.count(4, "blocks")?;
        let mut parts = Vec::with_capacity(count.div_ceil(PART_BLOCKS));
        for first in (0..count).step_by(PART_BLOCKS) {
            let begin = bytes.len() - input.remaining();
            let mut first_key = None;
            for _ in first..count.min(first + PART_BLOCKS) {
                let block = BlockEntry::read(&mut input)?;
                let end = block.offset.checked_add(u64::from(block.bytes));
                if end.is_none_or(|end| index_at < end) {
                    return Err(CodecError::Malformed("place of a block"));
                }
                first_key.get_or_insert(block.first_key);
            }
            let part = bytes.slice(begin..bytes.len() - input.remaining());
            parts.extend(first_key.map(|first_key| Part {
                first_key,
                offset: index_at + begin as u64,
                bytes: part.len() as u32,
                checksum: crc32c::crc32c(&part),
            }));
        }
        let last_key = Key::read(&mut input)?;
        let extent = Extent::read(&mut input)?;
        input.finish()?;
        Ok(Index {
            number,
            blocks: Blocks {
                layer: number,
                disk,
                cache,
                count,
                parts,
            },
            last_key,
            extent,
        })
    }
}

impl Blocks {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Where the first one begins.
    pub(crate) fn first_key(&self) -> Option<&Key> {
        Some(&self.parts.first()?.first_key)
    }

    /// How many begin before `key`.
    pub(crate) fn before(&self, key: &Key) -> Result<usize, ReadError> {
        let part = self.part_of(key);
        let within = self.part(part)?.partition_point(|block| block.first_key < *key);
        Ok(part * PART_BLOCKS + within)
    }

    /// The first block that can hold `key`: its versions may begin in the block before the first one that starts with it.
    pub(crate) fn first_of(&self, key: &Key) -> Result<usize, ReadError> {
        Ok(self.before(key)?.saturating_sub(1))
    }

    /// The entries of these blocks, all at once.
    pub(crate) fn range(&self, blocks: Range<usize>) -> Result<Vec<BlockEntry>, ReadError> {
        let mut walk = self.walk(blocks.start);
        let mut entries = Vec::with_capacity(blocks.len());
        while walk.at < blocks.end
            && let Some(block) = walk.next(self)?
        {
            entries.push(block);
        }
        Ok(entries)
    }

    /// The entries from a block on, one after the other.
    pub(crate) fn walk(&self, from: usize) -> Walk {
        Walk { at: from, part: None }
    }

    /// Keys that divide the blocks into parts of about the same size, at most so many.
    pub(crate) fn sample(&self, most: usize) -> Result<Vec<Key>, ReadError> {
        let most = most.max(1);
        if most <= self.parts.len() {
            let step = self.parts.len().div_ceil(most);
            let parts = self.parts.iter().step_by(step);
            return Ok(parts.map(|part| part.first_key.clone()).collect());
        }
        let step = self.count.div_ceil(most).max(1);
        let sampled = (0..self.count).step_by(step);
        sampled
            .map(|at| Ok(self.part(at / PART_BLOCKS)?[at % PART_BLOCKS].first_key.clone()))
            .collect()
    }

    /// Numbers of the blocks of each part, and the range of keys that they may have versions of; `last_key` is the layer's.
    pub(super) fn parts<'a>(&'a self, last_key: &'a Key) -> impl Iterator<Item = (Range<usize>, &'a Key, &'a Key)> {
        self.parts.iter().enumerate().map(move |(number, part)| {
            let first = number * PART_BLOCKS;
            let behind = self.parts.get(number + 1).map_or(last_key, |next| &next.first_key);
            (first..self.count.min(first + PART_BLOCKS), &part.first_key, behind)
        })
    }

    /// The part with the last block that begins before `key`.
    fn part_of(&self, key: &Key) -> usize {
        let before = self.parts.partition_point(|part| part.first_key < *key);
        before.saturating_sub(1)
    }

    /// Entries that are likely to be needed again.
    fn part(&self, number: usize) -> Result<Arc<[BlockEntry]>, ReadError> {
        let key = (self.layer, number as u32);
        if let Some(part) = self.cache.get(&key) {
            return Ok(part);
        }
        let part: Arc<[BlockEntry]> = self.read_part(number)?.into();
        self.cache.insert(key, part.clone(), size_of_val(&*part));
        Ok(part)
    }

    /// Entries that may well not be needed again: what goes through everything does not push out what others look for.
    fn known_part(&self, number: usize) -> Result<Arc<[BlockEntry]>, ReadError> {
        match self.cache.get(&(self.layer, number as u32)) {
            Some(part) => Ok(part),
            None => Ok(self.read_part(number)?.into()),
        }
    }

    fn read_part(&self, number: usize) -> Result<Vec<BlockEntry>, ReadError> {
        let name = file_name(self.layer);
        let Some(part) = self.parts.get(number) else {
            return Ok(Vec::new());
        };
        let mut bytes = vec![0; part.bytes as usize];
        read_at(&*self.disk, &name, part.offset, &mut bytes)?;
        if crc32c::crc32c(&bytes) != part.checksum {
            return Err(ReadError::corrupt(&name, "its index is another than it was"));
        }
        let count = PART_BLOCKS.min(self.count - number * PART_BLOCKS);
        let mut input = Reader::new(bytes.into());
        (0..count)
            .map(|_| BlockEntry::read(&mut input).map_err(|error| ReadError::corrupt(&name, &error.to_string())))
            .collect()
    }
}

/// Goes through entries.
pub(crate) struct Walk {
    at: usize,
    part: Option<Arc<[BlockEntry]>>,
}

impl Walk {
    /// The number of the block that [`Walk::peek`] gives.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// The entry that [`Walk::next`] gives next. `blocks` are always the same.
    pub(crate) fn peek(&mut self, blocks: &Blocks) -> Result<Option<&BlockEntry>, ReadError> {
        if blocks.count <= self.at {
            return Ok(None);
        }
        let part = match self.part.take() {
            Some(part) => part,
            None => blocks.known_part(self.at / PART_BLOCKS)?,
        };
        Ok(self.part.insert(part).get(self.at % PART_BLOCKS))
    }

    /// Goes on to the next entry.
    pub(crate) fn advance(&mut self) {
        self.at += 1;
        if self.at.is_multiple_of(PART_BLOCKS) {
            self.part = None;
        }
    }

    pub(crate) fn next(&mut self, blocks: &Blocks) -> Result<Option<BlockEntry>, ReadError> {
        let block = self.peek(blocks)?.cloned();
        self.advance();
        Ok(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// README.md and ARCHITECTURE.md reckon with it.
    #[test]
    fn what_names_a_block_or_a_part_takes_64_bytes_at_most() {
        assert!(size_of::<BlockEntry>() <= 64, "{}", size_of::<BlockEntry>());
        assert!(size_of::<Part>() <= 64, "{}", size_of::<Part>());
    }
}
