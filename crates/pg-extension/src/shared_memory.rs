//! The library's part of PostgreSQL's shared memory: what is where, and the locks.
//!
//! Everything is laid out once, in the postmaster; children inherit the addresses. Each partition of a table has one
//! lock (`LWLock`), and is only reachable with it held.
//!
//! Invariant: nothing that may raise an error runs while a partition is locked. If it did, memory could be half changed, so
//! that ends the server.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use pgrx::pg_sys;
use units::PageKey;

use crate::counters::Counters;
use crate::errors;
use crate::fixed_table::{FixedTable, Place, TableHeader};
use crate::overlay_partition::{Kept, Partition, PartitionHeader, Slot};
use crate::page::PageBytes;
use crate::settings;
use crate::sizes::{SizeEntry, SizesTable};
use units::ForkKey;

/// Slots for last-written LSNs.
const LAST_WRITTEN_SLOTS: usize = 1 << 16;
/// Partitions of the size table.
const SIZES_PARTITIONS: usize = 64;
const OVERLAY_PARTITIONS_MAX: usize = 128;
const OVERLAY_PARTITIONS_MIN: usize = 4;
const SLOTS_PER_PARTITION_WANTED: usize = 64;
const TRANCHE: &std::ffi::CStr = c"borealis";

static SHARED: OnceLock<Shared> = OnceLock::new();

struct Shared {
    counters: *mut Counters,
    last_written: *mut [AtomicU64],
    unnoted_truncation: *mut AtomicU64,
    sizes: Vec<SizesMemory>,
    overlay: Vec<OverlayMemory>,
    locks: *mut pg_sys::LWLockPadded,
}

// SAFETY: the pointers are to shared memory that lives as long as any process of the server, and every access goes
// through a lock or an atomic.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

struct SizesMemory {
    header: *mut TableHeader,
    buckets: *mut [u32],
    places: *mut [Place<ForkKey, SizeEntry>],
}

struct OverlayMemory {
    header: *mut PartitionHeader,
    table: *mut TableHeader,
    buckets: *mut [u32],
    places: *mut [Place<PageKey, Kept>],
    slots: *mut [Slot],
    pages: *mut [PageBytes],
    spill_free: *mut [u32],
}

/// Gives out memory; without a start it only measures.
struct Arena {
    start: Option<*mut u8>,
    used: usize,
}

impl Arena {
    fn slice<T: Copy>(&mut self, count: usize, value: T) -> *mut [T] {
        let pointer: *mut T = self.take(count);
        if self.start.is_some() {
            for index in 0..count {
                // SAFETY: `take` gave room for `count` values, and no other process runs yet.
                unsafe { pointer.add(index).write(value) };
            }
        }
        std::ptr::slice_from_raw_parts_mut(pointer, count)
    }

    fn one<T: Copy>(&mut self, value: T) -> *mut T {
        self.slice(1, value).cast()
    }

    /// Room for values that are fine as zeros, which is what shared memory begins with.
    fn take<T>(&mut self, count: usize) -> *mut T {
        // Pages on their own cache lines, and everything else aligned in passing.
        self.used = self.used.next_multiple_of(align_of::<T>().max(64));
        let at = self.used;
        self.used += count * size_of::<T>();
        match self.start {
            // SAFETY: the block has as many bytes as a measuring round used, and this round takes the same.
            Some(start) => unsafe { start.add(at).cast() },
            None => std::ptr::null_mut(),
        }
    }
}

fn overlay_partitions() -> usize {
    let wanted = (settings::overlay_pages() / SLOTS_PER_PARTITION_WANTED).next_power_of_two();
    wanted.clamp(OVERLAY_PARTITIONS_MIN, OVERLAY_PARTITIONS_MAX)
}

fn lay_out(arena: &mut Arena, locks: *mut pg_sys::LWLockPadded) -> Shared {
    let partitions = overlay_partitions();
    let slots = settings::overlay_pages() / partitions;
    let spill = (settings::spill_pages_max() / partitions).max(1);
    let sizes = settings::relation_sizes().div_ceil(SIZES_PARTITIONS);
    Shared {
        counters: arena.take(1),
        last_written: std::ptr::slice_from_raw_parts_mut(arena.take(LAST_WRITTEN_SLOTS), LAST_WRITTEN_SLOTS),
        unnoted_truncation: arena.take(1),
        sizes: (0..SIZES_PARTITIONS)
            .map(|_| SizesMemory {
                header: arena.one(SizesTable::HEADER),
                buckets: arena.slice(sizes, 0),
                places: arena.slice(sizes, SizesTable::PLACE),
            })
            .collect(),
        overlay: (0..partitions)
            .map(|_| OverlayMemory {
                header: arena.one(Partition::HEADER),
                table: arena.one(FixedTable::<PageKey, Kept>::HEADER),
                buckets: arena.slice(slots + spill, 0),
                places: arena.slice(slots + spill, Partition::PLACE),
                slots: arena.slice(slots, Partition::SLOT),
                pages: std::ptr::slice_from_raw_parts_mut(arena.take(slots), slots),
                spill_free: arena.slice(spill, 0),
            })
            .collect(),
        locks,
    }
}

/// How many locks there are: the size table's first, then the overlay's, then the one of who moves a fork.
fn locks_count() -> i32 {
    (SIZES_PARTITIONS + overlay_partitions() + 1) as i32
}

/// Asks for memory and locks; called when PostgreSQL collects such wishes.
pub fn request() {
    let mut arena = Arena { start: None, used: 0 };
    lay_out(&mut arena, std::ptr::null_mut());
    // SAFETY: called from `shmem_request_hook`, where both are allowed; the name is static.
    unsafe {
        pg_sys::RequestAddinShmemSpace(arena.used);
        pg_sys::RequestNamedLWLockTranche(TRANCHE.as_ptr(), locks_count());
    }
}

