//! During a lost quorum: no way around the wait leads to a reported commit, and everything ends in time.

use std::io::Read;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use system_tests::Cluster;

const SOON: Duration = Duration::from_secs(20);

/// A psql that runs `statements` and says `done` only if the server reported success.
fn writer(cluster: &Cluster, statements: &str) -> Result<Child> {
    let mut psql = cluster.client_command("psql");
    psql.args(["-X", "-v", "ON_ERROR_STOP=1"]);
    for statement in statements.split(';').filter(|statement| !statement.trim().is_empty()) {
        psql.arg("-c").arg(statement);
    }
    Ok(psql
        .args(["-c", "\\echo done"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?)
}

fn said_done(mut child: Child) -> Result<bool> {
    let mut text = String::new();
    child
        .stdout
        .take()
        .context("stdout is a pipe")?
        .read_to_string(&mut text)?;
    child.wait()?;
    Ok(text.contains("done"))
}

#[test]
fn no_commit_is_reported_without_its_quorum() -> Result<()> {
    let cluster = Cluster::up("no-way-around", &[])?;
    cluster.sql("CREATE TABLE t (who text)")?;
    cluster.sql("ALTER SYSTEM SET synchronous_standby_names = ''; ")?;
    cluster.sql("SELECT pg_reload_conf()")?;
    for name in ["storage-1", "storage-2", "storage-3"] {
        cluster.borealis(&["stop", name])?;
    }
    cluster.wait_for("the quorum to be lost", SOON, |cluster| {
        Ok(cluster.status()?["volume"]["quorum"]["write"] == "lost")
    })?;
    let interrupted = writer(&cluster, "INSERT INTO t VALUES ('interrupted')")?;
    let terminated = writer(
        &cluster,
        "SET application_name = 'terminated'; INSERT INTO t VALUES ('terminated')",
    )?;
    let asynchronous = writer(
        &cluster,
        "SET synchronous_commit = off; INSERT INTO t VALUES ('asynchronous')",
    )?;
    let reconfigured = writer(&cluster, "INSERT INTO t VALUES ('reconfigured')")?;
    std::thread::sleep(Duration::from_secs(1));

    let pid = i32::try_from(interrupted.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .context("pid")?;
    rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    cluster.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'terminated'")?;
    let started = Instant::now();
    ensure!(!said_done(terminated)?, "a terminated session's commit was reported");
    ensure!(
        started.elapsed() < Duration::from_secs(5),
        "a terminated session did not end"
    );
    std::thread::sleep(Duration::from_secs(1));
    ensure!(
        cluster.sql("SELECT count(*) FROM t")? == "0",
        "a commit without quorum is visible to others"
    );

    let started = Instant::now();
    cluster.borealis(&["down"])?;
    let took = started.elapsed();
    ensure!(took < Duration::from_secs(60), "`down` took {took:?} without a quorum");
    for (what, child) in [
        ("interrupted", interrupted),
        ("asynchronous", asynchronous),
        ("reconfigured", reconfigured),
    ] {
        ensure!(!said_done(child)?, "{what}: a commit was reported without its quorum");
    }
    Ok(())
}
