//! Connections of instances, openers and peers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use node_link::handshake;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use wire_format::frame::encode_response;
use wire_format::message::{Hello, Response};

use crate::StorageError;
use crate::node::Node;
use crate::reads::{ReadWork, is_read};
use crate::turns::Work;

/// Answers waiting to be written to one connection; a caller that does not read them is cut off.
const ANSWERS_MAX: usize = 4096;
/// Connections at once.
const CONNECTIONS_MAX: usize = 512;
const READ_BYTES: usize = 64 << 10;
/// How long a caller may take for its greeting.
const GREETING_LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

/// Where the answer to one request goes.
#[derive(Clone)]
pub(crate) struct ReplyTo {
    connection: u64,
    number: u64,
    answers: mpsc::Sender<[Bytes; 2]>,
}

impl ReplyTo {
    pub(crate) fn connection(&self) -> u64 {
        self.connection
    }

    /// Whether the caller matches answers by what they say, not by number.
    pub(crate) fn is_posted(&self) -> bool {
        self.number == 0
    }

    pub(crate) fn send(&self, response: &Response) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.answers.try_send(encode_response(self.number, response)) {
            tracing::warn!(
                connection = self.connection,
                "connection.stuck: answers are not read, one was dropped"
            );
        }
    }
}

/// Serves until the listener fails.
pub(crate) async fn serve(
    address: &str,
    hello: Hello,
    node: Arc<Node>,
    work: mpsc::Sender<Work>,
    reads: mpsc::Sender<ReadWork>,
) -> Result<(), StorageError> {
    let listen_error = |error| StorageError::Listen {
        address: address.to_owned(),
        error,
    };
    let listener = TcpListener::bind(address).await.map_err(listen_error)?;
    let connections = AtomicU64::new(0);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let hello = Arc::new(hello);
    loop {
        let (stream, caller) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file handles, most likely: others will be closed.
                tracing::warn!(%error, "connection.accept");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            tracing::warn!(%caller, "connection.refuse: {CONNECTIONS_MAX} connections are open");
            continue;
        };
        let connection = connections.fetch_add(1, Ordering::Relaxed);
        let (hello, node, work, reads) = (hello.clone(), node.clone(), work.clone(), reads.clone());
        tokio::spawn(async move {
            if let Err(error) = converse(stream, connection, &hello, &node, work, reads).await
                && error.kind() != std::io::ErrorKind::UnexpectedEof
            {
                tracing::info!(%caller, %error, "connection.end");
            }
            drop(place);
        });
    }
}

async fn converse(
    mut stream: TcpStream,
    connection: u64,
    hello: &Hello,
    node: &Node,
    work: mpsc::Sender<Work>,
    reads: mpsc::Sender<ReadWork>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let greeting = tokio::time::timeout(GREETING_LIMIT, handshake::welcome(&mut stream, hello));
    let caller = greeting.await.map_err(|_| std::io::ErrorKind::TimedOut)??;
    tracing::debug!(%caller, connection, "connection.open");
    let (mut reader, writer) = stream.into_split();
    let (answers, queue) = mpsc::channel(ANSWERS_MAX);
    let writing = tokio::spawn(write(writer, queue));
    let reading = async {
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        loop {
            while let Some((number, request)) = handshake::take_request(&mut buffer)? {
                let reply = ReplyTo {
                    connection,
                    number,
                    answers: answers.clone(),
                };
                let gone = |_| std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                match request {
                    wire_format::Request::Status => reply.send(&Response::Status(node.status())),
                    request if is_read(&request) => {
                        reads.send(ReadWork { reply, request }).await.map_err(|_| gone(()))?;
                    }
                    request => work
                        .send(Work::Request { reply, request })
                        .await
                        .map_err(|_| gone(()))?,
                }
            }
            buffer.reserve(READ_BYTES);
            if reader.read_buf(&mut buffer).await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
            }
        }
    };
    let ended = reading.await;
    writing.abort();
    ended
}

/// Writes what is queued, several answers at once where there are several.
async fn write(mut writer: OwnedWriteHalf, mut queue: mpsc::Receiver<[Bytes; 2]>) {
    let mut out = Vec::with_capacity(READ_BYTES);
    while let Some(first) = queue.recv().await {
        let mut next = Some(first);
        while let Some(parts) = next {
            parts.iter().for_each(|part| out.extend_from_slice(part));
            next = if out.len() < READ_BYTES {
                queue.try_recv().ok()
            } else {
                None
            };
        }
        if writer.write_all(&out).await.is_err() {
            // The reading side sees the same end and reports it.
            return;
        }
        out.clear();
        out.shrink_to(4 * READ_BYTES);
    }
}
