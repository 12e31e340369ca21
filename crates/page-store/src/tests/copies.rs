//! A copy that takes everything from the layers of another store, against the naive model.

use bytes::Bytes;
use io::{Disk, MemoryDisk};
use proptest::prelude::*;
use units::{Lsn, Position};
use wire_format::message::{VersionCursor, VersionsAsked};

use super::toy::*;
use super::world::*;
use crate::key::Key;
use crate::{Horizon, JournalEntry, PageStore, PassPart, Progress, ReadError};

struct Part {
    from: VersionCursor,
    until: Bytes,
    done: bool,
}

/// What a segment remembers of a pass.
struct Pass {
    after: Position,
    parts: Vec<Part>,
    through: Option<Position>,
    floor: Lsn,
}

/// The store of a copy, and what its segment would know.
pub(super) struct Target {
    pub(super) disk: MemoryDisk,
    pub(super) store: PageStore,
    pub(super) complete: Position,
    reads_from: Lsn,
    passes: u64,
    pass: Option<Pass>,
}

pub(super) fn key(block: u32) -> Bytes {
    Key::Page(FORK.page(block)).encode()
}

impl Target {
    pub(super) fn new() -> Target {
        let disk = MemoryDisk::new();
        let store = open(&disk).store;
        let state = JournalEntry::State {
            segment: SEGMENT,
            bytes: Bytes::from_static(b"state"),
        };
        store.append(&[state]).expect("room");
        store.sync().expect("a good disk");
        Target {
            disk,
            store,
            complete: Position::ZERO,
            reads_from: Lsn::ZERO,
            passes: 0,
            pass: None,
        }
    }

    /// The history it goes along may have left what it is complete up to.
    pub(super) fn follow(&mut self, world: &World) {
        if !world.path.sees(self.complete) {
            self.complete = world.path.reach(self.complete);
        }
    }

    /// One answer for one of the parts; a new pass if there is none. Now and then the answer comes twice.
    pub(super) fn copy(&mut self, world: &World, pick: usize, bytes_max: u32, twice: bool) {
        self.follow(world);
        let (complete, passes) = (self.complete, &mut self.passes);
        let pass = self.pass.get_or_insert_with(|| {
            *passes += 1;
            let part = |from: Bytes, until: Bytes| Part {
                from: VersionCursor {
                    key: from,
                    above: Position::ZERO,
                },
                until,
                done: false,
            };
            let end = Bytes::new();
            let parts = match pick % 3 {
                0 => vec![part(end.clone(), end)],
                1 => vec![part(end.clone(), key(3)), part(key(3), end)],
                _ => vec![part(end.clone(), key(1)), part(key(1), key(4)), part(key(4), end)],
            };
            Pass {
                after: complete,
                parts,
                through: None,
                floor: Lsn::ZERO,
            }
        });
        let open: Vec<usize> = (0..pass.parts.len()).filter(|at| !pass.parts[*at].done).collect();
        let at = open[pick / 3 % open.len()];
        let count = pass.parts.len();
        let part = &mut pass.parts[at];
        let asked = VersionsAsked {
            path: world.path.clone(),
            after: pass.after,
            from: part.from.clone(),
            until: part.until.clone(),
            bytes_max,
            through: world.newest_complete(),
            floor: Position::ZERO,
        };
        let versions = world.store.versions(SEGMENT, &asked).expect("a good disk");
        let name = PassPart {
            pass: self.passes,
            part: at as u32,
            parts: count as u32,
        };
        for time in 0..1 + usize::from(twice) {
            let taken = self.store.take_versions(SEGMENT, name, &part.from, &versions);
            assert_eq!(taken.expect("a good disk"), time == 0);
        }
        let lowest = pass
            .through
            .map_or(versions.through, |through| through.min(versions.through));
        pass.through = Some(lowest);
        pass.floor = pass.floor.max(versions.floor.lsn);
        match versions.next {
            Some(next) => part.from = next,
            None => part.done = true,
        }
        if pass.parts.iter().all(|part| part.done) {
            let (through, floor) = (lowest, pass.floor);
            self.pass = None;
            if world.path.sees(through) && self.complete.lsn < through.lsn {
                self.complete = through;
                self.reads_from = self.reads_from.max(floor);
            }
        }
    }

