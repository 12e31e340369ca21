//! A disk without room.

use std::sync::Arc;

use bytes::Bytes;
use io::Disk;
use units::SegmentId;
use wire_format::EncodedBatch;

use super::damage::written_file;
use super::toy::*;
use super::world::*;
use crate::{AppendError, JournalEntry, Opened, PageStore, Progress, StoreConfig};

fn entry(batch: &EncodedBatch) -> JournalEntry {
    JournalEntry::Batch {
        segment: SEGMENT,
        batch: batch.clone(),
    }
}

fn state(segment: SegmentId, letter: u8) -> JournalEntry {
    JournalEntry::State {
        segment,
        bytes: Bytes::from(vec![letter; 300]),
    }
}

/// Appends until there is no room; answers with how often there was.
fn append_until_full(world: &mut World) -> usize {
    for appended in 0.. {
        let end = world.last;
        let batch = world.next_batch(&[vec![1, 77]], 1);
        match world.store.append(&[entry(&batch)]) {
            Ok(()) => world.unsynced.push(batch),
            Err(AppendError::DiskFull) => {
                world.last = end;
                return appended;
            }
            Err(error) => panic!("{error}"),
        }
        world.sync();
    }
    unreachable!("a disk without end");
}

#[test]
fn a_full_disk_refuses_appends_loses_nothing_and_goes_on_when_there_is_room() {
    let mut world = World::new();
    appended(&mut world, 20);
    world.disk.set_capacity(Some(world.disk.bytes_used() + 20));
    append_until_full(&mut world);
    world.check();
    world.disk.set_capacity(None);
    world.append(&[vec![2, 88]], 3);
    world.sync();
    world.check();
    world.restart(Some(0));
    world.check();
}

/// A refused append must not come back behind what was accepted after it, however much of it was written.
#[test]
fn what_a_full_disk_refused_stays_refused() {
    let other = SegmentId::from_bytes([9; 16]);
    let refused = [state(other, b'o'), state(SEGMENT, b's'), state(other, b'o')];
    for room in 0..1400 {
        let mut world = World::new();
        appended(&mut world, 1);
        world.disk.set_capacity(Some(world.disk.bytes_used() + room));
        if world.store.append(&refused).is_ok() {
            assert!(400 < room);
            return;
        }
        world.disk.set_capacity(None);
        world.store.append(&[state(SEGMENT, b'n')]).expect("room");
        world.store.sync().expect("a good disk");
        let segments = open(&world.disk).segments;
        assert_eq!(segments.len(), 1, "the other one was refused");
        assert_eq!(segments[0].state[..], [b'n'; 300]);
    }
    panic!("the disk was never large enough");
}

#[test]
fn what_a_failed_write_left_behind_stays_refused() {
    let other = SegmentId::from_bytes([9; 16]);
    let refused = [state(SEGMENT, b'n'), state(other, b'o'), state(SEGMENT, b's')];
    for written in 0..refused.iter().map(JournalEntry::journaled_bytes).sum() {
        let mut world = World::new();
        // So that what is appended now overwrites what is allocated.
        let roomy = StoreConfig {
            journal_file_bytes: 64 << 10,
            ..config()
        };
        let opened = PageStore::open(Arc::new(world.disk.clone()), roomy, Arc::new(Toy));
        world.store = opened.expect("the store opens").store;
        world.disk.tear_next_write(written);
        assert!(matches!(world.store.append(&refused), Err(AppendError::Write(_))));
        for accepted in [&refused[..1], &[]] {
            if !accepted.is_empty() {
                world.store.append(accepted).expect("room");
                world.store.sync().expect("a good disk");
            }
            let segments = open(&world.disk).segments;
            assert!(segments[0].vouches);
            assert_eq!(segments.len(), 1, "the other one was refused");
            assert_eq!(segments[0].state[..], [b'n'; 300]);
        }
    }
}

