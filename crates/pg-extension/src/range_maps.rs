//! Range maps of BRIN indexes, in a database that was copied.
//!
//! `CREATE DATABASE` logs each page of the copy as one whose middle is free (`RelationCopyStorageUsingBuffer`), and nothing
//! but the middle is what a range map has: the log then holds an empty map. Stock PostgreSQL loses the maps in a crash; here
//! every page that is read back comes from the log. So the maps are logged once more, in full, before the copy is committed.
//! Free space maps and visibility maps fare alike, and do without: they are advice that the next VACUUM gives again.

use std::cell::RefCell;

use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::{self, ForkNumber, Oid, ReadBufferMode, RelFileNode};
use units::{ForkKey, RelationKey, fork};

use crate::page::{self, PageBytes};
use crate::{errors, sizes};

/// `BRIN_METAPAGE_BLKNO`.
const META_BLOCK: u32 = 0;

/// What this process's transaction copies.
struct Copies {
    /// The fork that was asked last how long it is: the copy of it is extended next.
    source: Option<ForkKey>,
    /// Permanent relations, each with its copy.
    relations: Vec<(RelationKey, RelationKey)>,
}

thread_local! {
    static COPIES: RefCell<Copies> = const {
        RefCell::new(Copies {
            source: None,
            relations: Vec::new(),
        })
    };
}

/// Notes that PostgreSQL asked how long a fork is, while it creates a database.
pub fn asked(fork: ForkKey) {
    COPIES.with_borrow_mut(|copies| copies.source = Some(fork));
}

/// Notes that a fork of the database that is being created got its blocks.
pub fn extended(copy: ForkKey) {
    if copy.fork != fork::MAIN {
        return;
    }
    COPIES.with_borrow_mut(|copies| {
        let source = copies.source.take();
        // A copy keeps the number of its file (`CreateDatabaseUsingWalLog`).
        let is_source = |source: &ForkKey| {
            source.fork == fork::MAIN && source.relation.relation == copy.relation.relation && *source != copy
        };
        match source.filter(is_source) {
            Some(source) => copies.relations.push((source.relation, copy.relation)),
            None => errors::raise(
                PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                format!("cannot tell what {copy} is a copy of"),
                "",
            ),
        }
    });
}

/// Forgets what was noted.
pub fn forget() {
    COPIES.with_borrow_mut(|copies| {
        copies.source = None;
        copies.relations = Vec::new();
    });
}

/// Logs the range maps of all BRIN indexes that were copied. Called behind the copy, in its transaction: until that ends,
/// nobody can connect to either database.
pub fn log() {
    let relations = COPIES.with_borrow_mut(|copies| std::mem::take(&mut copies.relations));
    for (source, copy) in relations {
        let main = source.fork(fork::MAIN);
        if sizes::get(main).is_some_and(|entry| entry.local) || sizes::is_known_unlogged(main) {
            continue;
        }
        let last = with_page(source, META_BLOCK, pg_sys::BUFFER_LOCK_SHARE, |_, page| {
            page::last_range_map(page)
        });
        for block in 1..=last.unwrap_or(META_BLOCK) {
            // Not what stands in the copy: it may have left the buffers, and then comes back as the log has it.
            let map = with_page(source, block, pg_sys::BUFFER_LOCK_SHARE, |_, page| *page);
            if page::is_range_map(&map) {
                with_page(copy, block, pg_sys::BUFFER_LOCK_EXCLUSIVE, |buffer, page| {
                    *page = map;
                    log_whole(buffer);
                });
            }
        }
    }
}

/// Logs a page with all that stands in it.
fn log_whole(buffer: pg_sys::Buffer) {
    // SAFETY: the buffer is pinned and locked exclusively. In between nothing can fail, or the server would have to stop: what
    // START_CRIT_SECTION and END_CRIT_SECTION say.
    unsafe {
        pg_sys::CritSectionCount += 1;
        pg_sys::MarkBufferDirty(buffer);
        pg_sys::log_newpage_buffer(buffer, false);
        pg_sys::CritSectionCount -= 1;
    }
}

/// Calls `act` with a block of a permanent relation, pinned and locked.
fn with_page<T>(
    relation: RelationKey,
    block: u32,
    lock: u32,
    act: impl FnOnce(pg_sys::Buffer, &mut PageBytes) -> T,
) -> T {
    let node = RelFileNode {
        spcNode: Oid::from_u32(relation.tablespace),
        dbNode: Oid::from_u32(relation.database),
        relNode: Oid::from_u32(relation.relation),
    };
    // SAFETY: nobody else uses the relation, so the page changes by our hand only, and it has the blocks that it was copied
    // with. An error of PostgreSQL's lets go of pin and lock at the transaction's end.
    unsafe {
        let (mode, strategy) = (ReadBufferMode::RBM_NORMAL, std::ptr::null_mut());
        let buffer = pg_sys::ReadBufferWithoutRelcache(node, ForkNumber::MAIN_FORKNUM, block, mode, strategy, true);
        pg_sys::LockBuffer(buffer, lock as i32);
        let answer = act(buffer, &mut *pg_sys::BufferGetPage(buffer).cast::<PageBytes>());
        pg_sys::UnlockReleaseBuffer(buffer);
        answer
    }
}
