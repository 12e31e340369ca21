//! A copy that is born while its group goes on: messages are lost and come twice, every node loses its power anywhere.
//!
//! Three copies take the log of a writer. They forget their journals so soon that whoever is away, and the fourth copy, which
//! is born in the middle, find what they lack in layers only. Whatever a copy says that counts is compared with a naive model
//! after every step; once faults stop, all four become equal.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engine::{Engine, EngineError, Touch};
use io::MemoryDisk;
use page_store::{Horizon, JournalEntry, PageStore, PassPart, ReadError, StoreConfig};
use segment::{Effect, Link, PartId, Read, Segment, SegmentState, Taken};
use timeline::{Branch, Path};
use units::{Epoch, ForkKey, GroupId, Lsn, Page, PageKey, Position, RelationKey, SegmentId, VolumeId, Zone};
use wire_format::message::{Member, Refusal, Request, Response, VersionsAsked};
use wire_format::{Batch, EncodedBatch, FlushHeader, Item};

const VOLUME: VolumeId = VolumeId::from_bytes([7; 16]);
const NODES: usize = 4;
/// The copy that is born later.
const NEWBORN: usize = 3;
const BLOCKS: u32 = 5;
/// So much log that journals forget all but the last sixteen flushes.
const FLUSH_BYTES: u64 = 16 << 10;
const FORK: ForkKey = ForkKey {
    relation: RelationKey {
        tablespace: 1663,
        database: 5,
        relation: 16384,
    },
    fork: 0,
};

/// A record changes the block that its first byte names, depending on what was there.
struct Toy;

impl Engine for Toy {
    fn touches(&self, record: &[u8], _: Lsn, touches: &mut Vec<Touch>) -> Result<(), EngineError> {
        touches.push(Touch::Page {
            key: FORK.page(u32::from(record[0])),
            from_nothing: false,
        });
        Ok(())
    }

    fn apply(&self, record: &[u8], _: Lsn, _: PageKey, page: &mut Page) -> Result<(), EngineError> {
        let bytes = page.bytes_mut();
        bytes[0] = bytes[0].wrapping_mul(31).wrapping_add(record[1]);
        let at = 1 + usize::from(record[1]);
        bytes[at] = bytes[at].wrapping_add(bytes[0]);
        Ok(())
    }
}

/// splitmix64
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

fn id(node: usize) -> SegmentId {
    SegmentId::from_bytes([node as u8 + 1; 16])
}

fn member(node: usize) -> Member {
    Member {
        segment: id(node),
        node: format!("storage-{}", node + 1),
        address: String::new(),
        zone: Zone::A,
        kind: units::SegmentKind::Full,
    }
}

struct Node {
    disk: MemoryDisk,
    store: Option<PageStore>,
    segment: Option<Segment>,
    boot: u64,
    /// What it acknowledged.
    told: Position,
    was_whole: bool,
}

/// A question on its way to a peer, or its answer on the way back.
#[derive(Clone)]
struct Message {
    asker: usize,
    boot: u64,
    peer: usize,
    request: Request,
    part: Option<PartId>,
    answer: Option<Response>,
}

struct World {
    seed: u64,
    random: Random,
    nodes: Vec<Node>,
    messages: Vec<Message>,
    now: Duration,
    path: Path,
    batches: BTreeMap<Position, EncodedBatch>,
    last: Position,
    durable: Position,
    floor: Lsn,
    /// How often a copy was brought further by layers.
    passes: u64,
}

fn config() -> StoreConfig {
    StoreConfig {
        table_bytes_max: 2000,
        cache_bytes_max: 16 << 10,
        index_cache_bytes_max: 1 << 10,
        page_cache_bytes_max: 32 << 10,
        journal_file_bytes: 3000,
        journal_retained_bytes_max: 9000,
        chain_deltas_max: 3,
        merge_layers: 3,
        ..StoreConfig::default()
    }
}

