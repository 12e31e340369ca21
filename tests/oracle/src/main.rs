//! `cargo run --release -p oracle -- [SCENARIO]…`: the workload on a stock server, and its log through redo.

use anyhow::{Result, bail, ensure};
use clap::Parser;
use oracle::coverage;
use oracle::run::{Logging, Oracle};
use oracle::workload::{Scenario, scenarios};

/// Compares every page that redo makes with the one that PostgreSQL made.
///
/// Starts a stock PostgreSQL 15 in a temporary folder, runs scenarios on it (each a file of tests/oracle/workload, in a
/// database of its own), stops it, follows its log, and prints what was seen of each kind of record. Fails if anything
/// differs.
#[derive(Parser)]
#[command(name = "oracle")]
struct Arguments {
    /// Scenarios to run, such as `core` or `gin`; all of them if none is named.
    scenarios: Vec<String>,
    /// Log as on a real server: full page images after checkpoints, and no after-images. Only files are compared then.
    #[arg(long)]
    as_in_production: bool,
    /// List the scenarios and end.
    #[arg(long)]
    list: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let all = scenarios()?;
    if arguments.list {
        all.iter().for_each(|scenario| println!("{}", scenario.name));
        return Ok(());
    }
    for name in &arguments.scenarios {
        ensure!(
            all.iter().any(|known| known.name == *name),
            "there is no scenario {name}; --list names them"
        );
    }
    let is_wanted =
        |scenario: &Scenario| arguments.scenarios.is_empty() || arguments.scenarios.contains(&scenario.name);
    let wanted: Vec<Scenario> = all.into_iter().filter(is_wanted).collect();
    let logging = if arguments.as_in_production {
        Logging::AsInProduction
    } else {
        Logging::Checked
    };
    let oracle = Oracle::start("oracle", logging)?;
    oracle.run(&wanted, &mut |scenario, time| {
        println!("{} ({:.1} s)", scenario.name, time.as_secs_f64())
    })?;
    let outcome = oracle.finish()?;
    print!("{}", coverage::table(&outcome.tallies));
    for (sort, pages) in &outcome.files.equal {
        println!("{pages} pages ({sort}) are equal to their files");
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
