//! The connection to the walsender: the instance process is PostgreSQL's one synchronous standby.

use std::path::Path;
use std::time::{Duration, SystemTime};

use replication_protocol::{Client, Event, ProtocolError, request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use units::Lsn;

/// Bytes read at once; a walsender sends up to 128 KiB in one message.
const READ_BYTES: usize = 256 << 10;
/// How much of a piece of memory must be left for another read.
const READ_BYTES_MIN: usize = 32 << 10;
const CONNECT_PAUSE: Duration = Duration::from_millis(4);

/// Why the stream is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplicationError {
    #[error("the connection to PostgreSQL: {0}")]
    Io(#[from] std::io::Error),
    #[error("PostgreSQL: {0}")]
    Protocol(#[from] ProtocolError),
    #[error("PostgreSQL ended the stream")]
    Ended,
}

/// A stream of WAL.
pub(crate) struct Replication {
    stream: UnixStream,
    client: Client,
}

/// Microseconds since 1970.
pub(crate) fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

impl Replication {
    /// Connects as soon as PostgreSQL listens, and streams from `start` on. Waits for ever: the caller watches whether
    /// PostgreSQL lives.
    pub(crate) async fn start(
        socket: &Path,
        name: &str,
        start: Lsn,
        timeline: u32,
    ) -> Result<Replication, ReplicationError> {
        loop {
            match Replication::try_start(socket, name, start, timeline).await {
                // Not listening yet, or "the database system is starting up".
                Err(ReplicationError::Io(_)) => {}
                Err(ReplicationError::Protocol(ProtocolError::Server { code, .. })) if code == "57P03" => {}
                other => return other,
            }
            tokio::time::sleep(CONNECT_PAUSE).await;
        }
    }

    async fn try_start(socket: &Path, name: &str, start: Lsn, timeline: u32) -> Result<Replication, ReplicationError> {
        let mut replication = Replication {
            stream: UnixStream::connect(socket).await?,
            client: Client::new(),
        };
        replication.send(&request::startup("postgres", name)).await?;
        replication.until(&Event::Ready).await?;
        replication.send(&request::create_temporary_slot(name)).await?;
        replication.until(&Event::Ready).await?;
        replication
            .send(&request::start_replication(name, start, timeline))
            .await?;
        replication.until(&Event::StreamStarted).await?;
        Ok(replication)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), ReplicationError> {
        Ok(self.stream.write_all(bytes).await?)
    }

    async fn until(&mut self, wanted: &Event) -> Result<(), ReplicationError> {
        while self.next().await? != *wanted {}
        Ok(())
    }

    /// The next event; cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Event, ReplicationError> {
        loop {
            if let Some(event) = self.client.next_event()? {
                return match event {
                    Event::StreamEnded => Err(ReplicationError::Ended),
                    event => Ok(event),
                };
            }
            let buffer = self.client.buffer();
            // Events are slices of the buffer and keep its memory: a new piece is begun only when the old one is nearly full.
            if buffer.capacity() - buffer.len() < READ_BYTES_MIN {
                buffer.reserve(READ_BYTES);
            }
            if self.stream.read_buf(buffer).await? == 0 {
                return Err(ReplicationError::Ended);
            }
        }
    }

    /// An event that needs no waiting.
    pub(crate) fn ready(&mut self) -> Result<Option<Event>, ReplicationError> {
        Ok(self.client.next_event()?)
    }

    /// Reports how far everything is durable.
    pub(crate) async fn report(&mut self, durable: Lsn) -> Result<(), ReplicationError> {
        self.send(&request::status_update(durable, now_us())).await
    }
}
