//! Questions of segments to the other copies of their group.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::BytesMut;
use node_link::handshake;
use segment::{PartId, Taken};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use units::SegmentId;
use wire_format::message::{Hello, Request, Response};

use crate::copies::Arrived;
use crate::metrics::{CATCH_UP_QUESTIONS, CATCH_UP_UNANSWERED};
use crate::turns::Work;

/// Questions waiting to be asked, of all peers and of each.
pub(crate) const QUEUE_MAX: usize = 64;
/// How long a peer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(4);
/// How long it may take for versions: they are many, and whoever gives them yields to everybody else.
const VERSIONS_LIMIT: Duration = Duration::from_secs(9);

/// One question.
pub(crate) struct Question {
    pub(crate) segment: SegmentId,
    pub(crate) address: String,
    pub(crate) request: Request,
    /// Which part of a pass it is for, if it asks for versions.
    pub(crate) part: Option<PartId>,
}

/// Where answers go.
#[derive(Clone)]
pub(crate) struct Answers {
    pub(crate) work: mpsc::Sender<Work>,
    pub(crate) versions: mpsc::Sender<Arrived>,
}

impl Answers {
    /// Hands an answer on; `false`: the node ends.
    async fn hand_on(&self, question: Question, response: Option<Response>) -> bool {
        let segment = question.segment;
        let work = match (question.part, question.request, response) {
            (None, Request::TellStanding { .. }, response) => match response {
                response @ Some(Response::Standing(_)) => Work::Fetched { segment, response },
                // The next one is asked soon.
                _ => return true,
            },
            (None, _, response) => Work::Fetched { segment, response },
            (Some(part), Request::FetchVersions { from, .. }, Some(Response::Versions(versions))) => {
                let arrived = Arrived {
                    segment,
                    part,
                    from,
                    versions,
                };
                return self.versions.send(arrived).await.is_ok();
            }
            (Some(part), _, response) => {
                let taken = match response {
                    Some(Response::Refused(refusal)) => Taken::Refused(refusal),
                    _ => Taken::Nothing,
                };
                Work::Taken { segment, part, taken }
            }
        };
        self.work.send(work).await.is_ok()
    }
}

/// Hands every question to the task for its peer: a peer that does not answer keeps nobody from asking the others.
pub(crate) async fn run(hello: Hello, mut questions: mpsc::Receiver<Question>, answers: Answers) {
    // Dropped with this future, and their tasks with them. There are as many as the groups have nodes, and as many again for
    // versions, behind which nothing else shall wait.
    let mut peers: BTreeMap<(String, bool), mpsc::Sender<Question>> = BTreeMap::new();
    while let Some(question) = questions.recv().await {
        let named = (question.address.clone(), question.part.is_some());
        let peer = peers.entry(named).or_insert_with(|| {
            let (peer, its_questions) = mpsc::channel(QUEUE_MAX);
            tokio::spawn(ask_all(hello.clone(), its_questions, answers.clone()));
            peer
        });
        if let Err(mpsc::error::TrySendError::Full(question)) = peer.try_send(question) {
            // The segment will find its question lost, and ask somebody else.
            tracing::debug!(peer = %question.address, "peer.ask: too many questions wait for it");
        }
    }
}

/// Asks one peer one question after the other; the connection is kept as long as it works.
async fn ask_all(hello: Hello, mut questions: mpsc::Receiver<Question>, answers: Answers) {
    let mut connection = None;
    while let Some(question) = questions.recv().await {
        CATCH_UP_QUESTIONS.increment();
        let limit = question.part.map_or(ANSWER_LIMIT, |_| VERSIONS_LIMIT);
        let asked = ask(&hello, connection.take(), &question.address, &question.request);
        let response = match tokio::time::timeout(limit, asked).await {
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
        if response.is_none() {
            CATCH_UP_UNANSWERED.increment();
        }
        if !answers.hand_on(question, response).await {
            return;
        }
    }
}

/// Asks one question, and gives the connection back that it was asked on.
pub(crate) async fn ask(
    hello: &Hello,
    kept: Option<TcpStream>,
    address: &str,
    request: &Request,
) -> std::io::Result<(TcpStream, Response)> {
    let mut stream = match kept {
        Some(stream) => stream,
        None => {
            let mut stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            handshake::greet(&mut stream, hello).await?;
            stream
        }
    };
    for part in handshake::request_frame(1, request) {
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
