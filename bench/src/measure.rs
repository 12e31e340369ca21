//! What is measured, in which order, how often.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::latency;
use crate::processor::{self, Seconds};
use crate::system::{LOCAL, System};

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
    /// `pgbench` scale of one bulk load.
    pub load_scale: u32,
    /// Transactions of the log-bytes measurement.
    pub log_transactions: u32,
    /// After this time no further round begins; the report says how many there were.
    pub rounds_until: Duration,
    /// Whether six hot standbys take part.
    pub with_standbys: bool,
    /// Name of the report's file; none for a run that measures nothing worth keeping.
    pub report: Option<&'static str>,
}

impl Plan {
    /// Under twelve minutes on two cores.
    pub fn short() -> Plan {
        Plan {
            scale: 20,
            rounds: 5,
            select_rounds: 7,
            seconds: 3,
            load_scale: 5,
            log_transactions: 20_000,
            rounds_until: Duration::from_secs(8 * 60),
            with_standbys: true,
            report: Some("bench"),
        }
    }

    /// Longer measurements of more data.
    pub fn full() -> Plan {
        Plan {
            scale: 50,
            seconds: 30,
            load_scale: 10,
            log_transactions: 80_000,
            rounds_until: Duration::from_secs(3 * 60 * 60),
            report: Some("bench-full"),
            ..Plan::short()
        }
    }

    /// Whether the bench itself works.
    pub fn smoke() -> Plan {
        Plan {
            scale: 2,
            rounds: 2,
            select_rounds: 2,
            seconds: 2,
            load_scale: 1,
            log_transactions: 1_600,
            report: None,
            ..Plan::short()
        }
    }

    /// The same with all data in memory: what the disk makes of it is left out. The log of all peers has to fit, and so the
    /// standbys do not.
    pub fn on_tmpfs(self) -> Plan {
        Plan {
            with_standbys: false,
            scale: self.scale.min(10),
            seconds: self.seconds.min(5),
            load_scale: self.load_scale.min(3),
            log_transactions: self.log_transactions.min(20_000),
            report: self.report.map(|_| "bench-tmpfs"),
            ..self
        }
    }
}

/// Clients of the measurements that have one number of them.
pub const CLIENTS: u32 = 8;
/// A system counts as drained when its processes use less of a processor than this …
const REST_SHARE: f64 = 0.15;
/// … over this time.
const REST_INTERVAL: Duration = Duration::from_millis(400);
/// A system that does not come to rest is measured against nonetheless; the report says how long it was waited for.
const REST_LIMIT: Duration = Duration::from_secs(20);
/// Its own database, so that a load does not touch the tables of the other measurements.
const LOAD_DATABASE: &str = "load";

/// Whether more of it is better.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// As of a throughput.
    More,
    /// As of a time or a size.
    Less,
}

/// One row of the report.
pub struct Measurement {
    /// What was measured, with its unit.
    pub name: String,
    /// What was run.
    pub command: String,
    /// Which direction is good.
    pub better: Better,
    /// Values in order of their rounds, by system.
    pub values: BTreeMap<&'static str, Vec<f64>>,
}

/// Everything that was measured.
#[derive(Default)]
pub struct Results {
    /// In the order of measuring.
    pub measurements: Vec<Measurement>,
    /// Processor seconds over all TPC-B rounds, by system and kind of process.
    pub processor: BTreeMap<&'static str, Seconds>,
    /// Transactions over all TPC-B rounds, by system.
    pub transactions: BTreeMap<&'static str, f64>,
    /// Blocks that were not in the buffer cache during select-only, by system.
    pub select_blocks_read: BTreeMap<&'static str, i64>,
    /// Settings of each system.
    pub settings: Vec<(&'static str, String)>,
    /// Longest wait for background work after a measurement, by system.
    pub longest_drain: BTreeMap<&'static str, Duration>,
}

/// Which row of the report a value belongs to.
struct Row<'a> {
    name: &'a str,
    command: &'a str,
    better: Better,
}

impl Results {
    fn push(&mut self, row: &Row<'_>, system: &System, value: f64) {
        let Row { name, command, better } = *row;
        println!("  {name:<32} {:<12} {value:>12.2}", system.name());
        let known = self.measurements.iter().position(|row| row.name == name);
        let at = known.unwrap_or_else(|| {
            self.measurements.push(Measurement {
                name: name.to_owned(),
                command: command.to_owned(),
                better,
                values: BTreeMap::new(),
            });
            self.measurements.len() - 1
        });
        self.measurements[at]
            .values
            .entry(system.name())
            .or_default()
            .push(value);
    }

