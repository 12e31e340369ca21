//! The store against a naive model, over branches, truncations, restarts and power cuts; and its answers to bad disks.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use engine::{Engine, EngineError, Touch};
use io::{Disk, MemoryDisk};
use proptest::prelude::*;
use timeline::{Branch, Path};
use units::{Epoch, ForkKey, GroupId, Lsn, Page, PageKey, Position, RelationKey, SegmentId, VolumeId};
use wire_format::{Batch, CatalogEntry, CatalogKey, EncodedBatch, FlushHeader, Item};

use crate::{AppendError, Horizon, JournalEntry, OpenError, Opened, PageStore, Progress, ReadError, StoreConfig};

const SEGMENT: SegmentId = SegmentId::from_bytes([7; 16]);
const BLOCKS: u32 = 6;
const FORK: ForkKey = ForkKey {
    relation: RelationKey {
        tablespace: 1663,
        database: 5,
        relation: 16384,
    },
    fork: 0,
};

/// Records of this engine: pairs of (block, byte to mix into the page). Block 255 truncates to the block given; a record
/// that begins with 254 cannot be read.
struct Toy;

const TRUNCATE: u8 = 255;
const UNREADABLE: u8 = 254;

impl Engine for Toy {
    fn touches(&self, record: &[u8], end: Lsn, touches: &mut Vec<Touch>) -> Result<(), EngineError> {
        if record.first() == Some(&UNREADABLE) {
            let what = "254".to_owned();
            return Err(EngineError::Malformed { end, what });
        }
        for pair in record.chunks_exact(2) {
            touches.push(match pair {
                [TRUNCATE, from] => Touch::Truncate {
                    fork: FORK,
                    from_block: u32::from(*from),
                },
                [block, _] => Touch::Page {
                    key: FORK.page(u32::from(*block)),
                    from_nothing: false,
                },
                _ => unreachable!("chunks of two"),
            });
        }
        Ok(())
    }

    fn apply(&self, record: &[u8], end: Lsn, key: PageKey, page: &mut Page) -> Result<(), EngineError> {
        for pair in record.chunks_exact(2) {
            if u32::from(pair[0]) == key.block {
                if pair[1] == 13 {
                    return Err(EngineError::Unsupported {
                        end,
                        kind: "thirteen".to_owned(),
                    });
                }
                // Depends on what was there, so that a lost or repeated record shows.
                let bytes = page.bytes_mut();
                let at = usize::from(bytes[0]) % 100 + 1;
                bytes[0] = bytes[0].wrapping_mul(31).wrapping_add(pair[1]);
                bytes[at] = bytes[at].wrapping_add(pair[1] ^ bytes[0]);
            }
        }
        Ok(())
    }
}

fn config() -> StoreConfig {
    StoreConfig {
        table_bytes_max: 6 << 10,
        cache_bytes_max: 64 << 10,
        page_cache_bytes_max: 40 << 10,
        journal_file_bytes: 8 << 10,
        journal_retained_bytes_max: 64 << 10,
        chain_deltas_max: 4,
        merge_layers: 3,
        ..StoreConfig::default()
    }
}

fn open(disk: &MemoryDisk) -> Opened {
    PageStore::open(Arc::new(disk.clone()), config(), Arc::new(Toy)).expect("the store opens")
}

fn batch(position: Position, previous: Position, records: &[Vec<u8>], catalog: u8) -> EncodedBatch {
    // Records lie close together below the flush's end.
    let count = records.len() as u64;
    let item = |(at, record): (usize, &Vec<u8>)| Item::Record {
        end: Lsn::from_raw(position.lsn.raw() + 1 + at as u64 - count),
        bytes: Bytes::copy_from_slice(record),
    };
    EncodedBatch::new(Batch {
        volume: VolumeId::from_bytes([1; 16]),
        group: GroupId::FIRST,
        epoch: position.epoch,
        end: position.lsn,
        previous,
        header: Some(FlushHeader {
            groups: vec![GroupId::FIRST],
            boundary: position.lsn,
            written_at_us: 0,
            marks: Bytes::copy_from_slice(&position.lsn.raw().to_le_bytes()),
            catalog: vec![CatalogEntry {
                key: CatalogKey::Blob(format!("key/{}", catalog % 5)),
                lsn: position.lsn,
                value: (!catalog.is_multiple_of(7)).then(|| Bytes::copy_from_slice(&[catalog])),
            }],
            page_flags: Vec::new(),
        }),
        items: records.iter().enumerate().map(item).collect(),
    })
}

/// Everything ever synced, and what ought to be read back.
#[derive(Clone, Default)]
struct Model {
    batches: BTreeMap<Position, EncodedBatch>,
}

