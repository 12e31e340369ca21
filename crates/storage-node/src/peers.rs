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

/// Questions waiting to be asked, of all peers and of each.
pub(crate) const QUEUE_MAX: usize = 64;
/// How long a peer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(4);

/// One question.
pub(crate) struct Question {
    pub(crate) segment: SegmentId,
    pub(crate) address: String,
    pub(crate) request: Request,
}

/// Hands every question to the task for its peer: a peer that does not answer keeps nobody from asking the others.
pub(crate) async fn run(hello: Hello, mut questions: mpsc::Receiver<Question>, work: mpsc::Sender<Work>) {
    // Dropped with this future, and their tasks with them. There are as many as a group has members.
    let mut peers: BTreeMap<String, mpsc::Sender<Question>> = BTreeMap::new();
    while let Some(question) = questions.recv().await {
        let peer = peers.entry(question.address.clone()).or_insert_with(|| {
            let (peer, its_questions) = mpsc::channel(QUEUE_MAX);
            tokio::spawn(ask_all(hello.clone(), its_questions, work.clone()));
            peer
        });
        if let Err(mpsc::error::TrySendError::Full(question)) = peer.try_send(question) {
            // The segment will find its question lost, and ask somebody else.
            tracing::debug!(peer = %question.address, "peer.ask: too many questions wait for it");
        }
    }
}

/// Asks one peer one question after the other; the connection is kept as long as it works.
async fn ask_all(hello: Hello, mut questions: mpsc::Receiver<Question>, work: mpsc::Sender<Work>) {
    let mut connection = None;
    while let Some(question) = questions.recv().await {
        let asked = tokio::time::timeout(ANSWER_LIMIT, ask(&hello, connection.take(), &question));
        let response = match asked.await {
            Ok(Ok((stream, response))) => {
                connection = Some(stream);
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
