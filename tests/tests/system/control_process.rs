//! The control process may forget everything that it did not have to remember: an opening finds the log's end by itself.

use anyhow::Result;
use system_tests::{Cluster, Ledger, SOON};

fn wait_for_new_reign(cluster: &Cluster, before: u64) -> Result<()> {
    cluster.wait_for("the writer to be back under a new epoch", SOON, |cluster| {
        let writer = cluster.writer()?;
        Ok(writer["state"] == "available" && before < cluster.epoch()?)
    })?;
    Ok(())
}

#[test]
fn a_control_process_without_memory_loses_no_acknowledged_row() -> Result<()> {
    let cluster = Cluster::up("forgetful", &[])?;
    let ledger = Ledger::start(&cluster, 4)?;
    ledger.wait_for_more(100, SOON)?;
    // Both die at once: nobody is left who knew how far the log is durable.
    for _ in 0..2 {
        let before = cluster.epoch()?;
        cluster.borealis(&["kill", "control"])?;
        cluster.borealis(&["kill", "writer"])?;
        wait_for_new_reign(&cluster, before)?;
        ledger.wait_for_more(50, SOON)?;
    }
    // It is away, and commits go on without it; the one that comes back was told of none of them.
    let before = cluster.epoch()?;
    cluster.borealis(&["stop", "control"])?;
    ledger.wait_for_more(100, SOON)?;
    cluster.borealis(&["kill", "writer"])?;
    cluster.borealis(&["start", "control"])?;
    wait_for_new_reign(&cluster, before)?;
    ledger.wait_for_more(50, SOON)?;
    ledger.settle(&cluster)?;
    Ok(())
}
