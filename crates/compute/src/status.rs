//! What the instance tells about itself: one line of JSON a connection on `DIR/run/NAME.status`.

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use units::Lsn;
use volume::CopyStanding;

/// Pause after nobody could be let in, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the instance stands. Numbers are counts since the start of the process unless they say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// Name of the instance.
    pub name: String,
    /// `writer`, or null while it has no reign.
    pub role: Option<String>,
    /// `starting`, `available`, `stopped` or `failed`.
    pub state: String,
    /// What it is doing right now, in words.
    pub activity: String,
    /// Its reign.
    pub epoch: Option<u64>,
    /// PostgreSQL's postmaster.
    pub postmaster_pid: Option<u32>,
    /// This process.
    pub process_pid: u32,
    /// Where PostgreSQL listens.
    pub address: String,
    /// The volume's durable LSN.
    pub durable_lsn: Option<String>,
    /// Log received from PostgreSQL and not durable yet, in bytes.
    pub in_flight_bytes: u64,
    /// Bytes of all relation forks in the volume.
    pub size_bytes: u64,
    /// Protection groups.
    pub groups: u64,
    /// Bytes that the groups there are have room for, in relation forks. What is dropped or truncated comes back here.
    pub free_bytes: u64,
    /// For how long old versions of pages are kept.
    #[serde(default)]
    pub retention_seconds: u64,
    /// Below this LSN neither versions nor log are kept.
    #[serde(default)]
    pub floor_lsn: Option<String>,
    /// The same, for the metrics.
    #[serde(skip)]
    pub floor: Lsn,
    /// Bytes sent to storage nodes, framing and all copies included.
    pub log_bytes_shipped: u64,
    /// Bytes of log received from PostgreSQL.
    pub log_bytes_received: u64,
    /// Pages read from storage nodes, also those that were read ahead.
    pub pages_read: u64,
    /// Of what backends asked for: pages that had been read ahead.
    pub pages_read_ahead: u64,
    /// Which quorums hold.
    pub quorum: QuorumStatus,
    /// How each copy of the volume stands, for the metrics.
    #[serde(skip)]
    pub copies: Vec<CopyStanding>,
    /// Up to where the volume is durable, for the metrics.
    #[serde(skip)]
    pub durable: Lsn,
    /// Copies that are being replaced.
    #[serde(default)]
    pub changes: Vec<ChangeStatus>,
    /// Storage nodes whose copies ought to be replaced, while no other node of their zone can take them.
    #[serde(default)]
    pub without_spare: Vec<String>,
}

/// One copy's replacement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChangeStatus {
    /// Its group.
    pub group: u32,
    /// The node that loses its copy.
    pub leaving: String,
    /// The node that gets one.
    pub joining: String,
    /// What it is doing, in words.
    pub activity: String,
    /// Bytes copied so far, about.
    pub copied_bytes: u64,
    /// Bytes there are to copy, about.
    pub copied_bytes_expected: u64,
    /// Why, in words, if it began by itself for a full or slow disk.
    #[serde(default)]
    pub why: Option<String>,
}

/// Which quorums hold, and who is missing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QuorumStatus {
    /// `ok` or `lost`.
    pub write: String,
    /// `ok` or `lost`.
    pub read: String,
    /// Storage nodes that do not answer.
    pub missing: Vec<String>,
}

/// The status as all tasks of the instance process share it.
pub type SharedStatus = Rc<RefCell<InstanceStatus>>;

/// Answers on the status socket for ever.
pub async fn serve(socket: &Path, status: SharedStatus) -> io::Result<()> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    loop {
        let mut stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "status.accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let mut line = serde_json::to_vec(&*status.borrow())?;
        line.push(b'\n');
        // Whoever asked may have gone; that is its own business.
        if let Err(error) = stream.write_all(&line).await {
            tracing::debug!(%error, "status.answer");
        }
    }
}
