//! Seeded histories of a volume with three groups: the real shipper, opening and segments, messages that come late and in any
//! order between two connections, links that break, writers that are replaced and go on as zombies.
//!
//! Disks sync at once here; what disks do is the business of the other histories. What is looked for: half a flush that
//! becomes history, an acknowledged flush that does not, a group whose chain goes on from the wrong place.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use segment::{Effect, Read, Segment};
use timeline::Path;
use units::{Epoch, GroupId, Lsn, Position, SegmentId, VolumeId, Zone};
use volume::record::{GroupRecord, MemberRecord};
use volume::{
    FlushParts, GroupMembers, Opening, OpeningEffect, Share, Shipper, ShipperEffect, ShipperLimits, VolumeRecord,
    creation,
};
use wire_format::message::{Request, Response};
use wire_format::{EncodedBatch, Item};

const GROUPS: u32 = 3;
const COPIES: u8 = 6;
const STEPS: usize = 6000;
/// From here on nothing goes wrong any more.
const HEALING_FROM: usize = 4500;
const SEEDS: u64 = 400;

/// A rule that is broken on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Broken {
    /// Flush headers do not say which groups have a part (protocol.md, hole 3).
    NoListOfParts,
    /// A group that a flush names is looked at, but promises nothing (hole 6).
    GroupNotFenced,
    /// A group that was asleep goes on from what one copy says (hole 3: a late fence hears three).
    OneCopyTellsTheEnd,
}

/// xorshift: one seed is one history.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

fn id(group: u32, copy: u8) -> SegmentId {
    SegmentId::from_bytes([group as u8 * 16 + copy; 16])
}

fn group_of(segment: SegmentId) -> u32 {
    u32::from(segment.bytes()[0] / 16)
}

fn record() -> VolumeRecord {
    let members = |group: u32| {
        let member = |copy: u8| MemberRecord {
            segment: id(group, copy),
            node: format!("storage-{}", copy + 1),
            address: String::new(),
            zone: Zone::ALL[usize::from(copy) / 2],
            kind: units::SegmentKind::Full,
        };
        (0..COPIES).map(member).collect::<Vec<_>>()
    };
    let mut record = creation::record(VolumeId::from_bytes([7; 16]), members(0));
    record.groups.extend((1..GROUPS).map(|group| GroupRecord {
        group,
        membership_version: 1,
        members: members(group),
        joining: None,
    }));
    record
}

enum Stage {
    Opening(Box<Opening>),
    Writing(Box<Shipper>),
    Over,
}

struct Writer {
    epoch: Epoch,
    revision: u64,
    stage: Stage,
    /// Whose links are up.
    links: BTreeSet<SegmentId>,
    last: Position,
}

struct Copy {
    segment: Segment,
    held: BTreeMap<Position, EncodedBatch>,
}

/// One direction of a link between a writer and a copy, or between two copies: what is sent on it arrives in order.
type Channel = (Option<usize>, SegmentId, bool);

enum Message {
    Ask(Request),
    Answer(Box<Response>),
}

struct Flush {
    previous: Position,
    groups: BTreeSet<u32>,
}

struct World {
    random: Random,
    broken: Option<Broken>,
    now: Duration,
    record: VolumeRecord,
    epoch: Epoch,
    revision: u64,
    copies: BTreeMap<SegmentId, Copy>,
    writers: Vec<Writer>,
    channels: BTreeMap<Channel, VecDeque<Message>>,
    flushes: BTreeMap<Position, Flush>,
    acknowledged: BTreeMap<Epoch, Lsn>,
    opened: BTreeMap<Epoch, Path>,
    /// Flushes that were found whole: copies forget nothing here.
    whole: BTreeSet<Position>,
    acknowledged_count: usize,
}

const LIMITS: ShipperLimits = ShipperLimits {
    window_bytes_max: 80,
    small_flushes_max: usize::MAX,
    retained_bytes_max: 1 << 20,
};

