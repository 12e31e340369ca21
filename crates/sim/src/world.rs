//! The simulated world: virtual time, six nodes, however many writers, and one metadata store.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use quorum::COPIES_COUNT;
use segment::{Read, Segment};
use units::{Epoch, Lsn, Position, SegmentId, VolumeId, Zone};
use volume::record::MemberRecord;
use volume::{Opening, Shipper, ShipperLimits, VolumeRecord, creation};
use wire_format::message::Response;

use crate::checker::{Checker, Violation};
use crate::disk::Disk;
use crate::metadata::Metadata;
use crate::network::{End, Link};
use crate::node::{Arrival, Node, ReplyTo};
use crate::random::Random;
use crate::tally::{Fault, Tally};
use crate::weather::Weather;
use crate::writer::{FLUSH_BYTES, News, Stage, Writer};
use crate::{Broken, Report};

pub(crate) const COPIES: usize = COPIES_COUNT;
/// Nothing goes wrong before the volume is made.
const FAULTS_FROM: Duration = Duration::from_millis(60);
/// From here on nothing new is written, and copies only become equal.
const REST_FROM: Duration = Duration::from_millis(3000);
const END: Duration = Duration::from_millis(5000);
/// A history that has not healed by then goes on so long: longer than the longest pause of the shipping code.
const END_LATEST: Duration = Duration::from_millis(30_000);
/// How long an opener tries.
const OPENING_LIMIT: Duration = Duration::from_millis(1200);

/// Everything that can happen.
#[derive(Debug)]
pub(crate) enum Event {
    Arrive {
        node: usize,
        arrival: Arrival,
    },
    ArriveAtBoot {
        node: usize,
        boot: u64,
        arrival: Arrival,
    },
    Turn {
        node: usize,
        boot: u64,
    },
    Synced {
        node: usize,
        boot: u64,
    },
    NodeTick {
        node: usize,
        boot: u64,
    },
    Maintain {
        node: usize,
        boot: u64,
    },
    /// A read that a segment permitted is carried out.
    Read {
        node: usize,
        boot: u64,
        to: ReplyTo,
        read: Box<Read>,
    },
    StartNode {
        node: usize,
    },
    Connect {
        writer: usize,
        node: usize,
    },
    Response {
        writer: usize,
        node: usize,
        connection: u64,
        response: Box<Response>,
    },
    News {
        writer: usize,
        news: News,
    },
    WriterTick {
        writer: usize,
    },
    WriterWork {
        writer: usize,
    },
    ReaderWork {
        writer: usize,
    },
    /// A reader waits no longer for an answer.
    NoAnswer {
        writer: usize,
        question: u64,
    },
    GiveUp {
        writer: usize,
    },
    Wake {
        writer: usize,
    },
    Swap {
        writer: usize,
        record: Box<VolumeRecord>,
    },
    ReadAgain {
        writer: usize,
        record: Box<VolumeRecord>,
    },
    /// An opener dies if it has not opened the volume yet.
    KillOpener {
        writer: usize,
    },
    /// A rival begins if the opener has not opened the volume yet.
    Duel {
        writer: usize,
    },
    /// An opener that took an epoch hears of it only now.
    BeginOpening {
        /// Of the metadata store.
        life: u64,
        epoch: Epoch,
        revision: u64,
        record: Box<VolumeRecord>,
    },
    /// A paused node goes on, with everything that came meanwhile.
    Thaw {
        node: usize,
    },
    /// There is room on a disk again.
    DiskFreed {
        node: usize,
    },
    PutMetadataBack,
    Supervise,
    Fault,
}

impl Event {
    /// The node whose process it is that something happens to.
    fn process(&self) -> Option<usize> {
        match self {
            Event::Arrive { node, .. }
            | Event::ArriveAtBoot { node, .. }
            | Event::Turn { node, .. }
            | Event::Synced { node, .. }
            | Event::NodeTick { node, .. }
            | Event::Maintain { node, .. }
            | Event::Read { node, .. } => Some(*node),
            _ => None,
        }
    }
}