impl Model {
    fn page(&self, path: &Path, read_point: Lsn, block: u32) -> Page {
        let mut page = Page::zeroed();
        for (position, batch) in &self.batches {
            for item in &batch.batch().items {
                let Item::Record { end, bytes } = item else {
                    unreachable!("only records");
                };
                if *end > read_point || !path.sees(Position::new(position.epoch, *end)) {
                    continue;
                }
                for pair in bytes.chunks_exact(2) {
                    if pair[0] == TRUNCATE && u32::from(pair[1]) <= block {
                        page = Page::zeroed();
                    }
                }
                if bytes.chunks_exact(2).any(|pair| u32::from(pair[0]) == block) {
                    Toy.apply(bytes, *end, FORK.page(block), &mut page)
                        .expect("a record of the toy engine");
                }
            }
        }
        page
    }

    fn catalog(&self, path: &Path, read_point: Lsn) -> Vec<(CatalogKey, Bytes)> {
        let mut entries = BTreeMap::new();
        for (position, batch) in &self.batches {
            if position.lsn <= read_point && path.sees(*position) {
                for entry in &batch.batch().header.as_ref().expect("group 0").catalog {
                    entries.insert(entry.key.clone(), entry.value.clone());
                }
            }
        }
        entries
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect()
    }
}

struct World {
    disk: MemoryDisk,
    store: PageStore,
    model: Model,
    path: Path,
    last: Position,
    floor: Lsn,
    unsynced: Vec<EncodedBatch>,
    /// Batches that this copy missed, and will get later.
    missed: Vec<EncodedBatch>,
    recycled: Position,
}

impl World {
    fn new() -> World {
        let disk = MemoryDisk::new();
        let store = open(&disk).store;
        let branch = Branch {
            epoch: Epoch::from_raw(1),
            parent: Position::ZERO,
        };
        let world = World {
            disk,
            store,
            model: Model::default(),
            path: Path::new(vec![branch]).expect("a path"),
            last: Position::ZERO,
            floor: Lsn::ZERO,
            unsynced: Vec::new(),
            missed: Vec::new(),
            recycled: Position::ZERO,
        };
        let state = JournalEntry::State {
            segment: SEGMENT,
            bytes: Bytes::from_static(b"state"),
        };
        world.store.append(&[state]).expect("room");
        world.store.sync().expect("a good disk");
        world
    }

    fn next_batch(&mut self, records: &[Vec<u8>], catalog: u8) -> EncodedBatch {
        let end = Position::new(self.path.epoch(), self.last.lsn.advanced_by(10));
        let batch = batch(end, self.last, records, catalog);
        self.last = end;
        batch
    }

    fn append_batch(&mut self, batch: EncodedBatch) {
        let entry = JournalEntry::Batch {
            segment: SEGMENT,
            batch: batch.clone(),
        };
        self.store.append(&[entry]).expect("room");
        self.unsynced.push(batch);
    }

    fn append(&mut self, records: &[Vec<u8>], catalog: u8) {
        let batch = self.next_batch(records, catalog);
        self.append_batch(batch);
    }

    fn miss(&mut self, records: &[Vec<u8>], catalog: u8) {
        let batch = self.next_batch(records, catalog);
        self.missed.push(batch);
    }

    fn fill_holes(&mut self) {
        for batch in std::mem::take(&mut self.missed) {
            self.append_batch(batch);
        }
    }

    /// Up to where the copy lacks nothing, and everything is synced.
    fn complete(&self) -> Lsn {
        let lacking = self.missed.iter().chain(&self.unsynced);
        lacking
            .map(|batch| batch.batch().previous.lsn)
            .min()
            .unwrap_or(Lsn::MAX)
    }

    fn sync(&mut self) {
        self.store.sync().expect("a good disk");
        for batch in self.unsynced.drain(..) {
            self.model.batches.insert(batch.batch().position(), batch);
        }
    }

    fn announce(&mut self, floor_lag: u64, recycle: bool) {
        let durable = self
            .model
            .batches
            .keys()
            .rev()
            .find(|end| self.path.sees(**end))
            .copied();
        let durable = durable.unwrap_or(self.path.start());
        self.floor = self
            .floor
            .max(Lsn::from_raw(durable.lsn.raw().saturating_sub(floor_lag)));
        if recycle {
            self.recycled = durable;
        }
        let bounds = [self.recycled.lsn, durable.lsn, self.complete()];
        self.recycled.lsn = bounds.into_iter().min().expect("three");
        let horizon = Horizon {
            path: self.path.clone(),
            durable,
            floor: Position::new(self.path.epoch(), self.floor),
            recycle_through: self.recycled,
        };
        self.store.set_horizon(SEGMENT, horizon);
    }

    /// A new reign that leaves the last one at or above the floor.
    fn branch(&mut self, back: u64) {
        self.fill_holes();
        self.sync();
        let lsn = Lsn::from_raw(self.last.lsn.raw().saturating_sub(10 * back))
            .max(self.floor)
            .max(self.path.start().lsn);
        let parent = Position::new(self.path.epoch(), lsn);
        let epoch = self.path.epoch().next();
        self.path = self.path.extended(Branch { epoch, parent }).expect("a later reign");
        let visible = self.model.batches.keys().rev().find(|end| self.path.sees(**end));
        self.last = visible
            .copied()
            .unwrap_or(Position::ZERO)
            .max(Position::new(parent.epoch, Lsn::ZERO));
        self.last = Position::new(self.last.epoch, lsn);
    }

