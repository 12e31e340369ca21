//! `pg_relation_size` and its relatives, which stock PostgreSQL answers by looking at files (dbsize.c).
//!
//! Relations are asked for through the storage manager, whatever their kind. Databases and tablespaces: what the files hold
//! (temporary and unlogged relations), plus the permanent relations as this instance and the volume know them.

use std::ffi::{CStr, c_int};
use std::sync::OnceLock;

use pgrx::pg_sys::{self, Datum, FunctionCallInfo, Oid, PGFunction, Relation};
use pgrx::{FromDatum, IntoDatum, pg_guard};
use units::{ForkKey, PAGE_BYTES};

use crate::{broker_client, builtin_functions, sizes, storage_manager};

static STOCK_DATABASE_SIZE: OnceLock<[PGFunction; 2]> = OnceLock::new();
static STOCK_TABLESPACE_SIZE: OnceLock<[PGFunction; 2]> = OnceLock::new();

/// Replaces the functions; in the postmaster, so that every process has them.
pub fn install() {
    builtin_functions::replace([
        (c"pg_relation_size", relation_size),
        (c"pg_table_size", table_size),
        (c"pg_indexes_size", indexes_size),
        (c"pg_total_relation_size", total_relation_size),
    ]);
    STOCK_DATABASE_SIZE.get_or_init(|| {
        builtin_functions::replace([
            (c"pg_database_size_oid", database_size),
            (c"pg_database_size_name", database_size_by_name),
        ])
    });
    STOCK_TABLESPACE_SIZE.get_or_init(|| {
        builtin_functions::replace([
            (c"pg_tablespace_size_oid", tablespace_size),
            (c"pg_tablespace_size_name", tablespace_size_by_name),
        ])
    });
}

/// Bytes of some forks.
fn fork_bytes(relation: Relation, forks: &[pg_sys::ForkNumber::Type]) -> i64 {
    // SAFETY: the relation is open; those without storage (views, partitioned tables) have no file number.
    unsafe {
        if (*relation).rd_node.relNode == Oid::INVALID {
            return 0;
        }
        let manager = storage_manager::open(relation);
        let existing = forks.iter().filter(|fork| pg_sys::smgrexists(manager, **fork));
        existing
            .map(|fork| i64::from(pg_sys::smgrnblocks(manager, *fork)) * PAGE_BYTES as i64)
            .sum()
    }
}

const ALL_FORKS: [pg_sys::ForkNumber::Type; 4] = [0, 1, 2, 3];

/// Bytes of another relation that belongs to one that is locked.
fn bytes_of(relation: Oid, bytes: fn(Relation) -> i64) -> i64 {
    with_relation(relation, bytes).unwrap_or(0)
}

fn with_relation(relation: Oid, bytes: fn(Relation) -> i64) -> Option<i64> {
    const MODE: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: called in a transaction; a relation that does not exist gives null.
    unsafe {
        let opened = pg_sys::try_relation_open(relation, MODE);
        if opened.is_null() {
            return None;
        }
        let bytes = bytes(opened);
        pg_sys::relation_close(opened, MODE);
        Some(bytes)
    }
}

/// Bytes of a relation without its indexes, and of its TOAST table with its index.
fn table_bytes(relation: Relation) -> i64 {
    // SAFETY: an open relation has its catalog row.
    let toast = unsafe { (*(*relation).rd_rel).reltoastrelid };
    let toast = if toast == Oid::INVALID {
        0
    } else {
        bytes_of(toast, total_bytes)
    };
    fork_bytes(relation, &ALL_FORKS) + toast
}

fn indexes_bytes(relation: Relation) -> i64 {
    // SAFETY: the relation is open; the list is of OIDs, and is ours to free, which the memory context does.
    unsafe {
        if !(*(*relation).rd_rel).relhasindex {
            return 0;
        }
        let indexes = pg_sys::RelationGetIndexList(relation);
        let count = if indexes.is_null() { 0 } else { (*indexes).length };
        let index = |at: c_int| (*(*indexes).elements.add(at as usize)).oid_value;
        (0..count)
            .map(|at| bytes_of(index(at), |index| fork_bytes(index, &ALL_FORKS)))
            .sum()
    }
}

fn total_bytes(relation: Relation) -> i64 {
    table_bytes(relation) + indexes_bytes(relation)
}

/// An argument of a strict function.
fn argument<T: FromDatum>(call: FunctionCallInfo, index: usize) -> T {
    // SAFETY: PostgreSQL calls these functions with arguments of the types declared for them, none of them null.
    unsafe { T::from_datum(pgrx::pg_getarg_datum_raw(call, index), false) }.expect("the functions are strict")
}

