//! How one copy of a group gives another what lies in its layers: blocks as they lie in the files, and what they are.

use bytes::Bytes;
use timeline::Path;
use units::{Lsn, Position};

use crate::codec::{CodecError, Reader, Writer};

/// Where a walk through all versions of a segment goes on.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct VersionCursor {
    /// The next key, as the page store names it; empty: the first of all.
    pub key: Bytes,
    /// Of this key only versions above this position.
    pub above: Position,
}

/// Which versions of a segment are given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VersionsAsked {
    /// The history that the asker goes along: only what it sees.
    pub path: Path,
    /// Only versions above this position.
    pub after: Position,
    /// Where to begin.
    pub from: VersionCursor,
    /// The first key that is not asked for; empty: none.
    pub until: Bytes,
    /// About how many bytes, as layers have them.
    pub bytes_max: u32,
    /// Up to this batch the segment holds everything, and it is durable.
    pub through: Position,
    /// Below this it may lack versions.
    pub floor: Position,
}

/// Which positions some versions have: enough to say, without looking at them, that a history sees them all.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Extent {
    /// None lies below this.
    oldest: Position,
    /// None of its reign lies above one of these: one for each reign, reigns rising. Empty: there are no versions.
    newest: Vec<Position>,
}

impl Extent {
    /// A version more.
    pub fn add(&mut self, position: Position) {
        if self.newest.is_empty() || position < self.oldest {
            self.oldest = position;
        }
        match self.newest.binary_search_by_key(&position.epoch, |newest| newest.epoch) {
            Ok(at) => self.newest[at] = self.newest[at].max(position),
            Err(at) => self.newest.insert(at, position),
        }
    }

    /// The versions of `other` as well.
    pub fn add_all(&mut self, other: &Extent) {
        if let Some(first) = other.newest.first() {
            self.add(other.oldest.min(*first));
            other.newest.iter().for_each(|newest| self.add(*newest));
        }
    }

    /// No version lies above this.
    pub fn newest(&self) -> Position {
        self.newest.last().copied().unwrap_or(Position::ZERO)
    }

    /// Where the last version ends that belongs to this history, or where the history left those above.
    pub fn reach(&self, path: &Path) -> Lsn {
        let reach = self.newest.iter().map(|newest| path.reach(*newest).lsn);
        reach.max().unwrap_or(Lsn::ZERO)
    }

    /// Whether every version lies above `after` and belongs to this history. `false` if that is not certain.
    pub fn is_all_wanted(&self, path: &Path, after: Position) -> bool {
        let above = after == Position::ZERO || after < self.oldest;
        above && self.newest.iter().all(|newest| path.sees(*newest))
    }

    /// Its bytes.
    pub fn write(&self, out: &mut Writer) {
        out.position(self.oldest);
        out.count(self.newest.len());
        self.newest.iter().for_each(|newest| out.position(*newest));
    }

    /// From its bytes.
    pub fn read(input: &mut Reader) -> Result<Extent, CodecError> {
        let oldest = input.position("oldest version")?;
        let mut newest: Vec<Position> = Vec::new();
        for _ in 0..input.count(2, "reigns")? {
            let next = input.position("newest version")?;
            if newest.last().is_some_and(|last| next.epoch <= last.epoch) {
                return Err(CodecError::Malformed("order of reigns"));
            }
            newest.push(next);
        }
        Ok(Extent { oldest, newest })
    }
}

/// A block of a layer, without its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlockName {
    /// The key of its first version, as the page store names it.
    pub first_key: Bytes,
    /// How long it is.
    pub bytes: u32,
    /// The checksum of its bytes.
    pub checksum: u32,
}

/// Blocks whose versions stand sorted by key, as in one layer.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Run {
    /// The blocks, in their order.
    pub blocks: Vec<BlockName>,
    /// No key lies behind this one.
    pub last_key: Bytes,
    /// The positions of the versions.
    pub extent: Extent,
}

/// A part of a segment's versions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Versions {
    /// Each is sorted by key; two of them may hold versions of the same one.
    pub runs: Vec<Run>,
    /// The bytes of all blocks, one run after the other.
    pub content: Bytes,
    /// Where the next part begins; `None`: this was the last one.
    pub next: Option<VersionCursor>,
    /// A batch's name: every key asked for has all its versions up to here.
    pub through: Position,
    /// Versions that only reads below this position need may be missing.
    pub floor: Position,
    /// Keys that divide all versions into parts of about the same size, for several askers. Only in the first part.
    pub splits: Vec<Bytes>,
    /// Bytes of all layers with versions above what was asked, about. Only in the first part.
    pub bytes_expected: u64,
}

