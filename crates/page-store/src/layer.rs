//! A layer: an immutable file of versions, sorted by key and position. Layout: `docs/formats/layers.md`.

mod blocks;
mod check;

use std::io as std_io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use io::Disk;
use units::Position;
use wire_format::versions::Extent;

use crate::block::{Block, Entries, entries};
use crate::cache::Cache;
use crate::key::{Key, Version};
use crate::read::ReadError;
use blocks::Index;
pub(crate) use blocks::{BlockEntry, Blocks, IndexCache, Walk};
pub(crate) use check::Lost;

pub(crate) const FOLDER: &str = "layers";
pub(crate) const MAGIC: &[u8; 8] = b"BORLAYR2";
/// Bytes of versions in a block before it is closed.
pub(crate) const BLOCK_BYTES: usize = 16 << 10;
/// A block holds at least one version, and a record can be long.
const BLOCK_BYTES_MAX: usize = 1 << 30;
/// The most that LZ4 makes of a byte, about: no memory is taken for a length that cannot be.
const EXPANSION_MAX: usize = 256;
/// index offset, index bytes, index checksum, magic.
const FOOTER_BYTES: usize = 8 + 8 + 4 + 8;

pub(crate) fn file_name(layer: u64) -> String {
    format!("{FOLDER}/{layer:016}")
}

/// Decoded blocks by layer and number.
pub(crate) type BlockCache = Cache<(u64, u32), Block>;

/// An open layer. Its blocks are read when they are needed.
pub(crate) struct Layer {
    pub(crate) number: u64,
    pub(crate) file_bytes: u64,
    /// The positions of its versions.
    pub(crate) extent: Extent,
    disk: Arc<dyn Disk>,
    pub(crate) blocks: Blocks,
    /// No key lies behind this one.
    pub(crate) last_key: Key,
    index_at: u64,
    footer: [u8; FOOTER_BYTES],
    obsolete: AtomicBool,
    rotten: AtomicBool,
}

impl Drop for Layer {
    fn drop(&mut self) {
        if self.obsolete.load(Ordering::Relaxed)
            && let Err(error) = self.disk.remove(&file_name(self.number))
        {
            tracing::warn!(layer = self.number, %error, "layer.remove: the file stays until the next start");
        }
    }
}

impl Layer {
    /// Opens a layer that the manifest names.
    pub(crate) fn open(disk: Arc<dyn Disk>, indexes: Arc<IndexCache>, number: u64) -> Result<Layer, ReadError> {
        let name = file_name(number);
        let corrupt = |what: &str| ReadError::corrupt(&name, what);
        let file_bytes = disk.length(&name).map_err(|error| ReadError::io(&name, &error))?;
        let footer_at = file_bytes
            .checked_sub(FOOTER_BYTES as u64)
            .ok_or_else(|| corrupt("shorter than its footer"))?;
        let mut footer = [0; FOOTER_BYTES];
        read_at(&*disk, &name, footer_at, &mut footer)?;
        let number_at = |at: usize| {
            let bytes = footer[at..at + 8].try_into().expect("eight bytes");
            u64::from_le_bytes(bytes)
        };
        let (index_at, index_bytes) = (number_at(0), number_at(8));
        let checksum = u32::from_le_bytes(footer[16..20].try_into().expect("four bytes"));
        if &footer[20..] != MAGIC || index_at.checked_add(index_bytes) != Some(footer_at) {
            return Err(corrupt("its footer is not one"));
        }
        let mut index = vec![0; index_bytes as usize];
        read_at(&*disk, &name, index_at, &mut index)?;
        if crc32c::crc32c(&index) != checksum {
            return Err(corrupt("its index has another checksum"));
        }
        let index = Index::read(disk.clone(), indexes, index_at, index.into());
        let index = index.map_err(|error| corrupt(&error.to_string()))?;
        if index.number != number {
            return Err(corrupt("it is another layer"));
        }
        Ok(Layer {
            number,
            file_bytes,
            extent: index.extent,
            disk,
            blocks: index.blocks,
            last_key: index.last_key,
            index_at,
            footer,
            obsolete: AtomicBool::new(false),
            rotten: AtomicBool::new(false),
        })
    }

    /// The file is removed when the last reader is done.
    pub(crate) fn make_obsolete(&self) {
        self.obsolete.store(true, Ordering::Relaxed);
    }

