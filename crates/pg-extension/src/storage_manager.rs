//! PostgreSQL's storage manager, answered from the volume.
//!
//! Whose page is it? Temporary relations stay with md, PostgreSQL's own manager. So do unlogged ones, which the flag of the
//! page's buffer tells (`BM_PERMANENT`), and for pages outside shared buffers the INIT fork. Everything else is permanent:
//! it is written to the overlay, read from there or from the volume, and md keeps only an empty file.
//!
//! Invariants:
//! - A page is in the overlay before the size says that it exists.
//! - Its last-written LSN is noted before the overlay may forget it.
//! - `truncate` (critical section) and what drops a relation (after the commit) ask nobody.

use std::cell::RefCell;
use std::ffi::c_char;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use pgrx::pg_sys::{self, BlockNumber, ForkNumber, RelFileNode, RelFileNodeBackend, SMgrRelation};
use pgrx::{PgSqlErrorCode, pg_guard};
use units::{ForkKey, Lsn, PAGE_BYTES, PageKey, RelationKey, fork};

use crate::counters::count;
use crate::function_table::{self, Table};
use crate::overlay_partition::Keep;
use crate::page::{self, PageBytes};
use crate::readahead::Readahead;
use crate::sizes::SizeEntry;
use crate::{
    broker_client, compare, databases, errors, judge, last_written, log_position, logged_later, overlay, settings,
    shared_memory, sizes,
};

static MD: OnceLock<Md> = OnceLock::new();

/// PostgreSQL's own functions.
struct Md(Table);

// SAFETY: addresses of functions and one null pointer.
unsafe impl Send for Md {}
// SAFETY: as above.
unsafe impl Sync for Md {}

/// Calls one of md's functions; an error of PostgreSQL passes through our frames as a panic, which `pg_guard` turns back.
macro_rules! md {
    ($function:ident($($argument:expr),*)) => {{
        let function = MD.get().expect("installed before relations are used").0.$function;
        // SAFETY: PostgreSQL's own function, with the arguments that PostgreSQL gave us for it.
        unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| function($($argument),*)) }
    }};
}

thread_local! {
    static READAHEAD: RefCell<Readahead> = const { RefCell::new(Readahead::new()) };
}

/// Puts our functions into the server's table.
pub fn install(table: *mut Table) {
    function_table::change_table(table, |table| {
        MD.get_or_init(|| Md(*table));
        table.create = create;
        table.exists = exists;
        table.unlink = unlink;
        table.extend = extend;
        table.prefetch = prefetch;
        table.read = read;
        table.write = write;
        table.writeback = writeback;
        table.blocks = blocks;
        table.truncate = truncate;
        table.sync_now = sync_now;
    });
}

/// The relation's storage manager handle, as PostgreSQL's own `RelationGetSmgr` gets it.
///
/// # Safety
/// `relation` must be open.
pub unsafe fn open(relation: pg_sys::Relation) -> SMgrRelation {
    // SAFETY: the relation is open, and owns the handle, which clears the pointer when it is closed.
    unsafe {
        if (*relation).rd_smgr.is_null() {
            let manager = pg_sys::smgropen((*relation).rd_node, (*relation).rd_backend);
            pg_sys::smgrsetowner(&raw mut (*relation).rd_smgr, manager);
        }
        (*relation).rd_smgr
    }
}

fn relation_key(node: RelFileNode) -> RelationKey {
    RelationKey {
        tablespace: node.spcNode.to_u32(),
        database: node.dbNode.to_u32(),
        relation: node.relNode.to_u32(),
    }
}

/// The fork; `None` if it is one of a temporary relation.
fn fork_key(node: RelFileNodeBackend, number: ForkNumber::Type) -> Option<ForkKey> {
    (node.backend == pg_sys::InvalidBackendId).then(|| relation_key(node.node).fork(number as u8))
}

fn fork_of(relation: SMgrRelation, number: ForkNumber::Type) -> Option<ForkKey> {
    // SAFETY: PostgreSQL gives its open relation.
    fork_key(unsafe { (*relation).smgr_rnode }, number)
}

/// What is known about the fork; asks the volume if nothing is.
fn known(relation: SMgrRelation, fork: ForkKey) -> SizeEntry {
    sizes::get_or_removals(fork).unwrap_or_else(|removals| {
        let needed = sizes::needed();
        if needed > log_position::flushed() {
            log_position::flush(needed);
        }
        let mut entry = broker_client::fork_blocks(fork, needed);
        if settings::compare() && !entry.local && entry.blocks.is_some() {
            let number = ForkNumber::Type::from(fork.fork);
            entry.in_files = md!(exists(relation, number)) && Some(md!(blocks(relation, number))) == entry.blocks;
        }
        sizes::note_from_volume(fork, entry, removals)
    })
}

