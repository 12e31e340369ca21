//! One connection to a storage node, kept up for as long as the reign lasts.
//!
//! A link reconnects by itself, with a pause that grows. It never resends: whoever used it hears `Disconnected` and
//! decides.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use wire_format::message::Hello;
use wire_format::{Request, Response};

use crate::handshake::{greet, read_more, request_frame, take_response};

/// Messages waiting to be written to one node; a link that cannot keep up is cut and starts over.
const QUEUE_MESSAGES_MAX: usize = 4096;
/// The first pause after a connection failed; doubles up to [`RECONNECT_PAUSE_MAX`].
const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(10);
const RECONNECT_PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long a connection and its handshake may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// Bytes written to the socket at once, about.
const WRITE_BYTES: usize = 64 << 10;

/// What a link tells its owner.
#[derive(Debug)]
pub enum LinkEvent {
    /// Connected, and the handshake is done.
    Connected,
    /// The connection is gone, and with it everything unanswered.
    Disconnected,
    /// An answer to a message that was posted.
    Response(Response),
}

/// Why a call got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Not connected, or the connection broke before the answer came.
    #[error("the storage node is not connected")]
    Disconnected,
}

enum Outgoing {
    Call { request: Box<Request>, reply: Reply },
    Post { frame: [Bytes; 2] },
}

/// A handle to the link. Dropping the last one closes it, also if the node takes nothing.
#[derive(Clone)]
pub struct NodeLink {
    outgoing: mpsc::Sender<Outgoing>,
    connected: Rc<Cell<bool>>,
    in_flight: Rc<Cell<usize>>,
    _open: watch::Sender<()>,
}

/// Where the answer to a call goes.
struct Reply {
    answer: oneshot::Sender<Response>,
    _in_flight: InFlight,
}

/// One call until it is answered or its connection ends, also if whoever waits for it gives up: a node that answers nothing
/// must not look idle.
struct InFlight(Rc<Cell<usize>>);

