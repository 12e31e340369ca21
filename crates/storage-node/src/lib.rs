//! A storage node: the shell around its segments.
//!
//! One thread owns the journal: it takes whatever is queued, lets the segments decide, writes everything at once, syncs once,
//! and only then lets the answers go. It serves the connections that log arrives on by itself. All other connections are
//! served by the thread that calls [`run`], and reads have threads of their own: they never wait for a sync. Background
//! work has one more, and so have giving and taking the versions of whole segments.
//!
//! | module | job |
//! |---|---|
//! | [`config`] | what the node is told when it starts |
//! | `contained` | the engine, whose panics are errors |
//! | `identity` | whose files these are |
//! | [`load`] | how loaded the node is |
//! | `node` | the segments and the store, shared by all threads |
//! | `turns` | the journal thread |
//! | `reads` | the reading threads |
//! | `network` | connections of instances and peers |
//! | `peers` | questions to other nodes |
//! | `copies` | the threads that give and take the versions of whole segments |
//! | `upkeep` | the background thread |
//! | `scrub` | the thread that reads everything at rest again |
//! | `mend` | the thread that takes what was lost at rest from peers |
//! | [`metrics`] | what it tells in numbers |

pub mod config;
mod contained;
mod copies;
mod identity;
mod last_pass;
pub mod load;
mod mend;
pub mod metrics;
mod network;
mod node;
mod peers;
mod reads;
mod scrub;
mod turns;
mod upkeep;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use engine::Engine;
use io::RealDisk;
use page_store::PageStore;
use tokio::sync::{mpsc, oneshot, watch};

pub use config::StorageConfig;
use contained::Contained;
pub use identity::{FORMAT_VERSION, IdentityError};
use last_pass::LastPass;
use metrics::STORAGE;
use network::Served;
use node::Node;
pub use page_store::STORE_VERSION;

/// Why a storage node could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Its configuration contradicts itself.
    #[error("configuration: {0}")]
    Config(String),
    /// Its directory is not its own, of another version, or cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Its files cannot be opened.
    #[error("open the page store: {0}")]
    Store(#[from] page_store::OpenError),
    /// A segment's state is not readable.
    #[error("segment {segment}: {error}")]
    State {
        /// Which.
        segment: units::SegmentId,
        /// Why.
        error: segment::StateError,
    },
    /// The address cannot be listened on.
    #[error("listen on {address}: {error}")]
    Listen {
        /// The address.
        address: String,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// A sync of the journal failed: what it holds is known only after a restart.
    #[error("the journal is closed ({0}); the node has to be started again")]
    JournalClosed(String),
    /// A thread could not be started.
    #[error("start a thread: {0}")]
    Thread(std::io::Error),
}

/// Runs the node, and serves its metrics on their address, until `stop` says so. Everything acknowledged is on disk at any moment, so stopping needs no farewell.
pub async fn run(
    config: StorageConfig,
    engine: Arc<dyn Engine>,
    metrics_address: Option<SocketAddr>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), StorageError> {
    let hello = config.hello()?;
    let _lock = identity::take(&config.directory, &config)?;
    let disk = Arc::new(RealDisk::new(&config.directory));
    let engine = Arc::new(Contained(engine));
    let opened = PageStore::open(disk, config.store(), engine)?;
    let node = Arc::new(Node::new(&config, opened)?);
    tracing::info!(node = %config.name, address = %config.listen, segments = node.segment_count(), "node.start");

    let (work, work_queue) = mpsc::channel(turns::QUEUE_MAX);
    let (reads, read_queue) = mpsc::channel(reads::QUEUE_MAX);
    let (copies, copy_queue) = mpsc::channel(reads::QUEUE_MAX);
    let (versions, version_queue) = mpsc::channel(copies::QUEUE_MAX);
    let (questions, question_queue) = mpsc::channel(peers::QUEUE_MAX);
    let (logs, log_connections) = mpsc::channel(config.connections_max);
    let served = Served {
        node: node.clone(),
        work: work.clone(),
        reads,
        copies,
    };
    let named = |name: &str| thread::Builder::new().name(name.to_owned());
    let (closed, journal_closed) = oneshot::channel();
    {
        let served = served.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StorageError::Thread)?;
        let journal = move || {
            if let Err(reason) = runtime.block_on(turns::run(served, work_queue, log_connections, questions)) {
                // If nobody waits for it, the node is ending anyway.
                let _ = closed.send(reason);
            }
        };
        named("journal").spawn(journal).map_err(StorageError::Thread)?;
    }
    let read_queue = reads::shared(read_queue);
    for _ in 0..reads::THREADS {
        let (node, read_queue) = (node.clone(), read_queue.clone());
        named("read")
            .spawn(move || reads::run(&node, &read_queue))
            .map_err(StorageError::Thread)?;
    }
    {
        let node = node.clone();
        named("give")
            .spawn(move || copies::give(&node, copy_queue))
            .map_err(StorageError::Thread)?;
    }
    {
        let (node, work) = (node.clone(), work.clone());
        named("take")
            .spawn(move || copies::take(&node, version_queue, &work))
            .map_err(StorageError::Thread)?;
    }
    {
        let (node, stop) = (node.clone(), stop.clone());
        named("upkeep")
            .spawn(move || upkeep::run(&node, &stop))
            .map_err(StorageError::Thread)?;
    }
    {
        let (node, schedule, stop) = (node.clone(), config.scrub(), stop.clone());
        let last = LastPass::of(&config.directory);
        node.scrub.remember(last.read());
        named("scrub")
            .spawn(move || scrub::run(&node, schedule, &last, &stop))
            .map_err(StorageError::Thread)?;
    }
    {
        let (node, hello, work, stop) = (node.clone(), hello.clone(), work.clone(), stop.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StorageError::Thread)?;
        let mend = move || {
            let mender = mend::Mender {
                node: &node,
                hello,
                work,
                stop,
            };
            mend::run(mender, runtime);
        };
        named("mend").spawn(mend).map_err(StorageError::Thread)?;
    }
    let answers = peers::Answers { work, versions };
    let asking = tokio::spawn(peers::run(hello.clone(), question_queue, answers));
    let measured = telemetry::metrics::serve(metrics_address, STORAGE, |scrape| {
        metrics::look_up(&served, &config.directory, config.memory_bytes, scrape);
    });
    let serving = network::serve(&config.listen, config.connections_max, hello, served.clone(), logs);
    let ended = tokio::select! {
        never = measured => match never {},
        ended = serving => ended,
        closed = journal_closed => Err(StorageError::JournalClosed(
            closed.unwrap_or_else(|_| "its thread ended without a reason".to_owned()),
        )),
        _ = stop.wait_for(|stop| *stop) => Ok(()),
    };
    asking.abort();
    ended
}

#[cfg(test)]
mod tests;
