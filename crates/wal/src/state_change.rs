//! What a record does besides changing pages: files come and go, databases, prepared transactions, parameters.

use units::{ForkKey, Lsn, fork};

use crate::fields::{Fields, u32s};
use crate::touches::{
    DATABASE_DROP, FORKS, SMGR_CREATE, SMGR_TRUNCATE, Truncation, cleared_visibility, visibility_page,
};
use crate::{Checkpoint, DecodedRecord, Kind, Parameters, Prepare, RecordError, TransactionEnd, resource_manager};

/// One change of the volume's state outside its pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StateChange<'a> {
    /// The fork exists from now on. It may exist already; its size stays then.
    ForkCreated {
        /// Which fork.
        fork: ForkKey,
    },
    /// The fork has at least so many blocks; those between are zeros.
    ForkExtended {
        /// Which fork.
        fork: ForkKey,
        /// At least so many.
        blocks: u32,
        /// Only if the fork exists. Otherwise it comes to exist by this.
        if_exists: bool,
    },
    /// The fork has at most so many blocks. It does not come to exist by this.
    ForkTruncated {
        /// Which fork.
        fork: ForkKey,
        /// At most so many.
        blocks: u32,
    },
    /// The fork is gone, if it was there.
    ForkDropped {
        /// Which fork.
        fork: ForkKey,
    },
    /// An empty database: its directory. Its pages follow in records of their own (`CREATE DATABASE … STRATEGY wal_log`).
    DatabaseCreated {
        /// OID of the tablespace.
        tablespace: u32,
        /// OID of the database.
        database: u32,
    },
    /// A database that equals another as of this record, every fork and its relation map (`STRATEGY file_copy`).
    DatabaseCopied {
        /// OID of the tablespace.
        tablespace: u32,
        /// OID of the database.
        database: u32,
        /// OID of the tablespace copied from.
        source_tablespace: u32,
        /// OID of the database copied from.
        source_database: u32,
    },
    /// What a database has in a tablespace is gone.
    DatabaseDropped {
        /// OID of the tablespace.
        tablespace: u32,
        /// OID of the database.
        database: u32,
    },
    /// A relation map is replaced.
    RelationMapUpdated {
        /// OID of the database's tablespace.
        tablespace: u32,
        /// OID of the database, zero for the shared map.
        database: u32,
        /// The whole file.
        bytes: &'a [u8],
    },
    /// A tablespace and where it is.
    TablespaceCreated {
        /// Its OID.
        tablespace: u32,
        /// The directory; empty for one in place.
        path: &'a [u8],
    },
    /// A tablespace is gone.
    TablespaceDropped {
        /// Its OID.
        tablespace: u32,
    },
    /// A transaction was prepared.
    Prepared {
        /// Which.
        transaction: u32,
        /// Its file, less the CRC-32C at the end.
        payload: &'a [u8],
    },
    /// A prepared transaction was committed or aborted: its file goes.
    PreparedFinished {
        /// Which.
        transaction: u32,
    },
    /// A checkpoint.
    Checkpoint {
        /// What it says.
        checkpoint: Checkpoint,
        /// The engine was shut down: the checkpoint is exact, and nothing was running.
        is_shutdown: bool,
    },
    /// The next object identifier.
    NextOid {
        /// Its value.
        next_oid: u32,
    },
    /// The engine's parameters; also whether commit timestamps are tracked. If not, all of them are gone.
    ParametersChanged(Parameters),
    /// Whether pages are logged whole when first changed after a checkpoint.
    FullPageWritesChanged {
        /// Whether.
        full_page_writes: bool,
    },
    /// A name for this place in the log.
    RestorePoint {
        /// When, in PostgreSQL's microseconds.
        time: i64,
        /// The name.
        name: &'a [u8],
    },
    /// Recovery ended without a checkpoint, on a new timeline of PostgreSQL's.
    EndOfRecovery {
        /// The new one.
        timeline: u32,
        /// The one before.
        previous_timeline: u32,
    },
    /// A base backup that began at this place is complete.
    BackupEnded {
        /// Where it began.
        start: Lsn,
    },
    /// A record cut off at this place was given up.
    ContinuationOverwritten {
        /// Where it began.
        start: Lsn,
    },
    /// Pages of `pg_xact` before this one are not needed any more.
    TransactionStatusTruncated {
        /// The first page that stays.
        first_page: u32,
        /// The oldest transaction whose status is kept.
        oldest_transaction: u32,
        /// Its database.
        database: u32,
    },
    /// Pages of `pg_commit_ts` before this one are not needed any more.
    CommitTimestampsTruncated {
        /// The first page that stays.
        first_page: u32,
        /// The oldest transaction whose timestamp is kept.
        oldest_transaction: u32,
    },
    /// Multixacts before this one are not needed any more.
    MultixactsTruncated {
        /// The oldest that is kept.
        oldest_multixact: u32,
        /// Its database.
        database: u32,
        /// Where its members begin.
        oldest_offset: u32,
    },
    /// How far a replication origin was replayed. It comes to exist by this, also at position zero.
    OriginAdvanced {
        /// Its number.
        origin: u16,
        /// To there, in its own log. If it is further already, it stays, unless `force` is set.
        remote_lsn: Lsn,
        /// Also backwards.
        force: bool,
    },
    /// A replication origin is gone.
    OriginDropped {
        /// Its number.
        origin: u16,
    },
}

