//! Files of the journal that rot while the store runs, and are written anew.

use std::collections::BTreeMap;

use io::Disk;
use proptest::prelude::*;
use units::Lsn;

use super::toy::*;
use super::world::*;
use crate::journal_files::file_name;
use crate::journal_scan::scan;
use crate::{JournalEntry, JournalMend};

/// A journal of several files: name, and how many bytes count.
fn with_journal() -> (World, Vec<(u64, u64)>) {
    let mut world = World::new();
    for _ in 0..3 {
        appended(&mut world, 40);
        let state = JournalEntry::State {
            segment: SEGMENT,
            bytes: bytes::Bytes::from_static(b"a state in the middle"),
        };
        world.store.append(&[state]).expect("room");
        appended(&mut world, 20);
    }
    let journal = scan(&world.disk).expect("readable files").files;
    let begun = journal.values().filter(|file| file.is_begun());
    let files = begun
        .map(|file| (file.start, file.valid_through - file.start))
        .collect();
    (world, files)
}

fn begin(world: &World, start: u64) -> JournalMend {
    let begun = world.store.begin_journal_mend(start).expect("a disk that answers");
    begun.expect("the file is there")
}

fn mend(world: &World, start: u64) {
    let mend = begin(world, start);
    let lost: Vec<_> = mend.lost().collect();
    let given: BTreeMap<_, _> = lost
        .into_iter()
        .map(|lost| (lost, world.model.batches[&lost.position].clone()))
        .collect();
    world.store.end_journal_mend(mend, &given).expect("a good disk");
}

/// Something in the middle of a file is gone, and a pass finds that.
fn rot(world: &World, start: u64, at: u64) {
    let written = world.disk.write_at(&file_name(start), at, &[0; 10]);
    written.expect("a good disk");
    assert_eq!(world.store.scrub(&|_| true).expect("a disk that answers").damaged, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Whatever is written over whatever part of the journal while the store runs.
    #[test]
    fn a_rotten_file_of_the_journal_is_written_anew(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        garbage in prop::collection::vec(any::<u8>(), 1..2000),
        gone in 0..10u8,
        later in 0..30usize,
    ) {
        let (mut world, files) = with_journal();
        let (start, bytes) = *which.get(&files);
        let at = at.index(bytes as usize) as u64;
        let garbage = &garbage[..garbage.len().min((bytes - at) as usize)];
        match gone {
            0 => world.disk.remove(&file_name(start)).expect("a good disk"),
            1 => world.disk.truncate(&file_name(start), at).expect("a good disk"),
            _ => world.disk.write_at(&file_name(start), at, garbage).expect("a good disk"),
        }
        let found = world.store.scrub(&|_| true).expect("a disk that answers").damaged;
        appended(&mut world, later);
        prop_assert_eq!(world.store.rotten_journal_files().len() as u64, found);
        for start in world.store.rotten_journal_files() {
            prop_assert_eq!(world.store.holders_of(start), [SEGMENT]);
            mend(&world, start);
        }
        prop_assert!(world.store.damaged().is_empty());
        prop_assert_eq!(world.store.scrub(&|_| true).expect("a good disk").damaged, 0);
        for (position, batch) in &world.model.batches {
            let held = world.store.read_batch(SEGMENT, *position).expect("a good disk").expect("it is held");
            prop_assert_eq!(held.bytes(), batch.bytes());
        }
        appended(&mut world, 5);
        world.reopen();
        world.check();
        prop_assert_eq!(world.store.last_state(SEGMENT).expect("a state"), "a state in the middle");
    }
}

/// Batches that nobody has any more, since no history sees them, leave nothing behind.
#[test]
fn what_nobody_has_is_forgotten() {
    let (mut world, files) = with_journal();
    let (start, bytes) = files[0];
    rot(&world, start, bytes / 2);
    let mend = begin(&world, start);
    let lost: Vec<_> = mend.lost().collect();
    assert!(!lost.is_empty());
    world
        .store
        .end_journal_mend(mend, &BTreeMap::new())
        .expect("a good disk");
    for batch in &lost {
        assert_eq!(
            world.store.read_batch(SEGMENT, batch.position).expect("a good disk"),
            None
        );
        world.model.batches.remove(&batch.position);
    }
    assert!(world.store.damaged().is_empty());
    assert!(open(&world.disk).segments[0].vouches);
}

/// Only what a process read or wrote itself it knows: after a restart nobody can say what the file had.
#[test]
fn a_file_that_was_given_up_is_nobodys_loss() {
    let mut world = World::new();
    appended(&mut world, 10);
    world.restart(None);
    appended(&mut world, 10);
    let journal = scan(&world.disk).expect("readable files").files;
    let start = *journal.keys().next().expect("a file");
    world.disk.flip_bit(&file_name(start), 100);
    assert_eq!(world.store.scrub(&|_| true).expect("a disk that answers").damaged, 1);
    assert_eq!(world.store.damaged(), [SEGMENT]);
    world.recycle();
    assert!(world.store.damaged().is_empty());
    assert!(open(&world.disk).segments[0].vouches);
}

/// What nobody asks for any more may be in nobody's journal: it is not asked of others either. A table that alone has it is written
/// out first.
#[test]
fn what_nobody_wants_is_done_without() {
    let (mut world, files) = with_journal();
    world.announce(0, true);
    let pages = |world: &World, through: Lsn| -> Vec<_> {
        let read = |block| {
            world
                .store
                .read_pages(SEGMENT, &world.path, through, FORK.page(block), 1)
        };
        (0..6).map(|block| read(block).expect("a page")).collect()
    };
    let last = world.last.lsn;
    let before = pages(&world, last);
    let (start, bytes) = *files.last().expect("a file");
    rot(&world, start, bytes / 2);
    let mend = begin(&world, start);
    assert_eq!(mend.lost().count(), 0);
    world
        .store
        .end_journal_mend(mend, &BTreeMap::new())
        .expect("a good disk");
    assert!(world.store.damaged().is_empty());
    world.restart(None);
    assert_eq!(pages(&world, last), before);
}