    /// A part of it was found lost: it is not merged any more. Answers whether that was known.
    pub(crate) fn mark_rotten(&self) -> bool {
        self.rotten.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn is_rotten(&self) -> bool {
        self.rotten.load(Ordering::Relaxed)
    }

    pub(crate) fn corrupt(&self, what: &str) -> ReadError {
        ReadError::corrupt(&file_name(self.number), what)
    }

    /// The bytes of a block, from the file.
    fn unpack(&self, entry: &BlockEntry) -> Result<Bytes, ReadError> {
        let mut packed = vec![0; entry.bytes as usize];
        read_at(&*self.disk, &file_name(self.number), entry.offset, &mut packed)?;
        if !entry.is_of(&packed) {
            return Err(self.corrupt("a block has another checksum"));
        }
        unpack(&packed).map_err(|what| self.corrupt(&what))
    }

    /// The versions of a block, read without the cache.
    pub(crate) fn entries(&self, block: &BlockEntry) -> Result<Entries, ReadError> {
        Ok(entries(self.unpack(block)?))
    }

    /// Appends blocks to `into` as they lie in the file, one after the other.
    pub(crate) fn read_packed(&self, blocks: &[BlockEntry], into: &mut Vec<u8>) -> Result<(), ReadError> {
        let name = file_name(self.number);
        // Blocks that follow each other are read at once.
        for stretch in blocks.chunk_by(|one, next| one.end() == next.offset) {
            let [first, ..] = stretch else { continue };
            let begin = into.len();
            let bytes: usize = stretch.iter().map(|block| block.bytes as usize).sum();
            into.resize(begin + bytes, 0);
            read_at(&*self.disk, &name, first.offset, &mut into[begin..])?;
            for block in stretch {
                let at = begin + (block.offset - first.offset) as usize;
                if !block.is_of(&into[at..at + block.bytes as usize]) {
                    return Err(self.corrupt("a block has another checksum"));
                }
            }
        }
        Ok(())
    }

    fn block(&self, at: usize, entry: &BlockEntry, cache: &BlockCache) -> Result<Block, ReadError> {
        let key = (self.number, at as u32);
        if let Some(block) = cache.get(&key) {
            return Ok(block);
        }
        let block = Block::read(self.unpack(entry)?).map_err(|error| self.corrupt(&error.to_string()))?;
        cache.insert(key, block.clone(), block.memory_bytes());
        Ok(block)
    }

    /// Adds every version of `key` above `after` to `into`.
    pub(crate) fn collect(
        &self,
        key: &Key,
        after: Position,
        cache: &BlockCache,
        into: &mut Vec<Version>,
    ) -> Result<(), ReadError> {
        if self.last_key < *key || self.extent.newest() <= after {
            return Ok(());
        }
        let mut walk = self.blocks.walk(self.blocks.first_of(key)?);
        loop {
            let at = walk.at();
            match walk.peek(&self.blocks)? {
                Some(entry) if entry.first_key <= *key => self.block(at, entry, cache)?.collect(key, after, into),
                _ => return Ok(()),
            }
            walk.advance();
        }
    }

    /// Every version from `from` on, in order, read without the cache.
    pub(crate) fn scan(self: &Arc<Layer>, from: Option<&Key>) -> Result<Scan, ReadError> {
        let first = from.map_or(Ok(0), |key| self.blocks.first_of(key))?;
        Ok(Scan {
            layer: self.clone(),
            blocks: self.blocks.walk(first),
            entries: None,
            from: from.cloned(),
        })
    }
}

/// The bytes that were packed.
pub(crate) fn unpack(packed: &[u8]) -> Result<Bytes, String> {
    let unpacked = packed
        .first_chunk::<4>()
        .map(|length| u32::from_le_bytes(*length) as usize);
    if unpacked.is_none_or(|length| BLOCK_BYTES_MAX < length || EXPANSION_MAX * packed.len() < length) {
        return Err("a block has an impossible length".to_owned());
    }
    let bytes = lz4_flex::decompress_size_prepended(packed);
    Ok(Bytes::from(bytes.map_err(|error| error.to_string())?))
}

/// The block that these bytes make in a layer.
pub(crate) fn pack(block: &[u8]) -> Bytes {
    lz4_flex::compress_prepend_size(block).into()
}

fn read_at(disk: &dyn Disk, name: &str, at: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
    disk.read_at(name, at, buffer).map_err(|error| read_error(name, &error))
}

fn read_error(name: &str, error: &std_io::Error) -> ReadError {
    match error.kind() {
        // It was as long as that when it was opened.
        std_io::ErrorKind::UnexpectedEof => ReadError::corrupt(name, "it is shorter than it was"),
        _ => ReadError::io(name, error),
    }
}

/// Walks a layer from the first to the last version.
pub(crate) struct Scan {
    layer: Arc<Layer>,
    blocks: Walk,
    entries: Option<Entries>,
    from: Option<Key>,
}

impl Scan {
    pub(crate) fn next(&mut self) -> Result<Option<(Key, Version)>, ReadError> {
        loop {
            let next = self.entries.as_mut().map_or(Ok(None), Entries::next);
            if let Some((key, version)) = next.map_err(|error| self.layer.corrupt(&error.to_string()))? {
                if self.from.as_ref().is_some_and(|from| key < *from) {
                    continue;
                }
                return Ok(Some((key, version)));
            }
            let Some(block) = self.blocks.next(&self.layer.blocks)? else {
                return Ok(None);
            };
            self.entries = Some(self.layer.entries(&block)?);
        }
    }
}
