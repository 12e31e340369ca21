//! The mending thread: what copies have lost at rest is taken from the other copies of their group.
//!
//! While it lasts the copy has no vote and gives no pages. It asks one peer after the other, one piece of what is lost at a time,
//! and yields to everything else.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use page_store::{LostBatch, Mend, ReadError};
use segment::{MendStep, Needs};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use units::{Position, SegmentId};
use wire_format::EncodedBatch;
use wire_format::message::{Hello, Refusal, Request, Response};
use wire_format::versions::Versions;

use crate::metrics::{MEND_BYTES, MEND_FAILED};
use crate::node::Node;
use crate::turns::Work;
use crate::{peers, upkeep};

/// Between two looks at whether anything is lost.
const PAUSE: Duration = Duration::from_millis(200);
/// After an attempt that came to nothing.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// How long a peer may take for its answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(9);
/// Bytes of versions asked of a peer at once, as layers have them.
const BYTES_MAX: u32 = 1 << 20;

/// Why a copy could not be mended this time.
#[derive(Debug, thiserror::Error)]
enum MendError {
    #[error(transparent)]
    Store(#[from] ReadError),
    #[error("no peer can help: {0}")]
    NoPeer(String),
    #[error("more was found lost meanwhile")]
    MoreIsLost,
    #[error("the journal takes nothing, or more was found lost meanwhile")]
    NotKept,
    #[error("peers have let go of what is lost: it is forgotten here, too")]
    LetGo,
    #[error("the segment, or the node, is gone")]
    Ends,
}

/// What the thread works with.
pub(crate) struct Mender<'a> {
    pub(crate) node: &'a Node,
    pub(crate) hello: Hello,
    pub(crate) work: mpsc::Sender<Work>,
    pub(crate) stop: watch::Receiver<bool>,
}

/// Runs until the node stops.
pub(crate) fn run(mender: Mender, runtime: tokio::runtime::Runtime) {
    upkeep::yield_to_others();
    let mut not_before: BTreeMap<SegmentId, Instant> = BTreeMap::new();
    let mut journal_not_before = Instant::now();
    while !*mender.stop.borrow() {
        let now = Instant::now();
        not_before.retain(|_, at| now < *at);
        let files = match journal_not_before <= now {
            true => mender.node.store.rotten_journal_files(),
            false => Vec::new(),
        };
        for start in files {
            match runtime.block_on(mender.mend_journal(start)) {
                Ok(()) => continue,
                Err(error @ MendError::LetGo) => tracing::info!(start, %error, "journal.mend"),
                Err(error) => {
                    MEND_FAILED.increment();
                    tracing::warn!(start, %error, "journal.mend: it is tried again");
                }
            }
            journal_not_before = Instant::now() + RETRY_PAUSE;
        }
        for segment in mender.node.without_vote() {
            if not_before.contains_key(&segment) {
                continue;
            }
            if let Err(error) = runtime.block_on(mender.mend(segment)) {
                MEND_FAILED.increment();
                tracing::warn!(%segment, %error, "segment.mend: it is tried again");
                not_before.insert(segment, Instant::now() + RETRY_PAUSE);
            }
        }
        std::thread::sleep(PAUSE);
    }
}

