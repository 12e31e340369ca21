//! Pages that the volume does not have yet, or that redo would not give back as they are.
//!
//! PostgreSQL evicts a page once its log is flushed *here*; the volume may have it later. And some things are in no log at
//! all: command ids of running transactions, cycle ids of a running VACUUM, the free space map, pages of an index that
//! is being built. Such pages stay here until that no longer matters: see `judge`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::time::Duration;

use pgrx::PgSqlErrorCode;
use units::{ByteCount, ForkKey, Lsn, PAGE_BYTES, PageKey, RelationKey};

use crate::counters::count;
use crate::fixed_table::Hashed;
use crate::judge::Judge;
use crate::overlay_partition::{Keep, Spill, StoreError, Usage};
use crate::page::PageBytes;
use crate::room::{self, WaitForRoom};
use crate::{errors, log_position, settings, shared_memory};

/// A writer that finds no memory waits this often for the volume before it uses the spill file, this long each time.
const WAITS_MAX: u32 = 10;
const WAIT: Duration = Duration::from_millis(1);
/// How much log the volume may lack before writers wait for it.
const LAG_WITHOUT_WAITS_MAX: ByteCount = ByteCount(16 << 20);
/// A fork with more blocks than this is purged by looking at every entry instead of every block.
const BLOCKS_PURGED_SINGLY_MAX: u32 = 256;

static SPILL: OnceLock<io::Result<SpillFile>> = OnceLock::new();

struct SpillFile(File);

impl Spill for SpillFile {
    fn read(&self, block: u32, page: &mut PageBytes) -> io::Result<()> {
        self.0.read_exact_at(page, u64::from(block) * PAGE_BYTES as u64)
    }

    fn write(&self, block: u32, page: &PageBytes) -> io::Result<()> {
        self.0.write_all_at(page, u64::from(block) * PAGE_BYTES as u64)
    }
}

/// Creates an empty spill file. What an earlier server left there is worthless.
pub fn create_spill_file() {
    if let Err(error) = File::create(settings::spill_file()) {
        errors::die(
            format!("cannot create {}: {error}", settings::spill_file()),
            "Check borealis.spill_file.",
        );
    }
}

/// The spill file, opened by each process for itself when it first needs it.
fn spill_file() -> Result<&'static SpillFile, &'static io::Error> {
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(settings::spill_file())
            .map(SpillFile)
    };
    SPILL.get_or_init(open).as_ref()
}

/// A spill file that failed to open answers every use with that.
struct OpenedSpill;

impl Spill for OpenedSpill {
    fn read(&self, block: u32, page: &mut PageBytes) -> io::Result<()> {
        spill_file().map_err(again)?.read(block, page)
    }

    fn write(&self, block: u32, page: &PageBytes) -> io::Result<()> {
        spill_file().map_err(again)?.write(block, page)
    }
}

