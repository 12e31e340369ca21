//! The overlay keeps to its size: beyond it the spill file, beyond that an error of the one transaction that needs more.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::{Cluster, SOON};

/// SQLSTATE `disk_full`.
const DISK_FULL: &str = "53100";
const SPILL_MIB: u64 = 4;

fn counter(cluster: &Cluster, name: &str) -> Result<u64> {
    let counters: Value = serde_json::from_str(&cluster.sql("SELECT borealis_counters()")?)?;
    counters[name].as_u64().with_context(|| format!("{name} in {counters}"))
}

/// Rows of a transaction's second command carry a command id that redo does not know: while it runs, their pages stay.
fn transaction(rows: u32) -> String {
    format!(
        "BEGIN;
         INSERT INTO t VALUES (0, 'first command');
         INSERT INTO t SELECT i, repeat('x', 900) FROM generate_series(1, {rows}) i;
         COMMIT;"
    )
}

#[test]
fn a_transaction_that_needs_more_than_the_spill_file_fails_and_the_cluster_goes_on() -> Result<()> {
    let spill = format!("borealis.spill_size_max={SPILL_MIB}MB");
    let cluster = Cluster::up(
        "overlay-limits",
        &[
            "shared_buffers=1MB",
            "borealis.overlay_size=1MB",
            &spill,
            "autovacuum=off",
        ],
    )?;
    let name = cluster.writer()?["name"].as_str().context("name")?.to_owned();
    let spill_file = cluster.directory().join("instances").join(&name).join("overlay.spill");
    cluster.sql("CREATE TABLE t (id int, filler text)")?;
    let epoch = cluster.epoch()?;

    // 2 MB: more than the overlay has memory for.
    cluster.sql(&transaction(2_000))?;
    ensure!(
        cluster.sql("SELECT count(*) FROM t")? == "2001",
        "rows that went through the spill file"
    );
    let spilled = std::fs::metadata(&spill_file)?.len();
    ensure!(
        0 < spilled,
        "nothing was spilled: the transaction was too small to show anything"
    );

    for _ in 0..2 {
        // 60 MB.
        let arguments = [
            "-X",
            "-v",
            "ON_ERROR_STOP=1",
            "-v",
            "VERBOSITY=verbose",
            "-c",
            &transaction(60_000),
        ];
        let output = cluster.client_output("psql", &arguments)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "60 MB fitted into {SPILL_MIB} MiB");
        ensure!(said.contains(DISK_FULL), "another error than {DISK_FULL}: {said}");
        ensure!(
            said.contains("borealis.spill_size_max"),
            "the message does not say which setting helps: {said}"
        );
        let bytes = std::fs::metadata(&spill_file)?.len();
        ensure!(bytes <= SPILL_MIB << 20, "the spill file grew to {bytes} bytes");
        ensure!(
            cluster.sql("SELECT count(*) FROM t")? == "2001",
            "rows of the failed transaction"
        );
        // The room is free again: what fitted before still fits.
        cluster.sql("CREATE TABLE again (LIKE t)")?;
        cluster.sql(&transaction(2_000).replace("INTO t", "INTO again"))?;
        ensure!(
            cluster.sql("SELECT count(*) FROM again")? == "2001",
            "rows after the failure"
        );
        cluster.sql("DROP TABLE again")?;
    }
    cluster.sql("CREATE TABLE counts AS SELECT i AS id, 0 AS n FROM generate_series(1, 1000) i")?;
    let script = cluster.directory().with_file_name("updates.sql");
    std::fs::write(
        &script,
        "\\set id random(1, 1000)\nUPDATE counts SET n = n + 1 WHERE id = :id;\n",
    )?;
    let script = script.to_str().context("the temporary directory has a plain name")?;
    cluster.pgbench(&["-n", "-c", "4", "-t", "100", "-f", script])?;
    ensure!(
        cluster.sql("SELECT sum(n) FROM counts")? == "400",
        "updates are missing"
    );
    ensure!(
        cluster.epoch()? == epoch,
        "the writer did not survive: the epoch changed"
    );
    ensure!(
        !cluster.log(&name)?.contains("PANIC"),
        "PostgreSQL panicked:\n{}",
        cluster.log(&name)?
    );
    let (pages, limit) = (counter(&cluster, "overlay_pages")?, (1 + SPILL_MIB) << 20 >> 13);
    ensure!(pages <= limit, "the overlay holds {pages} pages of {limit}");
    Ok(())
}

