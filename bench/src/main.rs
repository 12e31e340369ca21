//! Side by side with stock PostgreSQL: one run, one machine, one disk, results as ratios.
//!
//! The systems stand next to each other, are loaded alike and measured in turn, round after round, so that whatever the
//! machine does meanwhile falls on all of them:
//!
//! - `ours`: Borealis, six storage nodes, through its cluster endpoint;
//! - `local` (a): stock PostgreSQL on the local disk, no copy anywhere;
//! - `receivers` (b): stock PostgreSQL with six `pg_receivewal --synchronous`, `ANY 4`;
//! - `standbys` (c), in the full run only: stock PostgreSQL with six synchronous hot standbys, `ANY 4`: as many page
//!   copies as ours.
//!
//! Every system lives under the temporary directory; `TMPDIR=/dev/shm` puts all of them on tmpfs.

mod machine;
mod measure;
mod processor;
mod report;
mod stock;
mod system;

use std::time::Instant;

use anyhow::{Result, bail};

use crate::machine::Machine;
use crate::measure::Plan;
use crate::system::System;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let plan = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => Plan::short(),
        ["--full"] => Plan::full(),
        ["--smoke"] => Plan::smoke(),
        _ => bail!("usage: bench [--full | --smoke]"),
    };
    let (started, machine) = (Instant::now(), Machine::observe()?);
    let mut systems = vec![System::ours()?, System::local()?, System::receivers()?];
    if plan.with_standbys {
        systems.push(System::standbys()?);
    }
    let results = measure::run(&plan, &systems)?;
    let text = report::write(&plan, &machine, &results, started.elapsed())?;
    println!("{text}");
    if let Some(name) = plan.report {
        std::fs::create_dir_all("bench/results")?;
        std::fs::write(format!("bench/results/{name}.md"), &text)?;
    }
    Ok(())
}
