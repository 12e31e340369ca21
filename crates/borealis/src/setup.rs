//! Making a cluster's directory.

mod ports;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use compute::config::{InstanceConfig, Limits, StorageAddress};
use control_plane::ControlConfig;
use proxy::ProxyConfig;
use storage_node::StorageConfig;
use volume::SegmentKinds;

use crate::layout::{Cluster, FORMAT_VERSION, InstanceEntry, Layout, Ports, StorageEntry, write_atomically};

const ZONES: [&str; 6] = ["a", "a", "b", "b", "c", "c"];
/// What may be in a directory that is not a cluster yet.
const OURS_ALREADY: [&str; 2] = ["bin", "lib"];
/// Stands in the directory from the first step of its making to the last: what a broken-off `up` left is made anew.
const UNFINISHED: &str = "unfinished";
const FOLDERS: [&str; 8] = [
    "config",
    "run",
    "log",
    "control",
    "lib",
    "storage",
    "instances",
    "secrets",
];

const HBA: &str = "\
# Who may connect to PostgreSQL. Kept across restarts; see PostgreSQL's manual, chapter 21.
# The instance process connects over the unix socket, which only its own user can reach.
local all         all              trust
local replication all              trust
host  all         all 127.0.0.1/32 scram-sha-256
host  all         all ::1/128      scram-sha-256
# Refused by the Borealis library, which says why.
host  replication all 127.0.0.1/32 scram-sha-256
host  replication all ::1/128      scram-sha-256
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

/// Chooses where a daemon tells its metrics, if nobody did yet. Whether one was chosen: then the cluster has to be stored.
pub fn choose_metrics_address(cluster: &mut Cluster, name: &str) -> Result<bool> {
    if cluster.metrics.contains_key(name) {
        return Ok(false);
    }
    let port = ports::next(cluster)?;
    cluster.metrics.insert(name.to_owned(), format!("127.0.0.1:{port}"));
    Ok(true)
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

/// How a new volume is divided, as far as it is not as usual.
#[derive(Clone, Copy, Default, Debug)]
pub struct Division {
    /// Size of a protection group.
    pub group_bytes: Option<u64>,
    /// Size of a stripe.
    pub stripe_bytes: Option<u64>,
    /// Which kinds of segments its groups have.
    pub segments: SegmentKinds,
}

/// Makes the cluster in an empty directory.
pub fn create(
    layout: &Layout,
    port: u16,
    ports: Option<Ports>,
    initdb_arguments: &[String],
    division: Division,
) -> Result<Cluster> {
    let directory = layout.directory();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("make {}", directory.display()))?;
    refuse_others(directory)?;
    clear(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    fs::write(directory.join(UNFINISHED), "")?;
    for folder in FOLDERS {
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
    let mut cluster = Cluster {
        format_version: FORMAT_VERSION,
        cluster: random_hex(16)?,
        port,
        storage: Vec::new(),
        instances: Vec::new(),
        stopped: Vec::new(),
        metrics: BTreeMap::new(),
        ports,
    };
    for (zone, number) in ZONES.iter().zip(1..) {
        let port = ports::next(&cluster)?;
        cluster.storage.push(StorageEntry {
            name: format!("storage-{number}"),
            zone: (*zone).to_owned(),
            port,
        });
    }
    for entry in &cluster.storage {
        configure_storage(layout, &cluster, entry)?;
    }
    add_instance(layout, &mut cluster, initdb_arguments, division)?;
    configure_proxy(layout, &cluster)?;
    // Last: a directory without it holds no cluster.
    cluster.store(layout)?;
    fs::remove_file(directory.join(UNFINISHED))?;
    Ok(cluster)
}

/// Refuses a directory that holds anything of somebody else.
pub fn refuse_others(directory: &Path) -> Result<()> {
    if directory.join(UNFINISHED).exists() {
        return Ok(());
    }
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
    Ok(())
}

/// Removes what a making that broke off left. No volume can be in it: daemons are started only when the cluster's file is
/// there.
fn clear(directory: &Path) -> Result<()> {
    if !directory.join(UNFINISHED).exists() {
        return Ok(());
    }
    for name in FOLDERS.iter().filter(|name| !OURS_ALREADY.contains(name)) {
        let folder = directory.join(name);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", folder.display()));
            }
            _ => {}
        }
    }
    Ok(())
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

/// The control process's settings, changed: what nobody names stays as it is.
pub fn configure_control(layout: &Layout, change: impl FnOnce(&mut ControlConfig)) -> Result<()> {
    let mut config: ControlConfig = crate::role::optional_settings(layout, "control")?.unwrap_or_default();
    change(&mut config);
    store(layout, "control", &config)
}

/// One more storage node, of the zone with the fewest if none is named. The cluster has to be stored after that.
pub fn add_storage(layout: &Layout, cluster: &mut Cluster, zone: &str) -> Result<StorageEntry> {
    let in_zone = |zone: &str| cluster.storage.iter().filter(|node| node.zone == zone).count();
    let zone = match zone {
        "" => ["a", "b", "c"]
            .into_iter()
            .min_by_key(|zone| in_zone(zone))
            .context("there are three")?,
        zone if ZONES.contains(&zone) => zone,
        other => bail!("there is no zone {other}; there are a, b and c"),
    };
    let number = |node: &StorageEntry| node.name.strip_prefix("storage-")?.parse::<u32>().ok();
    let last = cluster.storage.iter().filter_map(number).max().unwrap_or(0);
    let entry = StorageEntry {
        name: format!("storage-{}", last + 1),
        zone: zone.to_owned(),
        port: ports::next(cluster)?,
    };
    configure_storage(layout, cluster, &entry)?;
    cluster.storage.push(entry.clone());
    Ok(entry)
}

/// Deletes what a storage node that is no more has left: its folder and its settings.
pub fn remove_storage(layout: &Layout, name: &str) -> Result<()> {
    let folder = layout.directory().join("storage").join(name);
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", folder.display()));
        }
        _ => {}
    }
    let settings = layout.config_file(name);
    match fs::remove_file(&settings) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", settings.display()))
        }
        _ => Ok(()),
    }
}

