//! A layer read again from the disk: is it what was written, and what of it still is?
//!
//! Everything is compared with the index that is in memory since the layer was opened, so that a write that never arrived, or
//! arrived elsewhere, shows as well as a flipped bit does.

use std::collections::BTreeSet;
use std::io as std_io;

use io::Disk;

use super::{BlockEntry, FOOTER_BYTES, Layer, file_name};
use crate::key::Key;
use crate::layer_writer::{CheckedRun, LayerWriter};
use crate::read::ReadError;

/// Bytes that are read at once where everything is read.
const CHECKED_AT_ONCE: u64 = 256 << 10;

/// Numbers of blocks that are lost.
pub(crate) type Lost = BTreeSet<usize>;

impl Layer {
    /// Reads everything from the disk again: is it what was written? `pace` hears how many bytes were read, and says whether to
    /// go on. Answers how many bytes that were.
    pub(crate) fn check(&self, pace: &dyn Fn(u64) -> bool) -> Result<u64, ReadError> {
        let name = file_name(self.number);
        let mut checked = 0;
        let mut run = Vec::new();
        let mut blocks: Vec<&BlockEntry> = self.blocks.iter().collect();
        blocks.sort_unstable_by_key(|block| block.offset);
        let mut blocks = blocks.into_iter().peekable();
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
                if !block.is_of(&run[at..at + block.bytes as usize]) {
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

    /// Its blocks that are not what was written. An error is a disk that does not answer.
    pub(crate) fn lost_blocks(&self) -> Result<Lost, ReadError> {
        let mut lost = Lost::new();
        for at in 0..self.blocks.len() {
            match self.sound_block(at) {
                Ok(_) => {}
                Err(ReadError::Corrupt { .. } | ReadError::Missing { .. }) => drop(lost.insert(at)),
                Err(error) => return Err(error),
            }
        }
        Ok(lost)
    }

    /// The bytes of a block, from the disk.
    fn sound_block(&self, at: usize) -> Result<Vec<u8>, ReadError> {
        let block = &self.blocks[at];
        let mut packed = vec![0; block.bytes as usize];
        read_at_rest(&*self.disk, &file_name(self.number), block.offset, &mut packed)?;
        if !block.is_of(&packed) {
            return Err(self.corrupt("a block has another checksum"));
        }
        Ok(packed)
    }

    /// The first and the last key that may have versions in a block.
    pub(crate) fn keys_of(&self, at: usize) -> (&Key, &Key) {
        let last = self.blocks.get(at + 1).map_or(&self.last_key, |next| &next.first_key);
        (&self.blocks[at].first_key, last)
    }

    /// Copies all of its blocks but those that are lost.
    pub(crate) fn copy_sound(&self, lost: &Lost, writer: &mut LayerWriter) -> Result<(), ReadError> {
        for at in (0..self.blocks.len()).filter(|at| !lost.contains(at)) {
            let packed = self.sound_block(at)?;
            let (first, last) = self.keys_of(at);
            let block = BlockEntry {
                first_key: first.clone(),
                offset: 0,
                bytes: packed.len() as u32,
                checksum: self.blocks[at].checksum,
            };
            let run = CheckedRun {
                blocks: vec![block],
                last_key: last.clone(),
                extent: self.extent.clone(),
            };
            writer.push_run(run, &packed)?;
        }
        Ok(())
    }
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
