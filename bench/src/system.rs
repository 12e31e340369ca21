//! One of the systems under measurement, ours or a peer.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use system_tests::{Cluster, POSTGRESQL_BIN};

use crate::stock::{Copies, Stock};

/// Settings that all have in common, beside their own.
const COMMON: [(&str, &str); 2] = [("shared_buffers", "1GB"), ("max_wal_size", "16GB")];
/// Checkpoints of the peers come when the bench asks for them: one by the clock would fall on a neighbour's round.
const PEERS: (&str, &str) = ("checkpoint_timeout", "1d");

/// What the report calls ours.
pub const OURS: &str = "ours";
/// What the report calls (a).
pub const LOCAL: &str = "local";
/// What the report calls (b).
pub const RECEIVERS: &str = "receivers";
/// What the report calls (c).
pub const STANDBYS: &str = "standbys";

enum Kind {
    /// Borealis, through its cluster endpoint.
    Ours(Cluster),
    Stock(Stock),
}

/// A system with a database that `pgbench` can reach.
pub struct System {
    name: &'static str,
    kind: Kind,
}

impl System {
    /// Borealis, as `borealis up` makes it, through its cluster endpoint.
    pub fn ours() -> Result<System> {
        let settings: Vec<String> = COMMON.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        Ok(System {
            name: OURS,
            kind: Kind::Ours(Cluster::up("bench", &settings)?),
        })
    }

    /// Stock PostgreSQL on the local disk.
    pub fn local() -> Result<System> {
        System::stock(LOCAL, Copies::None)
    }

    /// Stock PostgreSQL with six synchronous log receivers.
    pub fn receivers() -> Result<System> {
        System::stock(RECEIVERS, Copies::Receivers)
    }

    /// Stock PostgreSQL with six synchronous hot standbys.
    pub fn standbys() -> Result<System> {
        System::stock(STANDBYS, Copies::Standbys)
    }

    fn stock(name: &'static str, copies: Copies) -> Result<System> {
        Ok(System {
            name,
            kind: Kind::Stock(Stock::start(name, &[&COMMON[..], &[PEERS]].concat(), copies)?),
        })
    }

    /// Whether it is Borealis.
    pub fn is_ours(&self) -> bool {
        matches!(self.kind, Kind::Ours(_))
    }

    /// What the report calls it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its processes name this directory on their command lines.
    pub fn directory(&self) -> &Path {
        match &self.kind {
            Kind::Ours(cluster) => cluster.directory(),
            Kind::Stock(stock) => stock.directory(),
        }
    }

    /// A program of PostgreSQL that connects to this system.
    pub fn client(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = match &self.kind {
            Kind::Ours(cluster) => cluster.client_command(program),
            Kind::Stock(stock) => {
                let mut command = Command::new(Path::new(POSTGRESQL_BIN).join(program));
                command
                    .env("PGHOST", "127.0.0.1")
                    .env("PGPORT", stock.port().to_string());
                command.env("PGUSER", "postgres").env("PGDATABASE", "postgres");
                command
            }
        };
        let output = command
            .args(arguments)
            .output()
            .with_context(|| format!("start {program}"))?;
        if !output.status.success() {
            bail!(
                "{}: {program} {arguments:?} failed:\n{}",
                self.name,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `pgbench`, which must not report a failed transaction. Its output.
    pub fn pgbench(&self, arguments: &[&str]) -> Result<String> {
        let text = self.client("pgbench", arguments)?;
        let failed = text
            .lines()
            .find(|line| line.starts_with("number of failed transactions"));
        ensure!(
            failed.is_none_or(|line| line.contains(": 0 ")),
            "{}: failed transactions:\n{text}",
            self.name
        );
        Ok(text)
    }

    /// One value from SQL.
    pub fn sql(&self, statement: &str) -> Result<String> {
        Ok(self
            .client("psql", &["-X", "-q", "-A", "-t", "-c", statement])?
            .trim()
            .to_owned())
    }

    /// Lets go of what nobody needs any more.
    pub fn tidy(&self) -> Result<()> {
        match &self.kind {
            Kind::Stock(stock) => stock.remove_received(),
            Kind::Ours(_) => Ok(()),
        }
    }

    /// Every setting that is not PostgreSQL's default, apart from addresses and paths.
    pub fn settings(&self) -> Result<String> {
        self.sql(
            "SELECT string_agg(name || '=' || setting || coalesce(' ' || unit, ''), ', ' ORDER BY name) FROM pg_settings
             WHERE source NOT IN ('default', 'override', 'client') AND setting IS DISTINCT FROM boot_val
               AND name !~ '(director|_file|^port|address|^lc_|locale|TimeZone|timezone|name$|socket|library_path|_pid|_lsn)'",
        )
    }

    /// Blocks of the default database that were not found in the buffer cache so far.
    pub fn blocks_read(&self) -> Result<i64> {
        let blocks = self.sql("SELECT blks_read FROM pg_stat_database WHERE datname = 'postgres'")?;
        blocks.parse().context("a count is a number")
    }

    /// Bytes sent away so far: to storage nodes for ours (framing and all six copies included), six times what was
    /// written for the receivers; others are not counted.
    pub fn log_bytes(&self) -> Result<Option<u64>> {
        let bytes = match &self.kind {
            Kind::Ours(cluster) => Some(cluster.log_bytes_shipped()?),
            Kind::Stock(_) if self.name == RECEIVERS => {
                let bytes = self.sql("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint * 6")?;
                bytes.parse().ok()
            }
            Kind::Stock(_) => return Ok(None),
        };
        bytes
            .map(Some)
            .with_context(|| format!("{}: no count of bytes sent", self.name))
    }
}
