//! A volume of three full segments and three tails: what each kind survives without, and what a tail costs.

use anyhow::{Context, Result, ensure};
use system_tests::{Cluster, Ledger, SOON};

/// One in each zone, like the full ones.
const TAILS: [&str; 3] = ["storage-2", "storage-4", "storage-6"];

/// Journal that a node keeps for copies that are away.
const JOURNAL_BYTES: u64 = 16 << 20;

/// A number that `status` has of each storage node, in their order.
fn numbers(cluster: &Cluster, what: &str) -> Result<Vec<u64>> {
    cluster.status_with(what, |status| {
        let nodes = status["storage"].as_array()?;
        nodes.iter().map(|node| node[what].as_u64()).collect()
    })
}

fn wait_until_nobody_is_missing(cluster: &Cluster) -> Result<()> {
    let whole = |cluster: &Cluster| {
        let quorum = cluster.status()?["volume"]["quorum"].clone();
        Ok(quorum["write"] == "ok" && quorum["missing"].as_array().is_some_and(Vec::is_empty))
    };
    cluster.wait_for("every copy to count", SOON, whole).map(|_| ())
}

/// Every copy has everything, and no tail has layers: all of its log is let go or in its journal. The last quarter of a MiB of the
/// log is not let go, and a layer that reaches into it stays: so each look moves the end on.
fn wait_until_tails_are_empty(cluster: &Cluster) -> Result<()> {
    cluster.sql("CREATE TABLE IF NOT EXISTS later (filler text)")?;
    cluster
        .wait_for("tails to let their layers go", SOON, |cluster| {
            cluster.sql("INSERT INTO later SELECT repeat(md5(i::text), 30) FROM generate_series(1, 100) i")?;
            let layers = numbers(cluster, "layer_bytes")?;
            Ok([1, 3, 5].iter().all(|tail| layers[*tail] == 0))
        })
        .map(|_| ())
}

#[test]
fn a_volume_with_tails_survives_what_six_full_copies_do() -> Result<()> {
    let mut cluster = Cluster::prepare("tail-segments", &["shared_buffers=8MB"])?;
    cluster.start_with(&["--segments", "full-and-tail"])?;
    ensure!(
        numbers(&cluster, "tails")? == [0, 1, 0, 1, 0, 1],
        "{:#}",
        cluster.status()?
    );
    // Small journals: what a copy lacks is soon in none of them.
    cluster.configure_storage(|config| config["journal_retained_bytes_max"] = JOURNAL_BYTES.into())?;
    cluster.sql("CREATE EXTENSION amcheck")?;
    cluster.pgbench(&["-i", "-q", "-s", "5"])?;
    let mut load = cluster.client_command("pgbench");
    let load = load
        .args(["-n", "-c", "4", "-j", "2", "-T", "20"])
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let ledger = Ledger::start(&cluster, 2)?;

    // A full copy, then every tail: the three full ones go on alone.
    cluster.borealis(&["kill", "storage-3"])?;
    ledger.wait_for_more(20, SOON)?;
    for tail in TAILS {
        cluster.borealis(&["stop", tail])?;
    }
    ledger.wait_for_more(50, SOON)?;
    let quorum = cluster.status()?["volume"]["quorum"].clone();
    ensure!(quorum["write"] == "ok" && quorum["read"] == "ok", "{quorum}");
    // One of them as well: commits wait, since no copy may be the only one with pages.
    cluster.borealis(&["stop", "storage-1"])?;
    let told = cluster.borealis(&["status"])?;
    ensure!(told.contains("or all three full ones"), "{told}");
    cluster.borealis(&["start", "storage-1"])?;
    for tail in TAILS {
        cluster.borealis(&["start", tail])?;
    }
    ledger.wait_for_more(50, SOON)?;
    wait_until_nobody_is_missing(&cluster)?;
    cluster.borealis(&["az", "fail", "b"])?;
    ledger.wait_for_more(50, SOON)?;
    cluster.borealis(&["az", "restore", "b"])?;
    wait_until_nobody_is_missing(&cluster)?;
    let output = load.wait_with_output()?;
    ensure!(output.status.success(), "pgbench failed: {output:?}");

    // A full copy is away for longer than journals reach back. Tails keep what it lacks, and let it go when it has it.
    cluster.borealis(&["stop", "storage-1"])?;
    cluster.sql("CREATE TABLE big (id int, filler text)")?;
    cluster.sql("INSERT INTO big SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 60000) i")?;
    cluster.wait_for("tails to keep log in layers", SOON, |cluster| {
        let status = cluster.status()?;
        Ok(status["storage"][1]["layer_bytes"]
            .as_u64()
            .is_some_and(|bytes| bytes != 0))
    })?;
    cluster.borealis(&["start", "storage-1"])?;
    wait_until_nobody_is_missing(&cluster)?;
    cluster.kill_writer()?;
    ledger.wait_for_more(20, SOON)?;
    wait_until_tails_are_empty(&cluster)?;
    ledger.settle(&cluster)?;

    cluster.kill_everything()?;
    cluster.start()?;
    cluster
        .client("pg_amcheck", &["--all", "--heapallindexed"])
        .context("the volume is damaged")?;
    ensure!(cluster.sql("SELECT count(*) FROM big")? == "60000", "rows are missing");
    wait_until_nobody_is_missing(&cluster)?;
    wait_until_tails_are_empty(&cluster)?;
    let full_bytes = numbers(&cluster, "layer_bytes")?[2];
    ensure!(
        10 << 20 < full_bytes,
        "full copies have {full_bytes} bytes of layers: nothing was compared"
    );
    Ok(())
}
