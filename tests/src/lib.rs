//! Whole-system tests: real processes, real PostgreSQL, real kill -9.
//!
//! A [`Cluster`] is what a user gets from `borealis up`, in a directory of its own on a free port; it goes down with its
//! last process when it is dropped. A [`Ledger`] is a client that writes down what was acknowledged to it.

mod footprint;
mod ledger;
pub mod small_table;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

pub use footprint::Footprint;
pub use ledger::Ledger;

/// Where Debian keeps PostgreSQL's programs.
pub const POSTGRESQL_BIN: &str = "/usr/lib/postgresql/15/bin";

/// A running cluster in a directory of its own.
pub struct Cluster {
    directory: PathBuf,
    port: u16,
    environment: Vec<(String, String)>,
    url: String,
    /// Dropped last: the next cluster begins when this one is gone.
    _alone: MutexGuard<'static, ()>,
}

/// One cluster at a time: each has ten processes and a PostgreSQL, and some tests hold it to a time.
static ALONE: Mutex<()> = Mutex::new(());

/// The `borealis` program of this build.
pub fn program() -> PathBuf {
    let own = std::env::current_exe().expect("a program knows its own file");
    let folder = own.parent().expect("a file is in a folder");
    // Tests are in target/release/deps, programs in target/release.
    let above = folder.parent().filter(|_| folder.ends_with("deps"));
    above.unwrap_or(folder).join("borealis")
}

/// A port nothing listens on just now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// A new empty directory that every user may enter.
pub fn new_directory(name: &str) -> PathBuf {
    let unique = format!("borealis-test-{name}-{}-{}", std::process::id(), free_port());
    let directory = std::env::temp_dir().join(unique);
    std::fs::create_dir_all(&directory).expect("the temporary directory can be written");
    directory
}

fn checked(what: &str, output: Output) -> Result<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!(
            "{what} failed ({}):\n{text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(text)
}

impl Cluster {
    /// `borealis up` with these PostgreSQL settings (`shared_buffers=1MB` …).
    pub fn up(name: &str, settings: &[&str]) -> Result<Cluster> {
        let mut cluster = Cluster::prepare(name, settings)?;
        cluster.start()?;
        Ok(cluster)
    }