    fn restart(&mut self, torn: Option<usize>) {
        if let Some(torn) = torn {
            self.disk.cut_power(torn);
        }
        let Opened { store, segments } = open(&self.disk);
        self.store = store;
        let held = |batch: &EncodedBatch| {
            let held = segments.iter().flat_map(|segment| &segment.batches);
            held.into_iter().any(|one| one.position() == batch.batch().position())
        };
        // What was not synced may be there or not; if it is, it counts from now on.
        let unsynced = std::mem::take(&mut self.unsynced);
        for batch in unsynced {
            if held(&batch) {
                self.model.batches.insert(batch.batch().position(), batch);
            }
        }
        assert!(segments.iter().all(|segment| segment.vouches), "nothing rotted");
        let visible = self
            .model
            .batches
            .keys()
            .rev()
            .find(|end| self.path.sees(**end))
            .copied();
        self.last = visible
            .unwrap_or(self.path.start())
            .max(Position::new(self.path.start().epoch, Lsn::ZERO));
        if self.last.lsn < self.path.start().lsn {
            self.last = self.path.start();
        }
        // What nobody holds any more was never written.
        let last = self.last;
        self.missed.retain(|batch| batch.batch().position() < last);
    }

    fn check(&self) {
        for read_point in [
            self.floor,
            Lsn::from_raw(self.floor.raw().midpoint(self.last.lsn.raw())),
            self.last.lsn,
        ] {
            let read_point = read_point.min(self.complete());
            let pages = self
                .store
                .read_pages(SEGMENT, &self.path, read_point, FORK.page(0), BLOCKS)
                .expect("pages");
            for (block, page) in pages.iter().enumerate() {
                let expected = self.model.page(&self.path, read_point, block as u32);
                assert!(
                    page == &expected,
                    "block {block} as of {read_point} (floor {})",
                    self.floor
                );
            }
            let entries = self
                .store
                .scan_catalog(SEGMENT, &self.path, read_point, None, 100)
                .expect("the catalog");
            let entries: Vec<_> = entries
                .into_iter()
                .map(|entry| (entry.key, entry.value.expect("a value")))
                .collect();
            assert_eq!(
                entries,
                self.model.catalog(&self.path, read_point),
                "catalog as of {read_point}"
            );
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Vec<u8>>, u8),
    Miss(Vec<Vec<u8>>, u8),
    FillHoles,
    Sync,
    Announce(u64, bool),
    Maintain,
    WriteTables,
    Branch(u64),
    Restart,
    PowerCut(usize),
    Check,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pair = prop_oneof![
        30 => (0..BLOCKS as u8, 20..255u8).prop_map(|(block, byte)| vec![block, byte]),
        1 => (0..BLOCKS as u8).prop_map(|from| vec![TRUNCATE, from]),
    ];
    let record =
        prop_oneof![4 => pair.clone(), 1 => (0..3u8, 3..6u8).prop_map(|(one, other)| vec![one, 50, other, 60])];
    let flush = (prop::collection::vec(record, 1..6), any::<u8>());
    let step = prop_oneof![
        12 => flush.clone().prop_map(|(records, catalog)| Step::Append(records, catalog)),
        1 => flush.prop_map(|(records, catalog)| Step::Miss(records, catalog)),
        1 => Just(Step::FillHoles),
        6 => Just(Step::Sync),
        3 => (0..60u64, any::<bool>()).prop_map(|(lag, recycle)| Step::Announce(lag, recycle)),
        3 => Just(Step::Maintain),
        1 => Just(Step::WriteTables),
        1 => (0..4u64).prop_map(Step::Branch),
        1 => Just(Step::Restart),
        1 => (0..200usize).prop_map(Step::PowerCut),
        2 => Just(Step::Check),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_history_reads_as_the_model_says(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Append(records, catalog) => world.append(&records, catalog),
                Step::Miss(records, catalog) => world.miss(&records, catalog),
                Step::FillHoles => world.fill_holes(),
                Step::Sync => world.sync(),
                Step::Announce(lag, recycle) => world.announce(lag, recycle),
                Step::Maintain => while world.store.maintain(&|| ()).expect("a good disk") != Progress::Idle {},
                Step::WriteTables => world.store.write_tables().expect("a good disk"),
                Step::Branch(back) => world.branch(back),
                Step::Restart => world.restart(None),
                Step::PowerCut(torn) => world.restart(Some(torn)),
                Step::Check => {
                    world.sync();
                    world.check();
                }
            }
        }
        world.sync();
        world.check();
        world.restart(Some(0));
        world.check();
    }
}

fn appended(world: &mut World, flushes: usize) {
    for flush in 0..flushes {
        world.append(&[vec![(flush % 6) as u8, 20 + (flush % 100) as u8]], flush as u8);
        world.sync();
    }
}

