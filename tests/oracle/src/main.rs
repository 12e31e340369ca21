//! `cargo run --release -p oracle -- [SCENARIO]…`: the workload on stock servers, and their log through redo.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use oracle::generator::Plan;
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
    #[arg(long)]
    as_in_production: bool,
    /// Begin right before transactions, multixacts and their members wrap around, instead of on a fresh cluster.
    #[arg(long)]
    before_wrap: bool,
    /// After the scenarios, tear a record apart, promote the server, and leave prepared transactions behind.
    #[arg(long)]
    events: bool,
    /// Run what the generator makes of this seed, after the scenarios that are named.
    #[arg(long)]
    seed: Option<u64>,
    /// Go on for so many minutes, each time with the next seed and a fresh server.
    #[arg(long, requires = "seed", default_value_t = 0)]
    minutes: u64,
    /// Sessions that the generator makes. With one, the order of all statements is the seed's, too.
    #[arg(long, requires = "seed", default_value_t = complete::GENERATED.sessions)]
    sessions: usize,
    /// Statements, or transactions of several, that the generator makes for each session.
    #[arg(long, requires = "seed", default_value_t = complete::GENERATED.statements)]
    statements: usize,
    /// Copy the stopped server's folder, its log included, and what was generated to this place, which must not exist.
    #[arg(long)]
    keep: Option<PathBuf>,
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
    if !arguments.scenarios.is_empty() || arguments.seed.is_some() {
        return named_for_minutes(&arguments);
    }
    ensure!(
        !arguments.as_in_production && !arguments.before_wrap && !arguments.events && arguments.keep.is_none(),
        "name scenarios, or a seed: without, everything runs as it is meant to"
    );
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

fn named_for_minutes(arguments: &Arguments) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(60 * arguments.minutes);
    let mut seed = arguments.seed;
    let mut all: Option<Outcome> = None;
    loop {
        if let Some(seed) = seed {
            println!("seed {seed}");
        }
        let outcome = named(arguments, seed)?;
        let is_equal = outcome.differences().is_empty();
        match &mut all {
            None => all = Some(outcome),
            Some(all) => all.add(outcome),
        }
        seed = seed.map(|seed| seed.wrapping_add(1));
        if !is_equal || until <= Instant::now() {
            break;
        }
    }
    let all = all.context("it ran at least once")?;
    print!("{}", coverage::table(&all.tallies));
    report(&all)
}

fn named(arguments: &Arguments, seed: Option<u64>) -> Result<Outcome> {
    let mut wanted = Vec::new();
    let known = scenarios()?;
    for name in &arguments.scenarios {
        let scenario = known.iter().find(|known| known.name == *name);
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
    if let Some(seed) = seed {
        let (sessions, statements) = (arguments.sessions, arguments.statements);
        wanted.push(oracle.generated(Plan {
            seed,
            sessions,
            statements,
        })?);
    }
    oracle.run(&wanted, &mut told)?;
    if arguments.events {
        oracle.events()?;
    }
    oracle.finish_and_keep(arguments.keep.as_deref())
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
