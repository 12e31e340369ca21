//! The simulated world: virtual time, six nodes or nine, however many writers, and one metadata store.

mod birth;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use quorum::COPIES_COUNT;
use units::{Epoch, GroupId, SegmentId, SegmentKind, Zone};
use volume::placement::{StorageNode, Wish};
use volume::record::{GroupRecord, MemberRecord};
use volume::{Opening, VolumeRecord};

use crate::checker::{Checker, Violation};
use crate::event::Event;
use crate::metadata::Metadata;
use crate::network::{End, Link};
use crate::node::Node;
use crate::random::Random;
use crate::rescue::Rescue;
use crate::tally::{Fault, Tally};
use crate::weather::Weather;
use crate::writer::{News, Stage, Writer};
use crate::{Broken, Report, broken};

/// Nothing goes wrong before the volume is made.
const FAULTS_FROM: Duration = Duration::from_millis(60);
/// From here on nothing new is written, and copies only become equal.
const REST_FROM: Duration = Duration::from_millis(3000);
const END: Duration = Duration::from_millis(5000);
/// A history that has not healed by then goes on, at most so long: longer than the longest pauses of the shipping code, one
/// after the other.
const END_LATEST: Duration = Duration::from_millis(80_000);
/// Nodes of two in each zone; with spares there are three.
const NODES: usize = COPIES_COUNT;
const SPARES: usize = Zone::ALL.len();
/// How long an opener tries.
const OPENING_LIMIT: Duration = Duration::from_millis(1200);

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
    /// What somebody wants of each.
    pub(crate) wishes: Vec<Wish>,
    /// Every segment that was ever made, or was to be.
    pub(crate) homes: BTreeMap<SegmentId, Home>,
    pub(crate) on_node: Vec<Vec<SegmentId>>,
    /// The states that the first segments were born with.
    pub(crate) births: BTreeMap<SegmentId, Bytes>,
    segments_made: u64,
    pub(crate) writers: Vec<Writer>,
    pub(crate) links: BTreeMap<(usize, usize), Link>,
    /// Who is not heard by whom, and until when.
    pub(crate) cuts: BTreeMap<(End, End), Duration>,
    pub(crate) metadata: Metadata,
    pub(crate) checker: Checker,
    /// Segments whose disks came back empty.
    pub(crate) wiped: BTreeSet<SegmentId>,
    /// Segments that an opening wants, and that no node has said to have made yet.
    pub(crate) unborn: BTreeSet<SegmentId>,
    /// Since when it is known that nodes do not have copies, or do not vouch for them.
    pub(crate) lost_since: BTreeMap<SegmentId, Duration>,
    /// Copies that took the place of others.
    pub(crate) replaced: u64,
    /// Replacements that were taken back.
    pub(crate) taken_back: u64,
    /// Groups that were given new copies by an opening.
    pub(crate) rebuilt: u64,
    /// Copies that got back what they had lost, and their vote with it.
    pub(crate) mended: u64,
    /// Groups that were added under load.
    pub(crate) grown: u64,
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

/// Where a segment is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Home {
    pub(crate) node: usize,
    pub(crate) group: GroupId,
}

/// The zone of a node: two in each, then the spares.
pub(crate) fn zone_of(node: usize) -> usize {
    if node < NODES { node / 2 } else { node - NODES }
}

pub(crate) fn node_name(node: usize) -> String {
    format!("storage-{}", node + 1)
}

/// The node of a name.
pub(crate) fn node_named(name: &str) -> usize {
    let number = name
        .strip_prefix("storage-")
        .and_then(|number| number.parse::<usize>().ok());
    number.expect("every name is made of a number") - 1
}

/// A node that is well.
pub(crate) fn storage_node(node: usize) -> StorageNode {
    StorageNode::new(node_name(node), Zone::ALL[zone_of(node)], String::new())
}

impl World {
    /// A name that nothing had before.
    pub(crate) fn new_identity(&mut self) -> SegmentId {
        self.segments_made += 1;
        SegmentId::from_bytes(u128::from(self.segments_made).to_be_bytes())
    }

    pub(crate) fn identities(&mut self) -> [SegmentId; COPIES_COUNT] {
        std::array::from_fn(|_| self.new_identity())
    }

