//! A layer: an immutable file of versions, sorted by key and position. Layout: `docs/formats/layers.md`.

use std::io as std_io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use io::Disk;
use units::Position;
use wire_format::codec::{Reader, Writer};

use crate::block::{Block, Entries, entries};
use crate::cache::Cache;
use crate::key::{Key, Version};
use crate::read::ReadError;

pub(crate) const FOLDER: &str = "layers";
const MAGIC: &[u8; 8] = b"BORLAYR1";
/// Bytes of versions in a block before it is closed.
pub(crate) const BLOCK_BYTES: usize = 16 << 10;
/// Bytes that are read at once where everything is read.
const CHECKED_AT_ONCE: u64 = 256 << 10;
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

struct BlockEntry {
    first_key: Key,
    offset: u64,
    bytes: u32,
    checksum: u32,
}

/// An open layer. Its index is in memory, its blocks are read when needed.
pub(crate) struct Layer {
    pub(crate) number: u64,
    pub(crate) file_bytes: u64,
    /// The highest position of its versions.
    pub(crate) newest: Position,
    disk: Arc<dyn Disk>,
    blocks: Vec<BlockEntry>,
    last_key: Key,
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
    pub(crate) fn open(disk: Arc<dyn Disk>, number: u64) -> Result<Layer, ReadError> {
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
        let (blocks, last_key, newest) = read_index(index.into()).map_err(|error| corrupt(&error.to_string()))?;
        let is_inside = |block: &BlockEntry| {
            let end = block.offset.checked_add(u64::from(block.bytes));
            end.is_some_and(|end| end <= index_at)
        };
        if !blocks.iter().all(is_inside) {
            return Err(corrupt("a block lies beyond its end"));
        }
        Ok(Layer {
            number,
            file_bytes,
            newest,
            disk,
            blocks,
            last_key,
            footer,
            obsolete: AtomicBool::new(false),
            rotten: AtomicBool::new(false),
        })
    }

    /// The file is removed when the last reader is done.
    pub(crate) fn make_obsolete(&self) {
        self.obsolete.store(true, Ordering::Relaxed);
    }

