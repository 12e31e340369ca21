//! `borealis up`.

mod postgresql;

use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::process::Signal;
use supervision::Process;
use volume::SegmentKinds;

use crate::agent::Answer;
use crate::command::status::instance_status_blocking;
use crate::command::values::{ReplaceAfter, on_or_off, ports, replace_after, retention, size};
use crate::command::{ask_agent, environment};
use crate::layout::{Cluster, Layout, POSTGRESQL_BIN, Ports, write_atomically};
use crate::setup::{self, Division};

/// How long everything may take to answer.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// How long a killed process may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// How long a daemon may keep dying before `up` gives up: its port may be held by one that is just ending.
const FAILING_LIMIT: Duration = Duration::from_secs(15);
/// Attempts of the instance that `up` watches before it gives up; the instance itself goes on trying.
const ATTEMPTS_MAX: u32 = 5;
/// Lines of a log that an error quotes.
const LOG_LINES: usize = 8;
const POLL: Duration = Duration::from_millis(50);

/// Arguments of `borealis up`.
#[derive(Args)]
#[command(after_help = crate::help::UP)]
pub struct UpArguments {
    /// Port of the cluster endpoint, on the loopback address.
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Where the daemons' own ports are chosen, such as 20000-20099 [default: from 15000 on]
    #[arg(long, value_name = "FIRST-LAST", value_parser = ports)]
    ports: Option<Ports>,
    /// Readers beside the writer. None are supported yet.
    #[arg(long, default_value_t = 0, value_name = "N")]
    readers: u32,
    /// Silence after which a storage node's copies are made anew: 90s, 10m, 2h, never [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = replace_after)]
    replace_after: Option<ReplaceAfter>,
    /// Whether copies move away from full and slow disks by themselves: on, off [default: on]
    #[arg(long, value_name = "ON|OFF", value_parser = on_or_off)]
    heat: Option<bool>,
    /// For how long old versions of pages, and the log, are kept: 10m, 72h, 0 [default: as before, or 0]
    #[arg(long, value_name = "TIME", value_parser = retention)]
    retention: Option<u64>,
    /// Stay in the foreground, for systemd and containers; SIGTERM or Ctrl-C stops everything.
    #[arg(long)]
    foreground: bool,
    /// One more argument for initdb, used when the cluster is made.
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    initdb_arg: Vec<String>,
    /// Size of the volume's protection groups, such as 10GiB, used when the cluster is made.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    group_size: Option<u64>,
    /// Size of its stripes, runs of a file that stay in one group, such as 8MiB, used then as well.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    stripe_size: Option<u64>,
    /// Segments of a group, for good: full (six), full-and-tail (three of them log only)
    #[arg(long, value_name = "KINDS", default_value = "full")]
    segments: SegmentKinds,
}

/// What a new volume is divided into, in bytes. Smaller groups are possible, and are of use for tests.
const STRIPE_BYTES_MIN: u64 = 64 << 10;
const STRIPE_BYTES_MAX: u64 = 1 << 30;
const STRIPES_PER_GROUP_MIN: u64 = 4;

impl UpArguments {
    fn division(&self) -> Result<Division> {
        let stripe = self.stripe_size.unwrap_or(8 << 20);
        let group = self.group_size.unwrap_or(10 << 30);
        let page = units::PAGE_BYTES as u64;
        if !(STRIPE_BYTES_MIN..=STRIPE_BYTES_MAX).contains(&stripe) || !stripe.is_multiple_of(page) {
            bail!("--stripe-size: from 64KiB to 1GiB, whole pages of 8 KiB");
        }
        if group < STRIPES_PER_GROUP_MIN * stripe || !group.is_multiple_of(stripe) {
            bail!("--group-size: a multiple of --stripe-size, at least {STRIPES_PER_GROUP_MIN} times as much");
        }
        Ok(Division {
            group_bytes: self.group_size,
            stripe_bytes: self.stripe_size,
            segments: self.segments,
        })
    }
}

