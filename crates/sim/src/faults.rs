//! What goes wrong, and when.
//!
//! Some faults strike from time to time ([`World::fault`]); others strike an action while it happens ([`World::strikes`]).
//! Every one is counted, with the states of the protocol that it hit.

use std::collections::{BTreeMap, BTreeSet};

use segment::Segment;
use units::{GroupId, SegmentId};
use volume::placement::Wish;

use crate::Broken;
use crate::disk::PowerCut;
use crate::event::Event;
use crate::network::End;
use crate::tally::{Fault, State};
use crate::world::{World, node_named, zone_of};
use crate::writer::Stage;

/// Faults that strike from time to time, and how often each beside the others.
const FROM_TIME_TO_TIME: &[(Fault, u64)] = &[
    (Fault::NodeKilled, 4),
    (Fault::PowerCut, 8),
    (Fault::ZoneDown, 2),
    (Fault::ZonePlusOneDown, 2),
    (Fault::AllDown, 2),
    (Fault::WriterPaused, 6),
    (Fault::WriterKilled, 4),
    (Fault::OpenerDuelled, 2),
    (Fault::ConnectionBroken, 4),
    (Fault::CutBothWays, 3),
    (Fault::CutOneWay, 4),
    (Fault::NodePaused, 4),
    (Fault::DiskFull, 3),
    (Fault::DiskSlow, 3),
    (Fault::DiskWiped, 1),
    (Fault::BitFlipped, 1),
    (Fault::BitFlippedAwake, 1),
    (Fault::WriteMisdirected, 1),
    (Fault::ClockJumped, 2),
    (Fault::MetadataWentBack, 1),
    (Fault::CopyReplaced, 5),
    (Fault::NodeDrained, 2),
    (Fault::WishCalledOff, 2),
];

impl World {
    /// Whether a fault strikes that does so `in_thousand` times of a thousand in ordinary weather.
    pub(crate) fn strikes(&mut self, fault: Fault, in_thousand: u64) -> bool {
        if !self.faulty() {
            return false;
        }
        let strength = self.weather.strength(fault);
        0 < strength && self.random.chance(in_thousand * strength)
    }

    /// A fault struck; if it struck a node, which.
    pub(crate) fn note(&mut self, fault: Fault, node: Option<usize>) {
        self.tally.count(fault);
        let volume = self.volume_state();
        self.tally.hit(fault, volume);
        if let Some(node) = node {
            let copy = self.copy_state(node);
            self.tally.hit(fault, copy);
        }
    }

    /// What the newest of those who live does to the volume.
    fn volume_state(&self) -> State {
        let newest = self.writers.iter().rev().find(|writer| writer.alive());
        let holding = newest.and_then(|writer| writer.holding.as_deref());
        match newest.map(|writer| &writer.stage) {
            Some(Stage::Opening(opening)) => match opening.activity().split_once(' ') {
                Some(("waiting", _)) => State::Promising,
                Some(("bringing", _)) => State::Copying,
                Some(("making", _)) => State::Rescuing,
                Some(("recording", _)) => State::Recording,
                _ => State::Installing,
            },
            Some(Stage::Writing(_)) if holding.is_some_and(|holding| holding.is_replacing()) => State::Replacing,
            Some(Stage::Writing(_)) if holding.is_some_and(|holding| holding.growth.is_growing()) => State::Growing,
            Some(Stage::Writing(_)) => State::Reigning,
            _ => State::NoWriter,
        }
    }

    /// A node's copy of group 0, or else of another group.
    fn first_copy(&self, node: usize) -> Option<&Segment> {
        let segments = || self.nodes[node].segments.values();
        let of_first = segments().find(|segment| segment.group() == GroupId::FIRST);
        of_first.or_else(|| segments().next())
    }

    /// How the copy on a node stands.
    fn copy_state(&self, node: usize) -> State {
        if !self.nodes[node].up {
            return State::NodeDown;
        }
        let Some(segment) = self.first_copy(node) else {
            return State::NoSegment;
        };
        let horizon = segment.horizon();
        let reign = horizon.path.epoch();
        if !segment.vouches() {
            State::Damaged
        } else if segment.is_copying() {
            State::Newborn
        } else if reign < self.metadata.last_opened() {
            State::Asleep
        } else if reign < segment.promised() {
            State::Fenced
        } else if segment.is_stranded() {
            State::Stranded
        } else if segment.complete().lsn < horizon.durable.lsn {
            State::Behind
        } else {
            State::Whole
        }
    }

