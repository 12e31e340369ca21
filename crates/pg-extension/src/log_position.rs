//! Where the log stands: inserted, flushed here, durable in the volume.

use pgrx::pg_sys;
use units::Lsn;

const PAGE_BYTES: u64 = pg_sys::XLOG_BLCKSZ as u64;
/// `SizeOfXLogShortPHD` and `SizeOfXLogLongPHD`: what stands on a log page before the first record.
const SHORT_HEADER_BYTES: u64 = 24;
const LONG_HEADER_BYTES: u64 = 40;

/// Where the next record will begin, or the end of the last one: the earlier of the two.
///
/// PostgreSQL gives the beginning, which on a page boundary lies after a page header that nobody has written yet, and
/// waiting for that would be an error.
pub fn inserted() -> Lsn {
    // SAFETY: needs shared memory only; reads a counter under its spinlock.
    let (next, file_bytes) = unsafe { (pg_sys::GetXLogInsertRecPtr(), pg_sys::wal_segment_size as u64) };
    let header_bytes = match next {
        next if next % file_bytes == LONG_HEADER_BYTES => LONG_HEADER_BYTES,
        next if next % PAGE_BYTES == SHORT_HEADER_BYTES => SHORT_HEADER_BYTES,
        _ => 0,
    };
    Lsn::from_raw(next - header_bytes)
}

/// How far the log is flushed here, which is how far the instance process can have it.
pub fn flushed() -> Lsn {
    // SAFETY: needs shared memory only; null is accepted for the timeline.
    Lsn::from_raw(unsafe { pg_sys::GetFlushRecPtr(std::ptr::null_mut()) })
}

/// Flushes the log up to `lsn`, so that the instance process gets it.
pub fn flush(lsn: Lsn) {
    // SAFETY: `lsn` comes from a page or from `inserted`, so the log reaches that far; allowed wherever pages are read.
    unsafe {
        if !pg_sys::RecoveryInProgress() {
            pg_sys::XLogFlush(lsn.raw());
        }
    }
}

/// How much log the volume has: what its instance process, the synchronous standby, reported as flushed. Without a
/// synchronous standby (tests, readers) what is flushed here counts.
pub fn durable() -> Lsn {
    // SAFETY: both are set before relations are used. The position is an aligned word that only grows, written under a
    // lock; reading it without that gives an older value at worst.
    unsafe {
        let names = pg_sys::SyncRepStandbyNames;
        if names.is_null() || *names == 0 {
            return flushed();
        }
        let position = &raw const (*pg_sys::WalSndCtl).lsn[pg_sys::SYNC_REP_WAIT_FLUSH as usize];
        Lsn::from_raw(position.read_volatile())
    }
}