    /// Everything but `borealis up`.
    pub fn prepare(name: &str, settings: &[&str]) -> Result<Cluster> {
        let environment = settings
            .iter()
            .map(|setting| {
                let (name, value) = setting.split_once('=').context("a setting reads name=value")?;
                let variable = name.to_ascii_uppercase().replace('.', "_");
                Ok((format!("BOREALIS_PG_{variable}"), value.to_owned()))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Cluster {
            directory: new_directory(name).join("cluster"),
            port: free_port(),
            environment,
            url: String::new(),
            // A test that failed says nothing about the next one.
            _alone: ALONE.lock().unwrap_or_else(PoisonError::into_inner),
        })
    }

    /// `borealis up` again, on the same directory.
    pub fn start(&mut self) -> Result<()> {
        let port = self.port.to_string();
        self.borealis(&["up", "--port", &port])?;
        self.connect()
    }

    /// Where clients connect to, once `up` has made it.
    pub fn connect(&mut self) -> Result<()> {
        let status = self.status()?;
        let url = status["endpoints"]["cluster"]
            .as_str()
            .context("status names no cluster endpoint")?;
        self.url = url.to_owned();
        Ok(())
    }

    /// The cluster's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Port of the cluster endpoint.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The cluster endpoint, password included.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// `borealis ARGUMENTS --dir …`, not started yet.
    pub fn borealis_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .args(arguments)
            .arg("--dir")
            .arg(&self.directory)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Runs `borealis ARGUMENTS --dir …`.
    pub fn borealis_output(&self, arguments: &[&str]) -> Result<Output> {
        self.borealis_command(arguments)
            .output()
            .with_context(|| format!("run {}", program().display()))
    }

    /// Runs `borealis ARGUMENTS --dir …` and insists that it succeeds.
    pub fn borealis(&self, arguments: &[&str]) -> Result<String> {
        checked(
            &format!("borealis {}", arguments.join(" ")),
            self.borealis_output(arguments)?,
        )
    }

    /// `borealis status --json`.
    pub fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.borealis(&["status", "--json"])?)?)
    }

    /// One of PostgreSQL's own programs against the cluster endpoint. Its output.
    pub fn client_output(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        let mut command = self.client_command(program);
        command
            .args(arguments)
            .output()
            .with_context(|| format!("run {program}"))
    }

    /// One of PostgreSQL's own programs, set to connect to the cluster endpoint.
    pub fn client_command(&self, program: &str) -> Command {
        let mut command = Command::new(Path::new(POSTGRESQL_BIN).join(program));
        let password = self
            .url
            .split_once("://")
            .and_then(|(_, rest)| rest.split_once('@'))
            .map(|(user, _)| user);
        let password = password
            .and_then(|user| user.split_once(':'))
            .map_or("", |(_, password)| password);
        command
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
            .env("PGPASSWORD", password)
            .env("PGDATABASE", "postgres")
            .stdin(Stdio::null());
        command
    }

    /// One of PostgreSQL's own programs, which must succeed. Its standard output.
    pub fn client(&self, program: &str, arguments: &[&str]) -> Result<String> {
        checked(
            &format!("{program} {}", arguments.join(" ")),
            self.client_output(program, arguments)?,
        )
    }

    /// SQL statements in one session; unaligned rows without header, trimmed. The first error fails.
    pub fn sql(&self, statements: &str) -> Result<String> {
        let text = self.client(
            "psql",
            &["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statements],
        )?;
        Ok(text.trim().to_owned())
    }

    /// Like [`Cluster::sql`], each statement in a transaction of its own.
    pub fn script(&self, statements: &str) -> Result<String> {
        let file = self.directory.with_file_name(format!("script-{}.sql", free_port()));
        std::fs::write(&file, statements)?;
        let path = file.to_str().context("the temporary directory has a plain name")?;
        let text = self.client("psql", &["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", path])?;
        Ok(text.trim().to_owned())
    }

    /// `pgbench ARGUMENTS`, which must not report a failed transaction. Its output.
    pub fn pgbench(&self, arguments: &[&str]) -> Result<String> {
        let text = self.client("pgbench", arguments)?;
        let failed = text
            .lines()
            .find(|line| line.starts_with("number of failed transactions"));
        ensure!(
            failed.is_none_or(|line| line.contains(": 0 ")),
            "pgbench reports failed transactions:\n{text}"
        );
        Ok(text)
    }

    /// Waits until `condition` holds; the error says what was waited for.
    pub fn wait_for(
        &self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&Cluster) -> Result<bool>,
    ) -> Result<Duration> {
        let started = Instant::now();
        loop {
            let last = condition(self);
            if matches!(last, Ok(true)) {
                return Ok(started.elapsed());
            }
            if limit < started.elapsed() {
                bail!(
                    "waited {limit:?} in vain for: {what} (last: {last:?})\n{}",
                    self.borealis(&["status"])?
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The instance that is the writer, from `status`.
    pub fn writer(&self) -> Result<Value> {
        let status = self.status()?;
        let instances = status["instances"].as_array().context("status lists no instances")?;
        let writer = instances.iter().find(|instance| instance["role"] == "writer");
        writer
            .cloned()
            .with_context(|| format!("no instance is the writer: {status}"))
    }

    /// The log of a role, as far as it is in the current file.
    pub fn log(&self, name: &str) -> Result<String> {
        let path = self.directory.join("log").join(format!("{name}.log"));
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// Processes whose command line names this cluster's directory.
    pub fn processes(&self) -> Vec<u32> {
        let needle = self.directory.to_string_lossy().into_owned();
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .filter(|pid| *pid != std::process::id())
            .filter(|pid| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&line).contains(&needle)
            })
            .collect()
    }

    /// `kill -9` of every process of the cluster, PostgreSQL's included.
    pub fn kill_everything(&self) {
        for _ in 0..50 {
            let processes = self.processes();
            if processes.is_empty() {
                return;
            }
            for pid in processes {
                if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
                    // It may have died with its parent in the meantime.
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the cluster's directory is kept: {}", self.directory.display());
            if let Ok(text) = self.borealis(&["status"]) {
                eprintln!("{text}");
            }
        }
        let down = self.borealis(&["down"]);
        self.kill_everything();
        if let Err(error) = down {
            eprintln!("borealis down: {error:#}");
        }
        if !std::thread::panicking()
            && let Some(parent) = self.directory.parent()
        {
            // What cannot be removed from a temporary directory is a nuisance, not a failed test.
            let _ = std::fs::remove_dir_all(parent);
        }
    }
}