    /// A new copy of a group on a node.
    pub(crate) fn member(&mut self, node: usize, group: GroupId, kind: SegmentKind) -> MemberRecord {
        let segment = self.new_identity();
        self.settle(segment, node, group);
        MemberRecord {
            segment,
            node: node_name(node),
            address: String::new(),
            zone: Zone::ALL[zone_of(node)],
            kind,
        }
    }

    pub(crate) fn settle(&mut self, segment: SegmentId, node: usize, group: GroupId) {
        self.homes.insert(segment, Home { node, group });
        self.on_node[node].push(segment);
    }

    pub(crate) fn settle_homes(&mut self, group: &GroupRecord) {
        for member in &group.members {
            self.settle(member.segment, node_named(&member.node), GroupId::from_raw(group.group));
        }
    }

    /// The checker hears what the record says.
    pub(crate) fn grouped(&mut self, record: &VolumeRecord) -> Result<(), Violation> {
        let disks: Vec<_> = self.nodes.iter().map(|node| &node.disk).collect();
        self.checker.grouped(record, &self.wiped, &disks)
    }

    /// Whether what a copy has can no longer be counted on.
    pub(crate) fn is_lost(&self, node: usize, segment: SegmentId) -> bool {
        self.nodes[node].disk.rots() || self.wiped.contains(&segment) || self.unborn.contains(&segment)
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
        for node in 0..self.nodes.len() {
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
        let record = match self.broken {
            Some(Broken::NewListFenced) => broken::new_lists_only(record),
            _ => record,
        };
        let rescue = Rescue::of(record.clone());
        let mut opening = Opening::new(epoch, record).expect("the record holds a path");
        self.look_at_short(&mut opening, &rescue.record);
        let at = self.writers.len();
        let mut writer = Writer::new(epoch, revision, Stage::Opening(Box::new(opening)));
        writer.metadata_life = self.metadata.life;
        writer.rescue = Some(Box::new(rescue));
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
                Err(_) if end < END_LATEST => end *= 2,
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
            replaced: self.replaced,
            taken_back: self.taken_back,
            rebuilt: self.rebuilt,
            mended: self.mended,
            grown: self.grown,
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
        for (node, _) in self.nodes.iter().enumerate().filter(|(_, node)| node.disk.rots()) {
            what += &format!("; the disk of storage-{} rots", node + 1);
        }
        let gone = [(&self.wiped, "is wiped"), (&self.unborn, "was never made")];
        for (segment, how) in gone
            .iter()
            .flat_map(|(copies, how)| copies.iter().map(move |copy| (copy, how)))
        {
            let home = self.homes[segment];
            what += &format!("; a copy of {} on storage-{} {how}", home.group, home.node + 1);
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
            Event::Mend { node, boot } if self.runs(node, boot) => self.mend(node, boot),
            Event::Read {
                node,
                boot,
                segment,
                to,
                read,
            } if self.runs(node, boot) => self.read(node, segment, to, *read)?,
            // What an earlier life of the node was about to do.
            Event::ArriveAtBoot { .. } | Event::Turn { .. } | Event::Synced { .. } => {}
            Event::NodeTick { .. } | Event::Maintain { .. } | Event::Mend { .. } | Event::Read { .. } => {}
            Event::StartNode { node } => self.start_node(node)?,
            Event::Connect { writer, node } => self.connect(writer, node)?,
            Event::Response {
                writer,
                node,
                connection,
                segment,
                response,
            } => {
                self.deliver(writer, node, connection, segment, response)?;
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
                // New copies take as long as there is to copy: what counts is that they get on.
                let got_on_at = opener.rescue.as_ref().and_then(|rescue| rescue.got_on_at);
                let until = got_on_at.map(|at| at + OPENING_LIMIT).filter(|until| self.now < *until);
                let later = until.or(opener.paused.then_some(self.now + OPENING_LIMIT));
                match (&opener.stage, later) {
                    (Stage::Opening(_), Some(later)) => self.schedule(later, Event::GiveUp { writer }),
                    (Stage::Opening(_), None) => opener.stage = Stage::Over,
                    _ => {}
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
            Event::WishEnds { node } => self.wishes[node] = Wish::Keep,
            Event::Supervise => self.supervise(),
            Event::Fault => self.fault(),
        }
        Ok(())
    }

    fn runs(&self, node: usize, boot: u64) -> bool {
        self.nodes[node].up && self.nodes[node].boot == boot
    }
}
