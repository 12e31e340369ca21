//! How pages come about, and what they cost.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use engine::{Engine, EngineError, Touch};
use io::Disk;
use units::{Epoch, Lsn, Page, PageKey, Position};
use wire_format::{Batch, CatalogEntry, CatalogKey, Elsewhere, EncodedBatch, Item};

use super::damage::written_file;
use super::toy::*;
use super::world::*;
use crate::index::{Fragments, versions};
use crate::key::Key;
use crate::log::Range;
use crate::{JournalEntry, PageStore, Progress, ReadError, StoreConfig};

#[test]
fn endless_updates_of_a_few_pages_take_bounded_space() {
    let mut world = World::new();
    let mut most = 0;
    for _ in 0..60 {
        appended(&mut world, 100);
        world.announce(100, true);
        world.upkeep();
        most = most.max(world.disk.bytes_used());
    }
    world.check();
    assert!(most < 400 << 10, "{most} bytes on the disk for six pages");
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

/// A flush of group 0 that carries a piece of a long record.
fn piece(
    world: &World,
    flush: [u64; 2],
    end: Lsn,
    record_bytes: u32,
    offset: u32,
    bytes: &'static [u8],
) -> JournalEntry {
    let [previous, flush_end] = flush.map(|lsn| Position::new(world.path.epoch(), Lsn::from_raw(lsn)));
    let mut batch = (**batch(flush_end, previous, &[], 1).batch()).clone();
    batch.items = vec![Item::Fragment {
        end,
        record_bytes,
        offset,
        bytes: Bytes::from_static(bytes),
    }];
    JournalEntry::Batch {
        segment: SEGMENT,
        batch: EncodedBatch::new(batch),
    }
}

#[test]
fn a_long_record_counts_when_its_last_piece_is_there_even_over_a_restart() {
    let mut world = World::new();
    let end = Lsn::from_raw(30);
    let first = piece(&world, [0, 20], end, 4, 0, &[1, 50]);
    let second = piece(&world, [20, 30], end, 4, 2, &[2, 60]);
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

/// A peer filled in the rest of a long record when another one had begun: after a restart only that rest is read again.
#[test]
fn a_long_record_that_was_finished_before_the_restart_does_not_pin_the_journal() {
    let mut world = World::new();
    let [late, later] = [30, 60].map(Lsn::from_raw);
    let append = |world: &World, entry: JournalEntry| {
        world.store.append(&[entry]).unwrap();
        world.store.sync().unwrap();
    };
    append(&world, piece(&world, [0, 20], late, 4, 0, &[1, 50]));
    append(&world, piece(&world, [30, 40], later, 4, 0, &[2, 60]));
    append(&world, piece(&world, [20, 30], late, 4, 2, &[1, 51]));
    world.store.write_tables().unwrap();
    let (file, _) = written_file(&world.disk);
    world.store = open(&world.disk).store;
    append(&world, piece(&world, [40, 60], later, 4, 2, &[2, 61]));
    let read = |world: &World, at| {
        world
            .store
            .read_pages(SEGMENT, &world.path, at, FORK.page(1), 2)
            .unwrap()
    };
    let pages = read(&world, later);
    assert!(pages.iter().all(|page| !page.is_zeroed()));
    world.last = Position::new(world.path.epoch(), later);
    world.recycle();
    assert!(world.disk.length(&file).is_err(), "it was recycled");
    assert!(read(&world, world.last.lsn)[1] == pages[1]);
}

/// A record that extends a fork by several blocks says the size after each of them, all at its own position.
#[test]
fn of_several_catalog_entries_of_one_record_the_last_one_counts() {
    let mut world = World::new();
    let key = CatalogKey::Blob("size".to_owned());
    for flush in 0..3u8 {
        let mut batch = (**world.next_batch(&[vec![1, 50]], 1).batch()).clone();
        let entry = |value| CatalogEntry {
            key: key.clone(),
            lsn: Lsn::from_raw(batch.end.raw() - 1),
            value: Some(Bytes::copy_from_slice(&[value])),
        };
        let sizes = (1..=32).map(|size| entry(32 * flush + size)).collect();
        batch.header.as_mut().expect("group 0").catalog = sizes;
        world.append_batch(EncodedBatch::new(batch));
        world.sync();
        let size = |world: &World| {
            let found = world.store.scan_catalog(SEGMENT, &world.path, world.last.lsn, None, 10);
            found.expect("the catalog").remove(0).value.expect("a value")[0]
        };
        let expected = 32 * flush + 32;
        assert_eq!(size(&world), expected, "in a table");
        if flush == 1 {
            world.announce(0, false);
        }
        world.store.write_tables().expect("a good disk");
        assert_eq!(size(&world), expected, "in a layer");
        world.restart(Some(0));
        assert_eq!(size(&world), expected, "after a restart");
    }
    world.announce(0, false);
    world.upkeep();
    let found = world.store.scan_catalog(SEGMENT, &world.path, world.last.lsn, None, 10);
    assert_eq!(found.expect("the catalog")[0].value, Some(Bytes::from_static(&[96])));
}

/// Prepared transactions can be long: an answer with all of them would not fit into a frame.
#[test]
fn a_catalog_of_long_values_comes_in_several_answers() {
    let mut world = World::new();
    let key = |entry: u8| CatalogKey::Blob(format!("twophase/{entry:08}"));
    for value in 0..30u8 {
        let mut batch = (**world.next_batch(&[], 1).batch()).clone();
        let entry = CatalogEntry {
            key: key(value),
            lsn: batch.end,
            value: Some(Bytes::from(vec![value; 1 << 20])),
        };
        batch.header.as_mut().expect("group 0").catalog = vec![entry];
        world.append_batch(EncodedBatch::new(batch));
        world.sync();
        if value == 20 {
            world.store.write_tables().expect("a good disk");
        }
    }
    let (mut found, mut answers) = (Vec::new(), 0);
    loop {
        let after = found.last().map(|entry: &CatalogEntry| entry.key.clone());
        let answer = world
            .store
            .scan_catalog(SEGMENT, &world.path, world.last.lsn, after.as_ref(), 5000);
        let answer = answer.expect("the catalog");
        if answer.is_empty() {
            break;
        }
        assert!(answer.len() <= 8, "{} MiB", answer.len());
        found.extend(answer);
        answers += 1;
    }
    assert!(answers <= 5, "{answers} answers");
    assert!(found.iter().map(|entry| entry.key.clone()).eq((0..30).map(key)));
}

/// However much else comes in meanwhile, and however long the journal becomes: no table is written in vain.
#[test]
fn a_long_record_that_comes_in_slowly_does_not_make_a_layer_of_every_flush() {
    let mut world = World::new();
    let first = piece(&world, [0, 10], Lsn::from_raw(1 << 40), 4, 0, &[1, 50]);
    world.store.append(&[first]).unwrap();
    world.last = Position::new(world.path.epoch(), Lsn::from_raw(10));
    appended(&mut world, 1000);
    world.announce(0, true);
    world.upkeep();
    assert!(config().journal_retained_bytes_max < world.store.status().journal_bytes);
    for _ in 0..8 {
        appended(&mut world, 1);
        assert_ne!(world.store.maintain(&|| ()), Ok(Progress::TableWritten));
    }
    world.check();
    let last = world.last.lsn.raw();
    let end = Lsn::from_raw(1 << 40);
    let second = piece(&world, [last, 1 << 40], end, 4, 2, &[1, 51]);
    world.store.append(&[second]).unwrap();
    world.last = Position::new(world.path.epoch(), end);
    world.recycle();
    assert!(world.store.status().journal_bytes < config().journal_retained_bytes_max);
}

/// Who looked for the journal's end before the last piece came must not put the record into a table that ends there.
#[test]
fn a_table_holds_nothing_from_behind_its_end() {
    let world = World::new();
    let end = Lsn::from_raw(30);
    let append = |entry: JournalEntry| {
        world.store.append(&[entry]).unwrap();
        world.store.sync().unwrap();
        world.store.handed_over.load(Ordering::Acquire)
    };
    let between = append(piece(&world, [0, 20], end, 4, 0, &[1, 50]));
    append(piece(&world, [20, 30], end, 4, 2, &[2, 60]));
    let segment = &world.store.all_segments()[0];
    segment.settle(&Toy, between);
    let table = segment.freeze(0).expect("a flush header");
    let is_page = |key: &Key| matches!(key, Key::Page(_));
    assert!(table.through_offset < between && !table.versions.keys().any(is_page));
    let pages = world.store.read_pages(SEGMENT, &world.path, end, FORK.page(1), 2);
    assert!(pages.unwrap().iter().all(|page| !page.is_zeroed()));
}

/// Twelve bytes may wait for the rest of their records.
#[test]
fn pieces_of_records_too_long_to_wait_for_are_not_held_and_the_record_is_an_error() {
    let mut world = World::new();
    let config = StoreConfig {
        fragment_bytes_max: 12,
        ..config()
    };
    let opened = PageStore::open(Arc::new(world.disk.clone()), config, Arc::new(Toy));
    world.store = opened.expect("the store opens").store;
    let read = |at: u64| {
        let read_point = Lsn::from_raw(at);
        world
            .store
            .read_pages(SEGMENT, &world.path, read_point, FORK.page(1), 1)
    };
    let append = |entry: JournalEntry| {
        world.store.append(&[entry]).unwrap();
        world.store.sync().unwrap();
        world.store.settle();
    };
    let at = Lsn::from_raw;
    append(piece(&world, [0, 20], at(40), 8, 0, &[1, 50, 1, 51]));
    // Two at a time fit, a third one does not, but does not harm them either.
    append(piece(&world, [20, 30], at(41), 6, 0, &[1, 60, 1, 61]));
    append(piece(&world, [30, 35], at(42), 8, 0, &[1, 70, 1, 71, 1, 72]));
    append(piece(&world, [35, 40], at(40), 8, 4, &[1, 52, 1, 53]));
    assert!(!read(40).unwrap()[0].is_zeroed());
    append(piece(&world, [40, 41], at(41), 6, 4, &[1, 62]));
    assert!(read(41).is_ok());
    append(piece(&world, [41, 42], at(42), 8, 6, &[1, 73]));
    let error = read(42).unwrap_err().to_string();
    assert!(error.contains("more than the 12"), "{error}");
    assert!(read(41).is_ok());
    // Nor does one that is too long by itself, and what was given up pins nothing.
    append(piece(&world, [42, 50], at(60), 14, 0, &[1, 80, 1, 81]));
    append(piece(
        &world,
        [50, 60],
        at(60),
        14,
        4,
        &[1, 82, 1, 83, 1, 84, 1, 85, 1, 86],
    ));
    append(piece(&world, [60, 70], at(70), 8, 0, &[1, 90, 1, 91, 1, 92, 1, 93]));
    world.store.write_tables().unwrap();
    assert!(read(41).is_ok());
    assert!(read(60).is_err());
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

/// The thread that it hits took the batches out of the queue: nobody may go on as if they had been indexed.
#[test]
fn after_a_panic_while_log_was_indexed_no_page_is_made_without_it() {
    let mut world = World::new();
    world.append(&[vec![1, 50], vec![PANICKING, 1]], 1);
    world.sync();
    for _ in 0..2 {
        let read = || {
            world
                .store
                .read_pages(SEGMENT, &world.path, world.last.lsn, FORK.page(1), 1)
        };
        let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
        assert!(read.is_err(), "it was answered: {read:?}");
        let written = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.store.write_tables()));
        assert!(written.is_err(), "the journal would go");
    }
}

#[test]
fn pages_of_a_dropped_relation_leave_the_disk() {
    let mut world = World::new();
    for _ in 0..40 {
        world.append(&(0..6).map(|block| vec![block, 99]).collect::<Vec<_>>(), 1);
        world.sync();
    }
    world.announce(0, true);
    world.upkeep();
    world.append(&[vec![TRUNCATE, 0]], 1);
    for flush in 0..2000 {
        world.append(&[vec![TRUNCATE, 5]], flush as u8);
        world.sync();
        world.announce(0, true);
        world.upkeep();
    }
    world.store.write_tables().expect("a good disk");
    world.upkeep();
    world.check();
    let layer_bytes: u64 = world.store.status().layer_bytes.values().sum();
    assert!(layer_bytes < 4 << 10, "{layer_bytes} bytes are left");
}

/// A record that goes to two groups makes no version of the other's pages, whole or in pieces; what it truncates is gone in
/// both.
#[test]
fn a_record_makes_no_versions_of_other_groups_pages() {
    let record = Bytes::from_static(&[1, 50, TRUNCATE, 4, 2, 60, 3, 70]);
    let end = Lsn::from_raw(100);
    let whole = vec![Item::Record {
        end,
        bytes: record.clone(),
    }];
    let piece = |offset: usize| Item::Fragment {
        end,
        record_bytes: record.len() as u32,
        offset: offset as u32,
        bytes: record.slice(offset..offset + 4),
    };
    for items in [whole, vec![piece(0), piece(4)]] {
        let mut batch = Batch::clone(batch(Position::new(Epoch::from_raw(1), end), Position::ZERO, &[], 1).batch());
        (batch.items, batch.header) = (items, None);
        batch.elsewhere = vec![Elsewhere {
            end,
            touches: vec![0, 3],
        }];
        let mut keys = Vec::new();
        let mut fragments = Fragments::new(1000);
        versions(&Toy, &batch, 0, &mut fragments, |key, _| keys.push(key));
        let records = Key::Records(Range::of(end));
        assert_eq!(keys, [Key::Truncation(FORK), Key::Page(FORK.page(2)), records]);
    }
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

/// Found by simulation: a read as of where the copy was complete was carried out after that had been folded. It showed a page
/// without some of its records, and kept it for others to build on.
#[test]
fn nothing_is_read_as_of_where_versions_may_be_folded() {
    let mut world = World::new();
    world.append(&[vec![1, 50]], 1);
    world.sync();
    world.announce(100, true);
    world.store.write_tables().expect("a good disk");
    world.append(&[vec![1, 60]], 1);
    let before = world.last.lsn;
    world.append(&[vec![TRUNCATE, 1]], 1);
    world.sync();
    let read = |world: &World| {
        world
            .store
            .read_pages(SEGMENT, &world.path, before, FORK.page(1), 1)
            .map(|mut pages| pages.remove(0))
    };
    let page = world.model.page(&world.path, before, 1);
    assert!(read(&world) == Ok(page));
    world.announce(0, true);
    world.store.write_tables().expect("a good disk");
    let folded = ReadError::Folded {
        read_point: before,
        through: world.last.lsn,
    };
    assert_eq!(read(&world).err(), Some(folded.clone()));
    let scanned = world.store.scan_catalog(SEGMENT, &world.path, before, None, 1);
    assert_eq!(scanned, Err(folded));
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
