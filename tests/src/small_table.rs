//! A load that makes as much log as a few connections can, and hardly any data: updates of long rows in a table of a
//! hundred.

use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::Cluster;

/// What the files of one storage node may grow by while nothing but the small table changes: the journal that peers may
/// still ask for (96 MiB), three files of 16 MiB that are made ready or spare, and twice the layers of a small volume, while
/// they are merged.
pub const GROWTH_BYTES_MAX: u64 = 208 << 20;
/// Log that must have gone through each node before its size says anything.
pub const LOG_BYTES_MIN: u64 = GROWTH_BYTES_MAX + (40 << 20);

/// Ten long rows of a hundred, anew each time.
const UPDATES: &str = "\\set first random(1, 91)
UPDATE small SET filler = repeat(md5(random()::text), 60) WHERE id BETWEEN :first AND :first + 9;
";

/// The load, while it runs.
pub struct SmallTableUpdates {
    pgbench: Child,
    shipped_before: u64,
    copies: u64,
}

impl SmallTableUpdates {
    /// Makes the table and begins to update it, for `limit` at most.
    pub fn start(cluster: &Cluster, limit: Duration) -> Result<SmallTableUpdates> {
        cluster.sql(
            "CREATE TABLE small (id int PRIMARY KEY, filler text);
             ALTER TABLE small ALTER filler SET STORAGE PLAIN;
             INSERT INTO small SELECT i, 'x' FROM generate_series(1, 100) i",
        )?;
        let script = cluster.directory().with_file_name("updates.sql");
        std::fs::write(&script, UPDATES)?;
        let copies = cluster.storage_memory_bytes()?.len();
        let shipped_before = cluster.log_bytes_shipped()?;
        let pgbench = cluster
            .client_command("pgbench")
            .args(["-n", "-c", "4", "-j", "1", "-T", &limit.as_secs().to_string(), "-f"])
            .arg(&script)
            .stdout(Stdio::null())
            .spawn()
            .context("start pgbench")?;
        Ok(SmallTableUpdates {
            pgbench,
            shipped_before,
            copies: u64::try_from(copies)?,
        })
    }

    /// Log that has gone through each storage node so far.
    pub fn log_bytes(&self, cluster: &Cluster) -> Result<u64> {
        let shipped = cluster.log_bytes_shipped()?;
        let since = shipped.checked_sub(self.shipped_before);
        Ok(since.context("the writer was replaced under the load")? / self.copies)
    }

    /// Fails if the load has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        ensure!(self.pgbench.try_wait()?.is_none(), "pgbench ended before its time");
        Ok(())
    }
}

impl Drop for SmallTableUpdates {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.pgbench.kill();
        if let Err(error) = self.pgbench.wait() {
            eprintln!("wait for pgbench: {error}");
        }
    }
}