impl Mender<'_> {
    /// Files of the journal: what they said is known for as long as the node runs, but for the bytes of batches.
    async fn mend_journal(&self, start: u64) -> Result<(), MendError> {
        let store = &self.node.store;
        let Some(mend) = store.begin_journal_mend(start)? else {
            return Ok(());
        };
        let mut batches = BTreeMap::new();
        let mut let_go = false;
        // The last ones first: what is forgotten is so with everything before it.
        let lost: Vec<LostBatch> = mend.lost().collect();
        for lost in lost.into_iter().rev() {
            let Some(sources) = self.node.sources_of(lost) else {
                continue;
            };
            match self.fetch(&sources, lost).await {
                Ok(batch) => drop(batches.insert(lost, batch)),
                Err(MendError::LetGo) => {
                    self.tell(lost.segment, MendStep::LetGo(lost.position)).await?;
                    let_go = true;
                }
                Err(error) => return Err(error),
            }
        }
        if let_go {
            // Once a synced state says so, nothing of it is wanted.
            return Err(MendError::LetGo);
        }
        let count = batches.len();
        store.end_journal_mend(mend, &batches)?;
        tracing::info!(
            start,
            batches = count,
            "journal.mend: what a file had lost is in place again"
        );
        Ok(())
    }

    /// One batch, from whichever peer has it. [`MendError::LetGo`]: nobody gives it, and one of them knows that nobody needs it.
    async fn fetch(&self, sources: &Needs, lost: LostBatch) -> Result<EncodedBatch, MendError> {
        let mut refused = "there is none".to_owned();
        let mut let_go = false;
        for peer in &sources.peers {
            let request = sources.batch_of(peer, lost.position);
            let asked = peers::ask(&self.hello, None, &peer.address, &request);
            match tokio::time::timeout(ANSWER_LIMIT, asked).await {
                Ok(Ok((_, Response::Batches(batches)))) => {
                    let is_it = |batch: &EncodedBatch| batch.batch().position() == lost.position;
                    match batches.into_iter().find(is_it) {
                        Some(batch) => {
                            MEND_BYTES.add(batch.bytes().len() as u64);
                            return Ok(batch);
                        }
                        None => refused = format!("{} is not held", lost.position),
                    }
                }
                Ok(Ok((_, Response::Refused(refusal)))) => {
                    let_go |= matches!(refusal, Refusal::LogCollected { .. });
                    refused = refusal.to_string();
                }
                Ok(Ok(_)) => refused = "an answer to another question".to_owned(),
                Ok(Err(error)) => refused = error.to_string(),
                Err(_) => refused = "no answer in time".to_owned(),
            }
        }
        Err(match let_go {
            true => MendError::LetGo,
            false => MendError::NoPeer(refused),
        })
    }

    async fn mend(&self, segment: SegmentId) -> Result<(), MendError> {
        let store = &self.node.store;
        if let Some(mut mend) = store.begin_mend(segment)? {
            let began = Instant::now();
            // Not before: what is lost now reaches as far as the segment does now, along the history that it has now.
            let needs = self.node.sources(segment).ok_or(MendError::Ends)?;
            let through = mend.needs_through(&needs.path);
            let needs = needs.bounded(through);
            let layers = mend.layers_count();
            tracing::info!(%segment, layers, "segment.mend");
            let floor = self.take_all(&needs, &mut mend).await?;
            self.tell(segment, MendStep::LackBelow(floor)).await?;
            if !store.end_mend(mend)? {
                return Err(MendError::MoreIsLost);
            }
            let seconds = began.elapsed().as_secs_f64();
            tracing::info!(%segment, layers, seconds, "segment.mend: what its layers had lost is in place again");
        }
        if store.is_damaged(segment) {
            return Ok(());
        }
        self.tell(segment, MendStep::Mended).await
    }

    /// Has the segment take a step, and waits until it is synced.
    async fn tell(&self, segment: SegmentId, step: MendStep) -> Result<(), MendError> {
        let (done, is_done) = oneshot::channel();
        let told = self.work.send(Work::Mending { segment, step, done }).await;
        told.map_err(|_| MendError::Ends)?;
        match is_done.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(MendError::NotKept),
            Err(_) => Err(MendError::Ends),
        }
    }

    /// Takes everything that is lost from peers. Answers with the highest floor of all that gave.
    async fn take_all(&self, needs: &Needs, mend: &mut Mend) -> Result<Position, MendError> {
        let mut floor = Position::ZERO;
        let mut turn = 0;
        let mut connection = None;
        let mut refused = 0;
        while let Some(from) = mend.wants() {
            if *self.stop.borrow() {
                return Err(MendError::Ends);
            }
            let no_peer = || MendError::NoPeer("there is none".to_owned());
            let peer = needs.peers.get(turn % needs.peers.len().max(1)).ok_or_else(no_peer)?;
            let request = needs.versions_of(peer, from, BYTES_MAX);
            match self.ask(&mut connection, &peer.address, needs, &request).await {
                Ok(versions) => {
                    refused = 0;
                    if floor.lsn < versions.floor.lsn {
                        floor = versions.floor;
                    }
                    self.node.store.mend(mend, &versions)?;
                    MEND_BYTES.add(versions.content.len() as u64);
                }
                Err(what) => {
                    tracing::debug!(peer = %peer.node, what, "segment.mend: another peer is asked");
                    connection = None;
                    turn += 1;
                    refused += 1;
                    if refused == needs.peers.len() {
                        return Err(MendError::NoPeer(what));
                    }
                }
            }
        }
        Ok(floor)
    }

    async fn ask(
        &self,
        connection: &mut Option<TcpStream>,
        address: &str,
        needs: &Needs,
        request: &Request,
    ) -> Result<Versions, String> {
        let asked = peers::ask(&self.hello, connection.take(), address, request);
        let answered = tokio::time::timeout(ANSWER_LIMIT, asked).await;
        let (stream, response) = answered
            .map_err(|_| "no answer in time".to_owned())?
            .map_err(|error| error.to_string())?;
        match response {
            Response::Versions(versions) if needs.through <= versions.through.lsn => {
                *connection = Some(stream);
                Ok(versions)
            }
            Response::Versions(versions) => Err(format!(
                "it is complete up to {}, {} is needed",
                versions.through, needs.through
            )),
            Response::Refused(refusal) => Err(refusal.to_string()),
            _ => Err(Refusal::Malformed {
                what: "an answer to another question".to_owned(),
            }
            .to_string()),
        }
    }
}