#[test]
fn endless_updates_of_a_few_pages_take_bounded_space() {
    let mut world = World::new();
    let mut most = 0;
    for _ in 0..60 {
        appended(&mut world, 100);
        world.announce(100, true);
        while world.store.maintain(&|| ()).expect("a good disk") != Progress::Idle {}
        most = most.max(world.disk.bytes_used());
    }
    world.check();
    assert!(most < 400 << 10, "{most} bytes on the disk for six pages");
}

#[test]
fn a_full_disk_refuses_appends_loses_nothing_and_goes_on_when_there_is_room() {
    let mut world = World::new();
    appended(&mut world, 20);
    world.disk.set_capacity(Some(world.disk.bytes_used() + 20));
    let end = Position::new(world.path.epoch(), world.last.lsn.advanced_by(10));
    let refused = batch(end, world.last, &[vec![1, 77]], 1);
    let entry = || JournalEntry::Batch {
        segment: SEGMENT,
        batch: refused.clone(),
    };
    assert!(matches!(world.store.append(&[entry()]), Err(AppendError::DiskFull)));
    world.check();
    world.disk.set_capacity(None);
    world.append(&[vec![2, 88]], 3);
    world.sync();
    world.check();
    world.restart(Some(0));
    world.check();
}

#[test]
fn a_failed_sync_closes_the_journal_until_the_next_start() {
    let mut world = World::new();
    appended(&mut world, 5);
    world.append(&[vec![1, 99]], 1);
    world.disk.fail_syncs(true);
    assert!(matches!(world.store.sync(), Err(AppendError::Closed(_))));
    world.disk.fail_syncs(false);
    assert!(
        matches!(world.store.sync(), Err(AppendError::Closed(_))),
        "a later sync proves nothing"
    );
    let state = JournalEntry::State {
        segment: SEGMENT,
        bytes: Bytes::new(),
    };
    assert!(matches!(world.store.append(&[state]), Err(AppendError::Closed(_))));
    world.restart(Some(0));
    world.check();
}

fn newest_journal_file(disk: &MemoryDisk) -> String {
    let names = disk.list("journal").expect("the folder");
    format!("journal/{}", names.last().expect("a file"))
}

/// protocol.md, hole 5: what was acknowledged and rots must cost the segment its vote.
#[test]
fn rot_below_a_synced_offset_costs_the_vote() {
    let mut world = World::new();
    appended(&mut world, 10);
    let file = newest_journal_file(&world.disk);
    world.disk.flip_bit(&file, world.disk.length(&file).unwrap() / 2);
    let segments = open(&world.disk).segments;
    assert!(segments.iter().all(|segment| !segment.vouches));
    assert!(segments[0].batches.len() < 10, "the damaged one is not given out");
}

#[test]
fn a_damaged_last_entry_is_a_torn_tail() {
    let mut world = World::new();
    appended(&mut world, 10);
    let file = newest_journal_file(&world.disk);
    world.disk.flip_bit(&file, world.disk.length(&file).unwrap() - 3);
    let segments = open(&world.disk).segments;
    assert!(segments[0].vouches);
    assert_eq!(segments[0].batches.len(), 9);
}

#[test]
fn a_damaged_layer_is_an_error_never_a_wrong_page() {
    let mut world = World::new();
    appended(&mut world, 50);
    world.announce(0, true);
    world.store.write_tables().expect("a good disk");
    let layer = format!("layers/{}", world.disk.list("layers").unwrap()[0]);
    world.disk.flip_bit(&layer, 20);
    let read = world
        .store
        .read_pages(SEGMENT, &world.path, world.last.lsn, FORK.page(0), 1);
    assert!(matches!(read, Err(ReadError::Corrupt { .. })), "{read:?}");
}

#[test]
fn a_record_that_redo_cannot_apply_is_an_error_for_its_page_alone() {
    let mut world = World::new();
    world.append(&[vec![1, 50], vec![1, 13], vec![2, 60]], 1);
    world.sync();
    let read = |block| {
        world
            .store
            .read_pages(SEGMENT, &world.path, world.last.lsn, FORK.page(block), 1)
    };
    assert!(matches!(
        read(1),
        Err(ReadError::Engine(EngineError::Unsupported { .. }))
    ));
    assert!(read(2).is_ok());
}

#[test]
fn a_long_record_counts_when_its_last_piece_is_there_even_over_a_restart() {
    let mut world = World::new();
    let end = Lsn::from_raw(30);
    let piece = |flush_end: u64, previous: u64, offset: u32, bytes: &'static [u8]| {
        let mut batch = (**batch(
            Position::new(world.path.epoch(), Lsn::from_raw(flush_end)),
            Position::new(world.path.epoch(), Lsn::from_raw(previous)),
            &[],
            1,
        )
        .batch())
        .clone();
        batch.items = vec![Item::Fragment {
            end,
            record_bytes: 4,
            offset,
            bytes: Bytes::from_static(bytes),
        }];
        JournalEntry::Batch {
            segment: SEGMENT,
            batch: EncodedBatch::new(batch),
        }
    };
    let (first, second) = (piece(20, 0, 0, &[1, 50]), piece(30, 20, 2, &[2, 60]));
    world.store.append(&[first]).unwrap();
    world.store.sync().unwrap();
    world.store.write_tables().unwrap();
    world.store = open(&world.disk).store;
    world.store.append(&[second]).unwrap();
    world.store.sync().unwrap();
    let pages = world
        .store
        .read_pages(SEGMENT, &world.path, end, FORK.page(1), 2)
        .unwrap();
    assert!(pages.iter().all(|page| !page.is_zeroed()));
}

