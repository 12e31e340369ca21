//! A simulated storage node: the real segment above the real page store, with the turns of the real node.
//!
//! Whatever arrives while a sync is running waits for the next turn; what a turn answers leaves after its sync. Reads wait
//! for neither.

use page_store::{Horizon, JournalEntry, ReadError};
use segment::{Effect, Read, Segment};
use units::{Epoch, Position};
use wire_format::message::{Refusal, Request, Response};

use crate::checker::Violation;
use crate::disk::Disk;
use crate::reads;
use crate::world::{Event, World, segment_id};
use crate::{Broken, Promise, broken};

/// Where an answer goes.
#[derive(Clone, Debug)]
pub(crate) enum ReplyTo {
    /// To a writer, as long as its connection is the one the request came on.
    Writer { writer: usize, connection: u64 },
    /// To whoever reads pages in the instance of a writer; each question has its number.
    Reader { writer: usize, question: u64 },
    /// To the segment of another node, as long as that has not been restarted.
    Peer { node: usize, boot: u64 },
}

/// What reaches a node.
#[derive(Debug)]
pub(crate) enum Arrival {
    Request { from: ReplyTo, request: Request },
    Fetched(Option<Response>),
    Tick,
}

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) disk: Disk,
    pub(crate) segment: Option<Segment>,
    pub(crate) up: bool,
    /// Number of its starts: what an earlier life asked for is not for this one.
    pub(crate) boot: u64,
    arrivals: Vec<Arrival>,
    /// What this turn journals.
    entries: Vec<JournalEntry>,
    answers: Vec<(ReplyTo, Response)>,
    busy: bool,
    /// Up to where it was complete, in which reign, when its journal was last synced.
    synced_complete: (Epoch, Position),
}

impl Node {
    pub(crate) fn new(disk: Disk) -> Node {
        Node {
            disk,
            segment: None,
            up: false,
            boot: 0,
            arrivals: Vec::new(),
            entries: Vec::new(),
            answers: Vec::new(),
            busy: false,
            synced_complete: (Epoch::ZERO, Position::ZERO),
        }
    }
}

impl World {
    /// The node starts: it reads its journal back.
    pub(crate) fn start_node(&mut self, at: usize) -> Result<(), Violation> {
        let now = self.now();
        let node = &mut self.nodes[at];
        if node.up {
            return Ok(());
        }
        node.up = true;
        node.boot += 1;
        node.segment = node.disk.start();
        let boot = node.boot;
        let (reign, complete) = node.synced_complete;
        if let Some(segment) = &node.segment
            && segment.horizon().path.epoch() == reign
            && segment.complete().lsn < complete.lsn
            && !self.lost_nodes.contains(&at)
        {
            let found = segment.complete();
            let what = format!(
                "storage-{} was synced up to {complete}, and started with {found}",
                at + 1
            );
            return Err(Promise::QuorumKeeps.broken(what));
        }
        self.schedule(now, Event::NodeTick { node: at, boot });
        self.schedule(now, Event::Maintain { node: at, boot });
        Ok(())
    }

    /// The node's process ends, and perhaps its power goes, and with it everything that was not synced.
    pub(crate) fn stop_node(&mut self, at: usize, power_cut: bool) {
        let node = &mut self.nodes[at];
        if !node.up {
            return;
        }
        node.up = false;
        node.segment = None;
        node.arrivals.clear();
        node.entries.clear();
        node.answers.clear();
        node.busy = false;
        node.disk.stop(power_cut, &mut self.random);
        self.break_links_of(at);
    }

    pub(crate) fn arrive(&mut self, at: usize, arrival: Arrival) {
        let node = &mut self.nodes[at];
        if !node.up {
            return;
        }
        if let Arrival::Request { from, request } = &arrival
            && reads::is_read(request)
        {
            self.permit(at, from, request);
            return;
        }
        node.arrivals.push(arrival);
        if !node.busy {
            node.busy = true;
            let boot = node.boot;
            let pause = self.random.micros(1, 300);
            self.schedule(self.now() + pause, Event::Turn { node: at, boot });
        }
    }

