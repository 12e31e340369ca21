//! A volume of many groups on a fleet of more than six storage nodes: where new groups go, and how all copies of a node move.

use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::{Cluster, Ledger, SOON};

/// Groups of 8 MiB with stripes of 1 MiB: dozens of them on little data.
const TINY: [&str; 4] = ["--group-size", "8MiB", "--stripe-size", "1MiB"];

/// What `status` says of a storage node.
fn node(status: &Value, name: &str) -> Result<Value> {
    let nodes = status["storage"].as_array().context("storage nodes")?;
    let found = nodes.iter().find(|node| node["name"] == name);
    Ok(found.with_context(|| format!("{name} in {status:#}"))?.clone())
}

fn segments(status: &Value, name: &str) -> Result<u64> {
    node(status, name)?["segments"].as_u64().context("segments")
}

/// Waits until every group has six copies that count, and no node holds anything else; `empty` hold nothing.
fn wait_until_whole(cluster: &Cluster, empty: &[&str]) -> Result<()> {
    let is_whole = |cluster: &Cluster| -> Result<bool> {
        let status = cluster.status()?;
        let quorum = &status["volume"]["quorum"];
        let healthy = quorum["write"] == "ok" && quorum["missing"].as_array().is_some_and(Vec::is_empty);
        let settled = status["volume"]["changes"].as_array().is_some_and(Vec::is_empty);
        let nodes = status["storage"].as_array().context("storage nodes")?;
        let held: u64 = nodes.iter().filter_map(|node| node["segments"].as_u64()).sum();
        let copying: u64 = nodes.iter().filter_map(|node| node["copying"].as_u64()).sum();
        let groups = status["volume"]["groups"].as_u64().context("groups")?;
        let mut are_empty = true;
        for name in empty {
            are_empty &= node(&status, name)?["segments"]
                .as_u64()
                .is_none_or(|segments| segments == 0);
        }
        Ok(healthy && settled && held == 6 * groups && copying == 0 && are_empty)
    };
    let what = format!("six copies of every group, and none on {}", empty.join(", "));
    cluster.wait_for(&what, SOON, is_whole).map(|_| ())
}

fn load(cluster: &Cluster, seconds: &str) -> Result<Child> {
    let mut load = cluster.client_command("pgbench");
    let arguments = ["-n", "-c", "3", "-j", "2", "-T", seconds];
    Ok(load
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?)
}

/// Two sums over a table that fits no cache, by scan and by index.
const SUMS: &str = "SELECT count(*), sum(hashtext(filler)::bigint) FROM big; \
                    SELECT count(*) FROM big WHERE id BETWEEN 1000 AND 40000";

#[test]
fn all_groups_move_away_from_drained_and_lost_nodes_while_the_writer_dies() -> Result<()> {
    let mut cluster = Cluster::prepare("fleet", &["shared_buffers=2MB", "borealis.overlay_size=4MB"])?;
    cluster.start_with(&TINY)?;
    cluster.sql("CREATE EXTENSION amcheck")?;
    cluster.pgbench(&["-i", "-q", "-s", "2"])?;

    // New groups go to who has least: to the three that come now, and not to the one that is to be empty.
    for zone in ["a", "b", "c"] {
        cluster.borealis(&["storage", "add", "--zone", zone])?;
    }
    cluster.wait_for("the new nodes", SOON, |cluster| {
        let status = cluster.status()?;
        let names = ["storage-7", "storage-8", "storage-9"];
        Ok(names.iter().all(|name| segments(&status, name).is_ok()))
    })?;
    cluster.borealis(&["storage", "drain", "storage-3", "--no-wait"])?;
    // Whoever writes hears of the nodes a little later than `status`: the load is not to be quicker.
    cluster.wait_for("the writer to know the new nodes", SOON, |cluster| {
        Ok(0 < segments(&cluster.status()?, "storage-8")?)
    })?;
    let before = cluster.status()?;
    let groups_before = before["volume"]["groups"].as_u64().context("groups")?;
    let mut background = load(&cluster, "12")?;
    let ledger = Ledger::start(&cluster, 2)?;
    cluster.sql("CREATE TABLE big (id int, filler text)")?;
    cluster.sql("INSERT INTO big SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 90000) i")?;
    cluster.sql("CREATE INDEX ON big (id)")?;
    let sums = cluster.sql(SUMS)?;
    wait_until_whole(&cluster, &["storage-3"])?;
    let status = cluster.status()?;
    let made = status["volume"]["groups"].as_u64().context("groups")? - groups_before;
    ensure!(4 <= made, "{made} groups were made");
    for name in ["storage-7", "storage-9"] {
        let held = segments(&status, name)?;
        ensure!(2 * made / 3 <= held, "{name} has {held} copies of {made} new groups");
    }

    // A node leaves and another one is lost, and the writer dies in the middle of it.
    let groups = status["volume"]["groups"].as_u64().context("groups")?;
    cluster.borealis(&["storage", "add", "--zone", "a"])?;
    cluster.borealis(&["storage", "add", "--zone", "c"])?;
    cluster.wait_for("the new nodes", SOON, |cluster| {
        let status = cluster.status()?;
        Ok(segments(&status, "storage-10").is_ok() && segments(&status, "storage-11").is_ok())
    })?;
    background.wait()?;
    let mut background = load(&cluster, "12")?;
    cluster.borealis(&["kill", "storage-1"])?;
    cluster.borealis(&["stop", "storage-1"])?;
    cluster.borealis(&["storage", "replace", "storage-1", "--no-wait"])?;
    cluster.borealis(&["storage", "drain", "storage-5", "--no-wait"])?;
    for _ in 0..2 {
        cluster.wait_for("copies on their way", SOON, |cluster| {
            let status = cluster.status()?;
            let changes = status["volume"]["changes"].as_array().context("changes")?;
            let left = segments(&status, "storage-5")?;
            Ok(changes.iter().any(|change| change["group"] != 0) || left == 0)
        })?;
        cluster.kill_writer()?;
    }
    ledger.wait_for_more(20, SOON)?;
    wait_until_whole(&cluster, &["storage-1", "storage-3", "storage-5"])?;
    background.kill()?;
    background.wait()?;
    ensure!(groups <= cluster.status()?["volume"]["groups"].as_u64().context("groups")?);
    cluster.borealis(&["start", "storage-1"])?;
    wait_until_whole(&cluster, &["storage-1", "storage-3", "storage-5"])?;

    ledger.settle(&cluster)?;
    ensure!(cluster.sql(SUMS)? == sums, "the table reads otherwise");
    for name in ["storage-3", "storage-5"] {
        cluster.borealis(&["storage", "remove", name])?;
    }
    cluster.client("pg_amcheck", &["--heapallindexed", "postgres"])?;
    Ok(())
}
