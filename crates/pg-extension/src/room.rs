//! Waiting for room, when neither memory nor the spill file has any: the volume catches up, and pages may be forgotten.
//!
//! A writer of pages holds locks on buffers that readers may want, so it does not wait like a commit, as long as it takes:
//! every look at the volume either finds it further on, towards an end that stands still, or is one of
//! [`STANDSTILL_MAX`] without progress. A cancel or a terminate ends the wait, too.
//!
//! Nobody waits in a critical section. Nor does a walsender: the volume hears of the log through one.

use std::time::{Duration, Instant};

use pgrx::{PgSqlErrorCode, pg_sys};
use units::{Lsn, PageKey};

use crate::counters::count;
use crate::fixed_table::Hashed;
use crate::judge::{Judge, Reason};
use crate::overlay_partition::Keep;
use crate::{errors, log_position, settings, shared_memory};

/// How long the volume may stand still before a writer gives up.
const STANDSTILL_MAX: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(1);
/// `PG_WAIT_EXTENSION` (wait_event.h): shown in pg_stat_activity while a writer waits here.
const WAIT_EVENT: u32 = 0x0700_0000;

/// What holds the room of a partition, and the page that has none.
#[derive(Default)]
struct Holders {
    pages: u64,
    volume: u64,
    commands: u64,
    vacuum: u64,
    forever: u64,
    /// The log of the pages that only wait for the volume: of the first to become free, and of the last.
    first: Option<Lsn>,
    last: Lsn,
}

impl Holders {
    fn add(&mut self, keep: &Keep, judge: &mut Judge) {
        self.pages += 1;
        match judge.reason(keep) {
            Some(Reason::Forever) => self.forever += 1,
            Some(Reason::Commands) => self.commands += 1,
            Some(Reason::Vacuum) => self.vacuum += 1,
            // A page that may be forgotten by now is found at the next attempt: there is nothing to wait for.
            None | Some(Reason::Map) => self.first = Some(Lsn::ZERO),
            Some(Reason::Volume) => {
                let lsn = Lsn::from_raw(keep.lsn);
                self.volume += 1;
                self.first = Some(self.first.map_or(lsn, |first| first.min(lsn)));
                self.last = self.last.max(lsn);
            }
        }
    }

    fn around(key: &PageKey, keep: &Keep) -> Holders {
        let mut judge = Judge::new();
        let mut holders = Holders::default();
        holders.add(keep, &mut judge);
        shared_memory::with_overlay(key.hashed(), |partition| {
            partition.keeps().for_each(|keep| holders.add(keep, &mut judge));
        });
        holders
    }

    fn text(&self) -> String {
        let share = |pages: u64, why: &str| (pages != 0).then(|| format!("{pages} {why}"));
        let shares = [
            share(self.commands, "with rows of transactions that still run"),
            share(self.volume, "whose log the volume does not have yet"),
            share(self.vacuum, "of indexes split during a VACUUM that still runs"),
            share(
                self.forever,
                "that no log restores (sequences, indexes that are being built, pages without rows yet)",
            ),
        ];
        shares.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// One page's wait for room.
pub struct WaitForRoom {
    standstill: Option<(Lsn, Instant)>,
}

impl WaitForRoom {
    /// Nothing waited yet.
    pub fn new() -> WaitForRoom {
        WaitForRoom { standstill: None }
    }

    /// Waits until one more page may be forgotten, perhaps this one itself. Raises an error if waiting cannot help.
    pub fn wait(&mut self, key: &PageKey, keep: &Keep) {
        let holders = Holders::around(key, keep);
        let Some(first) = holders.first else {
            refuse(key, &holders, "and waiting for the volume would not free any");
        };
        if is_critical() || is_walsender() {
            refuse(key, &holders, "and this process must not wait for it");
        }
        if log_position::flushed() < first {
            log_position::flush(holders.last);
        }
        count(&shared_memory::counters().writer_waits_for_room);
        let _shown = ShownWait::begin();
        loop {
            let durable = log_position::durable();
            if first <= durable {
                return;
            }
            match self.standstill {
                Some((at, since)) if at == durable => {
                    if STANDSTILL_MAX < since.elapsed() {
                        let why = format!("and the volume took no log for {} seconds", STANDSTILL_MAX.as_secs());
                        refuse(key, &holders, &why);
                    }
                }
                _ => self.standstill = Some((durable, Instant::now())),
            }
            heed_interrupts(key);
            std::thread::sleep(PAUSE);
        }
    }
}

/// Whether an error here would end the server, and all of it may depend on us.
pub fn is_critical() -> bool {
    // SAFETY: a plain counter of this process.
    unsafe { pg_sys::CritSectionCount != 0 }
}

fn is_walsender() -> bool {
    // SAFETY: a plain flag of this process.
    unsafe { pg_sys::am_walsender }
}

/// A page is usually written with its buffer locked, where PostgreSQL holds interrupts off; an error is allowed there, so
/// a cancel becomes one. What asked for the end of the process is still pending when the error has been dealt with.
fn heed_interrupts(key: &PageKey) {
    // SAFETY: plain variables of this process, the pending ones set by signal handlers. With nothing held off, this is a
    // place where PostgreSQL itself would check.
    let wanted = unsafe {
        let is_pending = |flag: *const pg_sys::sig_atomic_t| flag.read_volatile() != 0;
        let held_off = pg_sys::InterruptHoldoffCount != 0 || pg_sys::QueryCancelHoldoffCount != 0;
        if is_pending(&raw const pg_sys::InterruptPending) && !held_off {
            pg_sys::ProcessInterrupts();
        }
        [
            &raw const pg_sys::QueryCancelPending,
            &raw const pg_sys::ProcDiePending,
            &raw const pg_sys::ShutdownRequestPending,
        ]
        .into_iter()
        .any(is_pending)
    };
    if wanted {
        errors::raise(
            PgSqlErrorCode::ERRCODE_QUERY_CANCELED,
            format!("canceled while {key} waited for the volume to take the log of pages before it"),
            "",
        );
    }
}

fn refuse(key: &PageKey, holders: &Holders, why: &str) -> ! {
    errors::raise(
        PgSqlErrorCode::ERRCODE_DISK_FULL,
        format!(
            "cannot keep {key}: memory and {} are full, {why}; of {} pages around it there are {}",
            settings::spill_file(),
            holders.pages,
            holders.text()
        ),
        "Raise borealis.spill_size_max, or let transactions write less.",
    )
}

/// Shows in pg_stat_activity that this process waits.
struct ShownWait;

impl ShownWait {
    fn begin() -> ShownWait {
        // SAFETY: points to a word of this process's own (`pgstat_report_wait_start`); others read it at any time.
        unsafe { pg_sys::my_wait_event_info.write_volatile(WAIT_EVENT) };
        ShownWait
    }
}

impl Drop for ShownWait {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { pg_sys::my_wait_event_info.write_volatile(0) };
    }
}