/// Makes what is missing, starts everything, and returns when a query is answered.
pub fn run(layout: &Layout, arguments: UpArguments) -> Result<ExitCode> {
    if arguments.readers != 0 {
        bail!("readers are not supported yet\nhint:  leave --readers away");
    }
    postgresql::check(&Layout::postgresql_bin())?;
    layout.check_length()?;
    if let Err(error) = layout.cluster_file().try_exists()
        && error.kind() == ErrorKind::PermissionDenied
    {
        bail!(layout.of_somebody_else());
    }
    if let Some(agent) = Process::from_file(&layout.pid_file("agent")) {
        if !arguments.foreground && is_starting(layout) {
            println!("an earlier `up` has begun to start the cluster: waiting for it");
            wait_until_ready(layout, || false)?;
            println!("cluster endpoint: {}", layout.url(Cluster::load(layout)?.port)?);
            return Ok(ExitCode::SUCCESS);
        }
        bail!(
            "the cluster in {} is running already (agent's pid {})\nhint:  `borealis status` shows it, `borealis down` stops it",
            layout.directory().display(),
            agent.pid()
        );
    }
    let environment = environment::settings()?;
    if rustix::process::geteuid().is_root() {
        return postgresql::as_postgres(layout);
    }
    let is_new = !layout.cluster_file().exists();
    let mut cluster = if is_new {
        let port = arguments.port.unwrap_or(5433);
        check_port(port)?;
        println!("making a cluster in {}", layout.directory().display());
        setup::create(
            layout,
            port,
            arguments.ports,
            &arguments.initdb_arg,
            arguments.division()?,
        )?
    } else {
        Cluster::load(layout)?
    };
    if arguments.ports.is_some() && cluster.ports != arguments.ports {
        cluster.ports = arguments.ports;
        cluster.store(layout)?;
    }
    environment::check_file(&layout.directory().join("postgresql.conf"))?;
    let mut proxy = living(layout)?.into_iter().find(|(name, _)| name == "proxy");
    if let Some(port) = arguments.port
        && port != cluster.port
    {
        check_port(port)?;
        if let Some((_, process)) = proxy.take() {
            // It was left behind on the old port.
            end_at_once(process)?;
        }
        cluster.port = port;
        cluster.store(layout)?;
        setup::configure_proxy(layout, &cluster)?;
    }
    if proxy.is_none() {
        check_port(cluster.port)?;
    }
    if arguments.replace_after.is_some() || arguments.heat.is_some() {
        setup::configure_control(layout, |config| {
            if let Some(ReplaceAfter { seconds }) = arguments.replace_after {
                config.replace_after_seconds = seconds;
            }
            match arguments.heat {
                Some(true) => config.heat = Some(config.heat.take().unwrap_or_default()),
                Some(false) => config.heat = None,
                None => {}
            }
        })?;
        if let Some((_, process)) = living(layout)?.into_iter().find(|(name, _)| name == "control") {
            // It was left behind with the old setting.
            end_at_once(process)?;
        }
    }
    if let Some(settings) = environment {
        write_atomically(&layout.environment_settings(), settings.as_bytes())?;
    }
    if std::env::var_os(POSTGRESQL_BIN).is_some() {
        setup::configure_postgresql(layout, &cluster)?;
    }
    postgresql::install_library(layout)?;
    if arguments.foreground {
        return in_foreground(layout, cluster.port, arguments.retention);
    }
    start_agent(layout)?;
    wait_until_ready(layout, || false)?;
    if let Some(seconds) = arguments.retention {
        super::retention::set(layout, seconds)?;
    }
    println!("cluster endpoint: {}", layout.url(cluster.port)?);
    Ok(ExitCode::SUCCESS)
}

/// Whether the writer of a cluster whose agent runs is still on its way.
fn is_starting(layout: &Layout) -> bool {
    let Ok(cluster) = Cluster::load(layout) else {
        return false;
    };
    let status = cluster
        .writer()
        .and_then(|writer| instance_status_blocking(layout, &writer.name));
    status.is_none_or(|status| status["state"] != "available")
}

fn check_port(port: u16) -> Result<()> {
    match TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            bail!("port {port} is in use by another program\nhint:  choose another with --port")
        }
        Err(error) => Err(error).with_context(|| format!("listen on port {port}")),
    }
}

