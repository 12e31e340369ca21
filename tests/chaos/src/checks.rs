//! What has to hold when faults have ended: every node whole, memory within its settings, no panic in any log.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::Cluster;

/// How long nodes may take to be whole once all are back. It is long for a busy machine with a slow disk.
pub const WHOLE_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(200);
/// A storage node's memory where its settings name none.
const STORAGE_MEMORY_BYTES: u64 = 256 << 20;
/// What the instance process may hold: its window and what it keeps for copies that lag (64 and 128 MiB by default), and as
/// much again for everything else.
const INSTANCE_MEMORY_BYTES: u64 = 384 << 20;
/// What control process, proxy and agent may hold each.
const OTHER_MEMORY_BYTES: u64 = 128 << 20;
/// Words that no log may hold.
const PANICS: [&str; 4] = ["process.panic", "panicked at", "PANIC:", "TRAP:"];

/// Waits until all storage nodes are back and complete. Nobody may be writing. How long it took.
pub fn wait_until_whole(cluster: &Cluster) -> Result<Duration> {
    let started = Instant::now();
    loop {
        let status = cluster.status();
        let lacking = match &status {
            Ok(status) => lacking(status),
            Err(error) => vec![format!("{error:#}")],
        };
        if lacking.is_empty() {
            return Ok(started.elapsed());
        }
        ensure!(
            started.elapsed() < WHOLE_LIMIT,
            "not whole {WHOLE_LIMIT:?} after the last fault has ended: {}",
            lacking.join("; ")
        );
        std::thread::sleep(POLL);
    }
}

/// What is not as it has to be.
fn lacking(status: &Value) -> Vec<String> {
    let mut lacking = Vec::new();
    let nodes = status["storage"].as_array().map_or(&[][..], Vec::as_slice);
    for node in nodes {
        let name = node["name"].as_str().unwrap_or_default();
        let is_whole = node["state"] == "available"
            && node["damaged"] == false
            && node["stranded"] == false
            && node["stopped_because"].is_null()
            && node["lag_bytes"] == 0;
        if !is_whole {
            lacking.push(format!(
                "{name} is {}, damaged {}, stranded {}, {} bytes behind, stopped because of {}",
                node["state"], node["damaged"], node["stranded"], node["lag_bytes"], node["stopped_because"]
            ));
        }
    }
    if nodes.len() < usize::from(crate::fault::NODES_COUNT) {
        lacking.push(format!("only {} storage nodes", nodes.len()));
    }
    let instances = status["instances"].as_array().map_or(&[][..], Vec::as_slice);
    let writer = instances.iter().find(|instance| instance["role"] == "writer");
    if writer.is_none_or(|writer| writer["state"] != "available") {
        lacking.push("no writer is available".to_owned());
    }
    lacking
}

/// The most that each daemon held in memory, and may hold.
#[derive(Default)]
pub struct Memory {
    peaks: BTreeMap<String, (u64, u64)>,
}

impl Memory {
    /// Looks at every daemon that lives.
    pub fn look(&mut self, cluster: &Cluster) -> Result<()> {
        let folder = cluster.directory().join("run");
        for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let path = entry?.path();
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            if path.extension().is_none_or(|extension| extension != "pid") {
                continue;
            }
            let Some(bytes) = peak(&path, cluster.directory()) else {
                continue;
            };
            let limit = limit(cluster.directory(), name);
            let (most, _) = self.peaks.entry(name.to_owned()).or_insert((0, limit));
            *most = bytes.max(*most);
            ensure!(
                bytes < limit,
                "{name} needed {} MiB of memory, its limit is {}",
                bytes >> 20,
                limit >> 20
            );
        }
        Ok(())
    }

    /// The most of each kind of daemon, in MiB.
    pub fn summary(&self) -> String {
        let mut kinds: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for (name, (most, limit)) in &self.peaks {
            let kind = name.split('-').next().unwrap_or_default();
            let known = kinds.entry(kind).or_insert((0, *limit));
            known.0 = known.0.max(*most);
        }
        let words = kinds
            .iter()
            .map(|(kind, (most, limit))| format!("{kind} {} of {} MiB", most >> 20, limit >> 20));
        words.collect::<Vec<_>>().join(", ")
    }
}

/// `VmHWM` of the process that a pid file names, if it is one of this cluster.
fn peak(pid_file: &Path, directory: &Path) -> Option<u64> {
    let text = fs::read_to_string(pid_file).ok()?;
    let pid: u32 = text.split_whitespace().next()?.parse().ok()?;
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    if !String::from_utf8_lossy(&line).contains(&*directory.to_string_lossy()) {
        return None;
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(most.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

fn limit(directory: &Path, name: &str) -> u64 {
    match name.split('-').next() {
        Some("instance") => INSTANCE_MEMORY_BYTES,
        Some("storage") => {
            let config = fs::read(directory.join("config").join(format!("{name}.json"))).unwrap_or_default();
            let config: Value = serde_json::from_slice(&config).unwrap_or_default();
            config["memory_bytes"].as_u64().unwrap_or(STORAGE_MEMORY_BYTES)
        }
        _ => OTHER_MEMORY_BYTES,
    }
}

/// Fails with the first line of a log that tells of a panic.
pub fn no_panic(cluster: &Cluster) -> Result<()> {
    let folder = cluster.directory().join("log");
    for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        let Ok(file) = fs::File::open(&path) else {
            // Rotated away just now.
            continue;
        };
        for line in BufReader::new(file).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            ensure!(
                !PANICS.iter().any(|word| line.contains(word)),
                "{}: {line:.300}",
                path.display()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(number: u8, lag_bytes: u64, damaged: bool) -> Value {
        json!({ "name": format!("storage-{number}"), "state": "available", "damaged": damaged, "stranded": false,
            "stopped_because": null, "lag_bytes": lag_bytes })
    }

    #[test]
    fn no_node_may_be_damaged_or_behind() {
        let writer = json!([{ "role": "writer", "state": "available" }]);
        let mut nodes: Vec<Value> = (1..=6).map(|number| node(number, 0, false)).collect();
        let status = |nodes: &[Value]| json!({ "storage": nodes, "instances": writer });
        assert!(lacking(&status(&nodes)).is_empty());
        assert!(!lacking(&status(&nodes[..5])).is_empty());
        assert!(!lacking(&json!({ "storage": nodes, "instances": [] })).is_empty());
        nodes[2] = node(3, 0, true);
        assert_eq!(lacking(&status(&nodes)).len(), 1);
        nodes[0] = node(1, 8, false);
        assert_eq!(lacking(&status(&nodes)).len(), 2);
    }
}
