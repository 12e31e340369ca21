//! Side by side with stock PostgreSQL: one run, one machine, one disk, results as ratios.
//!
//! The systems stand next to each other, are loaded alike and measured in turn, round after round, so that whatever the
//! machine does meanwhile falls on all of them:
//!
//! - `ours`: Borealis, six storage nodes, through its cluster endpoint;
//! - `local` (a): stock PostgreSQL on the local disk, no copy anywhere;
//! - `receivers` (b): stock PostgreSQL with six `pg_receivewal --synchronous`, `ANY 4`;
//! - `standbys` (c), but for tmpfs, where they do not fit: stock PostgreSQL with six synchronous hot standbys, `ANY 4`: as
//!   many page copies as ours.
//!
//! Every system lives under the temporary directory.

mod latency;
mod machine;
mod measure;
mod opening;
mod processor;
mod repair;
mod report;
mod segments;
mod soak;
mod spread;
mod stock;
mod system;

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};

use crate::machine::Machine;
use crate::measure::Plan;
use crate::system::System;

/// Measures Borealis side by side with stock PostgreSQL; without options the short run.
#[derive(Parser)]
struct Arguments {
    /// Long rounds, in hours.
    #[arg(long, conflicts_with = "smoke")]
    full: bool,
    /// Seconds only: whether the bench itself works.
    #[arg(long)]
    smoke: bool,
    /// Everything in memory: what the disk makes of it is left out.
    #[arg(long)]
    tmpfs: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Six full segments a group against three full ones and three tails.
    Segments(segments::Sizes),
    /// A long load on one cluster: do memory and disk of the storage nodes stay within their bounds?
    Soak(soak::Sizes),
    /// A volume of many groups, opened again and again after `kill -9` of everything.
    Opening(opening::Size),
    /// A storage node with an empty disk becomes whole: how fast, and what commits feel of it.
    Repair(repair::Sizes),
}

/// Where `--tmpfs` puts everything.
const TMPFS: &str = "/dev/shm";

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match &arguments.command {
        Some(Command::Segments(sizes)) => return segments::run(sizes),
        Some(Command::Soak(sizes)) => return soak::run(sizes),
        Some(Command::Opening(size)) => return opening::run(size),
        Some(Command::Repair(sizes)) => return repair::run(sizes),
        None => {}
    }
    if arguments.tmpfs && std::env::temp_dir() != Path::new(TMPFS) {
        return again_on_tmpfs();
    }
    let plan = match (arguments.full, arguments.smoke) {
        (true, _) => Plan::full(),
        (_, true) => Plan::smoke(),
        _ => Plan::short(),
    };
    compare(&if arguments.tmpfs { plan.on_tmpfs() } else { plan })
}

/// Runs this very program with its temporary directory in memory.
fn again_on_tmpfs() -> Result<()> {
    let status = std::process::Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env("TMPDIR", TMPFS)
        .status()
        .context("run the bench again on tmpfs")?;
    ensure!(status.success(), "the bench failed on tmpfs ({status})");
    Ok(())
}

fn compare(plan: &Plan) -> Result<()> {
    let (started, machine) = (Instant::now(), Machine::observe()?);
    let mut systems = vec![System::ours()?, System::local()?, System::receivers()?];
    if plan.with_standbys {
        systems.push(System::standbys()?);
    }
    let results = measure::run(plan, &systems)?;
    let options: Vec<String> = std::env::args().skip(1).collect();
    let command = ["cargo xtask bench", &options.join(" ")].join(" ");
    let text = report::write(plan, &machine, &results, started.elapsed(), command.trim_end())?;
    println!("{text}");
    if let Some(name) = plan.report {
        std::fs::create_dir_all("bench/results")?;
        std::fs::write(format!("bench/results/{name}.md"), &text)?;
    }
    Ok(())
}