fn again(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

/// Copies the page out, if it is kept.
pub fn read(key: &PageKey, page: &mut PageBytes) -> bool {
    match shared_memory::with_overlay(key.hashed(), |partition| partition.read(key, page, &OpenedSpill)) {
        Ok(found) => found,
        Err(error) => errors::raise(
            PgSqlErrorCode::ERRCODE_IO_ERROR,
            format!("cannot read {key} from {}: {error}", settings::spill_file()),
            "",
        ),
    }
}

/// Keeps a page until the volume gives it back as it is. A page that could be forgotten at once replaces an older one, and
/// is kept as a cache only if `as_cache`.
pub fn store(key: PageKey, page: &PageBytes, keep: Keep, as_cache: bool) {
    if !as_cache && Judge::new().may_forget(&keep) {
        return drop_at_once(&key);
    }
    // A bulk builder's pages are often ahead of what is flushed, and would fill the overlay until somebody flushes.
    let mut flushes = 1;
    let mut waits = 0;
    let mut room = WaitForRoom::new();
    let mut at_last = false;
    loop {
        let spill: Option<&dyn Spill> = if waits == WAITS_MAX { Some(&OpenedSpill) } else { None };
        let mut judge = Judge::new();
        let stored = shared_memory::with_overlay(key.hashed(), |partition| {
            partition.store(key, page, keep, spill, &mut |keep| match at_last {
                false => judge.may_forget(keep),
                true => judge.may_forget_at_last(keep),
            })
        });
        match stored {
            Ok(()) => return,
            Err(StoreError::NoMemory) if flushes != 0 && keep.lsn > log_position::flushed().raw() => {
                flushes -= 1;
                log_position::flush(Lsn::from_raw(keep.lsn));
            }
            Err(StoreError::NoMemory) if lags(judge.durable()) && !room::is_critical() => {
                count(&shared_memory::counters().writer_waits);
                std::thread::sleep(WAIT);
                waits += 1;
            }
            Err(StoreError::NoMemory) => waits = WAITS_MAX,
            Err(StoreError::Full) if !at_last => at_last = true,
            Err(StoreError::Full) if judge.may_forget_at_last(&keep) => return drop_at_once(&key),
            Err(StoreError::Full) => room.wait(&key, &keep),
            Err(StoreError::Spill(error)) => errors::raise(
                PgSqlErrorCode::ERRCODE_DISK_FULL,
                format!("cannot keep {key} in {}: {error}", settings::spill_file()),
                "Make room for the file.",
            ),
        }
    }
}

fn drop_at_once(key: &PageKey) {
    remove(key);
    count(&shared_memory::counters().pages_dropped_at_once);
}

/// Whether the volume cannot keep up with the log. A little lag is always there, and no reason to wait: the spill file is
/// cheap.
fn lags(durable: Lsn) -> bool {
    let lag = log_position::flushed().bytes_since(durable.max(settings::start_lsn()));
    lag.is_some_and(|lag| lag > LAG_WITHOUT_WAITS_MAX)
}

/// Forgets a page.
pub fn remove(key: &PageKey) {
    shared_memory::with_overlay(key.hashed(), |partition| partition.remove(key));
}

/// Forgets the blocks of a fork from `first` on; it has blocks up to `end`.
pub fn remove_blocks(fork: ForkKey, first: u32, end: u32) {
    remove_blocks_if(fork, first, end, |_| true);
}

/// Forgets the blocks of a fork from `first` up to `end`, exclusive, whose keeping `wanted` accepts.
pub fn remove_blocks_if(fork: ForkKey, first: u32, end: u32, wanted: impl Fn(&Keep) -> bool) {
    if end.saturating_sub(first) <= BLOCKS_PURGED_SINGLY_MAX {
        for key in (first..end).map(|block| fork.page(block)) {
            shared_memory::with_overlay(key.hashed(), |partition| {
                if partition.keep_of(&key).is_some_and(|keep| wanted(&keep)) {
                    partition.remove(&key);
                }
            });
        }
    } else {
        shared_memory::for_all_overlay(|partition| {
            partition.remove_all(&|key, keep| key.fork == fork && (first..end).contains(&key.block) && wanted(keep));
        });
    }
}

/// Forgets all pages of a relation.
pub fn remove_relation(relation: RelationKey) {
    shared_memory::for_all_overlay(|partition| {
        partition.remove_all(&|key, _| key.fork.relation == relation);
    });
}

/// Forgets all pages of a database.
pub fn remove_database(database: u32) {
    shared_memory::for_all_overlay(|partition| {
        partition.remove_all(&|key, _| key.fork.relation.database == database);
    });
}

/// How full it is.
pub fn usage() -> Usage {
    let mut total = Usage::default();
    shared_memory::for_all_overlay(|partition| {
        let usage = partition.usage();
        total.entries += usage.entries;
        total.spilled += usage.spilled;
        total.forever += usage.forever;
        total.maps += usage.maps;
        total.commands += usage.commands;
        total.vacuum += usage.vacuum;
    });
    total
}
