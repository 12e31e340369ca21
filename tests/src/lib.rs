//! Whole-system tests: real processes, real PostgreSQL, real kill -9.
//!
//! A [`Cluster`] is what a user gets from `borealis up`, in a directory of its own on a free port; it goes down with its
//! last process when it is dropped. A [`Ledger`] is a client that writes down what was acknowledged to it.

pub mod exposition;
mod footprint;
mod ledger;
mod ports;
mod programs;
pub mod small_table;

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

pub use footprint::Footprint;
pub use ledger::Ledger;
pub use ports::Ports;
pub use programs::{Lines, end_of};

/// How long a test waits for what happens at once on an idle machine. It costs nothing where things go well, and a busy
/// machine with a slow disk is no failure of the product: what must be fast is held to a time of its own.
pub const SOON: Duration = Duration::from_secs(180);
/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(20);
/// How often `up` is tried if somebody else took its port in between.
const UP_ATTEMPTS_MAX: u32 = 5;

/// As many storage nodes as leave no write quorum without them.
const WRITE_QUORUM_LOST_WITH: [&str; 3] = ["storage-1", "storage-2", "storage-3"];

/// Where Debian keeps PostgreSQL's programs.
pub const POSTGRESQL_BIN: &str = "/usr/lib/postgresql/15/bin";

/// A running cluster in a directory of its own.
pub struct Cluster {
    directory: PathBuf,
    ports: Ports,
    environment: Vec<(String, String)>,
    url: String,
    /// Its files stay.
    kept: AtomicBool,
    /// Dropped last: a cluster that waits for its turn begins when this one is gone.
    _turn: Turn,
}

/// As many clusters at a time as there are test threads, but for those that are held to a time: they run alone.
static TURNS: RwLock<()> = RwLock::new(());

