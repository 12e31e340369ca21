//! The first `up` is killed half-way, again and again: the one that is left alone makes a whole cluster, and nothing of the
//! attempts before stays.

use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use system_tests::{Cluster, random_below};

const ROUNDS: u32 = 5;
const KILLS_A_ROUND: u32 = 2;

/// `kill -9` of one daemon; whether it ran.
fn kill(cluster: &Cluster, name: &str) -> Result<bool> {
    let file = cluster.directory().join("run").join(format!("{name}.pid"));
    let Ok(text) = std::fs::read_to_string(file) else {
        return Ok(false);
    };
    let pid: u32 = text.split_whitespace().next().context("a pid")?.parse()?;
    if !cluster.processes().contains(&pid) {
        return Ok(false);
    }
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    match rustix::process::kill_process(pid.context("a pid")?, rustix::process::Signal::KILL) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The cluster works, and there is nothing in its directory that belongs to no volume.
fn is_whole(cluster: &Cluster) -> Result<()> {
    ensure!(
        cluster.sql("SELECT count(*) FROM pg_database")? == "3",
        "the three first databases"
    );
    cluster.sql("CREATE TABLE IF NOT EXISTS t (n int); INSERT INTO t VALUES (1)")?;
    // `up` has waited for a write quorum only.
    let status = cluster.wait_until_available()?;
    for node in status["storage"].as_array().context("storage")? {
        ensure!(node["segments"] == 1, "a node holds more than its segment: {node}");
        ensure!(node["damaged"] == false, "{node}");
    }
    for entry in std::fs::read_dir(cluster.directory().join("instances/instance-1"))? {
        let name = entry?.file_name();
        ensure!(
            !name.to_string_lossy().starts_with("initdb"),
            "{} is left",
            name.display()
        );
    }
    Ok(())
}

#[test]
fn a_first_up_that_is_killed_half_way_is_finished_by_the_next_one() -> Result<()> {
    let mut cluster = Cluster::prepare("import-undisturbed", &[])?;
    let began = Instant::now();
    cluster.start()?;
    let undisturbed = began.elapsed();
    is_whole(&cluster)?;
    drop(cluster);
    for round in 0..ROUNDS {
        let mut cluster = Cluster::prepare("import", &[])?;
        for number in 0..KILLS_A_ROUND {
            let port = cluster.port().to_string();
            let mut up = cluster.borealis_command(&["up", "--port", &port]);
            let mut up = up.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
            let moment = random_below(undisturbed);
            std::thread::sleep(moment);
            let victim = ["instance-1", "agent", "everything"][((round + number) % 3) as usize];
            eprintln!("round {round}: kill {victim} after {moment:?} of {undisturbed:?}");
            let hit = match victim {
                "everything" => {
                    cluster.kill_everything()?;
                    true
                }
                name => kill(&cluster, name)?,
            };
            let ended = up.wait()?;
            if victim == "instance-1" || !hit {
                ensure!(
                    ended.success(),
                    "the agent starts an instance again, and `up` waits for it"
                );
                cluster.connect()?;
                is_whole(&cluster)?;
                cluster.borealis(&["down"])?;
            }
        }
        cluster.start()?;
        is_whole(&cluster)?;
        cluster.borealis(&["down"])?;
        cluster.start()?;
        is_whole(&cluster)?;
    }
    Ok(())
}

/// The metadata store is lost: what the storage nodes hold may be somebody's only copy.
#[test]
fn no_new_volume_is_made_where_there_is_one() -> Result<()> {
    let mut cluster = Cluster::up("metadata-lost", &[])?;
    cluster.sql("CREATE TABLE t (n int); INSERT INTO t VALUES (7)")?;
    cluster.borealis(&["down"])?;
    let store = cluster.directory().join("control/metadata.redb");
    let kept = store.with_extension("kept");
    std::fs::rename(&store, &kept)?;
    let refused = cluster.borealis_output(&["up"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success(), "a new volume stands where there was one");
    ensure!(said.contains("metadata.redb") && said.contains("put back"), "{said}");
    cluster.borealis(&["down"])?;
    std::fs::rename(&kept, &store)?;
    cluster.start()?;
    ensure!(cluster.sql("SELECT n FROM t")? == "7", "the table is as it was");
    Ok(())
}