/// A disk that has no room for another journal file has room for many commits.
#[test]
fn a_file_that_cannot_be_prepared_does_not_stop_appends() {
    let mut world = World::new();
    let file_bytes = config().journal_file_bytes;
    appended(&mut world, 1);
    world
        .disk
        .set_capacity(Some(world.disk.bytes_used() + file_bytes + file_bytes / 2));
    let appended_before = world.model.batches.len();
    let one = world
        .model
        .batches
        .values()
        .next()
        .map(entry)
        .expect("a batch")
        .journaled_bytes() as u64;
    let mut refusals = 0;
    loop {
        if append_until_full(&mut world) == 0 {
            break;
        }
        refusals += 1;
        world.disk.set_capacity(Some(world.disk.bytes_used()));
    }
    assert!(0 < refusals);
    let appended = (world.model.batches.len() - appended_before) as u64;
    assert!(
        file_bytes + file_bytes / 8 < appended * one,
        "only {appended} of {one} bytes"
    );
    world.check();
    // Upkeep fails to make another file ready, and still does what can be done.
    assert!(world.store.maintain(&|| ()).is_err());
    world.disk.set_capacity(None);
    world.upkeep();
    world.restart(Some(0));
    world.check();
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

/// A copy was down, and the journal was kept for it: when it is back, what was kept for it makes the room that a table needs.
#[test]
fn journal_that_is_no_longer_wanted_goes_even_if_a_table_that_is_due_does_not_fit() {
    let mut world = World::new();
    for _ in 0..10 {
        appended(&mut world, 50);
        world.announce(0, false);
        world.upkeep();
    }
    appended(&mut world, 40);
    assert!(config().table_bytes_max <= world.store.status().table_bytes as usize);
    world.disk.set_capacity(Some(world.disk.bytes_used()));
    assert!(world.store.maintain(&|| ()).is_err());
    let kept = world.store.status().journal_bytes;
    world.announce(0, true);
    let mut steps = 0;
    while world.store.maintain(&|| ()) != Ok(Progress::Idle) {
        steps += 1;
        assert!(steps < 100, "it does not come to an end");
    }
    assert!(world.store.status().journal_bytes < kept / 2);
    assert!((world.store.status().table_bytes as usize) < config().table_bytes_max);
    appended(&mut world, 1);
    world.check();
}

/// Whatever was going on when the disk became full: the node starts, reads, refuses, and goes on when there is room.
#[test]
fn a_store_on_a_full_disk_opens_and_reads_and_goes_on_when_there_is_room() {
    for seed in 0..120u64 {
        let mut world = World::new();
        // In the first file, or among files in their second life.
        if seed % 2 == 0 {
            for _ in 0..30 {
                appended(&mut world, 10);
                world.announce(0, true);
                world.upkeep();
            }
        }
        appended(&mut world, seed as usize);
        if seed % 3 == 0 {
            world.append(&[vec![2, 88]], 3);
        }
        world.disk.set_capacity(Some(world.disk.bytes_used() + seed % 7 * 50));
        for life in 0..3 {
            match (seed / 2 + life) % 3 {
                0 => world.restart(None),
                1 => world.restart(Some(seed as usize)),
                _ => world.restart_scattered(seed),
            }
            // What a restart frees, it may use; but not more than there is.
            world.check();
            append_until_full(&mut world);
            world.check();
            assert!(world.store.status().closed.is_none());
        }
        world.disk.set_capacity(None);
        appended(&mut world, 30);
        world.check();
        world.announce(0, true);
        world.upkeep();
        world.restart(Some(0));
        world.check();
    }
}

#[test]
fn a_store_that_was_never_given_room_is_read_as_it_was() {
    let mut world = World::new();
    appended(&mut world, 30);
    world.append(&[vec![2, 88]], 3);
    world.disk.set_capacity(Some(0));
    for _ in 0..3 {
        world.restart(None);
        world.check();
        assert_eq!(append_until_full(&mut world), 0);
    }
    assert_eq!(
        world.model.batches.len(),
        31,
        "what was not synced before is durable now"
    );
    world.restart(Some(0));
    assert_eq!(world.model.batches.len(), 31);
    world.check();
}

/// That something is lost is not forgotten for want of room to write it down.
#[test]
fn damage_that_could_not_be_noted_still_costs_the_vote_when_its_trace_is_gone() {
    let mut world = World::new();
    appended(&mut world, 10);
    world.store.write_tables().expect("a good disk");
    let (file, end) = written_file(&world.disk);
    world.disk.flip_bit(&file, end / 2);
    world.disk.set_capacity(Some(0));
    let Opened { store, segments } = open(&world.disk);
    assert!(!segments[0].vouches);
    world.store = store;
    world.disk.set_capacity(None);
    world.recycle();
    assert!(world.disk.length(&file).is_err(), "the damaged file was recycled");
    assert!(!open(&world.disk).segments[0].vouches);
}
