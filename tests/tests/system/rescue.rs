//! A zone and one more node are lost for good: three copies are left, too few to write, and get others beside them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::{Cluster, Ledger, SOON};

/// Groups of 8 MiB with stripes of 1 MiB: dozens of them on little data.
const TINY: [&str; 4] = ["--group-size", "8MiB", "--stripe-size", "1MiB"];

const SECTOR_BYTES: u64 = 4096;
/// So much of each journal file rots.
const ROTTEN_BYTES: u64 = 1 << 20;

/// Zone a and a node of zone b.
const LOST: [&str; 3] = ["storage-1", "storage-2", "storage-3"];

const SUMS: &str = "SELECT count(*), sum(hashtext(filler)::bigint) FROM big; \
                    SELECT sum(abalance), count(*) FROM pgbench_accounts";

/// A cluster with several groups and some load in it.
fn loaded(name: &str, arguments: &[&str]) -> Result<(Cluster, Ledger, String)> {
    let mut cluster = Cluster::prepare(name, &["shared_buffers=2MB", "borealis.overlay_size=4MB"])?;
    cluster.start_with(&[&TINY[..], arguments].concat())?;
    cluster.sql("CREATE EXTENSION amcheck")?;
    cluster.pgbench(&["-i", "-q", "-s", "1"])?;
    cluster.sql("CREATE TABLE big (id int, filler text)")?;
    cluster.sql("INSERT INTO big SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 20000) i")?;
    cluster.sql("CREATE INDEX ON big (id)")?;
    let sums = cluster.sql(SUMS)?;
    let groups = cluster.status_with("groups", |status| status["volume"]["groups"].as_u64())?;
    ensure!(3 <= groups, "{groups} groups");
    let ledger = Ledger::start(&cluster, 2)?;
    ledger.wait_for_more(20, SOON)?;
    Ok((cluster, ledger, sums))
}

/// What becomes of a storage node's files while it is down.
type Loss = fn(&Path) -> Result<()>;

fn wipe(node: &Path) -> Result<()> {
    Ok(fs::remove_dir_all(node)?)
}

/// The log rots: what the copies acknowledged and promised nobody knows any more. They go on taking log, without a vote.
fn rot_journal(node: &Path) -> Result<()> {
    for entry in fs::read_dir(node.join("journal"))? {
        let file = File::options().read(true).write(true).open(entry?.path())?;
        for at in (SECTOR_BYTES..file.metadata()?.len().min(ROTTEN_BYTES)).step_by(SECTOR_BYTES as usize) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at)?;
            file.write_all_at(&[byte[0] ^ 1], at)?;
        }
        file.sync_all()?;
    }
    Ok(())
}

/// Stops them all, loses their files, and starts them.
fn lose(cluster: &Cluster, losses: [Loss; 3]) -> Result<()> {
    for (name, lose) in LOST.iter().zip(losses) {
        cluster.borealis(&["stop", name])?;
        lose(&cluster.directory().join("storage").join(name))?;
    }
    for name in LOST {
        cluster.borealis(&["start", name])?;
    }
    Ok(())
}

fn wait_until_whole(cluster: &Cluster) -> Result<Value> {
    cluster.wait_for("six copies of every group", SOON, |cluster| {
        let status = cluster.status()?;
        let quorum = &status["volume"]["quorum"];
        let is_settled = status["volume"]["changes"].as_array().is_some_and(Vec::is_empty);
        Ok(is_settled && quorum["write"] == "ok" && quorum["missing"].as_array().is_some_and(Vec::is_empty))
    })?;
    cluster.status()
}

fn check(cluster: &Cluster, ledger: Ledger, sums: &str) -> Result<()> {
    ledger.wait_for_more(20, SOON)?;
    wait_until_whole(cluster)?;
    // What was made anew carries the volume without those that were left.
    cluster.borealis(&["stop", "storage-4"])?;
    cluster.borealis(&["stop", "storage-5"])?;
    cluster.kill_writer()?;
    ledger.wait_for_more(20, SOON)?;
    ledger.settle(cluster)?;
    ensure!(cluster.sql(SUMS)? == sums, "tables read otherwise");
    cluster.client("pg_amcheck", &["--heapallindexed", "postgres"])?;
    Ok(())
}

#[test]
fn a_lost_zone_and_one_more_node_are_replaced_by_hand() -> Result<()> {
    let (cluster, ledger, sums) = loaded("rescue", &[])?;
    lose(&cluster, [wipe; 3])?;
    cluster.wait_for("the loss to be told", SOON, |cluster| {
        let quorum = cluster.status()?["volume"]["quorum"].clone();
        let hint = quorum["hint"].as_str().unwrap_or_default().to_owned();
        Ok(quorum["write"] == "lost" && quorum["read"] == "ok" && hint.contains("borealis storage replace storage-1"))
    })?;
    // The writer may die of it or not: whoever opens the volume next does the same.
    cluster.borealis(&["kill", "writer"])?;
    for name in LOST {
        cluster.borealis(&["storage", "replace", name, "--no-wait"])?;
    }
    check(&cluster, ledger, &sums)
}

#[test]
fn a_lost_zone_and_one_more_node_are_replaced_by_themselves() -> Result<()> {
    let (cluster, ledger, sums) = loaded("rescue-by-itself", &["--replace-after", "5s"])?;
    let epoch = cluster.epoch()?;
    lose(&cluster, [wipe, wipe, rot_journal])?;
    cluster.wait_for("the next reign", SOON, |cluster| {
        Ok(cluster.status()?["volume"]["epoch"]
            .as_u64()
            .context("epoch")
            .is_ok_and(|now| epoch < now))
    })?;
    check(&cluster, ledger, &sums)
}
