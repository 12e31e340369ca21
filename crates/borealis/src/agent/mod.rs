//! The agent: keeps every daemon of a host running. Its children outlive it; the agent that follows adopts them.

mod component;
pub mod metrics;
mod orders;
mod storage;

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use supervision::Process;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

use crate::layout::{Cluster, Layout};
use crate::role::metrics_address;
use crate::setup;
use component::{Component, End};

/// How often the daemons are looked at. The death of its own children the agent hears at once.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// Orders carried out at once.
const ORDERS_MAX: usize = 16;
/// The longest order that is read.
const ORDER_BYTES_MAX: u64 = 64 << 10;
/// How long somebody may take to say what is wanted.
const ORDER_LIMIT: Duration = Duration::from_secs(5);

/// What the agent is asked, one line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// `kill`, `stop`, `start`, `pause`, `az-fail`, `az-restore`, `failover`, `storage-add`,
    /// `storage-remove`, `down` or `list`.
    pub order: String,
    /// Whom it concerns.
    pub name: String,
}

/// What it answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Done; something to tell the person.
    Done(String),
    /// The daemons.
    List(Vec<Listed>),
    /// Not done.
    Failed(String),
}

/// A daemon, as the agent sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its process, if it lives.
    pub pid: Option<u32>,
    /// It was paused.
    pub paused: bool,
    /// It is to stay down.
    pub stopped: bool,
    /// It was started and died young, several times in a row.
    pub failing: bool,
}

/// The agent's state.
pub(crate) struct Agent {
    pub(crate) layout: Layout,
    /// The program to start daemons with. Asked for once: a running program whose file is replaced has no path any more.
    program: PathBuf,
    pub(crate) cluster: Cluster,
    pub(crate) components: Vec<Component>,
    pub(crate) began: Instant,
    /// Told to stop everything.
    pub(crate) going_down: bool,
    /// A new writer is being named.
    pub(crate) failing_over: bool,
}

impl Agent {
    fn new(layout: &Layout) -> Result<Agent> {
        let cluster = Cluster::load(layout)?;
        let mut agent = Agent {
            layout: layout.clone(),
            program: std::env::current_exe().context("the program's own path")?,
            components: Vec::new(),
            began: Instant::now(),
            going_down: false,
            failing_over: false,
            cluster,
        };
        agent.add("control", "control");
        let storage: Vec<String> = agent.cluster.storage.iter().map(|node| node.name.clone()).collect();
        storage.iter().for_each(|name| agent.add("storage", name));
        for instance in agent.cluster.instances.clone() {
            // A writer that was replaced while it was paused: it must be known, to be woken or killed.
            if !instance.retired || Process::from_file(&layout.pid_file(&instance.name)).is_some() {
                agent.add("instance", &instance.name);
            }
        }
        agent.add("proxy", "proxy");
        agent.choose_metrics_address("agent");
        Ok(agent)
    }

    pub(crate) fn add(&mut self, kind: &'static str, name: &str) {
        self.choose_metrics_address(name);
        let stopped = self.cluster.stopped.iter().any(|stopped| stopped == name);
        self.components
            .push(Component::adopt(&self.layout, kind, name, stopped));
    }

    /// A daemon keeps its address for good, so that whoever collects metrics finds it again. It works without one, too.
    fn choose_metrics_address(&mut self, name: &str) {
        match setup::choose_metrics_address(&mut self.cluster, name) {
            Ok(true) => self.store(),
            Ok(false) => {}
            Err(error) => tracing::warn!(name, %error, "metrics.address: it tells none"),
        }
    }

