//! Names of the small values that the volume's catalog keeps for PostgreSQL.

use units::Lsn;

/// `pg_control` as `initdb` left it; what changes comes from the marks.
pub const CONTROL_FILE: &str = "control";

/// The WAL page on which the imported log ends: where it ends (eight bytes, little-endian), then the page up to there.
pub const IMPORTED_LOG_END: &str = "imported-log-end";

/// A relation map. The shared one has database zero.
pub fn relation_map(tablespace: u32, database: u32) -> String {
    format!("relmap/{tablespace}/{database}")
}

/// A database's directory: the value is its `PG_VERSION`.
pub fn database(tablespace: u32, database: u32) -> String {
    format!("database/{tablespace}/{database}")
}

/// A prepared transaction: the value is its file, less the checksum.
pub fn two_phase(transaction: u32) -> String {
    format!("twophase/{transaction:08X}")
}

/// A tablespace: the value is the location that its creator named, empty for none.
pub fn tablespace(tablespace: u32) -> String {
    format!("tablespace/{tablespace}")
}

/// How far a replication origin was replayed: the value is the position in its own log, eight bytes, little-endian.
pub fn origin(origin: u16) -> String {
    format!("origin/{origin}")
}

/// The position that the value of an [`origin`] says.
pub fn position(value: &[u8]) -> Option<Lsn> {
    let bytes: [u8; 8] = value.try_into().ok()?;
    Some(Lsn::from_raw(u64::from_le_bytes(bytes)))
}

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blob {
    /// See [`CONTROL_FILE`].
    ControlFile,
    /// See [`IMPORTED_LOG_END`].
    ImportedLogEnd,
    /// See [`relation_map`].
    RelationMap {
        /// Tablespace.
        tablespace: u32,
        /// Database.
        database: u32,
    },
    /// See [`database`].
    Database {
        /// Tablespace.
        tablespace: u32,
        /// Database.
        database: u32,
    },
    /// See [`two_phase`].
    TwoPhase {
        /// The transaction.
        transaction: u32,
    },
    /// See [`tablespace`].
    Tablespace {
        /// Tablespace.
        tablespace: u32,
    },
    /// See [`origin`].
    Origin {
        /// Its number.
        origin: u16,
    },
}

impl Blob {
    /// What `name` stands for; `None`: not one of ours. Each blob has one name.
    pub fn parse(name: &str) -> Option<Blob> {
        Blob::parse_loosely(name).filter(|blob| blob.name() == name)
    }

    /// The inverse of [`Blob::parse`].
    pub fn name(self) -> String {
        match self {
            Blob::ControlFile => CONTROL_FILE.to_owned(),
            Blob::ImportedLogEnd => IMPORTED_LOG_END.to_owned(),
            Blob::RelationMap { tablespace, database } => relation_map(tablespace, database),
            Blob::Database { tablespace, database } => self::database(tablespace, database),
            Blob::TwoPhase { transaction } => two_phase(transaction),
            Blob::Tablespace { tablespace } => self::tablespace(tablespace),
            Blob::Origin { origin } => self::origin(origin),
        }
    }

    /// Numbers may have signs and leading zeros here.
    fn parse_loosely(name: &str) -> Option<Blob> {
        let pair = |rest: &str| {
            let (tablespace, database) = rest.split_once('/')?;
            Some((tablespace.parse().ok()?, database.parse().ok()?))
        };
        if name == CONTROL_FILE {
            return Some(Blob::ControlFile);
        }
        if name == IMPORTED_LOG_END {
            return Some(Blob::ImportedLogEnd);
        }
        let (kind, rest) = name.split_once('/')?;
        match kind {
            "relmap" => pair(rest).map(|(tablespace, database)| Blob::RelationMap { tablespace, database }),
            "database" => pair(rest).map(|(tablespace, database)| Blob::Database { tablespace, database }),
            "twophase" => u32::from_str_radix(rest, 16)
                .ok()
                .map(|transaction| Blob::TwoPhase { transaction }),
            "tablespace" => rest.parse().ok().map(|tablespace| Blob::Tablespace { tablespace }),
            "origin" => rest.parse().ok().map(|origin| Blob::Origin { origin }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        let (tablespace, database) = (1663, 5);
        assert_eq!(
            Blob::parse(&relation_map(1663, 5)),
            Some(Blob::RelationMap { tablespace, database })
        );
        assert_eq!(
            Blob::parse(&super::database(1663, 5)),
            Some(Blob::Database { tablespace, database })
        );
        assert_eq!(
            Blob::parse(&two_phase(0x2F1)),
            Some(Blob::TwoPhase { transaction: 0x2F1 })
        );
        assert_eq!(
            Blob::parse(&super::tablespace(16_400)),
            Some(Blob::Tablespace { tablespace: 16_400 })
        );
        assert_eq!(Blob::parse(&super::origin(7)), Some(Blob::Origin { origin: 7 }));
        assert_eq!(Blob::parse(CONTROL_FILE), Some(Blob::ControlFile));
        assert_eq!(Blob::parse(IMPORTED_LOG_END), Some(Blob::ImportedLogEnd));
        for name in [
            "relmap/x/5",
            "relmap/1663",
            "relmap/+1663/5",
            "database/1663/05",
            "twophase/2f1",
            "tablespace/016400",
            "origin/65536",
            "",
            "other/1/2",
        ] {
            assert_eq!(Blob::parse(name), None, "{name}");
        }
    }
}
