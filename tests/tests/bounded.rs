//! A storage node keeps to its memory, and what it keeps on disk does not grow with the log that went through it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use system_tests::Cluster;

/// Memory of one storage node at its peak (`VmHWM`): what a node is set to by default.
const MEMORY_MAX: u64 = 256 << 20;
/// Journal and layers of one storage node, at any time: three journal files of 32 MiB (written, being forgotten, and one
/// that a table still needs), and twice the layers of a small volume, while they are merged.
const DISK_MAX: u64 = 160 << 20;
/// Log that must have gone through each node before its size says anything.
const LOG_MIN: u64 = DISK_MAX + (40 << 20);
/// How long the load lasts, and how long it may last until enough log went through on a busy machine.
const LOAD: Duration = Duration::from_secs(45);
const LOAD_MAX: Duration = Duration::from_secs(180);
const SAMPLE: Duration = Duration::from_secs(1);
const NODES: u64 = 6;

/// Ten long rows of a hundred, anew each time: as much log as a few connections can make.
const UPDATES: &str = "\\set first random(1, 91)
UPDATE small SET filler = repeat(md5(random()::text), 60) WHERE id BETWEEN :first AND :first + 9;
";

fn peak_memory(pid: u64) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = line.context("VmHWM")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}

/// The most bytes that any node has on disk, and the most memory that any ever had.
fn largest(cluster: &Cluster) -> Result<(u64, u64)> {
    let status = cluster.status()?;
    let nodes = status["storage"].as_array().context("storage is a list")?;
    let (mut disk, mut memory) = (0, 0);
    for node in nodes {
        let bytes = |name: &str| node[name].as_u64().with_context(|| format!("{name} in {node}"));
        disk = disk.max(bytes("journal_bytes")? + bytes("layer_bytes")?);
        memory = memory.max(peak_memory(bytes("pid")?)?);
    }
    Ok((disk, memory))
}

fn shipped(cluster: &Cluster) -> Result<u64> {
    cluster.status()?["volume"]["log_bytes_shipped"]
        .as_u64()
        .context("log_bytes_shipped")
}

#[test]
fn a_minute_of_updates_to_a_small_table_grows_neither_memory_nor_disk() -> Result<()> {
    let cluster = Cluster::up("bounded", &[])?;
    cluster.sql(
        "CREATE TABLE small (id int PRIMARY KEY, filler text);
         ALTER TABLE small ALTER filler SET STORAGE PLAIN;
         INSERT INTO small SELECT i, 'x' FROM generate_series(1, 100) i",
    )?;
    let script = cluster.directory().with_file_name("updates.sql");
    std::fs::write(&script, UPDATES)?;
    let script = script.to_str().context("the temporary directory has a plain name")?;
    let before = shipped(&cluster)?;
    let seconds = (2 * LOAD_MAX.as_secs()).to_string();
    let mut load = cluster
        .client_command("pgbench")
        .args(["-n", "-c", "4", "-j", "1", "-T", &seconds, "-f", script])
        .stdout(Stdio::null())
        .spawn()?;
    let started = Instant::now();
    let (mut disk_peak, mut memory_peak, mut log) = (0, 0, 0);
    while started.elapsed() < LOAD || log < LOG_MIN {
        std::thread::sleep(SAMPLE);
        let (disk, memory) = largest(&cluster)?;
        (disk_peak, memory_peak) = (disk_peak.max(disk), memory_peak.max(memory));
        log = (shipped(&cluster)? - before) / NODES;
        eprintln!(
            "{:>3} s: of {:>4} MiB of log {:>4} MiB on disk, {:>4} MiB of memory",
            started.elapsed().as_secs(),
            log >> 20,
            disk >> 20,
            memory >> 20
        );
        ensure!(disk < DISK_MAX, "a node holds {disk} bytes on disk");
        ensure!(memory < MEMORY_MAX, "a node needed {memory} bytes of memory");
        ensure!(load.try_wait()?.is_none(), "pgbench failed");
        ensure!(
            started.elapsed() < LOAD_MAX,
            "only {log} bytes of log: that shows nothing"
        );
    }
    load.kill()?;
    load.wait()?;
    eprintln!(
        "at most {} MiB on disk, {} MiB of memory",
        disk_peak >> 20,
        memory_peak >> 20
    );
    Ok(())
}
