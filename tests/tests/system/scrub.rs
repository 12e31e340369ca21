//! What a failing disk does to the files of storage nodes that run is found on demand, told, and mended, under load.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::{Cluster, Ledger, SOON};

/// Small, so that every page is read from a storage node.
const SETTINGS: [&str; 2] = ["shared_buffers=1MB", "borealis.overlay_size=1MB"];
/// The least that a node may have: its tables become layers soon.
const MEMORY_BYTES: u64 = 64 << 20;
/// Layers that are merged away before they are looked at, one after the other.
const ATTEMPTS_MAX: usize = 5;
/// A table that fits no cache, by scan and by index.
const SUMS: &str = "SELECT count(*), sum(hashtext(filler)::bigint) FROM big; \
                    SELECT count(*), sum(hashtext(filler)::bigint) FROM big WHERE id BETWEEN 1000 AND 30000";

/// What `status` says of a storage node.
fn node(cluster: &Cluster, name: &str) -> Result<Value> {
    cluster.status_with(name, |status| {
        let nodes = status["storage"].as_array()?;
        let node = nodes.iter().find(|node| node["name"] == name)?;
        node["scrub"].is_object().then(|| node.clone())
    })
}

fn folder(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.directory().join("storage").join(name)
}

/// The longest layer of a node.
fn layer(cluster: &Cluster, name: &str) -> Result<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder(cluster, name).join("layers"))? {
        let entry = entry?;
        // It may be merged away just now.
        files.extend(entry.metadata().map(|found| (found.len(), entry.path())));
    }
    let longest = files.into_iter().max().context("a layer")?;
    Ok(longest.1)
}

fn open(path: &Path) -> Result<File> {
    let opened = File::options().read(true).write(true).open(path);
    opened.with_context(|| format!("open {}", path.display()))
}

fn flip_bits(path: &Path) -> Result<()> {
    let file = open(path)?;
    let length = file.metadata()?.len();
    for at in [length / 5, length / 2, length - 40] {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        file.write_all_at(&[byte[0] ^ 4], at)?;
    }
    Ok(file.sync_all()?)
}

/// The disk wrote the first sectors of a block, and not the others.
fn tear(path: &Path) -> Result<()> {
    let file = open(path)?;
    let at = file.metadata()?.len() / 2 / 4096 * 4096;
    file.write_all_at(&[0; 2560], at + 1536)?;
    Ok(file.sync_all()?)
}

/// Two writes each went where the other one belonged.
fn swap(path: &Path) -> Result<()> {
    let file = open(path)?;
    let (mut one, mut other) = (vec![0; 65536], vec![0; 65536]);
    file.read_exact_at(&mut one, 0)?;
    file.read_exact_at(&mut other, 131_072)?;
    file.write_all_at(&one, 131_072)?;
    file.write_all_at(&other, 0)?;
    Ok(file.sync_all()?)
}

/// A write never arrived: nothing is where it should be.
fn lose_write(path: &Path) -> Result<()> {
    let file = open(path)?;
    file.write_all_at(&[0; 65536], 65536)?;
    Ok(file.sync_all()?)
}

/// Waits until nothing is damaged any more and every copy counts.
fn wait_until_sound(cluster: &Cluster) -> Result<()> {
    cluster.wait_for("all copies to count", SOON, |cluster| {
        let status = cluster.status()?;
        let missing = status["volume"]["quorum"]["missing"].as_array().map(Vec::len);
        let nodes = status["storage"].as_array().context("storage nodes")?;
        Ok(missing == Some(0)
            && nodes
                .iter()
                .all(|node| node["damaged"] == false && node["state"] == "available"))
    })?;
    Ok(())
}

/// What a disk does to a file.
type Damage = fn(&Path) -> Result<()>;

const DAMAGE: [(&str, Damage); 4] = [
    ("storage-1", flip_bits),
    ("storage-2", tear),
    ("storage-3", swap),
    ("storage-4", lose_write),
];

