//! Everything at once: what `make oracle` runs, and the tests.

use std::time::Duration;

use anyhow::Result;

use crate::generator::Plan;
use crate::run::{Counters, Logging, Oracle, Outcome};
use crate::workload::{Scenario, scenarios};

/// What runs across the wrap of counters: enough transactions, multixacts and members, and the locks they are for.
const ACROSS_WRAP: [&str; 2] = ["core", "locks"];

/// What the generator makes for a run of everything.
pub const GENERATED: Plan = Plan {
    seed: 1,
    sessions: 3,
    statements: 120,
};

/// Hears of each scenario that has ended, and how long it took.
pub type Progress<'a> = &'a mut dyn FnMut(&Scenario, Duration);

/// With after-images: every scenario, generated statements, pgbench, and what happens to whole servers; and once more across the wrap.
pub fn checked(progress: Progress<'_>) -> Result<Outcome> {
    let scenarios = scenarios()?;
    let oracle = Oracle::start("oracle-checked", Logging::Checked, Counters::Fresh)?;
    oracle.run(&scenarios, progress)?;
    oracle.run(&[oracle.generated(GENERATED)?], progress)?;
    pgbench(&oracle)?;
    oracle.events()?;
    let mut outcome = oracle.finish()?;

    let oracle = Oracle::start("oracle-wrap", Logging::Checked, Counters::BeforeWrap)?;
    let is_across = |scenario: &Scenario| ACROSS_WRAP.contains(&scenario.name.as_str());
    let across: Vec<Scenario> = scenarios.into_iter().filter(is_across).collect();
    oracle.run(&across, progress)?;
    outcome.add(oracle.finish()?);
    Ok(outcome)
}

/// As a real server logs: no after-images, but redo meets images of pages wherever a checkpoint went before.
pub fn as_in_production(progress: Progress<'_>) -> Result<Outcome> {
    let oracle = Oracle::start("oracle-production", Logging::AsInProduction, Counters::Fresh)?;
    oracle.run(&scenarios()?, progress)?;
    let seed = GENERATED.seed + 1;
    oracle.run(&[oracle.generated(Plan { seed, ..GENERATED })?], progress)?;
    pgbench(&oracle)?;
    oracle.finish()
}

fn pgbench(oracle: &Oracle) -> Result<()> {
    let connection = oracle.connection();
    connection.program("pgbench", "postgres", &["-i", "-q", "-s", "1", "--foreign-keys"])?;
    connection.query("postgres", "CHECKPOINT")?;
    connection.program("pgbench", "postgres", &["-n", "-c", "4", "-j", "2", "-t", "500"])?;
    Ok(())
}
