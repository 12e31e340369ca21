//! Storage nodes and zones are lost under load: nothing fails while four of six are left.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use system_tests::{Cluster, Ledger};

const SOON: Duration = Duration::from_secs(20);

fn states(cluster: &Cluster) -> Result<Vec<String>> {
    let status = cluster.status()?;
    let nodes = status["storage"].as_array().cloned().unwrap_or_default();
    Ok(nodes
        .iter()
        .map(|node| node["state"].as_str().unwrap_or("?").to_owned())
        .collect())
}

fn all_available(cluster: &Cluster) -> Result<bool> {
    Ok(states(cluster)?.iter().all(|state| state == "available"))
}

#[test]
fn a_node_two_nodes_and_a_zone_may_die_under_load() -> Result<()> {
    let cluster = Cluster::up("losses", &[])?;
    cluster.pgbench(&["-i", "-q", "-s", "2"])?;
    let mut load = cluster.client_command("pgbench");
    let load = load
        .args(["-n", "-c", "4", "-j", "2", "-T", "18"])
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let ledger = Ledger::start(&cluster, 2)?;

    cluster.borealis(&["kill", "storage-1"])?;
    ledger.wait_for_more(50, SOON)?;
    cluster.wait_for("storage-1 to be back", SOON, all_available)?;
    cluster.borealis(&["kill", "storage-2"])?;
    cluster.borealis(&["kill", "storage-5"])?;
    ledger.wait_for_more(50, SOON)?;
    cluster.wait_for("both to be back", SOON, all_available)?;
    cluster.borealis(&["az", "fail", "b"])?;
    ledger.wait_for_more(200, SOON)?;
    cluster.borealis(&["az", "restore", "b"])?;
    cluster.wait_for("zone b to catch up", SOON, all_available)?;

    let output = load.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "pgbench failed:\n{text}");
    ensure!(
        text.contains("number of failed transactions: 0"),
        "pgbench reports failures:\n{text}"
    );
    ledger.settle(&cluster)?;
    Ok(())
}

#[test]
fn without_a_write_quorum_writes_wait_and_pages_are_still_read() -> Result<()> {
    let cluster = Cluster::up("quorum-lost", &["shared_buffers=1MB", "borealis.overlay_size=1MB"])?;
    cluster.pgbench(&["-i", "-q", "-s", "2"])?;
    let ledger = Ledger::start(&cluster, 2)?;
    ledger.wait_for_more(20, SOON)?;
    for name in ["storage-1", "storage-3", "storage-5"] {
        cluster.borealis(&["stop", name])?;
    }
    cluster.wait_for("status to name the lost quorum", SOON, |cluster| {
        let quorum = cluster.status()?["volume"]["quorum"].clone();
        Ok(quorum["write"] == "lost"
            && quorum["read"] == "ok"
            && quorum["missing"].as_array().is_some_and(|m| m.len() == 3))
    })?;
    std::thread::sleep(Duration::from_secs(1));
    ensure!(
        Duration::from_millis(900) < ledger.silence(),
        "a write was acknowledged without its quorum"
    );
    let rows = cluster.sql("SELECT count(*) FROM pgbench_accounts")?;
    ensure!(rows == "200000", "pages cannot be read without a write quorum: {rows}");

    cluster.borealis(&["start", "storage-1"])?;
    ledger.wait_for_more(20, SOON)?;
    cluster.borealis(&["start", "storage-3"])?;
    cluster.borealis(&["start", "storage-5"])?;
    cluster.wait_for("all nodes to catch up", SOON, |cluster| {
        let status = cluster.status()?;
        let nodes = status["storage"].as_array().cloned().unwrap_or_default();
        Ok(nodes.iter().all(|node| node["state"] == "available"))
    })?;
    ledger.settle(&cluster)?;
    Ok(())
}

/// A node that hangs keeps its connections, so nothing says that it is gone.
#[test]
fn a_zone_that_stands_still_stops_no_read() -> Result<()> {
    let cluster = Cluster::up("standstill", &["shared_buffers=1MB", "borealis.overlay_size=1MB"])?;
    cluster.pgbench(&["-i", "-q", "-s", "2"])?;
    let names = ["storage-1", "storage-2"];
    for name in names {
        cluster.borealis(&["pause", name])?;
    }
    let began = Instant::now();
    let rows = cluster.sql("SELECT count(*) FROM pgbench_accounts")?;
    ensure!(rows == "200000", "{rows}");
    // Single pages all over the table, which nothing reads ahead.
    let balance = "SELECT count(abalance) FROM generate_series(1, 200000, 500) number JOIN LATERAL \
                   (SELECT abalance FROM pgbench_accounts WHERE aid = number) account ON true";
    let rows = cluster.sql(&format!("SET enable_seqscan = off; {balance}"))?;
    ensure!(rows == "400", "{rows}");
    let took = began.elapsed();
    eprintln!("read with a zone that stands still in {took:?}");
    ensure!(took < SOON, "reads took {took:?}");
    for name in names {
        cluster.borealis(&["start", name])?;
    }
    cluster.wait_for("both to be back", SOON, all_available)?;
    Ok(())
}