/// Kills a daemon and waits until it is gone.
fn end_at_once(process: Process) -> Result<()> {
    process.signal(Signal::KILL)?;
    let deadline = Instant::now() + KILL_LIMIT;
    while process.is_alive() {
        if deadline < Instant::now() {
            bail!("process {} does not end", process.pid());
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Daemons that live, whoever started them.
pub fn living(layout: &Layout) -> Result<Vec<(String, Process)>> {
    let mut found = Vec::new();
    let folder = layout.directory().join("run");
    for entry in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        let path: PathBuf = entry?.path();
        if path.extension().is_some_and(|extension| extension == "pid")
            && let Some(name) = path.file_stem().and_then(|name| name.to_str())
            && let Some(process) = Process::from_file(&path)
        {
            found.push((name.to_owned(), process));
        }
    }
    Ok(found)
}

/// Starts the agent and waits until it listens.
pub fn start_agent(layout: &Layout) -> Result<std::process::Child> {
    let program = std::env::current_exe().context("the program's own path")?;
    let errors = std::fs::File::create(layout.error_file("agent")).context("the agent's file for standard error")?;
    let mut child = Command::new(program)
        .args(["agent", "--dir"])
        .arg(layout.directory())
        .current_dir(layout.directory())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors)
        .process_group(0)
        .spawn()
        .context("start the agent")?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::os::unix::net::UnixStream::connect(layout.agent_socket()).is_err() {
        if let Some(status) = child.try_wait()? {
            let said = std::fs::read_to_string(layout.error_file("agent")).unwrap_or_default();
            bail!("the agent ended at once ({status}): {said}");
        }
        if deadline < Instant::now() {
            bail!("the agent does not listen; see {}", layout.log_file("agent").display());
        }
        std::thread::sleep(POLL);
    }
    Ok(child)
}

/// Tells what goes on until a query through the cluster endpoint is answered, or until it is `interrupted`: then `false`.
fn wait_until_ready(layout: &Layout, interrupted: impl Fn() -> bool) -> Result<bool> {
    let deadline = Instant::now() + READY_LIMIT;
    let mut told = String::new();
    let mut failing_since = None;
    let mut attempts = 0;
    while !interrupted() {
        // Read again each time: a failover names another one.
        let cluster = Cluster::load(layout)?;
        let writer = cluster
            .writer()
            .context("no instance is the writer\nhint:  `borealis failover` starts a new one")?;
        if let Some(status) = instance_status_blocking(layout, &writer.name) {
            let activity = status["activity"].as_str().unwrap_or_default();
            if activity != told && !activity.is_empty() {
                println!("  {}", activity.lines().next().unwrap_or_default());
                attempts += u32::from(activity.starts_with("starting again"));
                activity.clone_into(&mut told);
            }
            if status["state"] == "available" && answers(layout, &cluster)? {
                return Ok(true);
            }
        }
        let Answer::List(listed) = ask_agent(layout, "list", "")? else {
            bail!("an answer to another order");
        };
        let failing = listed.iter().find(|one| one.failing);
        if let Some(down) = listed.iter().find(|one| one.stopped && one.name == writer.name) {
            bail!(
                "{} was stopped and stays down\nhint:  `borealis start {}` starts it",
                down.name,
                down.name
            );
        }
        let since = *failing_since.get_or_insert_with(Instant::now);
        match failing {
            Some(failing) if FAILING_LIMIT < since.elapsed() => {
                bail!("{} keeps failing; {}", failing.name, end_of_log(layout, &failing.name))
            }
            Some(_) => {}
            None => failing_since = None,
        }
        if deadline < Instant::now() || ATTEMPTS_MAX < attempts {
            bail!("the cluster does not answer; {}", end_of_log(layout, &writer.name));
        }
        std::thread::sleep(POLL);
    }
    Ok(false)
}

/// What a daemon said last, for an error, with a hint where there is more.
fn end_of_log(layout: &Layout, name: &str) -> String {
    let log = std::fs::read(layout.log_file(name)).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().collect();
    let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
    format!(
        "the end of its log, {name}:\n{}\nhint:  `borealis status` shows what is missing, `borealis logs {name}` why",
        tail.join("\n")
    )
}

fn answers(layout: &Layout, cluster: &Cluster) -> Result<bool> {
    let output = layout
        .psql(cluster.port)?
        .args(["-X", "-q", "-d", "postgres", "-c", "SELECT 1"])
        .stdin(Stdio::null())
        .output()
        .context("start psql")?;
    Ok(output.status.success())
}

/// Starts everything and stays until SIGTERM or SIGINT, at whatever moment it comes, stops everything again, or until somebody
/// else's `down` did. An agent that dies is started again.
fn in_foreground(layout: &Layout, port: u16, retention: Option<u64>) -> Result<ExitCode> {
    let interrupted = signals()?;
    let interrupted = || interrupted.load(Ordering::Relaxed);
    let mut agent = start_agent(layout)?;
    match wait_until_ready(layout, interrupted) {
        Ok(true) => {
            if let Some(seconds) = retention {
                super::retention::set(layout, seconds)?;
            }
            println!("cluster endpoint: {}", layout.url(port)?);
        }
        Ok(false) => {}
        Err(error) => {
            // Whoever started this in the foreground expects nothing behind it.
            super::down::run(layout)?;
            return Err(error);
        }
    }
    while !interrupted() {
        std::thread::sleep(POLL);
        match agent.try_wait()? {
            None => {}
            Some(status) if status.success() => return Ok(ExitCode::SUCCESS),
            Some(status) => {
                eprintln!("the agent ended ({status}) and is started again");
                agent = start_agent(layout)?;
            }
        }
    }
    let done = super::down::run(layout);
    agent.wait()?;
    done
}

/// Becomes true with the first SIGTERM or SIGINT. When this returns they end the process no more.
fn signals() -> Result<Arc<AtomicBool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let heard = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    let tell = heard.clone();
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        tell.store(true, Ordering::Relaxed);
    });
    Ok(heard)
}
