//! A storage node tells the control process that it is there.

use std::path::Path;
use std::time::{Duration, Instant};

use control_plane::Client;
use control_plane::message::Heartbeat;
use rustix::fs::statvfs;
use storage_node::StorageConfig;
use storage_node::load::{LOAD, SyncTimes};

/// How often. The control process calls a node away that it has not heard of for four times as long.
const PAUSE: Duration = Duration::from_secs(1);

/// Tells it for ever. A control process that is away hears the next one.
pub async fn run(control: Client, config: StorageConfig) {
    let mut sync_times = SyncTimes::default();
    loop {
        let sync_time = sync_times.look(&LOAD, Instant::now());
        let (disk_used_bytes, disk_total_bytes) = disk(&config.directory);
        let heartbeat = Heartbeat {
            name: config.name.clone(),
            zone: config.zone.clone(),
            address: config.listen.clone(),
            disk_used_bytes,
            disk_total_bytes,
            held_bytes: LOAD.held_bytes(),
            sync_us: sync_time.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
        };
        if let Err(error) = control.heartbeat(heartbeat).await {
            tracing::debug!(%error, "control.heartbeat");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Used and all bytes of the disk that a folder is on; zeros if it does not say.
fn disk(folder: &Path) -> (u64, u64) {
    statvfs(folder).map_or((0, 0), |disk| {
        // What is reserved for root is not free for a storage node.
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let total = disk.f_blocks.saturating_mul(disk.f_frsize);
        (total.saturating_sub(free), total)
    })
}
