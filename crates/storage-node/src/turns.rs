//! The journal thread: whatever is queued, one write, one sync, then the answers.
//!
//! It serves the connections that the log comes on itself, so that a batch passes from the socket to the journal, and its
//! answer back, without waking another thread.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use page_store::{AppendError, Horizon, JournalEntry};
use segment::{Effect, MendStep, PartId, Segment, SegmentState, Taken};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use units::{Position, SegmentId};
use wire_format::message::{Refusal, Request, Response};

use crate::copies;
use crate::load::LOAD;
use crate::metrics::{APPEND_BYTES, CATCH_UP_BYTES, SYNC_SECONDS, SYNCS_FAILED};
use crate::network::{Connection, ReplyTo, Served};
use crate::node::{LINKS_MAX, Node};
use crate::peers::Question;

/// Requests waiting for the journal thread; beyond it connections are no longer read.
pub(crate) const QUEUE_MAX: usize = 4096;
/// Requests taken in one turn, at most.
const TURN_MAX: usize = 1024;
const TICK: Duration = Duration::from_millis(25);
/// Ticks between two looks at what can be forgotten.
const FORGET_TICKS: u64 = 20;

/// What the journal thread is asked.
pub(crate) enum Work {
    Request {
        reply: ReplyTo,
        request: Request,
        /// What it takes of the memory for log that waits, until the turn that takes it has ended.
        room: OwnedSemaphorePermit,
    },
    /// A peer answered a segment's question; `None`: it did not.
    Fetched {
        segment: SegmentId,
        response: Option<Response>,
    },
    /// What became of a segment's question for versions.
    Taken {
        segment: SegmentId,
        part: PartId,
        taken: Taken,
    },
    /// A copy that lost something is being mended.
    Mending {
        segment: SegmentId,
        step: MendStep,
        /// Told once the step is synced, and not refused.
        done: oneshot::Sender<bool>,
    },
    Tick,
}

/// Sends a tick now and then. One that finds the queue full is not needed: the thread is busy enough.
async fn tick(work: mpsc::Sender<Work>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        if let Err(mpsc::error::TrySendError::Closed(_)) = work.try_send(Work::Tick) {
            return;
        }
    }
}

/// Everything that one turn collects.
#[derive(Default)]
struct Turn {
    entries: Vec<JournalEntry>,
    answers: Vec<(ReplyTo, Response)>,
    /// Of several acknowledgements for one connection only the last says anything.
    acknowledged: BTreeMap<(u64, SegmentId), (ReplyTo, Response)>,
    questions: Vec<Question>,
    /// Segments that are not wanted any more, once this turn is journaled.
    removed: BTreeSet<SegmentId>,
    /// Who waits for this turn to be synced.
    waiting: Vec<oneshot::Sender<bool>>,
}

impl Turn {
    fn answer(&mut self, reply: ReplyTo, response: Response) {
        match &response {
            Response::Appended { segment, .. } if reply.is_posted() => {
                self.acknowledged
                    .insert((reply.connection(), *segment), (reply, response));
            }
            _ => self.answers.push((reply, response)),
        }
    }

    /// Sorts a segment's effects. `reply` is where its answer goes.
    fn take(&mut self, segment: SegmentId, effects: Vec<Effect>, reply: Option<ReplyTo>) {
        for effect in effects {
            match effect {
                Effect::KeepState(bytes) => self.entries.push(JournalEntry::State { segment, bytes }),
                Effect::KeepBatch(batch) => {
                    APPEND_BYTES.observe(batch.bytes().len() as u64);
                    self.entries.push(JournalEntry::Batch { segment, batch });
                }
                Effect::Fetch { peer, request } => self.questions.push(Question {
                    segment,
                    address: peer.address,
                    request,
                    part: None,
                }),
                Effect::Take { peer, request, part } => self.questions.push(Question {
                    segment,
                    address: peer.address,
                    request,
                    part: Some(part),
                }),
                Effect::Remove => {
                    self.entries.push(JournalEntry::removal(segment));
                    self.removed.insert(segment);
                }
                Effect::Answer(response) => {
                    if let Some(reply) = reply.clone() {
                        self.answer(reply, response);
                    }
                }
                Effect::Read(_) => unreachable!("reads are asked of the reading threads"),
            }
        }
    }
}

