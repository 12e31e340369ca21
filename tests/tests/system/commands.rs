//! What the commands of the manual do to a running cluster.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use system_tests::{Cluster, Lines, Ports, SOON, end_of, new_directory, program, random_below};

/// How long a command asks a control process that does not answer.
const CONTROL_LIMIT: Duration = Duration::from_secs(5);

/// It fails, and says all of this as errors are said.
fn refused(cluster: &Cluster, arguments: &[&str], said: &[&str]) -> Result<()> {
    let output = cluster.borealis_output(arguments)?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{arguments:?}: {output:?}");
    ensure!(
        text.starts_with("error: ") && text.contains("\nhint:  "),
        "{arguments:?}: {text}"
    );
    for part in said {
        ensure!(text.contains(part), "{arguments:?}: {part:?} is not in: {text}");
    }
    Ok(())
}

/// The pid of a daemon, as its file has it.
fn pid(cluster: &Cluster, name: &str) -> Result<u32> {
    let text = std::fs::read_to_string(cluster.directory().join("run").join(format!("{name}.pid")))?;
    Ok(text.split_whitespace().next().context("a pid")?.parse()?)
}

/// State of a process as `/proc` has it: `T` is stopped; `None`: it is gone, or dead and not waited for.
fn state(pid: u32) -> Option<char> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    rest.trim_start().chars().next().filter(|state| *state != 'Z')
}

fn send(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a pid")?;
    Ok(kill_process(pid, signal)?)
}

fn wait_until_whole(cluster: &Cluster) -> Result<()> {
    cluster.wait_for("everything to be available", SOON, |cluster| {
        let status = cluster.status()?;
        let is = |one: &Value| one["state"] == "available";
        let nodes = status["storage"].as_array().context("storage")?;
        let both = status["control"]["pid"].is_u64() && status["proxy"]["pid"].is_u64();
        // The proxy has a pid before it listens.
        Ok(both && nodes.iter().all(is) && is(&cluster.writer()?) && cluster.sql("SELECT 1").is_ok())
    })?;
    Ok(())
}

#[test]
fn each_kind_of_daemon_is_paused_woken_stopped_started_and_killed() -> Result<()> {
    let cluster = Cluster::up("commands", &[])?;
    cluster.sql("CREATE TABLE t (n int)")?;
    for (name, number) in ["storage-2", "control", "proxy", "instance-1"].into_iter().zip(1..) {
        let paused = pid(&cluster, name)?;
        cluster.borealis(&["pause", name])?;
        ensure!(state(paused) == Some('T'), "{name} is not paused");
        if name.starts_with("storage") || name.starts_with("instance") {
            let text = cluster.borealis(&["status"])?;
            let line = text.lines().find(|line| line.starts_with(name)).context("its line")?;
            ensure!(line.contains("paused"), "{text}");
        }
        cluster.borealis(&["start", name])?;
        wait_until_whole(&cluster)?;
        ensure!(pid(&cluster, name)? == paused, "{name} woke up as another process");
        cluster.sql(&format!("INSERT INTO t VALUES ({number})"))?;

        cluster.borealis(&["stop", name])?;
        ensure!(state(paused).is_none(), "{name} is not stopped");
        refused(
            &cluster,
            &["kill", name],
            &["is not running", &format!("borealis start {name}")],
        )?;
        refused(&cluster, &["pause", name], &["is not running"])?;
        std::thread::sleep(Duration::from_millis(500));
        ensure!(pid(&cluster, name)? == paused, "{name} did not stay down");
        cluster.borealis(&["start", name])?;
        wait_until_whole(&cluster)?;
        cluster.sql(&format!("INSERT INTO t VALUES ({number})"))?;

        let killed = pid(&cluster, name)?;
        cluster.borealis(&["kill", name])?;
        cluster.wait_for("another process of that name", SOON, |cluster| {
            Ok(pid(cluster, name)? != killed && state(killed).is_none())
        })?;
        wait_until_whole(&cluster)?;
        cluster.sql(&format!("INSERT INTO t VALUES ({number})"))?;
    }
    ensure!(
        cluster.sql("SELECT count(*), sum(n) FROM t")? == "12|30",
        "{}",
        cluster.sql("SELECT n FROM t")?
    );
    Ok(())
}