    /// Lets background work of the system finish, so that it does not fall on its neighbour.
    fn drain(&mut self, system: &System) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < REST_LIMIT {
            let before = processor::used(system.directory());
            std::thread::sleep(REST_INTERVAL);
            let used = processor::difference(&before, &processor::used(system.directory()));
            if used.values().sum::<f64>() < REST_SHARE * REST_INTERVAL.as_secs_f64() {
                break;
            }
        }
        let longest = self.longest_drain.entry(system.name()).or_default();
        *longest = started.elapsed().max(*longest);
        system.tidy()
    }

    fn checkpoint(&mut self, system: &System) -> Result<()> {
        system.sql("CHECKPOINT")?;
        self.drain(system)
    }

    /// Books what the system's processes have used since `before` on its TPC-B rounds.
    fn charge(&mut self, system: &System, before: &Seconds) {
        let used = processor::difference(before, &processor::used(system.directory()));
        let total = self.processor.entry(system.name()).or_default();
        for (kind, seconds) in used {
            *total.entry(kind).or_default() += seconds;
        }
    }
}

/// The systems in the order of this round: each is first in turn.
fn turns<T>(systems: &[T], round: usize) -> impl Iterator<Item = &T> {
    let count = systems.len();
    systems.iter().cycle().skip(round % count).take(count)
}

/// Loads all systems and measures them in turn.
pub fn run(plan: &Plan, systems: &[System]) -> Result<Results> {
    let mut results = Results::default();
    let started = Instant::now();
    for system in systems {
        results.settings.push((system.name(), system.settings()?));
        system.sql("CREATE EXTENSION pg_prewarm")?;
        system.sql(&format!("CREATE DATABASE {LOAD_DATABASE}"))?;
        latency::prepare(system)?;
        let name = format!("first load, scale {}, rows/s", plan.scale);
        load(plan.scale, "postgres", &name, system, &mut results)?;
        warm(system)?;
    }
    for system in systems {
        log_bytes(plan, system, &mut results)?;
    }
    select_only(plan, systems, &mut results)?;
    let name = format!("bulk load, scale {}, rows/s", plan.load_scale);
    for round in 0..plan.rounds {
        if plan.rounds_until < started.elapsed() {
            println!("time is up after {round} rounds");
            break;
        }
        for clients in [1, 8, 32] {
            for system in turns(systems, round) {
                write_round(plan, system, clients, &mut results)?;
            }
        }
        for system in turns(systems, round) {
            commit_latency(plan, system, &mut results)?;
        }
        for system in turns(systems, round) {
            load(plan.load_scale, LOAD_DATABASE, &name, system, &mut results)?;
        }
    }
    // What the rounds left to the next checkpoint is their work, too.
    for system in systems {
        let before = processor::used(system.directory());
        results.checkpoint(system)?;
        results.charge(system, &before);
    }
    Ok(results)
}

/// Brings tables and indexes into the buffer cache.
fn warm(system: &System) -> Result<()> {
    for relation in ["accounts", "accounts_pkey", "branches", "tellers"] {
        system.sql(&format!("SELECT pg_prewarm('pgbench_{relation}')"))?;
    }
    Ok(())
}

/// The number after `label` in what `pgbench` prints.
pub fn number(text: &str, label: &str) -> Result<f64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(label))
        .with_context(|| format!("pgbench prints no {label}:\n{text}"))?;
    let value = line.trim_start_matches([' ', '=', ':']).split([' ', '/']).next();
    value
        .and_then(|value| value.parse().ok())
        .with_context(|| format!("{label}{line} holds no number"))
}

fn write_round(plan: &Plan, system: &System, clients: u32, results: &mut Results) -> Result<()> {
    let before = processor::used(system.directory());
    let (clients_text, seconds) = (clients.to_string(), plan.seconds.to_string());
    let arguments = ["-n", "-c", &clients_text, "-j", "2", "-T", &seconds];
    let text = system.pgbench(&arguments)?;
    let command = shown(&arguments);
    let mut push = |what, better, value| {
        let name = &format!("TPC-B, clients {clients}, {what}");
        let command = &command;
        results.push(&Row { name, command, better }, system, value);
    };
    push("tps", Better::More, number(&text, "tps")?);
    push("latency ms", Better::Less, number(&text, "latency average")?);
    let transactions = number(&text, "number of transactions actually processed")?;
    *results.transactions.entry(system.name()).or_default() += transactions;
    results.drain(system)?;
    results.charge(system, &before);
    Ok(())
}

