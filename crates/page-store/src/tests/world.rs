//! A store, and a naive model of what ought to be read back from it.

use std::collections::BTreeMap;

use bytes::Bytes;
use engine::Engine;
use io::MemoryDisk;
use timeline::{Branch, Path};
use units::{Epoch, Lsn, Page, Position};
use wire_format::log::{LogAsked, LoggedFlush};
use wire_format::{CatalogKey, EncodedBatch, Item};

use super::toy::*;
use crate::{Horizon, JournalEntry, Opened, PageStore, Progress};

/// Everything ever synced, and what ought to be read back.
#[derive(Clone, Default)]
pub(super) struct Model {
    pub(super) batches: BTreeMap<Position, EncodedBatch>,
}

impl Model {
    pub(super) fn page(&self, path: &Path, read_point: Lsn, block: u32) -> Page {
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

    pub(super) fn catalog(&self, path: &Path, read_point: Lsn) -> Vec<(CatalogKey, Bytes)> {
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

pub(super) struct World {
    pub(super) disk: MemoryDisk,
    pub(super) store: PageStore,
    pub(super) model: Model,
    pub(super) path: Path,
    pub(super) last: Position,
    pub(super) floor: Lsn,
    pub(super) unsynced: Vec<EncodedBatch>,
    /// Batches that this copy missed, and will get later.
    pub(super) missed: Vec<EncodedBatch>,
    pub(super) recycled: Position,
    /// It is a tail, and nobody wants what lies at or below.
    pub(super) let_go: Option<Position>,
}

impl World {
    pub(super) fn new() -> World {
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
            let_go: None,
        };
        let state = JournalEntry::State {
            segment: SEGMENT,
            bytes: Bytes::from_static(b"state"),
        };
        world.store.append(&[state]).expect("room");
        world.store.sync().expect("a good disk");
        world
    }

    pub(super) fn next_batch(&mut self, records: &[Vec<u8>], catalog: u8) -> EncodedBatch {
        let end = Position::new(self.path.epoch(), self.last.lsn.advanced_by(10));
        let batch = batch(end, self.last, records, catalog);
        self.last = end;
        batch
    }

    pub(super) fn append_batch(&mut self, batch: EncodedBatch) {
        let entry = JournalEntry::Batch {
            segment: SEGMENT,
            batch: batch.clone(),
        };
        self.store.append(&[entry]).expect("room");
        self.unsynced.push(batch);
    }

    pub(super) fn append(&mut self, records: &[Vec<u8>], catalog: u8) {
        let batch = self.next_batch(records, catalog);
        self.append_batch(batch);
    }

    pub(super) fn miss(&mut self, records: &[Vec<u8>], catalog: u8) {
        let batch = self.next_batch(records, catalog);
        self.missed.push(batch);
    }

    pub(super) fn fill_holes(&mut self) {
        for batch in std::mem::take(&mut self.missed) {
            self.append_batch(batch);
        }
    }

    /// Up to where the copy lacks nothing, and everything is synced.
    pub(super) fn complete(&self) -> Lsn {
        let lacking = self.missed.iter().chain(&self.unsynced);
        lacking
            .map(|batch| batch.batch().previous.lsn)
            .min()
            .unwrap_or(Lsn::MAX)
    }

    pub(super) fn sync(&mut self) {
        self.store.sync().expect("a good disk");
        for batch in self.unsynced.drain(..) {
            self.model.batches.insert(batch.batch().position(), batch);
        }
    }

    /// All that there is to do in the background.
    pub(super) fn upkeep(&self) {
        while self.store.maintain(&|| ()).expect("a good disk") != Progress::Idle {}
        if self.store.damaged().is_empty() {
            let scrubbed = self.store.scrub(&|_| true).expect("a good disk");
            assert_eq!(scrubbed.damaged, 0, "what is sound is not taken for rot");
        }
    }

    /// The last batch of the model that the path sees, or where the path begins.
    fn newest_visible(&self) -> Position {
        let mut ends = self.model.batches.keys().rev();
        ends.find(|end| self.path.sees(**end))
            .copied()
            .unwrap_or(self.path.start())
    }

    /// The last batch up to which the copy lacks nothing, along the path.
    pub(super) fn newest_complete(&self) -> Position {
        let complete = self.complete();
        let mut ends = self.model.batches.keys().rev();
        let found = ends.find(|end| end.lsn <= complete && self.path.sees(**end));
        found.copied().unwrap_or(Position::ZERO)
    }

    /// Appends, announces and works in the background until journal files from before are recycled.
    pub(super) fn recycle(&mut self) {
        for _ in 0..20 {
            for _ in 0..50 {
                self.append(&[vec![1, 50]], 1);
            }
            self.sync();
            self.announce(0, true);
            self.upkeep();
        }
    }

    pub(super) fn announce(&mut self, floor_lag: u64, recycle: bool) {
        let durable = self.newest_visible();
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
            let_go: self.let_go,
        };
        self.store.set_horizon(SEGMENT, horizon);
    }

    /// A new reign that leaves the last one at or above the floor.
    pub(super) fn branch(&mut self, back: u64) {
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

    pub(super) fn restart(&mut self, torn: Option<usize>) {
        if let Some(torn) = torn {
            self.disk.cut_power(torn);
        }
        self.reopen();
    }

    pub(super) fn restart_scattered(&mut self, seed: u64) {
        self.cut_power_scattered(seed);
        self.reopen();
    }

    /// The power goes while the disk writes sectors in an order of its own, another one for each seed.
    pub(super) fn cut_power_scattered(&self, seed: u64) {
        let mut bits = seed;
        self.disk.cut_power_anyhow(|| {
            // splitmix64
            bits = bits.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            mixed >> 63 == 0
        });
    }

    pub(super) fn reopen(&mut self) {
        let Opened { store, segments } = open(&self.disk);
        self.store = store;
        let held = |batch: &EncodedBatch| {
            let held = segments.iter().flat_map(|segment| &segment.batches);
            held.into_iter().any(|one| one.end == batch.batch().position())
        };
        // What was not synced may be there or not; if it is, it counts from now on.
        let unsynced = std::mem::take(&mut self.unsynced);
        for batch in unsynced {
            if held(&batch) {
                self.model.batches.insert(batch.batch().position(), batch);
            }
        }
        assert!(segments.iter().all(|segment| segment.vouches), "nothing rotted");
        self.last = self
            .newest_visible()
            .max(Position::new(self.path.start().epoch, Lsn::ZERO));
        if self.last.lsn < self.path.start().lsn {
            self.last = self.path.start();
        }
        // What nobody holds any more was never written.
        let last = self.last;
        self.missed.retain(|batch| batch.batch().position() < last);
    }

    pub(super) fn check(&self) {
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
        self.check_log();
    }

    /// The log above the floor, as far as this copy lacks nothing, is what came.
    fn check_log(&self) {
        let through = self.last.lsn.min(self.complete());
        let mut asked = LogAsked {
            path: self.path.clone(),
            after: self.floor.min(through),
            offset: 0,
            through,
            bytes_max: 1 << 20,
        };
        let (mut records, mut flushes) = (Vec::new(), Vec::new());
        while asked.after < through {
            let part = self.store.log(SEGMENT, &asked).expect("the log");
            assert!(asked.after < part.through, "an answer leads on");
            asked.after = part.through;
            records.extend(part.items);
            flushes.extend(part.flushes);
        }
        let visible =
            |position: &Position| self.path.sees(*position) && self.floor < position.lsn && position.lsn <= through;
        let (mut expected, mut expected_flushes) = (Vec::new(), Vec::new());
        for (position, batch) in &self.model.batches {
            let batch = batch.batch();
            for item in &batch.items {
                let Item::Record { end, .. } = item else {
                    unreachable!("only records");
                };
                if visible(&Position::new(position.epoch, *end)) && position.lsn <= through {
                    expected.push(item.clone());
                }
            }
            if visible(position) {
                let header = batch.header.as_ref().expect("group 0");
                expected_flushes.push(LoggedFlush::of(batch.end, header));
            }
        }
        assert_eq!(records, expected, "log above {} up to {through}", self.floor);
        assert_eq!(
            flushes, expected_flushes,
            "flushes above {} up to {through}",
            self.floor
        );
    }
}

pub(super) fn appended(world: &mut World, flushes: usize) {
    for flush in 0..flushes {
        world.append(&[vec![(flush % 6) as u8, 20 + (flush % 100) as u8]], flush as u8);
        world.sync();
    }
}
