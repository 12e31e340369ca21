//! `borealis down`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use supervision::Process;

use crate::agent::Answer;
use crate::command::ask_agent;
use crate::layout::{Cluster, Layout};

/// Stops everything. Without an agent, what an earlier one left is stopped by a new one.
pub fn run(layout: &Layout) -> Result<ExitCode> {
    Cluster::load(layout)?;
    if Process::from_file(&layout.pid_file("agent")).is_none() {
        let left = super::up::living(layout)?;
        if left.is_empty() {
            println!("the cluster in {} is not running", layout.directory().display());
            return Ok(ExitCode::SUCCESS);
        }
        super::up::start_agent(layout)?;
    }
    match ask_agent(layout, "down", "")? {
        Answer::Done(text) => println!("{text}"),
        Answer::Failed(what) => bail!("{what}"),
        Answer::List(_) => bail!("an answer to another order"),
    }
    Ok(ExitCode::SUCCESS)
}
