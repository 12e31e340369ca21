//! The journal: what it gives back, what it gives up, and how its files live.

use std::sync::Arc;

use bytes::Bytes;
use io::{Disk, MemoryDisk};
use units::{Lsn, Position, SegmentId};

use super::damage::written_file;
use super::toy::*;
use super::world::*;
use crate::journal_files::{FOLDER, file_name, spare_name};
use crate::journal_scan::scan;
use crate::reserve::SPARES_MAX;
use crate::{AppendError, Horizon, JournalEntry, PageStore, Progress};

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
    // The next start finds what the operating system still shows, says so, and has to make that true.
    world.restart(None);
    assert_eq!(world.model.batches.len(), 6);
    world.check();
    world.restart(Some(0));
    assert_eq!(world.model.batches.len(), 6);
    world.check();
}

#[test]
fn batches_and_flush_headers_are_given_back() {
    let mut world = World::new();
    appended(&mut world, 300);
    world.announce(0, false);
    world.upkeep();
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
        let_go: None,
    };
    for _ in 0..3 {
        // Written out while the file is still growing: its later part must not count as the idle segment's.
        world.store.set_horizon(idle, horizon.clone());
        world.store.write_tables().expect("a good disk");
        for _ in 0..30 {
            appended(&mut world, 100);
            world.announce(0, true);
            world.upkeep();
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

fn journal_files(disk: &MemoryDisk) -> Vec<(String, u64)> {
    let names = disk.list(FOLDER).expect("the folder").into_iter();
    let lengths = names.map(|name| format!("{FOLDER}/{name}"));
    lengths
        .map(|file| (file.clone(), disk.length(&file).expect("a file")))
        .collect()
}

/// Enough to fill several journal files, each of which is given up.
fn through_several_files(world: &mut World) {
    for _ in 0..40 {
        appended(world, 10);
        world.announce(0, true);
        world.upkeep();
    }
}

/// What makes a commit cheap: a sync of the journal has no length, no name and no allocation to write.
#[test]
fn in_the_steady_state_appending_changes_no_file_but_in_place() {
    let mut world = World::new();
    through_several_files(&mut world);
    let file_bytes = config().journal_file_bytes;
    let mut changes = 0;
    for _ in 0..200 {
        let before = journal_files(&world.disk);
        appended(&mut world, 1);
        changes += usize::from(journal_files(&world.disk) != before);
        world.announce(0, true);
        world.upkeep();
    }
    assert_eq!(changes, 0);
    let files = journal_files(&world.disk);
    assert!(files.iter().all(|(_, length)| *length == file_bytes), "{files:?}");
    world.check();
}

#[test]
fn files_that_are_kept_for_later_are_few_also_over_restarts() {
    let mut world = World::new();
    for _ in 0..4 {
        through_several_files(&mut world);
        // All of the journal may go but the file that is written.
        world.store.write_tables().expect("a good disk");
        world.upkeep();
        let files = journal_files(&world.disk);
        assert!(files.len() <= 1 + 1 + SPARES_MAX, "{files:?}");
        world.restart(Some(0));
        let files = journal_files(&world.disk);
        assert!(files.len() <= 2 + SPARES_MAX, "{files:?}");
    }
    world.check();
}

/// Behind the end of the journal stands a whole earlier life of the file, of entries as long as those that come now.
#[test]
fn entries_of_an_earlier_life_of_a_file_do_not_come_back() {
    for seed in 0..300 {
        let mut world = World::new();
        through_several_files(&mut world);
        // So that the end is in the middle of a file in its second life, or at the very end or beginning of one.
        appended(&mut world, seed as usize % 70);
        world.store.write_tables().expect("a good disk");
        let batches = world.model.batches.len();
        for _ in 0..5 {
            world.append(&[vec![2, 30]], 3);
        }
        match seed % 4 {
            0 => world.restart(None),
            1 => world.restart(Some(seed as usize * 3)),
            _ => world.restart_scattered(seed),
        }
        assert!(world.model.batches.len() <= batches + 5);
        world.check();
        // The torn tail is not taken for rot when there is something behind it.
        appended(&mut world, 3);
        world.restart_scattered(seed);
        world.check();
    }
}

/// The next file is begun, and the power goes before any of it was synced: whatever sectors of it survive, the file before
/// it is whole.
#[test]
fn a_file_that_was_begun_in_vain_costs_nothing() {
    let mut headless = 0;
    for seed in 0..200 {
        let mut world = World::new();
        through_several_files(&mut world);
        let (written, _) = written_file(&world.disk);
        while written_file(&world.disk).0 == written {
            world.sync();
            world.append(&[vec![2, 30], vec![3, 40]], 3);
        }
        for _ in 0..8 {
            world.append(&[vec![2, 30]], 3);
        }
        world.cut_power_scattered(seed * 977 + 1);
        let scan = scan(&world.disk).expect("readable files");
        headless += usize::from(
            scan.files
                .values()
                .any(|file| file.is_begun() && file.beginning.is_none()),
        );
        world.reopen();
        world.check();
        appended(&mut world, 100);
        world.restart_scattered(seed);
        world.check();
    }
    assert!(10 < headless, "only {headless} files lost their beginning alone");
}

/// What is appended at once goes into one file, however long it is.
#[test]
fn appends_longer_than_a_file_are_journaled_like_any_other() {
    let mut world = World::new();
    let file_bytes = config().journal_file_bytes;
    let record = |bytes: u64| -> Vec<u8> {
        (0..bytes)
            .map(|at| if at % 2 == 0 { 1 } else { at as u8 | 16 })
            .collect()
    };
    let state = |bytes: u64| JournalEntry::State {
        segment: SEGMENT,
        bytes: Bytes::from(vec![9; bytes as usize]),
    };
    for bytes in [
        file_bytes - 200,
        file_bytes,
        3 * file_bytes,
        10,
        file_bytes / 2,
        5 * file_bytes,
        20,
    ] {
        world.append(&[record(bytes)], 1);
        world.sync();
        world.store.append(&[state(bytes % 7), state(bytes)]).expect("room");
        world.append(&[record(bytes)], 1);
        world.restart_scattered(bytes);
        world.check();
        world.restart(Some(0));
        world.check();
        appended(&mut world, 2);
    }
    world.announce(0, true);
    world.store.write_tables().expect("a good disk");
    world.upkeep();
    let files = journal_files(&world.disk);
    assert!(files.iter().all(|(_, length)| *length <= 6 * file_bytes), "{files:?}");
    assert!(files.len() <= 2 + SPARES_MAX, "long files are not kept: {files:?}");
}

/// Opening changes files, too: the process may die, or the power go, after each of these changes.
#[test]
fn opening_may_stop_anywhere() {
    let mut stops = 0;
    for seed in 0..25u64 {
        for end in 0.. {
            let mut world = World::new();
            through_several_files(&mut world);
            appended(&mut world, seed as usize * 5);
            for _ in 0..4 {
                world.append(&[vec![2, 30]], 3);
            }
            let disk = world.disk.clone();
            if seed % 3 == 0 {
                disk.cut_power(seed as usize * 40);
            }
            disk.stop_after(Some(end));
            let opened = PageStore::open(Arc::new(disk.clone()), config(), Arc::new(Toy));
            let stopped = opened.is_err();
            disk.stop_after(None);
            match end % 3 {
                0 => world.restart(None),
                1 => world.restart(Some(0)),
                _ => world.restart_scattered(seed + end),
            }
            world.check();
            appended(&mut world, 20);
            world.restart_scattered(seed);
            world.check();
            stops += 1;
            if !stopped {
                break;
            }
        }
    }
    assert!(100 < stops, "only {stops} ways to stop");
}

/// A spare may be a file that was begun in vain under its number: in its next life no offset of that one may come back.
#[test]
fn no_file_begins_where_a_spare_may_have_begun() {
    let mut world = World::new();
    appended(&mut world, 5);
    let (number, file_bytes) = (1 << 20, config().journal_file_bytes);
    let spare = spare_name(number);
    world.disk.write_at(&spare, 0, &vec![7; file_bytes as usize]).unwrap();
    world.restart(None);
    assert!(world.disk.length(&spare).is_err(), "it is the file that is written");
    assert_eq!(written_file(&world.disk).0, file_name(number + file_bytes));
    appended(&mut world, 5);
    world.restart(Some(0));
    world.check();
}

/// The states in it are all there is until those in the next file are durable.
#[test]
fn a_file_stays_until_the_one_after_it_is_durable() {
    let mut world = World::new();
    through_several_files(&mut world);
    let (file, _) = written_file(&world.disk);
    let mut filling = 0;
    while written_file(&world.disk).0 == file {
        world.sync();
        world.announce(0, true);
        world.store.write_tables().expect("a good disk");
        world.append(&[vec![2, 30]], 3);
        filling += 1;
    }
    assert!(1 < filling);
    world.announce(0, true);
    world.upkeep();
    world.restart(Some(0));
    world.check();
    appended(&mut world, 5);
    world.announce(0, true);
    world.upkeep();
    assert!(world.disk.length(&file).is_err(), "now it could go");
}

/// A copy with a hole waits for the layers of peers: what it holds beyond the hole must not keep the journal that others share.
#[test]
fn what_a_waiting_copy_does_not_need_leaves_the_journal() {
    let mut world = World::new();
    appended(&mut world, 2000);
    let horizon = Horizon {
        path: world.path.clone(),
        durable: world.newest_complete(),
        floor: Position::ZERO,
        recycle_through: Position::ZERO,
        let_go: None,
    };
    world.store.set_horizon(SEGMENT, horizon);
    while world.store.maintain(&|| ()).expect("a good disk") != Progress::Idle {}
    let pinned = world.store.status().journal_bytes;
    assert!(config().journal_retained_bytes_max < pinned, "{pinned} bytes");
    let pages = |world: &World| {
        let pages = world
            .store
            .read_pages(SEGMENT, &world.path, world.last.lsn, FORK.page(0), BLOCKS);
        pages.expect("pages")
    };
    let before = pages(&world);
    world.store.let_journal_go(SEGMENT, world.newest_complete());
    while world.store.maintain(&|| ()).expect("a good disk") != Progress::Idle {}
    let left = world.store.status().journal_bytes;
    assert!(left <= config().journal_retained_bytes_max, "{left} of {pinned} bytes");
    assert!(pages(&world) == before, "the versions are in layers");
}
