//! A simulated storage node: the real segments above the real page store, with the turns of the real node.
//!
//! Whatever arrives while a sync is running waits for the next turn; what a turn answers leaves after its sync. Reads wait
//! for neither.

mod deciding;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use page_store::{AppendError, JournalEntry, ReadError};
use segment::{MendStep, PartId, Read, Segment};
use units::{Position, SegmentId};
use wire_format::message::{Refusal, Request, Response, VersionCursor};

use crate::checker::{Checker, Violation};
use crate::disk::{Disk, NotStarted};
use crate::event::Event;
use crate::mending::Mender;
use crate::network::Asked;
use crate::random::Random;
use crate::reads;
use crate::tally::Fault;
use crate::told::Told;
use crate::world::World;
use crate::{Broken, Promise};

/// Changes of the disk after which a crash strikes, at most, in the middle of a start, a journal write, or background work.
const START_CHANGES: u64 = 12;
const APPEND_CHANGES: u64 = 5;
const UPKEEP_CHANGES: u64 = 20;

/// Where an answer goes.
#[derive(Clone, Debug)]
pub(crate) enum ReplyTo {
    /// To a writer, as long as its connection is the one the request came on.
    Writer {
        writer: usize,
        connection: u64,
        segment: SegmentId,
    },
    /// To whoever reads pages in the instance of a writer; each question has its number.
    Reader { writer: usize, question: u64 },
    /// To a writer that has something made or removed, on a connection of its own.
    Caller { writer: usize, segment: SegmentId },
    /// To the segment of another node, or to whoever mends there, as long as that has not been restarted.
    Peer {
        node: usize,
        boot: u64,
        segment: SegmentId,
        asked: Asked,
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
    Fetched {
        segment: SegmentId,
        response: Option<Response>,
    },
    /// A peer gave versions, or did not.
    Versions {
        segment: SegmentId,
        part: PartId,
        from: Box<VersionCursor>,
        response: Option<Response>,
    },
    /// A peer gave something that is lost, or did not: that does not wait for the journal.
    Given {
        question: u64,
        response: Option<Response>,
    },
    /// A copy is being mended.
    Mending {
        segment: SegmentId,
        step: MendStep,
    },
    Tick,
}

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) disk: Disk,
    pub(crate) segments: BTreeMap<SegmentId, Segment>,
    pub(crate) up: bool,
    /// Number of its starts: what an earlier life asked for is not for this one.
    pub(crate) boot: u64,
    arrivals: Vec<Arrival>,
    /// What this turn journals.
    entries: Vec<JournalEntry>,
    answers: Vec<(ReplyTo, Response)>,
    /// Segments that are gone once this turn is synced.
    removed: BTreeSet<SegmentId>,
    busy: bool,
    /// What waits for a paused node; `None`: it runs.
    pub(crate) frozen: Option<Vec<Event>>,
    /// Its disk takes its time until then.
    pub(crate) slow_until: Duration,
    /// Up to here segments took from the layers of peers, and have not synced that yet.
    pub(crate) layered: BTreeMap<SegmentId, Position>,
    /// Where the clock of its present life began.
    clock_began: Duration,
    /// What its segments told others, and a power cut must not take.
    pub(crate) told: BTreeMap<SegmentId, Told>,
    /// Gets back what copies here lost.
    pub(crate) mender: Mender,
    /// Since when it is down.
    pub(crate) down_since: Option<Duration>,
}

