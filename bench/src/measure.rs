//! What is measured, in which order, how often.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::processor::{self, Seconds};
use crate::system::System;

/// Sizes of one run.
pub struct Plan {
    /// `pgbench` scale.
    pub scale: u32,
    /// Rounds of each measurement; every system once a round, in turn.
    pub rounds: usize,
    /// Rounds of select-only, ours against local.
    pub select_rounds: usize,
    /// Seconds of one measurement.
    pub seconds: u32,
    /// Rows of one bulk load.
    pub load_rows: u32,
    /// Transactions of the log-bytes measurement.
    pub log_transactions: u32,
}

impl Plan {
    /// Under twelve minutes on two cores.
    pub fn short() -> Plan {
        Plan {
            scale: 50,
            rounds: 5,
            select_rounds: 7,
            seconds: 5,
            load_rows: 500_000,
            log_transactions: 80_000,
        }
    }

    /// Longer measurements.
    pub fn full() -> Plan {
        Plan {
            seconds: 30,
            rounds: 7,
            load_rows: 5_000_000,
            ..Plan::short()
        }
    }

    /// Whether the bench itself works.
    pub fn smoke() -> Plan {
        Plan {
            scale: 2,
            rounds: 1,
            select_rounds: 1,
            seconds: 1,
            load_rows: 10_000,
            log_transactions: 800,
        }
    }
}

/// Name of a measurement.
pub type Measurement = String;

/// Values in order of their rounds, by measurement and system.
#[derive(Default)]
pub struct Results {
    /// The values.
    pub values: BTreeMap<(Measurement, &'static str), Vec<f64>>,
    /// Processor seconds over all TPC-B rounds, by system and kind of process.
    pub processor: BTreeMap<&'static str, Seconds>,
    /// Settings of each system.
    pub settings: Vec<(&'static str, String)>,
}

impl Results {
    fn push(&mut self, measurement: &str, system: &System, value: f64) {
        println!("  {measurement:<24} {:<10} {value:>12.1}", system.name());
        self.values
            .entry((measurement.to_owned(), system.name()))
            .or_default()
            .push(value);
    }
}

/// Loads all systems and measures them in turn.
pub fn run(plan: &Plan, systems: &[System; 4]) -> Result<Results> {
    let mut results = Results::default();
    for system in systems {
        results.settings.push((system.name(), system.settings()?));
        let started = Instant::now();
        system.client("pgbench", &["-i", "-q", "-s", &plan.scale.to_string()])?;
        results.push("initialise s", system, started.elapsed().as_secs_f64());
    }
    log_bytes(plan, systems, &mut results)?;
    for clients in [1, 8, 32] {
        for _ in 0..plan.rounds {
            for system in systems {
                write_round(plan, system, clients, &mut results)?;
            }
        }
    }
    select_only(plan, systems, &mut results)?;
    for round in 0..plan.rounds {
        for system in systems {
            bulk_load(plan, system, round, &mut results)?;
        }
    }
    Ok(results)
}

/// Lets background work of the system finish, so that it does not fall on its neighbour.
fn drain(system: &System) -> Result<()> {
    system.sql("CHECKPOINT")?;
    std::thread::sleep(Duration::from_millis(300));
    Ok(())
}

fn number(text: &str, label: &str) -> Result<f64> {
    let line = text
        .lines()
        .find(|line| line.starts_with(label))
        .with_context(|| format!("pgbench prints no {label}"))?;
    let value = line[label.len()..]
        .trim_start_matches([' ', '=', ':'])
        .split(' ')
        .next()
        .unwrap_or_default();
    value.parse().with_context(|| format!("{line:?} holds no number"))
}

fn write_round(plan: &Plan, system: &System, clients: u32, results: &mut Results) -> Result<()> {
    let before = processor::used(system.directory());
    let (clients_text, seconds) = (clients.to_string(), plan.seconds.to_string());
    let text = system.client("pgbench", &["-n", "-c", &clients_text, "-j", "2", "-T", &seconds])?;
    results.push(&format!("tpc-b {clients} tps"), system, number(&text, "tps")?);
    results.push(
        &format!("tpc-b {clients} latency ms"),
        system,
        number(&text, "latency average")?,
    );
    drain(system)?;
    let used = processor::difference(&before, &processor::used(system.directory()));
    let total = results.processor.entry(system.name()).or_default();
    for (kind, seconds) in used {
        *total.entry(kind).or_default() += seconds;
    }
    Ok(())
}

fn select_only(plan: &Plan, systems: &[System; 4], results: &mut Results) -> Result<()> {
    let seconds = plan.seconds.to_string();
    let pair = &systems[..2];
    for system in pair {
        system.sql("SELECT count(*) FROM pgbench_accounts")?;
        system.client("pgbench", &["-n", "-S", "-c", "8", "-j", "2", "-T", "2"])?;
    }
    for _ in 0..plan.select_rounds {
        for system in pair {
            let text = system.client("pgbench", &["-n", "-S", "-c", "8", "-j", "2", "-T", &seconds])?;
            results.push("select-only 8 tps", system, number(&text, "tps")?);
        }
    }
    Ok(())
}

fn bulk_load(plan: &Plan, system: &System, round: usize, results: &mut Results) -> Result<()> {
    let rows = plan.load_rows;
    system.sql(&format!(
        "CREATE TABLE load_{round} (n bigint PRIMARY KEY, a text, b text)"
    ))?;
    let started = Instant::now();
    system.sql(&format!(
        "INSERT INTO load_{round} SELECT n, md5(n::text), md5((n + 1)::text) FROM generate_series(1, {rows}) AS n"
    ))?;
    results.push(
        "bulk load rows/s",
        system,
        f64::from(rows) / started.elapsed().as_secs_f64(),
    );
    system.sql(&format!("DROP TABLE load_{round}"))?;
    drain(system)
}

fn log_bytes(plan: &Plan, systems: &[System; 4], results: &mut Results) -> Result<()> {
    for system in [&systems[0], &systems[2]] {
        system.sql("CHECKPOINT")?;
        let before = system.log_bytes()?;
        let each = (plan.log_transactions / 8).to_string();
        system.client("pgbench", &["-n", "-c", "8", "-j", "2", "-t", &each])?;
        let bytes = system.log_bytes()? - before;
        results.push(
            "log bytes/transaction",
            system,
            bytes as f64 / f64::from(plan.log_transactions),
        );
    }
    Ok(())
}