/// Whether the fork's pages also go to md's file, and are compared with it: those of forks that were there when the server
/// started, or were created since. A server that was started without the files of its volume compares only new forks.
fn is_compared(relation: SMgrRelation, fork: ForkKey) -> bool {
    settings::compare() && known(relation, fork).in_files
}

/// Whether a page in shared buffers belongs to a permanent relation; `None` if it does not lie there. The flag is set
/// before the page is read or extended, and stays while it is pinned.
fn is_permanent_buffer(page: *const c_char) -> Option<bool> {
    // SAFETY: the buffers were allocated before any relation was used; the index is checked; the state is one aligned word
    // that others change atomically.
    unsafe {
        let distance = (page as usize).checked_sub(pg_sys::BufferBlocks as usize)?;
        let index = distance / PAGE_BYTES;
        if index >= pg_sys::NBuffers as usize {
            return None;
        }
        let state = &raw const (*pg_sys::BufferDescriptors.add(index)).bufferdesc.state.value;
        Some(state.read_volatile() & pg_sys::BM_PERMANENT != 0)
    }
}

/// Whether the page belongs into a file of the cluster.
fn is_local(relation: SMgrRelation, fork: ForkKey, page: *const c_char) -> bool {
    if fork.fork == fork::INIT {
        return false;
    }
    match is_permanent_buffer(page) {
        Some(true) => false,
        Some(false) => {
            // `CREATE DATABASE` extends a copy of an unlogged relation before any of its buffers shows what it is.
            if !is_known_local(fork) {
                move_to_files(relation, fork);
                sizes::set_local(fork);
            }
            true
        }
        None => known(relation, fork).local,
    }
}

fn is_known_local(fork: ForkKey) -> bool {
    sizes::get(fork).is_some_and(|entry| entry.local)
}

#[pg_guard]
unsafe extern "C-unwind" fn create(relation: SMgrRelation, number: ForkNumber::Type, is_redo: bool) {
    let Some(fork) = fork_of(relation, number) else {
        return md!(create(relation, number, is_redo));
    };
    if fork.fork == fork::INIT {
        for other in [fork::MAIN, fork::FREE_SPACE, fork::VISIBILITY] {
            move_to_files(relation, fork.relation.fork(other));
        }
    } else if sizes::is_known_unlogged(fork) {
        sizes::set_local(fork);
        return md!(create(relation, number, is_redo));
    }
    if !is_redo {
        let entry = known(relation, fork);
        if entry.local {
            return md!(create(relation, number, is_redo));
        }
        if entry.blocks.is_some() {
            errors::raise(
                PgSqlErrorCode::ERRCODE_DUPLICATE_FILE,
                format!("{fork} exists already in the volume"),
                "Try again.",
            );
        }
    }
    // An empty file: `smgrimmedsync` goes to md directly, and PostgreSQL looks for free file numbers among the files.
    // A map's may be there already: left by an attempt that failed right below, which costs nobody the relation.
    md!(create(relation, number, is_redo || fork.fork != fork::MAIN));
    last_written::note_fork(fork, log_position::inserted());
    sizes::create(fork, settings::compare());
}

/// A relation turns out to be unlogged (an index gets its INIT fork after it was built): its pages move to md's file. Does
/// nothing for a fork that lies there already.
///
/// Several processes may find out at once. Nobody writes a page to the file before all of them were moved: it would be
/// overwritten with what had been there before.
fn move_to_files(relation: SMgrRelation, fork: ForkKey) {
    shared_memory::while_nobody_else_moves(|| {
        let Some(SizeEntry {
            blocks: Some(blocks),
            local: false,
            ..
        }) = sizes::get(fork)
        else {
            return;
        };
        let number = ForkNumber::Type::from(fork.fork);
        let mut page: PageBytes = [0; PAGE_BYTES];
        let in_file = md!(blocks(relation, number));
        for block in 0..blocks {
            if !overlay::read(&fork.page(block), &mut page) {
                page.fill(0);
            }
            let bytes = page.as_mut_ptr().cast();
            match block < in_file {
                true => md!(write(relation, number, block, bytes, true)),
                false => md!(extend(relation, number, block, bytes, true)),
            }
        }
        overlay::remove_blocks(fork, 0, blocks);
        sizes::set_local(fork);
    });
}

#[pg_guard]
unsafe extern "C-unwind" fn exists(relation: SMgrRelation, number: ForkNumber::Type) -> bool {
    let fork = fork_of(relation, number);
    if let Some(fork) = fork
        && is_asked_by_drop(fork)
    {
        return true;
    }
    match fork.map(|fork| known(relation, fork)) {
        Some(SizeEntry {
            local: false, blocks, ..
        }) => blocks.is_some(),
        _ => md!(exists(relation, number)),
    }
}

