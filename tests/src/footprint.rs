//! What the processes of a cluster hold: memory of each, journal and layers of the storage nodes.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::Cluster;

/// A storage node's memory where its settings name none.
const MEMORY_BYTES_DEFAULT: u64 = 256 << 20;

/// What one part of a cluster holds at one moment.
#[derive(Clone, Debug)]
pub struct Footprint {
    /// `storage-1` …, the instance process, or `postgresql` for all processes of the writer's PostgreSQL.
    pub name: String,
    /// Journal files of a storage node; `None` for others, and for one that did not answer in time.
    pub journal_bytes: Option<u64>,
    /// Layers of a storage node, likewise.
    pub layer_bytes: Option<u64>,
    /// Room that all files of a storage node take, spare ones included: as the file system counts, not the node.
    pub file_bytes: Option<u64>,
    /// `VmRSS`. Of PostgreSQL the sum of its processes' `Pss`, in which shared memory counts once.
    pub resident_bytes: u64,
    /// `VmHWM`, the most that the process ever held. The kernel keeps none for several processes: absent for PostgreSQL.
    pub resident_bytes_max: Option<u64>,
}

/// The number of KiB after `label` in a file such as `/proc/PID/status`, as bytes.
fn kibibytes(text: &str, label: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label));
    let line = line.with_context(|| format!("no {label} among\n{text}"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}

fn read(pid: u64, file: &str) -> Result<String> {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).with_context(|| format!("{file} of process {pid}"))
}

/// `VmRSS` and `VmHWM`.
fn resident(pid: u64) -> Result<(u64, u64)> {
    let status = read(pid, "status")?;
    Ok((kibibytes(&status, "VmRSS:")?, kibibytes(&status, "VmHWM:")?))
}

/// What a postmaster and its children hold together.
fn resident_with_children(postmaster: u64) -> Result<u64> {
    let share = |pid| kibibytes(&read(pid, "smaps_rollup")?, "Pss:");
    let children = read(postmaster, &format!("task/{postmaster}/children"))?;
    let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    // A backend may end between the two readings.
    let children: u64 = children.filter_map(|pid| share(pid).ok()).sum();
    Ok(share(postmaster)? + children)
}

impl Cluster {
    /// What every storage node, the writer's instance process and its PostgreSQL hold now.
    pub fn footprints(&self) -> Result<Vec<Footprint>> {
        let status = self.status_with("the pids of all storage nodes and of the writer", |status| {
            let nodes = status["storage"].as_array()?;
            let mut instances = status["instances"].as_array()?.iter();
            let writer = instances.find(|instance| instance["role"] == "writer")?;
            let all = writer["process_pid"].is_u64() && nodes.iter().all(|node| node["pid"].is_u64());
            all.then(|| status.clone())
        })?;
        let mut footprints = Vec::new();
        for node in status["storage"].as_array().context("status lists no storage")? {
            let (resident_bytes, most) = resident(number(node, "pid")?)?;
            footprints.push(Footprint {
                name: word(node, "name")?,
                journal_bytes: node["journal_bytes"].as_u64(),
                layer_bytes: node["layer_bytes"].as_u64(),
                file_bytes: Some(allocated(
                    &self.storage_setting(node, "directory", |value| value.as_str().map(PathBuf::from))?,
                )?),
                resident_bytes,
                resident_bytes_max: Some(most),
            });
        }
        let instances = status["instances"].as_array().context("status lists no instances")?;
        let writer = instances.iter().find(|instance| instance["role"] == "writer");
        let writer = writer.context("status names no writer")?;
        let (resident_bytes, most) = resident(number(writer, "process_pid")?)?;
        let of_writer = |name: String, resident_bytes, resident_bytes_max| Footprint {
            name,
            journal_bytes: None,
            layer_bytes: None,
            file_bytes: None,
            resident_bytes,
            resident_bytes_max,
        };
        footprints.push(of_writer(word(writer, "name")?, resident_bytes, Some(most)));
        if let Some(postmaster) = writer["pid"].as_u64() {
            let bytes = resident_with_children(postmaster)?;
            footprints.push(of_writer("postgresql".to_owned(), bytes, None));
        }
        Ok(footprints)
    }

    /// What each storage node may hold in memory, from its settings.
    pub fn storage_memory_bytes(&self) -> Result<Vec<(String, u64)>> {
        let mut settings = Vec::new();
        for node in self.status()?["storage"]
            .as_array()
            .context("status lists no storage")?
        {
            let memory = self.storage_setting(node, "memory_bytes", |value| match value {
                Value::Null => Some(MEMORY_BYTES_DEFAULT),
                value => value.as_u64(),
            })?;
            settings.push((word(node, "name")?, memory));
        }
        ensure!(!settings.is_empty(), "the cluster has no storage nodes");
        Ok(settings)
    }

    /// A setting of a storage node that `status` lists, from its configuration file.
    fn storage_setting<T>(&self, node: &Value, setting: &str, read: impl Fn(&Value) -> Option<T>) -> Result<T> {
        let name = word(node, "name")?;
        let path = self.directory().join("config").join(format!("{name}.json"));
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let config: Value = serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
        read(&config[setting]).with_context(|| format!("{setting} in {}", path.display()))
    }

    /// Bytes of log that the writer has sent to storage nodes in this reign, all copies together.
    pub fn log_bytes_shipped(&self) -> Result<u64> {
        self.status_with("the log bytes shipped", |status| {
            status["volume"]["log_bytes_shipped"].as_u64()
        })
    }
}

/// Room that a folder's files take.
fn allocated(folder: &Path) -> Result<u64> {
    /// What `st_blocks` counts in.
    const BLOCK_BYTES: u64 = 512;
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry?;
        // Files come and go meanwhile.
        match entry.metadata() {
            Ok(found) if found.is_dir() => bytes += allocated(&entry.path())?,
            Ok(found) => bytes += found.blocks() * BLOCK_BYTES,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("look at {}", entry.path().display())),
        }
    }
    Ok(bytes)
}

fn number(value: &Value, name: &str) -> Result<u64> {
    value[name].as_u64().with_context(|| format!("no {name} in {value}"))
}

fn word(value: &Value, name: &str) -> Result<String> {
    let text = value[name].as_str().with_context(|| format!("no {name} in {value}"))?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::kibibytes;

    #[test]
    fn sizes_are_read_as_the_kernel_prints_them() {
        let status = "VmPeak:\t   12 kB\nVmHWM:\t  2048 kB\n";
        assert_eq!(kibibytes(status, "VmHWM:").unwrap(), 2 << 20);
        assert!(kibibytes(status, "VmRSS:").is_err());
    }
}
