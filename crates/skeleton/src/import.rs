//! Taking the directory apart that `initdb` made.

use units::{ForkKey, RelationKey, fork};

use crate::{blob, status_files};

/// `RELSEG_SIZE`: blocks in one file of a fork.
pub const BLOCKS_PER_FILE: u32 = 131_072;
/// `DEFAULTTABLESPACE_OID` and `GLOBALTABLESPACE_OID`.
pub const DEFAULT_TABLESPACE: u32 = 1663;
/// See [`DEFAULT_TABLESPACE`].
pub const GLOBAL_TABLESPACE: u32 = 1664;

/// What a file of the directory is to the volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ImportedFile {
    /// Pages of a fork, from this block on.
    Fork {
        /// Which fork.
        fork: ForkKey,
        /// The file's first block.
        first_block: u32,
    },
    /// Pages of a status array, from this one on.
    Status {
        /// Which array.
        array: RelationKey,
        /// The file's first page.
        first_page: u32,
    },
    /// A value of the catalog under this name.
    Blob(String),
    /// Not kept: made anew with every skeleton, or of no use to anybody.
    Ignored,
}

/// A file that nobody knows how to keep.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not known as part of a fresh data directory")]
pub struct UnknownFile(pub String);

/// What the file at this relative path is.
pub fn classify(path: &str) -> Result<ImportedFile, UnknownFile> {
    let unknown = || UnknownFile(path.to_owned());
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    if let Some(array) = status_files::array_of_folder(folder) {
        let first_page = status_files::first_page_of_file(name).ok_or_else(unknown)?;
        return Ok(ImportedFile::Status { array, first_page });
    }
    let (tablespace, database) = match folder {
        "global" => (GLOBAL_TABLESPACE, 0),
        _ if is_made_anew(folder, name) => return Ok(ImportedFile::Ignored),
        _ => {
            let database = folder.strip_prefix("base/").and_then(number);
            (DEFAULT_TABLESPACE, database.ok_or_else(unknown)?)
        }
    };
    match name {
        "pg_control" => Ok(ImportedFile::Blob(blob::CONTROL_FILE.to_owned())),
        "pg_filenode.map" => Ok(ImportedFile::Blob(blob::relation_map(tablespace, database))),
        "PG_VERSION" => Ok(ImportedFile::Blob(blob::database(tablespace, database))),
        "pg_internal.init" => Ok(ImportedFile::Ignored),
        _ => fork_file(name, tablespace, database).ok_or_else(unknown),
    }
}

/// Files of the data directory itself that say nothing about its contents.
const SETTINGS: &[&str] = &[
    "PG_VERSION",
    "pg_hba.conf",
    "pg_ident.conf",
    "postgresql.auto.conf",
    "postgresql.conf",
    "postmaster.opts",
];
/// Folders whose files are of no use once the server is shut down: its log, whose end the control file tells; caches;
/// statistics; what running transactions need. Prepared transactions, slots and tablespaces are not among them: a
/// directory that has some is refused, because they would be lost.
const MADE_ANEW: &[&str] = &[
    "pg_dynshmem",
    "pg_logical",
    "pg_notify",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_wal",
    "pg_wal/archive_status",
];

fn is_made_anew(folder: &str, name: &str) -> bool {
    // The log's folder is a symbolic link after `initdb --waldir`.
    MADE_ANEW.contains(&folder) || (folder.is_empty() && (SETTINGS.contains(&name) || name == "pg_wal"))
}

/// A number as PostgreSQL writes it into a file's name: nothing but digits, none of them a leading zero.
fn number(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// `16384`, `16384_fsm`, `16384.1`, `16384_vm.2`.
fn fork_file(name: &str, tablespace: u32, database: u32) -> Option<ImportedFile> {
    let (name, segment) = match name.split_once('.') {
        Some((name, segment)) => (name, number(segment)?),
        None => (name, 0),
    };
    let (number, fork) = match name.split_once('_') {
        None => (name, fork::MAIN),
        Some((number, "fsm")) => (number, fork::FREE_SPACE),
        Some((number, "vm")) => (number, fork::VISIBILITY),
        Some((number, "init")) => (number, fork::INIT),
        Some(_) => return None,
    };
    let relation = RelationKey {
        tablespace,
        database,
        relation: self::number(number)?,
    };
    Some(ImportedFile::Fork {
        fork: relation.fork(fork),
        first_block: segment.checked_mul(BLOCKS_PER_FILE)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_kind_of_file_is_told_apart() {
        let relation = |tablespace, database, relation| RelationKey {
            tablespace,
            database,
            relation,
        };
        let fork = |fork, first_block| Ok(ImportedFile::Fork { fork, first_block });
        assert_eq!(classify("base/5/1259"), fork(relation(1663, 5, 1259).fork(0), 0));
        assert_eq!(classify("base/5/1259_fsm"), fork(relation(1663, 5, 1259).fork(1), 0));
        assert_eq!(
            classify("global/1262_vm.1"),
            fork(relation(1664, 0, 1262).fork(2), 131_072)
        );
        assert_eq!(
            classify("global/pg_control"),
            Ok(ImportedFile::Blob("control".to_owned()))
        );
        assert_eq!(
            classify("global/pg_filenode.map"),
            Ok(ImportedFile::Blob("relmap/1664/0".to_owned()))
        );
        assert_eq!(
            classify("base/1/PG_VERSION"),
            Ok(ImportedFile::Blob("database/1663/1".to_owned()))
        );
        let status = Ok(ImportedFile::Status {
            array: RelationKey::TRANSACTION_STATUS,
            first_page: 0,
        });
        assert_eq!(classify("pg_xact/0000"), status);
        assert_eq!(classify("pg_wal/000000010000000000000001"), Ok(ImportedFile::Ignored));
        let others = [
            "pg_wal",
            "pg_wal/archive_status/0.done",
            "pg_stat/pgstat.stat",
            "base/5/pg_internal.init",
        ];
        for path in SETTINGS.iter().chain(&others) {
            assert_eq!(classify(path), Ok(ImportedFile::Ignored), "{path}");
        }
    }

    #[test]
    fn what_would_be_lost_is_refused() {
        let paths = [
            "base/5/strange",
            "base/5/+1259",
            "base/5/1259.x",
            "base/5/1259_fsm_vm",
            "base/5/1259.4294967295",
            "base/5/t3_16384",
            "base/other/1259",
            "base/pgsql_tmp/pgsql_tmp1.0",
            "pg_replslot/mine/state",
            "pg_tblspc/16385/PG_15_202209061/5/16386",
            "pg_twophase/000002F1",
            "pg_xact/0",
            "pg_xact/000g",
            "pg_multixact/members/FFFFFFFF",
            "backup_label",
            "notes.txt",
            "",
        ];
        for path in paths {
            assert_eq!(classify(path), Err(UnknownFile(path.to_owned())));
        }
    }

    proptest! {
        #[test]
        fn any_path_is_classified_or_refused(folder in prop::sample::select(vec!["", "global/", "base/1/", "pg_xact/"]), name in ".{0,20}") {
            if let Ok(ImportedFile::Fork { first_block, .. }) = classify(&format!("{folder}{name}")) {
                prop_assert!(first_block.is_multiple_of(BLOCKS_PER_FILE));
            }
        }
    }
}
