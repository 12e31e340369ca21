//! What a cluster's directory looks like.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// Version of the whole directory, raised whenever the format of anything in it changes: so an older one is refused before any
/// daemon starts. Until 0.1 every other one is.
pub const FORMAT_VERSION: u32 = 2;

/// Names the folder of PostgreSQL's programs, in the environment.
pub const POSTGRESQL_BIN: &str = "BOREALIS_POSTGRESQL_BIN";
/// `sun_path` in `struct sockaddr_un`, less the final zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Paths in a cluster's directory.
#[derive(Clone, Debug)]
pub struct Layout {
    directory: PathBuf,
}

/// `DIR/cluster.json`: what the cluster is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Identity of the cluster.
    pub cluster: String,
    /// Port of the cluster endpoint.
    pub port: u16,
    /// The storage nodes.
    pub storage: Vec<StorageEntry>,
    /// The instances, oldest first; the last one is the writer.
    pub instances: Vec<InstanceEntry>,
    /// What is to stay down until it is started by name.
    pub stopped: Vec<String>,
    /// Where each daemon tells its metrics, by its name: a loopback address and port. The agent chooses one for whoever has none.
    #[serde(default)]
    pub metrics: BTreeMap<String, String>,
    /// Where ports of daemons are chosen; if nobody says, anywhere that no outgoing connection gets one by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Ports>,
}

/// A range of ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ports {
    /// The lowest.
    pub first: u16,
    /// The highest, not below the first.
    pub last: u16,
}

/// A storage node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageEntry {
    /// Such as `storage-1`.
    pub name: String,
    /// `a`, `b` or `c`.
    pub zone: String,
    /// Its port.
    pub port: u16,
}

/// An instance.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceEntry {
    /// Such as `instance-1`.
    pub name: String,
    /// Port of its PostgreSQL.
    pub port: u16,
    /// Another instance is the writer now: it is not started again.
    pub retired: bool,
}

impl Cluster {
    /// Reads it; an error that says what to do if there is none, or one of another build.
    pub fn load(layout: &Layout) -> Result<Cluster> {
        let path = layout.cluster_file();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => bail!(
                "there is no cluster in {}\nhint:  `borealis up` makes one; --dir names another directory",
                layout.directory().display()
            ),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => bail!(layout.of_somebody_else()),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        #[derive(Deserialize)]
        struct Version {
            format_version: u32,
        }
        let Version { format_version } =
            serde_json::from_str(&text).with_context(|| format!("{} cannot be understood", path.display()))?;
        if format_version != FORMAT_VERSION {
            bail!(
                "{} has format version {format_version}, this build reads version {FORMAT_VERSION}\nhint:  start it with \
                 the build that made it and move the data with pg_dump; --dir names another directory for a new cluster",
                layout.directory().display()
            );
        }
        serde_json::from_str(&text).with_context(|| format!("{} cannot be understood", path.display()))
    }

    /// Writes it.
    pub fn store(&self, layout: &Layout) -> Result<()> {
        write_atomically(&layout.cluster_file(), &serde_json::to_vec_pretty(self)?)
    }

    /// The writer.
    pub fn writer(&self) -> Option<&InstanceEntry> {
        self.instances.iter().rev().find(|instance| !instance.retired)
    }
}

/// Writes a file under another name first, so that nobody ever reads half of it. It is synced, and so is its name.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let next = path.with_extension("next");
    std::fs::write(&next, bytes).with_context(|| format!("write {}", next.display()))?;
    std::fs::File::open(&next)
        .and_then(|file| file.sync_all())
        .with_context(|| format!("sync {}", next.display()))?;
    std::fs::rename(&next, path).with_context(|| format!("rename {}", next.display()))?;
    let folder = path.parent().context("a file has a folder")?;
    std::fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .with_context(|| format!("sync {}", folder.display()))
}