/// A bulk load makes pages faster than six copies take its log. Their number is no reason to fail: they can all be forgotten
/// once the volume has them.
#[test]
fn a_bulk_load_that_outruns_the_volume_waits_for_it() -> Result<()> {
    let spill = format!("borealis.spill_size_max={SPILL_MIB}MB");
    // More buffers than a load takes for itself, so that sessions that look on find some that are not dirty.
    let settings = ["shared_buffers=32MB", "borealis.overlay_size=2MB", &spill];
    let cluster = Cluster::up("bulk-load", &settings)?;
    cluster.pgbench(&["-i", "-q", "-s", "5"])?;
    ensure!(
        cluster.sql("SELECT count(*), sum(abalance) FROM pgbench_accounts")? == "500000|0",
        "rows of the bulk load"
    );
    // The volume stands still, so that the load cannot but fill everything: 30 MB of rows without command ids.
    let nodes = ["storage-1", "storage-2", "storage-3"];
    for node in nodes {
        cluster.borealis(&["stop", node])?;
    }
    let load = cluster
        .client_command("psql")
        .args(["-X", "-v", "ON_ERROR_STOP=1", "-c"])
        .arg(
            "BEGIN; CREATE TABLE loaded (LIKE pgbench_accounts);
             COPY loaded FROM PROGRAM 'seq 1 250000 | sed s/$/,1,1,x/' CSV FREEZE; COMMIT",
        )
        .stderr(Stdio::piped())
        .spawn()?;
    cluster.wait_for("the load to wait for room", SOON, |cluster| {
        let waits =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Extension' AND query LIKE 'BEGIN;%'";
        Ok(0 < counter(cluster, "writer_waits_for_room")? && cluster.sql(waits)? == "1")
    })?;
    for node in nodes {
        cluster.borealis(&["start", node])?;
    }
    let output = load.wait_with_output()?;
    ensure!(
        output.status.success(),
        "a load that waited failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(
        cluster.sql("SELECT count(*), sum(abalance) FROM loaded")? == "250000|250000",
        "rows of the load that waited"
    );
    cluster.pgbench(&["-n", "-c", "4", "-t", "200"])?;
    let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)";
    ensure!(cluster.sql(sums)? == "t", "balances and history differ");
    Ok(())
}

/// Maps of free space and of visible pages are many, one and more a table. They take the room that is left, and no more.
#[test]
fn maps_of_many_tables_leave_room_for_rows() -> Result<()> {
    let settings = [
        "shared_buffers=1MB",
        "borealis.overlay_size=1MB",
        "borealis.spill_size_max=2MB",
        "borealis.relation_sizes=1024",
        // One that gives way to a VACUUM says so as an error.
        "autovacuum=off",
    ];
    let cluster = Cluster::up("maps", &settings)?;
    let for_all = |statement: &str| {
        let numbers = 1..=250;
        let statements: String = numbers
            .map(|n| format!("{};\n", statement.replace('#', &n.to_string())))
            .collect();
        cluster.script(&statements)
    };
    // Six pages each: a smaller table has no map of its free space. Three pages of that, one of the other.
    for_all("CREATE TABLE t# AS SELECT i AS id, repeat('x', 900) AS filler FROM generate_series(1, 48) i")?;
    for_all("CREATE UNIQUE INDEX i# ON t# (id)")?;
    for_all("VACUUM t#")?;
    for_all("DELETE FROM t# WHERE id % 2 = 0")?;
    for_all("VACUUM t#")?;
    // Read through the visibility map, which by now was dropped and came back from the volume.
    let counts = for_all("SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT count(*), max(id) FROM t#")?;
    ensure!(
        counts.lines().count() == 250 && counts.lines().all(|line| line == "24|47"),
        "{counts}"
    );
    for_all("DELETE FROM t# WHERE id > 24; SELECT count(*), max(id) FROM t#")?;
    let counts = for_all("SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT count(*), max(id) FROM t#")?;
    ensure!(
        counts.lines().count() == 250 && counts.lines().all(|line| line == "12|23"),
        "{counts}"
    );
    ensure!(
        0 < counter(&cluster, "maps_forgotten")?,
        "there were too few maps to show anything"
    );
    ensure!(
        counter(&cluster, "overlay_pages_of_maps")? <= 3 << 20 >> 13,
        "more than there is room for"
    );
    let name = cluster.writer()?["name"].as_str().context("name")?.to_owned();
    ensure!(!cluster.log(&name)?.contains("ERROR"), "{}", cluster.log(&name)?);
    Ok(())
}

/// An index that is logged only when it is complete has to fit until then. One that does not is an error, and leaves nothing.
#[test]
fn an_index_that_does_not_fit_while_it_is_built_fails_alone() -> Result<()> {
    let spill = format!("borealis.spill_size_max={SPILL_MIB}MB");
    let settings = [
        "shared_buffers=1MB",
        "borealis.overlay_size=1MB",
        &spill,
        "autovacuum=off",
    ];
    let cluster = Cluster::up("index-limits", &settings)?;
    cluster.script(
        "CREATE EXTENSION pg_trgm; CREATE TABLE t (id int, name text, words text[]);
         INSERT INTO t SELECT i, md5(i::text), ARRAY[md5(i::text), md5((-i)::text)] FROM generate_series(1, 60000) i;",
    )?;
    let epoch = cluster.epoch()?;
    for index in ["gin (words)", "gist (name gist_trgm_ops)"] {
        let statement = format!("CREATE INDEX too_large ON t USING {index}");
        let output = cluster.client_output("psql", &["-X", "-v", "VERBOSITY=verbose", "-c", &statement])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "{index} fitted into {SPILL_MIB} MiB");
        ensure!(
            said.contains(DISK_FULL) && said.contains("indexes that are being built"),
            "{index}: {said}"
        );
        cluster.sql("CHECKPOINT")?;
        let kept = counter(&cluster, "overlay_pages_kept_forever")?;
        ensure!(kept < 16, "{index}: {kept} pages of it stay");
    }
    // A btree is logged as it is built.
    cluster.sql("CREATE INDEX fits ON t (name); CREATE INDEX small ON t USING gin (words) WHERE id <= 3000")?;
    let found = cluster
        .sql("SET enable_seqscan = off; SELECT count(*) FROM t WHERE words @> ARRAY[md5('77')] AND id <= 3000")?;
    ensure!(found == "1", "{found}");
    ensure!(cluster.epoch()? == epoch, "the writer did not survive");
    Ok(())
}
