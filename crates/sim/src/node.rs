//! A simulated storage node: the real segment above a simulated disk, with the turns of the real node.
//!
//! Whatever arrives while a sync is running waits for the next turn; what a turn answers leaves after its sync.

use segment::{Effect, Read, Segment, SegmentState};
use units::Position;
use wire_format::message::{Refusal, Request, Response};

use crate::Broken;
use crate::disk::{Disk, Entry};
use crate::world::{Event, World};

/// Where an answer goes.
#[derive(Clone, Debug)]
pub(crate) enum ReplyTo {
    /// To a writer, as long as its connection is the one the request came on.
    Writer { writer: usize, connection: u64 },
    /// To the segment of another node, as long as that has not been restarted.
    Peer { node: usize, boot: u64 },
}

/// What a turn takes in.
#[derive(Debug)]
pub(crate) enum Arrival {
    Request { from: ReplyTo, request: Request },
    Fetched(Option<Response>),
    Tick,
}

/// One node.
#[derive(Default, Debug)]
pub(crate) struct Node {
    pub(crate) disk: Disk,
    pub(crate) segment: Option<Segment>,
    pub(crate) up: bool,
    /// Number of its starts: what an earlier life asked for is not for this one.
    pub(crate) boot: u64,
    arrivals: Vec<Arrival>,
    answers: Vec<(ReplyTo, Response)>,
    busy: bool,
}

impl World {
    /// The node starts: it reads its journal back.
    pub(crate) fn start_node(&mut self, at: usize) {
        let now = self.now();
        let node = &mut self.nodes[at];
        if node.up {
            return;
        }
        node.up = true;
        node.boot += 1;
        node.segment = node.disk.recover();
        let boot = node.boot;
        self.schedule(now, Event::NodeTick { node: at, boot });
    }

    /// The power goes, and with it everything that was not synced.
    pub(crate) fn stop_node(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if !node.up {
            return;
        }
        node.up = false;
        node.segment = None;
        node.arrivals.clear();
        node.answers.clear();
        node.busy = false;
        node.disk.power_cut(&mut self.random);
        self.break_links_of(at);
    }

    pub(crate) fn arrive(&mut self, at: usize, arrival: Arrival) {
        let node = &mut self.nodes[at];
        if !node.up {
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
                if looks && self.broken == Some(Broken::LookWithoutFencing) {
                    // The answer of a segment that promised; but the one that goes on has not.
                    let state = SegmentState::decode(segment.state()).expect("a state reads back");
                    let links = node.disk.batches().map(|batch| segment::Link::of(batch.batch()));
                    Segment::recover(state, links.collect(), segment.vouches()).request(&request, &mut effects);
                    effects.retain(|effect| matches!(effect, Effect::Answer(_)));
                } else {
                    segment.request(&request, &mut effects);
                }
            }
            Arrival::Fetched(response) => {
                // A peer that cannot help is no failure: the next one is asked.
                let _ = segment.fetched(now, response, &mut effects);
            }
            Arrival::Tick => {
                segment.tick(now, &mut effects);
                let through = segment.horizon().all_complete;
                segment.forget(through, &mut effects);
            }
        }
        for effect in effects {
            self.perform(at, effect, reply.as_ref(), keeps_state);
        }
    }

    fn perform(&mut self, at: usize, effect: Effect, reply: Option<&ReplyTo>, keeps_state: bool) {
        let node = &mut self.nodes[at];
        match effect {
            Effect::KeepState(bytes) if keeps_state => node.disk.write(Entry::State(bytes)),
            Effect::KeepState(_) => {}
            Effect::KeepBatch(batch) => node.disk.write(Entry::Batch(batch)),
            Effect::Answer(response) => node.answers.extend(reply.cloned().map(|reply| (reply, response))),
            Effect::Read(read) => {
                let response = carry_out(&node.disk, &read);
                node.answers.extend(reply.cloned().map(|reply| (reply, response)));
            }
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
        let failed = self.faulty() && self.random.chance(3);
        let node = &mut self.nodes[at];
        if failed {
            let (state, batches) = node.disk.discard_written();
            if let (Some(segment), Some(state)) = (&mut node.segment, state) {
                segment.roll_back(state, &batches);
            }
            for (_, response) in &mut node.answers {
                *response = Response::Refused(Refusal::Stopped {
                    what: "the sync failed".to_owned(),
                });
            }
        } else {
            node.disk.sync();
            if let Some(segment) = &mut node.segment {
                segment.synced();
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
}

/// Reads what the segment permitted.
fn carry_out(disk: &Disk, read: &Read) -> Response {
    match read {
        Read::Batches { positions, bytes_max } => {
            let mut batches = Vec::new();
            let mut bytes = 0;
            for position in positions {
                let found = disk.batches().find(|batch| batch.batch().position() == *position);
                let Some(batch) = found.filter(|_| bytes < *bytes_max as usize) else {
                    break;
                };
                bytes += batch.bytes().len();
                batches.push(batch.clone());
            }
            Response::Batches(batches)
        }
        Read::FlushHeader { path, at } => match disk.last_flush(path, *at) {
            Some(batch) => flush_header(batch.batch()),
            None => Response::Refused(Refusal::NotComplete {
                complete: Position::ZERO,
                needed: Position::new(path.epoch(), *at),
            }),
        },
        Read::Pages { .. } | Read::Catalog { .. } => unreachable!("no simulated writer reads pages"),
    }
}

fn flush_header(batch: &wire_format::Batch) -> Response {
    let header = batch.header.as_ref().expect("group 0's batches have headers");
    Response::FlushHeader {
        end: batch.position(),
        previous: batch.previous,
        boundary: header.boundary,
        marks: header.marks.clone(),
    }
}
