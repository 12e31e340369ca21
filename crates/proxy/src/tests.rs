mod handover;

use std::sync::Arc;
use std::time::Duration;

use control_plane::message::Writer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::handover::Handovers;
use crate::startup::StartupError;

fn startup() -> Vec<u8> {
    let mut message = 16u32.to_be_bytes().to_vec();
    message.extend_from_slice(&(3u32 << 16).to_be_bytes());
    message.extend_from_slice(b"user\0me\0");
    message
}

fn writer(name: &str, listener: &TcpListener) -> Option<Writer> {
    Some(Writer {
        name: name.to_owned(),
        address: listener.local_addr().expect("it listens").to_string(),
    })
}

/// A client and the server side of its connection.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it listens");
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (client.expect("it listens"), accepted.expect("a client").0)
}

/// A client that said its first message, and the task that serves it; held for so many milliseconds while there is no writer.
async fn client(
    writer: watch::Receiver<Option<Writer>>,
    handovers: Arc<Handovers>,
    has_place: bool,
    hold_ms: u64,
) -> (TcpStream, JoinHandle<Result<(), StartupError>>) {
    let (mut client, accepted) = pair().await;
    let hold = Duration::from_millis(hold_ms);
    let serving = tokio::spawn(super::serve(accepted, writer, handovers, has_place, hold));
    client.write_all(&startup()).await.expect("the proxy listens");
    (client, serving)
}

/// Takes one connection, reads its first message and answers it.
async fn answer(listener: &TcpListener, text: &[u8]) -> TcpStream {
    let (mut stream, _) = listener.accept().await.expect("a connection");
    let mut message = vec![0; startup().len()];
    stream.read_exact(&mut message).await.expect("the first message");
    assert_eq!(message, startup());
    stream.write_all(text).await.expect("it listens");
    stream
}

#[tokio::test]
async fn a_client_is_held_until_the_writer_is_there_and_ready() {
    let (told, known) = watch::channel(None);
    let (mut client, serving) = client(known, Arc::default(), true, 10_000).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    told.send_replace(writer("instance-1", &server));
    drop(answer(&server, b"E\0\0\0\x0cC57P03\0\0").await);
    let mut stream = answer(&server, b"ready").await;
    let mut got = [0; 5];
    client.read_exact(&mut got).await.expect("the answer");
    assert_eq!(&got, b"ready");
    client.write_all(b"query").await.expect("it goes through");
    stream.read_exact(&mut got).await.expect("the query");
    assert_eq!(&got, b"query");
    let other = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    told.send_replace(writer("instance-2", &other));
    assert_eq!(
        client.read(&mut got).await.expect("an end"),
        0,
        "cut when the writer is replaced"
    );
    serving.await.expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn who_finds_no_place_or_no_writer_is_told_so() {
    for (has_place, code) in [(false, "53300"), (true, "57P03")] {
        let (_told, known) = watch::channel(None);
        let (mut client, serving) = client(known, Arc::default(), has_place, 30).await;
        let mut error = Vec::new();
        client.read_to_end(&mut error).await.expect("an answer");
        assert!(String::from_utf8_lossy(&error).contains(code), "{error:?}");
        serving.await.expect("no panic").expect("a clean end");
    }
}

/// A writer whose processes are frozen accepts connections and never answers.
#[tokio::test]
async fn a_client_held_by_a_frozen_writer_goes_to_the_next_one() {
    let frozen = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (told, known) = watch::channel(writer("instance-1", &frozen));
    let (mut client, serving) = client(known, Arc::default(), true, 10_000).await;
    let (_silent, _) = frozen.accept().await.expect("the proxy tries it");
    let next = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    told.send_replace(writer("instance-2", &next));
    drop(answer(&next, b"ready").await);
    let mut got = Vec::new();
    client.read_to_end(&mut got).await.expect("the answer and the end");
    assert_eq!(got, b"ready");
    serving.await.expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn a_client_that_ended_its_own_side_still_gets_the_answer() {
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (_told, known) = watch::channel(writer("instance-1", &server));
    let (mut client, serving) = client(known, Arc::default(), true, 10_000).await;
    let mut stream = answer(&server, b"ready").await;
    let mut got = [0; 5];
    client.read_exact(&mut got).await.expect("the answer");
    client.write_all(b"query").await.expect("it goes through");
    client.shutdown().await.expect("only its own side");
    let mut asked = Vec::new();
    stream.read_to_end(&mut asked).await.expect("the query and its end");
    assert_eq!(asked, b"query");
    stream.write_all(b"rows").await.expect("the client still listens");
    drop(stream);
    let mut rows = Vec::new();
    client.read_to_end(&mut rows).await.expect("the answer and the end");
    assert_eq!(rows, b"rows");
    serving.await.expect("no panic").expect("a clean end");
}

/// A client that never closes must not keep the place of a connection whose server is gone.
#[tokio::test]
async fn a_server_that_ends_ends_the_connection_even_if_the_client_stays() {
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (_told, known) = watch::channel(writer("instance-1", &server));
    let (_client, serving) = client(known, Arc::default(), true, 10_000).await;
    drop(answer(&server, b"ready").await);
    let ended = tokio::time::timeout(Duration::from_secs(60), serving).await;
    ended.expect("in time").expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn a_held_client_that_leaves_gives_its_place_back() {
    let (_told, known) = watch::channel(None);
    let (client, serving) = client(known, Arc::default(), true, 600_000).await;
    drop(client);
    let ended = tokio::time::timeout(Duration::from_secs(60), serving).await;
    ended.expect("in time").expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn the_last_known_writer_stands_without_the_control_process() {
    let folder = std::env::temp_dir().join(format!("borealis-proxy-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let file = folder.join("writer");
    super::remember(&file, &writer("instance-1", &server).expect("a writer")).expect("the folder is ours");
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = free.local_addr().expect("it listens").to_string();
    drop(free);
    let (stop, stopping) = watch::channel(false);
    let config = super::ProxyConfig {
        listen: address.clone(),
        control_socket: folder.join("nobody.sock"),
        connections_max: 1,
        hold_ms_max: 10_000,
        writer_file: Some(file),
        handover_socket: None,
    };
    let running = tokio::spawn(super::run(config, None, stopping));
    let connect = async || loop {
        if let Ok(client) = TcpStream::connect(&address).await {
            return client;
        }
        assert!(!running.is_finished(), "the proxy ended by itself");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let mut client = connect().await;
    client.write_all(&startup()).await.expect("the proxy listens");
    let stream = answer(&server, b"ready").await;
    let mut got = [0; 5];
    client.read_exact(&mut got).await.expect("the answer");
    let mut second = connect().await;
    second.write_all(&startup()).await.expect("the proxy listens");
    let mut error = Vec::new();
    second.read_to_end(&mut error).await.expect("an answer");
    assert!(
        String::from_utf8_lossy(&error).contains("53300"),
        "the one place is taken"
    );
    drop(stream);
    stop.send_replace(true);
    running.await.expect("no panic").expect("a clean end");
    std::fs::remove_dir_all(folder).expect("it is ours");
}
