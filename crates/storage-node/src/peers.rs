//! Questions of segments to the other copies of their group.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::BytesMut;
use node_link::handshake;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use units::SegmentId;
use wire_format::message::{Hello, Request, Response};

use crate::turns::Work;

/// Questions waiting to be asked.
pub(crate) const QUEUE_MAX: usize = 64;
/// How long a peer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(4);

/// One question.
pub(crate) struct Question {
    pub(crate) segment: SegmentId,
    pub(crate) address: String,
    pub(crate) request: Request,
}

/// Asks one after the other; connections are kept as long as they work.
pub(crate) async fn run(hello: Hello, mut questions: mpsc::Receiver<Question>, work: mpsc::Sender<Work>) {
    let mut connections: BTreeMap<String, TcpStream> = BTreeMap::new();
    while let Some(question) = questions.recv().await {
        let kept = connections.remove(&question.address);
        let asked = tokio::time::timeout(ANSWER_LIMIT, ask(&hello, kept, &question));
        let response = match asked.await {
            Ok(Ok((stream, response))) => {
                connections.insert(question.address, stream);
                Some(response)
            }
            Ok(Err(error)) => {
                tracing::debug!(peer = %question.address, %error, "peer.ask");
                None
            }
            Err(_) => {
                tracing::debug!(peer = %question.address, "peer.ask: no answer in time");
                None
            }
        };
        let fetched = Work::Fetched {
            segment: question.segment,
            response,
        };
        if work.send(fetched).await.is_err() {
            return;
        }
    }
}

async fn ask(hello: &Hello, kept: Option<TcpStream>, question: &Question) -> std::io::Result<(TcpStream, Response)> {
    let mut stream = match kept {
        Some(stream) => stream,
        None => {
            let mut stream = TcpStream::connect(&question.address).await?;
            stream.set_nodelay(true)?;
            handshake::greet(&mut stream, hello).await?;
            stream
        }
    };
    for part in handshake::request_frame(1, &question.request) {
        stream.write_all(&part).await?;
    }
    let mut buffer = BytesMut::new();
    loop {
        if let Some((_, response)) = handshake::take_response(&mut buffer)? {
            return Ok((stream, response));
        }
        handshake::read_more(&mut stream, &mut buffer).await?;
    }
}
