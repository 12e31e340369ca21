//! Making a cluster's directory.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use compute::config::{InstanceConfig, Limits, StorageAddress};
use proxy::ProxyConfig;
use storage_node::StorageConfig;

use crate::layout::{Cluster, FORMAT_VERSION, InstanceEntry, Layout, StorageEntry, write_atomically};

const ZONES: [&str; 6] = ["a", "a", "b", "b", "c", "c"];
/// What may be in a directory that is not a cluster yet.
const OURS_ALREADY: [&str; 2] = ["bin", "lib"];

const HBA: &str = "\
# Who may connect to PostgreSQL. Kept across restarts; see PostgreSQL's manual, chapter 21.
# The instance process connects over the unix socket, which only its own user can reach.
local all         all              trust
local replication all              trust
host  all         all 127.0.0.1/32 scram-sha-256
host  all         all ::1/128      scram-sha-256
";
const SETTINGS: &str = "\
# PostgreSQL's settings. Kept across restarts; `ALTER SYSTEM` works, too, and wins over this file.
# What Borealis owns (fsync, wal_level, synchronous_standby_names ...) stands on PostgreSQL's command line and cannot be
# changed here.
#shared_buffers = 128MB
";

fn random_hex(bytes: usize) -> Result<String> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("random bytes: {error}"))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A port that nothing listens on. Kept in the configuration from then on.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr()?.port())
}

fn secret(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("write {}", path.display()))?;
    writeln!(file, "{text}").with_context(|| format!("write {}", path.display()))
}

/// Makes the cluster in an empty directory.
pub fn create(layout: &Layout, port: u16, initdb_arguments: &[String]) -> Result<Cluster> {
    let directory = layout.directory();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("make {}", directory.display()))?;
    for entry in fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let name = entry?.file_name();
        if !OURS_ALREADY.iter().any(|ours| name == *ours) {
            bail!(
                "{} is not empty and holds no cluster (it has {})\nhint:  name an empty directory with --dir",
                directory.display(),
                name.display()
            );
        }
    }
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    for folder in [
        "config",
        "run",
        "log",
        "control",
        "lib",
        "storage",
        "instances",
        "secrets",
    ] {
        let folder = directory.join(folder);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("make {}", folder.display()))?;
    }
    secret(&layout.secret_file("cluster"), &random_hex(32)?)?;
    secret(&layout.secret_file("password"), &random_hex(12)?)?;
    fs::write(directory.join("pg_hba.conf"), HBA)?;
    fs::write(directory.join("pg_ident.conf"), "")?;
    fs::write(directory.join("postgresql.conf"), SETTINGS)?;
    let mut storage = Vec::new();
    for (zone, number) in ZONES.iter().zip(1..) {
        storage.push(StorageEntry {
            name: format!("storage-{number}"),
            zone: (*zone).to_owned(),
            port: free_port()?,
        });
    }
    let mut cluster = Cluster {
        format_version: FORMAT_VERSION,
        cluster: random_hex(16)?,
        port,
        storage,
        instances: Vec::new(),
        stopped: Vec::new(),
    };
    for entry in &cluster.storage {
        configure_storage(layout, &cluster, entry)?;
    }
    add_instance(layout, &mut cluster, initdb_arguments)?;
    configure_proxy(layout, &cluster)?;
    // Last: a directory without it holds no cluster.
    cluster.store(layout)?;
    Ok(cluster)
}

fn store<T: serde::Serialize>(layout: &Layout, name: &str, config: &T) -> Result<()> {
    write_atomically(&layout.config_file(name), &serde_json::to_vec_pretty(config)?)
}

fn configure_storage(layout: &Layout, cluster: &Cluster, entry: &StorageEntry) -> Result<()> {
    let config = serde_json::json!({
        "name": entry.name,
        "zone": entry.zone,
        "directory": layout.directory().join("storage").join(&entry.name),
        "listen": format!("127.0.0.1:{}", entry.port),
        "cluster": cluster.cluster,
        "cluster_secret_file": layout.secret_file("cluster"),
    });
    // Read back, so that defaults stand in the file for whoever wants to change them.
    let config: StorageConfig = serde_json::from_value(config)?;
    store(layout, &entry.name, &config)
}

/// The proxy's settings follow the cluster's port.
pub fn configure_proxy(layout: &Layout, cluster: &Cluster) -> Result<()> {
    let config: ProxyConfig = serde_json::from_value(serde_json::json!({
        "listen": format!("127.0.0.1:{}", cluster.port),
        "control_socket": layout.control_socket(),
    }))?;
    store(layout, "proxy", &config)
}

/// Adds an instance, which is to be the writer. The cluster has to be stored after that.
pub fn add_instance(layout: &Layout, cluster: &mut Cluster, initdb_arguments: &[String]) -> Result<InstanceEntry> {
    let entry = InstanceEntry {
        name: format!("instance-{}", cluster.instances.len() + 1),
        port: free_port()?,
        retired: false,
    };
    let address = |node: &StorageEntry| StorageAddress {
        name: node.name.clone(),
        zone: node.zone.clone(),
        address: format!("127.0.0.1:{}", node.port),
    };
    let config = InstanceConfig {
        name: entry.name.clone(),
        directory: layout.directory().to_owned(),
        listen_address: "127.0.0.1".to_owned(),
        port: entry.port,
        cluster: cluster.cluster.clone(),
        cluster_secret_file: layout.secret_file("cluster"),
        password_file: layout.secret_file("password"),
        control_socket: layout.control_socket(),
        postgresql_bin: Layout::postgresql_bin(),
        initdb_arguments: initdb_arguments.to_vec(),
        storage: cluster.storage.iter().map(address).collect(),
        preload_libraries: String::new(),
        limits: Limits::default(),
    };
    store(layout, &entry.name, &config)?;
    cluster.instances.push(entry.clone());
    Ok(entry)
}
