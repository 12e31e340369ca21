//! The two sides: a stock server, and a cluster.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use stock_postgresql::Scratch;
use system_tests::Cluster;

use crate::survival;

/// What both sides get. Buffers are so few that nearly every page a test touches is read back from where it is kept.
pub const SETTINGS: [&str; 5] = [
    "shared_buffers=1MB",
    "max_connections=100",
    "max_prepared_transactions=10",
    "shared_preload_libraries=pg_stat_statements",
    // It would show in plans what differs between two runs.
    "compute_query_id=regress",
];
/// What only the cluster gets: no more than this waits in PostgreSQL's memory for the volume.
const OVERLAY: &str = "borealis.overlay_size=2MB";

/// A program that runs as `postgres` if we are root. Tests let the server write files into their folders, so both must be
/// of one user.
pub fn as_postgres(program: &str) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--", program]);
    command
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// A new folder, empty, that the servers' user may write to.
pub(crate) fn make_folder(folder: &Path) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o777))?;
    Ok(())
}

/// A running server of either side.
pub enum Server {
    /// Stock PostgreSQL on files of its own.
    Stock(stock_postgresql::Server, Scratch),
    /// The endpoint of a cluster.
    Cluster(Box<Cluster>),
}

impl Server {
    /// Starts stock PostgreSQL.
    pub fn stock() -> Server {
        let scratch = Scratch::new("suites-stock");
        let quoted = SETTINGS.iter().map(|setting| {
            let (name, value) = setting.split_once('=').expect("a setting reads name=value");
            format!("{name} = '{value}'\n")
        });
        let server = stock_postgresql::Server::initdb(scratch.path("data"), &[], &quoted.collect::<String>());
        server.start();
        Server::Stock(server, scratch)
    }

    /// Starts a cluster; in compare mode, it ends itself when a page differs from the one that files would have.
    pub fn cluster(in_compare_mode: bool) -> Result<Server> {
        let mut settings = SETTINGS.to_vec();
        settings.push(OVERLAY);
        if in_compare_mode {
            settings.push("borealis.compare=on");
        }
        Ok(Server::Cluster(Box::new(Cluster::up("suites", &settings)?)))
    }

    /// The word for it in tables and paths.
    pub fn name(&self) -> &'static str {
        match self {
            Server::Stock(..) => "stock",
            Server::Cluster(_) => "borealis",
        }
    }

    /// Tells a program of the suites where the server is.
    pub fn connect(&self, command: &mut Command) -> Result<()> {
        match self {
            Server::Stock(server, _) => {
                command.arg("--host").arg(server.data()).args(["--port", "5432"]);
            }
            Server::Cluster(cluster) => {
                let password = std::fs::read_to_string(cluster.directory().join("secrets/password"))?;
                command.env("PGPASSWORD", password.trim());
                command.args(["--host", "127.0.0.1", "--port", &cluster.port().to_string()]);
            }
        }
        command.args(["--user", "postgres"]);
        Ok(())
    }

    /// Fails if what a cluster's databases hold does not outlive its writer.
    pub fn survives(&self) -> Result<()> {
        match self {
            Server::Stock(..) => Ok(()),
            Server::Cluster(cluster) => survival::check(cluster),
        }
    }

    /// Fails if the server was lost on the way: a cluster's writer is back in an instant, and no test may need that.
    pub fn check(&self) -> Result<()> {
        if let Server::Cluster(cluster) = self {
            let epoch = cluster.epoch()?;
            ensure!(
                epoch == FIRST_REIGN,
                "the cluster's writer died: it is in epoch {epoch}; its directory is {}",
                cluster.directory().display()
            );
        }
        Ok(())
    }
}

/// Epoch 1 makes the volume; the first writer has the next.
const FIRST_REIGN: u64 = 2;
