//! Copies that lost something are mended in their place, as the mending thread of a storage node does it.
//!
//! What is lost, what is asked for and how it is put in place is the real scrub's, [`Mend`]'s and [`JournalMend`]'s; when a copy
//! has its vote again is the real segment's. Around them is what the node's thread does: one thing after the other, one peer after
//! the other, and again a little later if nobody could help.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use page_store::{JournalMend, LostBatch, Mend, PageStore};
use segment::{MendStep, Needs, Segment};
use units::{Position, SegmentId};
use wire_format::EncodedBatch;
use wire_format::message::{Member, Refusal, Request, Response};

use crate::Broken;
use crate::event::Event;
use crate::network::Asked;
use crate::node::{Arrival, ReplyTo};
use crate::random::Random;
use crate::tally::Fault;
use crate::world::World;

/// How long a peer may take for its answer.
const ANSWER_LIMIT: Duration = Duration::from_millis(150);
/// Bytes of versions asked of a peer at once: so few that it takes several answers.
const BYTES_MAX: u32 = 2000;
/// How often a look finds time to scrub the whole disk, in a thousand.
const SCRUBS: u64 = 200;
/// How often a crash strikes a step, in a thousand, and after how many changes of the disk at most.
const CRASHES: u64 = 20;
const CHANGES: u64 = 12;

/// The mending of a file of the journal.
struct JournalJob {
    mend: JournalMend,
    /// What is still to come, the next one last.
    wanted: Vec<LostBatch>,
    batches: BTreeMap<LostBatch, EncodedBatch>,
    /// Peers that did not have the next one, and whether one of them has let it go.
    refused: usize,
    let_go: bool,
}

/// The mending of a segment's layers.
struct LayersJob {
    segment: SegmentId,
    needs: Needs,
    mend: Mend,
    /// The highest of those that gave.
    floor: Position,
    /// Whose turn it is to give, and how many in a row did not.
    turn: usize,
    refused: usize,
}

/// What is being mended.
enum Job {
    Journal(JournalJob),
    Layers(LayersJob),
    /// What the journal lost is forgotten once that is synced.
    LetGo,
    /// The segment has its vote again once that is synced.
    Vote {
        segment: SegmentId,
    },
}

/// The mending thread of a node that runs.
pub(crate) struct Mender {
    random: Random,
    job: Option<Job>,
    /// The question that an answer is awaited to, and until when.
    asked: Option<(u64, Duration)>,
    /// What the segment was told in this turn; `false`: the journal did not take it.
    pub(crate) kept: Option<bool>,
    segments_not_before: BTreeMap<SegmentId, Duration>,
    journal_not_before: Duration,
}

impl fmt::Debug for Mender {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let asked = &self.asked;
        out.debug_struct("Mender").field("asked", asked).finish_non_exhaustive()
    }
}

impl Mender {
    pub(crate) fn new(random: Random) -> Mender {
        Mender {
            random,
            job: None,
            asked: None,
            kept: None,
            segments_not_before: BTreeMap::new(),
            journal_not_before: Duration::ZERO,
        }
    }

    /// The process ends: what it was about to mend is forgotten.
    pub(crate) fn forget(&mut self) {
        *self = Mender::new(self.random.fork());
    }
}

impl World {
    /// The thread looks what there is to do.
    pub(crate) fn mend(&mut self, at: usize, boot: u64) {
        let mender = &mut self.nodes[at].mender;
        let pause = mender.random.millis(5, 120);
        let scrubs = mender.random.chance(SCRUBS);
        self.schedule(self.now() + pause, Event::Mend { node: at, boot });
        let node = &self.nodes[at];
        if !node.disk.rots() || self.broken == Some(Broken::RotForgotten) {
            return;
        }
        if scrubs && node.disk.scrub() && node.segments.values().all(Segment::vouches) {
            self.nodes[at].disk.is_sound_again();
        }
        self.note_rot(at);
        let mender = &mut self.nodes[at].mender;
        match (&mender.job, mender.asked) {
            (None, _) => self.begin_mending(at),
            (Some(_), Some((_, until))) if until < self.now => {
                mender.asked = None;
                self.given(at, None);
            }
            (Some(_), _) => {}
        }
    }

    /// What the store of a node found lost costs its segments their votes.
    pub(crate) fn note_rot(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        for id in node.disk.store().damaged() {
            if let Some(segment) = node.segments.get_mut(&id) {
                segment.damaged();
            }
        }
    }

