//! What an instance process is told when it starts.

use std::path::PathBuf;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use volume::SegmentKinds;

/// Where in the cluster's directory the endpoint gives its clients to the writer's backends.
pub const ENDPOINT_SOCKET: &str = "run/endpoint.sock";

/// Settings of one instance process, read from `DIR/config/NAME.json`. Unknown keys are refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceConfig {
    /// Name of the instance, such as `instance-1`.
    pub name: String,
    /// The cluster's directory, `--dir`.
    pub directory: PathBuf,
    /// Address PostgreSQL listens on. Loopback.
    pub listen_address: String,
    /// Port PostgreSQL listens on; clients reach it through the proxy.
    pub port: u16,
    /// Identity of the cluster, 32 hexadecimal digits, checked in every handshake.
    pub cluster: String,
    /// File with the cluster's secret, 64 hexadecimal digits.
    pub cluster_secret_file: PathBuf,
    /// File with the password of the superuser, used once, when the volume is made.
    pub password_file: PathBuf,
    /// Socket of the control process.
    pub control_socket: PathBuf,
    /// Where PostgreSQL's programs live.
    pub postgresql_bin: PathBuf,
    /// Further arguments for `initdb`, used once, when the volume is made.
    #[serde(default)]
    pub initdb_arguments: Vec<String>,
    /// Size of a protection group of a new volume; 10 GiB if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_bytes: Option<u64>,
    /// Size of a stripe of a new volume; 8 MiB if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stripe_bytes: Option<u64>,
    /// Which kinds of segments the groups of a new volume have.
    #[serde(default)]
    pub segments: SegmentKinds,
    /// The storage nodes a new volume is placed on: two in each of three zones.
    pub storage: Vec<StorageAddress>,
    /// Not used: libraries to preload stand among PostgreSQL's settings. Files of earlier builds have it.
    #[serde(default, skip_serializing)]
    pub preload_libraries: IgnoredAny,
    /// Limits; each has a default.
    #[serde(default)]
    pub limits: Limits,
}

/// A storage node, as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageAddress {
    /// Such as `storage-1`.
    pub name: String,
    /// `a`, `b` or `c`.
    pub zone: String,
    /// Where it listens.
    pub address: String,
}

/// What bounds the instance process.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Log sent but not durable yet, in bytes. Beyond it the instance takes no more log from PostgreSQL, whose commits
    /// then wait.
    pub window_bytes_max: u64,
    /// Flushes of less than 32 KiB sent but not durable yet. What is committed meanwhile goes with the next one.
    pub small_flushes_max: usize,
    /// Log of one flush, in bytes; a longer record travels in fragments.
    pub flush_bytes_max: usize,
    /// Sent batches kept for copies that are behind, in bytes. A copy further behind catches up from its peers.
    pub retained_bytes_max: u64,
    /// Pages read ahead of a sequential scan and not asked for yet.
    pub readahead_pages_max: usize,
    /// Connections of backends to the page broker.
    pub backends_max: usize,
    /// How long PostgreSQL may take for a clean stop before it is killed, in milliseconds.
    pub stop_ms_max: u64,
    /// How long the volume may take to open before the attempt is given up and begun again, in milliseconds.
    pub opening_ms_max: u64,
    /// How long a page read may take, all copies tried, before the backend gets an error, in milliseconds.
    pub page_read_ms_max: u64,
    /// How long one copy may take for a page before a second copy is asked as well, in milliseconds.
    pub hedge_ms: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            window_bytes_max: 64 << 20,
            small_flushes_max: 1,
            flush_bytes_max: 1 << 20,
            retained_bytes_max: 128 << 20,
            readahead_pages_max: 4096,
            backends_max: 2000,
            stop_ms_max: 20_000,
            opening_ms_max: 10_000,
            page_read_ms_max: 60_000,
            hedge_ms: 100,
        }
    }
}

impl InstanceConfig {
    /// Where everything of this instance lives: skeleton, spill file, sockets.
    pub fn instance_directory(&self) -> PathBuf {
        self.directory.join("instances").join(&self.name)
    }

    /// PostgreSQL's data directory: disposable.
    pub fn data_directory(&self) -> PathBuf {
        self.instance_directory().join("data")
    }

    /// The folder of PostgreSQL's and the broker's unix sockets.
    pub fn socket_directory(&self) -> PathBuf {
        self.instance_directory().join("sockets")
    }

    /// The page broker's socket.
    pub fn broker_socket(&self) -> PathBuf {
        self.socket_directory().join("broker")
    }

    /// Where PostgreSQL's overlay keeps what it has no memory for.
    pub fn spill_file(&self) -> PathBuf {
        self.instance_directory().join("overlay.spill")
    }

    /// Where the cluster endpoint gives its clients to their backends.
    pub fn endpoint_socket(&self) -> PathBuf {
        self.directory.join(ENDPOINT_SOCKET)
    }

    /// Where the instance tells its status: one line of JSON a connection.
    pub fn status_socket(&self) -> PathBuf {
        self.directory.join("run").join(format!("{}.status", self.name))
    }
}
