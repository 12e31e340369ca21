//! Connections of instances, openers and peers.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use node_link::handshake;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use wire_format::Request;
use wire_format::frame::encode_response;
use wire_format::message::{Hello, Response};

use crate::StorageError;
use crate::metrics::{CONNECTIONS, CONNECTIONS_REFUSED};
use crate::node::Node;
use crate::reads::{ReadWork, is_read};
use crate::turns::Work;

/// Answers waiting to be written to one connection; a caller that does not read them is cut off.
const ANSWERS_MAX: usize = 4096;
/// Bytes written to the socket at once, about.
const WRITE_BYTES: usize = 64 << 10;
/// Memory for what is written that a connection keeps while it has nothing to say: there are many, and most are silent.
const WRITE_BYTES_IDLE: usize = 4 << 10;
/// How long a caller may take for its greeting.
const GREETING_LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

/// The answers of one connection.
struct Answers {
    queue: mpsc::Sender<[Bytes; 2]>,
    /// Told when an answer could not be queued: a caller that waits for it would wait for ever.
    stuck: Notify,
}

/// Where the answer to one request goes.
#[derive(Clone)]
pub(crate) struct ReplyTo {
    connection: u64,
    number: u64,
    answers: Arc<Answers>,
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
        let answer = encode_response(self.number, response);
        if let Err(mpsc::error::TrySendError::Full(_)) = self.answers.queue.try_send(answer) {
            self.answers.stuck.notify_one();
        }
    }
}

/// What a connection's requests are handed to.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) node: Arc<Node>,
    pub(crate) work: mpsc::Sender<Work>,
    pub(crate) reads: mpsc::Sender<ReadWork>,
    /// Peers that take whole segments.
    pub(crate) copies: mpsc::Sender<ReadWork>,
}

/// A caller that was welcome, and its first request.
pub(crate) struct Connection {
    number: u64,
    stream: std::net::TcpStream,
    buffer: BytesMut,
    first: (u64, Request),
    /// One of as many as there may be at once, kept until the connection ends.
    place: OwnedSemaphorePermit,
}

/// Serves until the listener fails, `connections_max` callers at once. Connections for the log go to the journal thread, which `logs` leads to: the answers
/// to what it syncs then leave from where they are made. All others stay here, and never wait for a sync.
pub(crate) async fn serve(
    address: &str,
    connections_max: usize,
    hello: Hello,
    served: Served,
    logs: mpsc::Sender<Connection>,
) -> Result<(), StorageError> {
    let listen_error = |error| StorageError::Listen {
        address: address.to_owned(),
        error,
    };
    let listener = TcpListener::bind(address).await.map_err(listen_error)?;
    let mut connections = 0;
    let places = Arc::new(Semaphore::new(connections_max));
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
            CONNECTIONS_REFUSED.increment();
            tracing::warn!(%caller, "connection.refuse: {connections_max} connections are open; see connections_max");
            continue;
        };
        connections += 1;
        let (number, hello, served, logs) = (connections, hello.clone(), served.clone(), logs.clone());
        tokio::spawn(async move {
            let opened = match welcome(stream, number, &hello, place).await {
                Ok(connection) => connection,
                Err(error) => return note_end(number, &error),
            };
            if is_log(&opened.first.1) {
                if logs.send(opened).await.is_err() {
                    tracing::debug!(connection = number, "connection.end: the node ends");
                }
            } else {
                opened.converse(served).await;
            }
        });
    }
}

/// Whether a request is for the journal thread.
fn is_log(request: &Request) -> bool {
    let is_told = matches!(request, Request::Status | Request::Scrub | Request::TellStanding { .. });
    !(is_told || is_read(request) || matches!(request, Request::FetchVersions { .. }))
}

fn note_end(connection: u64, error: &io::Error) {
    if error.kind() != io::ErrorKind::UnexpectedEof {
        tracing::info!(connection, %error, "connection.end");
    }
}

