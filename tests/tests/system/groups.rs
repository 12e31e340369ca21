//! A volume of many small groups: it grows under load, loses nodes, zones, writers and everything, and gives space back.

use anyhow::{Context, Result, ensure};
use system_tests::{Cluster, Ledger, SOON};

/// Groups of 8 MiB with stripes of 1 MiB: dozens of them on little data.
const TINY: [&str; 4] = ["--group-size", "8MiB", "--stripe-size", "1MiB"];

fn groups(cluster: &Cluster) -> Result<u64> {
    cluster.status_with("groups", |status| status["volume"]["groups"].as_u64())
}

fn free_bytes(cluster: &Cluster) -> Result<u64> {
    cluster.status_with("free space", |status| status["volume"]["free_bytes"].as_u64())
}

/// Two sums over a table that fits no cache, by scan and by index.
const SUMS: &str = "SELECT count(*), sum(hashtext(filler)::bigint) FROM big; \
                    SELECT count(*) FROM big WHERE id BETWEEN 1000 AND 60000";

#[test]
fn a_volume_of_many_groups_grows_survives_and_shrinks() -> Result<()> {
    let mut cluster = Cluster::prepare("groups", &["shared_buffers=2MB", "borealis.overlay_size=4MB"])?;
    cluster.start_with(&TINY)?;
    cluster.sql("CREATE EXTENSION amcheck")?;
    cluster.pgbench(&["-i", "-q", "-s", "2"])?;
    let mut load = cluster.client_command("pgbench");
    let load = load
        .args(["-n", "-c", "4", "-j", "2", "-T", "30"])
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let ledger = Ledger::start(&cluster, 2)?;

    let before = groups(&cluster)?;
    cluster.sql("CREATE TABLE big (id int, filler text)")?;
    cluster.sql("INSERT INTO big SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 100000) i")?;
    cluster.sql("CREATE INDEX ON big (id)")?;
    cluster.wait_for("the volume to grow", SOON, |cluster| Ok(before + 8 <= groups(cluster)?))?;
    let sums = cluster.sql(SUMS)?;

    cluster.borealis(&["kill", "storage-1"])?;
    ledger.wait_for_more(20, SOON)?;
    cluster.wait_until_available()?;
    cluster.borealis(&["az", "fail", "c"])?;
    ledger.wait_for_more(50, SOON)?;
    ensure!(cluster.sql(SUMS)? == sums, "without a zone the table reads otherwise");
    cluster.borealis(&["az", "restore", "c"])?;
    cluster.wait_until_available()?;
    let output = load.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "pgbench failed:\n{text}");

    cluster.kill_writer()?;
    ledger.wait_for_more(20, SOON)?;
    ensure!(cluster.sql(SUMS)? == sums, "after a failover the table reads otherwise");
    ledger.settle(&cluster)?;
    cluster.kill_everything()?;
    cluster.start()?;
    ensure!(
        cluster.sql(SUMS)? == sums,
        "after kill -9 of everything the table reads otherwise"
    );
    cluster
        .client("pg_amcheck", &["--all", "--heapallindexed"])
        .context("the volume is damaged")?;

    let used = free_bytes(&cluster)?;
    cluster.sql("DROP TABLE big")?;
    cluster.wait_for("the space of a dropped table", SOON, |cluster| {
        Ok(used + (50 << 20) < free_bytes(cluster)?)
    })?;
    Ok(())
}
