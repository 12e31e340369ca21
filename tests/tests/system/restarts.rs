//! The writer dies in every way there is: it is back by itself, without recovery, and nothing acknowledged is missing.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use system_tests::{Cluster, Ledger, SOON, end_of};

const ROUNDS: usize = 3;
const COMMITS: usize = 50;
/// From the kill to the next reign's commits, on a machine that has time: the best round counts, and how long as many commits
/// take just before the kill says what else the machine has to do.
const WRITER_BACK: Duration = Duration::from_secs(2);
/// What the next reign does is worth so many times those commits, on a disk that is slow.
const WRITER_BACK_COMMITS: u32 = 5;

fn no_recovery(cluster: &Cluster) -> Result<()> {
    let writer = cluster.writer()?["name"]
        .as_str()
        .context("the writer has a name")?
        .to_owned();
    let log = cluster.log(&writer)?;
    ensure!(
        log.contains("database system was shut down at"),
        "PostgreSQL's log says nothing of its start:\n{log}"
    );
    ensure!(!log.contains("redo starts"), "PostgreSQL ran recovery:\n{log}");
    Ok(())
}

/// What the running postmaster guards its data directory with: (key, id) of a System V segment, as the system prints them.
fn guard_of_the_writer(cluster: &Cluster) -> Result<(String, String)> {
    let lock_file = cluster.directory().join("instances/instance-1/data/postmaster.pid");
    let text = std::fs::read_to_string(&lock_file).context("postmaster.pid")?;
    let names = text.lines().nth(6).context("the segment's line")?;
    let (key, id) = names.trim().split_once(' ').context("key and id")?;
    Ok((key.to_owned(), id.trim().to_owned()))
}

fn exists(guard: &(String, String)) -> Result<bool> {
    let segments = std::fs::read_to_string("/proc/sysvipc/shm")?;
    Ok(segments.lines().any(|line| {
        let mut fields = line.split_whitespace();
        fields.next() == Some(&guard.0) && fields.next() == Some(&guard.1)
    }))
}

#[test]
fn a_killed_postmaster_or_instance_process_is_back_without_recovery() -> Result<()> {
    let cluster = Cluster::up_alone("restarts", &[])?;
    let ledger = Ledger::start(&cluster, 4)?;
    ledger.wait_for_more(100, SOON)?;
    for victim in ["writer", "instance-1"] {
        let mut gaps = Vec::new();
        for round in 0..ROUNDS {
            let epoch = cluster.epoch()?;
            let guard = guard_of_the_writer(&cluster)?;
            ensure!(exists(&guard)?, "{guard:?} is not the segment of the writer");
            let before = ledger.wait_for_more(COMMITS, SOON)?;
            let killed = Instant::now();
            cluster.borealis(&["kill", victim])?;
            // The backends of a killed postmaster go on until they are killed, too: what they acknowledge in the meantime
            // counts, but says nothing of the next reign.
            cluster.wait_for("the next epoch", SOON, |cluster| {
                let now = cluster.status()?["volume"]["epoch"].as_u64();
                Ok(now.is_some_and(|now| epoch < now))
            })?;
            ledger.wait_for_more(COMMITS, SOON)?;
            let gap = killed.elapsed();
            eprintln!(
                "round {round}, kill {victim}: {COMMITS} commits of the next reign after {gap:?}, before {before:?}"
            );
            gaps.push((gap, WRITER_BACK + before * WRITER_BACK_COMMITS));
            ensure!(!exists(&guard)?, "kill {victim}: shared memory {guard:?} stays behind");
        }
        ensure!(
            gaps.iter().any(|(gap, limit)| gap < limit),
            "kill {victim}: never in time (took, limit): {gaps:?}"
        );
    }
    no_recovery(&cluster)?;
    ledger.settle(&cluster)?;
    Ok(())
}