#[test]
fn commits_go_on_without_the_control_process_and_a_failover_waits_for_it() -> Result<()> {
    let cluster = Cluster::up("without-control", &[])?;
    cluster.sql("CREATE TABLE t (n int)")?;
    cluster.borealis(&["stop", "control"])?;
    cluster.sql("INSERT INTO t VALUES (1)")?;
    refused(&cluster, &["failover"], &["control process", "borealis start control"])?;
    cluster.sql("INSERT INTO t VALUES (2)")?;
    cluster.borealis(&["start", "control"])?;
    wait_until_whole(&cluster)?;
    cluster.borealis(&["kill", "control"])?;
    // Killed just now: it is asked again until it is back, which takes longer than that where the disk is slow.
    cluster.wait_for("a failover", SOON, |cluster| {
        let began = Instant::now();
        let output = cluster.borealis_output(&["failover"])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            return Ok(true);
        }
        assert!(said.contains("control process"), "{said}");
        assert!(CONTROL_LIMIT <= began.elapsed(), "it was not asked again: {said}");
        Ok(false)
    })?;
    cluster.wait_for("the next writer", SOON, |cluster| {
        Ok(cluster.writer()?["state"] == "available")
    })?;
    ensure!(cluster.sql("SELECT sum(n) FROM t")? == "3", "rows");
    Ok(())
}

#[test]
fn mistakes_are_answered_with_what_to_do() -> Result<()> {
    let cluster = Cluster::up("mistakes", &[])?;
    refused(&cluster, &["up"], &["is running already", "borealis down"])?;
    refused(
        &cluster,
        &["kill", "storage-7"],
        &["there is no storage-7", "storage-6", "writer"],
    )?;
    refused(
        &cluster,
        &["failover", "--to", "instance-7"],
        &["instance-7 is no reader", "leave --to away"],
    )?;
    refused(&cluster, &["logs", "nobody"], &["nobody has no log", "storage-1"])?;
    let port = cluster.port().to_string();
    let directory = new_directory("second");
    let mut second = Command::new(program());
    let output = second.args(["up", "--port", &port, "--dir"]).arg(&directory).output()?;
    std::fs::remove_dir_all(&directory)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        !output.status.success() && said.contains("is in use") && said.contains("--port"),
        "{said}"
    );
    cluster.borealis(&["down"])?;
    for arguments in [&["kill", "writer"][..], &["failover"], &["pause", "proxy"]] {
        refused(&cluster, arguments, &["is not running", "borealis up"])?;
    }
    let again = cluster.borealis(&["down"])?;
    ensure!(again.contains("is not running"), "{again}");
    Ok(())
}

#[test]
fn a_followed_log_shows_what_postgresql_says() -> Result<()> {
    let cluster = Cluster::up("follow", &[])?;
    let shown = cluster.borealis(&["logs", "writer"])?;
    ensure!(shown.contains("instance.available"), "{shown}");
    let mut follow = cluster
        .borealis_command(&["logs", "-f", "writer"])
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = Lines::of(follow.stdout.take().context("it is piped")?);
    cluster.sql("DO $$ BEGIN RAISE LOG 'the north wind'; END $$")?;
    let found = lines.wait_for("the wind", SOON, |line| line.contains("the north wind"));
    follow.kill()?;
    follow.wait()?;
    found?;
    Ok(())
}

/// `up --foreground`, as systemd or a container has it.
struct Foreground {
    child: Child,
}

impl Foreground {
    fn start(cluster: &Cluster) -> Result<Foreground> {
        let port = cluster.port().to_string();
        let mut up = cluster.borealis_command(&["up", "--foreground", "--port", &port]);
        let child = up.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        Ok(Foreground { child })
    }

    fn wait_for_endpoint(&mut self) -> Result<()> {
        let lines = Lines::of(self.child.stdout.take().context("it is piped")?);
        lines.wait_for("the endpoint", SOON, |line| line.starts_with("cluster endpoint: "))?;
        Ok(())
    }

    /// It ends by itself, without error, and nothing of the cluster is left.
    fn ends(mut self, cluster: &Cluster) -> Result<()> {
        let status = end_of(&mut self.child, "`up --foreground`", SOON)?;
        let mut said = String::new();
        self.child
            .stderr
            .take()
            .context("it is piped")?
            .read_to_string(&mut said)?;
        ensure!(status.success(), "{status}: {said}");
        // One that had to be killed may need its time.
        let alone = |cluster: &Cluster| Ok(cluster.processes().is_empty());
        cluster.wait_for("nothing to go on", SOON, alone)?;
        Ok(())
    }
}

/// About what a first start takes once there is an agent.
const FIRST_START: Duration = Duration::from_secs(1);