impl World {
    fn new(seed: u64) -> World {
        let branch = Branch {
            epoch: Epoch::from_raw(1),
            parent: Position::ZERO,
        };
        let node = |_| Node {
            disk: MemoryDisk::new(),
            store: None,
            segment: None,
            boot: 0,
            told: Position::ZERO,
            was_whole: false,
        };
        let mut world = World {
            seed,
            random: Random(seed),
            nodes: (0..NODES).map(node).collect(),
            messages: Vec::new(),
            now: Duration::ZERO,
            path: Path::new(vec![branch]).expect("a path"),
            batches: BTreeMap::new(),
            last: Position::ZERO,
            durable: Position::ZERO,
            floor: Lsn::ZERO,
            passes: 0,
        };
        for node in 0..NODES {
            world.start(node);
        }
        for node in 0..NEWBORN {
            world.create(node, Vec::new());
        }
        world
    }

    fn create(&mut self, node: usize, copy_from: Vec<Member>) {
        let request = Request::CreateSegment {
            volume: VOLUME,
            group: GroupId::FIRST,
            segment: id(node),
            kind: units::SegmentKind::Full,
            epoch: self.path.epoch(),
            path: self.path.clone(),
            members: (0..NODES).map(member).collect(),
            copy_from,
        };
        let mut effects = Vec::new();
        let segment = Segment::create(&request, &mut effects).expect("a fresh segment");
        self.nodes[node].segment = Some(segment);
        self.perform(node, effects);
    }

    fn start(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.boot += 1;
        let opened = PageStore::open(Arc::new(node.disk.clone()), config(), Arc::new(Toy)).expect("a sound disk");
        node.store = Some(opened.store);
        node.segment = opened.segments.into_iter().next().map(|one| {
            assert!(one.vouches, "a sound disk finds itself damaged");
            let state = SegmentState::decode(one.state).expect("a journaled state reads back");
            let link = |batch: page_store::RecoveredBatch| Link {
                end: batch.end,
                previous: batch.previous,
                boundary: batch.boundary.unwrap_or(batch.end.lsn),
                groups: batch.groups,
            };
            Segment::recover(state, one.batches.into_iter().map(link).collect(), true)
        });
        if let Some(segment) = &node.segment {
            assert!(
                !node.was_whole || !segment.is_copying(),
                "seed {}: no longer whole",
                self.seed
            );
            let told = segment.horizon().path.reach(node.told);
            let complete = segment.acknowledged();
            assert!(
                told.lsn <= complete.lsn,
                "seed {}: {told} was told, {complete} is left",
                self.seed
            );
        }
    }

    /// The power goes in the middle of whatever the disk does, and comes back.
    fn crash(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.disk.stop_after(Some(self.random.below(12)));
        let store = node.store.take().expect("it runs");
        // However far it comes.
        let _ = store.write_tables().and_then(|()| store.maintain(&|| ()));
        drop(store);
        node.disk.cut_power(self.random.below(300) as usize);
        node.disk.stop_after(None);
        self.start(at);
    }

    /// Carries out what a segment asked for; `Some`: its answer. Nothing is told before it is synced.
    fn perform(&mut self, at: usize, effects: Vec<Effect>) -> Option<Response> {
        let segment = id(at);
        let node = &mut self.nodes[at];
        let (mut entries, mut answer) = (Vec::new(), None);
        for effect in effects {
            let (peer, request, part) = match effect {
                Effect::KeepState(bytes) => {
                    entries.push(JournalEntry::State { segment, bytes });
                    continue;
                }
                Effect::KeepBatch(batch) => {
                    entries.push(JournalEntry::Batch { segment, batch });
                    continue;
                }
                Effect::Answer(response) => {
                    answer = Some(response);
                    continue;
                }
                Effect::Read(_) | Effect::Remove => unreachable!("neither is asked for here"),
                Effect::Fetch { peer, request } => (peer, request, None),
                Effect::Take { peer, request, part } => (peer, request, Some(part)),
            };
            self.messages.push(Message {
                asker: at,
                boot: node.boot,
                peer: usize::from(peer.segment.bytes()[0]) - 1,
                request,
                part,
                answer: None,
            });
        }
        let store = node.store.as_ref().expect("it runs");
        store.append(&entries).expect("room");
        store.sync().expect("a good disk");
        if let Some(segment) = &mut node.segment {
            segment.synced();
            if let Some(Response::Appended { complete, .. } | Response::Announced { complete, .. }) = &answer {
                node.told = node.told.max(*complete);
            }
            node.was_whole |= !segment.is_copying();
        }
        answer
    }