impl Versions {
    /// What it says about the versions, without the versions.
    pub fn without_content(&self) -> Versions {
        Versions {
            runs: Vec::new(),
            content: Bytes::new(),
            ..self.clone()
        }
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.count(self.runs.len());
        self.runs.iter().for_each(|run| run.write(out));
        out.bool(self.next.is_some());
        if let Some(next) = &self.next {
            next.write(out);
        }
        out.position(self.through);
        out.position(self.floor);
        out.count(self.splits.len());
        self.splits.iter().for_each(|key| out.bytes(key));
        out.varint(self.bytes_expected);
    }

    /// The blocks together are as long as their bytes.
    pub(crate) fn read(input: &mut Reader, content: Bytes) -> Result<Versions, CodecError> {
        let versions = Versions {
            runs: (0..input.count(5, "runs")?)
                .map(|_| Run::read(input))
                .collect::<Result<_, CodecError>>()?,
            content,
            next: if input.bool("cursor")? {
                Some(VersionCursor::read(input)?)
            } else {
                None
            },
            through: input.position("complete position")?,
            floor: input.position("floor")?,
            splits: (0..input.count(1, "splits")?)
                .map(|_| input.bytes("split"))
                .collect::<Result<_, CodecError>>()?,
            bytes_expected: input.varint("bytes expected")?,
        };
        let blocks = versions.runs.iter().flat_map(|run| &run.blocks);
        let bytes: u64 = blocks.map(|block| u64::from(block.bytes)).sum();
        if bytes != versions.content.len() as u64 {
            return Err(CodecError::Malformed("length of blocks"));
        }
        Ok(versions)
    }
}

impl Run {
    fn write(&self, out: &mut Writer) {
        out.count(self.blocks.len());
        for block in &self.blocks {
            out.bytes(&block.first_key);
            out.varint(u64::from(block.bytes));
            out.varint(u64::from(block.checksum));
        }
        out.bytes(&self.last_key);
        self.extent.write(out);
    }

    fn read(input: &mut Reader) -> Result<Run, CodecError> {
        let mut blocks = Vec::with_capacity(input.count(3, "blocks")?);
        for _ in 0..blocks.capacity() {
            blocks.push(BlockName {
                first_key: input.bytes("first key")?,
                bytes: input.u32("length of a block")?,
                checksum: input.u32("checksum of a block")?,
            });
        }
        Ok(Run {
            blocks,
            last_key: input.bytes("last key")?,
            extent: Extent::read(input)?,
        })
    }
}

impl VersionCursor {
    pub(crate) fn write(&self, out: &mut Writer) {
        out.bytes(&self.key);
        out.position(self.above);
    }

    pub(crate) fn read(input: &mut Reader) -> Result<VersionCursor, CodecError> {
        Ok(VersionCursor {
            key: input.bytes("cursor")?,
            above: input.position("cursor")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use timeline::Branch;
    use units::{Epoch, Lsn};

    use super::*;

    fn position(epoch: u64, lsn: u64) -> Position {
        Position::new(Epoch::from_raw(epoch), Lsn::from_raw(lsn))
    }

    fn extent(positions: &[Position]) -> Extent {
        let mut extent = Extent::default();
        positions.iter().for_each(|position| extent.add(*position));
        extent
    }

    #[test]
    fn an_extent_is_wanted_only_if_every_version_is() {
        let branches = [(1, 0, 0), (3, 1, 100)].map(|(epoch, parent, lsn)| Branch {
            epoch: Epoch::from_raw(epoch),
            parent: position(parent, lsn),
        });
        let path = Path::new(branches.to_vec()).expect("a path");
        let seen = [position(3, 120), position(1, 100), position(1, 50), position(3, 110)];
        assert!(extent(&seen).is_all_wanted(&path, Position::ZERO));
        assert!(extent(&seen).is_all_wanted(&path, position(1, 49)));
        assert!(!extent(&seen).is_all_wanted(&path, position(1, 50)));
        for unseen in [position(1, 101), position(2, 60), position(4, 1)] {
            let mut with = extent(&seen);
            with.add_all(&extent(&[unseen]));
            assert!(!with.is_all_wanted(&path, Position::ZERO), "{unseen}");
        }
        assert_eq!(extent(&seen).newest(), position(3, 120));
        let mut both = extent(&seen[..2]);
        both.add_all(&extent(&seen[2..]));
        both.add_all(&Extent::default());
        assert_eq!(both, extent(&seen));
    }
}
