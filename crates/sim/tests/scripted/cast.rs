//! The cast of a scripted trace: six copies A to F, writers, openers, and the metadata store.
//!
//! Nothing happens by itself: a test says which messages arrive, and in which order. Disks sync at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use segment::{Effect, Link, Read, Segment, SegmentState, Taken};
use units::{Epoch, Lsn, Position, SegmentId, VolumeId, Zone};
use volume::membership::{Change, ChangeEffect};
use volume::record::{GroupRecord, MemberRecord};
use volume::{
    FlushParts, Opened, Opening, OpeningEffect, OpeningError, Shipper, ShipperEffect, ShipperLimits, VolumeRecord,
    creation,
};
use wire_format::EncodedBatch;
use wire_format::message::{Promised, Refusal, Request, Response, VersionCursor, Versions};

/// Messages of an opener without time passing: more are no conversation.
const MESSAGES_MAX: usize = 10_000;

pub const ALL: &str = "ABCDEF";
/// With the copy that takes somebody's place.
pub const EVERYBODY: &str = "ABCDEFG";

pub fn lsn(raw: u64) -> Lsn {
    Lsn::from_raw(raw)
}

/// The flush that ends at an LSN, in a reign: `at(1, 10)` is what the notes call `10@1`.
pub fn at(epoch: u64, raw: u64) -> Position {
    Position::new(Epoch::from_raw(epoch), lsn(raw))
}

pub fn id(name: char) -> SegmentId {
    SegmentId::from_bytes([name as u8; 16])
}

fn name(id: SegmentId) -> char {
    char::from(id.bytes()[0])
}

/// A copy, as the record names it. G stands in the zone of E and F.
pub fn member(name: char) -> MemberRecord {
    MemberRecord {
        segment: id(name),
        node: name.to_string(),
        address: String::new(),
        zone: Zone::ALL[((name as usize - 'A' as usize) / 2).min(2)],
        kind: units::SegmentKind::Full,
    }
}

/// The metadata store.
pub struct Store {
    epoch: Epoch,
    revision: u64,
    pub record: VolumeRecord,
}

impl Store {
    /// With the record of a volume whose first reign, of epoch 1, is under way.
    pub fn new() -> Store {
        Store {
            epoch: creation::IMPORT_EPOCH,
            revision: 1,
            record: creation::record(VolumeId::from_bytes([7; 16]), ALL.chars().map(member).collect()),
        }
    }

    /// An old copy of the store is put back: what happened since, epochs included, it never knew.
    pub fn go_back(&mut self, epoch: u64, record: VolumeRecord) {
        self.epoch = Epoch::from_raw(epoch);
        self.revision += 1;
        self.record = record;
    }

    /// Group 0's entry.
    pub fn group(&self) -> &GroupRecord {
        &self.record.groups[0]
    }

    /// The holder of the epoch changes group 0's entry.
    pub fn change(&mut self, group: GroupRecord) {
        self.revision += 1;
        self.record = self.record.with_group(group);
    }

    /// Takes the next epoch, and begins to open the volume.
    pub fn take(&mut self) -> Opener {
        self.epoch = self.epoch.next();
        self.revision += 1;
        Opener {
            epoch: self.epoch,
            revision: self.revision,
            opening: Opening::new(self.epoch, self.record.clone()).expect("a record with a path"),
            reached: BTreeSet::new(),
            effects: Vec::new(),
            lies: None,
            swap: None,
            opened: None,
            now: Duration::ZERO,
        }
    }
}

struct Copy {
    segment: Segment,
    state: Bytes,
    batches: Vec<EncodedBatch>,
}

/// The six copies.
pub struct Six(BTreeMap<char, Copy>);

impl Six {
    pub fn new(store: &Store) -> Six {
        let copy = |name: char| {
            let request = creation::create_segment(&store.record, id(name)).expect("a record with a path");
            let segment = Segment::create(&request, &mut Vec::new()).expect("a new segment");
            let copy = Copy {
                state: segment.state(),
                segment,
                batches: Vec::new(),
            };
            (name, copy)
        };
        Six(ALL.chars().map(copy).collect())
    }

    pub fn segment(&self, name: char) -> &Segment {
        &self.0[&name].segment
    }

    pub fn segment_mut(&mut self, name: char) -> &mut Segment {
        &mut self.0.get_mut(&name).expect("one of the six").segment
    }

    /// The power goes and comes back: what was journaled is left.
    pub fn restart(&mut self, name: char) {
        let copy = self.0.get_mut(&name).expect("one of the six");
        let state = SegmentState::decode(copy.state.clone()).expect("a state reads back");
        let links = copy.batches.iter().map(|batch| Link::of(batch.batch())).collect();
        copy.segment = Segment::recover(state, links, copy.segment.vouches());
    }

