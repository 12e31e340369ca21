//! A simulated storage node: the real segment above the real page store, with the turns of the real node.
//!
//! Whatever arrives while a sync is running waits for the next turn; what a turn answers leaves after its sync. Reads wait
//! for neither.

use std::time::Duration;

use page_store::{AppendError, Horizon, JournalEntry, ReadError};
use segment::{Effect, PartId, Read, Segment};
use units::Position;
use wire_format::message::{Refusal, Request, Response, VersionCursor};

use crate::checker::Violation;
use crate::disk::{Disk, NotStarted};
use crate::reads;
use crate::tally::Fault;
use crate::told::Told;
use crate::world::{Event, World, segment_id};
use crate::{Broken, Promise, broken};

/// Changes of the disk after which a crash strikes, at most, in the middle of a start, a journal write, or background work.
const START_CHANGES: u64 = 12;
const APPEND_CHANGES: u64 = 5;
const UPKEEP_CHANGES: u64 = 20;

/// Where an answer goes.
#[derive(Clone, Debug)]
pub(crate) enum ReplyTo {
    /// To a writer, as long as its connection is the one the request came on.
    Writer { writer: usize, connection: u64 },
    /// To whoever reads pages in the instance of a writer; each question has its number.
    Reader { writer: usize, question: u64 },
    /// To the segment of another node, as long as that has not been restarted.
    Peer {
        node: usize,
        boot: u64,
        /// Which part of what it takes from layers it asked for, and from where on.
        part: Option<(PartId, Box<VersionCursor>)>,
    },
}

/// What reaches a node.
#[derive(Debug)]
pub(crate) enum Arrival {
    Request {
        from: ReplyTo,
        request: Request,
        /// Its number among all messages.
        sent: u64,
    },
    Fetched(Option<Response>),
    /// A peer gave versions, or did not.
    Versions {
        part: PartId,
        from: Box<VersionCursor>,
        response: Option<Response>,
    },
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
    /// What waits for a paused node; `None`: it runs.
    pub(crate) frozen: Option<Vec<Event>>,
    /// Its disk takes its time until then.
    pub(crate) slow_until: Duration,
    /// Up to here it took from the layers of peers, and has not synced that yet.
    layered: Position,
    /// Where the clock of its present life began.
    clock_began: Duration,
    /// What it told others, and a power cut must not take.
    pub(crate) told: Told,
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
            frozen: None,
            slow_until: Duration::ZERO,
            layered: Position::ZERO,
            clock_began: Duration::ZERO,
            told: Told::default(),
        }
    }
}

impl World {
    /// The node starts: it reads its journal back, if it does not crash meanwhile.
    pub(crate) fn start_node(&mut self, at: usize) -> Result<(), Violation> {
        if self.nodes[at].up {
            return Ok(());
        }
        let changes = match self.strikes(Fault::CrashInStart, 100) {
            true => Some(self.random.below(START_CHANGES)),
            false => None,
        };
        let began = self.random.millis(1, 100_000);
        let broken = self.broken;
        let node = &mut self.nodes[at];
        match node.disk.start(broken, changes) {
            Ok(segment) => node.segment = segment,
            Err(NotStarted::Damaged(what)) => {
                let what = format!("the disk of storage-{} lost nothing, but: {what}", at + 1);
                return Err(Promise::PowerTakesNothing.broken(what));
            }
            Err(NotStarted::Yet) => {
                if changes.is_some() {
                    self.note(Fault::CrashInStart, Some(at));
                }
                let power_cut = self.random.chance(500);
                self.cut_power(at, power_cut);
                let pause = self.random.millis(5, 100);
                self.schedule(self.now() + pause, Event::StartNode { node: at });
                return Ok(());
            }
        }
        node.up = true;
        node.boot += 1;
        node.clock_began = began;
        let boot = node.boot;
        if let Some(segment) = &node.segment
            && !self.lost_nodes.contains(&at)
        {
            node.told.still_holds(at, segment)?;
        }
        self.schedule(self.now(), Event::NodeTick { node: at, boot });
        self.schedule(self.now(), Event::Maintain { node: at, boot });
        Ok(())
    }

    fn cut_power(&mut self, at: usize, power_cut: bool) {
        let cut = self.nodes[at].disk.stop(power_cut, &mut self.random);
        self.note_power_cut(at, cut);
    }

    /// The node crashed in the middle of something: it starts again soon.
    fn crash_here(&mut self, at: usize, fault: Fault) {
        self.note(fault, Some(at));
        let power_cut = self.random.chance(500);
        self.crash(at, power_cut, 5, 200);
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
        node.frozen = None;
        node.layered = Position::ZERO;
        node.slow_until = Duration::ZERO;
        self.cut_power(at, power_cut);
        self.break_links_of(at);
    }

