//! `borealis down`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use supervision::Process;

use crate::agent::Answer;
use crate::command::ask_agent;
use crate::layout::{Cluster, Layout};

const AGENT_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

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
    let agent = Process::from_file(&layout.pid_file("agent"));
    match ask_agent(layout, "down", "")? {
        Answer::Done(text) => {
            wait_for_the_end(agent);
            println!("{text}");
        }
        Answer::Failed(what) => bail!("{what}"),
        Answer::List(_) => bail!("an answer to another order"),
    }
    Ok(ExitCode::SUCCESS)
}

/// The agent ends right after its answer.
fn wait_for_the_end(agent: Option<Process>) {
    let deadline = Instant::now() + AGENT_LIMIT;
    while agent.is_some_and(|agent| agent.is_alive()) && Instant::now() < deadline {
        std::thread::sleep(POLL);
    }
}
