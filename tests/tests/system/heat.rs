//! A copy leaves a full disk by itself, if it may.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::{Cluster, Ledger, SOON};

/// Long enough for several decisions, of which there is one a second.
const A_WHILE: Duration = Duration::from_secs(6);

/// A disk of its own for a folder, with what was in it. Full from the start: 1 GiB is less than any disk of a copy should have.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`: this machine does not let us.
    fn mount(folder: &Path) -> Result<Option<SmallDisk>> {
        let kept = folder.with_extension("kept");
        std::fs::rename(folder, &kept)?;
        std::fs::create_dir(folder)?;
        let mut mount = Command::new("mount");
        let mounted = mount
            .args(["-t", "tmpfs", "-o", "size=1g,mode=0755", "tmpfs"])
            .arg(folder)
            .output()?;
        if !mounted.status.success() {
            // Past the test runner, which keeps to itself what a passed test prints: nobody shall think that this was tried.
            let why = String::from_utf8_lossy(&mounted.stderr);
            writeln!(
                std::io::stderr(),
                "NOT TRIED: a copy that leaves a full disk; no small disk: {why}"
            )?;
            return Ok(None);
        }
        let disk = SmallDisk(folder.to_owned());
        let contents = kept.join(".");
        let copied = Command::new("cp").arg("-a").arg(&contents).arg(folder).status()?;
        ensure!(copied.success(), "copy the files");
        std::fs::remove_dir_all(&kept)?;
        Ok(Some(disk))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a daemon that a failed test left behind may still use it.
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.0.display());
        }
    }
}

fn segments(cluster: &Cluster, name: &str) -> Result<Option<u64>> {
    let status = cluster.status()?;
    let nodes = status["storage"].as_array().context("storage nodes")?;
    let found = nodes.iter().find(|node| node["name"] == name);
    Ok(found.and_then(|node| node["segments"].as_u64()))
}

#[test]
fn a_copy_leaves_a_full_disk_by_itself_if_it_may() -> Result<()> {
    let mut cluster = Cluster::prepare("heat", &[])?;
    cluster.start_with(&["--heat", "off"])?;
    cluster.borealis(&["storage", "add", "--zone", "a"])?;
    cluster.borealis(&["down"])?;
    let Some(disk) = SmallDisk::mount(&cluster.directory().join("storage/storage-1"))? else {
        return Ok(());
    };
    // The machine's own disk may be fuller than a good one.
    let settings = cluster.directory().join("config/control.json");
    let mut control: Value = serde_json::from_slice(&std::fs::read(&settings)?)?;
    ensure!(control["heat"].is_null(), "{control}");
    cluster.start()?;
    cluster.connect()?;
    let ledger = Ledger::start(&cluster, 1)?;
    std::thread::sleep(A_WHILE);
    ensure!(segments(&cluster, "storage-7")? == Some(0), "it was turned off");
    ensure!(segments(&cluster, "storage-1")? == Some(1), "it was turned off");

    cluster.borealis(&["down"])?;
    control["heat"] = serde_json::json!({ "free_percent_min": 1 });
    std::fs::write(&settings, control.to_string())?;
    cluster.start()?;
    cluster.wait_for("the copy to move", SOON, |cluster| {
        Ok(segments(cluster, "storage-7")? == Some(1) && segments(cluster, "storage-1")? == Some(0))
    })?;
    let log = cluster.log("instance-1")?;
    ensure!(
        log.contains("membership.heat") && log.contains("the disk of storage-1 has"),
        "why is not told"
    );
    // There it stays.
    std::thread::sleep(A_WHILE);
    ensure!(segments(&cluster, "storage-7")? == Some(1));
    ledger.wait_for_more(20, SOON)?;
    ledger.settle(&cluster)?;
    // The disk goes before the cluster's directory is removed, and after those who use it.
    cluster.borealis(&["down"])?;
    drop(disk);
    Ok(())
}
