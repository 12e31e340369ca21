//! `GET /metrics`, over HTTP/1.1, on a loopback address: nothing else is served, and nobody else is let in.
//!
//! There is no secret: whoever reaches loopback may read counts. Everything is bounded: connections at once, bytes of a
//! request, the time one may take. A connection is closed after its answer.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::process::{self, PROCESS};
use super::{Scrape, Table, exposition};

/// Connections at once; any more are closed without a word.
const CONNECTIONS_MAX: usize = 8;
/// Bytes of a request's head.
const REQUEST_BYTES_MAX: usize = 8 << 10;
/// How long one may take to ask, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause after an address could not be listened on, or nobody be let in.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What a request comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asked {
    /// More of it is needed.
    Incomplete,
    Metrics,
    NotFound,
    NotAllowed,
    Malformed,
    TooLong,
}

/// Why an address is not served on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("metrics are told on loopback only, and {0} is no such address and port")]
pub struct AddressError(String);

/// Reads where metrics are served, such as `127.0.0.1:15001`.
pub fn address(text: &str) -> Result<SocketAddr, AddressError> {
    let address: Option<SocketAddr> = text.parse().ok();
    let loopback = address.filter(|address| address.ip().is_loopback());
    loopback.ok_or_else(|| AddressError(text.to_owned()))
}

/// Serves the table, and what every process tells, until it is dropped; never, without an address. `look_up` is called on
/// the task that polls this, so it may look at what belongs to that thread. An address that is taken is tried again: nobody
/// dies of not being measured.
pub async fn serve(address: Option<SocketAddr>, table: &'static Table, look_up: impl Fn(&mut Scrape)) -> Infallible {
    let Some(address) = address else {
        return std::future::pending().await;
    };
    let listener = listen(address).await;
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (ask, mut asked) = mpsc::channel::<oneshot::Sender<String>>(CONNECTIONS_MAX);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let Ok(place) = places.clone().try_acquire_owned() else { continue };
                    let ask = ask.clone();
                    tokio::spawn(async move {
                        if let Err(error) = converse(stream, ask).await {
                            tracing::debug!(%error, "metrics.answer");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "metrics.accept");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            },
            Some(answer) = asked.recv() => {
                let text = exposition(&[table, PROCESS], |scrape| {
                    process::look_up(scrape);
                    look_up(scrape);
                });
                // Whoever asked may have gone.
                let _ = answer.send(text);
            }
        }
    }
}

async fn listen(address: SocketAddr) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) if !told => {
                tracing::warn!(%address, %error, "metrics.listen: tried again until it works");
                told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn converse(mut stream: TcpStream, ask: mpsc::Sender<oneshot::Sender<String>>) -> io::Result<()> {
    let asked = timeout(PATIENCE, read_request(&mut stream)).await??;
    let (status, body) = match asked {
        Asked::Metrics => {
            let (answer, text) = oneshot::channel();
            // The process ends, if nobody takes it.
            let taken = ask.send(answer).await;
            taken.map_err(|_| io::ErrorKind::BrokenPipe)?;
            ("200 OK", text.await.map_err(|_| io::ErrorKind::BrokenPipe)?)
        }
        Asked::NotFound => ("404 Not Found", "only /metrics is here\n".to_owned()),
        Asked::NotAllowed => ("405 Method Not Allowed", "only GET is understood\n".to_owned()),
        Asked::TooLong => (
            "431 Request Header Fields Too Large",
            "the request is too long\n".to_owned(),
        ),
        Asked::Malformed | Asked::Incomplete => ("400 Bad Request", "the request cannot be understood\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         Allow: GET\r\nConnection: close\r\n\r\n",
        body.len()
    );
    timeout(PATIENCE, async {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        stream.shutdown().await
    })
    .await?
}

/// Reads until the request's head is whole, cannot be, or ends. A body is not read: none is expected.
async fn read_request(stream: &mut TcpStream) -> io::Result<Asked> {
    let mut head = Vec::with_capacity(1 << 10);
    loop {
        match parse(&head) {
            Asked::Incomplete => {}
            asked => return Ok(asked),
        }
        let mut part = [0; 1 << 10];
        match stream.read(&mut part).await? {
            0 => return Ok(Asked::Incomplete),
            bytes => head.extend_from_slice(&part[..bytes]),
        }
    }
}

/// What the bytes so far ask for (RFC 9112, sections 3 and 5). Header fields are checked to be lines, and passed over.
fn parse(head: &[u8]) -> Asked {
    let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if REQUEST_BYTES_MAX <= head.len() {
            Asked::TooLong
        } else {
            Asked::Incomplete
        };
    };
    if REQUEST_BYTES_MAX < end {
        return Asked::TooLong;
    }
    let Ok(head) = std::str::from_utf8(&head[..end]) else {
        return Asked::Malformed;
    };
    let mut lines = head.split("\r\n");
    let request: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, "HTTP/1.1" | "HTTP/1.0"] = request.as_slice() else {
        return Asked::Malformed;
    };
    let is_field = |line: &str| line.split_once(':').is_some_and(|(name, _)| is_token(name));
    if !is_token(method) || !target.starts_with('/') || !lines.all(is_field) {
        return Asked::Malformed;
    }
    let path = target.split_once('?').map_or(*target, |(path, _)| path);
    match (*method, path) {
        (_, path) if path != "/metrics" => Asked::NotFound,
        ("GET", _) => Asked::Metrics,
        _ => Asked::NotAllowed,
    }
}

