//! A layer read again from the disk: is it what was written, and what of it still is?
//!
//! Everything is compared with what was known when the layer was opened, so that a write that never arrived, or arrived elsewhere,
//! shows as well as a flipped bit does.

use std::collections::BTreeSet;

use io::Disk;

use super::{BlockEntry, FOOTER_BYTES, Layer, file_name, read_error};
use crate::key::Key;
use crate::layer_writer::{CheckedRun, LayerWriter};
use crate::read::ReadError;

/// Bytes that are read at once where everything is read.
const CHECKED_AT_ONCE: u64 = 256 << 10;

/// What of a layer is lost.
#[derive(Default)]
pub(crate) struct Lost {
    /// Numbers of its blocks.
    blocks: BTreeSet<usize>,
    /// First and last key that may have versions in them.
    pub(crate) keys: Vec<(Key, Key)>,
}

impl Lost {
    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

impl Layer {
    /// Reads everything from the disk again: is it what was written? `pace` hears how many bytes were read, and says whether to
    /// go on. Answers how many bytes that were.
    pub(crate) fn check(&self, pace: &dyn Fn(u64) -> bool) -> Result<u64, ReadError> {
        let name = file_name(self.number);
        let mut checked = 0;
        let mut run = Vec::new();
        for (numbers, ..) in self.blocks.parts(&self.last_key) {
            let mut blocks = self.blocks.range(numbers)?;
            blocks.sort_unstable_by_key(|block| block.offset);
            let mut blocks = blocks.iter().peekable();
            while let Some(first) = blocks.next() {
                // Blocks that follow each other are read at once.
                let mut end = first.end();
                let mut stretch = vec![first];
                while let Some(next) = blocks.next_if(|next| next.offset == end && end - first.offset < CHECKED_AT_ONCE)
                {
                    end = next.end();
                    stretch.push(next);
                }
                run.resize((end - first.offset) as usize, 0);
                read_at_rest(&*self.disk, &name, first.offset, &mut run)?;
                for block in stretch {
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
        }
        let mut footer = [0; FOOTER_BYTES];
        let index_end = self.file_bytes - FOOTER_BYTES as u64;
        read_at_rest(&*self.disk, &name, index_end, &mut footer)?;
        if footer != self.footer {
            return Err(self.corrupt("its footer is another than it was"));
        }
        run.resize((index_end - self.index_at) as usize, 0);
        read_at_rest(&*self.disk, &name, self.index_at, &mut run)?;
        if crc32c::crc32c(&run).to_le_bytes() != footer[16..20] {
            return Err(self.corrupt("its index has another checksum"));
        }
        checked += self.file_bytes - self.index_at;
        pace(self.file_bytes - self.index_at);
        Ok(checked)
    }

    /// What of it is not what was written. An error is a disk that does not answer.
    pub(crate) fn lost(&self) -> Result<Lost, ReadError> {
        let is_lost = |error: &ReadError| matches!(error, ReadError::Corrupt { .. } | ReadError::Missing { .. });
        let mut lost = Lost::default();
        for (numbers, first, behind) in self.blocks.parts(&self.last_key) {
            let blocks = match self.blocks.range(numbers.clone()) {
                Ok(blocks) => blocks,
                Err(error) if is_lost(&error) => {
                    lost.blocks.extend(numbers);
                    lost.keys.push((first.clone(), behind.clone()));
                    continue;
                }
                Err(error) => return Err(error),
            };
            for (number, (block, last)) in numbers.zip(with_last_keys(&blocks, behind)) {
                match self.sound_block(block) {
                    Ok(_) => {}
                    Err(error) if is_lost(&error) => {
                        lost.blocks.insert(number);
                        lost.keys.push((block.first_key.clone(), last.clone()));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(lost)
    }

    /// The bytes of a block, from the disk.
    fn sound_block(&self, block: &BlockEntry) -> Result<Vec<u8>, ReadError> {
        let mut packed = vec![0; block.bytes as usize];
        read_at_rest(&*self.disk, &file_name(self.number), block.offset, &mut packed)?;
        if !block.is_of(&packed) {
            return Err(self.corrupt("a block has another checksum"));
        }
        Ok(packed)
    }

    /// Copies all of its blocks but those that are lost.
    pub(crate) fn copy_sound(&self, lost: &Lost, writer: &mut LayerWriter) -> Result<(), ReadError> {
        for (numbers, _, behind) in self.blocks.parts(&self.last_key) {
            if numbers.clone().all(|number| lost.blocks.contains(&number)) {
                continue;
            }
            let blocks = self.blocks.range(numbers.clone())?;
            for (number, (block, last)) in numbers.zip(with_last_keys(&blocks, behind)) {
                if lost.blocks.contains(&number) {
                    continue;
                }
                let packed = self.sound_block(block)?;
                let run = CheckedRun {
                    blocks: vec![BlockEntry {
                        offset: 0,
                        ..block.clone()
                    }],
                    last_key: last.clone(),
                    extent: self.extent.clone(),
                };
                writer.push_run(run, &packed)?;
            }
        }
        Ok(())
    }
}

/// Blocks that follow each other, each with the last key that it may have versions of; `behind` is that of the last one.
fn with_last_keys<'a>(blocks: &'a [BlockEntry], behind: &'a Key) -> impl Iterator<Item = (&'a BlockEntry, &'a Key)> {
    let next = blocks.iter().skip(1).map(|next| &next.first_key);
    blocks.iter().zip(next.chain([behind]))
}

fn read_at_rest(disk: &dyn Disk, name: &str, at: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
    disk.read_at_rest(name, at, buffer)
        .map_err(|error| read_error(name, &error))
}
