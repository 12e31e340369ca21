//! SQL functions: what this library is, what it did, and forgetting what PostgreSQL has in its buffers.
//!
//! `functions.sql` tells PostgreSQL about them. In a server that did not preload the library they raise an error.

use pgrx::pg_sys::{self, Datum, FunctionCallInfo, Oid, Pg_finfo_record};
use pgrx::{IntoDatum, PgSqlErrorCode, Spi, pg_guard};

use crate::{errors, overlay, shared_memory, sizes, storage_manager};

macro_rules! export {
    ($information:ident) => {
        /// Tells PostgreSQL how to call the function of this name.
        #[unsafe(no_mangle)]
        pub extern "C" fn $information() -> &'static Pg_finfo_record {
            const VERSION_1: Pg_finfo_record = Pg_finfo_record { api_version: 1 };
            &VERSION_1
        }
    };
}

export!(pg_finfo_borealis_version);
export!(pg_finfo_borealis_counters);
export!(pg_finfo_borealis_evict_all);

fn datum(value: impl IntoDatum) -> Datum {
    value.into_datum().expect("neither texts nor numbers turn into null")
}

fn require_shared_memory() {
    if !shared_memory::exists() {
        errors::raise(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "this server's relations do not live in a volume".to_owned(),
            "Start it with \"borealis up\".",
        );
    }
}

/// `borealis_version() → text`.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn borealis_version(_call: FunctionCallInfo) -> Datum {
    datum(env!("CARGO_PKG_VERSION"))
}

/// `borealis_counters() → text`: a JSON object of numbers.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn borealis_counters(_call: FunctionCallInfo) -> Datum {
    require_shared_memory();
    let usage = overlay::usage();
    let (known, changed) = sizes::usage();
    let mut all = shared_memory::counters().all();
    all.extend([
        ("overlay_pages", usage.entries),
        ("overlay_pages_spilled", usage.spilled),
        ("overlay_pages_kept_forever", usage.forever),
        ("overlay_pages_of_maps", usage.maps),
        ("overlay_pages_with_command_ids", usage.commands),
        ("overlay_pages_kept_for_vacuum", usage.vacuum),
        ("relation_sizes", known),
        ("relation_sizes_changed", changed),
    ]);
    let fields: Vec<String> = all.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
    datum(format!("{{{}}}", fields.join(", ")))
}

/// `borealis_evict_all() → bigint`: writes out and drops the shared buffers of this database's permanent user relations;
/// gives how many relations. One that somebody uses right now is left alone: an exclusive lock is what makes this safe.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn borealis_evict_all(_call: FunctionCallInfo) -> Datum {
    require_shared_memory();
    let relations =
        "select oid from pg_class where relpersistence = 'p' and relkind in ('r', 'i', 't', 'm', 'S') and oid >= 16384";
    let relations: Result<Vec<Oid>, _> = Spi::connect(|client| {
        client
            .select(relations, None, &[])?
            .map(|row| row.get(1))
            .filter_map(Result::transpose)
            .collect()
    });
    let relations = match relations {
        Ok(relations) => relations,
        Err::<_, pgrx::spi::SpiError>(error) => errors::raise(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            format!("cannot list relations: {error}"),
            "",
        ),
    };
    datum(relations.into_iter().filter(|relation| evict(*relation)).count() as i64)
}

fn evict(relation: Oid) -> bool {
    const MODE: pg_sys::LOCKMODE = pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE;
    // SAFETY: called in a transaction. With the exclusive lock nobody else reads or changes the relation's pages, so none
    // becomes dirty between writing and dropping; the checkpointer's pins are waited for. A relation dropped meanwhile
    // does not open.
    unsafe {
        if !pg_sys::ConditionalLockRelationOid(relation, MODE) {
            return false;
        }
        let opened = pg_sys::try_relation_open(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        if !opened.is_null() {
            pg_sys::FlushRelationBuffers(opened);
            let mut forks = [0, 1, 2, 3];
            let mut first_blocks = [0; 4];
            let manager = storage_manager::open(opened);
            pg_sys::DropRelFileNodeBuffers(manager, forks.as_mut_ptr(), 4, first_blocks.as_mut_ptr());
            pg_sys::relation_close(opened, pg_sys::NoLock as pg_sys::LOCKMODE);
        }
        pg_sys::UnlockRelationOid(relation, MODE);
        !opened.is_null()
    }
}
