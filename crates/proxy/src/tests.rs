use std::time::Duration;

use control_plane::message::Writer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

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
    let (mut client, accepted) = pair().await;
    let (told, known) = watch::channel(None);
    let serving = tokio::spawn(super::serve(accepted, known, true, Duration::from_secs(10)));
    client.write_all(&startup()).await.expect("the proxy listens");
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
        let (mut client, accepted) = pair().await;
        let (_told, known) = watch::channel(None);
        let serving = tokio::spawn(super::serve(accepted, known, has_place, Duration::from_millis(30)));
        client.write_all(&startup()).await.expect("the proxy listens");
        let mut error = Vec::new();
        client.read_to_end(&mut error).await.expect("an answer");
        assert!(String::from_utf8_lossy(&error).contains(code), "{error:?}");
        serving.await.expect("no panic").expect("a clean end");
    }
}
