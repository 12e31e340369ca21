//! The instance process: one PostgreSQL, its log shipper and its page broker.
//!
//! It lives in reigns (DESIGN §4.2): each takes an epoch, opens the volume, makes a skeleton, starts PostgreSQL on it and
//! ships its log until something breaks. Then PostgreSQL is killed to the last process and the next reign begins. A reign
//! that finds a later one in its place ends the process.
//!
//! | module | job |
//! |---|---|
//! | [`config`], [`settings`], `user_settings` | what it is told, and what PostgreSQL is told |
//! | `reign`, `pauses` | one reign from its epoch to its end, and when the next one begins |
//! | `copies` | connections to the six copies |
//! | `open` | the volume's opening, carried out |
//! | `record` | the volume's record, changed by the holder of the epoch |
//! | `fleet` | how the storage nodes are |
//! | `membership` | copies that are replaced |
//! | `rescue` | groups that have lost their write quorum for good |
//! | `creation`, [`import`] | a new volume |
//! | `state`, `log_end`, `last_page` | PostgreSQL's state as of the volume's end |
//! | [`log`], [`log_export`] | the log, read again from the groups, and made WAL files of |
//! | `data_directory` | the skeleton on disk |
//! | `postgresql`, `postgresql_log`, `shared_memory` | the process tree, what it writes, and what it leaves behind |
//! | `replication` | the connection to the walsender |
//! | `flush`, `catalog` | from WAL to flushes, and what it does to the catalog |
//! | `shipping` | the log's shipper, carried out |
//! | `floor` | what nobody needs any more |
//! | `growth`, `groups` | more groups, and what readers know of them |
//! | [`broker`], `read_ahead`, [`pages`] | pages for backends |
//! | [`status`], [`metrics`] | what the instance tells about itself |

pub mod broker;
mod catalog;
pub mod config;
mod copies;
mod creation;
mod data_directory;
#[cfg(test)]
mod fake_node;
mod fleet;
mod floor;
mod flush;
mod groups;
mod growth;
pub mod import;
mod last_page;
pub mod log;
mod log_end;
pub mod log_export;
mod membership;
pub mod metrics;
mod open;
pub mod pages;
mod pauses;
mod postgresql;
mod postgresql_log;
mod read_ahead;
mod record;
mod reign;
mod replication;
mod rescue;
pub mod settings;
mod shared_memory;
mod shipping;
pub mod state;
pub mod status;
mod user_settings;

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::sync::watch;
use tokio::time::Instant;

pub use config::InstanceConfig;
use metrics::{INSTANCE, REIGNS, REIGNS_BROKEN};
use pauses::{Pauses, Stage};
use reign::Ended;
use status::{InstanceStatus, SharedStatus};

/// Why an instance process ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// Another instance is the writer. Exit code 3: nobody shall start this one again.
    #[error("{0}: this instance is over, and what it had not committed is gone")]
    Replaced(String),
    /// It cannot work at all.
    #[error("{0}")]
    Fatal(String),
}

/// Runs the instance, and serves its metrics on their address, until `stop` says so. Must be called on the process's main thread: the parent-death signal of
/// PostgreSQL follows it.
pub async fn run(
    config: InstanceConfig,
    metrics_address: Option<SocketAddr>,
    stop: watch::Receiver<bool>,
) -> Result<(), InstanceError> {
    let fatal = |what: &str, error: &dyn std::fmt::Display| InstanceError::Fatal(format!("{what}: {error}"));
    postgresql::become_reaper().map_err(|error| fatal("become the reaper of orphaned processes", &error))?;
    for folder in [config.instance_directory(), config.socket_directory()] {
        std::fs::create_dir_all(&folder).map_err(|error| fatal(&folder.display().to_string(), &error))?;
    }
    let status: SharedStatus = Rc::new(RefCell::new(InstanceStatus {
        name: config.name.clone(),
        state: "starting".to_owned(),
        process_pid: std::process::id(),
        address: format!("{}:{}", config.listen_address, config.port),
        ..InstanceStatus::default()
    }));
    let serving = tokio::task::spawn_local({
        let (socket, status) = (config.status_socket(), status.clone());
        async move {
            if let Err(error) = status::serve(&socket, status).await {
                tracing::error!(%error, "status.serve");
            }
        }
    });
    let measured = telemetry::metrics::serve(metrics_address, INSTANCE, |scrape| {
        metrics::look_up(&config, &status, scrape);
    });
    let ended = tokio::select! {
        ended = reigns(&config, &status, stop) => ended,
        never = measured => match never {},
    };
    serving.abort();
    ended
}

async fn reigns(
    config: &InstanceConfig,
    status: &SharedStatus,
    stop: watch::Receiver<bool>,
) -> Result<(), InstanceError> {
    let mut pauses = Pauses::default();
    let fleet = OnceCell::new();
    loop {
        let began = Instant::now();
        let stage = Cell::new(Stage::Opening);
        REIGNS.increment();
        let ended = reign::reign(config, status, &fleet, &stage, stop.clone()).await;
        {
            let mut status = status.borrow_mut();
            status.state = "starting".to_owned();
            status.role = None;
            status.postmaster_pid = None;
        }
        let pause = match ended {
            Ended::Stopped => return Ok(()),
            Ended::Replaced(why) => {
                tracing::error!(%why, "instance.replaced");
                return Err(InstanceError::Replaced(why));
            }
            Ended::Unusable(why) => return Err(InstanceError::Fatal(why)),
            Ended::Broken(why) => {
                REIGNS_BROKEN.increment();
                let pause = pauses.after(stage.get(), began.elapsed());
                tracing::error!(%why, again_in = ?pause, "reign.end");
                status.borrow_mut().activity = match pause.as_secs() {
                    0 => format!("starting again: {why}"),
                    seconds => format!("starting again in {seconds} s: {why}"),
                };
                pause
            }
        };
        let mut stopping = stop.clone();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stopping.wait_for(|stop| *stop) => return Ok(()),
        }
    }
}