fn answer(call: FunctionCallInfo, bytes: Option<i64>) -> Datum {
    match bytes.and_then(IntoDatum::into_datum) {
        Some(bytes) => bytes,
        // SAFETY: the call that PostgreSQL gave us.
        None => unsafe { pgrx::pg_return_null(call) },
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn relation_size(call: FunctionCallInfo) -> Datum {
    let name: String = argument(call, 1);
    let name = std::ffi::CString::new(name).expect("PostgreSQL's texts contain no zero byte");
    // SAFETY: raises an error unless it is a fork's name.
    let fork = unsafe { pg_sys::forkname_to_number(name.as_ptr()) };
    let bytes: fn(Relation) -> i64 = match fork {
        0 => |relation| fork_bytes(relation, &[0]),
        1 => |relation| fork_bytes(relation, &[1]),
        2 => |relation| fork_bytes(relation, &[2]),
        _ => |relation| fork_bytes(relation, &[3]),
    };
    answer(call, with_relation(argument(call, 0), bytes))
}

#[pg_guard]
unsafe extern "C-unwind" fn table_size(call: FunctionCallInfo) -> Datum {
    answer(call, with_relation(argument(call, 0), table_bytes))
}

#[pg_guard]
unsafe extern "C-unwind" fn indexes_size(call: FunctionCallInfo) -> Datum {
    answer(call, with_relation(argument(call, 0), indexes_bytes))
}

#[pg_guard]
unsafe extern "C-unwind" fn total_relation_size(call: FunctionCallInfo) -> Datum {
    answer(call, with_relation(argument(call, 0), total_bytes))
}

/// What the stock function counts in files, and the permission it checks, plus blocks that are not in files.
fn with_stock(call: FunctionCallInfo, stock: PGFunction, blocks: impl FnOnce() -> u64) -> Datum {
    let stock = stock.expect("replaced functions are not null");
    // SAFETY: the stock function, with the call it was meant for.
    let (in_files, is_null) = unsafe {
        let in_files = pg_sys::ffi::pg_guard_ffi_boundary(|| stock(call));
        (in_files, (*call).isnull)
    };
    if is_null {
        return in_files;
    }
    answer(
        call,
        Some(in_files.value() as i64 + (blocks() * PAGE_BYTES as u64) as i64),
    )
}

/// Blocks of permanent relations. What this instance knows of a fork is newer than what the volume knows.
fn blocks(tablespace: Option<u32>, database: Option<u32>) -> u64 {
    let mut blocks = sizes::blocks_where(|fork: &ForkKey| {
        tablespace.is_none_or(|tablespace| fork.relation.tablespace == tablespace)
            && database.is_none_or(|database| fork.relation.database == database)
    });
    broker_client::for_each_fork(tablespace, database, |size| {
        if sizes::get(size.fork).is_none() {
            blocks += u64::from(size.blocks);
        }
    });
    blocks
}

#[pg_guard]
unsafe extern "C-unwind" fn database_size(call: FunctionCallInfo) -> Datum {
    let database: Oid = argument(call, 0);
    with_stock(call, stock(&STOCK_DATABASE_SIZE, 0), || {
        blocks(None, Some(database.to_u32()))
    })
}

#[pg_guard]
unsafe extern "C-unwind" fn database_size_by_name(call: FunctionCallInfo) -> Datum {
    let name: &CStr = argument(call, 0);
    // SAFETY: a name, which ends with zero; an unknown one raises an error.
    let database = unsafe { pg_sys::get_database_oid(name.as_ptr(), false) };
    with_stock(call, stock(&STOCK_DATABASE_SIZE, 1), || {
        blocks(None, Some(database.to_u32()))
    })
}

#[pg_guard]
unsafe extern "C-unwind" fn tablespace_size(call: FunctionCallInfo) -> Datum {
    let tablespace: Oid = argument(call, 0);
    with_stock(call, stock(&STOCK_TABLESPACE_SIZE, 0), || {
        blocks(Some(tablespace.to_u32()), None)
    })
}

#[pg_guard]
unsafe extern "C-unwind" fn tablespace_size_by_name(call: FunctionCallInfo) -> Datum {
    let name: &CStr = argument(call, 0);
    // SAFETY: a name, which ends with zero; an unknown one raises an error.
    let tablespace = unsafe { pg_sys::get_tablespace_oid(name.as_ptr(), false) };
    with_stock(call, stock(&STOCK_TABLESPACE_SIZE, 1), || {
        blocks(Some(tablespace.to_u32()), None)
    })
}

fn stock(functions: &OnceLock<[PGFunction; 2]>, index: usize) -> PGFunction {
    functions.get().expect("set when the functions were replaced")[index]
}
