//! `make chaos`: chaos for some minutes.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;

/// A bank on a real cluster whose nodes, zones, disks and writers fail and return in random order.
#[derive(Parser)]
struct Arguments {
    /// How long faults go on.
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// Decides the plan of faults; another one each time if it is not named.
    #[arg(long)]
    seed: Option<u64>,
    /// Three copies of each group have log only, as `borealis up --segments full-and-tail` makes them.
    #[arg(long)]
    tails: bool,
    /// Keeps the cluster's files also if nothing is wrong.
    #[arg(long)]
    keep: bool,
    /// Only prints the plan.
    #[arg(long)]
    plan: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(
        (0.1..=1440.0).contains(&arguments.minutes),
        "--minutes takes a number between 0.1 and 1440"
    );
    let options = chaos::Options {
        seed: arguments.seed.unwrap_or_else(chaos::fresh_seed),
        length: Duration::from_secs_f64(arguments.minutes * 60.0),
        tails: arguments.tails,
        keep: arguments.keep,
    };
    if arguments.plan {
        print!("{}", chaos::Plan::new(options.seed, options.length));
        return Ok(());
    }
    let summary = chaos::run(options)?;
    print!("\n{summary}");
    Ok(())
}