    pub(crate) fn arrive(&mut self, at: usize, arrival: Arrival) {
        let node = &mut self.nodes[at];
        if !node.up {
            return;
        }
        self.messages += 1;
        if let Arrival::Request { from, sent, .. } = &arrival {
            self.note_order(at, from, *sent);
        }
        if let Arrival::Request { from, request, .. } = &arrival
            && reads::is_read(request)
        {
            self.permit(at, from, request);
            return;
        }
        let node = &mut self.nodes[at];
        node.arrivals.push(arrival);
        if !node.busy {
            node.busy = true;
            let boot = node.boot;
            let pause = self.random.micros(1, 300);
            self.schedule(self.now() + pause, Event::Turn { node: at, boot });
        }
    }

    /// Everything that arrived is decided and journaled.
    pub(crate) fn turn(&mut self, at: usize) -> Result<(), Violation> {
        for arrival in std::mem::take(&mut self.nodes[at].arrivals) {
            self.decide(at, arrival);
        }
        if !self.nodes[at].entries.is_empty() {
            if self.strikes(Fault::WriteFailed, 5) {
                let room = self.random.below(300) as usize;
                self.note(Fault::WriteFailed, Some(at));
                self.nodes[at].disk.fail_next_write(room);
            }
            if self.strikes(Fault::CrashInAppend, 3) {
                self.nodes[at].disk.stop_after(self.random.below(APPEND_CHANGES));
            }
            let node = &mut self.nodes[at];
            let appended = node.disk.append(&node.entries);
            if node.disk.stopped() {
                self.crash_here(at, Fault::CrashInAppend);
                return Ok(());
            }
            match appended {
                Ok(()) => {}
                Err(AppendError::Closed(_)) => {
                    self.crash(at, false, 5, 200);
                    return Ok(());
                }
                Err(_) if self.broken == Some(Broken::FullDiskIgnored) => {}
                Err(error) => node.roll_back(&error.to_string()),
            }
        }
        if self.broken == Some(Broken::AnswerBeforeSync) {
            self.send_answers(at)?;
        }
        let boot = self.nodes[at].boot;
        let sync = match self.now() < self.nodes[at].slow_until {
            true => self.random.millis(10, 200),
            false => self.random.micros(50, 3000),
        };
        self.schedule(self.now() + sync, Event::Synced { node: at, boot });
        Ok(())
    }

    fn decide(&mut self, at: usize, arrival: Arrival) {
        let node = &mut self.nodes[at];
        let now = self.now + node.clock_began;
        let mut effects = Vec::new();
        let Some(segment) = &mut node.segment else {
            if let Arrival::Request { from, request, .. } = arrival
                && let Some(segment) = request.segment()
            {
                let refusal = Response::Refused(Refusal::UnknownSegment { segment });
                node.answers.push((from, refusal));
            }
            return;
        };
        let mut reply = None;
        let mut keeps_state = true;
        let ticks = matches!(arrival, Arrival::Tick);
        match arrival {
            Arrival::Request { from, request, .. } => {
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
            Arrival::Versions { part, from, response } => {
                let complete = segment.complete();
                let store = node.disk.store();
                if let Some(taken) = reads::take(store, segment_id(at), part, *from, response, self.broken) {
                    // As above.
                    let _ = segment.taken(now, part, taken, &mut effects);
                }
                if complete < segment.complete() {
                    node.layered = segment.complete();
                    self.layered += 1;
                }
            }
            Arrival::Tick => {
                segment.permit_layers(true);
                segment.tick(now, &mut effects);
                let horizon = segment.horizon();
                let crowded = self.weather.crowded && node.disk.is_crowded();
                segment.set_crowded(crowded);
                let needed_by_none = if crowded { horizon.durable } else { horizon.all_complete };
                let recycle_through = segment.forget(needed_by_none, &mut effects);
                let mut horizon = Horizon {
                    path: horizon.path,
                    durable: horizon.durable,
                    floor: horizon.floor,
                    recycle_through,
                    let_go: horizon.let_go,
                };
                if self.broken == Some(Broken::RecyclesTooEarly) {
                    horizon.recycle_through = segment.complete();
                }
                if self.broken == Some(Broken::FoldsAboveDurable) {
                    horizon.durable = segment.complete();
                    (horizon.floor, horizon.recycle_through) = (horizon.durable, horizon.durable);
                }
                node.disk.store().set_horizon(segment_id(at), horizon);
                let unneeded = segment.journal_unneeded_through();
                node.disk.store().let_journal_go(segment_id(at), unneeded);
            }
        }
        self.ticks += u64::from(ticks && !effects.is_empty());
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
            Effect::Remove => unreachable!("no segment of a history is removed"),
            Effect::Take { peer, request, part } => {
                let Request::FetchVersions { from: begin, .. } = &request else {
                    unreachable!("versions are asked for by key")
                };
                let from = ReplyTo::Peer {
                    node: at,
                    boot: node.boot,
                    part: Some((part, Box::new(begin.clone()))),
                };
                self.ask_peer(from, &peer, request);
            }
            Effect::Fetch { peer, request } => {
                let from = ReplyTo::Peer {
                    node: at,
                    boot: node.boot,
                    part: None,
                };
                self.ask_peer(from, &peer, request);
            }
        }
    }