#[test]
fn everything_killed_at_once_is_up_again_with_every_acknowledged_row() -> Result<()> {
    let mut cluster = Cluster::up("kill-everything", &[])?;
    let ledger = Ledger::start(&cluster, 4)?;
    for _ in 0..2 {
        ledger.wait_for_more(200, SOON)?;
        cluster.kill_everything()?;
        cluster.start()?;
    }
    ledger.wait_for_more(20, SOON)?;
    no_recovery(&cluster)?;
    ledger.settle(&cluster)?;
    Ok(())
}

#[test]
fn a_writer_that_slept_through_a_failover_acknowledges_nothing_and_ends() -> Result<()> {
    let cluster = Cluster::up("zombie", &[])?;
    cluster.sql("CREATE TABLE t (n int)")?;
    let old = cluster.writer()?;
    let name = old["name"].as_str().context("name")?.to_owned();
    // A session that goes straight to the old writer, not through the proxy.
    let direct = cluster.status_with("the instance's endpoint", |status| {
        status["endpoints"]["instances"][&name].as_str().map(str::to_owned)
    })?;
    cluster.borealis(&["pause", &name])?;
    let attempt = std::thread::spawn({
        let psql = std::path::Path::new(system_tests::POSTGRESQL_BIN).join("psql");
        move || {
            std::process::Command::new(psql)
                .args(["-X", "-c", "INSERT INTO t VALUES (666)", &direct])
                .output()
        }
    });
    cluster.borealis(&["failover"])?;
    cluster.wait_for("a new writer", SOON, |cluster| {
        let writer = cluster.writer()?;
        Ok(writer["name"] != name.as_str() && writer["state"] == "available")
    })?;
    cluster.sql("INSERT INTO t VALUES (1)")?;
    cluster.borealis(&["start", &name])?;
    let zombie = attempt
        .join()
        .map_err(|_| anyhow::anyhow!("the zombie's client panicked"))??;
    ensure!(
        !zombie.status.success(),
        "the old writer acknowledged a commit: {zombie:?}"
    );
    let pid = u32::try_from(old["process_pid"].as_u64().context("process_pid")?)?;
    cluster.wait_for("the old writer to end itself", SOON, |cluster| {
        Ok(!cluster.processes().contains(&pid))
    })?;
    ensure!(
        cluster.log(&name)?.contains("epoch"),
        "the old writer does not say why it ended"
    );
    ensure!(
        cluster.sql("SELECT n FROM t")? == "1",
        "a row of the old writer is there"
    );
    Ok(())
}

/// For a query that is under way to end with the postmaster. It would take longer by itself.
const DIES_WITHIN: Duration = Duration::from_secs(3);

/// Whoever is busy hears of the postmaster's death from the kernel: else it would go on, and show its client what no volume has.
/// The instance process, which also ends what is left, stands still meanwhile.
#[test]
fn a_session_that_is_busy_dies_with_the_postmaster_and_says_nothing() -> Result<()> {
    let cluster = Cluster::up("busy-session", &[])?;
    let postmaster = cluster.writer()?["pid"].as_u64().context("the postmaster's pid")?;
    let mut busy = cluster.client_command("psql");
    let mut busy = busy
        .args([
            "-qAtc",
            "SELECT count(*) FROM generate_series(1, 10000) a, generate_series(1, 10000) b",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    cluster.wait_for("the query to be under way", SOON, |cluster| {
        let active = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%generate_series(1, 10000) b'";
        Ok(cluster.sql(&format!("{active} AND pid <> pg_backend_pid()"))? == "1")
    })?;
    cluster.borealis(&["pause", "instance-1"])?;
    let killed = Command::new("kill").args(["-9", &postmaster.to_string()]).status()?;
    ensure!(killed.success(), "the postmaster cannot be killed");
    let status = end_of(&mut busy, "the busy session", DIES_WITHIN)?;
    let mut said = String::new();
    busy.stdout.take().context("what it said")?.read_to_string(&mut said)?;
    ensure!(
        !status.success() && said.is_empty(),
        "it said {said:?}, and ended with {status}"
    );
    cluster.borealis(&["start", "instance-1"])?;
    cluster.wait_until_available()?;
    Ok(())
}
