//! Clients that their backends ask for.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::path::PathBuf;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::Interest;
use tokio::net::UnixStream;
use wire_format::handover::{Handover, REFUSED, TAKEN};

use super::*;

/// A folder with the endpoint's socket; the folder goes with it.
struct Endpoint {
    folder: PathBuf,
    handovers: Arc<Handovers>,
}

impl Endpoint {
    async fn open(name: &str) -> Endpoint {
        let folder = std::env::temp_dir().join(format!("borealis-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        let handovers = Arc::new(Handovers::default());
        let endpoint = Endpoint { folder, handovers };
        let (serving, socket) = (endpoint.handovers.clone(), endpoint.socket());
        tokio::spawn(async move { serving.serve(&socket).await });
        while !endpoint.socket().exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        endpoint
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("endpoint.sock")
    }

    /// Asks as a backend does, on a connection that stays open with what is returned.
    async fn ask(&self, handover: Handover) -> (UnixStream, u8, Option<TcpStream>) {
        let mut stream = UnixStream::connect(self.socket()).await.expect("it listens");
        stream
            .write_all(handover.to_string().as_bytes())
            .await
            .expect("it reads");
        let receive = || {
            let mut answer = [0];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut attached = RecvAncillaryBuffer::new(&mut space);
            let slices = &mut [IoSliceMut::new(&mut answer)];
            recvmsg(&stream, slices, &mut attached, RecvFlags::CMSG_CLOEXEC)?;
            let socket = attached.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
                _ => None,
            });
            Ok((answer[0], socket))
        };
        let (answer, socket) = stream.async_io(Interest::READABLE, receive).await.expect("an answer");
        let socket = socket.map(|socket| TcpStream::from_std(socket.into()).expect("a client's socket"));
        (stream, answer, socket)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).expect("it is ours");
    }
}

/// A client that said its first message, the backend's side, and what the backend would ask now.
struct Connected {
    client: TcpStream,
    server: TcpStream,
    asking: Handover,
    told: watch::Sender<Option<Writer>>,
    serving: JoinHandle<Result<(), StartupError>>,
}

async fn connected(endpoint: &Endpoint) -> Connected {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (told, known) = watch::channel(writer("instance-1", &listener));
    let (client, serving) = client(known, endpoint.handovers.clone(), true, 10_000).await;
    let (mut server, _) = listener.accept().await.expect("a connection");
    let mut message = vec![0; startup().len()];
    server.read_exact(&mut message).await.expect("the first message");
    let asking = Handover {
        endpoint: server.peer_addr().expect("the proxy's end"),
        sent: 0,
        received: message.len() as u64,
    };
    Connected {
        client,
        server,
        asking,
        told,
        serving,
    }
}

async fn says(from: &mut TcpStream, text: &[u8], to: &mut TcpStream) {
    from.write_all(text).await.expect("a listener");
    let mut got = vec![0; text.len()];
    to.read_exact(&mut got).await.expect("what was said");
    assert_eq!(got, text);
}

async fn ends(stream: &mut TcpStream) {
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut [0])).await;
    assert_eq!(read.expect("in time").expect("an end"), 0);
}

/// Let in without a word (`trust`), or after a password.
#[tokio::test]
async fn a_backend_gets_its_client_and_the_proxy_lets_go_when_it_ends() {
    let endpoint = Endpoint::open("given").await;
    for with_password in [false, true] {
        let mut at = connected(&endpoint).await;
        if with_password {
            says(&mut at.server, b"password?", &mut at.client).await;
            says(&mut at.client, b"secret", &mut at.server).await;
            at.asking.sent += 9;
            at.asking.received += 6;
        }
        let (backend, answer, socket) = endpoint.ask(at.asking).await;
        assert_eq!(answer, TAKEN);
        let mut direct = socket.expect("it comes with the answer");
        ends(&mut at.server).await;
        says(&mut direct, b"welcome", &mut at.client).await;
        says(&mut at.client, b"query", &mut direct).await;
        drop(direct);
        drop(backend);
        ends(&mut at.client).await;
        at.serving.await.expect("no panic").expect("a clean end");
    }
}

#[tokio::test]
async fn a_client_is_cut_when_the_writer_is_replaced_though_the_backend_has_it() {
    let endpoint = Endpoint::open("cut").await;
    let mut at = connected(&endpoint).await;
    let (_backend, answer, direct) = endpoint.ask(at.asking).await;
    assert!(answer == TAKEN && direct.is_some());
    let other = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    at.told.send_replace(writer("instance-2", &other));
    ends(&mut at.client).await;
    at.serving.await.expect("no panic").expect("a clean end");
}

/// Bytes on their way would get lost, or come out of order.
#[tokio::test]
async fn a_client_with_bytes_on_their_way_stays() {
    let endpoint = Endpoint::open("busy").await;
    let mut at = connected(&endpoint).await;
    says(&mut at.server, b"password?", &mut at.client).await;
    says(&mut at.client, b"secret and more", &mut at.server).await;
    at.asking.sent += 9;
    at.asking.received += 6;
    let (_backend, answer, socket) = endpoint.ask(at.asking).await;
    assert!(answer == REFUSED && socket.is_none());
    says(&mut at.server, b"welcome", &mut at.client).await;
    says(&mut at.client, b"query", &mut at.server).await;
    // More than was ever sent: the backend cannot be of this connection.
    at.asking.received += 14;
    at.asking.sent = 1000;
    let (_backend, answer, _) = endpoint.ask(at.asking).await;
    assert_eq!(answer, REFUSED);
    says(&mut at.server, b"row", &mut at.client).await;
}

#[tokio::test]
async fn who_did_not_come_through_the_endpoint_is_not_given() {
    let endpoint = Endpoint::open("direct").await;
    let nobody = Handover {
        endpoint: "127.0.0.1:1".parse().expect("an address"),
        sent: 0,
        received: 16,
    };
    assert_eq!(endpoint.ask(nobody).await.1, REFUSED);
    // What nobody understands ends the connection, and nothing else.
    let mut stream = UnixStream::connect(endpoint.socket()).await.expect("it listens");
    stream.write_all(&[b'x'; 1000]).await.expect("it reads");
    let read = stream.read(&mut [0]).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    assert_eq!(endpoint.ask(nobody).await.1, REFUSED);
}