/// Greets a caller and waits for its first request, which tells what the connection is for.
async fn welcome(
    mut stream: TcpStream,
    number: u64,
    hello: &Hello,
    place: OwnedSemaphorePermit,
) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let greeting = tokio::time::timeout(GREETING_LIMIT, handshake::welcome(&mut stream, hello));
    let caller = greeting.await.map_err(|_| io::ErrorKind::TimedOut)??;
    tracing::debug!(%caller, connection = number, address = ?stream.peer_addr(), "connection.open");
    let mut buffer = BytesMut::new();
    let first = loop {
        match handshake::take_request(&mut buffer)? {
            Some(first) => break first,
            None => handshake::read_more(&mut stream, &mut buffer).await?,
        }
    };
    Ok(Connection {
        number,
        stream: stream.into_std()?,
        buffer,
        first,
        place,
    })
}

impl Connection {
    /// Serves the caller until it goes, on the thread that calls this.
    pub(crate) async fn converse(self, served: Served) {
        let (number, place) = (self.number, self.place);
        let _counted = CONNECTIONS.hold();
        let (sender, queue) = mpsc::channel(ANSWERS_MAX);
        let answers = Arc::new(Answers {
            queue: sender,
            stuck: Notify::new(),
        });
        let reader = match TcpStream::from_std(self.stream) {
            Ok(stream) => {
                let (reader, writer) = stream.into_split();
                let writing = tokio::spawn(write(writer, queue));
                let ended = tokio::select! {
                    ended = answer_all(reader, self.buffer, self.first, number, answers.clone(), &served) => ended,
                    () = answers.stuck.notified() => Err(io::Error::other("cut off: its answers are not read")),
                };
                writing.abort();
                ended
            }
            Err(error) => Err(error),
        };
        if let Err(error) = reader {
            note_end(number, &error);
        }
        drop(place);
    }
}

async fn answer_all(
    mut reader: OwnedReadHalf,
    mut buffer: BytesMut,
    first: (u64, Request),
    connection: u64,
    answers: Arc<Answers>,
    served: &Served,
) -> io::Result<()> {
    let mut next = Some(first);
    loop {
        while let Some((number, request)) = next {
            let reply = ReplyTo {
                connection,
                number,
                answers: answers.clone(),
            };
            let taken = match request {
                Request::Status => {
                    reply.send(&Response::Status(served.node.status()));
                    true
                }
                Request::Scrub => {
                    served.node.scrub.ask();
                    reply.send(&Response::Status(served.node.status()));
                    true
                }
                Request::TellStanding { segment } => {
                    reply.send(&served.node.standing(segment));
                    true
                }
                request @ Request::FetchVersions { .. } => {
                    served.copies.send(ReadWork { reply, request }).await.is_ok()
                }
                request if is_read(&request) => served.reads.send(ReadWork { reply, request }).await.is_ok(),
                request => {
                    let Some(room) = served.node.room_for(&request).await else {
                        return Ok(());
                    };
                    let work = Work::Request { reply, request, room };
                    served.work.send(work).await.is_ok()
                }
            };
            if !taken {
                // The threads are gone: the node ends.
                return Ok(());
            }
            next = handshake::take_request(&mut buffer)?;
        }
        handshake::read_more(&mut reader, &mut buffer).await?;
        next = handshake::take_request(&mut buffer)?;
    }
}

/// Writes what is queued, several answers at once where there are several, and what is long as it is.
async fn write(mut writer: OwnedWriteHalf, mut queue: mpsc::Receiver<[Bytes; 2]>) {
    let mut out = Vec::new();
    while let Some(first) = queue.recv().await {
        let mut next = Some(first);
        let mut written = Ok(());
        while let Some(parts) = next {
            for part in parts {
                if part.len() < WRITE_BYTES {
                    out.extend_from_slice(&part);
                    continue;
                }
                written = written.and(writer.write_all(&out).await);
                out.clear();
                written = written.and(writer.write_all(&part).await);
            }
            next = if written.is_ok() && out.len() < WRITE_BYTES {
                queue.try_recv().ok()
            } else {
                None
            };
        }
        if written.and(writer.write_all(&out).await).is_err() {
            // The reading side sees the same end and reports it.
            return;
        }
        out.clear();
        if queue.is_empty() {
            out.shrink_to(WRITE_BYTES_IDLE);
        }
    }
}