/// Lays the memory out; called when PostgreSQL has it, before any child runs.
pub fn create() {
    let mut measure = Arena { start: None, used: 0 };
    lay_out(&mut measure, std::ptr::null_mut());
    let mut found = false;
    // SAFETY: called from `shmem_startup_hook` in the postmaster, after `request`; the name is static.
    let (start, locks) = unsafe {
        let start = pg_sys::ShmemInitStruct(TRANCHE.as_ptr(), measure.used, &raw mut found);
        (start, pg_sys::GetNamedLWLockTranche(TRANCHE.as_ptr()))
    };
    let mut arena = Arena {
        start: Some(start.cast()),
        used: 0,
    };
    let shared = lay_out(&mut arena, locks);
    if found || SHARED.set(shared).is_err() {
        errors::die(
            "the server restarts in place, and its pages would be older than its log".to_owned(),
            "Start the instance anew.",
        );
    }
    for index in 0..SIZES_PARTITIONS {
        with_sizes_at(index, false, |table| table.clear());
    }
    let spill = (settings::spill_pages_max() / overlay_partitions()).max(1) as u32;
    for index in 0..overlay_partitions() {
        with_overlay_at(index, false, |partition| partition.clear(index as u32 * spill));
    }
}

fn shared() -> &'static Shared {
    SHARED
        .get()
        .expect("PostgreSQL creates shared memory before anything uses relations")
}

/// Whether there is shared memory already.
pub fn exists() -> bool {
    SHARED.get().is_some()
}

/// What happened so far.
pub fn counters() -> &'static Counters {
    // SAFETY: laid out by `create`, lives as long as the process, and consists of atomics only.
    unsafe { &*shared().counters }
}

/// The last-written LSNs.
pub fn last_written() -> &'static [AtomicU64] {
    // SAFETY: as in `counters`.
    unsafe { &*shared().last_written }
}

/// The log position of the last truncation that the size table had no room for.
pub fn unnoted_truncation() -> &'static AtomicU64 {
    // SAFETY: as in `counters`.
    unsafe { &*shared().unnoted_truncation }
}

/// The size table's partition that `hash` belongs to.
pub fn with_sizes<R>(hash: u64, body: impl FnOnce(&mut SizesTable<'_>) -> R) -> R {
    with_sizes_at((hash >> 48) as usize % SIZES_PARTITIONS, true, body)
}

/// Every partition of the size table, one after the other.
pub fn for_all_sizes(mut body: impl FnMut(&mut SizesTable<'_>)) {
    (0..SIZES_PARTITIONS).for_each(|index| with_sizes_at(index, true, &mut body));
}

/// The overlay's partition that `hash` belongs to.
pub fn with_overlay<R>(hash: u64, body: impl FnOnce(&mut Partition<'_>) -> R) -> R {
    with_overlay_at((hash >> 48) as usize % shared().overlay.len(), true, body)
}

/// Every partition of the overlay, one after the other.
pub fn for_all_overlay(mut body: impl FnMut(&mut Partition<'_>)) {
    (0..shared().overlay.len()).for_each(|index| with_overlay_at(index, true, &mut body));
}

fn with_sizes_at<R>(index: usize, lock: bool, body: impl FnOnce(&mut SizesTable<'_>) -> R) -> R {
    let memory = &shared().sizes[index];
    let _held = lock.then(|| Held::new(index));
    // SAFETY: the slices are disjoint parts of shared memory, initialised, and ours alone: the lock is held, or (while
    // memory is created) no other process exists.
    body(&mut unsafe { FixedTable::new(&mut *memory.header, &mut *memory.buckets, &mut *memory.places) })
}

fn with_overlay_at<R>(index: usize, lock: bool, body: impl FnOnce(&mut Partition<'_>) -> R) -> R {
    let memory = &shared().overlay[index];
    let _held = lock.then(|| Held::new(SIZES_PARTITIONS + index));
    // SAFETY: as in `with_sizes_at`; pages are any bytes.
    body(&mut unsafe {
        Partition {
            header: &mut *memory.header,
            table: FixedTable::new(&mut *memory.table, &mut *memory.buckets, &mut *memory.places),
            slots: &mut *memory.slots,
            pages: &mut *memory.pages,
            spill_free: &mut *memory.spill_free,
        }
    })
}

/// Runs `body`, which may use partitions, while no other process is in here. It may raise errors: PostgreSQL, which cleans
/// up after one, releases all locks (`LWLockReleaseAll`).
pub fn while_nobody_else_moves<R>(body: impl FnOnce() -> R) -> R {
    // SAFETY: `create` got this many locks, and `body` does not come here again.
    unsafe {
        let lock = &raw mut (*shared().locks.add(SIZES_PARTITIONS + shared().overlay.len())).lock;
        pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let result = body();
        pg_sys::LWLockRelease(lock);
        result
    }
}

/// A lock of a partition that is held.
struct Held(*mut pg_sys::LWLock);

impl Held {
    fn new(index: usize) -> Held {
        // SAFETY: `create` got this many locks; a partition's is only held during one of the functions above, which do not nest.
        unsafe {
            let lock = &raw mut (*shared().locks.add(index)).lock;
            pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
            Held(lock)
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if std::thread::panicking() {
            errors::panic_server("a table in shared memory was left half changed".to_owned());
        }
        // SAFETY: acquired in `new`.
        unsafe { pg_sys::LWLockRelease(self.0) };
    }
}
