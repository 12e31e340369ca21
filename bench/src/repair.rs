//! A storage node with an empty disk becomes whole: how fast, and what commits feel of it.
//!
//! First without load: the bytes of its layers in the time from the beginning of the copy to its end, beside `cp` and `sync` of a
//! peer's layers, which are as many, with cold caches. Then under `pgbench` at half of the rate that it reaches: the median latency
//! of a transaction without a repair and during one, in turn.

use std::fmt::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::Value;
use system_tests::exposition::scrape;
use system_tests::{Cluster, new_directory};

use crate::latency;
use crate::machine::Machine;
use crate::spread::median;

/// A repair is to reach this share of a plain copy's rate,
const RATE_SHARE_MIN: f64 = 0.5;
/// and may make the median latency of a transaction so many times as long.
const LATENCY_RATIO_MAX: f64 = 1.5;
/// The node whose disk is emptied, and one whose layers are copied plainly.
const WIPED: &str = "storage-4";
const PEER: &str = "storage-5";
const LOOK: Duration = Duration::from_millis(5);
const LIMIT: Duration = Duration::from_secs(1800);
const CLIENTS: &str = "8";

/// How large and how long.
#[derive(Args)]
pub struct Sizes {
    /// `pgbench` scale of the data.
    #[arg(long, default_value_t = 400)]
    scale: u32,
    /// Seconds of each stretch of load.
    #[arg(long, default_value_t = 15)]
    seconds: u32,
    /// Times that each is measured.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
}

struct Repair {
    cluster: Cluster,
    metrics: String,
}

/// One copy: bytes of layers a second.
fn rate(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / 1e6 / took.as_secs_f64()
}

impl Repair {
    fn begin(scale: u32) -> Result<Repair> {
        let cluster = Cluster::up("bench-repair", &["shared_buffers=256MB"])?;
        cluster.pgbench(&["-i", "-q", "-s", &scale.to_string()])?;
        let status = cluster.status()?;
        let nodes = status["storage"].as_array().context("storage nodes")?;
        let wiped = nodes.iter().find(|node| node["name"] == WIPED).context(WIPED)?;
        let metrics = wiped["metrics"].as_str().context("an address for metrics")?;
        let metrics = metrics.to_owned();
        let repair = Repair { cluster, metrics };
        repair.rest()?;
        Ok(repair)
    }

    fn layer_bytes(&self, name: &str) -> Result<u64> {
        let folder = self.cluster.directory().join("storage").join(name).join("layers");
        let mut bytes = 0;
        for file in std::fs::read_dir(folder)? {
            // One that was merged meanwhile is gone.
            bytes += file?.metadata().map_or(0, |file| file.len());
        }
        Ok(bytes)
    }

    /// Waits until layers are no longer merged.
    fn rest(&self) -> Result<()> {
        let began = Instant::now();
        let (mut last, mut same) = (0, 0);
        while same < 5 {
            ensure!(began.elapsed() < LIMIT, "its layers come to no rest");
            std::thread::sleep(Duration::from_secs(1));
            let bytes = self.layer_bytes(PEER)?;
            same = if bytes == last { same + 1 } else { 0 };
            last = bytes;
        }
        Ok(())
    }

    fn copying(&self) -> Result<bool> {
        let told = scrape(&self.metrics)?;
        Ok(0.0 < told.value("storage_segments{state=\"copying\"}")?)
    }

    /// Empties the disk and has the copies made anew, without waiting for that. Answers once they are being copied.
    fn wipe(&self) -> Result<Instant> {
        let cluster = &self.cluster;
        cluster.borealis(&["stop", WIPED])?;
        std::fs::remove_dir_all(cluster.directory().join("storage").join(WIPED))?;
        cluster.borealis(&["start", WIPED])?;
        cluster.wait_for("the loss to be told", LIMIT, |cluster| {
            let status = cluster.status()?;
            let nodes: &[Value] = status["storage"].as_array().map_or(&[], Vec::as_slice);
            let wiped = nodes.iter().find(|node| node["name"] == WIPED);
            Ok(wiped.is_some_and(|node| node["lost"].as_u64().is_some_and(|lost| 0 < lost)))
        })?;
        let mut order = cluster
            .borealis_command(&["storage", "replace", WIPED, "--no-wait"])
            .spawn()?;
        let asked = Instant::now();
        while !self.copying()? {
            ensure!(asked.elapsed() < LIMIT, "no copy is made");
            std::thread::sleep(LOOK);
        }
        let began = Instant::now();
        ensure!(order.wait()?.success(), "`storage replace` failed");
        Ok(began)
    }