    pub(super) fn finish_pass(&mut self, world: &World) {
        let passes = self.passes;
        self.copy(world, 0, 500, false);
        while self.pass.is_some() {
            self.copy(world, 1, 500, false);
        }
        assert!(passes <= self.passes);
    }

    /// What follows, as from a peer's journal. A branch may lie within a flush, of which it sees a part.
    pub(super) fn fetch(&mut self, world: &World) {
        self.follow(world);
        let after = self.complete.lsn;
        for (position, batch) in &world.model.batches {
            if after < position.lsn && position.lsn <= world.complete() {
                let entry = JournalEntry::Batch {
                    segment: SEGMENT,
                    batch: batch.clone(),
                };
                self.store.append(&[entry]).expect("room");
                if world.path.sees(*position) {
                    self.complete = *position;
                }
            }
        }
        self.store.sync().expect("a good disk");
    }

    pub(super) fn upkeep(&mut self, world: &World) {
        self.follow(world);
        let horizon = Horizon {
            path: world.path.clone(),
            durable: world.newest_complete(),
            floor: Position::new(world.path.epoch(), world.floor),
            recycle_through: self.complete,
            let_go: None,
        };
        self.store.set_horizon(SEGMENT, horizon);
        while self.store.maintain(&|| ()).expect("a good disk") != Progress::Idle {}
    }

    fn restart(&mut self, torn: Option<usize>) {
        if let Some(torn) = torn {
            self.disk.cut_power(torn);
        }
        self.store = open(&self.disk).store;
        self.pass = None;
        self.passes = 0;
    }