/// Appends what `record` changes besides pages.
pub fn state_changes<'a>(record: &DecodedRecord<'a>, changes: &mut Vec<StateChange<'a>>) -> Result<(), RecordError> {
    let kind = record.kind()?;
    extended_forks(record, kind, changes)?;
    let fields = Fields::new(kind, record.data);
    match record.header.resource_manager {
        resource_manager::XLOG => changes.extend(log(record, kind, fields)?),
        resource_manager::TRANSACTION => transaction(record, changes)?,
        resource_manager::STORAGE => storage(record, kind, fields, changes)?,
        resource_manager::DATABASE => database(record, fields, changes)?,
        resource_manager::TABLESPACE => changes.push(tablespace(record, fields)?),
        resource_manager::RELATION_MAP => changes.push(relation_map(fields)?),
        resource_manager::CLOG | resource_manager::COMMIT_TIMESTAMP | resource_manager::MULTIXACT => {
            changes.extend(status_truncation(record, fields)?);
        }
        resource_manager::REPLICATION_ORIGIN => changes.extend(origin(record, fields)?),
        // The others change pages only, or nothing that outlives the engine's process: locks, running transactions,
        // mappings for logical decoding (replication slots are not kept).
        _ => {}
    }
    Ok(())
}

/// Redo extends a file to the block that a record refers to (`XLogReadBufferExtended`).
fn extended_forks(
    record: &DecodedRecord<'_>,
    kind: Kind,
    changes: &mut Vec<StateChange<'_>>,
) -> Result<(), RecordError> {
    let no_block = RecordError::Malformed {
        kind,
        what: "it refers to a block that no file can have",
    };
    let is_image_only = record.header.resource_manager == resource_manager::XLOG;
    for block in record.blocks().filter(|block| !is_image_only || block.image.is_some()) {
        let blocks = block.key.block.checked_add(1).ok_or(no_block)?;
        changes.push(StateChange::ForkExtended {
            fork: block.key.fork,
            blocks,
            if_exists: false,
        });
    }
    for heap_page in cleared_visibility(record)?.into_iter().flatten() {
        let map_page = visibility_page(heap_page);
        changes.push(StateChange::ForkExtended {
            fork: map_page.fork,
            blocks: map_page.block + 1,
            if_exists: true,
        });
    }
    Ok(())
}

/// `xlog_redo`.
fn log<'a>(
    record: &DecodedRecord<'a>,
    kind: Kind,
    mut fields: Fields<'a>,
) -> Result<Option<StateChange<'a>>, RecordError> {
    Ok(Some(match record.operation() {
        0x00 | 0x10 => StateChange::Checkpoint {
            checkpoint: Checkpoint::of(kind, record.data)?,
            is_shutdown: record.operation() == 0x00,
        },
        0x30 => StateChange::NextOid {
            next_oid: fields.u32("object identifier")?,
        },
        0x50 => StateChange::BackupEnded {
            start: fields.lsn("start")?,
        },
        0x60 => StateChange::ParametersChanged(Parameters::of(kind, record.data)?),
        0x70 => StateChange::RestorePoint {
            time: fields.i64("time")?,
            name: fields.terminated("name")?,
        },
        0x80 => StateChange::FullPageWritesChanged {
            full_page_writes: fields.u8("setting")? != 0,
        },
        0x90 => {
            fields.i64("time")?;
            StateChange::EndOfRecovery {
                timeline: fields.u32("timeline")?,
                previous_timeline: fields.u32("timeline")?,
            }
        }
        0xD0 => StateChange::ContinuationOverwritten {
            start: fields.lsn("start")?,
        },
        _ => return Ok(None),
    }))
}

fn transaction<'a>(record: &DecodedRecord<'a>, changes: &mut Vec<StateChange<'a>>) -> Result<(), RecordError> {
    if let Some(prepare) = Prepare::of(record)? {
        changes.push(StateChange::Prepared {
            transaction: prepare.transaction,
            payload: prepare.payload,
        });
        // PrepareRedoAdd.
        changes.extend(
            record
                .origin
                .and_then(|origin| progress(origin, prepare.origin_lsn, false)),
        );
    }
    let Some(end) = TransactionEnd::of(record)? else {
        return Ok(());
    };
    if end.was_prepared {
        let transaction = end.transaction;
        changes.push(StateChange::PreparedFinished { transaction });
    }
    for relation in end.dropped() {
        changes.extend(FORKS.map(|fork| StateChange::ForkDropped {
            fork: relation.fork(fork),
        }));
    }
    if let (Some(origin), Some(remote_lsn)) = (record.origin, end.origin_lsn) {
        changes.extend(progress(origin, remote_lsn, false));
    }
    Ok(())
}

