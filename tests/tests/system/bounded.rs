//! A storage node keeps to its memory, and what it keeps on disk does not grow with the log that went through it.
//! `make soak` is the long version.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use system_tests::Cluster;
use system_tests::small_table::{GROWTH_BYTES_MAX, LOG_BYTES_MIN, SmallTableUpdates};

/// How long the load lasts, and how long it may last until enough log went through on a busy machine.
const LOAD: Duration = Duration::from_secs(45);
const LOAD_MAX: Duration = Duration::from_secs(900);
const SAMPLE: Duration = Duration::from_secs(1);

#[test]
fn a_minute_of_updates_to_a_small_table_grows_neither_memory_nor_disk() -> Result<()> {
    let cluster = Cluster::up("bounded", &[])?;
    let settings = cluster.storage_memory_bytes()?;
    let mut load = SmallTableUpdates::start(&cluster, 2 * LOAD_MAX)?;
    let started = Instant::now();
    let (mut disk_peak, mut memory_peak, mut log) = (0, 0, 0);
    while started.elapsed() < LOAD || log < LOG_BYTES_MIN {
        std::thread::sleep(SAMPLE);
        for (footprint, (name, memory_max)) in cluster.footprints()?.iter().zip(&settings) {
            ensure!(footprint.name == *name, "{} instead of {name}", footprint.name);
            let disk = footprint.file_bytes.unwrap_or(0);
            let memory = footprint.resident_bytes_max.unwrap_or(footprint.resident_bytes);
            ensure!(disk < GROWTH_BYTES_MAX, "{name} holds {disk} bytes on disk");
            ensure!(memory < *memory_max, "{name} needed {memory} bytes of memory");
            (disk_peak, memory_peak) = (disk_peak.max(disk), memory_peak.max(memory));
        }
        log = load.log_bytes(&cluster)?;
        load.check()?;
        eprintln!(
            "{:>3} s: of {:>4} MiB of log at most {:>4} MiB on disk, {:>4} MiB of memory",
            started.elapsed().as_secs(),
            log >> 20,
            disk_peak >> 20,
            memory_peak >> 20
        );
        ensure!(
            started.elapsed() < LOAD_MAX,
            "only {log} bytes of log: that shows nothing"
        );
    }
    ensure!(disk_peak > 0, "no storage node has files");
    Ok(())
}