#[test]
fn in_the_foreground_a_signal_stops_everything_at_whatever_moment() -> Result<()> {
    let mut cluster = Cluster::prepare("foreground", &[])?;
    // In the middle of the very first start. Before there is an agent, there is nothing to stop.
    let mut up = Foreground::start(&cluster)?;
    let agent = cluster.directory().join("run/agent.pid");
    let began = Instant::now();
    while !agent.exists() {
        ensure!(began.elapsed() < SOON, "no agent is started");
        ensure!(up.child.try_wait()?.is_none(), "it ended by itself");
        std::thread::sleep(Duration::from_millis(2));
    }
    let moment = random_below(FIRST_START);
    eprintln!("a signal {moment:?} after the agent's start");
    std::thread::sleep(moment);
    send(up.child.id(), Signal::TERM)?;
    up.ends(&cluster)?;
    for signal in [Signal::INT, Signal::TERM] {
        let mut up = Foreground::start(&cluster)?;
        up.wait_for_endpoint()?;
        cluster.connect()?;
        cluster.sql("CREATE TABLE IF NOT EXISTS t (n int); INSERT INTO t VALUES (1)")?;
        send(up.child.id(), signal)?;
        up.ends(&cluster)?;
    }
    let mut up = Foreground::start(&cluster)?;
    up.wait_for_endpoint()?;
    // Its agent dies and is started again; somebody's `down` ends it, too.
    let agent = pid(&cluster, "agent")?;
    send(agent, Signal::KILL)?;
    cluster.wait_for("another agent", SOON, |cluster| Ok(pid(cluster, "agent")? != agent))?;
    refused(&cluster, &["up", "--foreground"], &["is running already"])?;
    ensure!(cluster.sql("SELECT sum(n) FROM t")? == "2", "rows of two starts");
    cluster.wait_for("the agent to listen", SOON, |cluster| {
        Ok(cluster.borealis_output(&["down"])?.status.success())
    })?;
    up.ends(&cluster)?;
    Ok(())
}

/// A home of somebody who is not root, with the programs in it.
struct Home {
    directory: PathBuf,
    _alone: Cluster,
}

/// `nobody`, and its group.
const NOBODY: u32 = 65_534;

impl Drop for Home {
    fn drop(&mut self) {
        let _ = self.borealis(&["down"]).output();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Home {
    fn new() -> Result<Home> {
        // It never goes up: it keeps other tests' clusters away.
        let alone = Cluster::prepare("home", &[])?;
        let directory = new_directory("home");
        for name in ["borealis", "libborealis_postgresql.so"] {
            std::fs::copy(program().with_file_name(name), directory.join(name))?;
        }
        std::os::unix::fs::chown(&directory, Some(NOBODY), Some(NOBODY))?;
        Ok(Home {
            directory,
            _alone: alone,
        })
    }

    fn borealis(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.directory.join("borealis"));
        command
            .args(arguments)
            .current_dir("/")
            .env_clear()
            .env("HOME", &self.directory)
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::null())
            .uid(NOBODY)
            .gid(NOBODY);
        command
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.borealis(arguments).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{arguments:?} as nobody: {text}{said}");
        Ok(text)
    }
}

#[test]
fn an_ordinary_user_has_a_cluster_at_home() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        // Then every other test is this test.
        return Ok(());
    }
    let home = Home::new()?;
    let ports = Ports::take();
    let port = ports.endpoint().to_string();
    let made = home.run(&["up", "--port", &port, "--ports", &ports.of_daemons()])?;
    ensure!(made.contains("cluster endpoint: postgres://postgres:"), "{made}");
    home.run(&[
        "psql",
        "--",
        "-c",
        "CREATE TABLE t AS SELECT generate_series(1, 1000) n",
    ])?;
    let cluster = home.directory.join(".local/share/borealis");
    ensure!(cluster.join("cluster.json").exists(), "it is not at home");
    home.run(&["failover"])?;
    let count = home.run(&["psql", "--", "-Atc", "SELECT count(*) FROM t"])?;
    ensure!(count.trim() == "1000", "{count}");
    // Nobody else's business: not the files, and not the processes.
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&cluster)?.permissions());
    ensure!(mode & 0o077 == 0, "{mode:o}");
    home.run(&["down"])?;
    home.run(&["up"])?;
    let count = home.run(&["psql", "--", "-Atc", "SELECT count(*) FROM t"])?;
    ensure!(count.trim() == "1000", "{count}");
    home.run(&["down"])?;
    // Root does not take over what belongs to somebody else.
    let refused = Command::new(program()).arg("up").arg("--dir").arg(&cluster).output()?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        !refused.status.success() && said.contains("belongs to somebody else"),
        "{said}"
    );
    Ok(())
}