    /// Its files are lost: the node has no such segment any more.
    pub fn wipe(&mut self, name: char) {
        self.0.remove(&name);
    }

    /// A copy in the making: it belongs to nobody's list yet, and has nothing.
    pub fn create_copy(&mut self, store: &Store, name: char) {
        let request = creation::create_copy(&store.record, store.group(), &member(name)).expect("a record with a path");
        let segment = Segment::create(&request, &mut Vec::new()).expect("a new segment");
        let copy = Copy {
            state: segment.state(),
            segment,
            batches: Vec::new(),
        };
        self.0.insert(name, copy);
    }

    /// It takes everything that another copy has, from its layers.
    pub fn copy_all(&mut self, name: char, from: char) {
        let through = self.segment(from).complete();
        let batches = self.0[&from].batches.clone();
        let copy = self.0.get_mut(&name).expect("it was made");
        let mut effects = Vec::new();
        copy.segment.permit_layers(true);
        for second in 0..9 {
            copy.segment.tick(Duration::from_secs(second), &mut effects);
        }
        let asked = effects.into_iter().find_map(|effect| match effect {
            Effect::Take { part, .. } => Some(part),
            _ => None,
        });
        let written = Taken::Written {
            from: VersionCursor::default(),
            versions: Versions {
                runs: Vec::new(),
                content: Bytes::new(),
                next: None,
                through,
                floor: Position::ZERO,
                splits: Vec::new(),
                bytes_expected: 0,
            },
            bytes: 0,
        };
        let (part, mut effects) = (asked.expect("it asks its peers"), Vec::new());
        let taken = copy.segment.taken(Duration::from_secs(9), part, written, &mut effects);
        taken.expect("an answer to what it asked");
        // Stands for what the layers would have.
        copy.batches = batches;
        for effect in effects {
            if let Effect::KeepState(state) = effect {
                copy.state = state;
            }
        }
        copy.segment.synced();
    }

    /// Whether nothing is left of it.
    pub fn is_wiped(&self, name: char) -> bool {
        !self.0.contains_key(&name)
    }

    /// What is asked of one copy, and its answer. A read of batches or flush headers is carried out.
    pub fn ask(&mut self, name: char, request: &Request) -> Response {
        let Some(copy) = self.0.get_mut(&name) else {
            return Response::Refused(Refusal::UnknownSegment { segment: id(name) });
        };
        let mut effects = Vec::new();
        copy.segment.request(request, &mut effects);
        let mut answer = None;
        for effect in effects {
            match effect {
                Effect::KeepState(state) => copy.state = state,
                Effect::KeepBatch(batch) => copy.batches.push(batch),
                Effect::Answer(response) => answer = Some(response),
                Effect::Read(read) => answer = Some(carry_out(&copy.batches, read)),
                Effect::Fetch { .. } | Effect::Take { .. } => unreachable!("only a tick asks peers"),
                Effect::Remove => unreachable!("nobody is removed"),
            }
        }
        copy.segment.synced();
        answer.expect("every request is answered")
    }

    /// Whether a read of pages is permitted: up to where, or why not.
    pub fn may_read(&mut self, name: char, epoch: u64, read_point: u64, needed: Position) -> Result<Lsn, Refusal> {
        let relation = units::RelationKey {
            tablespace: 1663,
            database: 5,
            relation: 16384,
        };
        let request = Request::ReadPages {
            segment: id(name),
            epoch: Epoch::from_raw(epoch),
            read_point: lsn(read_point),
            needed,
            first: relation.fork(0).page(0),
            count: 1,
        };
        let mut effects = Vec::new();
        self.segment_mut(name).request(&request, &mut effects);
        match effects.pop() {
            Some(Effect::Read(Read::Pages { read_point, .. })) => Ok(read_point),
            Some(Effect::Answer(Response::Refused(refusal))) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }
}

fn carry_out(batches: &[EncodedBatch], read: Read) -> Response {
    let found = |position: &Position| batches.iter().find(|batch| batch.batch().position() == *position);
    match read {
        Read::Batches { positions, .. } => Response::Batches(positions.iter().filter_map(found).cloned().collect()),
        Read::FlushHeader { path, at } => {
            let visible = batches.iter().map(|batch| batch.batch());
            let visible = visible.filter(|batch| path.sees(batch.position()) && batch.end <= at);
            let last = visible.max_by_key(|batch| batch.end).expect("there is a flush");
            let header = last.header.as_ref().expect("group 0 has headers");
            Response::FlushHeader {
                end: last.position(),
                previous: last.previous,
                boundary: header.boundary,
                marks: header.marks.clone(),
            }
        }
        Read::Pages { .. } | Read::Catalog { .. } | Read::Versions(_) | Read::Log(_) => unreachable!("see `may_read`"),
    }
}

/// A writer, and the messages that it sent and that have not arrived yet.
pub struct Writer {
    pub shipper: Shipper,
    sent: Vec<(char, Request)>,
    pub fenced_by: Option<Epoch>,
}

impl Writer {
    fn of(shipper: Shipper, six: &mut Six) -> Writer {
        let mut writer = Writer {
            shipper,
            sent: Vec::new(),
            fenced_by: None,
        };
        for copy in writer.shipper.standing() {
            writer.reconnect(name(copy.member.segment));
        }
        writer.deliver(six, EVERYBODY);
        writer
    }