impl Layout {
    /// The layout of a directory.
    pub fn new(directory: PathBuf) -> Layout {
        Layout { directory }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What to say of a directory that this user may not read.
    pub fn of_somebody_else(&self) -> String {
        format!(
            "{} belongs to another user\nhint:  run borealis as the user who made the cluster, or as root; --dir names another \
             directory",
            self.directory.display()
        )
    }

    /// Refuses a directory below which the sockets of PostgreSQL would have longer names than the kernel takes.
    pub fn check_length(&self) -> Result<()> {
        let longest = self.directory.join("instances/instance-9999/sockets/.s.PGSQL.65535");
        let surplus = longest.as_os_str().len().saturating_sub(SOCKET_PATH_BYTES_MAX);
        if surplus != 0 {
            bail!(
                "{} is {surplus} bytes too long: the kernel takes sockets of {SOCKET_PATH_BYTES_MAX} bytes at most\nhint:  name a \
                 shorter directory with --dir",
                self.directory.display()
            );
        }
        Ok(())
    }

    /// What the cluster is made of.
    pub fn cluster_file(&self) -> PathBuf {
        self.directory.join("cluster.json")
    }

    /// A daemon's settings.
    pub fn config_file(&self, name: &str) -> PathBuf {
        self.directory.join("config").join(format!("{name}.json"))
    }

    /// PostgreSQL settings that came from the environment.
    pub fn environment_settings(&self) -> PathBuf {
        self.directory.join("config/postgresql-environment.conf")
    }

    /// A daemon's log.
    pub fn log_file(&self, name: &str) -> PathBuf {
        self.directory.join("log").join(format!("{name}.log"))
    }

    /// What a daemon wrote to standard error: panics, mostly.
    pub fn error_file(&self, name: &str) -> PathBuf {
        self.directory.join("log").join(format!("{name}.err"))
    }

    /// Held locked by the one agent, for as long as it lives.
    pub fn agent_lock(&self) -> PathBuf {
        self.directory.join("run/agent.lock")
    }

    /// A daemon's pid and start time.
    pub fn pid_file(&self, name: &str) -> PathBuf {
        self.directory.join("run").join(format!("{name}.pid"))
    }

    /// The agent's socket.
    pub fn agent_socket(&self) -> PathBuf {
        self.directory.join("run/agent.sock")
    }

    /// Where the cluster endpoint gives its clients to the writer's backends.
    pub fn endpoint_socket(&self) -> PathBuf {
        self.directory.join(compute::config::ENDPOINT_SOCKET)
    }

    /// The control process's socket.
    pub fn control_socket(&self) -> PathBuf {
        self.directory.join("run/control.sock")
    }

    /// Where an instance tells its status.
    pub fn status_socket(&self, name: &str) -> PathBuf {
        self.directory.join("run").join(format!("{name}.status"))
    }

    /// The metadata store.
    pub fn metadata_file(&self) -> PathBuf {
        self.directory.join("control/metadata.redb")
    }

    /// A secret.
    pub fn secret_file(&self, name: &str) -> PathBuf {
        self.directory.join("secrets").join(name)
    }

    /// The library that PostgreSQL loads.
    pub fn library(&self) -> PathBuf {
        self.directory.join("lib/borealis.so")
    }

    /// Where PostgreSQL's programs are.
    pub fn postgresql_bin() -> PathBuf {
        std::env::var_os(POSTGRESQL_BIN).map_or_else(|| PathBuf::from("/usr/lib/postgresql/15/bin"), PathBuf::from)
    }

    /// Password of the superuser.
    fn password(&self) -> Result<String> {
        let path = self.secret_file("password");
        let password = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(password.trim().to_owned())
    }

    /// URL of an endpoint, password included. For people; a command line is readable by everybody on the machine.
    pub fn url(&self, port: u16) -> Result<String> {
        Ok(format!(
            "postgres://postgres:{}@127.0.0.1:{port}/postgres",
            self.password()?
        ))
    }

    /// psql, set to connect to an endpoint. The password travels in the environment.
    pub fn psql(&self, port: u16) -> Result<Command> {
        let mut psql = Command::new(Layout::postgresql_bin().join("psql"));
        psql.env("PGHOST", "127.0.0.1")
            .env("PGPORT", port.to_string())
            .env("PGUSER", "postgres")
            .env("PGPASSWORD", self.password()?);
        for unset in ["PGSERVICE", "PGHOSTADDR", "PGPASSFILE", "PGOPTIONS"] {
            psql.env_remove(unset);
        }
        if std::env::var_os("PGDATABASE").is_none() {
            psql.env("PGDATABASE", "postgres");
        }
        Ok(psql)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_format_changes_without_that_of_the_directory() {
        let formats = [
            FORMAT_VERSION,
            storage_node::FORMAT_VERSION,
            storage_node::STORE_VERSION,
            volume::record::RECORD_VERSION,
            u32::from(wire_format::BATCH_VERSION),
        ];
        assert_eq!(formats, [2, 1, 5, 1, 1], "raise the directory's version, too");
        assert_eq!(control_plane::FORMAT_VERSION, 1, "raise the directory's version, too");
    }

    #[test]
    fn another_format_is_refused_with_both_versions_and_a_missing_cluster_with_a_way_out() {
        let directory = std::env::temp_dir().join(format!("borealis-layout-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a temporary folder");
        let layout = Layout::new(directory.clone());
        let missing = Cluster::load(&layout).expect_err("nothing is there").to_string();
        assert!(missing.contains("no cluster") && missing.contains("hint:"), "{missing}");
        let newer = FORMAT_VERSION + 1;
        std::fs::write(
            layout.cluster_file(),
            format!("{{\"format_version\": {newer}, \"moons\": 3}}"),
        )
        .expect("a file");
        let refused = Cluster::load(&layout).expect_err("a newer format").to_string();
        assert!(refused.contains(&format!("version {newer}")), "{refused}");
        assert!(refused.contains(&format!("version {FORMAT_VERSION}")), "{refused}");
        std::fs::remove_dir_all(directory).expect("it is ours");
    }
}
