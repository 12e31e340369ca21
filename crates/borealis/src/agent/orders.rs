//! What a person asks of the agent.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use control_plane::Client;
use rustix::process::Signal;
use supervision::Process;
use tokio::time::Instant;

use super::{Agent, Answer, Listed, Order, storage};
use crate::command::status::instance_status;
use crate::layout::InstanceEntry;
use crate::setup;

/// How long a daemon may take to end by itself before it is killed. An instance's PostgreSQL has a limit of its own.
const STOP_LIMIT: Duration = Duration::from_secs(5);
const INSTANCE_STOP_LIMIT: Duration = Duration::from_secs(30);
/// How long a killed process may take to be gone: one in the middle of a disk operation finishes it first.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// How long the control process may be away during a failover.
const CONTROL_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);
/// How long a daemon may take to stand still: one in the middle of a disk operation finishes it first.
const PAUSE_LIMIT: Duration = Duration::from_secs(30);
/// How soon it is looked again whether a paused daemon stands still.
const PAUSE_POLL: Duration = Duration::from_millis(1);

pub(super) type Shared = Rc<RefCell<Agent>>;

pub(super) async fn carry_out(agent: &Shared, order: &Order) -> Result<Answer> {
    let name = order.name.as_str();
    match order.order.as_str() {
        "list" => Ok(Answer::List(list(&agent.borrow()))),
        "kill" => kill(agent, name).await,
        "stop" => stop(agent, name).await,
        "start" => start(agent, name),
        "pause" => pause(agent, name).await,
        "az-fail" => zone(agent, name, true),
        "az-restore" => zone(agent, name, false),
        "failover" => failover(agent).await,
        "storage-add" => storage::add(agent, name),
        "storage-remove" => storage::remove(agent, name).await,
        "down" => down(agent).await,
        other => bail!("there is no order {other}"),
    }
}

fn list(agent: &Agent) -> Vec<Listed> {
    let listed = |component: &super::Component| Listed {
        name: component.name.clone(),
        pid: component.process().map(|process| process.pid()),
        paused: component.paused,
        stopped: component.stopped,
        failing: component.is_failing(agent.began.elapsed()),
    };
    agent.components.iter().map(listed).collect()
}

/// The daemon behind a name; `writer` is the instance in that role.
fn resolve(agent: &Agent, name: &str) -> Result<String> {
    if name == "writer" {
        let writer = agent.cluster.writer().context("no instance is the writer")?;
        return Ok(writer.name.clone());
    }
    if agent.components.iter().any(|component| component.name == name) {
        return Ok(name.to_owned());
    }
    let known: Vec<&str> = agent
        .components
        .iter()
        .map(|component| component.name.as_str())
        .collect();
    bail!(
        "there is no {name}\nhint:  there are {}, and writer for the instance in that role",
        known.join(", ")
    )
}

fn process(agent: &Agent, name: &str) -> Option<Process> {
    let component = agent.components.iter().find(|component| component.name == name)?;
    component.process()
}

fn not_running(name: &str) -> String {
    format!("{name} is not running\nhint:  `borealis start {name}` starts it, if it was stopped")
}

fn set_stopped(agent: &mut Agent, name: &str, stopped: bool) {
    for component in agent.components.iter_mut().filter(|component| component.name == name) {
        component.stopped = stopped;
        if !stopped {
            component.allow_start();
        }
    }
    agent.cluster.stopped.retain(|known| known != name);
    if stopped {
        agent.cluster.stopped.push(name.to_owned());
    }
    agent.store();
}