impl Node {
    pub(crate) fn new(disk: Disk, random: &Random) -> Node {
        Node {
            disk,
            segments: BTreeMap::new(),
            up: false,
            boot: 0,
            arrivals: Vec::new(),
            entries: Vec::new(),
            answers: Vec::new(),
            removed: BTreeSet::new(),
            busy: false,
            frozen: None,
            slow_until: Duration::ZERO,
            layered: BTreeMap::new(),
            clock_began: Duration::ZERO,
            told: BTreeMap::new(),
            mender: Mender::new(random.fork()),
            down_since: None,
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
            Ok(segments) => node.segments = segments,
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
        node.down_since = None;
        node.boot += 1;
        node.clock_began = began;
        let boot = node.boot;
        // The state that says what was taken from layers may be on the disk, although nobody saw it synced.
        for (id, layered) in std::mem::take(&mut node.layered) {
            let segment = node.segments.get(&id);
            let taken = segment.and_then(|segment| Some((segment.group(), taken(segment, layered, &self.checker)?)));
            if let Some((group, taken)) = taken {
                node.disk.keep(id, self.checker.history_of(group, taken));
            }
        }
        let node = &self.nodes[at];
        for (id, told) in node.told.iter().filter(|(id, _)| !self.is_lost(at, **id)) {
            match node.segments.get(id) {
                Some(segment) => told.still_holds(at, segment, &self.checker)?,
                None => {
                    let what = format!("storage-{} started without its segment {id}", at + 1);
                    return Err(Promise::PowerTakesNothing.broken(what));
                }
            }
        }
        self.schedule(self.now(), Event::NodeTick { node: at, boot });
        self.schedule(self.now(), Event::Maintain { node: at, boot });
        if self.weather.mends {
            self.schedule(self.now(), Event::Mend { node: at, boot });
        }
        Ok(())
    }

    fn cut_power(&mut self, at: usize, power_cut: bool) {
        let cut = self.nodes[at].disk.stop(power_cut, &mut self.random);
        self.note_power_cut(at, cut);
    }

    /// The node crashed in the middle of something: it starts again soon.
    pub(crate) fn crash_here(&mut self, at: usize, fault: Fault) {
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
        node.down_since = Some(self.now);
        node.segments.clear();
        node.arrivals.clear();
        node.entries.clear();
        node.answers.clear();
        node.removed.clear();
        node.busy = false;
        node.frozen = None;
        node.slow_until = Duration::ZERO;
        // What it was about to put in place stays where it is.
        node.disk.stop_after(0);
        node.mender.forget();
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
        if let Arrival::Given { question, response } = arrival {
            self.given_back(at, question, response);
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
            for removed in std::mem::take(&mut node.removed) {
                node.segments.remove(&removed);
            }
            node.segments.values_mut().for_each(Segment::synced);
            // What they took from the layers of peers stands for the batches.
            let (segments, disk, checker) = (&node.segments, &mut node.disk, &self.checker);
            node.layered.retain(|id, layered| {
                let Some(segment) = segments.get(id) else {
                    return false;
                };
                let taken = taken(segment, *layered, checker);
                if let Some(taken) = taken {
                    disk.keep(*id, checker.history_of(segment.group(), taken));
                }
                // Otherwise a roll-back took it again, for now: the layers are there.
                taken.is_none()
            });
        }
        let node = &mut self.nodes[at];
        let more = !node.arrivals.is_empty();
        node.busy = more;
        let boot = node.boot;
        let kept = node.mender.kept.take();
        self.send_answers(at)?;
        if more {
            self.schedule(self.now(), Event::Turn { node: at, boot });
        }
        if let Some(kept) = kept {
            self.mending_told(at, kept);
        }
        Ok(())
    }

    fn send_answers(&mut self, at: usize) -> Result<(), Violation> {
        for (to, response) in std::mem::take(&mut self.nodes[at].answers) {
            if let (ReplyTo::Caller { segment, .. }, Response::SegmentCreated) = (&to, &response) {
                self.unborn.remove(segment);
            }
            if let Some((id, group)) = told_by(&response).and_then(|id| Some((id, self.homes.get(&id)?.group)))
                && self.nodes[at].segments.contains_key(&id)
            {
                let is_lost = self.is_lost(at, id);
                let node = &mut self.nodes[at];
                let told = node.told.entry(id).or_default();
                told.tell(&response);
                if !is_lost {
                    told.is_true((at, id, group), &self.checker, &node.disk)?;
                }
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
        let excused = sync_fails || disk.is_full() || disk.rots();
        assert!(
            done.is_ok() || excused,
            "background work on a sound disk failed: {done:?}"
        );
        if sync_fails && done.is_err() {
            self.note(Fault::UpkeepSyncFailed, Some(at));
        }
        self.ticks += u64::from(worked);
        if self.broken != Some(Broken::RotForgotten) && self.nodes[at].disk.rots() {
            self.note_rot(at);
        }
        let pause = self.random.millis(1, 80);
        self.schedule(self.now() + pause, Event::Maintain { node: at, boot });
    }

    /// A read is answered without waiting for the journal: permitted now, carried out a little later.
    fn permit(&mut self, at: usize, from: &ReplyTo, request: &Request) {
        let Some(id) = request.segment() else {
            return;
        };
        let permitted = match self.nodes[at].segments.get_mut(&id) {
            Some(segment) => reads::permit(segment, request, self.broken),
            None => Err(Refusal::UnknownSegment { segment: id }),
        };
        match permitted {
            Ok(read) => {
                let event = Event::Read {
                    node: at,
                    boot: self.nodes[at].boot,
                    segment: id,
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

    pub(crate) fn read(&mut self, at: usize, id: SegmentId, to: ReplyTo, read: Read) -> Result<(), Violation> {
        let response = match reads::carry_out(self.nodes[at].disk.store(), id, read) {
            Ok(response) => response,
            Err(ReadError::NoFlush(_)) => return Ok(()),
            Err(ReadError::Folded { read_point, through }) => Response::Refused(Refusal::BelowFloor {
                read_point,
                floor: Position::new(self.nodes[at].segments[&id].horizon().path.epoch(), through),
            }),
            Err(_) if !self.nodes[at].has(id) => Response::Refused(Refusal::UnknownSegment { segment: id }),
            Err(error) if self.is_lost(at, id) => Response::Refused(Refusal::Damaged {
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

/// Up to where a segment has what it took from the layers of peers, as far as its history still sees that: a new timeline may
/// leave the end of it in the very turn in which the last of it came.
fn taken(segment: &Segment, layered: Position, checker: &Checker) -> Option<Position> {
    let path = segment.horizon().path;
    let mut history = checker.history_of(segment.group(), layered);
    let seen = history.find(|at| path.sees(*at)).unwrap_or(Position::ZERO);
    (seen.lsn <= segment.complete().lsn).then_some(seen)
}

/// The segment that an answer is of, if it tells what the segment promised or has.
fn told_by(response: &Response) -> Option<SegmentId> {
    match response {
        Response::Promised(promised) => Some(promised.segment),
        Response::Installed { segment, .. }
        | Response::Appended { segment, .. }
        | Response::Announced { segment, .. } => Some(*segment),
        _ => None,
    }
}
