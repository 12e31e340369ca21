//! Clients that are handed to their backends, so that nothing passes through here any more.
//!
//! A backend asks for its client's socket once the client is authenticated. It gets it if nothing is on its way, and from
//! then on the endpoint only watches: it cuts the client when the writer is replaced, and lets go of it when the backend
//! ends.

use std::collections::HashMap;
use std::io;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use wire_format::handover::{Handover, LINE_BYTES_MAX, REFUSED, TAKEN};

/// How long a backend may take to ask.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// The pause after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A backend that wants its client's socket.
pub(crate) struct Wanted {
    pub(crate) handover: Handover,
    stream: UnixStream,
}

impl Wanted {
    /// Leaves the client where it is.
    pub(crate) async fn refuse(mut self) {
        // A backend that has gone meanwhile ends the session by itself.
        let _ = self.stream.write_all(&[REFUSED]).await;
    }

    /// Hands the socket over. What is returned is readable, or at its end, once the backend has ended.
    pub(crate) async fn give(self, client: &std::net::TcpStream) -> io::Result<Given> {
        let stream = self.stream;
        let send = || {
            let sockets = [client.as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut attached = SendAncillaryBuffer::new(&mut space);
            if !attached.push(SendAncillaryMessage::ScmRights(&sockets)) {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            let sent = sendmsg(&stream, &[IoSlice::new(&[TAKEN])], &mut attached, SendFlags::NOSIGNAL)?;
            if sent == 1 {
                Ok(())
            } else {
                Err(io::ErrorKind::WriteZero.into())
            }
        };
        stream.async_io(Interest::WRITABLE, send).await?;
        Ok(Given { stream })
    }
}

/// A client that its backend has.
pub(crate) struct Given {
    stream: UnixStream,
}

impl Given {
    /// Returns when the backend has ended.
    pub(crate) async fn ended(mut self) {
        // It says nothing: whatever comes is the end.
        let _ = self.stream.read(&mut [0]).await;
    }
}

/// Connections to backends, by the endpoint's own address.
#[derive(Default)]
pub(crate) struct Handovers {
    sessions: Mutex<HashMap<SocketAddr, mpsc::Sender<Wanted>>>,
}

/// A connection whose backend may ask for the client, until this is dropped.
pub(crate) struct Session {
    endpoint: SocketAddr,
    handovers: Arc<Handovers>,
    wanted: mpsc::Receiver<Wanted>,
}

impl Session {
    /// The next wish for the client.
    pub(crate) async fn wanted(&mut self) -> Wanted {
        match self.wanted.recv().await {
            Some(wanted) => wanted,
            // The sender lies in the table as long as this lives.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.handovers.sessions().remove(&self.endpoint);
    }
}

impl Handovers {
    fn sessions(&self) -> std::sync::MutexGuard<'_, HashMap<SocketAddr, mpsc::Sender<Wanted>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on a backend may ask for the client of the connection that begins at `endpoint`.
    pub(crate) fn register(self: &Arc<Handovers>, endpoint: SocketAddr) -> Session {
        let (ask, wanted) = mpsc::channel(1);
        self.sessions().insert(endpoint, ask);
        Session {
            endpoint,
            handovers: self.clone(),
            wanted,
        }
    }

    /// Listens for backends until it is dropped.
    pub(crate) async fn serve(self: Arc<Handovers>, socket: &Path) -> io::Result<()> {
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(socket)?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let handovers = self.clone();
                    tokio::spawn(async move {
                        match tokio::time::timeout(ASK_LIMIT, handovers.ask(stream)).await {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => tracing::debug!(%error, "proxy.handover"),
                            Err(_) => tracing::debug!("proxy.handover: a backend asked nothing"),
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "proxy.handover");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Brings a backend's wish to the session that it concerns.
    async fn ask(&self, stream: UnixStream) -> io::Result<()> {
        let mut line = String::new();
        let mut reader = BufReader::new(stream).take(LINE_BYTES_MAX as u64);
        reader.read_line(&mut line).await?;
        let handover: Handover = line.parse().map_err(io::Error::other)?;
        let stream = reader.into_inner().into_inner();
        let wanted = Wanted { handover, stream };
        let session = self.sessions().get(&handover.endpoint).cloned();
        let refused = match session {
            Some(session) => session
                .try_send(wanted)
                .err()
                .map(mpsc::error::TrySendError::into_inner),
            // Connected to the writer itself.
            None => Some(wanted),
        };
        if let Some(wanted) = refused {
            wanted.refuse().await;
        }
        Ok(())
    }
}
