//! The log in a writer's data directory can be walked by PostgreSQL's own tools from the page on which it was taken up.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use system_tests::{Cluster, POSTGRESQL_BIN, SOON};

const PAGE_BYTES: u64 = 8192;

fn lsn(text: &str) -> Result<u64> {
    let (high, low) = text.trim().split_once('/').context("an LSN has a slash")?;
    Ok(u64::from_str_radix(high, 16)? << 32 | u64::from_str_radix(low, 16)?)
}

fn text(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF)
}

/// Walks the log of the writer's data directory from the beginning of the page that its last start went on writing. The
/// records that were on it before; their number is at least `at_least`.
fn walk(cluster: &Cluster, at_least: usize) -> Result<Vec<String>> {
    let writer = cluster.writer()?["name"].as_str().context("name")?.to_owned();
    let data = cluster.directory().join("instances").join(writer).join("data");
    let control = Command::new(Path::new(POSTGRESQL_BIN).join("pg_controldata"))
        .arg(&data)
        .output()?;
    let control = String::from_utf8_lossy(&control.stdout).into_owned();
    let checkpoint = control
        .lines()
        .find_map(|line| line.strip_prefix("Latest checkpoint location:"))
        .context("pg_controldata tells the checkpoint")?;
    let checkpoint = lsn(checkpoint)?;
    let page = checkpoint - checkpoint % PAGE_BYTES;
    let end = cluster.sql("SELECT pg_current_wal_flush_lsn()")?;
    let output = Command::new(Path::new(POSTGRESQL_BIN).join("pg_waldump"))
        .arg("-p")
        .arg(data.join("pg_wal"))
        .args(["-s", &text(page), "-e", &end])
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "pg_waldump from {} to {end}: {said}{}",
        text(page),
        String::from_utf8_lossy(&output.stderr)
    );
    let records: Vec<String> = said
        .lines()
        .filter(|line| line.starts_with("rmgr:"))
        .map(str::to_owned)
        .collect();
    let place = |record: &str| {
        let (_, rest) = record.split_once("lsn: ").context("a record's place")?;
        lsn(rest.split(',').next().unwrap_or_default())
    };
    let before = records
        .iter()
        .take_while(|record| place(record).is_ok_and(|at| at < checkpoint))
        .count();
    ensure!(
        records
            .get(before)
            .is_some_and(|record| record.contains("CHECKPOINT_SHUTDOWN")),
        "no shutdown checkpoint at {}: {said}",
        text(checkpoint)
    );
    ensure!(
        at_least <= before || checkpoint % PAGE_BYTES < 64,
        "{before} records before {}, not {at_least}: {said}",
        text(checkpoint)
    );
    Ok(records[..before].to_vec())
}

/// Kills `writer` or `instance-1`, and waits until it is back.
fn kill(cluster: &Cluster, name: &str) -> Result<()> {
    let epoch = cluster.epoch()?;
    cluster.borealis(&["kill", name])?;
    cluster.wait_for("the next reign", SOON, |cluster| {
        let now = cluster.status()?["volume"]["epoch"].as_u64();
        Ok(now.is_some_and(|now| epoch < now) && cluster.writer()?["state"] == "available")
    })?;
    Ok(())
}

#[test]
fn the_page_on_which_the_log_goes_on_is_as_it_was() -> Result<()> {
    let mut cluster = Cluster::up("log-files", &[])?;
    // Right after the import: what initdb's own server wrote.
    let imported = walk(&cluster, 1)?;
    ensure!(
        imported
            .last()
            .is_none_or(|record| record.contains("CHECKPOINT_SHUTDOWN")),
        "the import ends with its shutdown checkpoint: {imported:?}"
    );
    // On the same page still, most likely: imported records and those of two reigns.
    kill(&cluster, "writer")?;
    let next = walk(&cluster, 1)?;
    ensure!(
        next.len() < imported.len() || next[..imported.len()] == imported[..],
        "what the import left has changed: {imported:?}, {next:?}"
    );
    // Short records, and one that is longer than a flush, whose end stands alone on its page.
    cluster.sql("CREATE TABLE t (n int); INSERT INTO t SELECT generate_series(1, 5000)")?;
    kill(&cluster, "writer")?;
    walk(&cluster, 1)?;
    for bytes in [5_000, 300_000, 3_000_000, 2_100_123] {
        cluster.sql(&format!(
            "SELECT pg_logical_emit_message(false, 'test', repeat('x', {bytes}))"
        ))?;
        kill(&cluster, "instance-1")?;
        walk(&cluster, 0)?;
    }
    // The end of the log is long durable, forgotten by most, and read again after everything was away.
    cluster.borealis(&["down"])?;
    cluster.start()?;
    walk(&cluster, 1)?;
    let log = cluster.log("instance-1")?;
    ensure!(
        !log.contains("state.last_page"),
        "a page could not be made again:\n{log}"
    );
    Ok(())
}