/// All of it.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) weather: Weather,
    pub(crate) tally: Tally,
    pub(crate) broken: Option<Broken>,
    pub(crate) now: Duration,
    scheduled: u64,
    events: BTreeMap<(Duration, u64), Event>,
    pub(crate) nodes: Vec<Node>,
    /// The states that their segments were born with.
    pub(crate) births: Vec<Bytes>,
    pub(crate) writers: Vec<Writer>,
    pub(crate) links: BTreeMap<(usize, usize), Link>,
    /// Who is not heard by whom, and until when.
    pub(crate) cuts: BTreeMap<(End, End), Duration>,
    pub(crate) metadata: Metadata,
    pub(crate) checker: Checker,
    pub(crate) losses: u64,
    pub(crate) lost_nodes: BTreeSet<usize>,
    pub(crate) pages_read: usize,
    /// Openings that stopped since the metadata store went back in time.
    pub(crate) outdated_stops: u64,
    /// How often a copy took what it lacked from the layers of others.
    pub(crate) layered: u64,
    /// Messages that were delivered.
    pub(crate) messages: u64,
    /// Ticks that did something.
    pub(crate) ticks: u64,
    steps: u64,
    history: u64,
}

/// The segment on a node.
pub(crate) fn segment_id(node: usize) -> SegmentId {
    SegmentId::from_bytes([node as u8 + 1; 16])
}

fn member(node: usize) -> MemberRecord {
    MemberRecord {
        segment: segment_id(node),
        node: format!("storage-{}", node + 1),
        address: String::new(),
        zone: Zone::ALL[node / 2],
        kind: units::SegmentKind::Full,
    }
}

impl World {
    /// A new volume, with its first writer.
    pub(crate) fn new(seed: u64, broken: Option<Broken>) -> World {
        let record = creation::record(VolumeId::from_bytes([7; 16]), (0..COPIES).map(member).collect());
        let path = record.path().expect("a new volume has one timeline");
        let limits = ShipperLimits {
            window_bytes_max: 10 * FLUSH_BYTES,
            small_flushes_max: usize::MAX,
            retained_bytes_max: 4000,
        };
        let shipper = Shipper::new(record.volume, path, record.members(), Position::ZERO, Lsn::ZERO, limits);
        let first = Writer::new(creation::IMPORT_EPOCH, 1, Stage::Writing(Box::new(shipper)));
        let loose = broken == Some(Broken::LooseSwap);
        let mut random = Random::new(seed);
        let mut world = World {
            weather: Weather::any(&mut random),
            random,
            tally: Tally::default(),
            broken,
            now: Duration::ZERO,
            scheduled: 0,
            events: BTreeMap::new(),
            nodes: Vec::new(),
            births: (0..COPIES).map(|at| birth(&record, at)).collect(),
            writers: Vec::new(),
            links: BTreeMap::new(),
            cuts: BTreeMap::new(),
            metadata: Metadata::new(record, creation::IMPORT_EPOCH, loose),
            checker: Checker::default(),
            losses: 0,
            lost_nodes: BTreeSet::new(),
            pages_read: 0,
            outdated_stops: 0,
            layered: 0,
            messages: 0,
            ticks: 0,
            steps: 0,
            history: seed,
        };
        for at in 0..COPIES {
            let mut disk = Disk::new(segment_id(at), &mut world.random);
            disk.bear(&world.births[at]);
            world.nodes.push(Node::new(disk));
            world.start_node(at).expect("a segment that was just born is complete");
        }
        world.add_writer(first);
        world.schedule(FAULTS_FROM, Event::Fault);
        world.schedule(FAULTS_FROM, Event::Supervise);
        world
    }

    pub(crate) fn now(&self) -> Duration {
        self.now
    }

    pub(crate) fn faulty(&self) -> bool {
        FAULTS_FROM <= self.now && self.now < self.weather.calm_from
    }

    pub(crate) fn resting(&self) -> bool {
        REST_FROM <= self.now
    }

    pub(crate) fn schedule(&mut self, at: Duration, event: Event) {
        let number = self.next_number();
        self.events.insert((at, number), event);
    }

    /// A number for something, higher than all before.
    pub(crate) fn next_number(&mut self) -> u64 {
        self.scheduled += 1;
        self.scheduled
    }

