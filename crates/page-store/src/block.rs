//! A block of a layer in memory.
//!
//! Invariant: every version was decoded once, when the block was read, so that decoding any of them again cannot fail.

use std::sync::Arc;

use bytes::Bytes;
use units::Position;
use wire_format::CodecError;
use wire_format::codec::Reader;

use crate::key::{Key, Version};

/// The versions of a block as they lie in the file, and where those of each key begin: a read looks for a few keys of which
/// most layers have none, and must not decode whole blocks to find that out.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    bytes: Bytes,
    /// Offset of the first version of each key.
    keys: Arc<[u32]>,
}

const CHECKED: &str = "every version of the block was decoded before";

impl Block {
    /// A block from its bytes; an error if they do not hold versions in the order of their keys.
    pub(crate) fn read(bytes: Bytes) -> Result<Block, CodecError> {
        let mut keys = Vec::new();
        let mut last: Option<Key> = None;
        let mut entries = entries(bytes.clone());
        loop {
            let at = bytes.len() - entries.input.remaining();
            let Some((key, _)) = entries.next()? else { break };
            match last.as_ref().map(|last| last.cmp(&key)) {
                Some(std::cmp::Ordering::Equal) => continue,
                Some(std::cmp::Ordering::Greater) => return Err(CodecError::Malformed("order of keys")),
                Some(std::cmp::Ordering::Less) | None => {
                    keys.push(u32::try_from(at).map_err(|_| CodecError::Malformed("length of a block"))?);
                    last = Some(key);
                }
            }
        }
        let keys = keys.into();
        Ok(Block { bytes, keys })
    }

    /// Bytes of memory it takes, about.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes.len() + size_of_val(&*self.keys)
    }

    /// Adds every version of `key` above `after` to `into`.
    pub(crate) fn collect(&self, key: &Key, after: Position, into: &mut Vec<Version>) {
        let from = |start: u32| entries(self.bytes.slice(start as usize..));
        let is_before = |start: &u32| Key::read(&mut from(*start).input).expect(CHECKED) < *key;
        let Some(start) = self.keys.get(self.keys.partition_point(is_before)) else {
            return;
        };
        let mut entries = from(*start);
        while let Some((found, version)) = entries.next().expect(CHECKED)
            && found == *key
        {
            if after < version.position {
                into.push(version);
            }
        }
    }
}

/// Walks the versions that some bytes hold.
pub(crate) struct Entries {
    input: Reader,
}

/// The versions that these bytes hold, in order.
pub(crate) fn entries(bytes: Bytes) -> Entries {
    Entries {
        input: Reader::new(bytes),
    }
}

impl Entries {
    pub(crate) fn next(&mut self) -> Result<Option<(Key, Version)>, CodecError> {
        if self.input.remaining() == 0 {
            return Ok(None);
        }
        let key = Key::read(&mut self.input)?;
        Ok(Some((key, Version::read(&mut self.input)?)))
    }
}

#[cfg(test)]
mod tests {
    use units::{Epoch, Lsn, RelationKey};
    use wire_format::codec::Writer;

    use super::*;
    use crate::key::Value;

    fn version(lsn: u64) -> Version {
        Version {
            position: Position::new(Epoch::from_raw(1), Lsn::from_raw(lsn)),
            value: Value::Truncation { from_block: lsn as u32 },
        }
    }

    fn truncations_of(relation: u32) -> Key {
        let relation = RelationKey {
            tablespace: 1663,
            database: 5,
            relation,
        };
        Key::Truncation(relation.fork(0))
    }

    fn block_of(versions: &[(Key, u64)]) -> Result<Block, CodecError> {
        let mut out = Writer::default();
        for (key, lsn) in versions {
            key.write(&mut out);
            version(*lsn).write(&mut out);
        }
        Block::read(out.finish())
    }

    #[test]
    fn versions_are_found_by_key() {
        let versions: Vec<(Key, u64)> = (0..300)
            .map(|at| (truncations_of(2 * (at / 3)), u64::from(at)))
            .collect();
        let block = block_of(&versions).expect("in order");
        for relation in 0..201 {
            for after in [0, 100, 299] {
                let mut found = Vec::new();
                block.collect(&truncations_of(relation), version(after).position, &mut found);
                let expected: Vec<Version> = versions
                    .iter()
                    .filter(|(key, lsn)| *key == truncations_of(relation) && after < *lsn)
                    .map(|(_, lsn)| version(*lsn))
                    .collect();
                assert_eq!(found, expected, "relation {relation} after {after}");
            }
        }
    }

    #[test]
    fn what_is_out_of_order_or_cut_is_refused() {
        assert!(block_of(&[(truncations_of(2), 1), (truncations_of(1), 2)]).is_err());
        let whole = block_of(&[(truncations_of(1), 1), (truncations_of(2), 2)]).expect("in order");
        for length in 1..whole.bytes.len() {
            let read = Block::read(whole.bytes.slice(..length));
            assert!(
                read.is_err() || read.is_ok_and(|block| block.keys.len() == 1),
                "{length} bytes"
            );
        }
        assert_eq!(Block::read(Bytes::new()).expect("nothing").keys.len(), 0);
    }
}