/// Serves the connections for the log, and takes turns, until no more connections can come. An error means that the journal
/// is closed: then only a restart helps, and it says why.
///
/// What is written and synced here blocks the thread, which has nothing better to do: every connection it serves waits for
/// just that, and what arrives meanwhile makes the next turn.
pub(crate) async fn run(
    served: Served,
    mut queue: mpsc::Receiver<Work>,
    mut connections: mpsc::Receiver<Connection>,
    questions: mpsc::Sender<Question>,
) -> Result<(), String> {
    let node = served.node.clone();
    let serving = async {
        while let Some(connection) = connections.recv().await {
            tokio::spawn(connection.converse(served.clone()));
        }
    };
    let taking_turns = async {
        let mut ticks = 0;
        let mut copying = BTreeSet::new();
        let mut taken = Vec::with_capacity(TURN_MAX);
        loop {
            queue.recv_many(&mut taken, TURN_MAX).await;
            let mut turn = Turn::default();
            let mut rooms = Vec::new();
            for work in taken.drain(..) {
                match work {
                    Work::Request { reply, request, room } => {
                        decide(&node, &mut turn, reply, &request);
                        rooms.push(room);
                    }
                    Work::Fetched { segment, response } => fetched(&node, &mut turn, segment, response),
                    Work::Taken { segment, part, taken } => versions_taken(&node, &mut turn, segment, part, taken),
                    Work::Mending { segment, step, done } => mending(&node, &mut turn, segment, step, done),
                    Work::Tick => {
                        ticks += 1;
                        tick_segments(&node, &mut turn, &mut copying, ticks % FORGET_TICKS == 0);
                    }
                }
            }
            if let Err(AppendError::Closed(reason)) = finish(&node, turn, &questions) {
                return reason;
            }
        }
    };
    tokio::select! {
        () = serving => Ok(()),
        reason = taking_turns => Err(reason),
        () = tick(served.work.clone()) => Ok(()),
    }
}

fn decide(node: &Node, turn: &mut Turn, reply: ReplyTo, request: &Request) {
    let Some(id) = request.segment() else {
        turn.answer(reply, Response::Status(node.status()));
        return;
    };
    if matches!(request, Request::Append { .. }) {
        node.note_log();
    }
    let mut segments = node.segments();
    let mut effects = Vec::new();
    match (segments.get_mut(&id).filter(|_| !turn.removed.contains(&id)), request) {
        (None, Request::RemoveSegment { .. }) => effects.push(Effect::Answer(Response::SegmentRemoved)),
        (Some(segment), _) => segment.request(request, &mut effects),
        (None, Request::CreateSegment { .. }) if !turn.removed.contains(&id) => {
            match Segment::create(request, &mut effects) {
                Ok(segment) => {
                    segments.insert(id, segment);
                }
                Err(refusal) => effects.push(Effect::Answer(Response::Refused(refusal))),
            }
        }
        (None, _) => effects.push(Effect::Answer(Response::Refused(Refusal::UnknownSegment {
            segment: id,
        }))),
    }
    turn.take(id, effects, Some(reply));
}

fn fetched(node: &Node, turn: &mut Turn, id: SegmentId, response: Option<Response>) {
    let mut segments = node.segments();
    let Some(segment) = segments.get_mut(&id).filter(|_| !turn.removed.contains(&id)) else {
        return;
    };
    if let Some(Response::Batches(batches)) = &response {
        let bytes: usize = batches.iter().map(|batch| batch.bytes().len()).sum();
        CATCH_UP_BYTES.add(bytes as u64);
    }
    let mut effects = Vec::new();
    if let Err(refusal) = segment.fetched(node.now(), response, &mut effects) {
        tracing::info!(segment = %id, %refusal, "segment.fetch: another peer is asked");
    }
    turn.take(id, effects, None);
}

/// A peer gave versions, or did not.
fn versions_taken(node: &Node, turn: &mut Turn, id: SegmentId, part: PartId, taken: Taken) {
    let mut segments = node.segments();
    let Some(segment) = segments.get_mut(&id).filter(|_| !turn.removed.contains(&id)) else {
        return;
    };
    let (complete, copying) = (segment.complete(), segment.is_copying());
    let mut effects = Vec::new();
    if let Err(refusal) = segment.taken(node.now(), part, taken, &mut effects) {
        tracing::debug!(segment = %id, %refusal, "segment.copy: another peer is asked");
    }
    if complete != segment.complete() {
        let (through, (bytes, _)) = (segment.complete(), segment.copied_bytes());
        tracing::info!(segment = %id, after = %complete, %through, bytes, "segment.copy: taken from the layers of peers");
    }
    if copying && !segment.is_copying() {
        tracing::info!(segment = %id, complete = %segment.complete(), "segment.whole");
    }
    turn.take(id, effects, None);
}

/// A copy is being mended: a step of that.
fn mending(node: &Node, turn: &mut Turn, id: SegmentId, step: MendStep, done: oneshot::Sender<bool>) {
    let mut segments = node.segments();
    let segment = segments.get_mut(&id).filter(|_| !turn.removed.contains(&id));
    let Some(segment) = segment else {
        return;
    };
    // Found since: it is mended, too, before the vote comes back.
    if matches!(step, MendStep::Mended) && node.store.is_damaged(id) {
        return tell(vec![done], false);
    }
    let mut effects = Vec::new();
    segment.mend(step, &mut effects);
    if matches!(step, MendStep::Mended) {
        tracing::info!(segment = %id, complete = %segment.complete(), "segment.mended: it has its vote again");
    }
    turn.take(id, effects, None);
    turn.waiting.push(done);
}

