//! How long a volume of many groups takes to open when every process was killed under load.
//!
//! The cost of an opening follows what was in flight, not the size of the volume nor the number of its groups
//! (DESIGN §4.4). The time counts from the moment the last storage node is up, by the times that the processes themselves
//! write into their logs, to the moment the volume is open; beside it stands what a user waits for, `borealis up` as a
//! whole.

use std::fmt::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use system_tests::Cluster;

use crate::machine::Machine;

/// Rounds of kill and `up`.
const ROUNDS: usize = 7;
/// Load before each kill.
const LOAD: Duration = Duration::from_secs(5);
const STORAGE_NODES: [&str; 6] = [
    "storage-1",
    "storage-2",
    "storage-3",
    "storage-4",
    "storage-5",
    "storage-6",
];
const INSTANCE: &str = "instance-1";
const DAY_SECONDS: f64 = 86_400.0;

/// How large.
#[derive(Args)]
pub struct Size {
    /// `pgbench` scale of what is in the volume, some 15 MB each.
    #[arg(long, default_value_t = 200)]
    scale: u32,
    /// Size of a group.
    #[arg(long, default_value = "64MiB")]
    group_size: String,
}

struct Round {
    /// From the last storage node's start to the open volume.
    opening_seconds: f64,
    /// `borealis up`.
    up_seconds: f64,
}

/// Loads, kills and opens; prints the page and writes it to `bench/results/opening.md`.
pub fn run(size: &Size) -> Result<()> {
    let machine = Machine::observe()?;
    let mut cluster = Cluster::prepare("opening", &["shared_buffers=256MB"])?;
    cluster.start_with(&["--group-size", &size.group_size])?;
    cluster.pgbench(&["-i", "-q", "-s", &size.scale.to_string()])?;
    let volume = |name: &'static str| {
        move |cluster: &Cluster| cluster.status_with(name, |status| status["volume"][name].as_u64())
    };
    let (groups, bytes) = (volume("groups")(&cluster)?, volume("size_bytes")(&cluster)?);
    let rounds = (0..ROUNDS).map(|_| round(&mut cluster)).collect::<Result<Vec<_>>>()?;
    let page = page(size, &machine, (groups, bytes), &rounds)?;
    println!("{page}");
    std::fs::create_dir_all("bench/results")?;
    std::fs::write("bench/results/opening.md", &page)?;
    Ok(())
}

fn round(cluster: &mut Cluster) -> Result<Round> {
    let mut load = cluster
        .client_command("pgbench")
        .args(["-n", "-c", "8", "-j", "2", "-T", "3600"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start pgbench")?;
    std::thread::sleep(LOAD);
    let died = load.try_wait()?;
    cluster.kill_everything()?;
    load.wait()?;
    ensure!(died.is_none(), "pgbench ended before anything was killed: {died:?}");
    let began = Instant::now();
    cluster.start()?;
    let up_seconds = began.elapsed().as_secs_f64();
    cluster.wait_until_available()?;
    let mut nodes_up: f64 = 0.0;
    let opened = last(cluster, INSTANCE, "volume.opened")?;
    for node in STORAGE_NODES {
        // Before midnight, if the volume was opened after it.
        let up = last(cluster, node, "node.start")?;
        nodes_up = nodes_up.max(if opened < up { up - DAY_SECONDS } else { up });
    }
    Ok(Round {
        opening_seconds: opened - nodes_up,
        up_seconds,
    })
}

/// Second of the day at which a process said this last.
fn last(cluster: &Cluster, process: &str, said: &str) -> Result<f64> {
    let log = cluster.log(process)?;
    let line = log
        .lines()
        .rfind(|line| line.contains(said))
        .with_context(|| format!("{process} never said {said}"))?;
    second_of_the_day(line).with_context(|| format!("{process}: no time in {line:?}"))
}

/// `2026-01-02T03:04:05.678901Z …`.
fn second_of_the_day(line: &str) -> Option<f64> {
    let time = line.split_once('T')?.1.split_once('Z')?.0;
    let mut seconds = 0.0;
    for part in time.split(':') {
        seconds = seconds * 60.0 + part.parse::<f64>().ok()?;
    }
    Some(seconds)
}

fn page(size: &Size, machine: &Machine, (groups, bytes): (u64, u64), rounds: &[Round]) -> Result<String> {
    let mut text = String::new();
    writeln!(
        text,
        "# Opening a volume of {groups} groups after `kill -9` of everything\n\n\
         `cargo xtask bench opening --scale {} --group-size {}`: {}, commit {}. {}. Load average before the start {}.\n\n\
         {:.1} GiB in {groups} groups; eight clients of `pgbench` run for {} s, then every process is killed, then \
         `borealis up`.\n\n\
         | round | from the last storage node's start to the open volume, s | `borealis up`, s |\n|---|---|---|",
        size.scale,
        size.group_size,
        machine.date,
        machine.commit,
        machine.hardware,
        machine.load_before,
        bytes as f64 / f64::from(1 << 30),
        LOAD.as_secs(),
    )?;
    for (number, round) in rounds.iter().enumerate() {
        writeln!(
            text,
            "| {} | {:.3} | {:.2} |",
            number + 1,
            round.opening_seconds,
            round.up_seconds
        )?;
    }
    Ok(text)
}