    /// Everything that arrived is decided and journaled.
    pub(crate) fn turn(&mut self, at: usize) {
        for arrival in std::mem::take(&mut self.nodes[at].arrivals) {
            self.decide(at, arrival);
        }
        let full = self.faulty() && self.random.chance(5);
        let room = self.random.below(300) as usize;
        let node = &mut self.nodes[at];
        let appended = if node.entries.is_empty() {
            Ok(())
        } else {
            if full {
                node.disk.fail_next_write(room);
            }
            node.disk.append(&node.entries)
        };
        if let Err(error) = appended
            && self.broken != Some(Broken::FullDiskIgnored)
        {
            node.roll_back(&error.to_string());
        }
        if self.broken == Some(Broken::AnswerBeforeSync) {
            self.send_answers(at);
        }
        let boot = self.nodes[at].boot;
        let sync = self.random.micros(50, 3000);
        self.schedule(self.now() + sync, Event::Synced { node: at, boot });
    }

    fn decide(&mut self, at: usize, arrival: Arrival) {
        let now = self.now();
        let node = &mut self.nodes[at];
        let mut effects = Vec::new();
        let Some(segment) = &mut node.segment else {
            if let Arrival::Request { from, request } = arrival
                && let Some(segment) = request.segment()
            {
                let refusal = Response::Refused(Refusal::UnknownSegment { segment });
                node.answers.push((from, refusal));
            }
            return;
        };
        let mut reply = None;
        let mut keeps_state = true;
        match arrival {
            Arrival::Request { from, request } => {
                let looks = matches!(request, Request::Promise { .. });
                keeps_state = !(looks && self.broken == Some(Broken::ForgetPromise));
                reply = Some(from);
                let request = broken::asked(self.broken, segment, &node.disk, request);
                if looks && self.broken == Some(Broken::LookWithoutFencing) {
                    // The answer of a segment that promised; but the one that goes on has not.
                    segment.clone().request(&request, &mut effects);
                    effects.retain(|effect| matches!(effect, Effect::Answer(_)));
                } else {
                    segment.request(&request, &mut effects);
                }
                for effect in &mut effects {
                    if let Effect::Answer(response) = effect {
                        *response = broken::answered(self.broken, &request, response.clone());
                    }
                }
            }
            Arrival::Fetched(response) => {
                // A peer that cannot help is no failure: the next one is asked.
                let _ = segment.fetched(now, response, &mut effects);
            }
            Arrival::Tick => {
                segment.tick(now, &mut effects);
                let horizon = segment.horizon();
                let needed_by_none = match self.broken {
                    Some(Broken::ForgetsTheSlowest) => horizon.durable,
                    _ => horizon.all_complete,
                };
                let recycle_through = segment.forget(needed_by_none, &mut effects);
                let mut horizon = Horizon {
                    path: horizon.path,
                    durable: horizon.durable,
                    floor: horizon.floor,
                    recycle_through,
                };
                if self.broken == Some(Broken::FoldsAboveDurable) {
                    horizon.durable = segment.complete();
                    (horizon.floor, horizon.recycle_through) = (horizon.durable, horizon.durable);
                }
                node.disk.store().set_horizon(segment_id(at), horizon);
            }
        }
        for effect in effects {
            self.perform(at, effect, reply.as_ref(), keeps_state);
        }
    }

    fn perform(&mut self, at: usize, effect: Effect, reply: Option<&ReplyTo>, keeps_state: bool) {
        let node = &mut self.nodes[at];
        let segment = segment_id(at);
        match effect {
            Effect::KeepState(bytes) if keeps_state => node.entries.push(JournalEntry::State { segment, bytes }),
            Effect::KeepState(_) => {}
            Effect::KeepBatch(batch) => node.entries.push(JournalEntry::Batch { segment, batch }),
            Effect::Answer(response) => node.answers.extend(reply.cloned().map(|reply| (reply, response))),
            Effect::Read(_) => unreachable!("reads do not wait for a turn"),
            Effect::Remove | Effect::Take { .. } => unreachable!("no segment of a history takes another's place"),
            Effect::Fetch { peer, request } => {
                let from = ReplyTo::Peer {
                    node: at,
                    boot: node.boot,
                };
                self.ask_peer(from, &peer, request);
            }
        }
    }