    fn ask(&mut self, at: usize, request: &Request) {
        let mut effects = Vec::new();
        if let Some(segment) = &mut self.nodes[at].segment {
            segment.request(request, &mut effects);
        }
        self.perform(at, effects);
    }

    fn flush(&mut self, to_all: bool) {
        let end = Position::new(self.path.epoch(), self.last.lsn.advanced_by(FLUSH_BYTES));
        let item = |at: u64, random: &mut Random| Item::Record {
            end: Lsn::from_raw(end.lsn.raw() - at),
            bytes: vec![random.below(u64::from(BLOCKS)) as u8, random.below(250) as u8].into(),
        };
        let batch = EncodedBatch::new(Batch {
            volume: VOLUME,
            group: GroupId::FIRST,
            epoch: end.epoch,
            end: end.lsn,
            previous: self.last,
            header: Some(FlushHeader {
                groups: vec![GroupId::FIRST],
                boundary: end.lsn,
                written_at_us: 0,
                marks: Bytes::new(),
                catalog: Vec::new(),
                page_flags: Vec::new(),
            }),
            items: (0..3).rev().map(|at| item(at, &mut self.random)).collect(),
            elsewhere: Vec::new(),
        });
        self.batches.insert(end, batch.clone());
        self.last = end;
        // One copy may be away for long.
        let away = (end.lsn.raw() / FLUSH_BYTES / 40) as usize % NEWBORN;
        for at in 0..NODES {
            let lost = at == NEWBORN && self.random.one_in(3);
            let lost = lost || (at == away && self.path.epoch().raw() % 2 == 1);
            if lost && !to_all {
                continue;
            }
            self.ask(
                at,
                &Request::Append {
                    segment: id(at),
                    epoch: end.epoch,
                    durable: self.durable,
                    batch: batch.clone(),
                },
            );
        }
        self.count();
    }

    /// What two of the three old copies have is durable.
    fn count(&mut self) {
        let complete = |node: &Node| node.segment.as_ref().map_or(Position::ZERO, Segment::acknowledged);
        let mut acknowledged: Vec<Position> = self.nodes[..NEWBORN].iter().map(complete).collect();
        acknowledged.sort_by_key(|position| position.lsn);
        let quorum = acknowledged[NEWBORN - 2];
        if self.path.sees(quorum) && self.durable.lsn < quorum.lsn {
            self.durable = quorum;
        }
    }

    fn announce(&mut self) {
        let lag = self.random.below(6) * FLUSH_BYTES;
        self.floor = self
            .floor
            .max(Lsn::from_raw(self.durable.lsn.raw().saturating_sub(lag)));
        for at in 0..NODES {
            if self.random.one_in(4) {
                continue;
            }
            self.ask(
                at,
                &Request::Announce {
                    segment: id(at),
                    epoch: self.path.epoch(),
                    durable: self.durable,
                    floor: Position::new(self.path.epoch(), self.floor),
                    all_complete: Position::ZERO,
                    on_every_full: Position::ZERO,
                },
            );
        }
    }

    /// The next reign leaves what is not durable. Not everybody hears of it.
    fn reign(&mut self) {
        let epoch = self.path.epoch().next();
        let parent = Position::new(self.path.epoch(), self.durable.lsn.max(self.path.start().lsn));
        self.path = self.path.extended(Branch { epoch, parent }).expect("a later reign");
        self.last = self.durable;
        for at in 0..NODES {
            if at == NEWBORN && self.random.one_in(2) {
                continue;
            }
            self.ask(
                at,
                &Request::Install {
                    segment: id(at),
                    epoch,
                    path: self.path.clone(),
                    members: (0..NODES).map(member).collect(),
                },
            );
        }
    }