async fn kill(agent: &Shared, name: &str) -> Result<Answer> {
    let resolved = resolve(&agent.borrow(), name)?;
    let running = process(&agent.borrow(), &resolved).with_context(|| not_running(&resolved))?;
    if name == "writer" {
        let layout = agent.borrow().layout.clone();
        let status = instance_status(&layout, &resolved)
            .await
            .with_context(|| format!("{resolved} does not answer\nhint:  `borealis logs {resolved}` shows why"))?;
        let pid = status["postmaster_pid"]
            .as_u64()
            .context("its PostgreSQL is not running\nhint:  `borealis status` shows what it is doing")?;
        let postmaster = u32::try_from(pid)
            .ok()
            .and_then(Process::of)
            .context("its PostgreSQL is gone")?;
        postmaster.signal(Signal::KILL)?;
        return Ok(Answer::Done(format!("killed the postmaster of {resolved} (pid {pid})")));
    }
    if running.is_stopped() {
        // What is frozen below it would not notice its death.
        running.signal_tree(Signal::KILL)?;
    } else {
        running.signal(Signal::KILL)?;
    }
    Ok(Answer::Done(format!("killed {resolved} (pid {})", running.pid())))
}

/// Waits until a process is gone; kills it with everything below when the time is over.
async fn end(process: Process, limit: Duration) -> Result<()> {
    let below = supervision::descendants(process.pid())?;
    process.signal(Signal::TERM)?;
    let deadline = Instant::now() + limit;
    while process.is_alive() && Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
    }
    if process.is_alive() {
        tracing::warn!(pid = process.pid(), "process.kill: it did not end in time");
        process.signal_tree(Signal::KILL)?;
        below.iter().try_for_each(|process| process.signal(Signal::KILL))?;
        let deadline = Instant::now() + KILL_LIMIT;
        while process.is_alive() && Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(())
}

fn limit_of(agent: &Agent, name: &str) -> Duration {
    let is_instance = agent
        .components
        .iter()
        .any(|component| component.name == name && component.kind == "instance");
    if is_instance { INSTANCE_STOP_LIMIT } else { STOP_LIMIT }
}

pub(super) async fn stop(agent: &Shared, name: &str) -> Result<Answer> {
    let name = resolve(&agent.borrow(), name)?;
    set_stopped(&mut agent.borrow_mut(), &name, true);
    let (running, limit) = (process(&agent.borrow(), &name), limit_of(&agent.borrow(), &name));
    if let Some(running) = running {
        running.signal(Signal::TERM)?;
        running.signal_tree(Signal::CONT)?;
        end(running, limit).await?;
    }
    Ok(Answer::Done(format!("{name} is stopped")))
}

fn start(agent: &Shared, name: &str) -> Result<Answer> {
    let name = resolve(&agent.borrow(), name)?;
    let mut agent = agent.borrow_mut();
    set_stopped(&mut agent, &name, false);
    if let Some(running) = process(&agent, &name) {
        running.signal_tree(Signal::CONT)?;
        set_paused(&mut agent, &name, false);
        return Ok(Answer::Done(format!("{name} runs")));
    }
    Ok(Answer::Done(format!("{name} is being started")))
}

/// Freezes a daemon and everything below it, and returns when it stands still: a signal to stop is taken some time after it
/// was sent, and whoever was forked in the meantime has not got it.
async fn pause(agent: &Shared, name: &str) -> Result<Answer> {
    let name = resolve(&agent.borrow(), name)?;
    let running = process(&agent.borrow(), &name).with_context(|| not_running(&name))?;
    set_paused(&mut agent.borrow_mut(), &name, true);
    let deadline = Instant::now() + PAUSE_LIMIT;
    while !running.tree_is_stopped()? {
        if !running.is_alive() || !is_paused(&agent.borrow(), &name) {
            bail!("{name} was ended or woken while it was being paused");
        }
        if Instant::now() >= deadline {
            bail!(
                "{name} (pid {}) does not stand still yet: a disk operation keeps it",
                running.pid()
            );
        }
        running.signal_tree(Signal::STOP)?;
        tokio::time::sleep(PAUSE_POLL).await;
    }
    Ok(Answer::Done(format!("{name} is paused until `borealis start {name}`")))
}

fn set_paused(agent: &mut Agent, name: &str, paused: bool) {
    for component in agent.components.iter_mut().filter(|component| component.name == name) {
        component.paused = paused;
    }
}

