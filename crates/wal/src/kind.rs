//! What a record is called: resource manager and operation, as `pg_waldump` prints them.

use std::fmt;

use crate::resource_manager as manager;
use crate::{DecodedRecord, RecordHeader};

/// The name of a kind of record. Prints as `Heap/INSERT+INIT`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Kind {
    /// The resource manager.
    pub manager: &'static str,
    /// Its operation.
    pub operation: &'static str,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.manager, self.operation)
    }
}

/// The record's meaning cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// An extension's resource manager (`RegisterCustomRmgr`): only the extension knows what its records do to pages.
    #[error(
        "it is of resource manager {0}, which an extension has registered, and only that extension can redo its records: \
         take it out of shared_preload_libraries"
    )]
    ExtensionManager(u8),
    /// No resource manager of PostgreSQL 15 has this number.
    #[error("unknown resource manager {0}")]
    UnknownManager(u8),
    /// The resource manager has no such operation.
    #[error("unknown operation {info:#04x} of resource manager {manager}")]
    UnknownOperation {
        /// The resource manager.
        manager: &'static str,
        /// The record's info byte.
        info: u8,
    },
    /// The main data ends too early.
    #[error("{kind} ends inside its {field}")]
    Short {
        /// What the record says it is.
        kind: Kind,
        /// What is missing.
        field: &'static str,
    },
    /// A value that cannot be.
    #[error("{kind} is malformed: {what}")]
    Malformed {
        /// What the record says it is.
        kind: Kind,
        /// What is wrong.
        what: &'static str,
    },
}

impl RecordHeader {
    /// What its record is. Succeeds for every kind that PostgreSQL 15 writes, and for nothing else.
    pub fn kind(&self) -> Result<Kind, RecordError> {
        let number = self.resource_manager;
        let unknown = if number < manager::FIRST_OF_EXTENSIONS {
            RecordError::UnknownManager(number)
        } else {
            RecordError::ExtensionManager(number)
        };
        let (name, operations) = operations_of(number).ok_or(unknown)?;
        // A commit's highest bit says that there is more to read (`XLOG_XACT_HAS_INFO`), not what it is.
        let code = match number {
            manager::TRANSACTION => self.operation() & 0x70,
            _ => self.operation(),
        };
        let found = operations.iter().find(|(known, _)| *known == code);
        let unknown = RecordError::UnknownOperation {
            manager: name,
            info: self.info,
        };
        let (_, operation) = found.ok_or(unknown)?;
        Ok(Kind {
            manager: name,
            operation,
        })
    }
}

impl DecodedRecord<'_> {
    /// See [`RecordHeader::kind`].
    pub fn kind(&self) -> Result<Kind, RecordError> {
        self.header.kind()
    }
}

/// Every kind of record that PostgreSQL 15 knows, by resource manager and operation code.
pub fn kinds() -> impl Iterator<Item = Kind> {
    let managers = (0..=u8::MAX).filter_map(operations_of);
    managers.flat_map(|(manager, operations)| operations.iter().map(move |(_, operation)| Kind { manager, operation }))
}

type Operations = &'static [(u8, &'static str)];

/// Name and operations of a resource manager: the `*_identify` functions of `access/rmgrdesc`.
fn operations_of(number: u8) -> Option<(&'static str, Operations)> {
    Some(match number {
        manager::XLOG => ("XLOG", XLOG),
        manager::TRANSACTION => ("Transaction", TRANSACTION),
        manager::STORAGE => ("Storage", &[(0x10, "CREATE"), (0x20, "TRUNCATE")]),
        manager::CLOG => ("CLOG", &[(0x00, "ZEROPAGE"), (0x10, "TRUNCATE")]),
        manager::DATABASE => ("Database", DATABASE),
        manager::TABLESPACE => ("Tablespace", &[(0x00, "CREATE"), (0x10, "DROP")]),
        manager::MULTIXACT => ("MultiXact", MULTIXACT),
        manager::RELATION_MAP => ("RelMap", &[(0x00, "UPDATE")]),
        manager::STANDBY => ("Standby", STANDBY),
        manager::HEAP2 => ("Heap2", HEAP2),
        manager::HEAP => ("Heap", HEAP),
        manager::BTREE => ("Btree", BTREE),
        manager::HASH => ("Hash", HASH),
        manager::GIN => ("Gin", GIN),
        manager::GIST => ("Gist", GIST),
        manager::SEQUENCE => ("Sequence", &[(0x00, "LOG")]),
        manager::SPGIST => ("SPGist", SPGIST),
        manager::BRIN => ("BRIN", BRIN),
        manager::COMMIT_TIMESTAMP => ("CommitTs", &[(0x00, "ZEROPAGE"), (0x10, "TRUNCATE")]),
        manager::REPLICATION_ORIGIN => ("ReplicationOrigin", &[(0x00, "SET"), (0x10, "DROP")]),
        manager::GENERIC => ("Generic", &[(0x00, "Generic")]),
        manager::LOGICAL_MESSAGE => ("LogicalMessage", &[(0x00, "MESSAGE")]),
        _ => return None,
    })
}