    fn tick(&mut self, at: usize) {
        let mut effects = Vec::new();
        let node = &mut self.nodes[at];
        let Some(segment) = &mut node.segment else { return };
        segment.permit_layers(true);
        segment.tick(self.now, &mut effects);
        let horizon = segment.horizon();
        let recycle_through = segment.forget(horizon.durable, &mut effects);
        let horizon = Horizon {
            path: horizon.path,
            durable: horizon.durable,
            floor: horizon.floor,
            recycle_through,
            let_go: horizon.let_go,
        };
        let store = node.store.as_ref().expect("it runs");
        store.set_horizon(id(at), horizon);
        store.let_journal_go(id(at), segment.journal_unneeded_through());
        self.perform(at, effects);
    }

    fn answer(&mut self, mut message: Message) {
        let node = &mut self.nodes[message.peer];
        let mut effects = Vec::new();
        let Some(segment) = &mut node.segment else { return };
        segment.request(&message.request, &mut effects);
        let store = node.store.as_ref().expect("it runs");
        let segment = id(message.peer);
        let response = match effects.pop() {
            Some(Effect::Answer(response)) => response,
            Some(Effect::Read(Read::Batches { positions, bytes_max })) => {
                let batches = store.read_batches(segment, &positions, bytes_max as usize);
                Response::Batches(batches.expect("a good disk"))
            }
            Some(Effect::Read(Read::Versions(asked))) => {
                let bytes_max = 1 + self.random.below(300) as u32;
                let asked = VersionsAsked { bytes_max, ..asked };
                Response::Versions(store.versions(segment, &asked).expect("a good disk"))
            }
            other => unreachable!("no question of a peer: {other:?}"),
        };
        message.answer = Some(response);
        self.messages.push(message);
    }

    fn take(&mut self, message: Message) {
        let node = &mut self.nodes[message.asker];
        let Some(segment) = node.segment.as_mut().filter(|_| node.boot == message.boot) else {
            return;
        };
        let mut effects = Vec::new();
        let before = segment.complete();
        let told = match (message.part, message.request, message.answer) {
            (Some(part), Request::FetchVersions { from, .. }, Some(Response::Versions(versions))) => {
                let store = node.store.as_ref().expect("it runs");
                let name = PassPart {
                    pass: part.pass,
                    part: part.part,
                    parts: part.parts,
                };
                let taken = store.take_versions(id(message.asker), name, &from, &versions);
                if !taken.expect("a good disk") {
                    return;
                }
                let taken = Taken::Written {
                    from,
                    versions,
                    bytes: 1,
                };
                let told = segment.taken(self.now, part, taken, &mut effects);
                self.passes += u64::from(before != segment.complete());
                told
            }
            (Some(part), _, Some(Response::Refused(refusal))) => {
                segment.taken(self.now, part, Taken::Refused(refusal), &mut effects)
            }
            (None, _, response) => segment.fetched(self.now, response, &mut effects),
            (Some(_), _, other) => unreachable!("no answer to a question for versions: {other:?}"),
        };
        // A peer that cannot help is no failure: another one is asked.
        let _: Result<(), Refusal> = told;
        self.perform(message.asker, effects);
    }

    /// One message that is on its way arrives, is lost, or comes twice.
    fn deliver(&mut self, faults: bool) {
        if self.messages.is_empty() {
            return;
        }
        let at = self.random.below(self.messages.len() as u64) as usize;
        let message = match faults && self.random.one_in(8) {
            true => self.messages[at].clone(),
            false => self.messages.swap_remove(at),
        };
        if faults && self.random.one_in(8) {
            return;
        }
        match message.answer {
            None => self.answer(message),
            Some(_) => self.take(message),
        }
    }