fn is_paused(agent: &Agent, name: &str) -> bool {
    agent
        .components
        .iter()
        .any(|component| component.name == name && component.paused)
}

fn zone(agent: &Shared, zone: &str, fail: bool) -> Result<Answer> {
    let mut agent = agent.borrow_mut();
    let within = agent.cluster.storage.iter().filter(|node| node.zone == zone);
    let names: Vec<String> = within.map(|node| node.name.clone()).collect();
    if names.is_empty() {
        bail!("there is no zone {zone}; there are a, b and c");
    }
    for name in &names {
        set_stopped(&mut agent, name, fail);
        if fail && let Some(running) = process(&agent, name) {
            running.signal(Signal::KILL)?;
        }
    }
    let (names, what) = (names.join(" and "), if fail { "failed" } else { "restored" });
    Ok(Answer::Done(format!("zone {zone} is {what}: {names}")))
}

/// Names a new writer, which fences the old one when it opens the volume; the old one is killed, or, if it is paused, ends
/// itself when it wakes.
async fn failover(agent: &Shared) -> Result<Answer> {
    if std::mem::replace(&mut agent.borrow_mut().failing_over, true) {
        bail!("a failover is under way already\nhint:  `borealis status` shows it");
    }
    let outcome = fail_over(agent).await;
    agent.borrow_mut().failing_over = false;
    outcome
}

async fn fail_over(agent: &Shared) -> Result<Answer> {
    let layout = agent.borrow().layout.clone();
    let cluster = agent.borrow().cluster.clone();
    let old = cluster.writer().or(cluster.instances.last());
    let old = old.context("there is no instance")?.name.clone();
    let entry = setup::configure_successor(&layout, &cluster, &old)?;
    // Control first: an instance that finds another one named retires.
    name_writer(&Client::new(&layout.control_socket()), &entry).await?;
    let mut agent = agent.borrow_mut();
    for instance in agent.cluster.instances.iter_mut() {
        instance.retired |= instance.name == old;
    }
    agent.cluster.stopped.retain(|name| *name != old);
    agent.cluster.instances.push(entry.clone());
    agent.cluster.store(&layout)?;
    let replaced = agent.components.iter().find(|component| component.name == old);
    // One that is paused is left to end itself when it wakes: it is fenced.
    if let Some(running) = replaced.and_then(|component| component.process().filter(|_| !component.paused)) {
        running.signal_tree(Signal::KILL)?;
    }
    agent.add("instance", &entry.name);
    Ok(Answer::Done(format!("{} takes over from {old}", entry.name)))
}

/// Names the writer in the metadata store. Tries again while that restarts: what was asked for may have been done.
async fn name_writer(control: &Client, entry: &InstanceEntry) -> Result<()> {
    let address = format!("127.0.0.1:{}", entry.port);
    let deadline = Instant::now() + CONTROL_LIMIT;
    loop {
        match control.set_writer(entry.name.clone(), address.clone()).await {
            Ok(()) => return Ok(()),
            Err(error) if deadline < Instant::now() => {
                let hint = "hint:  `borealis start control` starts it, `borealis logs control` shows what is wrong";
                bail!("without the control process no writer can be named: {error}\n{hint}");
            }
            Err(error) => tracing::warn!(%error, "writer.set"),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Writer first, so that it can ship what it has; storage next; what the others need last.
async fn down(agent: &Shared) -> Result<Answer> {
    agent.borrow_mut().going_down = true;
    for kind in ["instance", "proxy", "storage", "control"] {
        let running: Vec<(Process, Duration)> = {
            let agent = agent.borrow();
            let of_kind = agent.components.iter().filter(|component| component.kind == kind);
            of_kind
                .filter_map(|component| Some((component.process()?, limit_of(&agent, &component.name))))
                .collect()
        };
        for (process, _) in &running {
            process.signal(Signal::TERM)?;
            process.signal_tree(Signal::CONT)?;
        }
        for (process, limit) in running {
            end(process, limit).await?;
        }
    }
    Ok(Answer::Done("everything is stopped; the data is kept".to_owned()))
}
