//! During a lost quorum: no way around the wait leads to a reported commit, and everything ends in time.

use std::io::Read;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use system_tests::{Cluster, SOON, end_of};

/// For what does not wait for the quorum. It is long for a busy machine; without a quorum, waiting would be for ever.
const IN_TIME: Duration = Duration::from_secs(120);

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

/// Its few lines fit into the pipe, so it ends without a reader.
fn said_done(mut child: Child) -> Result<bool> {
    end_of(&mut child, "a session", IN_TIME)?;
    let mut text = String::new();
    let mut stdout = child.stdout.take().context("stdout is a pipe")?;
    stdout.read_to_string(&mut text)?;
    Ok(text.contains("done"))
}

#[test]
fn no_commit_is_reported_without_its_quorum() -> Result<()> {
    let cluster = Cluster::up_alone("no-way-around", &[])?;
    cluster.sql("CREATE TABLE t (who text)")?;
    // Refused, and without effect if it stands in the file all the same.
    let set = "ALTER SYSTEM SET synchronous_standby_names = ''";
    let said = cluster.client_output("psql", &["-X", "-c", set])?.stderr;
    ensure!(
        String::from_utf8_lossy(&said).contains("is set by Borealis"),
        "{set}: not refused"
    );
    cluster.script(
        "COPY (SELECT $$synchronous_standby_names = ''$$) TO PROGRAM 'cat >> postgresql.auto.conf';
         SELECT pg_reload_conf();",
    )?;
    cluster.lose_quorum()?;
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
    cluster.wait_for("all to wait", SOON, |cluster| Ok(waiting(cluster)? == "4"))?;

    let pid = i32::try_from(interrupted.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .context("pid")?;
    rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    signal(&cluster, "pg_terminate_backend", "terminated")?;
    ensure!(!said_done(terminated)?, "a terminated session's commit was reported");
    std::thread::sleep(Duration::from_secs(1));
    ensure!(
        cluster.sql("SELECT count(*) FROM t")? == "0",
        "a commit without quorum is visible to others"
    );

    let started = Instant::now();
    cluster.borealis(&["down"])?;
    let took = started.elapsed();
    ensure!(took < IN_TIME, "`down` took {took:?} without a quorum");
    for (what, child) in [
        ("interrupted", interrupted),
        ("asynchronous", asynchronous),
        ("reconfigured", reconfigured),
    ] {
        ensure!(!said_done(child)?, "{what}: a commit was reported without its quorum");
    }
    Ok(())
}

/// Sessions that wait for the quorum of a commit.
fn waiting(cluster: &Cluster) -> Result<String> {
    cluster.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
}

fn signal(cluster: &Cluster, function: &str, name: &str) -> Result<()> {
    let sessions = format!("SELECT {function}(pid) FROM pg_stat_activity WHERE application_name = '{name}'");
    ensure!(cluster.sql(&sessions)? == "t", "no session is called {name}");
    Ok(())
}

#[test]
fn a_prepared_transaction_is_not_committed_without_its_quorum() -> Result<()> {
    let cluster = Cluster::up("prepared", &["max_prepared_transactions=10"])?;
    cluster.sql("CREATE TABLE t (who text)")?;
    for who in ["cancelled", "terminated", "killed"] {
        cluster.script(&format!(
            "BEGIN; INSERT INTO t VALUES ('{who}'); PREPARE TRANSACTION '{who}';"
        ))?;
    }
    let commit = |who: &str| {
        writer(
            &cluster,
            &format!("SET application_name = '{who}'; COMMIT PREPARED '{who}'"),
        )
    };
    let prepared = "SELECT count(*) FROM pg_prepared_xacts";
    cluster.lose_quorum()?;
    let mut cancelled = commit("cancelled")?;
    let terminated = commit("terminated")?;
    cluster.wait_for("both to wait", SOON, |cluster| Ok(waiting(cluster)? == "2"))?;
    signal(&cluster, "pg_cancel_backend", "cancelled")?;
    signal(&cluster, "pg_terminate_backend", "terminated")?;
    ensure!(!said_done(terminated)?, "a terminated session's commit was reported");
    std::thread::sleep(Duration::from_secs(1));
    ensure!(
        cancelled.try_wait()?.is_none(),
        "a cancelled session ended without its quorum"
    );
    ensure!(waiting(&cluster)? == "2", "a session gave up waiting");
    ensure!(
        cluster.sql("SELECT count(*) FROM t")? == "0",
        "a commit without quorum is visible to others"
    );
    ensure!(cluster.sql(prepared)? == "3", "a transaction is no longer prepared");
    let busy = cluster.client_output("psql", &["-X", "-c", "ROLLBACK PREPARED 'cancelled'"])?;
    ensure!(
        String::from_utf8_lossy(&busy.stderr).contains("is busy"),
        "a transaction that is being committed could be rolled back"
    );

    cluster.regain_quorum()?;
    ensure!(
        said_done(cancelled)?,
        "a commit that got its quorum was reported as a failure"
    );
    cluster.wait_for("both to be committed", SOON, |cluster| {
        Ok(cluster.sql("SELECT count(*) FROM t")? == "2")
    })?;
    ensure!(cluster.sql(prepared)? == "1", "committed, and still prepared");

    // The writer dies while it waits: the record may be in the volume or not, and either is a whole outcome.
    cluster.lose_quorum()?;
    let killed = commit("killed")?;
    cluster.wait_for("it to wait", SOON, |cluster| Ok(waiting(cluster)? == "1"))?;
    cluster.borealis(&["kill", "writer"])?;
    ensure!(!said_done(killed)?, "a killed server's commit was reported");
    cluster.regain_quorum()?;
    let outcome = cluster.sql(
        "SELECT (SELECT count(*) FROM t WHERE who = 'killed'), (SELECT count(*) FROM pg_prepared_xacts),
             (SELECT count(*) FROM t WHERE who <> 'killed')",
    )?;
    ensure!(
        ["1|0|2", "0|1|2"].contains(&outcome.as_str()),
        "half an outcome: {outcome}"
    );
    if outcome == "0|1|2" {
        cluster.sql("COMMIT PREPARED 'killed'")?;
    }
    ensure!(cluster.sql("SELECT count(*) FROM t")? == "3", "rows of the last commit");
    Ok(())
}