    /// Starts what is dead and shall live.
    fn look(&mut self) {
        let now = self.began.elapsed();
        let mut retired = Vec::new();
        for component in &mut self.components {
            let ended = component.look(now);
            let entry = self
                .cluster
                .instances
                .iter()
                .find(|instance| instance.name == component.name);
            let is_retired = entry.is_some_and(|instance| instance.retired);
            if ended == Some(End::Replaced) || (is_retired && !component.is_alive()) {
                retired.push(component.name.clone());
            } else if !self.going_down {
                component.start_if_due(&self.layout, &self.program, now);
            }
        }
        for name in retired {
            tracing::warn!(%name, "instance.retire: another one is the writer");
            self.components.retain(|component| component.name != name);
            let entry = self.cluster.instances.iter_mut().find(|instance| instance.name == name);
            if let Some(entry) = entry {
                entry.retired = true;
            }
            self.store();
        }
    }

    /// Everything was stopped, as it was told.
    fn is_done(&self) -> bool {
        self.going_down && self.components.iter().all(|component| !component.is_alive())
    }

    pub(crate) fn store(&self) {
        if let Err(error) = self.cluster.store(&self.layout) {
            tracing::error!(%error, "cluster.store");
        }
    }
}

/// Runs the agent until `down` has stopped everything.
pub fn run(layout: &Layout) -> Result<ExitCode> {
    // Held to the end of the process, however that comes: two agents would start everything twice.
    let lock = std::fs::File::create(layout.agent_lock()).context("make the agent's lock")?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!(
            "an agent is running already in {}\nhint:  `borealis status` shows the cluster",
            layout.directory().display()
        );
    }
    telemetry::log_to(&layout.log_file("agent"))?;
    let own = Process::of(std::process::id()).context("find the agent's own process")?;
    own.write_file(&layout.pid_file("agent"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, serve(layout))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(layout: &Layout) -> Result<()> {
    let agent = Rc::new(RefCell::new(Agent::new(layout)?));
    let socket = layout.agent_socket();
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let listener = UnixListener::bind(&socket).with_context(|| format!("listen on {}", socket.display()))?;
    tracing::info!("agent.start");
    // A terminal that closes is no reason to end.
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut child = signal(SignalKind::child())?;
    let mut looks = tokio::time::interval(LOOK_PAUSE);
    let places = Arc::new(Semaphore::new(ORDERS_MAX));
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let address = metrics_address(&agent.borrow().cluster, "agent")?;
    let measured = telemetry::metrics::serve(address, metrics::AGENT, |scrape| {
        metrics::look_up(&agent.borrow(), scrape);
    });
    tokio::pin!(measured);
    loop {
        tokio::select! {
            never = &mut measured => match never {},
            _ = looks.tick() => agent.borrow_mut().look(),
            _ = child.recv() => agent.borrow_mut().look(),
            _ = hangup.recv() => {}
            // The daemons go on without their agent.
            _ = terminate.recv() => return Ok(()),
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    let (agent, place) = (agent.clone(), places.clone().try_acquire_owned().ok());
                    tokio::task::spawn_local(async move {
                        if let Err(error) = converse(stream, &agent, place.is_some()).await {
                            tracing::debug!(%error, "agent.disconnect");
                        }
                        drop(place);
                    });
                }
            }
        }
        if agent.borrow().is_done() {
            tracing::info!("agent.end");
            // Answers on their way arrive before the socket is gone.
            tokio::time::sleep(Duration::from_millis(50)).await;
            std::fs::remove_file(&socket)?;
            std::fs::remove_file(layout.pid_file("agent"))?;
            return Ok(());
        }
    }
}

async fn converse(stream: UnixStream, agent: &Rc<RefCell<Agent>>, has_place: bool) -> Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(ORDER_BYTES_MAX));
    tokio::time::timeout(ORDER_LIMIT, reader.read_line(&mut line)).await??;
    let answer = match serde_json::from_str::<Order>(&line) {
        _ if !has_place => Answer::Failed(format!(
            "{ORDERS_MAX} orders are being carried out\nhint:  wait until one is done, and try again"
        )),
        Ok(order) => orders::carry_out(agent, &order)
            .await
            .unwrap_or_else(|error| Answer::Failed(format!("{error:#}"))),
        Err(error) => Answer::Failed(format!("the order cannot be understood: {error}")),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    writer.write_all(&text).await?;
    Ok(())
}
