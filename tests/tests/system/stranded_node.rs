//! Copies that no journal can help: one that slept until its peers' journals had moved on, and one whose disk is empty. Both take
//! what they lack from the layers of their peers alone, while the load goes on and nodes die, and are then as good as any other.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::{Cluster, Ledger, SOON};

/// Journal that a node keeps for copies that are away.
const JOURNAL_BYTES: u64 = 8 << 20;
/// What the writer keeps for them.
const RETAINED_BYTES: u64 = 2 << 20;
/// Log that is more than that, the file that is being written and the one before included.
const LOG_BYTES: u64 = 64 << 20;
/// Slow enough to be seen at it.
const REPAIR_BYTES_PER_SECOND: u64 = 12 << 20;
/// For everything that waits for a copy to become whole.
const LIMIT: Duration = Duration::from_secs(300);

const SLEEPER: &str = "storage-1";
const WIPED: &str = "storage-4";

fn node(cluster: &Cluster, name: &str) -> Result<Value> {
    let status = cluster.status()?;
    let nodes = status["storage"].as_array().context("storage nodes")?;
    let found = nodes.iter().find(|node| node["name"] == name);
    Ok(found.with_context(|| format!("{name} in {status:#}"))?.clone())
}

fn names() -> impl Iterator<Item = String> {
    (1..=6).map(|number| format!("storage-{number}"))
}

/// Small journals, and a writer that keeps little for copies that are away: what nobody has any more is soon reached.
fn configure_all(cluster: &Cluster) -> Result<()> {
    cluster.configure_storage(|config| {
        config["journal_retained_bytes_max"] = JOURNAL_BYTES.into();
        config["repair_bytes_per_second_busy"] = REPAIR_BYTES_PER_SECOND.into();
    })?;
    cluster.configure("instance-1", |config| {
        config["limits"]["retained_bytes_max"] = RETAINED_BYTES.into();
    })
}

fn log_bytes(cluster: &Cluster) -> Result<u64> {
    let shipped = cluster.status()?["volume"]["log_bytes_received"].as_u64();
    shipped.context("how much log came")
}

/// Every row of every table, in its order.
fn content(cluster: &Cluster) -> Result<String> {
    cluster.sql(
        "SELECT md5(string_agg(md5(a::text), '' ORDER BY aid)) FROM pgbench_accounts a; \
         SELECT md5(string_agg(md5(t::text), '' ORDER BY t.*)) FROM pgbench_tellers t; \
         SELECT count(*), md5(string_agg(what, '' ORDER BY number)) FROM filled",
    )
}

#[test]
fn a_stranded_and_a_wiped_node_become_whole_from_the_layers_of_their_peers() -> Result<()> {
    let cluster = Cluster::up("stranded", &["shared_buffers=1MB", "borealis.overlay_size=1MB"])?;
    configure_all(&cluster)?;
    cluster.sql("CREATE EXTENSION amcheck; CREATE TABLE filled (number bigint PRIMARY KEY, what text)")?;
    cluster.pgbench(&["-i", "-q", "-s", "2"])?;
    let ledger = Ledger::start(&cluster, 2)?;

    // Both are away while more log goes by than any journal keeps.
    cluster.borealis(&["stop", SLEEPER])?;
    cluster.borealis(&["stop", WIPED])?;
    std::fs::remove_dir_all(cluster.directory().join("storage").join(WIPED))?;
    let before = log_bytes(&cluster)?;
    let mut begin = 0;
    while log_bytes(&cluster)? < before + LOG_BYTES {
        let end = begin + 50_000;
        cluster.sql(&format!(
            "INSERT INTO filled SELECT number, md5(number::text) || md5((-number)::text) FROM generate_series({begin}, {end} - 1) number"
        ))?;
        begin = end;
    }
    let mut load = cluster.client_command("pgbench");
    let load = load
        .args(["-n", "-c", "2", "-T", "12"])
        .stdout(std::process::Stdio::piped())
        .spawn()?;

    cluster.borealis(&["start", SLEEPER])?;
    cluster.wait_for("status to say that it is stranded", LIMIT, |cluster| {
        Ok(node(cluster, SLEEPER)?["stranded"] == true)
    })?;
    cluster.borealis(&["start", WIPED])?;
    cluster.wait_for("the loss to be told", SOON, |cluster| {
        Ok(node(cluster, WIPED)?["lost"] == 1)
    })?;
    cluster.borealis(&["storage", "replace", WIPED, "--no-wait"])?;
    // Who takes dies in the middle of it, then two who give.
    for dying in [&[WIPED][..], &["storage-2", "storage-6"]] {
        cluster.wait_for("versions to be on their way", SOON, |cluster| {
            Ok(node(cluster, WIPED)?["copied_bytes"]
                .as_u64()
                .is_some_and(|bytes| 0 < bytes))
        })?;
        for name in dying {
            cluster.borealis(&["kill", name])?;
        }
    }
    ledger.wait_for_more(20, SOON)?;
    let output = load.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "pgbench failed:\n{text}");
    ensure!(
        text.contains("number of failed transactions: 0"),
        "pgbench reports failures:\n{text}"
    );
    ledger.settle(&cluster)?;
    for name in [SLEEPER, WIPED] {
        cluster.wait_for(&format!("{name} to be whole"), LIMIT, |cluster| {
            let node = node(cluster, name)?;
            Ok(node["stranded"] == false && node["copying"] == 0 && node["lost"] == 0 && node["lag_bytes"] == 0)
        })?;
        ensure!(
            cluster.log(name)?.contains("taken from the layers of peers"),
            "{name} found what it lacked in a journal"
        );
    }

    // Each of them alone gives every page.
    let expected = content(&cluster)?;
    for name in names().filter(|name| name != SLEEPER) {
        cluster.borealis(&["stop", &name])?;
    }
    for alone in [SLEEPER, WIPED] {
        if alone == WIPED {
            cluster.borealis(&["start", WIPED])?;
            cluster.wait_for("it to answer", SOON, |cluster| {
                Ok(node(cluster, WIPED)?["lag_bytes"] == 0)
            })?;
            cluster.borealis(&["stop", SLEEPER])?;
        }
        ensure!(content(&cluster)? == expected, "{alone} gives other rows");
        cluster.client("pg_amcheck", &["--heapallindexed", "postgres"])?;
    }
    for name in names().filter(|name| name != WIPED) {
        cluster.borealis(&["start", &name])?;
    }
    cluster.wait_until_available()?;
    Ok(())
}
