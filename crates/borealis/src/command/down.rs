//! `borealis down`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::process::Signal;
use supervision::Process;

use crate::agent::Answer;
use crate::command::ask_agent;
use crate::layout::{Cluster, Layout};

/// What is stopped after what: the writer first, so that it can ship what it has, and control last.
const ORDER: [&str; 4] = ["instance", "proxy", "storage", "control"];
/// How long daemons of one kind may take to end by themselves. The writer's PostgreSQL has a limit of its own within it.
const INSTANCE_LIMIT: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(5);
/// How long the agent may take to end after its answer.
const AGENT_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// Stops everything.
pub fn run(layout: &Layout) -> Result<ExitCode> {
    Cluster::load(layout)?;
    let Some(agent) = Process::from_file(&layout.pid_file("agent")) else {
        return without_agent(layout);
    };
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
fn wait_for_the_end(agent: Process) {
    let deadline = Instant::now() + AGENT_LIMIT;
    while agent.is_alive() && Instant::now() < deadline {
        std::thread::sleep(POLL);
    }
}

/// Stops what an agent that died left behind. No new one: that would first start what is missing.
fn without_agent(layout: &Layout) -> Result<ExitCode> {
    let left = super::up::living(layout)?;
    if left.is_empty() {
        println!("the cluster in {} is not running", layout.directory().display());
        return Ok(ExitCode::SUCCESS);
    }
    for kind in ORDER {
        let limit = if kind == "instance" { INSTANCE_LIMIT } else { LIMIT };
        let of_kind = left.iter().filter(|(name, _)| name.starts_with(kind));
        end(&of_kind.map(|(_, process)| *process).collect::<Vec<_>>(), limit)?;
    }
    println!("everything is stopped; the data is kept");
    Ok(ExitCode::SUCCESS)
}

/// Ends processes; kills those that do not end in time, with everything below them.
fn end(processes: &[Process], limit: Duration) -> Result<()> {
    for process in processes {
        process.signal(Signal::TERM)?;
        process.signal_tree(Signal::CONT)?;
    }
    let deadline = Instant::now() + limit;
    while processes.iter().any(Process::is_alive) && Instant::now() < deadline {
        std::thread::sleep(POLL);
    }
    for process in processes.iter().filter(|process| process.is_alive()) {
        process.signal_tree(Signal::KILL)?;
    }
    Ok(())
}
