//! Notices that this process reads a fork from block to block, and says how far ahead the volume may already read.
//!
//! Pure: it only counts.

use units::{ForkKey, PageKey};

/// How many forks are watched at a time: an index, its heap and the visibility map, twice.
const STREAMS: usize = 6;
/// How many blocks may be left out between two that still follow each other: ANALYZE and bitmap scans read most blocks, but
/// not all. A page that is read ahead in vain costs less than one that is waited for alone.
const SKIPS_MAX: u32 = 3;

#[derive(Clone, Copy)]
struct Stream {
    fork: ForkKey,
    next: u32,
    /// How many pages to announce with the next read.
    ahead: u16,
    /// Up to which block pages are announced already.
    announced: u32,
}

/// What one process read lately.
pub struct Readahead {
    streams: [Option<Stream>; STREAMS],
    replace_next: usize,
}

impl Readahead {
    /// Nothing read yet.
    pub const fn new() -> Readahead {
        Readahead {
            streams: [None; STREAMS],
            replace_next: 0,
        }
    }

    /// How many pages from `key` on will likely be read, itself included: doubles from 1 to `most` while blocks follow each
    /// other, a few perhaps left out, starts anew with every jump, and never passes the end of a fork of `blocks`.
    pub fn wanted_soon(&mut self, key: PageKey, blocks: u32, most: u16) -> u16 {
        let left = u16::try_from(blocks.saturating_sub(key.block))
            .unwrap_or(u16::MAX)
            .max(1);
        let known = self.streams.iter_mut().flatten().find(|stream| stream.fork == key.fork);
        let Some(stream) = known else {
            let stream = Stream {
                fork: key.fork,
                next: key.block.saturating_add(1),
                ahead: 1,
                announced: key.block,
            };
            self.streams[self.replace_next] = Some(stream);
            self.replace_next = (self.replace_next + 1) % STREAMS;
            return 1;
        };
        let follows = stream.next..=stream.next.saturating_add(SKIPS_MAX);
        if follows.contains(&key.block) {
            stream.ahead = stream.ahead.saturating_mul(2).min(most);
        } else {
            (stream.ahead, stream.announced) = (1, key.block);
        }
        stream.next = key.block.saturating_add(1);
        // What was announced is on its way: ask anew only in the second half of it.
        if stream.announced > key.block.saturating_add(u32::from(stream.ahead) / 2) {
            return 1;
        }
        stream.announced = key.block.saturating_add(u32::from(stream.ahead));
        stream.ahead.min(left)
    }
}
