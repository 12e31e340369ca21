//! Six full segments a group against three full ones and three tails, in alternating rounds on fresh clusters.
//!
//! Each round makes a cluster, loads it, runs `pgbench` and weighs what came of it. Which kind begins changes from round to
//! round, so that whatever the machine does meanwhile falls on both.

use std::fmt::Write;

use anyhow::{Context, Result};
use clap::Args;
use system_tests::Cluster;

use crate::machine::Machine;
use crate::measure::number;
use crate::{processor, spread};

/// What is compared.
const KINDS: [&str; 2] = ["full", "full-and-tail"];
const MIB: f64 = (1 << 20) as f64;

/// How often, how large and how long.
#[derive(Args)]
pub struct Sizes {
    /// Rounds of both, each on a fresh cluster.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// `pgbench` scale.
    #[arg(long, default_value_t = 50)]
    scale: u32,
    /// Clients.
    #[arg(long, default_value_t = 8)]
    clients: u32,
    /// Seconds of load in each round.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// What one round of one kind came to.
struct Measured {
    kind: &'static str,
    tps: f64,
    latency_ms: f64,
    /// Processor time of all storage nodes, and of everything, a transaction.
    storage_us: f64,
    all_us: f64,
    /// Layers of all storage nodes, and everything on their disks.
    layers_mib: f64,
    files_mib: f64,
}

/// Runs all rounds and writes the page.
pub fn run(sizes: &Sizes) -> Result<()> {
    let machine = Machine::observe()?;
    let mut rounds = Vec::new();
    for round in 0..sizes.rounds {
        let mut kinds = KINDS;
        kinds.rotate_left(round as usize % KINDS.len());
        for kind in kinds {
            let measured = measure(kind, sizes).with_context(|| format!("round {round} with {kind}"))?;
            println!("{}", line(&measured));
            rounds.push(measured);
        }
    }
    let page = page(sizes, &machine, &rounds)?;
    println!("{page}");
    std::fs::create_dir_all("bench/results")?;
    std::fs::write("bench/results/segments.md", page)?;
    Ok(())
}

fn measure(kind: &'static str, sizes: &Sizes) -> Result<Measured> {
    // Sockets stand in its directory: a short name.
    let mut cluster = Cluster::prepare("kinds", &[])?;
    cluster.start_with(&["--segments", kind])?;
    cluster.pgbench(&["-i", "-q", "-s", &sizes.scale.to_string()])?;
    let before = processor::used(cluster.directory());
    let (clients, seconds) = (sizes.clients.to_string(), sizes.seconds.to_string());
    let text = cluster.pgbench(&["-n", "-c", &clients, "-j", "2", "-T", &seconds])?;
    let used = processor::difference(&before, &processor::used(cluster.directory()));
    let transactions = number(&text, "number of transactions actually processed")?;
    let each_us = |seconds: f64| seconds * 1e6 / transactions;
    let storage = used.iter().filter(|(kind, _)| kind.contains("storage"));
    let (mut layers, mut files) = (0, 0);
    for footprint in cluster.footprints()? {
        layers += footprint.layer_bytes.unwrap_or(0);
        files += footprint.file_bytes.unwrap_or(0);
    }
    Ok(Measured {
        kind,
        tps: number(&text, "tps")?,
        latency_ms: number(&text, "latency average")?,
        storage_us: each_us(storage.map(|(_, seconds)| seconds).sum()),
        all_us: each_us(used.values().sum()),
        layers_mib: layers as f64 / MIB,
        files_mib: files as f64 / MIB,
    })
}

fn line(one: &Measured) -> String {
    format!(
        "| {} | {:.0} | {:.2} | {:.0} | {:.0} | {:.0} | {:.0} |",
        one.kind, one.tps, one.latency_ms, one.storage_us, one.all_us, one.layers_mib, one.files_mib
    )
}

/// The median over the rounds of one kind.
fn median(rounds: &[Measured], kind: &str, of: impl Fn(&Measured) -> f64) -> f64 {
    let values: Vec<f64> = rounds.iter().filter(|one| one.kind == kind).map(of).collect();
    spread::median(&values)
}

fn page(sizes: &Sizes, machine: &Machine, rounds: &[Measured]) -> Result<String> {
    let mut page = String::from("# Six full segments, or three and three tails\n\n");
    writeln!(
        page,
        "`bench segments`: {} rounds of each, `pgbench` scale {}, {} clients, {} s. {}, commit {}; {}; load before {}.\n",
        sizes.rounds,
        sizes.scale,
        sizes.clients,
        sizes.seconds,
        machine.date,
        machine.commit,
        machine.hardware,
        machine.load_before
    )?;
    page += "| segments | tps | latency ms | storage, µs of processor a transaction | everything, µs | layers MiB | storage files MiB |\n";
    page += "|---|---|---|---|---|---|---|\n";
    for one in rounds {
        writeln!(page, "{}", line(one))?;
    }
    let ratio = |of: fn(&Measured) -> f64| median(rounds, KINDS[1], of) / median(rounds, KINDS[0], of);
    writeln!(
        page,
        "| median, tails to full | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |",
        ratio(|one| one.tps),
        ratio(|one| one.latency_ms),
        ratio(|one| one.storage_us),
        ratio(|one| one.all_us),
        ratio(|one| one.layers_mib),
        ratio(|one| one.files_mib)
    )?;
    Ok(page)
}
