//! Copies move between storage nodes while the volume is written: replaced, drained, made anew; nothing acknowledged is lost.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::{Cluster, Ledger, SOON};

/// What `status` says of a storage node.
fn node(cluster: &Cluster, name: &str) -> Result<Value> {
    let status = cluster.status()?;
    let nodes = status["storage"].as_array().context("storage nodes")?;
    let found = nodes.iter().find(|node| node["name"] == name);
    Ok(found.with_context(|| format!("{name} in {status:#}"))?.clone())
}

/// Waits until every copy counts, and `name` holds so many.
fn wait_until_whole(cluster: &Cluster, name: &str, segments: u64) -> Result<()> {
    cluster
        .wait_for(
            &format!("{name} to hold {segments} copies, and all to count"),
            SOON,
            |cluster| {
                let quorum = cluster.status()?["volume"]["quorum"].clone();
                let is_whole = quorum["write"] == "ok" && quorum["missing"].as_array().is_some_and(Vec::is_empty);
                Ok(is_whole && node(cluster, name)?["segments"].as_u64() == Some(segments))
            },
        )
        .map(|_| ())
}

fn layers(folder: &Path) -> Result<usize> {
    Ok(std::fs::read_dir(folder.join("layers"))?.count())
}

/// A node is lost for good and replaced by one that was added; another is drained while the writer dies; a third comes back
/// with an empty disk.
#[test]
fn copies_move_under_load_and_nothing_is_lost() -> Result<()> {
    let cluster = Cluster::up("storage-nodes", &[])?;
    cluster.sql("CREATE EXTENSION amcheck")?;
    cluster.pgbench(&["-i", "-q", "-s", "3"])?;
    let mut load = cluster.client_command("pgbench");
    let load = load
        .args(["-n", "-c", "2", "-T", "8"])
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let ledger = Ledger::start(&cluster, 2)?;
    let storage = cluster.directory().join("storage");

    // No node of zone b can take its copy: said, with the way out, and kept.
    cluster.borealis(&["stop", "storage-3"])?;
    let refused = cluster.borealis_output(&["storage", "replace", "storage-3"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        !refused.status.success() && said.contains("borealis storage add --zone b"),
        "{said}"
    );
    cluster.borealis(&["storage", "add", "--zone", "b"])?;
    wait_until_whole(&cluster, "storage-7", 1)?;
    let output = load.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "pgbench failed:\n{text}");
    ensure!(
        text.contains("number of failed transactions: 0"),
        "pgbench reports failures:\n{text}"
    );

    // It comes back to nothing that is its own, and is a spare.
    cluster.borealis(&["start", "storage-3"])?;
    wait_until_whole(&cluster, "storage-3", 0)?;
    cluster.wait_for("its layers to be gone", SOON, |_| {
        Ok(layers(&storage.join("storage-3"))? == 0)
    })?;

    // The next reign goes on with what the record says, whatever that is when the writer dies.
    cluster.borealis(&["storage", "add", "--zone", "c"])?;
    cluster.wait_for("the new node", SOON, |cluster| {
        Ok(node(cluster, "storage-8")?["segments"] == 0)
    })?;
    cluster.borealis(&["storage", "drain", "storage-5", "--no-wait"])?;
    cluster.wait_for("the copy to be on its way", SOON, |cluster| {
        Ok(node(cluster, "storage-8")?["segments"]
            .as_u64()
            .is_some_and(|segments| segments != 0))
    })?;
    cluster.kill_writer()?;
    cluster.borealis(&["storage", "drain", "storage-5"])?;
    wait_until_whole(&cluster, "storage-8", 1)?;
    ledger.wait_for_more(20, SOON)?;
    let held = cluster.borealis_output(&["storage", "remove", "storage-8"])?;
    ensure!(!held.status.success(), "it holds a copy");
    cluster.borealis(&["storage", "remove", "storage-5"])?;
    ensure!(!storage.join("storage-5").exists(), "its folder is left");

    // An empty disk under the old name: seen, and filled on the same node, since zone a has no other.
    cluster.borealis(&["stop", "storage-1"])?;
    std::fs::remove_dir_all(storage.join("storage-1"))?;
    cluster.borealis(&["start", "storage-1"])?;
    cluster.wait_for("the loss to be told", SOON, |cluster| {
        Ok(node(cluster, "storage-1")?["lost"] == 1)
    })?;
    ensure!(cluster.status()?["volume"]["quorum"]["missing"] == serde_json::json!(["storage-1"]));
    cluster.borealis(&["storage", "replace", "storage-1"])?;
    wait_until_whole(&cluster, "storage-1", 1)?;

    // The new copies carry the volume: an old one more in each other zone may go.
    ledger.wait_for_more(20, SOON)?;
    for name in ["storage-2", "storage-4"] {
        cluster.borealis(&["stop", name])?;
    }
    cluster.kill_writer()?;
    ledger.wait_for_more(20, SOON)?;
    ledger.settle(&cluster)?;
    cluster.client("pg_amcheck", &["--heapallindexed", "postgres"])?;
    Ok(())
}

/// By itself, after the time that `up --replace-after` names; and what was added is there again after `down` and `up`.
#[test]
fn a_node_that_stays_away_is_replaced_by_itself() -> Result<()> {
    let mut cluster = Cluster::up("replaced-by-itself", &[])?;
    cluster.borealis(&["storage", "add", "--zone", "a"])?;
    cluster.borealis(&["down"])?;
    let port = cluster.port().to_string();
    cluster.borealis(&["up", "--port", &port, "--replace-after", "3s"])?;
    cluster.connect()?;
    cluster.sql("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS id")?;
    cluster.borealis(&["stop", "storage-2"])?;
    cluster.wait_for("the spare to take over", SOON, |cluster| {
        let spare = node(cluster, "storage-7")?;
        Ok(spare["segments"] == 1 && spare["copying"] == 0)
    })?;
    cluster.borealis(&["start", "storage-2"])?;
    wait_until_whole(&cluster, "storage-2", 0)?;
    ensure!(cluster.sql("SELECT count(*) FROM kept")? == "1000");
    Ok(())
}

/// A node that was away while its copies moved hears of the next writer's reign from its old peers: that writer, who moved
/// nothing, has them removed all the same.
#[test]
fn a_node_whose_copies_moved_while_it_was_away_is_emptied_by_the_next_writer() -> Result<()> {
    let mut cluster = Cluster::prepare("emptied", &[])?;
    cluster.start_with(&["--group-size", "8MiB", "--stripe-size", "1MiB"])?;
    cluster.pgbench(&["-i", "-q", "-s", "3"])?;
    cluster.borealis(&["storage", "add", "--zone", "a"])?;
    let groups = |cluster: &Cluster| cluster.status_with("the groups", |status| status["volume"]["groups"].as_u64());
    for round in 0..4 {
        let (away, takes_over) = match round % 2 {
            0 => ("storage-1", "storage-7"),
            _ => ("storage-7", "storage-1"),
        };
        cluster.borealis(&["stop", away])?;
        cluster.borealis(&["storage", "replace", away])?;
        wait_until_whole(&cluster, takes_over, groups(&cluster)?)?;
        cluster.kill_writer()?;
        cluster.borealis(&["start", away])?;
        wait_until_whole(&cluster, away, 0)?;
    }
    Ok(())
}