    fn wait_until_whole(&self) -> Result<()> {
        let began = Instant::now();
        while self.copying()? {
            ensure!(began.elapsed() < LIMIT, "the copy does not become whole");
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Megabytes a second of `cp` and `sync`.
    fn plain_copy(&self) -> Result<f64> {
        let from = self.cluster.directory().join("storage").join(PEER).join("layers");
        let to = new_directory("bench-repair-copy");
        let bytes = self.layer_bytes(PEER)?;
        drop_caches();
        let began = Instant::now();
        for (program, operand) in [("cp", Some(from.as_path())), ("sync", None)] {
            let mut command = Command::new(program);
            match operand {
                Some(from) => command.arg("-r").arg(from).arg(to.join("copy")),
                None => command.arg("-f").arg(&to),
            };
            ensure!(command.status()?.success(), "{program} failed");
        }
        let took = began.elapsed();
        std::fs::remove_dir_all(&to)?;
        Ok(rate(bytes, took))
    }

    /// Megabytes a second of a repair while nobody writes.
    fn quiet_repair(&self) -> Result<f64> {
        drop_caches();
        let began = self.wipe()?;
        self.wait_until_whole()?;
        let took = began.elapsed();
        Ok(rate(self.layer_bytes(WIPED)?, took))
    }

    fn pgbench(&self, arguments: &[&str], seconds: u32) -> Result<String> {
        let seconds = seconds.to_string();
        let always = ["-n", "-c", CLIENTS, "-j", "2", "-T", &seconds];
        self.cluster.pgbench(&[&always[..], arguments].concat())
    }

    fn transactions_per_second(&self, seconds: u32) -> Result<f64> {
        let text = self.pgbench(&[], seconds)?;
        let line = text.lines().find_map(|line| line.strip_prefix("tps = "));
        let number = line
            .and_then(|line| line.split(' ').next())
            .context("pgbench tells its rate")?;
        Ok(number.parse()?)
    }

    /// The median latency in milliseconds at so many transactions a second.
    fn latency(&self, rate: f64, seconds: u32) -> Result<f64> {
        let directory = new_directory("bench-repair-latency");
        let prefix = format!("--log-prefix={}/log", directory.display());
        self.pgbench(&["-R", &rate.to_string(), "-l", &prefix], seconds)?;
        let median = latency::of_directory(&directory, 0)?.p50;
        std::fs::remove_dir_all(&directory)?;
        Ok(median)
    }
}

fn drop_caches() {
    let synced = Command::new("sync").status();
    if !synced.is_ok_and(|status| status.success()) || std::fs::write("/proc/sys/vm/drop_caches", "3").is_err() {
        println!("caches cannot be dropped by this user: they are warm");
    }
}

/// Measures both, writes a page; the error names what is not as it should be.
pub fn run(sizes: &Sizes) -> Result<()> {
    let machine = Machine::observe()?;
    let repair = Repair::begin(sizes.scale)?;
    let (mut plain, mut quiet) = (Vec::new(), Vec::new());
    for _ in 0..sizes.rounds {
        plain.push(repair.plain_copy()?);
        quiet.push(repair.quiet_repair()?);
        println!(
            "plain copy {:.0} MB/s, repair {:.0} MB/s",
            plain[plain.len() - 1],
            quiet[quiet.len() - 1]
        );
        repair.rest()?;
    }
    let half = repair.transactions_per_second(sizes.seconds)? / 2.0;
    let (mut normal, mut during, mut lasted) = (Vec::new(), Vec::new(), true);
    for _ in 0..sizes.rounds {
        normal.push(repair.latency(half, sizes.seconds)?);
        repair.wipe()?;
        during.push(repair.latency(half, sizes.seconds)?);
        lasted &= repair.copying()?;
        println!(
            "median latency {:.2} ms, during a repair {:.2} ms{}",
            normal[normal.len() - 1],
            during[during.len() - 1],
            if lasted { "" } else { ", which was over before" }
        );
        repair.wait_until_whole()?;
        repair.rest()?;
    }
    let (share, ratio) = (median(&quiet) / median(&plain), median(&during) / median(&normal));
    let mut page = String::from("# Repair of a storage node whose disk is empty\n\n");
    writeln!(
        page,
        "{}, {}, commit {}",
        machine.date, machine.hardware, machine.commit
    )?;
    writeln!(
        page,
        "File system {}, load before {}.\n",
        machine.file_system, machine.load_before
    )?;
    writeln!(
        page,
        "`pgbench -i -s {}`, {} MB of layers a node; medians of {} rounds in turn.\n",
        sizes.scale,
        repair.layer_bytes(PEER)? / 1_000_000,
        sizes.rounds
    )?;
    writeln!(page, "| what | | should be |\n|---|---|---|")?;
    writeln!(
        page,
        "| plain copy (`cp` and `sync`, cold caches) | {:.0} MB/s | |",
        median(&plain)
    )?;
    writeln!(page, "| repair without load | {:.0} MB/s | |", median(&quiet))?;
    writeln!(page, "| of the plain copy | {share:.2} | at least {RATE_SHARE_MIN} |")?;
    writeln!(
        page,
        "| median latency at {half:.0} transactions a second, half of the most | {:.2} ms | |",
        median(&normal)
    )?;
    writeln!(page, "| the same during a repair | {:.2} ms | |", median(&during))?;
    writeln!(
        page,
        "| of the latency without | {ratio:.2} | at most {LATENCY_RATIO_MAX} |"
    )?;
    if !lasted {
        writeln!(page, "\nA repair was over before the load that was measured with it.")?;
    }
    println!("{page}");
    std::fs::create_dir_all("bench/results")?;
    std::fs::write("bench/results/repair.md", &page)?;
    ensure!(
        RATE_SHARE_MIN <= share,
        "the repair has {share:.2} of a plain copy's rate"
    );
    ensure!(
        ratio <= LATENCY_RATIO_MAX,
        "a repair makes the median latency {ratio:.2} times as long"
    );
    Ok(())
}