/// Whether it is `DropRelFileNodesAllBuffers` that wants to know whether an unknown fork exists. It only saves itself a look
/// at every buffer by that, and runs after the commit, where an error of the broker's would end the server. Nobody else
/// asks about a MAIN fork while interrupts are held off.
fn is_asked_by_drop(fork: ForkKey) -> bool {
    // SAFETY: a plain counter of this process.
    let interrupts_held = unsafe { pg_sys::InterruptHoldoffCount != 0 };
    fork.fork == fork::MAIN && interrupts_held && sizes::get(fork).is_none()
}

#[pg_guard]
unsafe extern "C-unwind" fn unlink(node: RelFileNodeBackend, number: ForkNumber::Type, is_redo: bool) {
    let every = number == ForkNumber::InvalidForkNumber;
    let numbers = if every {
        0..=ForkNumber::INIT_FORKNUM
    } else {
        number..=number
    };
    for fork in numbers.filter_map(|number| fork_key(node, number)) {
        if fork.fork == fork::MAIN {
            remove_unknown(fork.relation);
        }
        if let Some(SizeEntry {
            local: false,
            blocks: Some(blocks),
            ..
        }) = sizes::get(fork)
        {
            overlay::remove_blocks(fork, 0, blocks);
        }
        sizes::forget(fork);
    }
    md!(unlink(node, number, is_redo));
}

