//! `cargo run --release -p oracle -- [SCENARIO]…`: the workload on stock servers, and their log through redo.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use oracle::run::{Counters, Logging, Oracle, Outcome};
use oracle::workload::{Scenario, scenarios};
use oracle::{complete, coverage};

/// Compares every page that redo makes with the one that PostgreSQL made.
///
/// Starts a stock PostgreSQL 15 in a temporary folder, runs scenarios on it (each a file of tests/oracle/workload, in a
/// database of its own), stops it, follows its log, and prints what was seen of each kind of record: how many records,
/// how many pages compared with after-images, how many copied from images, how many different. Fails if anything differs.
#[derive(Parser)]
#[command(name = "oracle")]
struct Arguments {
    /// Scenarios to run on one server, such as `core` or `gin`. Without any, everything runs that `make oracle` stands
    /// for: all of them with after-images, what happens to whole servers, a run across the wrap of transactions and
    /// multixacts, all of them as a real server logs; then docs/redo-coverage.md is written.
    scenarios: Vec<String>,
    /// Log as on a real server: full page images after checkpoints, and no after-images. Only files are compared then.
    #[arg(long, requires = "scenarios")]
    as_in_production: bool,
    /// Begin right before transactions, multixacts and their members wrap around, instead of on a fresh cluster.
    #[arg(long, requires = "scenarios")]
    before_wrap: bool,
    /// After the scenarios, tear a record apart, promote the server, and leave prepared transactions behind.
    #[arg(long, requires = "scenarios")]
    events: bool,
    /// List the scenarios and end.
    #[arg(long)]
    list: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.list {
        scenarios()?.iter().for_each(|scenario| println!("{}", scenario.name));
        return Ok(());
    }
    if !arguments.scenarios.is_empty() {
        let outcome = named(&arguments)?;
        print!("{}", coverage::table(&outcome.tallies));
        return report(&outcome);
    }
    let outcome = complete::checked(&mut told)?;
    print!("{}", coverage::table(&outcome.tallies));
    report(&outcome)?;
    let contradictions = coverage::contradictions(&outcome.tallies);
    ensure!(
        contradictions.is_empty(),
        "not as it should be:\n{}",
        contradictions.join("\n")
    );
    report(&complete::as_in_production(&mut told)?)?;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(coverage::COMMITTED);
    std::fs::write(&file, coverage::markdown()).with_context(|| format!("write {}", file.display()))
}

fn told(scenario: &Scenario, time: Duration) {
    println!("{} ({:.1} s)", scenario.name, time.as_secs_f64());
}

fn named(arguments: &Arguments) -> Result<Outcome> {
    let mut wanted = Vec::new();
    let all = scenarios()?;
    for name in &arguments.scenarios {
        let scenario = all.iter().find(|known| known.name == *name);
        wanted.push(
            scenario
                .with_context(|| format!("there is no scenario {name}; --list names them"))?
                .clone(),
        );
    }
    let logging = if arguments.as_in_production {
        Logging::AsInProduction
    } else {
        Logging::Checked
    };
    let counters = if arguments.before_wrap {
        Counters::BeforeWrap
    } else {
        Counters::Fresh
    };
    let oracle = Oracle::start("oracle", logging, counters)?;
    oracle.run(&wanted, &mut told)?;
    if arguments.events {
        oracle.events()?;
    }
    oracle.finish()
}

fn report(outcome: &Outcome) -> Result<()> {
    for (sort, equal) in &outcome.files.equal {
        println!("equal to what a clean stop left: {equal:6} of: {sort}");
    }
    let differences = outcome.differences();
    if !differences.is_empty() {
        let first: Vec<&str> = differences
            .iter()
            .take(40)
            .map(|difference| difference.as_str())
            .collect();
        bail!(
            "{} differences, the first of them:\n{}",
            differences.len(),
            first.join("\n")
        );
    }
    Ok(())
}
