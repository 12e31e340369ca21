//! What happens to a whole server, and no session can ask for: a crash in the middle of a record, a promotion.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use stock_postgresql::Server;
use units::Lsn;
use wal::WAL_PAGE_BYTES;

use crate::run::wal_file;

/// Kills the server while a long record is on its way to the disk, of which only the first pages arrive; starts it again.
/// It then marks the place (`OVERWRITE_CONTRECORD`) and goes on behind it.
pub fn tear_a_record(server: &Server, wal_file_bytes: u64) -> Result<()> {
    /// Twenty pages of the log.
    const LONG: &str = "SELECT pg_logical_emit_message(false, 'torn', repeat('t', 160000))";
    // Nothing else may come to the log: what follows the record is lost with it, and pages must not know of it.
    server.query("ALTER SYSTEM SET autovacuum = off");
    server.query("SELECT pg_reload_conf()");
    // The launcher goes when it has heard of it, and a worker when it has done what it began.
    const AUTOVACUUM: &str = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'autovacuum%'";
    while server.query(AUTOVACUUM) != "0" {
        std::thread::sleep(Duration::from_millis(20));
    }
    server.query("CHECKPOINT");
    let start: Lsn = server.query("SELECT pg_current_wal_insert_lsn()").parse()?;
    server.query(LONG);
    // The WAL writer syncs it, transaction or not.
    while server.query("SELECT pg_current_wal_insert_lsn() <= pg_current_wal_flush_lsn()") != "t" {
        std::thread::sleep(Duration::from_millis(20));
    }
    server.kill();
    let lost = Lsn::from_raw((start.raw() / WAL_PAGE_BYTES + 3) * WAL_PAGE_BYTES);
    lose(server.data(), lost, wal_file_bytes)?;
    std::fs::remove_file(server.data().join("postgresql.auto.conf")).context("the settings of before")?;
    server.start();
    Ok(())
}

/// Zeros the log from here on, in this WAL file and the next ones.
fn lose(data: &Path, from: Lsn, wal_file_bytes: u64) -> Result<()> {
    let mut at = from;
    while let Ok(path) = wal_file(data, at, wal_file_bytes) {
        let within = at.raw() % wal_file_bytes;
        let zeros = vec![0; usize::try_from(wal_file_bytes - within)?];
        let file = OpenOptions::new().write(true).open(path).context("open the log")?;
        file.write_all_at(&zeros, within)?;
        at = at.advanced_by(wal_file_bytes - within);
    }
    Ok(())
}

/// Stops the server, starts it as a standby of nobody, and promotes it: its log goes on, on a timeline of its own.
pub fn promote(server: &Server) -> Result<()> {
    server.stop();
    std::fs::write(server.data().join("standby.signal"), "")?;
    server.own_files();
    server.start();
    server.query("SELECT pg_promote()");
    Ok(())
}

/// Leaves prepared transactions behind, for the files of a clean stop.
pub fn leave_prepared(server: &Server) {
    server.query("CREATE TABLE left_behind (id int PRIMARY KEY, v text)");
    for number in 1..=3 {
        let first = number * 1000;
        let insert = format!("INSERT INTO left_behind SELECT {first} + i, 'left' FROM generate_series(1, 100) i");
        let update = format!("UPDATE left_behind SET v = 'changed' WHERE id % 2 = 0 AND id / 1000 = {number}");
        server.query(&format!(
            "BEGIN; {insert}; SAVEPOINT s; {update}; PREPARE TRANSACTION 'left {number}'"
        ));
    }
}
