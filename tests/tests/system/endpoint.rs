//! The cluster endpoint gives a client to its backend, and stays responsible for it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context, Result, ensure};
use system_tests::{Cluster, SOON};

/// A person at a terminal.
struct Session {
    psql: Child,
    says: ChildStdin,
    sees: BufReader<ChildStdout>,
}

impl Session {
    fn begin(cluster: &Cluster) -> Result<Session> {
        let mut psql = cluster
            .client_command("psql")
            .args(["-XqAt", "-v", "ON_ERROR_STOP=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let says = psql.stdin.take().context("its input")?;
        let sees = BufReader::new(psql.stdout.take().context("its output")?);
        Ok(Session { psql, says, sees })
    }

    /// One statement that answers with one line.
    fn ask(&mut self, statement: &str) -> Result<String> {
        writeln!(self.says, "{statement};")?;
        let mut line = String::new();
        self.sees.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Whether the server has ended the connection: `psql` finds out about it with the next statement.
    fn was_cut(mut self) -> Result<bool> {
        // Fails if psql has ended already.
        let _ = writeln!(self.says, "SELECT 'alive';");
        let mut line = String::new();
        self.sees.read_line(&mut line)?;
        Ok(line.is_empty() && !self.psql.wait()?.success())
    }
}

#[test]
fn a_client_talks_to_its_backend_directly_and_outlives_the_proxy() -> Result<()> {
    let cluster = Cluster::up("endpoint", &[])?;
    let mut session = Session::begin(&cluster)?;
    // The port that the backend's own socket is bound to: through the proxy it would be the writer's.
    let port = cluster.port().to_string();
    ensure!(
        session.ask("SELECT inet_server_port()")? == port,
        "it goes through the proxy"
    );
    let shown =
        session.ask("SELECT client_port = inet_client_port() FROM pg_stat_activity WHERE pid = pg_backend_pid()")?;
    ensure!(shown == "t", "pg_stat_activity shows somebody else");
    let sum = session.ask("SELECT sum(length(repeat('x', 1000) || n)) FROM generate_series(1, 20000) n")?;
    ensure!(sum == "20088894", "{sum}");
    cluster.borealis(&["kill", "proxy"])?;
    ensure!(
        session.ask("SELECT 'still here'")? == "still here",
        "cut with the proxy"
    );
    cluster.wait_for("the proxy to be back", SOON, |cluster| {
        Ok(cluster.sql("SELECT 1").is_ok())
    })?;

    // The end of a backend ends its client.
    let mut other = Session::begin(&cluster)?;
    let pid = other.ask("SELECT pg_backend_pid()")?;
    ensure!(
        cluster.sql(&format!("SELECT pg_terminate_backend({pid}, 60000)"))? == "t",
        "it goes on"
    );
    ensure!(other.was_cut()?, "the client was not told");
    ensure!(
        session.ask("SELECT 'still here'")? == "still here",
        "another one was cut"
    );
    Ok(())
}

/// What passes both ways is whole: 60 MB in, and out again.
#[test]
fn large_copies_pass_whole() -> Result<()> {
    let cluster = Cluster::up("endpoint-copy", &[])?;
    cluster.sql("CREATE TABLE t (n int, what text)")?;
    let mut rows = String::new();
    for n in 0..60_000 {
        rows.push_str(&format!("{n}\t{}\n", "y".repeat(1000)));
    }
    let mut psql = cluster
        .client_command("psql")
        .args(["-XqAt", "-c", "COPY t FROM STDIN"])
        .stdin(Stdio::piped())
        .spawn()?;
    psql.stdin.take().context("its input")?.write_all(rows.as_bytes())?;
    ensure!(psql.wait()?.success(), "COPY failed");
    let back = cluster.client("psql", &["-XqAt", "-c", "COPY (TABLE t ORDER BY n) TO STDOUT"])?;
    ensure!(
        back.trim_end() == rows.trim_end(),
        "{} bytes came back of {}",
        back.len(),
        rows.len()
    );
    Ok(())
}

/// The old writer cannot end its sessions: it is frozen.
#[test]
fn a_failover_cuts_the_clients_of_a_frozen_writer() -> Result<()> {
    let cluster = Cluster::up("endpoint-cut", &[])?;
    let mut session = Session::begin(&cluster)?;
    ensure!(session.ask("SELECT 'in'")? == "in", "no session");
    let old = cluster.writer()?["name"].as_str().context("its name")?.to_owned();
    cluster.borealis(&["pause", "writer"])?;
    cluster.borealis(&["failover"])?;
    cluster.wait_for("the next writer", SOON, |cluster| Ok(cluster.sql("SELECT 1").is_ok()))?;
    ensure!(session.was_cut()?, "the session with {old} goes on");
    let text = cluster.borealis(&["status"])?;
    let line = text.lines().find(|line| line.starts_with(&old)).context("its line")?;
    ensure!(line.contains("paused"), "it was to be frozen all the time:\n{text}");
    Ok(())
}
