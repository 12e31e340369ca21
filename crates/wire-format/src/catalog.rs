//! Names in the volume's catalog, which group 0 holds.

use units::{ForkKey, RelationKey};

use crate::codec::CodecError;

/// What a catalog entry is about. Orders as its encoding does, so that a prefix scan finds what belongs together.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum CatalogKey {
    /// The size of a fork in blocks, a little-endian `u32`. Present while the fork exists.
    ForkBlocks(ForkKey),
    /// A value of the engine, such as `relmap/1663/5` or `twophase/000002F1`: mostly small, but a prepared transaction's is
    /// as long as its record. The flush header that carries it must fit [`crate::frame::BATCH_BYTES_MAX`]. The name has at
    /// most 200 bytes of printable ASCII.
    Blob(String),
}

impl CatalogKey {
    /// Not above any key.
    pub const FIRST: CatalogKey = CatalogKey::ForkBlocks(ForkKey {
        relation: RelationKey {
            tablespace: 0,
            database: 0,
            relation: 0,
        },
        fork: 0,
    });
    /// The longest name of a blob, in bytes.
    pub const NAME_BYTES_MAX: usize = 200;
    const FORK_BLOCKS: u8 = 1;
    const BLOB: u8 = 2;

    /// Bytes that order as the keys do.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            CatalogKey::ForkBlocks(fork) => {
                let relation = fork.relation;
                let mut bytes = vec![CatalogKey::FORK_BLOCKS];
                for number in [relation.tablespace, relation.database, relation.relation] {
                    bytes.extend_from_slice(&number.to_be_bytes());
                }
                bytes.push(fork.fork);
                bytes
            }
            CatalogKey::Blob(name) => [&[CatalogKey::BLOB], name.as_bytes()].concat(),
        }
    }

    /// The key in `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<CatalogKey, CodecError> {
        let malformed = CodecError::Malformed("catalog key");
        match bytes {
            [CatalogKey::FORK_BLOCKS, rest @ ..] => {
                let rest: &[u8; 13] = rest.try_into().map_err(|_| malformed)?;
                let number = |at: usize| u32::from_be_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
                let relation = RelationKey {
                    tablespace: number(0),
                    database: number(4),
                    relation: number(8),
                };
                Ok(CatalogKey::ForkBlocks(relation.fork(rest[12])))
            }
            [CatalogKey::BLOB, name @ ..] => {
                let fits = name.len() <= CatalogKey::NAME_BYTES_MAX;
                let plain = name.iter().all(|byte| byte.is_ascii_graphic());
                let name = std::str::from_utf8(name).map_err(|_| malformed)?;
                (fits && plain && !name.is_empty())
                    .then(|| CatalogKey::Blob(name.to_owned()))
                    .ok_or(malformed)
            }
            _ => Err(malformed),
        }
    }
}