    /// Time passes for a change of group 0.
    pub fn tick_change(
        &mut self,
        change: &mut Change,
        seconds: u64,
        six: &mut Six,
        store: &Store,
    ) -> Option<GroupRecord> {
        let mut effects = Vec::new();
        change.tick(Duration::from_secs(seconds), &self.shipper.standing(), &mut effects);
        self.perform_change(effects, six, store)
    }

    /// Does what a change asks for, but for the record: what that is to be is the answer.
    pub fn perform_change(&mut self, effects: Vec<ChangeEffect>, six: &mut Six, store: &Store) -> Option<GroupRecord> {
        let mut asked = None;
        for effect in effects {
            match effect {
                ChangeEffect::Create(member) => six.create_copy(store, name(member.segment)),
                ChangeEffect::Count { membership, members } => {
                    let mut effects = Vec::new();
                    self.shipper
                        .change_members(units::GroupId::FIRST, membership, members, &mut effects);
                    self.perform(effects);
                }
                ChangeEffect::Record(group) => asked = Some(group),
                ChangeEffect::Remove(loser) => six.wipe(name(loser.segment)),
                ChangeEffect::Ended(_) => {}
            }
        }
        asked
    }

    fn limits() -> ShipperLimits {
        ShipperLimits {
            window_bytes_max: 1000,
            small_flushes_max: usize::MAX,
            retained_bytes_max: 1 << 20,
        }
    }

    /// The first writer of the volume, connected to all.
    pub fn first(store: &Store, six: &mut Six) -> Writer {
        let (volume, path) = (store.record.volume, store.record.path().expect("a path"));
        let shipper = Shipper::new(
            volume,
            path,
            store.record.members(),
            Position::ZERO,
            Lsn::ZERO,
            Writer::limits(),
        );
        Writer::of(shipper, six)
    }

    /// The writer of a reign that was opened, connected to all whom it can reach.
    pub fn after(opened: Opened, six: &mut Six) -> Writer {
        Writer::of(Shipper::of(opened, Writer::limits()), six)
    }

    /// Connects anew to one copy; what was under way to it is lost.
    pub fn reconnect(&mut self, name: char) {
        self.lose(&name.to_string());
        let mut effects = Vec::new();
        self.shipper.disconnected(id(name));
        self.shipper.connected(id(name), &mut effects);
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<ShipperEffect>) {
        for effect in effects {
            match effect {
                ShipperEffect::Send { segment, request } => self.sent.push((name(segment), request)),
                ShipperEffect::Fenced { by } => self.fenced_by = Some(by),
                ShipperEffect::DurableAdvanced(_) | ShipperEffect::Trouble { .. } => {}
                ShipperEffect::Connect(_, new) => {
                    for member in new {
                        self.reconnect(name(member.segment));
                    }
                }
                ShipperEffect::GroupAdvanced { .. } | ShipperEffect::TooLong(_) => unreachable!("there is one group"),
            }
        }
    }

    /// Makes the next flush, ten bytes long.
    pub fn flush(&mut self) {
        let end = self.shipper.sent_end().advanced_by(10);
        let parts = FlushParts {
            end,
            boundary: end,
            marks: Bytes::from(Position::new(self.shipper.epoch(), end).to_string()),
            ..FlushParts::default()
        };
        let mut effects = Vec::new();
        let submitted = self.shipper.submit(parts, &mut effects);
        submitted.expect("a small flush");
        self.perform(effects);
    }

    /// Tells every copy what is durable.
    pub fn announce(&mut self, now: Duration) {
        let mut effects = Vec::new();
        let durable = self.shipper.durable();
        self.shipper.raise_floor(durable);
        self.shipper.tick(now, &mut effects);
        self.perform(effects);
    }

