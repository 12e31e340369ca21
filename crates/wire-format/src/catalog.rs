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
    /// Where the pages of a fork are, a little-endian `u32`: from this stripe on, up to the next such entry of the fork, they
    /// belong to the group of this number. What lies before a fork's first entry belongs to group 0.
    Stripes {
        /// The fork.
        fork: ForkKey,
        /// The first stripe of which it is true.
        first: u32,
    },
    /// Up to where the volume was durable when: pairs of a time, in microseconds since 1970, and an LSN, both as little-endian
    /// `u64`. The retention window is measured by them.
    DurableTimes,
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
    const STRIPES: u8 = 3;
    const DURABLE_TIMES: u8 = 4;

    /// Bytes that order as the keys do.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            CatalogKey::ForkBlocks(fork) => encode_fork(CatalogKey::FORK_BLOCKS, *fork),
            CatalogKey::Stripes { fork, first } => {
                let mut bytes = encode_fork(CatalogKey::STRIPES, *fork);
                bytes.extend_from_slice(&first.to_be_bytes());
                bytes
            }
            CatalogKey::Blob(name) => [&[CatalogKey::BLOB], name.as_bytes()].concat(),
            CatalogKey::DurableTimes => vec![CatalogKey::DURABLE_TIMES],
        }
    }

    /// The key in `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<CatalogKey, CodecError> {
        let malformed = CodecError::Malformed("catalog key");
        match bytes {
            [CatalogKey::FORK_BLOCKS, rest @ ..] => {
                let rest: &[u8; FORK_BYTES] = rest.try_into().map_err(|_| malformed)?;
                Ok(CatalogKey::ForkBlocks(decode_fork(rest)))
            }
            [CatalogKey::STRIPES, rest @ ..] => {
                let (fork, first) = rest.split_first_chunk::<FORK_BYTES>().ok_or(malformed)?;
                let first: [u8; 4] = first.try_into().map_err(|_| malformed)?;
                Ok(CatalogKey::Stripes {
                    fork: decode_fork(fork),
                    first: u32::from_be_bytes(first),
                })
            }
            [CatalogKey::BLOB, name @ ..] => {
                let fits = name.len() <= CatalogKey::NAME_BYTES_MAX;
                let plain = name.iter().all(|byte| byte.is_ascii_graphic());
                let name = std::str::from_utf8(name).map_err(|_| malformed)?;
                (fits && plain && !name.is_empty())
                    .then(|| CatalogKey::Blob(name.to_owned()))
                    .ok_or(malformed)
            }
            [CatalogKey::DURABLE_TIMES] => Ok(CatalogKey::DurableTimes),
            _ => Err(malformed),
        }
    }
}

const FORK_BYTES: usize = 13;

fn encode_fork(kind: u8, fork: ForkKey) -> Vec<u8> {
    let relation = fork.relation;
    let mut bytes = vec![kind];
    for number in [relation.tablespace, relation.database, relation.relation] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    bytes.push(fork.fork);
    bytes
}

fn decode_fork(bytes: &[u8; FORK_BYTES]) -> ForkKey {
    let number = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let relation = RelationKey {
        tablespace: number(0),
        database: number(4),
        relation: number(8),
    };
    relation.fork(bytes[12])
}