    /// One thing goes wrong.
    pub(crate) fn fault(&mut self) {
        if !self.faulty() {
            return;
        }
        let weight = |(fault, weight): &(Fault, u64)| weight * self.weather.strength(*fault);
        let weights: Vec<u64> = FROM_TIME_TO_TIME.iter().map(weight).collect();
        let mut at = self.random.below(weights.iter().sum::<u64>().max(1));
        for ((fault, _), weight) in FROM_TIME_TO_TIME.iter().zip(weights) {
            match at.checked_sub(weight) {
                Some(left) => at = left,
                None => {
                    self.strike(*fault);
                    break;
                }
            }
        }
        let pause = self.random.millis(5, 120);
        self.schedule(self.now() + pause, Event::Fault);
    }

    fn strike(&mut self, fault: Fault) {
        let node = self.random.below(self.nodes.len() as u64) as usize;
        match fault {
            Fault::NodeKilled | Fault::PowerCut => {
                self.note(fault, Some(node));
                self.crash(node, fault == Fault::PowerCut, 5, 600);
            }
            Fault::ZoneDown => self.crash_all(fault, &self.zone(zone_of(node)), 200, 900),
            Fault::ZonePlusOneDown => {
                let mut nodes = self.zone(zone_of(node));
                let others: Vec<usize> = self
                    .all_nodes()
                    .filter(|other| zone_of(*other) != zone_of(node))
                    .collect();
                nodes.push(others[self.random.below(others.len() as u64) as usize]);
                self.crash_all(fault, &nodes, 200, 700);
            }
            Fault::AllDown => self.crash_all(fault, &self.all_nodes().collect::<Vec<_>>(), 5, 300),
            Fault::WriterPaused => self.pause_a_writer(),
            Fault::WriterKilled => self.kill_a_writer(),
            Fault::OpenerDuelled => {
                self.note(fault, None);
                self.new_writer();
            }
            Fault::ConnectionBroken => {
                let writer = self.random.below(self.writers.len() as u64) as usize;
                self.note(fault, Some(node));
                self.break_link(writer, node);
            }
            Fault::CutBothWays | Fault::CutOneWay => self.cut(fault, node),
            Fault::NodePaused => self.pause_node(node),
            Fault::DiskFull => self.fill_disk(node),
            Fault::DiskSlow => {
                self.note(fault, Some(node));
                self.nodes[node].slow_until = self.now() + self.random.millis(50, 600);
            }
            Fault::DiskWiped | Fault::BitFlipped | Fault::BitFlippedAwake | Fault::WriteMisdirected => {
                self.lose(fault, node);
            }
            Fault::ClockJumped => {
                self.note(fault, None);
                self.jump_clock();
            }
            Fault::MetadataWentBack => self.go_back(),
            Fault::CopyReplaced | Fault::NodeDrained | Fault::WishCalledOff => self.wish(fault, node),
            _ => unreachable!("{fault:?} strikes an action"),
        }
    }

    fn all_nodes(&self) -> std::ops::Range<usize> {
        0..self.nodes.len()
    }

    fn zone(&self, zone: usize) -> Vec<usize> {
        self.all_nodes().filter(|node| zone_of(*node) == zone).collect()
    }

    /// Somebody wants something of a node, or of a copy, or does not want it any more.
    fn wish(&mut self, fault: Fault, node: usize) {
        if !self.weather.spares || (fault == Fault::WishCalledOff) == (self.wishes[node] == Wish::Keep) {
            return;
        }
        self.note(fault, Some(node));
        let copies: BTreeSet<SegmentId> = self.nodes[node].segments.keys().copied().collect();
        self.wishes[node] = match fault {
            Fault::CopyReplaced => Wish::Replace(copies),
            Fault::NodeDrained => Wish::Drain,
            _ => Wish::Keep,
        };
        if fault == Fault::NodeDrained {
            let pause = self.random.millis(300, 2500);
            self.schedule(self.now() + pause, Event::WishEnds { node });
        }
    }

    fn crash_all(&mut self, fault: Fault, nodes: &[usize], least_ms: u64, most_ms: u64) {
        for node in nodes {
            let copy = self.copy_state(*node);
            self.tally.hit(fault, copy);
        }
        self.note(fault, None);
        for node in nodes {
            let power_cut = self.random.chance(700);
            self.crash(*node, power_cut, least_ms, most_ms);
        }
    }

    /// A node stops, with its power or only its process, and starts again later.
    pub(crate) fn crash(&mut self, node: usize, power_cut: bool, least_ms: u64, most_ms: u64) {
        self.stop_node(node, power_cut);
        let pause = self.random.millis(least_ms, most_ms);
        self.schedule(self.now() + pause, Event::StartNode { node });
    }

    /// What a power cut took.
    pub(crate) fn note_power_cut(&mut self, node: usize, cut: PowerCut) {
        let fault = match cut {
            PowerCut::NothingLost => return,
            PowerCut::Lost => Fault::UnsyncedLost,
            PowerCut::Torn => Fault::WriteTorn,
            PowerCut::Shuffled => Fault::SectorsShuffled,
        };
        self.note(fault, Some(node));
    }