impl World {
    fn new(seed: u64, broken: Option<Broken>) -> World {
        let record = record();
        let path = record.path().expect("a new volume has one timeline");
        let mut copies = BTreeMap::new();
        for group in &record.groups {
            for member in &group.members {
                let request = volume::growth::create_segment(&record, &path, group, member.segment);
                let segment = Segment::create(&request, &mut Vec::new()).expect("a new segment");
                let held = BTreeMap::new();
                copies.insert(member.segment, Copy { segment, held });
            }
        }
        let mut shipper = Shipper::new(record.volume, path, record.members(), Position::ZERO, Lsn::ZERO, LIMITS);
        for group in &record.groups[1..] {
            shipper.add_group(GroupMembers {
                group: GroupId::from_raw(group.group),
                membership: group.membership(),
                members: group.members.iter().map(MemberRecord::member).collect(),
                last: Some(Position::ZERO),
            });
        }
        let mut world = World {
            random: Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            broken,
            now: Duration::ZERO,
            record,
            epoch: creation::IMPORT_EPOCH,
            revision: 1,
            copies,
            writers: Vec::new(),
            channels: BTreeMap::new(),
            flushes: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            opened: BTreeMap::new(),
            whole: BTreeSet::new(),
            acknowledged_count: 0,
        };
        world.add_writer(creation::IMPORT_EPOCH, 1, Stage::Writing(Box::new(shipper)));
        world
    }

    fn add_writer(&mut self, epoch: Epoch, revision: u64, stage: Stage) {
        self.writers.push(Writer {
            epoch,
            revision,
            stage,
            links: BTreeSet::new(),
            last: Position::ZERO,
        });
    }

    fn run(mut self) -> Result<usize, String> {
        for step in 0..STEPS {
            // Nothing goes wrong before the volume has a history.
            let faulty = step < HEALING_FROM && 0 < self.acknowledged_count;
            match self.random.below(100) {
                0..=69 => self.deliver()?,
                70..=79 => self.work()?,
                80..=89 => self.connect_somebody()?,
                90..=94 => self.tick_everybody()?,
                95..=96 if faulty => self.break_somebody()?,
                97 if faulty && self.random.chance(30) => self.new_writer(),
                98 if faulty && self.random.chance(10) => self.kill_somebody(),
                _ => self.tick_copies(),
            }
            if !faulty && self.writers.last().is_none_or(|last| matches!(last.stage, Stage::Over)) {
                self.new_writer();
            }
        }
        self.heal()?;
        Ok(self.acknowledged_count)
    }

    /// In the end the last writer makes everything durable, and a flush of every group.
    fn heal(&mut self) -> Result<(), String> {
        let at = self.writers.len() - 1;
        for round in 0..300 {
            for _ in 0..200 {
                self.deliver()?;
            }
            for segment in self.copies.keys().copied().collect::<Vec<_>>() {
                self.connect(at, segment)?;
            }
            self.tick_everybody()?;
            self.tick_copies();
            if let Stage::Writing(shipper) = &self.writers[at].stage {
                let (sent, durable) = (shipper.sent_end(), shipper.durable());
                if round < 20 {
                    self.flush(at, &[1, 2])?;
                } else if sent == durable {
                    return Ok(());
                }
            }
        }
        let what = match &self.writers[at].stage {
            Stage::Opening(opening) => format!("it is {}", opening.activity()),
            Stage::Writing(shipper) => format!("{} of {} is durable", shipper.durable(), shipper.sent_end()),
            Stage::Over => "it is over".to_owned(),
        };
        Err(format!("the last writer does not get through: {what}"))
    }

    fn new_writer(&mut self) {
        self.epoch = self.epoch.next();
        self.revision += 1;
        let opening = Opening::new(self.epoch, self.record.clone()).expect("a record with a path");
        self.add_writer(self.epoch, self.revision, Stage::Opening(Box::new(opening)));
    }

    fn kill_somebody(&mut self) {
        let at = self.random.below(self.writers.len());
        self.writers[at].stage = Stage::Over;
    }

    fn some_copy(&mut self) -> SegmentId {
        let group = self.random.below(GROUPS as usize) as u32;
        id(group, self.random.below(usize::from(COPIES)) as u8)
    }

    fn some_writer(&mut self) -> usize {
        // The last is the busiest; the others are zombies.
        let count = self.writers.len();
        if self.random.chance(70) {
            count - 1
        } else {
            self.random.below(count)
        }
    }

    fn connect_somebody(&mut self) -> Result<(), String> {
        let (at, segment) = (self.some_writer(), self.some_copy());
        self.connect(at, segment)
    }

    fn connect(&mut self, at: usize, segment: SegmentId) -> Result<(), String> {
        let writer = &mut self.writers[at];
        if !writer.links.insert(segment) {
            return Ok(());
        }
        let (mut opening, mut shipping) = (Vec::new(), Vec::new());
        match &mut writer.stage {
            Stage::Opening(opener) => opener.connected(segment, &mut opening),
            Stage::Writing(shipper) => shipper.connected(segment, &mut shipping),
            Stage::Over => {}
        }
        self.perform_opening(at, opening)?;
        self.perform_shipping(at, shipping)
    }

