//! Past the page cache: log on its way to the device, and what the device holds.
//!
//! A commit waits for a write and a sync of a few hundred bytes. Copied into the page cache first, they are found again by
//! the sync page by page; written directly they are on their way at once, and the sync only has to empty the device's cache.
//! Directly means in whole blocks, so the block with the log's end is kept in memory and written again with what follows.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// What is written directly begins, ends and lies in memory at multiples of this: the largest block that disks have.
const BLOCK_BYTES: usize = 4096;
/// Longer writes gain nothing: the page cache gathers them, and the sync writes them in large pieces.
const DIRECT_BYTES_MAX: usize = 128 << 10;

/// A file that is written front to back.
pub(crate) struct DirectLog {
    file: File,
    /// The file has at least so many bytes.
    length: u64,
    /// Where the log ends, if [`DirectLog::block`] holds what is before that in its block.
    end: Option<u64>,
    /// Begins with the block in which the log ends.
    buffer: AlignedBuffer,
}

impl DirectLog {
    /// `None`: the file system writes through its page cache only.
    pub(crate) fn open(path: &Path) -> io::Result<Option<DirectLog>> {
        let direct = OFlags::DIRECT.bits() as i32;
        match OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(direct)
            .open(path)
        {
            Ok(file) => Ok(Some(DirectLog {
                length: file.metadata()?.len(),
                file,
                end: None,
                buffer: AlignedBuffer::new(DIRECT_BYTES_MAX + 2 * BLOCK_BYTES),
            })),
            Err(error) if is_unable(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes at `at`, unless it cannot be done directly: then it answers `false`, and the caller writes in the usual way.
    /// What lies behind the written bytes in their last block becomes zeros.
    pub(crate) fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<bool> {
        let known = self.end.take() == Some(at);
        let before = (at % BLOCK_BYTES as u64) as usize;
        let block = at - before as u64;
        let filled = before + bytes.len();
        if DIRECT_BYTES_MAX < bytes.len() || !self.has(block + filled.next_multiple_of(BLOCK_BYTES) as u64)? {
            return Ok(false);
        }
        let buffer = self.buffer.bytes();
        if !known && before != 0 {
            match self.file.read_exact_at(&mut buffer[..BLOCK_BYTES], block) {
                Err(error) if is_unable(&error) => return Ok(false),
                read => read?,
            }
        }
        let through = filled.next_multiple_of(BLOCK_BYTES);
        buffer[before..filled].copy_from_slice(bytes);
        buffer[filled..through].fill(0);
        match self.file.write_all_at(&buffer[..through], block) {
            Err(error) if is_unable(&error) => return Ok(false),
            written => written?,
        }
        let last = filled - filled % BLOCK_BYTES;
        buffer.copy_within(last..last + BLOCK_BYTES, 0);
        self.end = Some(at + bytes.len() as u64);
        Ok(true)
    }

    /// Whether the file reaches so far: a block must not make it longer.
    fn has(&mut self, length: u64) -> io::Result<bool> {
        if self.length < length {
            self.length = self.file.metadata()?.len();
        }
        Ok(length <= self.length)
    }
}

/// Reads what the device holds. Answers `false` if that cannot be had: then the caller reads in the usual way.
///
/// The kernel writes out what it still has of these bytes before it asks the device.
pub(crate) fn read_at(path: &Path, at: u64, buffer: &mut [u8]) -> io::Result<bool> {
    let direct = OFlags::DIRECT.bits() as i32;
    let file = match OpenOptions::new().read(true).custom_flags(direct).open(path) {
        Err(error) if is_unable(&error) => return Ok(false),
        opened => opened?,
    };
    let mut blocks = AlignedBuffer::new(DIRECT_BYTES_MAX);
    let mut read = 0;
    while read < buffer.len() {
        let here = at + read as u64;
        let before = (here % BLOCK_BYTES as u64) as usize;
        let wanted = (before + buffer.len() - read)
            .next_multiple_of(BLOCK_BYTES)
            .min(DIRECT_BYTES_MAX);
        // Of the file's last block only what belongs to it comes.
        let found = match file.read_at(&mut blocks.bytes()[..wanted], here - before as u64) {
            Err(error) if is_unable(&error) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            found => found?,
        };
        let taken = found.saturating_sub(before).min(buffer.len() - read);
        if taken == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer[read..read + taken].copy_from_slice(&blocks.bytes()[before..before + taken]);
        read += taken;
    }
    Ok(true)
}

/// `EINVAL`: what file systems answer that cannot do it, or not for these blocks.
fn is_unable(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput
}

/// Memory that begins at a block's multiple.
struct AlignedBuffer {
    memory: Vec<u8>,
    first: usize,
    length: usize,
}

impl AlignedBuffer {
    fn new(length: usize) -> AlignedBuffer {
        let memory = vec![0; length + BLOCK_BYTES];
        let first = memory.as_ptr().align_offset(BLOCK_BYTES);
        AlignedBuffer { memory, first, length }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.first..self.first + self.length]
    }
}