/// Removes the pages of forks of which not even the size is known. That takes a look at everything in the overlay, so it is
/// done once for all forks of a relation, and only if the size of any fork was ever left out. An INIT fork alone is no
/// reason: its few pages are logged, so they go when there is no room, and whoever makes a new fork of that name writes it
/// before it is read.
fn remove_unknown(relation: RelationKey) {
    let is_unknown = |number: u8| sizes::get(relation.fork(number)).is_none();
    let any_unknown = [fork::MAIN, fork::FREE_SPACE, fork::VISIBILITY]
        .into_iter()
        .any(is_unknown);
    if any_unknown && shared_memory::counters().sizes_left_out.load(Ordering::Acquire) != 0 {
        overlay::remove_relation(relation);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn extend(
    relation: SMgrRelation,
    number: ForkNumber::Type,
    block: BlockNumber,
    bytes: *mut c_char,
    skip_sync: bool,
) {
    let Some(fork) = fork_of(relation, number).filter(|fork| !is_local(relation, *fork, bytes)) else {
        return md!(extend(relation, number, block, bytes, skip_sync));
    };
    if block == pg_sys::InvalidBlockNumber {
        errors::raise(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("cannot extend {fork} beyond {} blocks", pg_sys::InvalidBlockNumber),
            "",
        );
    }
    let key = fork.page(block);
    count(&shared_memory::counters().pages_extended);
    let is_compared = is_compared(relation, fork);
    keep(&key, bytes, true);
    sizes::grow(fork, block + 1, is_compared);
    databases::extended(fork);
    if is_compared {
        md!(extend(relation, number, block, bytes, skip_sync));
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn write(
    relation: SMgrRelation,
    number: ForkNumber::Type,
    block: BlockNumber,
    bytes: *mut c_char,
    skip_sync: bool,
) {
    let Some(fork) = fork_of(relation, number).filter(|fork| !is_local(relation, *fork, bytes)) else {
        return md!(write(relation, number, block, bytes, skip_sync));
    };
    count(&shared_memory::counters().pages_written);
    keep(&fork.page(block), bytes, false);
    if is_compared(relation, fork) {
        md!(write(relation, number, block, bytes, skip_sync));
    }
}

/// Notes the page's last-written LSN and puts it into the overlay.
fn keep(key: &PageKey, bytes: *const c_char, extends: bool) {
    // Copied first: others may set hints in a shared buffer while it is written, and a page must not change under our eyes.
    // SAFETY: PostgreSQL gives a whole page.
    let page: PageBytes = unsafe { bytes.cast::<PageBytes>().read() };
    if extends && page::is_zeroed(&page) {
        // Needs no room: what the volume does not know reads as zeros, and truncation noted what the volume must know.
        overlay::remove(key);
        return;
    }
    // The visibility map and this flag change without a new LSN on the page that would tell.
    let silent = key.fork.fork == fork::VISIBILITY
        || (key.fork.fork == fork::MAIN && page::is_heap(&page) && page::is_all_visible(&page));
    let written = if silent {
        page::lsn(&page).max(log_position::inserted())
    } else {
        page::lsn(&page)
    };
    last_written::note_page(key, written);
    let keep: Keep = judge::keep_for(key, &page, written);
    if logged_later::is_unlogged(&keep) && is_permanent_buffer(bytes).is_none() {
        logged_later::note(key);
    }
    // SAFETY: plain variables of this process.
    let (is_checkpointer, is_shutdown) = unsafe {
        let is_checkpointer = pg_sys::MyBackendType == pg_sys::BackendType::B_CHECKPOINTER;
        (
            is_checkpointer,
            is_checkpointer && (&raw const pg_sys::ShutdownRequestPending).read_volatile() != 0,
        )
    };
    // The checkpointer is told to shut down when nobody is left who could read: the log has everything that stays.
    if !is_shutdown {
        overlay::store(*key, &page, keep, !is_checkpointer);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn read(
    relation: SMgrRelation,
    number: ForkNumber::Type,
    block: BlockNumber,
    bytes: *mut c_char,
) {
    let Some(fork) = fork_of(relation, number).filter(|fork| !is_local(relation, *fork, bytes)) else {
        return md!(read(relation, number, block, bytes));
    };
    let key = fork.page(block);
    // SAFETY: PostgreSQL gives room for a whole page, which nobody else looks at before it is read.
    let page = unsafe { &mut *bytes.cast::<PageBytes>() };
    let from_volume = !overlay::read(&key, page);
    if from_volume {
        read_from_volume(relation, &key, page);
    } else {
        count(&shared_memory::counters().pages_read_from_overlay);
    }
    if is_compared(relation, fork) {
        let mut in_file: PageBytes = [0; PAGE_BYTES];
        md!(read(relation, number, block, in_file.as_mut_ptr().cast()));
        compare::check(&key, page, &in_file, from_volume);
    }
}

fn read_from_volume(relation: SMgrRelation, key: &PageKey, page: &mut PageBytes) {
    let blocks = known(relation, key.fork).blocks.unwrap_or(0);
    if key.block >= blocks {
        errors::raise(
            PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            format!("cannot read {key}: the fork has only {blocks} blocks"),
            "",
        );
    }
    let mut needed: Lsn = last_written::needed(key);
    let maps_forgotten = &shared_memory::counters().maps_forgotten;
    if key.fork.fork == fork::VISIBILITY && maps_forgotten.load(Ordering::Acquire) != 0 {
        // Bits are cleared before the record that says so is inserted (see `judge`).
        needed = needed.max(log_position::inserted());
    }
    if needed > log_position::flushed() {
        log_position::flush(needed);
    }
    let soon = READAHEAD.with_borrow_mut(|readahead| readahead.wanted_soon(*key, blocks, settings::readahead_blocks()));
    broker_client::read_page(*key, needed, soon, page);
    count(&shared_memory::counters().pages_read_from_volume);
}

#[pg_guard]
unsafe extern "C-unwind" fn prefetch(relation: SMgrRelation, number: ForkNumber::Type, block: BlockNumber) -> bool {
    match fork_of(relation, number) {
        Some(fork) if !is_known_local(fork) => true,
        _ => md!(prefetch(relation, number, block)),
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn writeback(
    relation: SMgrRelation,
    number: ForkNumber::Type,
    block: BlockNumber,
    count: BlockNumber,
) {
    if fork_of(relation, number).is_none_or(is_known_local) {
        md!(writeback(relation, number, block, count));
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn blocks(relation: SMgrRelation, number: ForkNumber::Type) -> BlockNumber {
    let fork = fork_of(relation, number);
    fork.inspect(|fork| databases::asked(*fork));
    match fork.map(|fork| (fork, known(relation, fork))) {
        Some((
            _,
            SizeEntry {
                local: false,
                blocks: Some(blocks),
                ..
            },
        )) => blocks,
        Some((
            fork,
            SizeEntry {
                local: false,
                blocks: None,
                ..
            },
        )) => errors::raise(
            PgSqlErrorCode::ERRCODE_UNDEFINED_FILE,
            format!("{fork} does not exist in the volume"),
            "",
        ),
        _ => md!(blocks(relation, number)),
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn truncate(
    relation: SMgrRelation,
    number: ForkNumber::Type,
    old_blocks: BlockNumber,
    new_blocks: BlockNumber,
) {
    let Some(fork) = fork_of(relation, number).filter(|fork| !is_known_local(*fork)) else {
        return md!(truncate(relation, number, old_blocks, new_blocks));
    };
    last_written::note_fork(fork, log_position::inserted());
    let in_files = sizes::get(fork).map_or_else(settings::compare, |entry| entry.in_files);
    sizes::truncate(fork, new_blocks, in_files);
    overlay::remove_blocks(fork, new_blocks, old_blocks);
    if in_files {
        md!(truncate(relation, number, old_blocks, new_blocks));
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn sync_now(relation: SMgrRelation, number: ForkNumber::Type) {
    if fork_of(relation, number).is_none_or(is_known_local) {
        md!(sync_now(relation, number));
    }
}