    fn break_somebody(&mut self) -> Result<(), String> {
        let (at, segment) = (self.some_writer(), self.some_copy());
        if !self.writers[at].links.remove(&segment) {
            return Ok(());
        }
        // What is on its way to the copy may still arrive; no answer does.
        self.channels.remove(&(Some(at), segment, false));
        if self.random.chance(50) {
            self.channels.remove(&(Some(at), segment, true));
        }
        let mut opening = Vec::new();
        match &mut self.writers[at].stage {
            Stage::Opening(opener) => opener.disconnected(segment, &mut opening),
            Stage::Writing(shipper) => shipper.disconnected(segment),
            Stage::Over => {}
        }
        self.perform_opening(at, opening)
    }

    fn tick_everybody(&mut self) -> Result<(), String> {
        self.now += Duration::from_millis(7);
        for at in 0..self.writers.len() {
            let (mut opening, mut shipping) = (Vec::new(), Vec::new());
            match &mut self.writers[at].stage {
                Stage::Opening(opener) => {
                    if opener.tick(self.now, &mut opening).is_err() {
                        self.writers[at].stage = Stage::Over;
                    }
                }
                Stage::Writing(shipper) => shipper.tick(self.now, &mut shipping),
                Stage::Over => {}
            }
            self.perform_opening(at, opening)?;
            self.perform_shipping(at, shipping)?;
        }
        Ok(())
    }

    fn tick_copies(&mut self) {
        self.now += Duration::from_millis(7);
        let ids: Vec<SegmentId> = self.copies.keys().copied().collect();
        for segment in ids {
            let mut effects = Vec::new();
            if let Some(copy) = self.copies.get_mut(&segment) {
                copy.segment.tick(self.now, &mut effects);
            }
            self.perform(segment, None, effects);
        }
    }

    fn work(&mut self) -> Result<(), String> {
        let at = self.some_writer();
        let others: Vec<u32> = (1..GROUPS).filter(|_| self.random.chance(35)).collect();
        self.flush(at, &others)
    }

    fn flush(&mut self, at: usize, others: &[u32]) -> Result<(), String> {
        let writer = &mut self.writers[at];
        let Stage::Writing(shipper) = &mut writer.stage else {
            return Ok(());
        };
        if !shipper.can_submit() {
            return Ok(());
        }
        let end = shipper.sent_end().advanced_by(10);
        let position = Position::new(writer.epoch, end);
        let share = Share::of(vec![Item::Record {
            end,
            bytes: Bytes::from_static(b"record"),
        }]);
        let parts = FlushParts {
            end,
            boundary: end,
            marks: Bytes::from(position.to_string()),
            others: others
                .iter()
                .map(|group| (GroupId::from_raw(*group), share.clone()))
                .collect(),
            ..FlushParts::default()
        };
        let groups = others.iter().copied().chain([0]).collect();
        let previous = std::mem::replace(&mut writer.last, position);
        self.flushes.insert(position, Flush { previous, groups });
        let mut effects = Vec::new();
        shipper.submit(parts, &mut effects).expect("a small flush");
        self.perform_shipping(at, effects)
    }

    fn post(&mut self, at: usize, segment: SegmentId, request: Request) {
        if self.writers[at].links.contains(&segment) {
            let channel = self.channels.entry((Some(at), segment, true)).or_default();
            channel.push_back(Message::Ask(request));
        }
    }