#[test]
fn batches_and_flush_headers_are_given_back() {
    let mut world = World::new();
    appended(&mut world, 300);
    world.announce(0, false);
    while world.store.maintain(&|| ()).expect("a good disk") != Progress::Idle {}
    world.restart(Some(0));
    for (position, batch) in &world.model.batches {
        assert_eq!(
            world.store.read_batch(SEGMENT, *position).unwrap().as_ref(),
            Some(batch)
        );
    }
    let header = world.store.flush_header(SEGMENT, &world.path, world.last.lsn).unwrap();
    assert_eq!(header.end, world.last);
    assert_eq!(header.boundary, world.last.lsn);
    assert_eq!(header.marks[..], world.last.lsn.raw().to_le_bytes());
}

#[test]
fn after_a_record_that_cannot_be_read_no_page_is_guessed() {
    let mut world = World::new();
    appended(&mut world, 6);
    let before = world.last.lsn;
    world.append(&[vec![UNREADABLE, 1]], 1);
    appended(&mut world, 3);
    let check = |world: &World| {
        let read = |at| world.store.read_pages(SEGMENT, &world.path, at, FORK.page(0), BLOCKS);
        assert!(read(before).is_ok(), "it is not visible yet");
        assert!(matches!(
            read(world.last.lsn),
            Err(ReadError::Engine(EngineError::Malformed { .. }))
        ));
    };
    check(&world);
    world.store.write_tables().expect("a good disk");
    world.restart(Some(0));
    check(&world);
}

#[test]
fn pages_of_a_dropped_relation_leave_the_disk() {
    let mut world = World::new();
    for _ in 0..40 {
        world.append(&(0..6).map(|block| vec![block, 99]).collect::<Vec<_>>(), 1);
        world.sync();
    }
    world.announce(0, true);
    while world.store.maintain(&|| ()).expect("a good disk") != Progress::Idle {}
    world.append(&[vec![TRUNCATE, 0]], 1);
    for flush in 0..2000 {
        world.append(&[vec![TRUNCATE, 5]], flush as u8);
        world.sync();
        world.announce(0, true);
        while world.store.maintain(&|| ()).expect("a good disk") != Progress::Idle {}
    }
    world.store.write_tables().expect("a good disk");
    while world.store.maintain(&|| ()).expect("a good disk") != Progress::Idle {}
    world.check();
    let layer_bytes: u64 = world.store.status().layer_bytes.values().sum();
    assert!(layer_bytes < 4 << 10, "{layer_bytes} bytes are left");
}

/// Group 3 rests while group 0 takes every flush: what it once wrote must not keep the whole journal.
#[test]
fn a_segment_at_rest_does_not_pin_the_journal() {
    let mut world = World::new();
    let idle = SegmentId::from_bytes([8; 16]);
    let first = batch(
        Position::new(world.path.epoch(), Lsn::from_raw(5)),
        Position::ZERO,
        &[vec![1, 50]],
        1,
    );
    let entries = [
        JournalEntry::State {
            segment: idle,
            bytes: Bytes::from_static(b"idle"),
        },
        JournalEntry::Batch {
            segment: idle,
            batch: first.clone(),
        },
    ];
    world.store.append(&entries).expect("room");
    world.store.sync().expect("a good disk");
    let horizon = Horizon {
        path: world.path.clone(),
        durable: first.batch().position(),
        floor: first.batch().position(),
        recycle_through: first.batch().position(),
    };
    for _ in 0..3 {
        // Written out while the file is still growing: its later part must not count as the idle segment's.
        world.store.set_horizon(idle, horizon.clone());
        world.store.write_tables().expect("a good disk");
        for _ in 0..30 {
            appended(&mut world, 100);
            world.announce(0, true);
            while world.store.maintain(&|| ()).expect("a good disk") != Progress::Idle {}
        }
        let journal_bytes = world.store.status().journal_bytes;
        assert!(
            journal_bytes < 3 * config().journal_retained_bytes_max,
            "{journal_bytes}"
        );
        world.restart(None);
    }
    let page = world
        .store
        .read_pages(idle, &world.path, Lsn::from_raw(5), FORK.page(1), 1);
    assert!(!page.expect("pages")[0].is_zeroed());
}