/// The proxy's settings follow the cluster's port; limits that somebody has changed stay.
pub fn configure_proxy(layout: &Layout, cluster: &Cluster) -> Result<()> {
    let listen = format!("127.0.0.1:{}", cluster.port);
    let path = layout.config_file("proxy");
    let config = match fs::read_to_string(&path) {
        Ok(text) => {
            let config: ProxyConfig =
                serde_json::from_str(&text).with_context(|| format!("{} cannot be understood", path.display()))?;
            ProxyConfig { listen, ..config }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => serde_json::from_value(serde_json::json!({
            "listen": listen,
            "control_socket": layout.control_socket(),
            "writer_file": layout.directory().join("run/writer"),
            "handover_socket": layout.endpoint_socket(),
        }))?,
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    store(layout, "proxy", &config)
}

/// Writes the settings of the instance that is to be the writer after `old`. It belongs to the cluster once it is added.
pub fn configure_successor(layout: &Layout, cluster: &Cluster, old: &str) -> Result<InstanceEntry> {
    let mut config = instance_config(layout, old)?;
    let entry = next_instance(cluster)?;
    config.name.clone_from(&entry.name);
    config.port = entry.port;
    store(layout, &entry.name, &config)?;
    Ok(entry)
}

/// Has every instance that may start use the programs of the PostgreSQL that the environment names.
pub fn configure_postgresql(layout: &Layout, cluster: &Cluster) -> Result<()> {
    for instance in cluster.instances.iter().filter(|instance| !instance.retired) {
        let mut config = instance_config(layout, &instance.name)?;
        config.postgresql_bin = Layout::postgresql_bin();
        store(layout, &instance.name, &config)?;
    }
    Ok(())
}

fn instance_config(layout: &Layout, name: &str) -> Result<InstanceConfig> {
    let path = layout.config_file(name);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} cannot be understood", path.display()))
}

/// Name and port of one more instance.
fn next_instance(cluster: &Cluster) -> Result<InstanceEntry> {
    Ok(InstanceEntry {
        name: format!("instance-{}", cluster.instances.len() + 1),
        port: ports::next(cluster)?,
        retired: false,
    })
}

/// Adds an instance, which is to be the writer. The cluster has to be stored after that.
fn add_instance(layout: &Layout, cluster: &mut Cluster, initdb_arguments: &[String], division: Division) -> Result<()> {
    let entry = next_instance(cluster)?;
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
        group_bytes: division.group_bytes,
        stripe_bytes: division.stripe_bytes,
        segments: division.segments,
        storage: cluster.storage.iter().map(address).collect(),
        preload_libraries: Default::default(),
        limits: Limits::default(),
    };
    store(layout, &entry.name, &config)?;
    cluster.instances.push(entry);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use super::*;

    fn layout(name: &str) -> Layout {
        let directory: PathBuf = std::env::temp_dir().join(format!("borealis-setup-{name}-{}", std::process::id()));
        Layout::new(directory)
    }

    #[test]
    fn ports_are_chosen_within_the_given_ones_until_none_is_left() {
        let layout = layout("ports");
        let ports = Ports {
            first: 14_000,
            last: 14_099,
        };
        let mut cluster = create(&layout, 5433, Some(ports), &[], Division::default()).expect("an empty directory");
        let chosen = ports::of(&cluster);
        assert!(
            chosen
                .iter()
                .all(|port| *port == 5433 || (14_000..14_100).contains(port))
        );
        let mut given = 0;
        let refusal = loop {
            match choose_metrics_address(&mut cluster, &given.to_string()) {
                Ok(_) => given += 1,
                Err(error) => break error,
            }
        };
        assert!((50..=93).contains(&given), "{given}: all that nobody listens on");
        assert!(refusal.to_string().contains("from 14000 to 14099"), "{refusal:#}");
        fs::remove_dir_all(layout.directory()).expect("it is ours");
    }

    #[test]
    fn a_new_cluster_has_ports_of_its_own_and_secrets_that_only_its_user_reads() {
        let layout = layout("new");
        let cluster = create(&layout, 5433, None, &[], Division::default()).expect("an empty directory");
        let all = ports::of(&cluster);
        assert_eq!(all.len(), 8, "six nodes, the writer, the endpoint");
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        for name in ["cluster", "password"] {
            let mode = fs::metadata(layout.secret_file(name))
                .expect("a secret")
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let again = Cluster::load(&layout).expect("what was stored");
        assert_eq!(again.cluster, cluster.cluster);
        fs::remove_dir_all(layout.directory()).expect("it is ours");
    }

    #[test]
    fn a_storage_node_is_added_where_fewest_are_and_leaves_nothing_behind() {
        let layout = layout("added");
        let mut cluster = create(&layout, 5433, None, &[], Division::default()).expect("an empty directory");
        let mut add = |zone: &str| add_storage(&layout, &mut cluster, zone).expect("a free port");
        assert_eq!((add("b").name.as_str(), add("b").zone.as_str()), ("storage-7", "b"));
        assert_eq!(add("").zone, "a");
        assert_eq!(add("").zone, "c");
        assert!(add_storage(&layout, &mut cluster, "d").is_err());
        assert!(layout.config_file("storage-10").exists());
        remove_storage(&layout, "storage-10").expect("ours");
        assert!(!layout.config_file("storage-10").exists());
        fs::remove_dir_all(layout.directory()).expect("it is ours");
    }

    #[test]
    fn a_new_port_leaves_the_proxys_limits_alone() {
        let layout = layout("proxy");
        let mut cluster = create(&layout, 5433, None, &[], Division::default()).expect("an empty directory");
        let path = layout.config_file("proxy");
        let config = || -> ProxyConfig {
            serde_json::from_str(&fs::read_to_string(&path).expect("settings")).expect("readable")
        };
        let changed = ProxyConfig {
            connections_max: 7,
            ..config()
        };
        store(&layout, "proxy", &changed).expect("stored");
        cluster.port = 5434;
        configure_proxy(&layout, &cluster).expect("changed");
        assert_eq!(
            (config().connections_max, config().listen.as_str()),
            (7, "127.0.0.1:5434")
        );
        fs::remove_dir_all(layout.directory()).expect("it is ours");
    }

    #[test]
    fn what_a_broken_off_up_left_is_made_anew_and_what_is_not_ours_is_refused() {
        let layout = layout("unfinished");
        let first = create(&layout, 5433, None, &[], Division::default()).expect("an empty directory");
        fs::remove_file(layout.cluster_file()).expect("as if it broke off before the last step");
        let refused =
            create(&layout, 5433, None, &[], Division::default()).expect_err("the mark is gone: it may be anything");
        assert!(refused.to_string().contains("is not empty"), "{refused}");
        fs::write(layout.directory().join(UNFINISHED), "").expect("the mark");
        let second = create(&layout, 5433, None, &[], Division::default()).expect("it may begin again");
        assert_ne!(first.cluster, second.cluster);
        fs::remove_dir_all(layout.directory()).expect("it is ours");
    }
}
