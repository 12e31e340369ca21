//! How far replication origins were replayed: `pg_logical/replorigin_checkpoint`.

use std::collections::BTreeMap;

use units::Lsn;

/// Where PostgreSQL reads it from.
pub(crate) const PATH: &str = "pg_logical/replorigin_checkpoint";
/// `REPLICATION_STATE_MAGIC`.
const MAGIC: u32 = 0x1257_DADE;

/// The file's content: the magic, 16 bytes for each origin (`ReplicationStateOnDisk`), and a CRC-32C of all that. Follows
/// `CheckPointReplicationOrigin` in `replication/logical/origin.c`.
pub(crate) fn file(origins: &BTreeMap<u16, Lsn>) -> Vec<u8> {
    let mut bytes = MAGIC.to_le_bytes().to_vec();
    for (origin, position) in origins {
        bytes.extend_from_slice(&u64::from(*origin).to_le_bytes());
        bytes.extend_from_slice(&position.raw().to_le_bytes());
    }
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_sixteen_bytes() {
        let bytes = file(&BTreeMap::from([(7, Lsn::from_raw(0x0102_0304_0506))]));
        assert_eq!(bytes.len(), 4 + 16 + 4);
        assert_eq!(bytes[..4], [0xDE, 0xDA, 0x57, 0x12]);
        assert_eq!(bytes[4..12], [7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[12..20], [6, 5, 4, 3, 2, 1, 0, 0]);
        assert_eq!(bytes[20..], crc32c::crc32c(&bytes[..20]).to_le_bytes());
    }
}
