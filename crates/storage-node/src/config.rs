//! What a storage node is told when it starts.

use std::path::PathBuf;
use std::time::Duration;

use page_store::StoreConfig;
use serde::{Deserialize, Serialize};
use wire_format::frame::PROTOCOL_VERSION;
use wire_format::message::Hello;

use crate::StorageError;
use crate::scrub::Schedule;

/// Settings of one storage node, read from `DIR/config/NAME.json`. Unknown keys are refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageConfig {
    /// Name of the node, such as `storage-1`.
    pub name: String,
    /// Its failure domain: `a`, `b` or `c`.
    pub zone: String,
    /// Where its files live.
    pub directory: PathBuf,
    /// Where it listens, such as `127.0.0.1:7001`.
    pub listen: String,
    /// Identity of the cluster, 32 hexadecimal digits.
    pub cluster: String,
    /// File with the cluster's secret, 64 hexadecimal digits.
    pub cluster_secret_file: PathBuf,
    /// Memory that tables, caches and queues may take, in bytes. At least 64 MiB.
    #[serde(default = "default_memory")]
    pub memory_bytes: u64,
    /// Journal kept for copies that are behind, in bytes; one that is further behind takes what it lacks from the
    /// layers of its peers.
    #[serde(default = "default_journal")]
    pub journal_retained_bytes_max: u64,
    /// Bytes of versions that copies may take from this node, and this node from others, in a second while log comes in.
    /// Without log they take what the disk gives.
    #[serde(default = "default_repair_rate")]
    pub repair_bytes_per_second_busy: u64,
    /// Connections of instances and peers at once, two for each group in use. Further ones are closed.
    #[serde(default = "default_connections")]
    pub connections_max: usize,
    /// Everything at rest is read again and checked so often, in seconds.
    #[serde(default = "default_scrub_interval")]
    pub scrub_interval_seconds: u64,
    /// Bytes that this reads in a second, at most.
    #[serde(default = "default_scrub_rate")]
    pub scrub_bytes_per_second: u64,
}

/// An instance, its successor and five peers have to find a place.
const CONNECTIONS_MIN: usize = 16;

fn default_repair_rate() -> u64 {
    32 << 20
}

fn default_connections() -> usize {
    1024
}

fn default_scrub_interval() -> u64 {
    24 * 60 * 60
}

fn default_scrub_rate() -> u64 {
    16 << 20
}

fn default_memory() -> u64 {
    256 << 20
}

fn default_journal() -> u64 {
    StoreConfig::default().journal_retained_bytes_max
}

impl StorageConfig {
    /// The page store's share: an eighth for tables, but no more than by default (three times as much while they cannot be
    /// written out as fast as log comes in), an eighth for cached blocks, a quarter of that for the indexes of layers, and what the
    /// page cache takes by default. The rest is for the journal's tail at start, messages on their way, and the links of batches.
    pub(crate) fn store(&self) -> StoreConfig {
        let share = usize::try_from(self.memory_bytes / 8).unwrap_or(usize::MAX);
        StoreConfig {
            table_bytes_max: share.min(StoreConfig::default().table_bytes_max),
            cache_bytes_max: share,
            index_cache_bytes_max: share / 4,
            journal_retained_bytes_max: self.journal_retained_bytes_max,
            ..StoreConfig::default()
        }
    }

    /// Log that may wait for the journal: a sixteenth, which is many flushes.
    pub(crate) fn waiting_log_bytes(&self) -> u32 {
        u32::try_from(self.memory_bytes / 16).unwrap_or(u32::MAX)
    }

    /// When everything at rest is read again.
    pub(crate) fn scrub(&self) -> Schedule {
        Schedule {
            interval: Duration::from_secs(self.scrub_interval_seconds.max(1)),
            bytes_per_second: self.scrub_bytes_per_second.max(1 << 16),
        }
    }

    /// What the node says of itself in a handshake, and expects of its callers.
    pub(crate) fn hello(&self) -> Result<Hello, StorageError> {
        if self.memory_bytes < 64 << 20 {
            return Err(StorageError::Config("memory_bytes must be at least 64 MiB".to_owned()));
        }
        if self.connections_max < CONNECTIONS_MIN {
            let what = format!("connections_max must be at least {CONNECTIONS_MIN}");
            return Err(StorageError::Config(what));
        }
        let cluster = self
            .cluster
            .parse()
            .map_err(|error| StorageError::Config(format!("cluster: {error}")))?;
        let secret = node_link::read_secret(&self.cluster_secret_file).map_err(StorageError::Config)?;
        Ok(Hello {
            version: PROTOCOL_VERSION,
            cluster,
            secret,
            name: self.name.clone(),
        })
    }
}