    fn model(&self, path: &Path, read_point: Lsn, block: u32) -> Page {
        let mut page = Page::zeroed();
        for (position, batch) in self.batches.iter().filter(|(position, _)| path.sees(**position)) {
            for item in &batch.batch().items {
                let Item::Record { end, bytes } = item else {
                    unreachable!("only records");
                };
                if *end <= read_point && u32::from(bytes[0]) == block && path.sees(Position::new(position.epoch, *end))
                {
                    Toy.apply(bytes, *end, FORK.page(block), &mut page)
                        .expect("a record of the toy");
                }
            }
        }
        page
    }

    /// What a copy would give to a reader is what the model says, and one that counts gives something.
    fn check(&mut self, at: usize) {
        let seed = self.seed;
        let Some(segment) = &mut self.nodes[at].segment else {
            return;
        };
        let path = segment.horizon().path;
        let (complete, floor) = (segment.acknowledged(), segment.horizon().floor);
        let mut effects = Vec::new();
        let request = Request::ReadPages {
            segment: id(at),
            epoch: path.epoch(),
            read_point: Lsn::MAX,
            needed: path.reach(complete),
            first: FORK.page(0),
            count: BLOCKS,
        };
        segment.request(&request, &mut effects);
        let Some(Effect::Read(Read::Pages { read_point, .. })) = effects.pop() else {
            return;
        };
        assert!(
            !segment.is_copying(),
            "seed {seed}: a copy that is not whole gives pages"
        );
        for read_point in [read_point, read_point.min(floor.lsn.max(Lsn::from_raw(1)))] {
            let store = self.nodes[at].store.as_ref().expect("it runs");
            let pages: Result<Vec<Page>, ReadError> = store.read_pages(id(at), &path, read_point, FORK.page(0), BLOCKS);
            for (block, page) in pages.expect("pages").iter().enumerate() {
                let expected = self.model(&path, read_point, block as u32);
                assert!(
                    *page == expected,
                    "seed {seed}: storage-{}, block {block} as of {read_point}",
                    at + 1
                );
            }
        }
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(5);
        let at = self.random.below(NODES as u64) as usize;
        match self.random.below(100) {
            0..14 => self.flush(false),
            14..24 => self.announce(),
            24..50 => self.tick(at),
            50..60 => {
                let store = self.nodes[at].store.as_ref().expect("it runs");
                store.maintain(&|| ()).expect("a good disk");
            }
            60..61 => self.reign(),
            61..64 => self.crash(at),
            64..67 => self.check(at),
            _ => self.deliver(true),
        }
    }

    fn converge(&mut self) {
        // Everybody hears that there is something new.
        self.flush(true);
        for round in 0.. {
            if round == 20_000 {
                for node in &self.nodes {
                    let segment = node.segment.as_ref().expect("it was made");
                    let (complete, horizon) = (segment.complete(), segment.horizon());
                    let (copying, stranded) = (segment.is_copying(), segment.is_stranded());
                    println!("{complete} of {horizon:?}, copying {copying}, stranded {stranded}");
                }
                panic!(
                    "seed {}: the copies do not become equal: {} of {}",
                    self.seed, self.durable, self.last
                );
            }
            self.now += Duration::from_millis(25);
            if round % 50 == 0 {
                self.count();
                self.announce();
            }
            for at in 0..NODES {
                self.tick(at);
            }
            for _ in 0..self.messages.len() {
                self.deliver(false);
            }
            let complete = |node: &Node| node.segment.as_ref().expect("it was made").acknowledged();
            if self.nodes.iter().all(|node| complete(node).lsn == self.last.lsn) {
                break;
            }
        }
        for at in 0..NODES {
            self.check(at);
            self.crash(at);
            self.check(at);
        }
    }
}

/// Runs one history; answers with how often layers brought a copy further.
fn run(seed: u64) -> u64 {
    let mut world = World::new(seed);
    let birth = world.random.below(600);
    for step in 0..1500 {
        if step == birth {
            world.create(NEWBORN, (0..NEWBORN).map(member).collect());
        }
        world.step();
    }
    world.converge();
    world.passes
}

#[test]
fn a_newborn_copy_never_counts_too_early_and_always_becomes_whole() {
    let passes: u64 = (0..40).map(run).sum();
    assert!(40 <= passes, "layers were needed only {passes} times");
}