/// A refused write may leave whole entries behind. They must not come back behind what was accepted after it.
#[test]
fn what_a_full_disk_refused_stays_refused() {
    let mut world = World::new();
    appended(&mut world, 3);
    let state = |segment: SegmentId, text: &'static str| JournalEntry::State {
        segment,
        bytes: Bytes::from_static(text.as_bytes()),
    };
    let other = SegmentId::from_bytes([9; 16]);
    let room = 2 * (crate::journal::ENTRY_HEADER_BYTES as u64 + 5) + 3;
    world.disk.set_capacity(Some(world.disk.bytes_used() + room));
    let refused = [state(other, "other"), state(SEGMENT, "stale"), state(other, "other")];
    assert!(matches!(world.store.append(&refused), Err(AppendError::DiskFull)));
    world.disk.set_capacity(None);
    world.store.append(&[state(SEGMENT, "newer")]).expect("room");
    world.store.sync().expect("a good disk");
    let segments = open(&world.disk).segments;
    assert_eq!(segments.len(), 1, "the other one was refused");
    assert_eq!(segments[0].state, "newer");
}

#[test]
fn layers_that_do_not_fit_on_a_full_disk_leave_nothing_behind() {
    let mut world = World::new();
    appended(&mut world, 60);
    world.announce(0, false);
    for room in 0..1200 {
        world.disk.set_capacity(Some(world.disk.bytes_used() + room));
        let before = world.disk.list("layers").unwrap();
        if world.store.write_tables().is_ok() {
            break;
        }
        assert_eq!(world.disk.list("layers").unwrap(), before, "with {room} bytes of room");
        world.check();
    }
    world.disk.set_capacity(None);
    world.store.write_tables().expect("a good disk");
    world.restart(Some(0));
    world.check();
}

/// Nobody calls `maintain` here: appending itself keeps tables bounded.
#[test]
fn tables_stay_bounded_when_upkeep_does_not_come_round() {
    let mut world = World::new();
    for _ in 0..40 {
        appended(&mut world, 50);
        let table_bytes = world.store.status().table_bytes as usize;
        assert!(table_bytes < 4 * config().table_bytes_max, "{table_bytes}");
    }
    world.check();
    world.restart(Some(0));
    world.check();
}

#[test]
fn a_store_without_its_manifest_is_not_taken_for_an_empty_one() {
    let mut world = World::new();
    appended(&mut world, 50);
    world.store.write_tables().expect("a good disk");
    world.disk.remove("manifest").unwrap();
    let opened = PageStore::open(Arc::new(world.disk.clone()), config(), Arc::new(Toy));
    assert!(matches!(opened, Err(OpenError::Damaged(_))));
    assert_eq!(world.disk.list("layers").unwrap().len(), 1, "nothing was removed");
}

/// What a short life of a store asks of its disk, in order; the disk may stop anywhere.
fn live(world: &mut World, disk: &MemoryDisk) {
    for flush in 0..90u64 {
        let batch = world.next_batch(&[vec![(flush % 6) as u8, 20 + flush as u8], vec![3, 60]], flush as u8);
        let entry = JournalEntry::Batch {
            segment: SEGMENT,
            batch: batch.clone(),
        };
        world.unsynced.push(batch);
        if world.store.append(&[entry]).and_then(|()| world.store.sync()).is_err() {
            return;
        }
        for batch in world.unsynced.drain(..) {
            world.model.batches.insert(batch.batch().position(), batch);
        }
        world.announce(50, true);
        // A failed step is tried again by the next flush's upkeep, as the node does.
        while matches!(world.store.maintain(&|| ()), Ok(progress) if progress != Progress::Idle) {}
        if disk.has_stopped() {
            return;
        }
    }
}

/// After every single change of the disk: the process dies, or the power goes, or first the one and then the other.
#[test]
fn nothing_acknowledged_is_lost_wherever_it_stops() {
    let mut stops = 0;
    'ends: for end in 0.. {
        for (kill, torn) in [(true, None), (false, Some(0)), (false, Some(33)), (true, Some(0))] {
            let mut world = World::new();
            let disk = world.disk.clone();
            disk.stop_after(Some(end));
            live(&mut world, &disk);
            if !disk.has_stopped() {
                break 'ends;
            }
            disk.stop_after(None);
            if kill {
                world.restart(None);
                world.check();
            }
            if torn.is_some() {
                world.restart(torn);
                world.check();
            }
            world.append(&[vec![1, 99]], 1);
            world.sync();
            world.store.write_tables().expect("a good disk");
            world.check();
            stops += 1;
        }
    }
    assert!(1000 < stops, "only {stops} ways to stop");
}

/// The same, but the process goes on after the disk recovers: errors of upkeep leave nothing half done.
#[test]
fn a_disk_that_comes_back_finds_the_store_whole() {
    for end in 0..400 {
        let mut world = World::new();
        let disk = world.disk.clone();
        disk.stop_after(Some(end));
        live(&mut world, &disk);
        disk.stop_after(None);
        world.check();
        while matches!(world.store.maintain(&|| ()), Ok(progress) if progress != Progress::Idle) {}
        world.check();
        world.restart(Some(0));
        world.check();
    }
}