    fn perform_opening(&mut self, at: usize, effects: Vec<OpeningEffect>) -> Result<(), String> {
        for effect in effects {
            match effect {
                OpeningEffect::Send { segment, request } => self.post(at, segment, request),
                OpeningEffect::Connect(_, members) => {
                    for member in members {
                        self.writers[at].links.remove(&member.segment);
                        self.connect(at, member.segment)?;
                    }
                }
                OpeningEffect::CompareAndSwap(record) => self.swap(at, record)?,
                OpeningEffect::Create { .. } => unreachable!("nobody replaces copies outright"),
                OpeningEffect::Opened(opened) => {
                    self.is_whole(opened.last)?;
                    let writer = &mut self.writers[at];
                    writer.last = opened.last;
                    writer.stage = Stage::Writing(Box::new(Shipper::of(*opened, LIMITS)));
                    for segment in std::mem::take(&mut writer.links) {
                        self.connect(at, segment)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn swap(&mut self, at: usize, record: VolumeRecord) -> Result<(), String> {
        let writer = &self.writers[at];
        let swapped = writer.epoch == self.epoch && writer.revision == self.revision;
        if swapped {
            self.revision += 1;
            let path = record.path().expect("an opener extends a path");
            for (epoch, durable) in &self.acknowledged {
                if !path.sees(Position::new(*epoch, *durable)) {
                    return Err(format!(
                        "{durable} of {epoch} was acknowledged, and {:?} does not see it",
                        path.epoch()
                    ));
                }
            }
            self.opened.insert(path.epoch(), path);
            self.record = record;
        }
        let mut effects = Vec::new();
        if let Stage::Opening(opening) = &mut self.writers[at].stage
            && opening.recorded(swapped, &mut effects).is_err()
        {
            self.writers[at].stage = Stage::Over;
        }
        self.perform_opening(at, effects)
    }

    fn perform_shipping(&mut self, at: usize, effects: Vec<ShipperEffect>) -> Result<(), String> {
        for effect in effects {
            match effect {
                ShipperEffect::Send { segment, request } => self.post(at, segment, request),
                ShipperEffect::Connect(_, members) => {
                    for member in members {
                        self.writers[at].links.remove(&member.segment);
                        self.connect(at, member.segment)?;
                    }
                }
                ShipperEffect::DurableAdvanced(durable) => {
                    let epoch = self.writers[at].epoch;
                    let later = self.opened.range(epoch.next()..);
                    for (later, path) in later {
                        if !path.sees(Position::new(epoch, durable)) {
                            return Err(format!("{epoch} acknowledges {durable}, which {later} does not see"));
                        }
                    }
                    self.acknowledged.insert(epoch, durable);
                    self.acknowledged_count += 1;
                    self.is_whole(Position::new(epoch, durable))?;
                }
                ShipperEffect::Fenced { .. } => self.writers[at].stage = Stage::Over,
                ShipperEffect::GroupAdvanced { .. } | ShipperEffect::Trouble { .. } => {}
                ShipperEffect::TooLong(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    /// Every flush of the history that ends with `last` is there in each of its groups, on four copies at least.
    fn is_whole(&mut self, last: Position) -> Result<(), String> {
        let mut at = last;
        while let Some(flush) = self.flushes.get(&at)
            && self.whole.insert(at)
        {
            for group in &flush.groups {
                let holds = |copy: &u8| self.copies[&id(*group, *copy)].held.contains_key(&at);
                let count = (0..COPIES).filter(holds).count();
                if count < 4 {
                    return Err(format!(
                        "{at} is history below {last}, but {count} copies of group {group} hold their part"
                    ));
                }
            }
            at = flush.previous;
        }
        Ok(())
    }

    /// Some message arrives: the oldest of its channel.
    fn deliver(&mut self) -> Result<(), String> {
        self.channels.retain(|_, messages| !messages.is_empty());
        if self.channels.is_empty() {
            return Ok(());
        }
        let at = self.random.below(self.channels.len());
        let (channel, messages) = self.channels.iter_mut().nth(at).expect("it is one of them");
        let (channel, message) = (*channel, messages.pop_front().expect("it is not empty"));
        match (message, channel) {
            (Message::Ask(request), (from, segment, _)) => self.ask(segment, from, &request),
            (Message::Answer(response), (Some(writer), segment, _)) => return self.hear(writer, segment, *response),
            (Message::Answer(response), (None, segment, _)) => {
                let mut effects = Vec::new();
                if let Some(copy) = self.copies.get_mut(&segment) {
                    // A peer that cannot help is no failure.
                    let _ = copy.segment.fetched(self.now, Some(*response), &mut effects);
                }
                self.perform(segment, None, effects);
            }
        }
        Ok(())
    }

    fn ask(&mut self, segment: SegmentId, from: Option<usize>, request: &Request) {
        let Some(copy) = self.copies.get_mut(&segment) else {
            return;
        };
        let mut effects = Vec::new();
        let looks = matches!(request, Request::Promise { .. }) && group_of(segment) != 0;
        if looks && self.broken == Some(Broken::GroupNotFenced) {
            copy.segment.clone().request(request, &mut effects);
            effects.retain(|effect| matches!(effect, Effect::Answer(_)));
        } else {
            copy.segment.request(request, &mut effects);
        }
        self.perform(segment, from, effects);
    }

    fn perform(&mut self, segment: SegmentId, from: Option<usize>, effects: Vec<Effect>) {
        for effect in effects {
            let answer = match effect {
                Effect::KeepBatch(batch) => {
                    let copy = self.copies.get_mut(&segment).expect("it journals something");
                    copy.held.insert(batch.batch().position(), batch);
                    continue;
                }
                Effect::Fetch { peer, request } => {
                    // Peers answer at once: what is on the way between them is not looked for here.
                    self.fetch(segment, peer.segment, &request);
                    continue;
                }
                Effect::Answer(response) => response,
                Effect::Read(read) => self.read(segment, read),
                Effect::KeepState(_) | Effect::Remove | Effect::Take { .. } => continue,
            };
            if let Some(writer) = from
                && self.writers[writer].links.contains(&segment)
            {
                let channel = self.channels.entry((from, segment, false)).or_default();
                channel.push_back(Message::Answer(Box::new(answer)));
            }
        }
        if let Some(copy) = self.copies.get_mut(&segment) {
            copy.segment.synced();
        }
    }

    fn fetch(&mut self, asker: SegmentId, peer: SegmentId, request: &Request) {
        let mut effects = Vec::new();
        if let Some(copy) = self.copies.get_mut(&peer) {
            copy.segment.request(request, &mut effects);
        }
        let answer = match effects.pop() {
            Some(Effect::Read(read)) => self.read(peer, read),
            Some(Effect::Answer(response)) => response,
            _ => return,
        };
        let channel = self.channels.entry((None, asker, false)).or_default();
        channel.push_back(Message::Answer(Box::new(answer)));
    }

    fn read(&self, segment: SegmentId, read: Read) -> Response {
        let held = &self.copies[&segment].held;
        match read {
            Read::Batches { positions, .. } => {
                Response::Batches(positions.iter().filter_map(|at| held.get(at).cloned()).collect())
            }
            Read::FlushHeader { path, at } => {
                let visible = held
                    .values()
                    .filter(|batch| path.sees(batch.batch().position()) && batch.batch().end <= at);
                let last = visible
                    .max_by_key(|batch| batch.batch().end)
                    .expect("a complete copy has it");
                let header = last.batch().header.as_ref().expect("group 0");
                Response::FlushHeader {
                    end: last.batch().position(),
                    previous: last.batch().previous,
                    boundary: header.boundary,
                    marks: header.marks.clone(),
                }
            }
            other => unreachable!("nobody reads that here: {other:?}"),
        }
    }

    fn hear(&mut self, at: usize, segment: SegmentId, mut response: Response) -> Result<(), String> {
        if let (Response::Promised(promised), Some(Broken::NoListOfParts)) = (&mut response, self.broken) {
            promised.held.iter_mut().for_each(|held| held.groups.truncate(1));
        }
        let told = match (&response, self.broken) {
            (
                Response::Installed {
                    complete,
                    vouches: true,
                    ..
                },
                Some(Broken::OneCopyTellsTheEnd),
            ) => Some(*complete),
            _ => None,
        };
        let (mut opening, mut shipping) = (Vec::new(), Vec::new());
        match &mut self.writers[at].stage {
            Stage::Opening(opener) => {
                if opener.response(self.now, segment, response, &mut opening).is_err() {
                    self.writers[at].stage = Stage::Over;
                }
            }
            Stage::Writing(shipper) => {
                shipper.response(self.now, segment, &response, &mut shipping);
                // What one copy says is taken for what three say.
                let group = group_of(segment);
                for copy in (0..COPIES).filter(|_| told.is_some() && group != 0) {
                    let forged = Response::Installed {
                        segment: id(group, copy),
                        complete: told.expect("one copy told"),
                        vouches: true,
                    };
                    if shipper.group_durable(GroupId::from_raw(group)).is_none() {
                        shipper.response(self.now, id(group, copy), &forged, &mut shipping);
                    }
                }
            }
            Stage::Over => {}
        }
        self.perform_opening(at, opening)?;
        self.perform_shipping(at, shipping)
    }
}

#[test]
fn no_flush_is_half_in_a_history_and_nothing_acknowledged_is_lost() {
    let (mut acknowledged, mut timelines) = (0, 0);
    for seed in 1..=SEEDS {
        let world = World::new(seed, None);
        acknowledged += world.run().unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        timelines += 1;
    }
    assert!(
        40 * timelines < acknowledged,
        "{acknowledged} acknowledgements in {timelines} histories"
    );
}

fn is_found(broken: Broken) {
    let found = (1..=2 * SEEDS).find(|seed| World::new(*seed, Some(broken)).run().is_err());
    assert!(found.is_some(), "{broken:?} was not found");
}

#[test]
fn flush_headers_without_their_list_of_parts_are_found() {
    is_found(Broken::NoListOfParts);
}

#[test]
fn a_named_group_that_is_not_fenced_is_found() {
    is_found(Broken::GroupNotFenced);
}

#[test]
fn a_group_that_goes_on_from_what_one_copy_says_is_found() {
    is_found(Broken::OneCopyTellsTheEnd);
}