/// Damages the longest layer of a node. Whether a pass found that, and everything is in its place again.
fn is_found_and_mended(cluster: &Cluster, name: &str, damage: Damage) -> Result<bool> {
    damage(&layer(cluster, name)?)?;
    let said = cluster.borealis(&["storage", "scrub", name, "--wait"])?;
    ensure!(said.contains("mended") || said.contains("nothing is damaged"), "{said}");
    cluster.wait_for("nothing to be damaged any more", SOON, |cluster| {
        let node = node(cluster, name)?;
        let scrub = &node["scrub"];
        let ended = scrub["running"] == false && scrub["last_ended_at"].is_u64();
        let is_sound = node["damaged"] == false && node["mending"] == false;
        Ok(ended && is_sound && scrub["files_damaged"] == scrub["files_mended"])
    })?;
    Ok(node(cluster, name)?["scrub"]["files_damaged"] == 1)
}

#[test]
fn damage_at_rest_is_found_told_and_mended_under_load() -> Result<()> {
    let cluster = Cluster::up("scrub", &SETTINGS)?;
    cluster.configure_storage(|config| config["memory_bytes"] = MEMORY_BYTES.into())?;
    wait_until_sound(&cluster)?;
    cluster.sql("CREATE EXTENSION amcheck")?;
    cluster.sql("CREATE TABLE big (id int, filler text)")?;
    cluster.sql(
        "INSERT INTO big SELECT i, (SELECT string_agg(md5((i * 20 + j)::text), '') FROM generate_series(1, 20) j) \
         FROM generate_series(1, 60000) i",
    )?;
    cluster.sql("CREATE INDEX ON big (id)")?;
    let sums = cluster.sql(SUMS)?;
    for name in ["storage-1", "storage-2", "storage-3", "storage-4"] {
        cluster.wait_for("layers", SOON, |cluster| {
            Ok(layer(cluster, name).is_ok_and(|layer| fs::metadata(layer).is_ok_and(|found| 1 << 20 < found.len())))
        })?;
    }
    let said = cluster.borealis(&["storage", "scrub", "--all", "--wait"])?;
    ensure!(said.matches("nothing is damaged").count() == 6, "{said}");

    let ledger = Ledger::start(&cluster, 2)?;
    for (name, damage) in DAMAGE {
        let mut attempts = 0;
        // A layer that is merged away just now is nobody's any more, and whatever becomes of it.
        while !is_found_and_mended(&cluster, name, damage)? {
            attempts += 1;
            ensure!(attempts < ATTEMPTS_MAX, "no pass over {name} finds what it lost");
        }
        let table = cluster.borealis(&["status"])?;
        ensure!(table.contains("1 file was damaged, 1 mended"), "{table}");
        ledger.wait_for_more(20, SOON)?;
    }
    wait_until_sound(&cluster)?;
    ledger.settle(&cluster)?;

    // All four that were mended are needed now, for every commit and nearly every page.
    for name in ["storage-5", "storage-6"] {
        cluster.borealis(&["stop", name])?;
    }
    ensure!(cluster.sql(SUMS)? == sums, "what was mended reads otherwise");
    cluster.kill_writer()?;
    ensure!(
        cluster.sql(SUMS)? == sums,
        "after an opening by what was mended the table reads otherwise"
    );
    cluster
        .client("pg_amcheck", &["--all", "--heapallindexed"])
        .context("the volume is damaged")?;
    for name in ["storage-1", "storage-2", "storage-3", "storage-4"] {
        let read = node(&cluster, name)?["pages_read"].as_u64();
        ensure!(read.is_some_and(|read| 0 < read), "{name} gave no page");
    }
    // Still so after their restart.
    for name in ["storage-1", "storage-2", "storage-3", "storage-4"] {
        let before = node(&cluster, name)?["scrub"]["last_ended_at"].clone();
        cluster.borealis(&["kill", name])?;
        cluster.wait_for("the node", SOON, |cluster| {
            let node = node(cluster, name)?;
            Ok(node["state"] == "available" && node["damaged"] == false)
        })?;
        let after = node(&cluster, name)?["scrub"]["last_ended_at"].clone();
        ensure!(
            before.is_u64() && after == before,
            "{name} forgot its last pass: {after}, not {before}"
        );
    }
    ensure!(
        cluster.sql(SUMS)? == sums,
        "after a restart of what was mended the table reads otherwise"
    );
    Ok(())
}