/// The record that fills a hole lies in another layer than the records around it.
#[test]
fn an_image_holds_what_came_late_and_lies_in_another_layer() {
    let mut world = World::new();
    let records = |world: &mut World, count: u8| {
        for byte in 0..count {
            world.append(&[vec![1, 30 + byte]], 1);
        }
        world.sync();
        world.announce(0, true);
        world.store.write_tables().expect("a good disk");
    };
    records(&mut world, 6);
    world.miss(&[vec![1, 77]], 1);
    records(&mut world, 4);
    records(&mut world, 4);
    world.fill_holes();
    world.sync();
    world.announce(0, true);
    assert_eq!(world.store.maintain(&|| ()), Ok(Progress::LayersMerged));
    world.check();
    world.store.write_tables().expect("a good disk");
    world.check();
}

#[test]
fn what_was_lost_stays_lost_when_its_trace_is_recycled() {
    let mut world = World::new();
    appended(&mut world, 10);
    let file = newest_journal_file(&world.disk);
    world.disk.flip_bit(&file, world.disk.length(&file).unwrap() / 2);
    world.store = open(&world.disk).store;
    for _ in 0..20 {
        for _ in 0..50 {
            world.append(&[vec![1, 50]], 1);
        }
        world.sync();
        world.announce(0, true);
        while world.store.maintain(&|| ()).expect("a good disk") != Progress::Idle {}
    }
    assert!(world.disk.length(&file).is_err(), "the damaged file was recycled");
    let Opened { store, segments } = open(&world.disk);
    assert!(!segments[0].vouches);
    let read = store.read_pages(SEGMENT, &world.path, world.last.lsn, FORK.page(0), 1);
    assert_eq!(read, Err(ReadError::Lost(SEGMENT)));
}

#[test]
fn a_lost_layer_costs_the_vote_for_good() {
    for harm in [
        |disk: &MemoryDisk, layer: &str| disk.flip_bit(layer, disk.length(layer).unwrap() - 1),
        |disk: &MemoryDisk, layer: &str| disk.remove(layer).unwrap(),
    ] {
        let mut world = World::new();
        appended(&mut world, 50);
        world.announce(0, true);
        world.store.write_tables().expect("a good disk");
        let layer = format!("layers/{}", world.disk.list("layers").unwrap()[0]);
        harm(&world.disk, &layer);
        for _ in 0..2 {
            let Opened { store, segments } = open(&world.disk);
            assert!(!segments[0].vouches);
            let read = store.read_pages(SEGMENT, &world.path, world.last.lsn, FORK.page(0), 1);
            assert_eq!(read, Err(ReadError::Lost(SEGMENT)));
        }
    }
}

#[test]
fn a_page_made_before_takes_in_what_came_late_and_what_was_truncated() {
    let mut world = World::new();
    world.append(&[vec![1, 50]], 1);
    world.miss(&[vec![1, 60]], 1);
    world.append(&[vec![1, 70]], 1);
    world.sync();
    // As of a read point that the copy is not complete for: nobody asks for it, but it must not be remembered either.
    let read = |world: &World| {
        let page = world
            .store
            .read_pages(SEGMENT, &world.path, world.last.lsn, FORK.page(1), 1);
        page.expect("a page").remove(0)
    };
    read(&world);
    world.fill_holes();
    world.sync();
    assert!(read(&world) == world.model.page(&world.path, world.last.lsn, 1));
    world.check();
    world.append(&[vec![TRUNCATE, 1]], 1);
    world.sync();
    world.check();
    world.append(&[vec![1, 80]], 1);
    world.sync();
    world.check();
}

/// Thousands of changes of one page, read after each: only what is new is applied.
#[test]
fn reading_a_hot_page_costs_what_is_new() {
    let mut world = World::new();
    let applied = |world: &World| {
        let page = world
            .store
            .read_pages(SEGMENT, &world.path, world.last.lsn, FORK.page(1), 1);
        page.expect("a page")
    };
    let counting = Counting::default();
    world.store = PageStore::open(
        Arc::new(world.disk.clone()),
        StoreConfig::default(),
        Arc::new(counting.clone()),
    )
    .expect("the store opens")
    .store;
    for flush in 0..3000u32 {
        world.append(&[vec![1, 20 + (flush % 200) as u8]], 1);
        world.sync();
        applied(&world);
    }
    assert_eq!(counting.0.load(std::sync::atomic::Ordering::Relaxed), 3000);
    world.check();
}

#[derive(Clone, Default)]
struct Counting(Arc<std::sync::atomic::AtomicU64>);

impl Engine for Counting {
    fn touches(&self, record: &[u8], end: Lsn, touches: &mut Vec<Touch>) -> Result<(), EngineError> {
        Toy.touches(record, end, touches)
    }

    fn apply(&self, record: &[u8], end: Lsn, key: PageKey, page: &mut Page) -> Result<(), EngineError> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Toy.apply(record, end, key, page)
    }
}