/// Lets only a few segments at once take from the layers of peers, each until it needs no more.
fn permit_layers(segments: &mut BTreeMap<SegmentId, Segment>, copying: &mut BTreeSet<SegmentId>) {
    copying.retain(|id| segments.get(id).is_some_and(Segment::wants_layers));
    for (id, segment) in segments.iter_mut() {
        if segment.wants_layers() && copying.len() < copies::SEGMENTS_MAX {
            copying.insert(*id);
        }
        segment.permit_layers(copying.contains(id));
    }
}

fn tick_segments(node: &Node, turn: &mut Turn, copying: &mut BTreeSet<SegmentId>, forget: bool) {
    let mut segments = node.segments();
    permit_layers(&mut segments, copying);
    let links: usize = segments.values().map(Segment::links_held).sum();
    let journal_bytes = if forget { node.store.status().journal_bytes } else { 0 };
    for (id, segment) in segments.iter_mut() {
        if turn.removed.contains(id) {
            continue;
        }
        let mut effects = Vec::new();
        segment.tick(node.now(), &mut effects);
        if forget {
            let horizon = segment.horizon();
            let crowded = LINKS_MAX < links || node.journal_retained_bytes_max < journal_bytes;
            segment.set_crowded(crowded);
            let through = if crowded { horizon.durable } else { horizon.all_complete };
            let recycle_through = segment.forget(through, &mut effects);
            let horizon = Horizon {
                path: horizon.path,
                durable: horizon.durable,
                floor: horizon.floor,
                recycle_through,
                let_go: horizon.let_go,
            };
            node.store.set_horizon(*id, horizon);
            node.store.let_journal_go(*id, segment.journal_unneeded_through());
        }
        turn.take(*id, effects, None);
    }
}

/// Journals, syncs, and only then lets anything out (DESIGN §4.8: a segment never acknowledges, and never promises, what a
/// power cut can take away).
fn finish(node: &Node, turn: Turn, questions: &mpsc::Sender<Question>) -> Result<(), AppendError> {
    let journaled = if turn.entries.is_empty() {
        Ok(())
    } else {
        let began = Instant::now();
        LOAD.sync_begins(began);
        let synced = node.store.append(&turn.entries).and_then(|()| node.store.sync());
        let took = began.elapsed();
        LOAD.sync_ended(took);
        match &synced {
            Ok(()) => SYNC_SECONDS.observe_duration(took),
            Err(_) => SYNCS_FAILED.increment(),
        }
        synced
    };
    match &journaled {
        Ok(()) => {
            for removed in &turn.removed {
                node.segments().remove(removed);
                tracing::info!(segment = %removed, "segment.remove");
            }
            if !turn.entries.is_empty() {
                node.segments().values_mut().for_each(Segment::synced);
                if node.stopped().is_some() {
                    tracing::info!("journal.resume");
                    node.set_stopped(None);
                }
            }
            for (reply, response) in turn.answers.into_iter().chain(turn.acknowledged.into_values()) {
                reply.send(&response);
            }
            tell(turn.waiting, true);
        }
        Err(error) => {
            roll_back(node, &turn, error);
            let refusal = Response::Refused(Refusal::Stopped {
                what: error.to_string(),
            });
            for (reply, _) in turn.answers.into_iter().chain(turn.acknowledged.into_values()) {
                reply.send(&refusal);
            }
            tell(turn.waiting, false);
        }
    }
    for question in turn.questions {
        // A question that finds the queue full is asked again by a tick, when the segment no longer waits for its answer.
        let _ = questions.try_send(question);
    }
    journaled
}

/// Whoever waits and has gone meanwhile needs no answer.
fn tell(waiting: Vec<oneshot::Sender<bool>>, kept: bool) {
    for done in waiting {
        let _ = done.send(kept);
    }
}

fn roll_back(node: &Node, turn: &Turn, error: &AppendError) {
    let reason = error.to_string();
    if node.stopped().as_ref() != Some(&reason) {
        tracing::error!(%error, "journal.stop: no more log is taken");
        node.set_stopped(Some(reason));
    }
    let mut touched: BTreeMap<SegmentId, Vec<Position>> = BTreeMap::new();
    for entry in &turn.entries {
        match entry {
            JournalEntry::State { segment, .. } => {
                touched.entry(*segment).or_default();
            }
            JournalEntry::Batch { segment, batch } => {
                touched.entry(*segment).or_default().push(batch.batch().position());
            }
        }
    }
    let mut segments = node.segments();
    for (id, batches) in touched {
        match node.store.last_state(id).map(SegmentState::decode) {
            Some(Ok(state)) => {
                if let Some(segment) = segments.get_mut(&id) {
                    segment.roll_back(state, &batches);
                }
            }
            // It was to be created in this turn.
            None => {
                segments.remove(&id);
            }
            Some(Err(error)) => {
                tracing::error!(segment = %id, %error, "segment.damaged");
                if let Some(segment) = segments.get_mut(&id) {
                    segment.damaged();
                }
            }
        }
    }
}