    /// A disk loses something for good: it rots, writes where it should not, or comes back empty.
    fn lose(&mut self, fault: Fault, node: usize) {
        if self.nodes[node].disk.rots() && !self.weather.mends || !self.may_lose(node) {
            return;
        }
        let copy = self.copy_state(node);
        let happened = match fault {
            Fault::BitFlippedAwake => self.nodes[node].disk.rot(&mut self.random),
            Fault::WriteMisdirected => self.nodes[node].disk.misdirect(&mut self.random),
            Fault::BitFlipped => {
                self.crash(node, true, 5, 200);
                self.nodes[node].disk.rot(&mut self.random)
            }
            _ => {
                self.crash(node, true, 5, 200);
                self.wipe(node);
                true
            }
        };
        if happened {
            self.tally.hit(fault, copy);
            self.note(fault, None);
        }
    }

    fn wipe(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        self.wiped.extend(self.on_node[at].iter().copied());
        node.told.clear();
        node.layered.clear();
        node.disk.wipe();
        if self.broken == Some(Broken::EmptyDiskVouches) {
            let here = self.on_node[at]
                .iter()
                .filter_map(|segment| Some((*segment, self.births.get(segment)?.clone())));
            let births: Vec<_> = here.collect();
            self.nodes[at].disk.bear(&births);
        }
    }

    /// Whether what is on this node may be lost as well: of no list that counts are too many copies lost then.
    fn may_lose(&self, node: usize) -> bool {
        let limit = self.weather.losses_max;
        self.losses(|segment, home| home == node || self.is_lost(home, segment)) <= limit
    }

    /// The most copies of one list of which this is so.
    fn losses(&self, is_lost: impl Fn(SegmentId, usize) -> bool) -> u64 {
        let groups = self.metadata.newest().groups.iter();
        let lists = groups.flat_map(|group| std::iter::once(&group.members).chain(&group.joining));
        let lost = |member: &&volume::record::MemberRecord| is_lost(member.segment, node_named(&member.node));
        let losses = lists.map(|list| list.iter().filter(lost).count() as u64);
        losses.max().unwrap_or(0)
    }

    /// Whether of some list so many copies are lost that nobody can write any more.
    pub(crate) fn is_stuck(&self) -> bool {
        !self
            .weather
            .survives(self.losses(|segment, node| self.is_lost(node, segment)))
    }

    fn fill_disk(&mut self, node: usize) {
        self.note(Fault::DiskFull, Some(node));
        let room = self.random.below(2000);
        self.nodes[node].disk.fill(room);
        let pause = self.random.millis(20, 700);
        self.schedule(self.now() + pause, Event::DiskFreed { node });
    }

    fn pause_node(&mut self, node: usize) {
        if !self.nodes[node].up || self.nodes[node].frozen.is_some() {
            return;
        }
        self.note(Fault::NodePaused, Some(node));
        self.nodes[node].frozen = Some(Vec::new());
        let pause = self.random.millis(5, 700);
        self.schedule(self.now() + pause, Event::Thaw { node });
    }

    /// All nodes, those first whose copies have least.
    fn by_completeness(&self) -> Vec<usize> {
        let complete: BTreeMap<usize, _> = self
            .all_nodes()
            .map(|node| (node, self.first_copy(node).map(|segment| segment.complete().lsn)))
            .collect();
        let mut nodes: Vec<usize> = self.all_nodes().collect();
        nodes.sort_by_key(|node| complete[node]);
        nodes
    }

    /// Messages of some pairs do not arrive for a while.
    fn cut(&mut self, fault: Fault, node: usize) {
        self.note(fault, Some(node));
        let until = self.now() + self.random.millis(20, 700);
        let writers = self.living().map(End::Writer).collect::<Vec<_>>();
        let nodes = self.all_nodes().filter(|other| *other != node).map(End::Node);
        let (one_side, other_side): (Vec<End>, Vec<End>) = match self.random.below(10) {
            // Those who have most, or least, and every writer: what an opponent would do.
            6..=9 => {
                let standing = self.by_completeness();
                let some = match self.random.below(2) {
                    0 => standing[2..].to_vec(),
                    _ => standing[..2].to_vec(),
                };
                let writers = vec![End::AnyWriter];
                (some.into_iter().map(End::Node).collect(), writers)
            }
            // Some nodes and every writer.
            0 | 1 => {
                let some = self
                    .all_nodes()
                    .filter(|_| self.random.chance(500))
                    .map(End::Node)
                    .collect();
                (some, vec![End::AnyWriter])
            }
            // A node and everybody else.
            2 => (vec![End::Node(node)], nodes.chain([End::AnyWriter]).collect()),
            // A node and its peers.
            3 => (vec![End::Node(node)], nodes.collect()),
            // A zone and everybody else.
            4 => {
                let inside: Vec<End> = self.zone(zone_of(node)).into_iter().map(End::Node).collect();
                let outside = nodes.filter(|node| !inside.contains(node)).chain([End::AnyWriter]);
                let outside = outside.collect();
                (inside, outside)
            }
            // Some writer and some nodes.
            _ => {
                let Some(writer) = writers.get(self.random.below(writers.len().max(1) as u64) as usize) else {
                    return;
                };
                let some = self
                    .all_nodes()
                    .filter(|_| self.random.chance(500))
                    .map(End::Node)
                    .collect();
                (vec![*writer], some)
            }
        };
        let inward = fault == Fault::CutBothWays || self.random.chance(500);
        for one in &one_side {
            for other in &other_side {
                if inward {
                    self.cuts.insert((*other, *one), until);
                }
                if !inward || fault == Fault::CutBothWays {
                    self.cuts.insert((*one, *other), until);
                }
            }
        }
    }

