//! Histories of a store against the model: over branches, truncations, restarts, power cuts and disks that stop.

use engine::Engine;
use io::{Disk, MemoryDisk};
use proptest::prelude::*;
use units::{Lsn, Page, Position};

use super::toy::*;
use super::world::*;
use crate::{Horizon, JournalEntry, Opened, PageStore, Progress};

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
    ScatteredPowerCut(u64),
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
        1 => any::<u64>().prop_map(Step::ScatteredPowerCut),
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
                Step::Maintain => world.upkeep(),
                Step::WriteTables => world.store.write_tables().expect("a good disk"),
                Step::Branch(back) => world.branch(back),
                Step::Restart => world.restart(None),
                Step::PowerCut(torn) => world.restart(Some(torn)),
                Step::ScatteredPowerCut(seed) => world.restart_scattered(seed),
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
                let_go: None,
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