    fn begin_mending(&mut self, at: usize) {
        let now = self.now;
        let node = &self.nodes[at];
        let (store, mender) = (node.disk.store(), &node.mender);
        if mender.journal_not_before <= now
            && let Some(start) = store.rotten_journal_files().first().copied()
        {
            return self.begin_with_journal(at, start);
        }
        let waits = |id: &SegmentId| mender.segments_not_before.get(id).is_some_and(|until| now < *until);
        let lacking = node
            .segments
            .iter()
            .filter(|(id, segment)| segment.is_to_be_mended() && store.is_mendable(**id));
        if let Some(segment) = lacking.map(|(id, _)| *id).find(|id| !waits(id)) {
            self.begin_with_layers(at, segment);
        }
    }

    fn begin_with_journal(&mut self, at: usize, start: u64) {
        match self.carefully(at, |store| store.begin_journal_mend(start)) {
            None | Some(Ok(None)) => {}
            Some(Ok(Some(mend))) => {
                let wanted = mend.lost().collect();
                self.nodes[at].mender.job = Some(Job::Journal(JournalJob {
                    mend,
                    wanted,
                    batches: BTreeMap::new(),
                    refused: 0,
                    let_go: false,
                }));
                self.go_on_mending(at);
            }
            Some(Err(_)) => self.mend_later(at, None),
        }
    }

    fn begin_with_layers(&mut self, at: usize, segment: SegmentId) {
        match self.carefully(at, |store| store.begin_mend(segment)) {
            None => {}
            Some(Ok(None)) if self.nodes[at].disk.store().is_damaged(segment) => self.mend_later(at, Some(segment)),
            Some(Ok(None)) => self.give_vote(at, segment),
            Some(Ok(Some(mend))) => {
                let node = &mut self.nodes[at];
                let needs = node.segments[&segment].sources();
                let through = mend.needs_through(&needs.path);
                node.mender.job = Some(Job::Layers(LayersJob {
                    segment,
                    needs: needs.bounded(through),
                    mend,
                    floor: Position::ZERO,
                    turn: 0,
                    refused: 0,
                }));
                self.go_on_mending(at);
            }
            Some(Err(_)) => self.mend_later(at, Some(segment)),
        }
    }

    /// Does something to the store of a node, in which a crash may strike: then there is nothing more to do.
    fn carefully<T>(&mut self, at: usize, act: impl FnOnce(&PageStore) -> T) -> Option<T> {
        let faulty = self.faulty() && 0 < self.weather.strength(Fault::CrashInUpkeep);
        let node = &mut self.nodes[at];
        if faulty && node.mender.random.chance(CRASHES) {
            let changes = node.mender.random.below(CHANGES);
            node.disk.stop_after(changes);
        }
        let done = act(node.disk.store());
        if node.disk.stopped() {
            drop(done);
            self.crash_here(at, Fault::CrashInUpkeep);
            return None;
        }
        Some(done)
    }

    fn mend_later(&mut self, at: usize, segment: Option<SegmentId>) {
        let mender = &mut self.nodes[at].mender;
        mender.job = None;
        mender.asked = None;
        let until = self.now + mender.random.millis(20, 200);
        match segment {
            Some(segment) => drop(mender.segments_not_before.insert(segment, until)),
            None => mender.journal_not_before = until,
        }
    }

    fn give_vote(&mut self, at: usize, segment: SegmentId) {
        self.nodes[at].mender.job = Some(Job::Vote { segment });
        self.tell_segment(at, segment, MendStep::Mended);
    }

    fn tell_segment(&mut self, at: usize, segment: SegmentId, step: MendStep) {
        self.arrive(at, Arrival::Mending { segment, step });
    }

    /// Asks for the next of what is wanted, or puts everything in place.
    fn go_on_mending(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let (peer, request) = match &mut node.mender.job {
            Some(Job::Journal(job)) => {
                let segments = &node.segments;
                let sources = |lost: &LostBatch| {
                    let segment = segments.get(&lost.segment)?;
                    segment.claims(lost.position).then(|| segment.sources())
                };
                while job.wanted.pop_if(|lost| sources(lost).is_none()).is_some() {
                    (job.refused, job.let_go) = (0, false);
                }
                if self.broken == Some(Broken::LostLogLeftOut) {
                    job.wanted.clear();
                }
                let Some(lost) = job.wanted.last().copied() else {
                    return self.end_journal_mend(at);
                };
                let sources = sources(&lost).expect("what nobody claims to have is not wanted");
                let Some(peer) = sources.peers.get(job.refused).cloned() else {
                    if !job.let_go {
                        return self.mend_later(at, None);
                    }
                    node.mender.job = Some(Job::LetGo);
                    return self.tell_segment(at, lost.segment, MendStep::LetGo(lost.position));
                };
                let request = sources.batch_of(&peer, lost.position);
                (peer, request)
            }
            Some(Job::Layers(job)) => {
                let (segment, floor) = (job.segment, job.floor);
                let Some(from) = job.mend.wants() else {
                    return self.tell_segment(at, segment, MendStep::LackBelow(floor));
                };
                let peers = &job.needs.peers;
                if job.refused == peers.len() {
                    return self.mend_later(at, Some(segment));
                }
                let peer = peers[job.turn % peers.len()].clone();
                let request = job.needs.versions_of(&peer, from, BYTES_MAX);
                (peer, request)
            }
            Some(Job::LetGo | Job::Vote { .. }) | None => return,
        };
        self.ask_for_lost(at, &peer, request);
    }