    fn pause_a_writer(&mut self) {
        let alive: Vec<usize> = self.living().filter(|at| !self.writers[*at].paused).collect();
        if alive.is_empty() {
            return;
        }
        self.note(Fault::WriterPaused, None);
        let writer = alive[self.random.below(alive.len() as u64) as usize];
        self.writers[writer].paused = true;
        let pause = self.random.millis(5, 900);
        self.schedule(self.now() + pause, Event::Wake { writer });
    }

    fn kill_a_writer(&mut self) {
        let alive: Vec<usize> = self.living().collect();
        if !alive.is_empty() {
            self.note(Fault::WriterKilled, None);
            let writer = alive[self.random.below(alive.len() as u64) as usize];
            self.writers[writer].stage = Stage::Over;
        }
    }

    /// An opener that is killed soon after its start, or that meets a rival.
    pub(crate) fn trouble_opener(&mut self, writer: usize) {
        if self.strikes(Fault::CutOneWay, 60) {
            // It hears only the two who have least.
            self.note(Fault::CutOneWay, None);
            let until = self.now() + self.random.millis(25, 120);
            for node in self.by_completeness().split_off(2) {
                self.cuts.insert((End::AnyWriter, End::Node(node)), until);
            }
        }
        if self.strikes(Fault::OpenerKilled, 120) {
            let pause = self.random.millis(1, 60);
            self.schedule(self.now() + pause, Event::KillOpener { writer });
        }
        if self.strikes(Fault::OpenerDuelled, 120) {
            let pause = self.random.millis(1, 60);
            self.schedule(self.now() + pause, Event::Duel { writer });
        }
    }

    /// An opener dies, or a rival begins, if it is still opening.
    pub(crate) fn interrupt(&mut self, writer: usize, fault: Fault) {
        if !matches!(self.writers[writer].stage, Stage::Opening(_)) || !self.faulty() {
            return;
        }
        self.note(fault, None);
        match fault {
            Fault::OpenerKilled => self.writers[writer].stage = Stage::Over,
            _ => self.new_writer(),
        }
    }

    /// The metadata store comes back from an old copy. Whoever uses it is restarted with it.
    fn go_back(&mut self) {
        let reign = self.metadata.last_opened();
        if !self.checker.has_acknowledged(reign) || !self.metadata.go_back(&mut self.random) {
            return;
        }
        self.note(Fault::MetadataWentBack, None);
        self.kill_all_writers();
        let pause = self.random.millis(50, 500);
        self.schedule(self.now() + pause, Event::PutMetadataBack);
    }

    /// A person puts the newest copy of the metadata store back, as the error told them.
    pub(crate) fn put_metadata_back(&mut self) {
        self.metadata.put_back();
        self.kill_all_writers();
    }

    /// Some writer's wall clock jumps to any time.
    fn jump_clock(&mut self) {
        let writer = self.random.below(self.writers.len() as u64) as usize;
        self.writers[writer].clock_ahead_us = self.random.below(1 << 50);
    }

    /// What a writer's wall clock says.
    pub(crate) fn wall_clock_us(&self, writer: usize) -> u64 {
        self.now().as_micros() as u64 + self.writers[writer].clock_ahead_us
    }

    fn kill_all_writers(&mut self) {
        for writer in &mut self.writers {
            writer.stage = Stage::Over;
        }
    }

    /// Whoever watches the writers starts a new one when none seems to be there.
    pub(crate) fn supervise(&mut self) {
        if self.living().all(|at| self.writers[at].paused) {
            self.new_writer();
        }
        let pause = self.random.millis(20, 100);
        self.schedule(self.now() + pause, Event::Supervise);
    }

    pub(crate) fn living(&self) -> impl Iterator<Item = usize> {
        (0..self.writers.len()).filter(|at| self.writers[*at].alive())
    }
}