    /// The sync came back.
    pub(crate) fn synced(&mut self, at: usize) {
        let fails = self.faulty() && self.random.chance(3);
        let node = &mut self.nodes[at];
        if !std::mem::take(&mut node.entries).is_empty() {
            if fails {
                node.disk.fail_syncs();
            }
            if node.disk.sync().is_err() {
                // Nobody knows what the journal holds: only a restart tells.
                let power_cut = self.random.chance(500);
                self.stop_node(at, power_cut);
                let pause = self.random.millis(5, 200);
                self.schedule(self.now() + pause, Event::StartNode { node: at });
                return;
            }
            if let Some(segment) = &mut node.segment {
                segment.synced();
                node.synced_complete = (segment.horizon().path.epoch(), segment.complete());
            }
        }
        let more = !node.arrivals.is_empty();
        node.busy = more;
        let boot = node.boot;
        self.send_answers(at);
        if more {
            self.schedule(self.now(), Event::Turn { node: at, boot });
        }
    }

    fn send_answers(&mut self, at: usize) {
        for (to, response) in std::mem::take(&mut self.nodes[at].answers) {
            self.answer(at, to, response);
        }
    }

    pub(crate) fn tick_node(&mut self, at: usize, boot: u64) {
        self.arrive(at, Arrival::Tick);
        let pause = self.random.millis(20, 30);
        self.schedule(self.now() + pause, Event::NodeTick { node: at, boot });
    }

    /// A step of background work.
    pub(crate) fn maintain(&mut self, at: usize, boot: u64) {
        let done = self.nodes[at].disk.store().maintain(&|| ());
        assert!(
            done.is_ok() || self.lost_nodes.contains(&at),
            "background work on a sound disk failed: {done:?}"
        );
        let pause = self.random.millis(1, 80);
        self.schedule(self.now() + pause, Event::Maintain { node: at, boot });
    }

    /// A read is answered without waiting for the journal: permitted now, carried out a little later.
    fn permit(&mut self, at: usize, from: &ReplyTo, request: &Request) {
        let permitted = match &mut self.nodes[at].segment {
            Some(segment) => reads::permit(segment, request, self.broken),
            None => Err(Refusal::UnknownSegment {
                segment: segment_id(at),
            }),
        };
        match permitted {
            Ok(read) => {
                let event = Event::Read {
                    node: at,
                    boot: self.nodes[at].boot,
                    to: from.clone(),
                    read: Box::new(read),
                };
                let pause = if self.random.chance(100) {
                    self.random.millis(1, 150)
                } else {
                    self.random.micros(1, 500)
                };
                self.schedule(self.now() + pause, event);
            }
            Err(refusal) => self.answer(at, from.clone(), Response::Refused(refusal)),
        }
    }

    pub(crate) fn read(&mut self, at: usize, to: ReplyTo, read: Read) -> Result<(), Violation> {
        let response = match reads::carry_out(self.nodes[at].disk.store(), segment_id(at), read) {
            Ok(response) => response,
            Err(ReadError::NoFlush(_)) => return Ok(()),
            Err(error) if self.lost_nodes.contains(&at) => Response::Refused(Refusal::Damaged {
                what: error.to_string(),
            }),
            Err(error) => {
                let what = format!("storage-{} lost nothing and permitted a read, but: {error}", at + 1);
                return Err(Promise::PagesAreExact.broken(what));
            }
        };
        self.answer(at, to, response);
        Ok(())
    }
}

impl Node {
    /// The journal did not take this turn: the segment forgets it, and nobody is told anything else.
    fn roll_back(&mut self, error: &str) {
        let batches = self.entries.drain(..).filter_map(|entry| match entry {
            JournalEntry::Batch { batch, .. } => Some(batch.batch().position()),
            JournalEntry::State { .. } => None,
        });
        let batches: Vec<_> = batches.collect();
        if let (Some(segment), Some(state)) = (&mut self.segment, self.disk.last_state()) {
            segment.roll_back(state, &batches);
        }
        for (_, response) in &mut self.answers {
            *response = Response::Refused(Refusal::Stopped { what: error.to_owned() });
        }
    }
}
