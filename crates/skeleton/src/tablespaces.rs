//! Where the files of relations stand in a data directory.
//!
//! A tablespace is a directory of the data directory (`pg_tblspc/OID`, "in place"), wherever its creator wanted it: what has
//! to last is in the volume, and the files can be thrown away like all others. Two writers, one of them fenced, never meet
//! in one directory.

use units::RelationKey;

use crate::import::{DEFAULT_TABLESPACE, GLOBAL_TABLESPACE};

/// `TABLESPACE_VERSION_DIRECTORY` of PostgreSQL 15: its catalog version never changes again.
pub const VERSION_DIRECTORY: &str = "PG_15_202209061";

/// The directory of a tablespace.
pub(crate) fn directory(tablespace: u32) -> String {
    format!("pg_tblspc/{tablespace}/{VERSION_DIRECTORY}")
}

/// The directory of a database's files in a tablespace: `GetDatabasePath`.
pub(crate) fn folder(tablespace: u32, database: u32) -> String {
    match tablespace {
        GLOBAL_TABLESPACE => "global".to_owned(),
        DEFAULT_TABLESPACE => format!("base/{database}"),
        tablespace => format!("{}/{database}", directory(tablespace)),
    }
}

/// The first file of a relation's main fork: `GetRelationPath`.
pub(crate) fn file(relation: RelationKey) -> String {
    format!(
        "{}/{}",
        folder(relation.tablespace, relation.database),
        relation.relation
    )
}

/// Whether the relation is in a tablespace that a user made.
pub fn is_in_users_tablespace(relation: RelationKey) -> bool {
    !relation.is_status_array() && !matches!(relation.tablespace, DEFAULT_TABLESPACE | GLOBAL_TABLESPACE)
}