const XLOG: Operations = &[
    (0x00, "CHECKPOINT_SHUTDOWN"),
    (0x10, "CHECKPOINT_ONLINE"),
    (0x20, "NOOP"),
    (0x30, "NEXTOID"),
    (0x40, "SWITCH"),
    (0x50, "BACKUP_END"),
    (0x60, "PARAMETER_CHANGE"),
    (0x70, "RESTORE_POINT"),
    (0x80, "FPW_CHANGE"),
    (0x90, "END_OF_RECOVERY"),
    (0xA0, "FPI_FOR_HINT"),
    (0xB0, "FPI"),
    (0xD0, "OVERWRITE_CONTRECORD"),
];
const TRANSACTION: Operations = &[
    (0x00, "COMMIT"),
    (0x10, "PREPARE"),
    (0x20, "ABORT"),
    (0x30, "COMMIT_PREPARED"),
    (0x40, "ABORT_PREPARED"),
    (0x50, "ASSIGNMENT"),
    (0x60, "INVALIDATION"),
];
const DATABASE: Operations = &[(0x00, "CREATE_FILE_COPY"), (0x10, "CREATE_WAL_LOG"), (0x20, "DROP")];
const MULTIXACT: Operations = &[
    (0x00, "ZERO_OFF_PAGE"),
    (0x10, "ZERO_MEM_PAGE"),
    (0x20, "CREATE_ID"),
    (0x30, "TRUNCATE_ID"),
];
const STANDBY: Operations = &[(0x00, "LOCK"), (0x10, "RUNNING_XACTS"), (0x20, "INVALIDATIONS")];
const HEAP2: Operations = &[
    (0x00, "REWRITE"),
    (0x10, "PRUNE"),
    (0x20, "VACUUM"),
    (0x30, "FREEZE_PAGE"),
    (0x40, "VISIBLE"),
    (0x50, "MULTI_INSERT"),
    (0xD0, "MULTI_INSERT+INIT"),
    (0x60, "LOCK_UPDATED"),
    (0x70, "NEW_CID"),
];
const HEAP: Operations = &[
    (0x00, "INSERT"),
    (0x80, "INSERT+INIT"),
    (0x10, "DELETE"),
    (0x20, "UPDATE"),
    (0xA0, "UPDATE+INIT"),
    (0x30, "TRUNCATE"),
    (0x40, "HOT_UPDATE"),
    (0xC0, "HOT_UPDATE+INIT"),
    (0x50, "HEAP_CONFIRM"),
    (0x60, "LOCK"),
    (0x70, "INPLACE"),
];
const BTREE: Operations = &[
    (0x00, "INSERT_LEAF"),
    (0x10, "INSERT_UPPER"),
    (0x20, "INSERT_META"),
    (0x30, "SPLIT_L"),
    (0x40, "SPLIT_R"),
    (0x50, "INSERT_POST"),
    (0x60, "DEDUP"),
    (0x70, "DELETE"),
    (0x80, "UNLINK_PAGE"),
    (0x90, "UNLINK_PAGE_META"),
    (0xA0, "NEWROOT"),
    (0xB0, "MARK_PAGE_HALFDEAD"),
    (0xC0, "VACUUM"),
    (0xD0, "REUSE_PAGE"),
    (0xE0, "META_CLEANUP"),
];
const HASH: Operations = &[
    (0x00, "INIT_META_PAGE"),
    (0x10, "INIT_BITMAP_PAGE"),
    (0x20, "INSERT"),
    (0x30, "ADD_OVFL_PAGE"),
    (0x40, "SPLIT_ALLOCATE_PAGE"),
    (0x50, "SPLIT_PAGE"),
    (0x60, "SPLIT_COMPLETE"),
    (0x70, "MOVE_PAGE_CONTENTS"),
    (0x80, "SQUEEZE_PAGE"),
    (0x90, "DELETE"),
    (0xA0, "SPLIT_CLEANUP"),
    (0xB0, "UPDATE_META_PAGE"),
    (0xC0, "VACUUM_ONE_PAGE"),
];
const GIN: Operations = &[
    (0x10, "CREATE_PTREE"),
    (0x20, "INSERT"),
    (0x30, "SPLIT"),
    (0x40, "VACUUM_PAGE"),
    (0x50, "DELETE_PAGE"),
    (0x60, "UPDATE_META_PAGE"),
    (0x70, "INSERT_LISTPAGE"),
    (0x80, "DELETE_LISTPAGE"),
    (0x90, "VACUUM_DATA_LEAF_PAGE"),
];
const GIST: Operations = &[
    (0x00, "PAGE_UPDATE"),
    (0x10, "DELETE"),
    (0x20, "PAGE_REUSE"),
    (0x30, "PAGE_SPLIT"),
    (0x60, "PAGE_DELETE"),
    (0x70, "ASSIGN_LSN"),
];
const SPGIST: Operations = &[
    (0x10, "ADD_LEAF"),
    (0x20, "MOVE_LEAFS"),
    (0x30, "ADD_NODE"),
    (0x40, "SPLIT_TUPLE"),
    (0x50, "PICKSPLIT"),
    (0x60, "VACUUM_LEAF"),
    (0x70, "VACUUM_ROOT"),
    (0x80, "VACUUM_REDIRECT"),
];
const BRIN: Operations = &[
    (0x00, "CREATE_INDEX"),
    (0x10, "INSERT"),
    (0x90, "INSERT+INIT"),
    (0x20, "UPDATE"),
    (0xA0, "UPDATE+INIT"),
    (0x30, "SAMEPAGE_UPDATE"),
    (0x40, "REVMAP_EXTEND"),
    (0x50, "DESUMMARIZE"),
];