    /// The sync came back.
    pub(crate) fn synced(&mut self, at: usize) -> Result<(), Violation> {
        if !std::mem::take(&mut self.nodes[at].entries).is_empty() {
            let fails = self.strikes(Fault::SyncFailed, 3);
            let crashes = !fails && self.strikes(Fault::CrashInSync, 3);
            let believed = fails && self.broken == Some(Broken::FailedSyncTrusted);
            let disk = &mut self.nodes[at].disk;
            disk.lie_about_syncs(believed);
            disk.fail_syncs(fails && !believed);
            if crashes {
                disk.stop_after(0);
            }
            let synced = disk.sync();
            disk.lie_about_syncs(false);
            if disk.stopped() {
                self.crash_here(at, Fault::CrashInSync);
                return Ok(());
            }
            if synced.is_err() {
                // Nobody knows what the journal holds: only a restart tells.
                self.crash_here(at, Fault::SyncFailed);
                return Ok(());
            }
            let node = &mut self.nodes[at];
            if let Some(segment) = &mut node.segment {
                segment.synced();
            }
            // What it took from the layers of peers stands for the batches.
            let layered = std::mem::take(&mut node.layered);
            node.disk.keep(self.checker.history(layered));
        }
        let node = &mut self.nodes[at];
        let more = !node.arrivals.is_empty();
        node.busy = more;
        let boot = node.boot;
        self.send_answers(at)?;
        if more {
            self.schedule(self.now(), Event::Turn { node: at, boot });
        }
        Ok(())
    }

    fn send_answers(&mut self, at: usize) -> Result<(), Violation> {
        for (to, response) in std::mem::take(&mut self.nodes[at].answers) {
            let node = &mut self.nodes[at];
            node.told.tell(&response);
            if !self.lost_nodes.contains(&at) {
                node.told.is_true(at, &self.checker, &node.disk)?;
            }
            self.answer(at, to, response);
        }
        Ok(())
    }

    pub(crate) fn tick_node(&mut self, at: usize, boot: u64) {
        self.arrive(at, Arrival::Tick);
        let pause = self.random.millis(20, 30);
        self.schedule(self.now() + pause, Event::NodeTick { node: at, boot });
    }

    /// A step of background work.
    pub(crate) fn maintain(&mut self, at: usize, boot: u64) {
        let sync_fails = self.strikes(Fault::UpkeepSyncFailed, 20);
        let disk = &self.nodes[at].disk;
        disk.fail_syncs(sync_fails);
        if self.strikes(Fault::CrashInUpkeep, 20) {
            let changes = self.random.below(UPKEEP_CHANGES);
            self.nodes[at].disk.stop_after(changes);
        }
        let disk = &self.nodes[at].disk;
        let changes_before = disk.changes();
        let done = disk.store().maintain(&|| ());
        let worked = changes_before < disk.changes();
        disk.fail_syncs(false);
        if disk.stopped() {
            self.crash_here(at, Fault::CrashInUpkeep);
            return;
        }
        let excused = sync_fails || disk.is_full() || self.lost_nodes.contains(&at);
        assert!(
            done.is_ok() || excused,
            "background work on a sound disk failed: {done:?}"
        );
        if sync_fails && done.is_err() {
            self.note(Fault::UpkeepSyncFailed, Some(at));
        }
        self.ticks += u64::from(worked);
        let node = &mut self.nodes[at];
        if let Some(segment) = &mut node.segment
            && self.broken != Some(Broken::RotForgotten)
            && node.disk.store().damaged().contains(&segment.id())
        {
            segment.damaged();
        }
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
                let slow = self.now() < self.nodes[at].slow_until;
                let pause = if slow || self.random.chance(100) {
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
