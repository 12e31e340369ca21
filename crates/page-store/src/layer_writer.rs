//! Writing a layer.
//!
//! Invariant: nobody knows of the file before it is whole and durable; one that is given up is removed.

use std::io as std_io;
use std::sync::Arc;

use bytes::Bytes;
use io::Disk;
use wire_format::codec::Writer;
use wire_format::versions::{Extent, Run, Versions};

use crate::key::{Key, Version};
use crate::layer::{BLOCK_BYTES, BlockEntry, FOLDER, IndexCache, Layer, MAGIC, file_name, pack};
use crate::read::ReadError;

/// Runs in one answer, at most: each has a layer being written. Merging keeps them far fewer.
const RUNS_MAX: usize = 1024;

/// Blocks that a peer gave: they have their checksums, and their first keys rise. Offsets are from the first block on.
pub(crate) struct CheckedRun {
    pub(crate) blocks: Vec<BlockEntry>,
    pub(crate) last_key: Key,
    pub(crate) extent: Extent,
}

impl CheckedRun {
    /// `run` if that is what `content` holds.
    pub(crate) fn of(run: &Run, content: &[u8]) -> Result<CheckedRun, ReadError> {
        let malformed = |what: &str| ReadError::Malformed(what.to_owned());
        // A copy of its own: a key must not keep the whole message in memory.
        let key = |bytes: &Bytes| {
            let key = Key::decode(Bytes::copy_from_slice(bytes));
            key.map_err(|error| malformed(&error.to_string()))
        };
        let last_key = key(&run.last_key)?;
        let mut blocks: Vec<BlockEntry> = Vec::with_capacity(run.blocks.len());
        let mut offset = 0;
        for name in &run.blocks {
            let block = BlockEntry {
                first_key: key(&name.first_key)?,
                offset: offset as u64,
                bytes: name.bytes,
                checksum: name.checksum,
            };
            let end = offset + name.bytes as usize;
            if name.bytes == 0 || !content.get(offset..end).is_some_and(|packed| block.is_of(packed)) {
                return Err(malformed("a block has another checksum"));
            }
            let is_behind = blocks.last().is_none_or(|last| last.first_key <= block.first_key);
            if !is_behind || last_key < block.first_key {
                return Err(malformed("keys do not rise"));
            }
            offset = end;
            blocks.push(block);
        }
        let extent = run.extent.clone();
        Ok(CheckedRun {
            blocks,
            last_key,
            extent,
        })
    }
}

/// The runs of an answer, each with the bytes of its blocks.
pub(crate) fn checked_runs(versions: &Versions) -> Result<Vec<(CheckedRun, &[u8])>, ReadError> {
    if RUNS_MAX < versions.runs.len() {
        return Err(ReadError::Malformed("too many runs at once".to_owned()));
    }
    let mut rest = &versions.content[..];
    let mut runs = Vec::with_capacity(versions.runs.len());
    for run in &versions.runs {
        let bytes: u64 = run.blocks.iter().map(|block| u64::from(block.bytes)).sum();
        let split = usize::try_from(bytes)
            .ok()
            .and_then(|bytes| rest.split_at_checked(bytes));
        let (content, behind) = split.ok_or_else(|| ReadError::Malformed("a run is cut".to_owned()))?;
        rest = behind;
        runs.push((CheckedRun::of(run, content)?, content));
    }
    Ok(runs)
}

/// Writes a layer, of versions or of runs. Versions must come sorted by key, then position.
pub(crate) struct LayerWriter {
    disk: Arc<dyn Disk>,
    /// For the layer that it becomes.
    indexes: Arc<IndexCache>,
    number: u64,
    block: Writer,
    block_first_key: Option<Key>,
    last_key: Option<Key>,
    extent: Extent,
    blocks: Vec<BlockEntry>,
    /// First and last key of each run.
    ranges: Vec<(Key, Key)>,
    written: u64,
    synced: u64,
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
    pub(crate) fn new(disk: Arc<dyn Disk>, indexes: Arc<IndexCache>, number: u64) -> LayerWriter {
        LayerWriter {
            disk,
            indexes,
            number,
            block: Writer::with_capacity(2 * BLOCK_BYTES),
            block_first_key: None,
            last_key: None,
            extent: Extent::default(),
            blocks: Vec::new(),
            ranges: Vec::new(),
            written: 0,
            synced: 0,
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
        self.extent.add(version.position);
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

    /// Blocks as a peer's layer has them, and all of their bytes. Runs may come in any order, if no two of them are of the same
    /// range of keys; runs of one key come in the order of their versions. [`LayerWriter::finish`] looks whether it is so.
    pub(crate) fn push_run(&mut self, run: CheckedRun, content: &[u8]) -> Result<(), ReadError> {
        let name = file_name(self.number);
        let written = self.disk.write_at(&name, self.written, content);
        written.map_err(|error| ReadError::io(&name, &error))?;
        let Some(first) = run.blocks.first() else {
            return Ok(());
        };
        self.ranges.push((first.first_key.clone(), run.last_key.clone()));
        self.last_key = self.last_key.take().max(Some(run.last_key));
        let begin = self.written;
        self.blocks.extend(run.blocks.into_iter().map(|mut block| {
            block.offset += begin;
            block
        }));
        self.written += content.len() as u64;
        self.extent.add_all(&run.extent);
        Ok(())
    }

    /// Runs become the blocks of one layer: in the order of their keys.
    fn sort_runs(&mut self) -> Result<(), ReadError> {
        self.ranges.sort();
        if self.ranges.windows(2).any(|two| two[1].0 < two[0].1) {
            return Err(ReadError::Malformed("runs of the same range of keys".to_owned()));
        }
        // Stable: the versions of one key stay in their order.
        self.blocks.sort_by(|one, other| one.first_key.cmp(&other.first_key));
        Ok(())
    }

    /// Bytes written so far.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Makes what is written so far durable once it is so much, so that the end does not have to make everything durable at
    /// once.
    pub(crate) fn sync_beyond(&mut self, unsynced_bytes_max: u64) -> Result<(), ReadError> {
        if self.synced + unsynced_bytes_max <= self.written {
            let name = file_name(self.number);
            self.disk.sync(&name).map_err(|error| ReadError::io(&name, &error))?;
            self.synced = self.written;
        }
        Ok(())
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
        self.sort_runs()?;
        let Some(last_key) = &self.last_key else {
            return Ok(None);
        };
        let mut index = Writer::with_capacity(64 * self.blocks.len());
        index.varint(self.number);
        index.count(self.blocks.len());
        for block in &self.blocks {
            block.first_key.write(&mut index);
            index.varint(block.offset);
            index.varint(u64::from(block.bytes));
            index.varint(u64::from(block.checksum));
        }
        last_key.write(&mut index);
        self.extent.write(&mut index);
        let index = index.finish();
        let mut tail = index.to_vec();
        tail.extend_from_slice(&self.written.to_le_bytes());
        tail.extend_from_slice(&(index.len() as u64).to_le_bytes());
        tail.extend_from_slice(&crc32c::crc32c(&index).to_le_bytes());
        tail.extend_from_slice(MAGIC);
        self.disk.write_at(&name, self.written, &tail).map_err(io)?;
        self.disk.sync(&name).map_err(io)?;
        self.disk.sync_names(FOLDER).map_err(io)?;
        let layer = Layer::open(self.disk.clone(), self.indexes.clone(), self.number)?;
        self.finished = true;
        Ok(Some(layer))
    }
}
