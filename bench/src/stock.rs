//! Stock PostgreSQL and its six receivers or standbys, each a process of its own on this machine.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use system_tests::{POSTGRESQL_BIN, Ports, new_directory};

/// How many copies of the log or the pages the peers keep, as many as ours.
const COPIES_COUNT: usize = 6;
/// Who must have a commit before it is reported.
const QUORUM: usize = 4;
/// Ends a PostgreSQL server at once, which gives its shared memory back.
const IMMEDIATE_SHUTDOWN: Signal = Signal::QUIT;
const START_LIMIT: Duration = Duration::from_secs(60);

/// What keeps the copies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Copies {
    /// Nobody.
    None,
    /// Six `pg_receivewal --synchronous`.
    Receivers,
    /// Six synchronous hot standbys.
    Standbys,
}

/// A stock PostgreSQL with its copies.
pub struct Stock {
    directory: PathBuf,
    kind: Copies,
    ports: Ports,
    primary: Child,
    /// Each with the signal that ends it.
    copies: Vec<(Child, Signal)>,
}

/// A command that runs as `postgres` when we are root, because PostgreSQL refuses to run as root.
fn as_postgres(program: &Path) -> Command {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    if !is_root {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
            "--pdeathsig=TERM",
            "--",
        ])
        .arg(program);
    // The directory of whoever called may be closed to `postgres`.
    command.current_dir("/");
    command
}

/// What the copies are called, in `synchronous_standby_names` and on disk.
fn copy_names() -> impl Iterator<Item = String> {
    (1..=COPIES_COUNT).map(|number| format!("copy{number}"))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn postgresql(program: &str) -> PathBuf {
    Path::new(POSTGRESQL_BIN).join(program)
}

impl Stock {
    /// Makes a cluster with `settings` and starts it and its copies.
    pub fn start(name: &str, settings: &[(&str, &str)], kind: Copies) -> Result<Stock> {
        let directory = new_directory(name);
        if let Some(owner) = postgres_user()? {
            std::os::unix::fs::chown(&directory, Some(owner.0), Some(owner.1))?;
        }
        let data = directory.join("primary");
        run(as_postgres(&postgresql("initdb"))
            .args(["-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "-A", "trust", "-D"])
            .arg(&data))?;
        let ports = Ports::take();
        let port = ports.endpoint();
        let names: Vec<String> = copy_names().collect();
        let mut arguments: Vec<String> = settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if kind != Copies::None {
            arguments.push(format!("synchronous_standby_names=ANY {QUORUM} ({})", names.join(", ")));
        }
        let primary = spawn_server(&directory, &data, port, &arguments)?;
        let mut stock = Stock {
            directory,
            kind,
            ports,
            primary,
            copies: Vec::new(),
        };
        stock.wait_until_ready(port)?;
        for name in &names {
            match kind {
                Copies::None => {}
                Copies::Receivers => stock.start_receiver(name)?,
                Copies::Standbys => stock.start_standby(name, settings)?,
            }
        }
        Ok(stock)
    }

    fn start_receiver(&mut self, name: &str) -> Result<()> {
        let folder = self.directory.join(name);
        std::fs::create_dir(&folder)?;
        if let Some(owner) = postgres_user()? {
            std::os::unix::fs::chown(&folder, Some(owner.0), Some(owner.1))?;
        }
        let connection = format!(
            "host=127.0.0.1 port={} user=postgres application_name={name}",
            self.port()
        );
        let slot = format!("slot_{name}");
        let program = postgresql("pg_receivewal");
        run(as_postgres(&program).args(["--create-slot", "-S", &slot, "-d", &connection]))?;
        let log = std::fs::File::create(self.directory.join(format!("{name}.log")))?;
        let child = as_postgres(&program)
            .args(["--synchronous", "-S", &slot, "-d", &connection, "-D"])
            .arg(&folder)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()?;
        self.copies.push((child, Signal::TERM));
        Ok(())
    }

    fn start_standby(&mut self, name: &str, settings: &[(&str, &str)]) -> Result<()> {
        let data = self.directory.join(name);
        let connection = format!(
            "host=127.0.0.1 port={} user=postgres application_name={name}",
            self.port()
        );
        run(as_postgres(&postgresql("pg_basebackup"))
            .args([
                "-R",
                "-C",
                "-S",
                &format!("slot_{name}"),
                "-c",
                "fast",
                "-d",
                &connection,
                "-D",
            ])
            .arg(&data))?;
        let port = self.ports.further(self.copies.len());
        let arguments: Vec<String> = settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let child = spawn_server(&self.directory, &data, port, &arguments)?;
        self.copies.push((child, IMMEDIATE_SHUTDOWN));
        self.wait_until_ready(port)
    }

    fn wait_until_ready(&self, port: u16) -> Result<()> {
        let started = Instant::now();
        loop {
            let ready = Command::new(postgresql("pg_isready"))
                .args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()])
                .status()?;
            if ready.success() {
                return Ok(());
            }
            if START_LIMIT < started.elapsed() {
                bail!(
                    "PostgreSQL on port {port} did not start; its log is in {}",
                    self.directory.display()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Removes the whole WAL files that receivers have written, as an archive would that takes them away: six copies of all
    /// WAL of a long run are more than a disk holds. The receivers write on in the last one.
    pub fn remove_received(&self) -> Result<()> {
        if self.kind != Copies::Receivers {
            return Ok(());
        }
        for name in copy_names() {
            let folder = self.directory.join(name);
            for entry in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
                let path = entry?.path();
                if path.extension().is_none() {
                    std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
                }
            }
        }
        Ok(())
    }

    /// The port of the primary.
    pub fn port(&self) -> u16 {
        self.ports.endpoint()
    }

    /// Where everything of this system lives; names its processes, too.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        // The children run under `setpriv`, which becomes them.
        let primary = (&mut self.primary, IMMEDIATE_SHUTDOWN);
        let copies = self.copies.iter_mut().map(|(child, signal)| (child, *signal));
        for (child, signal) in copies.chain([primary]) {
            if let Err(error) = kill_process(Pid::from_child(child), signal) {
                eprintln!("stop process {}: {error}", child.id());
            } else if let Err(error) = child.wait() {
                eprintln!("wait for process {}: {error}", child.id());
            }
        }
        // What cannot be removed from a temporary directory is a nuisance, not a failed run.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn spawn_server(directory: &Path, data: &Path, port: u16, arguments: &[String]) -> Result<Child> {
    let name = data
        .file_name()
        .and_then(|name| name.to_str())
        .context("a data directory has a name")?;
    let log = std::fs::File::create(directory.join(format!("{name}.log")))?;
    let mut command = as_postgres(&postgresql("postgres"));
    command
        .arg("-D")
        .arg(data)
        .args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]);
    command.args(["-c", &format!("port={port}")]);
    for argument in arguments {
        command.args(["-c", argument]);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("start postgres")
}

/// User and group id of `postgres`, if we are root and have to become it.
fn postgres_user() -> Result<Option<(u32, u32)>> {
    use std::os::unix::fs::MetadataExt;
    if std::fs::metadata("/proc/self")?.uid() != 0 {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd")?;
    let line = users
        .lines()
        .find(|line| line.starts_with("postgres:"))
        .context("there is no user postgres")?;
    let mut fields = line.split(':').skip(2).map(str::parse::<u32>);
    match (fields.next(), fields.next()) {
        (Some(Ok(user)), Some(Ok(group))) => Ok(Some((user, group))),
        _ => bail!("the line of user postgres in /etc/passwd is malformed"),
    }
}