    /// A part of it was found lost: it is not merged any more.
    pub(crate) fn mark_rotten(&self) {
        self.rotten.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_rotten(&self) -> bool {
        self.rotten.load(Ordering::Relaxed)
    }

    /// The first block that can hold `key`.
    fn block_of(&self, key: &Key) -> usize {
        // A key's versions may begin in the block before the first one that starts with it.
        self.blocks
            .partition_point(|block| block.first_key < *key)
            .saturating_sub(1)
    }

    fn corrupt(&self, what: &str) -> ReadError {
        ReadError::corrupt(&file_name(self.number), what)
    }

    /// The bytes of a block, from the file.
    fn unpack(&self, at: usize) -> Result<Bytes, ReadError> {
        let entry = &self.blocks[at];
        let mut packed = vec![0; entry.bytes as usize];
        read_at(&*self.disk, &file_name(self.number), entry.offset, &mut packed)?;
        if crc32c::crc32c(&packed) != entry.checksum {
            return Err(self.corrupt("a block has another checksum"));
        }
        unpack(&packed).map_err(|what| self.corrupt(&what))
    }

    /// Keys that divide it into parts of about the same size, at most so many.
    pub(crate) fn sample(&self, most: usize) -> impl Iterator<Item = &Key> {
        let step = self.blocks.len().div_ceil(most.max(1)).max(1);
        self.blocks.iter().step_by(step).map(|block| &block.first_key)
    }

    fn block(&self, at: usize, cache: &BlockCache) -> Result<Block, ReadError> {
        let key = (self.number, at as u32);
        if let Some(block) = cache.get(&key) {
            return Ok(block);
        }
        let block = Block::read(self.unpack(at)?).map_err(|error| self.corrupt(&error.to_string()))?;
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
        if self.last_key < *key || self.newest <= after {
            return Ok(());
        }
        for at in self.block_of(key)..self.blocks.len() {
            if *key < self.blocks[at].first_key {
                break;
            }
            self.block(at, cache)?.collect(key, after, into);
        }
        Ok(())
    }

    /// Reads everything from the disk again: is it what was written? `pace` hears how many bytes were read, and says whether to
    /// go on. Answers how many bytes that were.
    pub(crate) fn check(&self, pace: &dyn Fn(u64) -> bool) -> Result<u64, ReadError> {
        let name = file_name(self.number);
        let mut checked = 0;
        let mut run = Vec::new();
        let mut blocks = self.blocks.iter().peekable();
        while let Some(first) = blocks.next() {
            // Blocks that follow each other are read at once.
            let mut end = first.offset + u64::from(first.bytes);
            let mut last = vec![first];
            while let Some(next) = blocks.next_if(|next| next.offset == end && end - first.offset < CHECKED_AT_ONCE) {
                end += u64::from(next.bytes);
                last.push(next);
            }
            run.resize((end - first.offset) as usize, 0);
            read_at_rest(&*self.disk, &name, first.offset, &mut run)?;
            for block in last {
                let at = (block.offset - first.offset) as usize;
                if crc32c::crc32c(&run[at..at + block.bytes as usize]) != block.checksum {
                    return Err(self.corrupt("a block has another checksum"));
                }
            }
            checked += run.len() as u64;
            if !pace(run.len() as u64) {
                return Ok(checked);
            }
        }
        let mut footer = [0; FOOTER_BYTES];
        let index_end = self.file_bytes - FOOTER_BYTES as u64;
        read_at_rest(&*self.disk, &name, index_end, &mut footer)?;
        if footer != self.footer {
            return Err(self.corrupt("its footer is another than it was"));
        }
        let index_at = self
            .blocks
            .iter()
            .map(|block| block.offset + u64::from(block.bytes))
            .max();
        let index_at = index_at.unwrap_or(0);
        run.resize((index_end - index_at) as usize, 0);
        read_at_rest(&*self.disk, &name, index_at, &mut run)?;
        if crc32c::crc32c(&run).to_le_bytes() != footer[16..20] {
            return Err(self.corrupt("its index has another checksum"));
        }
        checked += self.file_bytes - index_at;
        pace(self.file_bytes - index_at);
        Ok(checked)
    }

    /// Every version from `from` on, in order, read without the cache.
    pub(crate) fn scan(self: &Arc<Layer>, from: Option<&Key>) -> Scan {
        Scan {
            layer: self.clone(),
            next_block: from.map_or(0, |key| self.block_of(key)),
            entries: None,
            from: from.cloned(),
        }
    }
}

/// The bytes that were packed.
fn unpack(packed: &[u8]) -> Result<Bytes, String> {
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
    disk.read_at(name, at, buffer)
        .map_err(|error| ReadError::io(name, &error))
}

fn read_at_rest(disk: &dyn Disk, name: &str, at: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
    match disk.read_at_rest(name, at, buffer) {
        // It was as long as that when it was opened.
        Err(error) if error.kind() == std_io::ErrorKind::UnexpectedEof => {
            Err(ReadError::corrupt(name, "it is shorter than it was"))
        }
        read => read.map_err(|error| ReadError::io(name, &error)),
    }
}

fn read_index(bytes: Bytes) -> Result<(Vec<BlockEntry>, Key, Position), wire_format::CodecError> {
    let mut input = Reader::new(bytes);
    let count = input.count(4, "blocks")?;
    let mut blocks = Vec::with_capacity(count);
    for _ in 0..count {
        blocks.push(BlockEntry {
            first_key: Key::read(&mut input)?,
            offset: input.varint("block offset")?,
            bytes: input.u32("block length")?,
            checksum: input.u32("block checksum")?,
        });
    }
    let last_key = Key::read(&mut input)?;
    let newest = input.position("newest position")?;
    input.finish()?;
    Ok((blocks, last_key, newest))
}

/// Walks a layer from the first to the last version.
pub(crate) struct Scan {
    layer: Arc<Layer>,
    next_block: usize,
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
            if self.layer.blocks.len() <= self.next_block {
                return Ok(None);
            }
            self.entries = Some(entries(self.layer.unpack(self.next_block)?));
            self.next_block += 1;
        }
    }
}

/// Writes a layer. Versions must come sorted by key, then position.
pub(crate) struct LayerWriter {
    disk: Arc<dyn Disk>,
    number: u64,
    block: Writer,
    block_first_key: Option<Key>,
    last_key: Option<Key>,
    newest: Position,
    blocks: Vec<BlockEntry>,
    written: u64,
    finished: bool,
}

impl Drop for LayerWriter {
    /// A file that nobody will finish goes at once: a full disk must not be filled with them.
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = self.disk.remove(&file_name(self.number))
        {
            tracing::warn!(layer = self.number, %error, "layer.remove: the unfinished file stays until the next start");
        }
    }
}