/// One thread appends and syncs, one does the upkeep, two read whatever is synced.
#[test]
fn reads_are_right_while_log_comes_in_and_layers_change() {
    use std::sync::atomic::{AtomicU64, Ordering};

    const FLUSHES: u64 = 1500;
    let world = World::new();
    let (store, path) = (&world.store, &world.path);
    let end_of = |flush: u64| Position::new(path.epoch(), Lsn::from_raw(10 * flush));
    let record = |flush: u64| match flush % 97 {
        0 => vec![TRUNCATE, (flush % 6) as u8],
        _ => vec![(flush * flush % 6) as u8, 20 + (flush % 150) as u8],
    };
    // How far it is synced, and below what each reader will not ask again.
    let (synced, read_through) = (AtomicU64::new(0), [AtomicU64::new(0), AtomicU64::new(0)]);
    let append = || {
        for flush in 1..=FLUSHES {
            let batch = batch(end_of(flush), end_of(flush - 1), &[record(flush)], flush as u8);
            let entry = JournalEntry::Batch {
                segment: SEGMENT,
                batch,
            };
            store.append(&[entry]).expect("room");
            store.sync().expect("a good disk");
            synced.store(flush, Ordering::Release);
        }
    };
    let upkeep = || {
        while synced.load(Ordering::Acquire) < FLUSHES {
            let floor = read_through.iter().map(|through| through.load(Ordering::Acquire)).min();
            let durable = synced.load(Ordering::Acquire);
            let horizon = Horizon {
                path: path.clone(),
                durable: end_of(durable),
                floor: end_of(floor.expect("two readers")),
                recycle_through: end_of(durable),
            };
            store.set_horizon(SEGMENT, horizon);
            store.maintain(&|| ()).expect("a good disk");
        }
    };
    let read = |reader: usize, first: u32| {
        let mut pages: Vec<Page> = (0..BLOCKS).map(|_| Page::zeroed()).collect();
        let mut applied = 0;
        while applied < FLUSHES {
            let at = synced.load(Ordering::Acquire);
            for flush in applied + 1..=at {
                let record = record(flush);
                if record[0] == TRUNCATE {
                    pages[usize::from(record[1])..].fill(Page::zeroed());
                } else {
                    let page = &mut pages[usize::from(record[0])];
                    Toy.apply(&record, end_of(flush).lsn, FORK.page(u32::from(record[0])), page)
                        .expect("a record of the toy engine");
                }
            }
            applied = at;
            let count = BLOCKS - first;
            let found = store.read_pages(SEGMENT, path, end_of(at).lsn, FORK.page(first), count);
            assert!(found.expect("pages") == pages[first as usize..], "as of flush {at}");
            read_through[reader].store(at, Ordering::Release);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(append);
        scope.spawn(upkeep);
        scope.spawn(|| read(0, 0));
        scope.spawn(|| read(1, 3));
    });
    assert!(!world.disk.list("layers").unwrap().is_empty());
    let read_all = |store: &PageStore| store.read_pages(SEGMENT, path, end_of(FLUSHES).lsn, FORK.page(0), BLOCKS);
    let before = read_all(store).expect("pages");
    world.disk.cut_power(0);
    let Opened { store, segments } = open(&world.disk);
    assert!(segments[0].vouches);
    assert!(read_all(&store).expect("pages") == before, "a layer was left out");
    let header = store
        .flush_header(SEGMENT, path, end_of(FLUSHES).lsn)
        .expect("a header");
    assert_eq!(header.end, end_of(FLUSHES));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any bytes in any file: an error, or the right pages, or fewer of the newest flushes; never a panic or a wrong page.
    #[test]
    fn damaged_files_are_errors_never_wrong_pages(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        garbage in prop::collection::vec(any::<u8>(), 1..60),
        cut in any::<bool>(),
    ) {
        let mut world = World::new();
        appended(&mut world, 70);
        world.announce(0, true);
        world.store.write_tables().expect("a good disk");
        appended(&mut world, 20);
        let disk = &world.disk;
        let mut files = vec!["manifest".to_owned()];
        for folder in ["journal", "layers"] {
            files.extend(disk.list(folder).unwrap().iter().map(|name| format!("{folder}/{name}")));
        }
        let file = which.get(&files);
        let length = disk.length(file).unwrap();
        let at = at.index(length as usize) as u64;
        if cut {
            disk.truncate(file, at).unwrap();
        }
        disk.write_at(file, at, &garbage).unwrap();
        if let Ok(Opened { store, segments }) = PageStore::open(Arc::new(disk.clone()), config(), Arc::new(Toy)) {
            let newest = segments.first().and_then(|segment| segment.batches.last());
            if let Some(newest) = newest {
                for block in 0..BLOCKS {
                    let at = newest.position().lsn;
                    if let Ok(pages) = store.read_pages(SEGMENT, &world.path, at, FORK.page(block), 1) {
                        prop_assert!(pages[0] == world.model.page(&world.path, at, block));
                    }
                }
                let _ = store.scan_catalog(SEGMENT, &world.path, newest.position().lsn, None, 100);
            }
            let _ = store.maintain(&|| ());
        }
    }
}