/// A cluster's permission to run, which nothing reads.
enum Turn {
    BesideOthers { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

impl Turn {
    /// Waits, for minutes if need be. A test that failed says nothing about the next one.
    fn beside_others() -> Turn {
        Turn::BesideOthers {
            _guard: TURNS.read().unwrap_or_else(PoisonError::into_inner),
        }
    }

    fn alone() -> Turn {
        Turn::Alone {
            _guard: TURNS.write().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

/// The `borealis` program of this build.
pub fn program() -> PathBuf {
    let own = std::env::current_exe().expect("a program knows its own file");
    let folder = own.parent().expect("a file is in a folder");
    // Tests are in target/release/deps, programs in target/release.
    let above = folder.parent().filter(|_| folder.ends_with("deps"));
    above.unwrap_or(folder).join("borealis")
}

/// Another number at each call.
fn random() -> u64 {
    RandomState::new().hash_one(0)
}

/// Anything below `limit`, another one at each call: a moment to be hit by chance.
pub fn random_below(limit: Duration) -> Duration {
    limit.mul_f64(random() as f64 / u64::MAX as f64)
}

/// A new empty directory that every user may enter.
pub fn new_directory(name: &str) -> PathBuf {
    let unique = format!("borealis-test-{name}-{}-{:x}", std::process::id(), random() as u32);
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
        Cluster::prepare(name, settings)?.started()
    }

    /// The same, with no other cluster of this program beside it: for tests that hold it to a time.
    pub fn up_alone(name: &str, settings: &[&str]) -> Result<Cluster> {
        Cluster::at_its_turn(Turn::alone, name, settings)?.started()
    }

    fn started(mut self) -> Result<Cluster> {
        for _ in 1..UP_ATTEMPTS_MAX {
            match self.start() {
                Err(error) if error.to_string().contains("is in use by another program") => self.ports = Ports::take(),
                ended => return ended.map(|()| self),
            }
        }
        self.start()?;
        Ok(self)
    }

    /// Everything but `borealis up`.
    pub fn prepare(name: &str, settings: &[&str]) -> Result<Cluster> {
        Cluster::at_its_turn(Turn::beside_others, name, settings)
    }

    fn at_its_turn(turn: fn() -> Turn, name: &str, settings: &[&str]) -> Result<Cluster> {
        let environment = settings
            .iter()
            .map(|setting| {
                let (name, value) = setting.split_once('=').context("a setting reads name=value")?;
                let variable = name.to_ascii_uppercase().replace('.', "_");
                Ok((format!("BOREALIS_PG_{variable}"), value.to_owned()))
            })
            .collect::<Result<Vec<_>>>()?;
        // Waited for first, because it may take minutes, and nobody needs ports meanwhile.
        let turn = turn();
        Ok(Cluster {
            directory: new_directory(name).join("cluster"),
            ports: Ports::take(),
            environment,
            url: String::new(),
            kept: AtomicBool::new(false),
            _turn: turn,
        })
    }

    /// `borealis up` again, on the same directory.
    pub fn start(&mut self) -> Result<()> {
        self.start_with(&[])
    }

    /// The same, with further arguments.
    pub fn start_with(&mut self, arguments: &[&str]) -> Result<()> {
        let port = self.port().to_string();
        self.borealis(&[&["up", "--port", &port], arguments].concat())?;
        self.connect()
    }

    /// Where clients connect to, once `up` has made it.
    pub fn connect(&mut self) -> Result<()> {
        self.url = self.status_with("the cluster endpoint", |status| {
            status["endpoints"]["cluster"].as_str().map(str::to_owned)
        })?;
        Ok(())
    }

    /// Starts a daemon again with some of its settings changed, and waits until it is back.
    pub fn configure(&self, name: &str, change: impl Fn(&mut Value)) -> Result<()> {
        let file = self.directory.join("config").join(format!("{name}.json"));
        let mut config: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        change(&mut config);
        std::fs::write(&file, serde_json::to_vec(&config)?)?;
        self.borealis(&["kill", name])?;
        self.wait_until_available().map(drop)
    }

    /// The same of all storage nodes, one after the other.
    pub fn configure_storage(&self, change: impl Fn(&mut Value)) -> Result<()> {
        (1..=6).try_for_each(|number| self.configure(&format!("storage-{number}"), &change))
    }

    /// Its files stay when it is dropped.
    pub fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// The cluster's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Port of the cluster endpoint.
    pub fn port(&self) -> u16 {
        self.ports.endpoint()
    }

    /// The cluster endpoint, password included.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The superuser's password.
    pub fn password(&self) -> &str {
        let user = self.url.split_once("://").and_then(|(_, rest)| rest.split_once('@'));
        let password = user.and_then(|(user, _)| user.split_once(':'));
        password.map_or("", |(_, password)| password)
    }

    /// `borealis ARGUMENTS --dir …`, not started yet. `up` chooses among the cluster's ports.
    pub fn borealis_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(arguments);
        if arguments.first() == Some(&"up") {
            command.args(["--ports", &self.ports.of_daemons()]);
        }
        command
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

    /// What `pick` finds in `status`, as soon as it finds it: a daemon that is busy, or just starting, may be late with its
    /// part of it.
    pub fn status_with<T>(&self, what: &str, pick: impl Fn(&Value) -> Option<T>) -> Result<T> {
        let started = Instant::now();
        loop {
            let status = self.status()?;
            if let Some(found) = pick(&status) {
                return Ok(found);
            }
            if SOON < started.elapsed() {
                bail!(self.in_vain(format!("for {SOON:?} status did not tell {what}: {status:#}")));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// The volume's epoch.
    pub fn epoch(&self) -> Result<u64> {
        self.status_with("the epoch", |status| status["volume"]["epoch"].as_u64())
    }

    /// Gives an order that ends the writer's reign, and waits until one of a later epoch answers.
    pub fn replace_writer(&self, order: &[&str]) -> Result<()> {
        let epoch = self.epoch()?;
        self.borealis(order)?;
        self.wait_for("a writer of a later epoch", SOON, |cluster| {
            Ok(epoch < cluster.epoch()? && cluster.sql("SELECT 1")? == "1")
        })?;
        Ok(())
    }

    /// Kills PostgreSQL with all it holds in memory, and waits for the next epoch.
    pub fn kill_writer(&self) -> Result<()> {
        self.replace_writer(&["kill", "writer"])
    }

    /// Waits until all six storage nodes are available. The status that shows it.
    pub fn wait_until_available(&self) -> Result<Value> {
        let whole = |node: &Value| {
            node["state"] == "available"
                && node["pid"].is_u64()
                && node["segments"].is_u64()
                && node["damaged"].is_boolean()
                && node["complete_lsn"].is_string()
        };
        self.status_with("that six storage nodes are available", |status| {
            let nodes = status["storage"].as_array()?;
            (nodes.len() == 6 && nodes.iter().all(whole)).then(|| status.clone())
        })
    }

    /// Stops storage nodes until nothing can be committed. Pages can still be read.
    pub fn lose_quorum(&self) -> Result<()> {
        for name in WRITE_QUORUM_LOST_WITH {
            self.borealis(&["stop", name])?;
        }
        self.wait_for("the quorum to be lost", SOON, |cluster| {
            Ok(cluster.status()?["volume"]["quorum"]["write"] == "lost")
        })?;
        Ok(())
    }

    /// Starts the storage nodes that [`Cluster::lose_quorum`] has stopped.
    pub fn regain_quorum(&self) -> Result<()> {
        for name in WRITE_QUORUM_LOST_WITH {
            self.borealis(&["start", name])?;
        }
        self.wait_for("rows to be written again", SOON, |cluster| {
            Ok(cluster.sql("CREATE TEMPORARY TABLE written (n int)").is_ok())
        })?;
        Ok(())
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
        command
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.port().to_string())
            .env("PGUSER", "postgres")
            .env("PGPASSWORD", self.password())
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
        let file = self.directory.with_file_name(format!("script-{:x}.sql", random()));
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
                let status = self.borealis(&["status"]);
                let status = status.unwrap_or_else(|error| format!("{error:#}"));
                bail!(self.in_vain(format!(
                    "waited {limit:?} in vain for: {what} (last: {last:?})\n{status}"
                )));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// A wait that was in vain: the logs may tell why.
    fn in_vain(&self, what: String) -> String {
        self.keep();
        format!("{what}\nkept: {}", self.directory.display())
    }

    /// The instance that is the writer, from `status`, as soon as one is.
    pub fn writer(&self) -> Result<Value> {
        self.status_with("which instance is the writer", |status| {
            let mut instances = status["instances"].as_array()?.iter();
            instances.find(|instance| instance["role"] == "writer").cloned()
        })
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

    /// `kill -9` of every process of the cluster, PostgreSQL's included. They are gone when it returns.
    pub fn kill_everything(&self) -> Result<()> {
        let started = Instant::now();
        loop {
            let processes = self.processes();
            if processes.is_empty() {
                return Ok(());
            }
            // One that waits for its disk dies after that.
            ensure!(
                started.elapsed() < SOON,
                "{processes:?} live on after {SOON:?} of kill -9"
            );
            for pid in processes {
                if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
                    // It may have died with its parent in the meantime.
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
            std::thread::sleep(PAUSE);
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
        if let Err(error) = down {
            eprintln!("borealis down: {error:#}");
        }
        match self.kill_everything() {
            // A second panic would end the program without a word of the first.
            Err(error) if std::thread::panicking() => eprintln!("{error:#}"),
            killed => killed.expect("nothing of a cluster outlives it"),
        }
        if !std::thread::panicking()
            && !self.kept.load(Ordering::Relaxed)
            && let Some(parent) = self.directory.parent()
        {
            // What cannot be removed from a temporary directory is a nuisance, not a failed test.
            let _ = std::fs::remove_dir_all(parent);
        }
    }
}
