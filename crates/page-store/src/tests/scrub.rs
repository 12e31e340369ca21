//! What rots where nobody reads it.

use io::Disk;
use proptest::prelude::*;

use super::toy::*;
use super::world::*;
use crate::journal_files::{FOLDER, file_name};
use crate::journal_scan::scan;
use crate::{Opened, ReadError};

/// Layers of several blocks, a journal of several files, and a manifest: each file with how many of its bytes count.
fn at_rest() -> (World, Vec<(String, u64)>) {
    let mut world = World::new();
    for _ in 0..3 {
        appended(&mut world, 60);
        world.announce(300, false);
        world.store.write_tables().expect("a good disk");
    }
    appended(&mut world, 10);
    let layers = world.disk.list("layers").expect("a folder");
    let mut files: Vec<_> = layers.iter().map(|name| format!("layers/{name}")).collect();
    files.push("manifest".to_owned());
    let mut files: Vec<_> = files
        .into_iter()
        .map(|file| {
            let length = world.disk.length(&file).expect("it is there");
            (file, length)
        })
        .collect();
    let journal = scan(&world.disk).expect("readable files").files;
    let begun = journal.values().filter(|file| file.is_begun());
    files.extend(begun.map(|file| (file_name(file.start), file.valid_through - file.start)));
    (world, files)
}

#[test]
fn everything_at_rest_is_read_and_what_is_sound_is_left_alone() {
    let (world, files) = at_rest();
    let scrubbed = world.store.scrub(&|_| true).expect("a good disk");
    let bytes: u64 = files
        .iter()
        .filter(|(file, _)| file != "manifest")
        .map(|(_, bytes)| bytes)
        .sum();
    assert_eq!((scrubbed.bytes, scrubbed.damaged), (bytes, 0));
    assert!(world.store.damaged().is_empty());
    world.check();
}

#[test]
fn a_pass_ends_when_it_is_told_to() {
    let (world, _) = at_rest();
    let scrubbed = world.store.scrub(&|_| false).expect("a good disk");
    let whole = world.store.scrub(&|_| true).expect("a good disk");
    assert!(
        0 < scrubbed.bytes && scrubbed.bytes < whole.bytes / 2,
        "{scrubbed:?} of {whole:?}"
    );
}

/// A layer whose last write never arrived, or that another one was written over.
#[test]
fn lost_and_misdirected_writes_are_found() {
    let (world, _) = at_rest();
    let layers = world.disk.list("layers").expect("a folder");
    let (first, second) = (format!("layers/{}", layers[0]), format!("layers/{}", layers[1]));
    let other = world.disk.read_all(&second).expect("it is there");
    world.disk.truncate(&first, 0).expect("a good disk");
    world.disk.write_at(&first, 0, &other).expect("a good disk");
    let scrubbed = world.store.scrub(&|_| true).expect("a good disk");
    assert_eq!(scrubbed.damaged, 1);
    assert_eq!(world.store.damaged(), [SEGMENT]);
}

#[test]
fn a_read_that_finds_rot_costs_the_vote_at_once() {
    let (world, files) = at_rest();
    for (layer, _) in files.iter().filter(|(file, _)| file.starts_with("layers")) {
        world.disk.flip_bit(layer, 20);
    }
    let read = || {
        let blocks = BLOCKS;
        world
            .store
            .read_pages(SEGMENT, &world.path, world.last.lsn, FORK.page(0), blocks)
    };
    assert!(matches!(read(), Err(ReadError::Corrupt { .. })));
    assert_eq!(world.store.damaged(), [SEGMENT]);
    assert_eq!(read(), Err(ReadError::Lost(SEGMENT)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The manifest is in memory, too, and is written again; anything else costs the vote, also after a restart.
    #[test]
    fn any_flipped_bit_is_found(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>()) {
        let (mut world, files) = at_rest();
        let (file, bytes) = which.get(&files);
        world.disk.flip_bit(file, at.index(*bytes as usize) as u64);
        let scrubbed = world.store.scrub(&|_| true).expect("a disk that answers");
        prop_assert_eq!(scrubbed.damaged, 1);
        if file == "manifest" {
            prop_assert_eq!(scrubbed.mended, 1);
            world.reopen();
            world.check();
            return Ok(());
        }
        prop_assert_eq!(scrubbed.mended, 0);
        prop_assert_eq!(world.store.damaged(), [SEGMENT]);
        let again = world.store.scrub(&|_| true).expect("a disk that answers");
        prop_assert_eq!(again.damaged, u64::from(file.starts_with(FOLDER)), "a rotten layer is known");
        let Opened { segments, .. } = open(&world.disk);
        prop_assert!(!segments[0].vouches);
    }
}