    fn add_writer(&mut self, writer: Writer) {
        let at = self.writers.len();
        self.writers.push(writer);
        for node in 0..COPIES {
            let pause = self.random.micros(100, 5000);
            self.schedule(self.now + pause, Event::Connect { writer: at, node });
        }
        self.schedule(self.now, Event::WriterTick { writer: at });
        self.schedule(self.now, Event::WriterWork { writer: at });
        self.schedule(self.now, Event::ReaderWork { writer: at });
    }

    /// An instance takes the next epoch and begins to open the volume.
    pub(crate) fn new_writer(&mut self) {
        let (epoch, revision, record) = self.metadata.take_epoch();
        if self.strikes(Fault::MetadataLate, 100) {
            self.note(Fault::MetadataLate, None);
            let pause = self.random.millis(1, 600);
            let record = Box::new(record);
            let begin = Event::BeginOpening {
                life: self.metadata.life,
                epoch,
                revision,
                record,
            };
            self.schedule(self.now + pause, begin);
        } else {
            self.begin_opening(epoch, revision, record);
        }
    }

    fn begin_opening(&mut self, epoch: Epoch, revision: u64, record: VolumeRecord) {
        let opening = Opening::new(epoch, record).expect("the record holds a path");
        let at = self.writers.len();
        let mut writer = Writer::new(epoch, revision, Stage::Opening(Box::new(opening)));
        writer.metadata_life = self.metadata.life;
        self.add_writer(writer);
        self.schedule(self.now + OPENING_LIMIT, Event::GiveUp { writer: at });
        self.trouble_opener(at);
    }

    /// Runs the history to its end.
    pub(crate) fn run(mut self) -> Result<Report, (Duration, Violation)> {
        let mut end = END;
        loop {
            self.run_until(end)?;
            match self.healed() {
                Ok(()) => break,
                // A copy may wait for an answer that was lost, or until a disk that was full is tried again.
                Err(_) if end < END_LATEST => end = END_LATEST,
                Err(violation) => return Err((end, self.with_losses(violation))),
            }
        }
        let (timelines, flushes) = self.checker.totals();
        let effects: u64 = self.nodes.iter().map(|node| node.disk.changes()).sum();
        Ok(Report {
            steps: self.steps,
            events: self.messages + self.ticks + effects,
            timelines,
            flushes,
            pages: self.pages_read,
            outdated_stops: self.outdated_stops,
            layered: self.layered,
            tally: self.tally,
            history: self.history,
        })
    }

    fn run_until(&mut self, end: Duration) -> Result<(), (Duration, Violation)> {
        while let Some(next) = self.events.first_entry().filter(|next| next.key().0 < end) {
            let ((at, _), event) = next.remove_entry();
            self.now = at;
            self.remember(&event);
            self.happen(event)
                .map_err(|violation| (at, self.with_losses(violation)))?;
            self.steps += 1;
        }
        Ok(())
    }

    fn with_losses(&self, (promise, mut what): Violation) -> Violation {
        for node in &self.lost_nodes {
            what += &format!("; storage-{} is lost", node + 1);
        }
        (promise, what)
    }