impl LayerWriter {
    pub(crate) fn new(disk: Arc<dyn Disk>, number: u64) -> LayerWriter {
        LayerWriter {
            disk,
            number,
            block: Writer::with_capacity(2 * BLOCK_BYTES),
            block_first_key: None,
            last_key: None,
            newest: Position::ZERO,
            blocks: Vec::new(),
            written: 0,
            finished: false,
        }
    }

    pub(crate) fn push(&mut self, key: &Key, version: &Version) -> std_io::Result<()> {
        assert!(
            self.last_key.as_ref().is_none_or(|last| last <= key),
            "keys of a layer rise"
        );
        if self.block_first_key.is_none() {
            self.block_first_key = Some(key.clone());
        }
        key.write(&mut self.block);
        version.write(&mut self.block);
        self.last_key = Some(key.clone());
        self.newest = self.newest.max(version.position);
        if BLOCK_BYTES <= self.block.written().len() {
            self.close_block()?;
        }
        Ok(())
    }

    fn close_block(&mut self) -> std_io::Result<()> {
        let Some(first_key) = self.block_first_key.take() else {
            return Ok(());
        };
        let block = std::mem::replace(&mut self.block, Writer::with_capacity(2 * BLOCK_BYTES)).finish();
        self.write_block(first_key, &pack(&block))
    }

    /// A block that a peer packed; an error if it does not hold versions in their order, behind all that were pushed.
    pub(crate) fn push_block(&mut self, packed: &[u8]) -> Result<(), ReadError> {
        let malformed = |what: String| ReadError::Malformed(what);
        let mut entries = entries(unpack(packed).map_err(malformed)?);
        let mut first_key = None;
        while let Some((key, version)) = entries.next().map_err(|error| malformed(error.to_string()))? {
            if self.last_key.as_ref().is_some_and(|last| key < *last) {
                return Err(malformed("keys do not rise".to_owned()));
            }
            if self.last_key.as_ref() != Some(&key) {
                self.last_key = Some(key.clone());
            }
            first_key.get_or_insert(key);
            self.newest = self.newest.max(version.position);
        }
        let Some(first_key) = first_key else {
            return Err(malformed("an empty block".to_owned()));
        };
        let written = self.write_block(first_key, packed);
        written.map_err(|error| ReadError::io(&file_name(self.number), &error))
    }

    /// Bytes written so far.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Makes what is written so far durable, so that the end does not have to make everything durable at once.
    pub(crate) fn sync(&self) -> Result<(), ReadError> {
        let name = file_name(self.number);
        self.disk.sync(&name).map_err(|error| ReadError::io(&name, &error))
    }

    fn write_block(&mut self, first_key: Key, packed: &[u8]) -> std_io::Result<()> {
        self.disk.write_at(&file_name(self.number), self.written, packed)?;
        self.blocks.push(BlockEntry {
            first_key,
            offset: self.written,
            bytes: packed.len() as u32,
            checksum: crc32c::crc32c(packed),
        });
        self.written += packed.len() as u64;
        Ok(())
    }

    /// Writes the index, makes the file durable and opens it; `None`: nothing was pushed.
    pub(crate) fn finish(mut self) -> Result<Option<Layer>, ReadError> {
        let name = file_name(self.number);
        let io = |error: std_io::Error| ReadError::io(&name, &error);
        self.close_block().map_err(io)?;
        let Some(last_key) = &self.last_key else {
            return Ok(None);
        };
        let mut index = Writer::with_capacity(64 * self.blocks.len());
        index.count(self.blocks.len());
        for block in &self.blocks {
            block.first_key.write(&mut index);
            index.varint(block.offset);
            index.varint(u64::from(block.bytes));
            index.varint(u64::from(block.checksum));
        }
        last_key.write(&mut index);
        index.position(self.newest);
        let index = index.finish();
        let mut tail = index.to_vec();
        tail.extend_from_slice(&self.written.to_le_bytes());
        tail.extend_from_slice(&(index.len() as u64).to_le_bytes());
        tail.extend_from_slice(&crc32c::crc32c(&index).to_le_bytes());
        tail.extend_from_slice(MAGIC);
        self.disk.write_at(&name, self.written, &tail).map_err(io)?;
        self.disk.sync(&name).map_err(io)?;
        self.disk.sync_names(FOLDER).map_err(io)?;
        let layer = Layer::open(self.disk.clone(), self.number)?;
        self.finished = true;
        Ok(Some(layer))
    }
}