/// What was run, as a person would type it.
fn shown(arguments: &[&str]) -> String {
    format!("pgbench {}", arguments.join(" "))
}

fn commit_latency(plan: &Plan, system: &System, results: &mut Results) -> Result<()> {
    let latencies = latency::measure(system, plan.seconds)?;
    let command = &latency::command(plan.seconds);
    for ((script, _), latency) in latency::SCRIPTS.iter().zip(latencies) {
        for (what, value) in [("mean", latency.mean), ("p50", latency.p50), ("p99", latency.p99)] {
            let name = &format!("{script} of one row, {what} ms");
            let better = Better::Less;
            results.push(&Row { name, command, better }, system, value);
        }
    }
    results.drain(system)
}

/// Reads of cached data, against the peer that has nothing else to do: (a).
fn select_only(plan: &Plan, systems: &[System], results: &mut Results) -> Result<()> {
    let (clients, seconds) = (CLIENTS.to_string(), plan.seconds.to_string());
    let is_local = |system: &&System| system.is_ours() || system.name() == LOCAL;
    let readers: Vec<&System> = systems.iter().filter(is_local).collect();
    let arguments = ["-n", "-S", "-c", &clients, "-j", "2", "-T", &seconds];
    let mut before = Vec::new();
    for system in &readers {
        system.pgbench(&["-n", "-S", "-c", &clients, "-j", "2", "-T", "2"])?;
        before.push(system.blocks_read()?);
    }
    let row = Row {
        name: &format!("select-only, clients {CLIENTS}, tps"),
        command: &shown(&arguments),
        better: Better::More,
    };
    for round in 0..plan.select_rounds {
        for system in turns(&readers, round) {
            let text = system.pgbench(&arguments)?;
            results.push(&row, system, number(&text, "tps")?);
        }
    }
    for (system, before) in readers.iter().zip(before) {
        let read = system.blocks_read()? - before;
        results.select_blocks_read.insert(system.name(), read);
    }
    Ok(())
}

/// `pgbench -i`: tables, rows, vacuum, primary keys.
fn load(scale: u32, database: &str, name: &str, system: &System, results: &mut Results) -> Result<()> {
    let scale_text = scale.to_string();
    let arguments = ["-i", "-q", "-s", &scale_text, database];
    let started = Instant::now();
    system.pgbench(&arguments)?;
    let rows = f64::from(scale) * 100_000.0;
    let row = Row {
        name,
        command: &shown(&arguments),
        better: Better::More,
    };
    results.push(&row, system, rows / started.elapsed().as_secs_f64());
    results.drain(system)
}

/// Once from a fresh checkpoint. Warms stock PostgreSQL up as well: most pages have their full-page image afterwards.
fn log_bytes(plan: &Plan, system: &System, results: &mut Results) -> Result<()> {
    results.checkpoint(system)?;
    let before = system.log_bytes()?;
    let (clients, each) = (CLIENTS.to_string(), (plan.log_transactions / CLIENTS).to_string());
    let arguments = ["-n", "-c", &clients, "-j", "2", "-t", &each];
    system.pgbench(&arguments)?;
    if let (Some(before), Some(after)) = (before, system.log_bytes()?) {
        let bytes = (after - before) as f64 / f64::from(plan.log_transactions);
        let row = Row {
            name: "sent, bytes/transaction",
            command: &format!("CHECKPOINT; {}", shown(&arguments)),
            better: Better::Less,
        };
        results.push(&row, system, bytes);
    }
    results.drain(system)
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_are_found_in_what_pgbench_prints() {
        let text =
            "number of transactions actually processed: 16/16\nlatency average = 0.250 ms\ntps = 3999.5 (without)\n";
        assert_eq!(number(text, "tps").unwrap(), 3999.5);
        assert_eq!(number(text, "latency average").unwrap(), 0.25);
        assert_eq!(number(text, "number of transactions actually processed").unwrap(), 16.0);
        assert!(number(text, "number of failed transactions").is_err());
        assert!(number("tps = fast", "tps").is_err());
    }
}
