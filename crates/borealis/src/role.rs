//! The daemons: each reads its own settings, logs to its own file, and ends on SIGTERM.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use control_plane::Client;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use storage_node::StorageConfig;
use supervision::Process;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::heartbeat;
use crate::layout::{Cluster, Layout};

/// Exit code of an instance that another one has replaced: nobody shall start it again.
pub const REPLACED: u8 = 3;

/// Runs a daemon to its end.
pub fn run(layout: &Layout, kind: &str, name: &str) -> ExitCode {
    leave_session();
    if let Err(error) = telemetry::log_to(&layout.log_file(name)) {
        eprintln!("error: {}: {error}", layout.log_file(name).display());
        return ExitCode::FAILURE;
    }
    if let Err(error) = raise_files_limit() {
        tracing::warn!(%error, "limits.files: few clients or relations may be too many");
    }
    if let Err(error) = own_name(layout, name) {
        tracing::error!("{error:#}");
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    match serve(layout, kind, name) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A session of its own: what is sent to a terminal's processes is not meant for a daemon. Nor is the SIGHUP that the kernel
/// sends to a stopped process when the agent that started it dies in the same session: a paused daemon stays paused.
fn leave_session() {
    // The leader of a group cannot leave it: a person started it by hand, and a person's terminal may end it.
    let _ = rustix::process::setsid();
}

/// As many open files as the system permits: the usual limit of 1024 is less than the connections that a daemon may have.
fn raise_files_limit() -> std::io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}

/// Writes the pid file, unless another process lives under this name.
fn own_name(layout: &Layout, name: &str) -> Result<()> {
    let own = Process::of(std::process::id()).context("find the own process")?;
    let file = layout.pid_file(name);
    if let Some(other) = Process::from_file(&file)
        && other != own
    {
        bail!("{name} is running already (pid {})", other.pid());
    }
    own.write_file(&file)
        .with_context(|| format!("write {}", file.display()))
}

fn settings<T: serde::de::DeserializeOwned>(layout: &Layout, name: &str) -> Result<T> {
    let path = layout.config_file(name);
    optional_settings(layout, name)?.with_context(|| format!("{} is missing", path.display()))
}

/// Of a daemon that has defaults for everything: clusters of earlier builds have no file of it.
pub fn optional_settings<T: serde::de::DeserializeOwned>(layout: &Layout, name: &str) -> Result<Option<T>> {
    let path = layout.config_file(name);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let settings = serde_json::from_str(&text).with_context(|| format!("{} cannot be understood", path.display()))?;
    Ok(Some(settings))
}

/// Where a daemon tells its metrics; nowhere, if no agent has chosen an address yet.
pub fn metrics_address(cluster: &Cluster, name: &str) -> Result<Option<SocketAddr>> {
    let Some(address) = cluster.metrics.get(name) else {
        return Ok(None);
    };
    let address = telemetry::metrics::address(address).with_context(|| format!("where {name} tells its metrics"))?;
    Ok(Some(address))
}

/// Becomes true when the process is told to end.
fn stop_signal() -> Result<watch::Receiver<bool>> {
    let (told, stop) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        told.send_replace(true);
    });
    Ok(stop)
}

fn serve(layout: &Layout, kind: &str, name: &str) -> Result<ExitCode> {
    // One thread: PostgreSQL must be started from the main one, and the work of each daemon's network is small.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let served = local.block_on(&runtime, async {
        let stop = stop_signal()?;
        let metrics = metrics_address(&Cluster::load(layout)?, name)?;
        match kind {
            "storage" => {
                // A stopped copy is repaired, a wrong one spreads.
                telemetry::end_on_panic();
                let config: StorageConfig = settings(layout, name)?;
                let control = Client::new(&layout.control_socket());
                tokio::task::spawn_local(heartbeat::run(control, config.clone()));
                storage_node::run(config, Arc::new(redo::PostgreSql), metrics, stop).await?;
            }
            "control" => {
                let config = optional_settings(layout, name)?.unwrap_or_default();
                control_plane::run(&layout.metadata_file(), &layout.control_socket(), config, metrics, stop).await?;
            }
            "proxy" => proxy::run(settings(layout, name)?, metrics, stop).await?,
            "instance" => match compute::run(settings(layout, name)?, metrics, stop).await {
                Ok(()) => {}
                Err(compute::InstanceError::Replaced(why)) => {
                    eprintln!("error: {why}");
                    return Ok(ExitCode::from(REPLACED));
                }
                Err(error) => return Err(error.into()),
            },
            other => bail!("there is no role {other}"),
        }
        Ok(ExitCode::SUCCESS)
    });
    runtime.shutdown_background();
    served
}
