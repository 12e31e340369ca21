//! Files that do not say what was written to them.

use std::sync::Arc;

use io::{Disk, MemoryDisk};
use proptest::prelude::*;

use super::toy::*;
use super::world::*;
use crate::journal_files::file_name;
use crate::journal_scan::scan;
use crate::{OpenError, Opened, PageStore, ReadError};

/// The file that the journal is written to, and where in it the last entry ends.
pub(super) fn written_file(disk: &MemoryDisk) -> (String, u64) {
    let scan = scan(disk).expect("readable files");
    let mut files = scan.files.values().rev();
    let file = files.find(|file| file.is_begun()).expect("a file");
    (file_name(file.start), file.valid_through - file.start)
}

/// protocol.md, hole 5: what was acknowledged and rots must cost the segment its vote.
#[test]
fn rot_below_a_synced_offset_costs_the_vote() {
    let mut world = World::new();
    appended(&mut world, 10);
    let (file, end) = written_file(&world.disk);
    world.disk.flip_bit(&file, end / 2);
    let segments = open(&world.disk).segments;
    assert!(segments.iter().all(|segment| !segment.vouches));
    assert!(segments[0].batches.len() < 10, "the damaged one is not given out");
}

/// In its beginning, in the last of its entries that another file proves synced, or as a whole.
#[test]
fn rot_in_a_file_that_is_not_the_last_costs_the_vote() {
    for harm in [
        |disk: &MemoryDisk, file: &str, _| disk.flip_bit(file, 20),
        |disk: &MemoryDisk, file: &str, end| disk.flip_bit(file, end - 1),
        |disk: &MemoryDisk, file: &str, _| disk.truncate(file, 0).unwrap(),
        |disk: &MemoryDisk, file: &str, _| disk.remove(file).unwrap(),
    ] {
        let mut world = World::new();
        appended(&mut world, 5);
        world.restart(None);
        appended(&mut world, 5);
        let (file, end) = written_file(&world.disk);
        world.restart(None);
        appended(&mut world, 1);
        harm(&world.disk, &file, end);
        let segments = open(&world.disk).segments;
        assert!(!segments[0].vouches);
        let batches = segments[0].batches.len();
        assert!(
            (6..12).contains(&batches),
            "what can be read is given out, not {batches}"
        );
    }
}

#[test]
fn a_damaged_last_entry_is_a_torn_tail() {
    let mut world = World::new();
    appended(&mut world, 10);
    let (file, end) = written_file(&world.disk);
    world.disk.flip_bit(&file, end - 3);
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
fn a_store_without_its_manifest_is_not_taken_for_an_empty_one() {
    let mut world = World::new();
    appended(&mut world, 50);
    world.store.write_tables().expect("a good disk");
    world.disk.remove("manifest").unwrap();
    let opened = PageStore::open(Arc::new(world.disk.clone()), config(), Arc::new(Toy));
    assert!(matches!(opened, Err(OpenError::Damaged(_))));
    assert_eq!(world.disk.list("layers").unwrap().len(), 1, "nothing was removed");
}

#[test]
fn what_was_lost_stays_lost_when_its_trace_is_recycled() {
    let mut world = World::new();
    appended(&mut world, 10);
    let (file, end) = written_file(&world.disk);
    world.disk.flip_bit(&file, end / 2);
    world.store = open(&world.disk).store;
    world.recycle();
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

/// A block in the middle of a layer: no start reads it, a merge does.
#[test]
fn rot_that_a_merge_finds_costs_the_vote_and_the_other_layers_are_merged() {
    let mut world = World::new();
    let layer = |world: &mut World| {
        appended(world, 20);
        world.announce(0, true);
        world.store.write_tables().expect("a good disk");
    };
    layer(&mut world);
    let rotten = format!("layers/{}", world.disk.list("layers").unwrap()[0]);
    world.disk.flip_bit(&rotten, 20);
    layer(&mut world);
    assert!(world.store.damaged().is_empty());
    layer(&mut world);
    let error = (0..100).find_map(|_| world.store.maintain(&|| ()).err());
    assert!(matches!(error, Some(ReadError::Corrupt { .. })), "{error:?}");
    assert_eq!(world.store.damaged(), [SEGMENT]);
    for _ in 0..20 {
        layer(&mut world);
        world.upkeep();
        assert!(world.disk.list("layers").unwrap().len() <= config().merge_layers);
    }
    let Opened { store, segments } = open(&world.disk);
    assert!(!segments[0].vouches);
    let read = store.read_pages(SEGMENT, &world.path, world.last.lsn, FORK.page(0), 1);
    assert_eq!(read, Err(ReadError::Lost(SEGMENT)));
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
                    let at = newest.end.lsn;
                    if let Ok(pages) = store.read_pages(SEGMENT, &world.path, at, FORK.page(block), 1) {
                        prop_assert!(pages[0] == world.model.page(&world.path, at, block));
                    }
                }
                let _ = store.scan_catalog(SEGMENT, &world.path, newest.end.lsn, None, 100);
            }
            let _ = store.maintain(&|| ());
        }
    }
}