/// `replorigin_advance`: a transaction whose changes are not to be replicated further has an origin without progress
/// (`DoNotReplicateId`).
fn progress<'a>(origin: u16, remote_lsn: Lsn, force: bool) -> Option<StateChange<'a>> {
    const NONE: u16 = 0;
    const NOT_REPLICATED: u16 = u16::MAX;
    (origin != NONE && origin != NOT_REPLICATED).then_some(StateChange::OriginAdvanced {
        origin,
        remote_lsn,
        force,
    })
}

/// `smgr_redo` in `catalog/storage.c`.
fn storage(
    record: &DecodedRecord<'_>,
    kind: Kind,
    mut fields: Fields<'_>,
    changes: &mut Vec<StateChange<'_>>,
) -> Result<(), RecordError> {
    match record.operation() {
        SMGR_CREATE => {
            let relation = fields.relation()?;
            let number = u8::try_from(fields.u32("fork")?)
                .ok()
                .filter(|fork| FORKS.contains(fork));
            let number = number.ok_or(fields.malformed("there is no such fork"))?;
            changes.push(StateChange::ForkCreated {
                fork: relation.fork(number),
            });
        }
        SMGR_TRUNCATE => {
            let truncation = Truncation::decode(record, kind)?;
            // Redo makes the main fork if it is missing, even if only the maps are truncated.
            changes.push(StateChange::ForkCreated {
                fork: truncation.relation.fork(fork::MAIN),
            });
            let maps = truncation.maps.into_iter().flatten().map(|map| (map.map, map.blocks));
            for (fork, blocks) in truncation.main.into_iter().chain(maps) {
                changes.push(StateChange::ForkTruncated { fork, blocks });
            }
        }
        _ => {}
    }
    Ok(())
}

fn database(
    record: &DecodedRecord<'_>,
    mut fields: Fields<'_>,
    changes: &mut Vec<StateChange<'_>>,
) -> Result<(), RecordError> {
    let database = fields.u32("database")?;
    if record.operation() == DATABASE_DROP {
        let tablespaces = u32s(fields.counted(4, "tablespaces")?);
        changes.extend(tablespaces.map(|tablespace| StateChange::DatabaseDropped { tablespace, database }));
        return Ok(());
    }
    let tablespace = fields.u32("tablespace")?;
    changes.push(if record.operation() == 0x00 {
        let source_database = fields.u32("source database")?;
        StateChange::DatabaseCopied {
            tablespace,
            database,
            source_tablespace: fields.u32("source tablespace")?,
            source_database,
        }
    } else {
        StateChange::DatabaseCreated { tablespace, database }
    });
    Ok(())
}

fn tablespace<'a>(record: &DecodedRecord<'a>, mut fields: Fields<'a>) -> Result<StateChange<'a>, RecordError> {
    let tablespace = fields.u32("tablespace")?;
    Ok(if record.operation() == 0x00 {
        let path = fields.terminated("path")?;
        StateChange::TablespaceCreated { tablespace, path }
    } else {
        StateChange::TablespaceDropped { tablespace }
    })
}

fn relation_map(mut fields: Fields<'_>) -> Result<StateChange<'_>, RecordError> {
    let database = fields.u32("database")?;
    Ok(StateChange::RelationMapUpdated {
        tablespace: fields.u32("tablespace")?,
        database,
        bytes: fields.counted(1, "map")?,
    })
}

fn status_truncation<'a>(
    record: &DecodedRecord<'a>,
    mut fields: Fields<'a>,
) -> Result<Option<StateChange<'a>>, RecordError> {
    Ok(match (record.header.resource_manager, record.operation()) {
        (resource_manager::CLOG, 0x10) => Some(StateChange::TransactionStatusTruncated {
            first_page: fields.u32("page")?,
            oldest_transaction: fields.u32("oldest transaction")?,
            database: fields.u32("database")?,
        }),
        (resource_manager::COMMIT_TIMESTAMP, 0x10) => Some(StateChange::CommitTimestampsTruncated {
            first_page: fields.u32("page")?,
            oldest_transaction: fields.u32("oldest transaction")?,
        }),
        (resource_manager::MULTIXACT, 0x30) => {
            let database = fields.u32("database")?;
            fields.u32("first multixact")?;
            let oldest_multixact = fields.u32("oldest multixact")?;
            fields.u32("first offset")?;
            Some(StateChange::MultixactsTruncated {
                oldest_multixact,
                database,
                oldest_offset: fields.u32("oldest offset")?,
            })
        }
        _ => None,
    })
}

/// `replorigin_redo` in `replication/logical/origin.c`.
fn origin<'a>(record: &DecodedRecord<'a>, mut fields: Fields<'a>) -> Result<Option<StateChange<'a>>, RecordError> {
    if record.operation() == 0x10 {
        let origin = fields.u16("origin")?;
        return Ok(Some(StateChange::OriginDropped { origin }));
    }
    let remote_lsn = fields.lsn("position")?;
    let origin = fields.u16("origin")?;
    Ok(progress(origin, remote_lsn, fields.u8("force")? != 0))
}