impl InFlight {
    fn begin(calls: &Rc<Cell<usize>>) -> InFlight {
        calls.set(calls.get() + 1);
        InFlight(calls.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Number of frames that expect no answer of their own.
const POSTED: u64 = 0;

impl NodeLink {
    /// Starts a link to `address`; `on_event` hears what happens to it and what is answered to posted messages.
    pub fn start(
        address: String,
        hello: Hello,
        bytes_sent: Rc<Cell<u64>>,
        on_event: impl Fn(LinkEvent) + 'static,
    ) -> NodeLink {
        let (outgoing, queue) = mpsc::channel(QUEUE_MESSAGES_MAX);
        let connected = Rc::new(Cell::new(false));
        let (open, mut closed) = watch::channel(());
        let link = NodeLink {
            outgoing,
            connected: connected.clone(),
            in_flight: Rc::default(),
            _open: open,
        };
        let task = LinkTask {
            address,
            hello,
            queue,
            connected,
            bytes_sent,
            on_event: Box::new(on_event),
        };
        tokio::task::spawn_local(async move {
            tokio::select! {
                () = task.run() => {}
                // An error: every handle is gone.
                _ = closed.changed() => {}
            }
        });
        link
    }

    /// Whether messages can be sent right now.
    pub fn is_connected(&self) -> bool {
        self.connected.get()
    }

    /// Calls without an answer so far.
    pub fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// Asks, and waits for the answer, as long as the connection lasts: a node that hangs never answers, so the caller sets
    /// the limit.
    pub async fn call(&self, request: Request) -> Result<Response, CallError> {
        if !self.connected.get() {
            return Err(CallError::Disconnected);
        }
        let (sender, answer) = oneshot::channel();
        let reply = Reply {
            answer: sender,
            _in_flight: InFlight::begin(&self.in_flight),
        };
        let sent = self
            .outgoing
            .send(Outgoing::Call {
                request: Box::new(request),
                reply,
            })
            .await;
        match sent {
            Ok(()) => answer.await.map_err(|_| CallError::Disconnected),
            Err(_) => Err(CallError::Disconnected),
        }
    }

    /// Sends an encoded message whose answer comes as an event. `false`: it was not taken; the link is down or will be.
    pub fn post(&self, frame: [Bytes; 2]) -> bool {
        self.connected.get() && self.outgoing.try_send(Outgoing::Post { frame }).is_ok()
    }
}

struct LinkTask {
    address: String,
    hello: Hello,
    queue: mpsc::Receiver<Outgoing>,
    connected: Rc<Cell<bool>>,
    bytes_sent: Rc<Cell<u64>>,
    on_event: Box<dyn Fn(LinkEvent)>,
}

type Waiting = Rc<RefCell<BTreeMap<u64, Reply>>>;

impl LinkTask {
    /// Keeps the connection up until the last handle is dropped.
    async fn run(mut self) {
        let mut pause = RECONNECT_PAUSE_MIN;
        loop {
            match tokio::time::timeout(CONNECT_LIMIT, self.connect()).await {
                Ok(Ok(stream)) => {
                    pause = RECONNECT_PAUSE_MIN;
                    self.connected.set(true);
                    (self.on_event)(LinkEvent::Connected);
                    let ended = self.exchange(stream).await;
                    self.connected.set(false);
                    // What was queued for the broken connection must not reach the next one out of order.
                    while self.queue.try_recv().is_ok() {}
                    (self.on_event)(LinkEvent::Disconnected);
                    match ended {
                        Ok(()) => return,
                        Err(error) => tracing::info!(node = %self.address, %error, "node.disconnect"),
                    }
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                    tracing::error!(node = %self.address, %error, "node.refuse");
                    pause = RECONNECT_PAUSE_MAX;
                }
                Ok(Err(error)) => tracing::debug!(node = %self.address, %error, "node.connect"),
                Err(_) => tracing::debug!(node = %self.address, "node.connect: no answer in time"),
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(RECONNECT_PAUSE_MAX);
        }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        greet(&mut stream, &self.hello).await?;
        Ok(stream)
    }

    /// Until the connection breaks (an error) or the last handle is dropped (`Ok`).
    async fn exchange(&mut self, stream: TcpStream) -> io::Result<()> {
        let (mut reader, mut writer) = stream.into_split();
        let waiting: Waiting = Rc::default();
        let on_event = &self.on_event;
        let reading = async {
            let mut buffer = BytesMut::new();
            loop {
                while let Some((number, response)) = take_response(&mut buffer)? {
                    let reply = waiting.borrow_mut().remove(&number);
                    match reply {
                        // A caller that gave up has dropped its receiver; its answer is of no use to anyone.
                        Some(reply) => drop(reply.answer.send(response)),
                        None => on_event(LinkEvent::Response(response)),
                    }
                }
                read_more(&mut reader, &mut buffer).await?;
            }
        };
        let queue = &mut self.queue;
        let bytes_sent = &self.bytes_sent;
        let writing = async {
            let mut number = POSTED;
            let mut out: Vec<u8> = Vec::with_capacity(WRITE_BYTES);
            while let Some(first) = queue.recv().await {
                let mut next = Some(first);
                while let Some(message) = next {
                    match message {
                        Outgoing::Call { request, reply } => {
                            number += 1;
                            waiting.borrow_mut().insert(number, reply);
                            for part in request_frame(number, &request) {
                                out.extend_from_slice(&part);
                            }
                        }
                        Outgoing::Post { frame } => frame.iter().for_each(|part| out.extend_from_slice(part)),
                    }
                    next = if out.len() < WRITE_BYTES {
                        queue.try_recv().ok()
                    } else {
                        None
                    };
                }
                writer.write_all(&out).await?;
                bytes_sent.set(bytes_sent.get() + out.len() as u64);
                out.clear();
                out.shrink_to(4 * WRITE_BYTES);
            }
            Ok(())
        };
        tokio::select! {
            ended = reading => ended,
            ended = writing => ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::sync::Notify;
    use units::ClusterId;
    use wire_format::frame::PROTOCOL_VERSION;

    use super::*;
    use crate::handshake::welcome;

    fn hello() -> Hello {
        Hello {
            version: PROTOCOL_VERSION,
            cluster: ClusterId::from_bytes([1; 16]),
            secret: [2; 32],
            name: "test".to_owned(),
        }
    }

    /// A link to a node that greets and then stands still, with what its events raise; and the node's end of it.
    async fn standing_still() -> (NodeLink, Rc<Notify>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let happened = Rc::new(Notify::new());
        let notify = happened.clone();
        let link = NodeLink::start(address, hello(), Rc::default(), move |_| notify.notify_one());
        let (mut stream, _) = listener.accept().await.expect("the link connects");
        welcome(&mut stream, &hello()).await.expect("a greeting");
        happened.notified().await;
        (link, happened, stream)
    }

    fn on_one_thread(test: impl Future<Output = ()>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().expect("a runtime");
        tokio::task::LocalSet::new().block_on(&runtime, test);
    }

    const SHORT: Duration = Duration::from_millis(50);

    #[test]
    fn a_link_ends_with_its_last_handle_although_the_node_takes_nothing() {
        on_one_thread(async {
            let (link, happened, _stream) = standing_still().await;
            // More than the sockets take.
            let piece = Bytes::from(vec![0; 1 << 20]);
            for _ in 0..64 {
                assert!(link.post([piece.clone(), Bytes::new()]));
            }
            tokio::time::sleep(SHORT).await;
            drop(link);
            tokio::time::sleep(SHORT).await;
            assert_eq!(Rc::strong_count(&happened), 1, "the link's task lives on");
        });
    }

    #[test]
    fn a_call_is_in_flight_until_its_connection_ends() {
        on_one_thread(async {
            let (link, happened, stream) = standing_still().await;
            let call = tokio::time::timeout(SHORT, link.call(Request::Status));
            assert!(call.await.is_err(), "nobody answers");
            assert_eq!(link.in_flight(), 1, "the caller gave up, the node did not");
            drop(stream);
            happened.notified().await;
            assert_eq!(link.in_flight(), 0);
        });
    }
}