    /// Everything that it may be asked for is as in the model.
    pub(super) fn check(&mut self, world: &World) {
        self.follow(world);
        let first = self.reads_from.max(world.floor);
        if self.complete.lsn < first {
            return;
        }
        for read_point in [
            first,
            Lsn::from_raw(first.raw().midpoint(self.complete.lsn.raw())),
            self.complete.lsn,
        ] {
            let pages = self
                .store
                .read_pages(SEGMENT, &world.path, read_point, FORK.page(0), BLOCKS);
            for (block, page) in pages.expect("pages").iter().enumerate() {
                let expected = world.model.page(&world.path, read_point, block as u32);
                assert!(page == &expected, "block {block} as of {read_point}, first {first}");
            }
            let entries = self.store.scan_catalog(SEGMENT, &world.path, read_point, None, 100);
            let entries = entries.expect("the catalog").into_iter();
            let entries: Vec<_> = entries
                .map(|entry| (entry.key, entry.value.expect("a value")))
                .collect();
            assert_eq!(
                entries,
                world.model.catalog(&world.path, read_point),
                "as of {read_point}"
            );
            let visible = |end: &&Position| end.lsn <= read_point && world.path.sees(**end);
            if let Some(last) = world.model.batches.keys().rev().find(visible) {
                let header = self.store.flush_header(SEGMENT, &world.path, read_point);
                assert_eq!(header.expect("a header").end, *last);
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Vec<u8>>, u8),
    Miss(Vec<Vec<u8>>, u8),
    FillHoles,
    Announce(u64, bool),
    Maintain,
    WriteTables,
    Branch(u64),
    Restart,
    Copy(usize, u32, bool),
    Fetch,
    CopyMaintains,
    CopyWritesTables,
    CopyRestarts(Option<usize>),
    Check,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pair = prop_oneof![
        30 => (0..BLOCKS as u8, 20..255u8).prop_map(|(block, byte)| vec![block, byte]),
        1 => (0..BLOCKS as u8).prop_map(|from| vec![TRUNCATE, from]),
    ];
    let flush = (prop::collection::vec(pair, 1..6), any::<u8>());
    let step = prop_oneof![
        16 => flush.clone().prop_map(|(records, catalog)| Step::Append(records, catalog)),
        1 => flush.prop_map(|(records, catalog)| Step::Miss(records, catalog)),
        1 => Just(Step::FillHoles),
        4 => (0..60u64, any::<bool>()).prop_map(|(lag, recycle)| Step::Announce(lag, recycle)),
        3 => Just(Step::Maintain),
        2 => Just(Step::WriteTables),
        1 => (0..4u64).prop_map(Step::Branch),
        1 => Just(Step::Restart),
        10 => (any::<usize>(), 1..400u32, any::<bool>()).prop_map(|(pick, bytes, twice)| Step::Copy(pick, bytes, twice)),
        1 => Just(Step::Fetch),
        2 => Just(Step::CopyMaintains),
        1 => Just(Step::CopyWritesTables),
        1 => prop::option::of(0..200usize).prop_map(Step::CopyRestarts),
        3 => Just(Step::Check),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_copy_of_every_history_reads_as_the_model_says(steps in steps()) {
        let mut world = World::new();
        let mut target = Target::new();
        for step in steps {
            match step {
                Step::Append(records, catalog) => {
                    world.append(&records, catalog);
                    world.sync();
                }
                Step::Miss(records, catalog) => world.miss(&records, catalog),
                Step::FillHoles => {
                    world.fill_holes();
                    world.sync();
                }
                Step::Announce(lag, recycle) => world.announce(lag, recycle),
                Step::Maintain => world.upkeep(),
                Step::WriteTables => world.store.write_tables().expect("a good disk"),
                Step::Branch(back) => world.branch(back),
                Step::Restart => world.restart(Some(0)),
                Step::Copy(pick, bytes, twice) => target.copy(&world, pick, bytes, twice),
                // Nobody fetches what nobody told to be durable before the pass says where it ends.
                Step::Fetch if target.complete == Position::ZERO => {}
                Step::Fetch => target.fetch(&world),
                Step::CopyMaintains => target.upkeep(&world),
                Step::CopyWritesTables => target.store.write_tables().expect("a good disk"),
                Step::CopyRestarts(torn) => target.restart(torn),
                Step::Check => target.check(&world),
            }
        }
        target.finish_pass(&world);
        target.fetch(&world);
        target.check(&world);
        target.upkeep(&world);
        target.check(&world);
        assert_eq!(target.store.scrub(&|_| true).map(|scrubbed| scrubbed.damaged), Ok(0));
        target.restart(Some(0));
        target.check(&world);
    }
}

/// The only part of a pass.
pub(super) fn only(pass: u64) -> PassPart {
    PassPart {
        pass,
        part: 0,
        parts: 1,
    }
}

#[test]
fn a_removed_segment_leaves_nothing_behind() {
    for restarts in [false, true] {
        let mut world = World::new();
        appended(&mut world, 300);
        world.store.write_tables().expect("a good disk");
        assert!(!world.disk.list("layers").expect("it can be listed").is_empty());
        world.store.append(&[JournalEntry::removal(SEGMENT)]).expect("room");
        world.store.sync().expect("a good disk");
        let read = |store: &PageStore| store.read_pages(SEGMENT, &world.path, Lsn::from_raw(10), FORK.page(0), 1);
        assert_eq!(read(&world.store), Err(ReadError::UnknownSegment(SEGMENT)));
        if restarts {
            world.disk.cut_power(0);
            let opened = open(&world.disk);
            assert!(opened.segments.is_empty());
            world.store = opened.store;
        } else {
            while world.store.maintain(&|| ()).expect("a good disk") != Progress::Idle {}
        }
        assert!(world.disk.list("layers").expect("it can be listed").is_empty());
        // Its share of the journal goes, too.
        let other = units::SegmentId::from_bytes([8; 16]);
        let state = JournalEntry::State {
            segment: other,
            bytes: Bytes::from_static(b"state"),
        };
        world.store.append(&[state]).expect("room");
        world.store.sync().expect("a good disk");
        let before = world.store.status().journal_bytes;
        for _ in 0..4 {
            let state = JournalEntry::State {
                segment: other,
                bytes: Bytes::from(vec![1; 6000]),
            };
            world.store.append(&[state]).expect("room");
            world.store.sync().expect("a good disk");
            while world.store.maintain(&|| ()).expect("a good disk") != Progress::Idle {}
        }
        assert!(world.store.status().journal_bytes <= before.max(32 << 10));
        world.disk.cut_power(0);
        let opened = open(&world.disk);
        let known: Vec<_> = opened.segments.iter().map(|one| one.segment).collect();
        assert_eq!(known, [other], "it does not come back");
    }
}