    fn ask_for_lost(&mut self, at: usize, peer: &Member, request: Request) {
        let number = self.next_number();
        let node = &mut self.nodes[at];
        node.mender.asked = Some((number, self.now + ANSWER_LIMIT));
        let from = ReplyTo::Peer {
            node: at,
            boot: node.boot,
            segment: peer.segment,
            asked: Asked::Lost(number),
        };
        self.ask_peer(from, peer, request);
    }

    /// A peer answered, or did not.
    pub(crate) fn given_back(&mut self, at: usize, number: u64, response: Option<Response>) {
        let mender = &mut self.nodes[at].mender;
        // Otherwise the thread had given up waiting.
        if mender.asked.take_if(|(asked, _)| *asked == number).is_some() {
            self.given(at, response);
        }
    }

    fn given(&mut self, at: usize, response: Option<Response>) {
        let Some(mut job) = self.nodes[at].mender.job.take() else {
            return;
        };
        let any_will_do = self.broken == Some(Broken::MendsFromLaggards);
        match &mut job {
            Job::Journal(job) => {
                let given = match response {
                    Some(Response::Batches(given)) => given,
                    Some(Response::Refused(Refusal::LogCollected { .. })) => {
                        job.let_go = true;
                        Vec::new()
                    }
                    _ => Vec::new(),
                };
                let mut given = given.into_iter();
                let is_it = |lost: &mut LostBatch| given.find(|batch| batch.batch().position() == lost.position);
                match job.wanted.last_mut().and_then(is_it) {
                    Some(batch) => {
                        (job.refused, job.let_go) = (0, false);
                        job.batches.extend(job.wanted.pop().map(|lost| (lost, batch)));
                    }
                    None => job.refused += 1,
                }
            }
            Job::Layers(job) => match response {
                Some(Response::Versions(versions)) if any_will_do || job.needs.through <= versions.through.lsn => {
                    job.refused = 0;
                    if job.floor.lsn < versions.floor.lsn {
                        job.floor = versions.floor;
                    }
                    match self.carefully(at, |store| store.mend(&mut job.mend, &versions)) {
                        None => return,
                        Some(Ok(())) => {}
                        Some(Err(_)) => return self.mend_later(at, Some(job.segment)),
                    }
                }
                _ => {
                    job.turn += 1;
                    job.refused += 1;
                }
            },
            Job::LetGo | Job::Vote { .. } => {}
        }
        self.nodes[at].mender.job = Some(job);
        self.go_on_mending(at);
    }

    fn end_journal_mend(&mut self, at: usize) {
        let Some(Job::Journal(JournalJob { mend, batches, .. })) = self.nodes[at].mender.job.take() else {
            return;
        };
        if let Some(Err(_)) = self.carefully(at, |store| store.end_journal_mend(mend, &batches)) {
            self.mend_later(at, None);
        }
    }

    /// What a segment was told is synced, or was not taken.
    pub(crate) fn mending_told(&mut self, at: usize, kept: bool) {
        match self.nodes[at].mender.job.take() {
            Some(Job::Layers(LayersJob { segment, mend, .. })) if kept => {
                match self.carefully(at, |store| store.end_mend(mend)) {
                    None => {}
                    Some(Ok(true)) if !self.nodes[at].disk.store().is_damaged(segment) => self.give_vote(at, segment),
                    Some(Ok(true)) => {}
                    Some(_) => self.mend_later(at, Some(segment)),
                }
            }
            Some(Job::Vote { .. }) if kept => self.mended += 1,
            Some(Job::Layers(LayersJob { segment, .. }) | Job::Vote { segment }) => self.mend_later(at, Some(segment)),
            Some(Job::LetGo) => self.mend_later(at, None),
            Some(Job::Journal(_)) | None => {}
        }
    }
}
