//! Asking the control process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::message::{ControlAnswer, ControlRequest, Fleet, Heartbeat, StorageWish, StoredVolume, Writer};

/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The process cannot be reached. What was asked for may have been done or not.
    #[error("the control process does not answer on {socket}: {error}")]
    Unreachable {
        /// Its socket.
        socket: String,
        /// Why.
        error: std::io::Error,
    },
    /// It says that it could not.
    #[error("the control process: {0}")]
    Failed(String),
    /// The record was changed meanwhile, or a later epoch was taken.
    #[error("the volume is at epoch {} and revision {} now", .0.epoch, .0.revision)]
    Refused(StoredVolume),
}

/// A client. Every question has a connection of its own: they are rare.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the process behind this socket.
    pub fn new(socket: &Path) -> Client {
        Client {
            socket: socket.to_owned(),
        }
    }

    async fn ask(&self, request: &ControlRequest) -> Result<ControlAnswer, ControlError> {
        let unreachable = |error| ControlError::Unreachable {
            socket: self.socket.display().to_string(),
            error,
        };
        let answered = tokio::time::timeout(ANSWER_LIMIT, self.ask_once(request)).await;
        let answer = answered
            .map_err(|_| unreachable(std::io::ErrorKind::TimedOut.into()))?
            .map_err(unreachable)?;
        match answer {
            ControlAnswer::Failed(what) => Err(ControlError::Failed(what)),
            ControlAnswer::Refused(volume) => Err(ControlError::Refused(volume)),
            answer => Ok(answer),
        }
    }

    async fn ask_once(&self, request: &ControlRequest) -> std::io::Result<ControlAnswer> {
        let mut stream = BufReader::new(UnixStream::connect(&self.socket).await?);
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut answer = String::new();
        if stream.read_line(&mut answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&answer)?)
    }

    async fn volume(&self, request: &ControlRequest) -> Result<StoredVolume, ControlError> {
        match self.ask(request).await? {
            ControlAnswer::Volume(volume) => Ok(volume),
            other => Err(ControlError::Failed(format!(
                "an answer to another question: {other:?}"
            ))),
        }
    }

    /// The volume as it stands.
    pub async fn read(&self) -> Result<StoredVolume, ControlError> {
        self.volume(&ControlRequest::Read).await
    }

    /// Keeps the plan of a volume that is to be made. The answer has the plan that counts: there may have been one. It is
    /// [`ControlError::Refused`] if the volume is made.
    pub async fn plan(&self, plan: String) -> Result<StoredVolume, ControlError> {
        self.volume(&ControlRequest::Plan { plan }).await
    }

    /// Makes the volume; [`ControlError::Refused`] if there is one, or if a later epoch was taken. An unreachable process may
    /// have done it.
    pub async fn create(&self, epoch: u64, record: String) -> Result<StoredVolume, ControlError> {
        self.volume(&ControlRequest::Create { epoch, record }).await
    }

    /// Takes the next epoch.
    pub async fn take_epoch(&self) -> Result<StoredVolume, ControlError> {
        self.volume(&ControlRequest::TakeEpoch).await
    }

    /// Replaces the record. An unreachable process may have done it: read before the next step.
    pub async fn compare_and_swap(
        &self,
        epoch: u64,
        revision: u64,
        record: String,
    ) -> Result<StoredVolume, ControlError> {
        self.volume(&ControlRequest::CompareAndSwap {
            epoch,
            revision,
            record,
        })
        .await
    }

    /// The designated writer.
    pub async fn writer(&self) -> Result<Option<Writer>, ControlError> {
        match self.ask(&ControlRequest::Writer).await? {
            ControlAnswer::Writer(writer) => Ok(writer),
            other => Err(ControlError::Failed(format!(
                "an answer to another question: {other:?}"
            ))),
        }
    }

    /// Names the writer.
    pub async fn set_writer(&self, name: String, address: String) -> Result<(), ControlError> {
        self.ask(&ControlRequest::SetWriter { name, address }).await.map(|_| ())
    }

    /// Says that a storage node is there.
    pub async fn heartbeat(&self, heartbeat: Heartbeat) -> Result<(), ControlError> {
        self.ask(&ControlRequest::Heartbeat(heartbeat)).await.map(|_| ())
    }

    /// How the storage nodes are.
    pub async fn storage(&self) -> Result<Fleet, ControlError> {
        match self.ask(&ControlRequest::Storage).await? {
            ControlAnswer::Storage(fleet) => Ok(fleet),
            other => Err(ControlError::Failed(format!(
                "an answer to another question: {other:?}"
            ))),
        }
    }

    /// Wants old versions to be kept for so long.
    pub async fn set_retention(&self, seconds: u64) -> Result<(), ControlError> {
        self.ask(&ControlRequest::SetRetention { seconds }).await.map(|_| ())
    }

    /// Wants something of a storage node.
    pub async fn wish(&self, name: String, wish: StorageWish) -> Result<(), ControlError> {
        self.ask(&ControlRequest::Wish { name, wish }).await.map(|_| ())
    }

    /// Forgets a storage node that is no more.
    pub async fn forget_storage(&self, name: String) -> Result<(), ControlError> {
        self.ask(&ControlRequest::ForgetStorage { name }).await.map(|_| ())
    }
}
