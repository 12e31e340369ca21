//! Storage nodes and zones are lost under load: nothing fails while four of six are left.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use system_tests::{Cluster, Ledger, SOON};

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
    cluster.wait_until_available()?;
    cluster.borealis(&["kill", "storage-2"])?;
    cluster.borealis(&["kill", "storage-5"])?;
    ledger.wait_for_more(50, SOON)?;
    cluster.wait_until_available()?;
    cluster.borealis(&["az", "fail", "b"])?;
    ledger.wait_for_more(200, SOON)?;
    cluster.borealis(&["az", "restore", "b"])?;
    cluster.wait_until_available()?;

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
    let twenty_take = ledger.wait_for_more(20, SOON)?;
    for name in ["storage-1", "storage-3", "storage-5"] {
        cluster.borealis(&["stop", name])?;
    }
    cluster.wait_for("status to name the lost quorum", SOON, |cluster| {
        let quorum = cluster.status()?["volume"]["quorum"].clone();
        Ok(quorum["write"] == "lost"
            && quorum["read"] == "ok"
            && quorum["missing"].as_array().is_some_and(|m| m.len() == 3))
    })?;
    // What had its quorum before the nodes stopped may be acknowledged still; then nothing is.
    let silence = Duration::from_secs(1) + twenty_take;
    cluster.wait_for("the last acknowledgements", SOON, |_| Ok(silence < ledger.silence()))?;
    let acknowledged = ledger.acknowledged();
    let rows = cluster.sql("SELECT count(*) FROM pgbench_accounts")?;
    ensure!(rows == "200000", "pages cannot be read without a write quorum: {rows}");
    std::thread::sleep(Duration::from_secs(1));
    ensure!(
        ledger.acknowledged() == acknowledged,
        "a write was acknowledged without its quorum"
    );

    cluster.borealis(&["start", "storage-1"])?;
    ledger.wait_for_more(20, SOON)?;
    cluster.borealis(&["start", "storage-3"])?;
    cluster.borealis(&["start", "storage-5"])?;
    cluster.wait_until_available()?;
    ledger.settle(&cluster)?;
    Ok(())
}

/// For all reads, which take a second or two where nothing else goes on. If each one that meets a node that stands still waited
/// a second for it, it would be minutes.
const READS_MAX: Duration = Duration::from_secs(60);

/// A node that hangs keeps its connections, so nothing says that it is gone.
#[test]
fn a_zone_that_stands_still_stops_no_read() -> Result<()> {
    let cluster = Cluster::up_alone("standstill", &["shared_buffers=1MB", "borealis.overlay_size=1MB"])?;
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
    ensure!(took < READS_MAX, "reads took {took:?}");
    for name in names {
        cluster.borealis(&["start", name])?;
    }
    cluster.wait_until_available()?;
    Ok(())
}