    /// Folds what happens into the history's hash.
    fn remember(&mut self, event: &Event) {
        let what = match event {
            Event::Arrive { node, .. } | Event::ArriveAtBoot { node, .. } => 1 + node * 32,
            Event::Turn { node, .. } => 2 + node * 32,
            Event::Synced { node, .. } => 3 + node * 32,
            Event::StartNode { node } => 4 + node * 32,
            Event::Connect { writer, .. } => 5 + writer * 32,
            Event::Response { writer, .. } => 6 + writer * 32,
            Event::News { writer, .. } => 7 + writer * 32,
            Event::Wake { writer } => 8 + writer * 32,
            Event::Read { node, .. } => 11 + node * 32,
            Event::Swap { writer, .. } | Event::ReadAgain { writer, .. } => 9 + writer * 32,
            _ => 10,
        };
        let mixed = (self.history ^ what as u64 ^ (self.now.as_micros() as u64) << 16).wrapping_mul(0x100_0000_01B3);
        self.history = mixed.rotate_left(17);
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        if let Some(frozen) = event.process().and_then(|node| self.nodes[node].frozen.as_mut()) {
            frozen.push(event);
            return Ok(());
        }
        match event {
            Event::Arrive { node, arrival } => self.arrive(node, arrival),
            Event::ArriveAtBoot { node, boot, arrival } if self.runs(node, boot) => self.arrive(node, arrival),
            Event::Turn { node, boot } if self.runs(node, boot) => self.turn(node)?,
            Event::Synced { node, boot } if self.runs(node, boot) => self.synced(node)?,
            Event::NodeTick { node, boot } if self.runs(node, boot) => self.tick_node(node, boot),
            Event::Maintain { node, boot } if self.runs(node, boot) => self.maintain(node, boot),
            Event::Read { node, boot, to, read } if self.runs(node, boot) => self.read(node, to, *read)?,
            // What an earlier life of the node was about to do.
            Event::ArriveAtBoot { .. } | Event::Turn { .. } | Event::Synced { .. } => {}
            Event::NodeTick { .. } | Event::Maintain { .. } | Event::Read { .. } => {}
            Event::StartNode { node } => self.start_node(node)?,
            Event::Connect { writer, node } => self.connect(writer, node)?,
            Event::Response {
                writer,
                node,
                connection,
                response,
            } => {
                self.deliver(writer, node, connection, response)?;
            }
            Event::News { writer, news } => self.tell(writer, news)?,
            Event::WriterTick { writer } => {
                if self.writers[writer].alive() {
                    let pause = self.random.millis(4, 7);
                    self.schedule(self.now + pause, Event::WriterTick { writer });
                    self.tell(writer, News::Tick)?;
                }
            }
            Event::WriterWork { writer } => {
                if self.writers[writer].alive() && !self.resting() {
                    let pause = self.random.micros(1000, 16_000);
                    self.schedule(self.now + pause, Event::WriterWork { writer });
                    self.tell(writer, News::Work)?;
                }
            }
            Event::ReaderWork { writer } => {
                if self.writers[writer].alive() && !self.resting() {
                    let pause = self.random.micros(500, 16_000);
                    self.schedule(self.now + pause, Event::ReaderWork { writer });
                    self.tell(writer, News::Read)?;
                }
            }
            Event::NoAnswer { writer, question } => self.writers[writer].client.give_up(question),
            Event::GiveUp { writer } => {
                let opener = &mut self.writers[writer];
                if opener.paused {
                    self.schedule(self.now + OPENING_LIMIT, Event::GiveUp { writer });
                } else if matches!(opener.stage, Stage::Opening(_)) {
                    opener.stage = Stage::Over;
                }
            }
            Event::Wake { writer } => self.wake(writer)?,
            Event::Swap { writer, record } => self.swap(writer, &record)?,
            Event::ReadAgain { writer, record } => self.read_again(writer, &record)?,
            Event::KillOpener { writer } => self.interrupt(writer, Fault::OpenerKilled),
            Event::Duel { writer } => self.interrupt(writer, Fault::OpenerDuelled),
            Event::BeginOpening {
                life,
                epoch,
                revision,
                record,
            } => {
                if life == self.metadata.life {
                    self.begin_opening(epoch, revision, *record);
                }
            }
            Event::Thaw { node } => {
                for event in self.nodes[node].frozen.take().unwrap_or_default() {
                    self.happen(event)?;
                }
            }
            Event::DiskFreed { node } => self.nodes[node].disk.free(),
            Event::PutMetadataBack => self.put_metadata_back(),
            Event::Supervise => self.supervise(),
            Event::Fault => self.fault(),
        }
        Ok(())
    }

    fn runs(&self, node: usize, boot: u64) -> bool {
        self.nodes[node].up && self.nodes[node].boot == boot
    }
}

/// The state that the segment of a node is born with.
fn birth(record: &VolumeRecord, at: usize) -> Bytes {
    let request = creation::create_segment(record, segment_id(at)).expect("a new volume has one timeline");
    let segment = Segment::create(&request, &mut Vec::new()).expect("the request is one for a new segment");
    segment.state()
}