    /// What is under way to these copies arrives, and so do their answers.
    pub fn deliver(&mut self, six: &mut Six, names: &str) {
        while let Some(index) = self.sent.iter().position(|(name, _)| names.contains(*name)) {
            let (name, request) = self.sent.remove(index);
            let response = six.ask(name, &request);
            let mut effects = Vec::new();
            self.shipper.response(Duration::ZERO, id(name), &response, &mut effects);
            self.perform(effects);
        }
    }

    /// Only the newest message to a copy arrives, before the others; its answer comes back.
    pub fn deliver_newest(&mut self, six: &mut Six, name: char) {
        let newest = self
            .sent
            .iter()
            .rposition(|(to, _)| *to == name)
            .expect("something is under way");
        let (_, request) = self.sent.remove(newest);
        let response = six.ask(name, &request);
        let mut effects = Vec::new();
        self.shipper.response(Duration::ZERO, id(name), &response, &mut effects);
        self.perform(effects);
    }

    /// What is under way to these copies never arrives.
    pub fn lose(&mut self, names: &str) {
        self.sent.retain(|(name, _)| !names.contains(*name));
    }
}

/// Somebody who opens the volume.
pub struct Opener {
    epoch: Epoch,
    revision: u64,
    pub opening: Opening,
    reached: BTreeSet<char>,
    effects: Vec<OpeningEffect>,
    /// What becomes of every promise on its way, if a rule is broken.
    pub lies: Option<fn(&mut Promised)>,
    swap: Option<VolumeRecord>,
    opened: Option<Opened>,
    now: Duration,
}

impl Opener {
    /// Reaches these copies and hears them, for as long as there is anything to say.
    pub fn reach(&mut self, six: &mut Six, names: &str) -> Result<(), OpeningError> {
        for name in names.chars() {
            self.reached.insert(name);
            self.opening.connected(id(name), &mut self.effects);
        }
        self.go_on(six)
    }

    /// These copies can no longer be reached.
    pub fn leave(&mut self, names: &str) {
        for name in names.chars() {
            self.reached.remove(&name);
            self.opening.disconnected(id(name), &mut self.effects);
        }
    }

    fn go_on(&mut self, six: &mut Six) -> Result<(), OpeningError> {
        // Two ticks: long enough that no further answer is waited for, and that who refused is asked again.
        for _ in 0..2 {
            self.hear(six)?;
            self.now += Duration::from_secs(1);
            self.opening.tick(self.now, &mut self.effects)?;
        }
        self.hear(six)
    }

    fn hear(&mut self, six: &mut Six) -> Result<(), OpeningError> {
        for _ in 0..MESSAGES_MAX {
            if self.effects.is_empty() {
                return Ok(());
            }
            match self.effects.remove(0) {
                OpeningEffect::Send { segment, request } if self.reached.contains(&name(segment)) => {
                    let mut response = six.ask(name(segment), &request);
                    if let (Some(lies), Response::Promised(promised)) = (self.lies, &mut response) {
                        lies(promised);
                    }
                    self.opening.response(self.now, segment, response, &mut self.effects)?;
                }
                OpeningEffect::Send { .. } => {}
                OpeningEffect::CompareAndSwap(record) => self.swap = Some(record),
                OpeningEffect::Connect(..) => unreachable!("there is one group"),
                OpeningEffect::Create { .. } => unreachable!("nobody replaces copies outright"),
                OpeningEffect::Opened(opened) => self.opened = Some(*opened),
            }
        }
        panic!("there is no end of messages");
    }

    /// Where the new timeline is to begin, once a write quorum has everything up to there.
    pub fn candidate(&self) -> Option<Lsn> {
        self.swap
            .as_ref()
            .and_then(|record| record.last().map(|last| last.branch))
    }

    /// Changes the record, if it is still what was read; then the reign begins.
    pub fn record(&mut self, store: &mut Store, six: &mut Six) -> Result<Opened, OpeningError> {
        let record = self.swap.take().expect("there is a candidate on a write quorum");
        let swapped = (store.epoch, store.revision) == (self.epoch, self.revision);
        if swapped {
            store.revision += 1;
            store.record = record;
        }
        self.opening.recorded(swapped, &mut self.effects)?;
        self.go_on(six)?;
        Ok(self.opened.take().expect("a complete copy tells the marks"))
    }
}

/// A volume with `10@1` on all six.
pub fn begin() -> (Store, Six, Writer) {
    let store = Store::new();
    let mut six = Six::new(&store);
    let mut writer = Writer::first(&store, &mut six);
    writer.flush();
    writer.deliver(&mut six, ALL);
    assert_eq!(writer.shipper.durable(), lsn(10));
    (store, six, writer)
}