/// `token` of RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_token)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::metrics::Sampled;

    crate::metrics! {
        /// What this test tells.
        TEST;
        /// Questions.
        QUESTIONS: Sampled = Sampled::gauge("test_questions", &[]);
    }

    #[test]
    fn a_request_for_the_metrics_is_understood_however_it_is_cut() {
        let request = b"GET /metrics?name=x HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n";
        for cut in 0..request.len() {
            assert_eq!(parse(&request[..cut]), Asked::Incomplete, "{cut} bytes");
        }
        assert_eq!(parse(request), Asked::Metrics);
        assert_eq!(parse(b"GET /metrics HTTP/1.0\r\n\r\n"), Asked::Metrics);
    }

    #[test]
    fn everything_else_is_refused() {
        let check = |request: &[u8], expected: Asked| {
            assert_eq!(parse(request), expected, "{}", String::from_utf8_lossy(request));
        };
        check(b"GET / HTTP/1.1\r\n\r\n", Asked::NotFound);
        check(b"GET /metrics/../x HTTP/1.1\r\n\r\n", Asked::NotFound);
        check(b"POST /metrics HTTP/1.1\r\n\r\n", Asked::NotAllowed);
        check(b"GET /metrics\r\n\r\n", Asked::Malformed);
        check(b"GET  /metrics HTTP/1.1\r\n\r\n", Asked::Malformed);
        check(b"GET http://x/metrics HTTP/1.1\r\n\r\n", Asked::Malformed);
        check(b"GET /metrics HTTP/2\r\n\r\n", Asked::Malformed);
        check(b"GET /metrics HTTP/1.1\r\nno field\r\n\r\n", Asked::Malformed);
        check(b"GET /metrics HTTP/1.1\r\n: empty\r\n\r\n", Asked::Malformed);
        check(b"GET /metrics HTTP/1.1\r\nfolded: 1\r\n 2\r\n\r\n", Asked::Malformed);
        check(b"\r\n\r\n", Asked::Malformed);
        check(b"GET /\xff HTTP/1.1\r\n\r\n", Asked::Malformed);
        check(&[b'a'; REQUEST_BYTES_MAX], Asked::TooLong);
        let mut long = vec![b'a'; REQUEST_BYTES_MAX + 1];
        long.extend_from_slice(b"\r\n\r\n");
        check(&long, Asked::TooLong);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            parse(&bytes);
        }

        #[test]
        fn requests_that_are_almost_right_never_panic(text in "(GET|PUT)? ?/?[a-z/?]{0,9} HTTP/1.[01](\r\n[a-z:]{0,4}){0,3}\r\n\r\n") {
            parse(text.as_bytes());
        }
    }

    #[test]
    fn only_loopback_is_served_on() {
        assert!(address("127.0.0.1:9000").is_ok() && address("[::1]:9000").is_ok());
        for refused in [
            "0.0.0.0:9000",
            "192.0.2.1:9000",
            "[::]:9000",
            "localhost:9000",
            "127.0.0.1",
            "",
        ] {
            let error = address(refused).expect_err(refused).to_string();
            assert!(error.contains("loopback"), "{error}");
        }
    }

    async fn answer(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(request).await.expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("an answer");
        text
    }

    #[test]
    fn what_is_asked_is_answered_and_whoever_only_holds_a_place_keeps_nobody_out() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = free.local_addr().expect("its address");
            let looked_up = std::cell::Cell::new(0);
            let look_up = |scrape: &mut Scrape| {
                looked_up.set(looked_up.get() + 1);
                scrape.set(&QUESTIONS, &[], looked_up.get());
            };
            let serving = serve(Some(address), TEST, look_up);
            let asking = async {
                // Taken for now: it is tried again.
                tokio::time::sleep(Duration::from_millis(50)).await;
                drop(free);
                while TcpStream::connect(address).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                let text = answer(address, b"GET /metrics HTTP/1.1\r\n\r\n").await;
                assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
                let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
                assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
                assert!(
                    body.contains("test_questions 1\n") && body.contains("process_threads "),
                    "{body}"
                );
                let text = answer(address, b"GET /else HTTP/1.1\r\n\r\n").await;
                assert!(text.starts_with("HTTP/1.1 404 "), "{text}");
                // Seven that say nothing, and one that is served; the ninth has no place.
                let mut silent = Vec::new();
                for _ in 1..CONNECTIONS_MAX {
                    silent.push(TcpStream::connect(address).await.expect("it listens"));
                }
                let text = answer(address, b"GET /metrics HTTP/1.1\r\n\r\n").await;
                assert!(text.contains("test_questions 2\n"), "{text}");
            };
            tokio::select! {
                never = serving => match never {},
                () = asking => {}
            }
        });
    }
}
