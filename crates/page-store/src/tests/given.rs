//! What one store gives another out of its layers, and what the other takes.

use std::collections::BTreeMap;

use bytes::Bytes;
use io::Disk;
use proptest::prelude::*;
use units::{Epoch, Lsn, PAGE_BYTES, Page, Position};
use wire_format::message::{VersionCursor, Versions, VersionsAsked};
use wire_format::versions::{BlockName, Extent, Run};
use wire_format::{EncodedBatch, Item};

use super::copies::{Target, key, only};
use super::toy::*;
use super::world::*;
use crate::layer::file_name;
use crate::{PageStore, PassPart, Progress, ReadError};

pub(super) const WIDE_BLOCKS: u32 = 300;

/// A page that packs badly.
fn noise(seed: u64) -> Page {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(PAGE_BYTES)
    .collect();
    Page::from_bytes(&bytes).expect("its length")
}

/// Images of pages all over a wide fork, in layers of many blocks. Answers with the last one of each page.
pub(super) fn images(world: &mut World, flushes: u64) -> BTreeMap<u32, Page> {
    let mut last = BTreeMap::new();
    for flush in 0..flushes {
        let mut batch = (**world.next_batch(&[], 1).batch()).clone();
        let end = batch.end.raw();
        let mut image = |at: u64| {
            let block = ((flush * 7 + at * 31) % u64::from(WIDE_BLOCKS)) as u32;
            last.insert(block, noise(end + at));
            Item::Image {
                end: Lsn::from_raw(end - 9 + at),
                key: FORK.page(block),
                page: noise(end + at),
            }
        };
        batch.items = (0..10).map(&mut image).collect();
        world.append_batch(EncodedBatch::new(batch));
        world.sync();
    }
    world.store.write_tables().expect("a good disk");
    last
}

/// A pass of three parts in turn, with answers of so many bytes. Answers with how many bytes were given.
fn copy(world: &World, target: &Target, bytes_max: u32) -> usize {
    let end = Bytes::new();
    let mut parts = [(end.clone(), key(100)), (key(100), key(200)), (key(200), end)].map(|(from, until)| {
        let above = Position::ZERO;
        (Some(VersionCursor { key: from, above }), until)
    });
    let mut given = 0;
    while parts.iter().any(|(from, _)| from.is_some()) {
        for (part, (place, until)) in (0..).zip(&mut parts) {
            let Some(from) = place.take() else { continue };
            let asked = VersionsAsked {
                from: from.clone(),
                until: until.clone(),
                bytes_max,
                ..all(world.newest_complete(), world)
            };
            let versions = world.store.versions(SEGMENT, &asked).expect("a good disk");
            given += versions.content.len();
            let part = PassPart {
                part,
                parts: 3,
                ..only(1)
            };
            let taken = target.store.take_versions(SEGMENT, part, &from, &versions);
            assert_eq!(taken, Ok(true));
            *place = versions.next;
        }
    }
    given
}

/// Whole blocks, blocks at the ends of ranges, and layers of which a part is on a history that was left.
#[test]
fn layers_are_given_block_by_block_and_nothing_invisible() {
    for (bytes_max, leaves) in [(10_000, 0), (100_000, 0), (4 << 20, 0), (50_000, 3), (4 << 20, 25)] {
        let mut world = World::new();
        images(&mut world, 60);
        if 0 < leaves {
            world.branch(leaves);
        }
        let target = Target::new();
        let given = copy(&world, &target, bytes_max);
        let held = world.store.status().layer_bytes[&SEGMENT];
        assert!(given as u64 <= held, "{given} bytes of {held}: some came twice");
        let pages = |store: &PageStore| {
            let pages = store.read_pages(SEGMENT, &world.path, world.last.lsn, FORK.page(0), WIDE_BLOCKS);
            pages.expect("pages")
        };
        assert!(pages(&target.store) == pages(&world.store), "{bytes_max}, {leaves}");
        for layer in target.store.segment(SEGMENT).expect("it is there").layers().iter() {
            for block in layer.blocks.range(0..layer.blocks.count()).expect("a good disk") {
                let mut entries = layer.entries(&block).expect("a good disk");
                while let Some((key, version)) = entries.next().expect("versions") {
                    assert!(world.path.sees(version.position), "{key:?} at {}", version.position);
                }
            }
        }
        let scrubbed = target.store.scrub(&|_| true);
        assert_eq!(scrubbed.map(|scrubbed| scrubbed.damaged), Ok(0));
    }
}

/// Who gives looks at every byte: what has rotted is not handed on, and costs the giver its vote.
#[test]
fn a_block_that_has_rotted_is_not_given() {
    let mut world = World::new();
    images(&mut world, 20);
    let segment = world.store.segment(SEGMENT).expect("it is there");
    let file = file_name(segment.layers()[0].number);
    world.disk.write_at(&file, 100, &[0; 8]).expect("room");
    let given = world.store.versions(SEGMENT, &all(world.newest_complete(), &world));
    assert!(matches!(given, Err(ReadError::Corrupt { .. })), "{given:?}");
    assert_eq!(world.store.damaged(), [SEGMENT]);
}

fn all(through: Position, world: &World) -> VersionsAsked {
    VersionsAsked {
        path: world.path.clone(),
        after: Position::ZERO,
        from: VersionCursor::default(),
        until: Bytes::new(),
        bytes_max: 1 << 20,
        through,
        floor: Position::ZERO,
    }
}

/// Whoever begins after a flush in the middle of a long record never gets what came before: the record.
#[test]
fn what_is_given_ends_before_a_record_that_is_still_coming_in() {
    let mut world = World::new();
    let end = |flush: u64| Position::new(Epoch::from_raw(1), Lsn::from_raw(10 * flush));
    let piece = |offset: u32| Item::Fragment {
        end: Lsn::from_raw(29),
        record_bytes: 4,
        offset,
        bytes: Bytes::from_static(&[2, 50]),
    };
    let flush = |number: u64, items: Vec<Item>| {
        let mut batch = (**batch(end(number), end(number - 1), &[], 1).batch()).clone();
        batch.items = items;
        EncodedBatch::new(batch)
    };
    world.append(&[vec![1, 50]], 1);
    world.append_batch(flush(2, vec![piece(0)]));
    world.store.sync().expect("a good disk");
    let given = world
        .store
        .versions(SEGMENT, &all(end(2), &world))
        .expect("a good disk");
    assert_eq!(given.through, end(1));
    world.append_batch(flush(3, vec![piece(2)]));
    world.store.sync().expect("a good disk");
    let given = world
        .store
        .versions(SEGMENT, &all(end(3), &world))
        .expect("a good disk");
    assert_eq!(given.through, end(3));
    let target = Target::new();
    let taken = target
        .store
        .take_versions(SEGMENT, only(1), &VersionCursor::default(), &given);
    assert_eq!(taken, Ok(true));
    let read = |store: &PageStore| store.read_pages(SEGMENT, &world.path, Lsn::from_raw(30), FORK.page(0), BLOCKS);
    assert!(read(&target.store).expect("pages") == read(&world.store).expect("pages"));
}

#[test]
fn what_a_peer_cannot_mean_is_refused_and_leaves_nothing() {
    let mut world = World::new();
    appended(&mut world, 200);
    let through = world.newest_complete();
    let target = Target::new();
    let layers = || {
        target
            .disk
            .list("layers")
            .expect("a disk in memory can be listed")
            .len()
    };
    let given = world
        .store
        .versions(SEGMENT, &all(through, &world))
        .expect("a good disk");
    let start = VersionCursor::default();
    let changed = |change: &dyn Fn(&mut Run)| {
        let mut wrong = given.clone();
        change(&mut wrong.runs[0]);
        wrong
    };
    let mut rotten = given.content.to_vec();
    rotten[10] ^= 1;
    let block = |first_key: u32| BlockName {
        first_key: key(first_key),
        ..given.runs[0].blocks[0].clone()
    };
    let falling = Versions {
        content: [&given.content[..], &given.content[..]].concat().into(),
        ..changed(&|run| run.blocks = vec![block(3), block(1)])
    };
    let wrong = [
        Versions {
            content: rotten.into(),
            ..given.clone()
        },
        Versions {
            content: given.content.slice(..given.content.len() - 1),
            ..given.clone()
        },
        falling,
        changed(&|run| {
            run.blocks = vec![block(3)];
            run.last_key = key(2);
        }),
        changed(&|run| run.last_key = Bytes::new()),
        changed(&|run| run.blocks[0].first_key = Bytes::from_static(&[99])),
    ];
    for (pass, wrong) in wrong.into_iter().enumerate() {
        let pass = pass as u64 + 1;
        let taken = target.store.take_versions(SEGMENT, only(pass), &start, &wrong);
        assert!(matches!(taken, Err(ReadError::Malformed(_))), "{pass}: {taken:?}");
        let taken = target.store.take_versions(SEGMENT, only(pass), &start, &given);
        assert_eq!(taken, Ok(false), "the rest of a pass that lost something");
        assert_eq!(layers(), 0);
    }
    // The same keys in two parts: no layer can hold them.
    let part = |part| PassPart {
        part,
        parts: 2,
        ..only(8)
    };
    assert_eq!(target.store.take_versions(SEGMENT, part(0), &start, &given), Ok(true));
    let again = target.store.take_versions(SEGMENT, part(1), &start, &given);
    assert!(matches!(again, Err(ReadError::Malformed(_))), "{again:?}");
    assert_eq!(layers(), 0);
    let of_an_earlier_pass = target.store.take_versions(SEGMENT, only(1), &start, &given);
    assert_eq!(of_an_earlier_pass, Ok(false));
    assert_eq!(target.store.take_versions(SEGMENT, only(9), &start, &given), Ok(true));
    assert_eq!(layers(), given.runs.len());
    let unknown = VersionsAsked {
        from: VersionCursor {
            key: Bytes::from_static(&[99]),
            above: Position::ZERO,
        },
        ..all(through, &world)
    };
    assert!(matches!(
        world.store.versions(SEGMENT, &unknown),
        Err(ReadError::Malformed(_))
    ));
}

proptest! {
    #[test]
    fn arbitrary_blocks_are_taken_or_refused(
        blocks in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..9), prop::collection::vec(any::<u8>(), 0..99)), 0..3),
        last_key in prop::collection::vec(any::<u8>(), 0..9),
        has_checksums in any::<bool>(),
    ) {
        let target = Target::new();
        let name = |(first_key, block): &(Vec<u8>, Vec<u8>)| BlockName {
            first_key: first_key.clone().into(),
            bytes: block.len() as u32,
            checksum: if has_checksums { crc32c::crc32c(block) } else { 0 },
        };
        let versions = Versions {
            runs: vec![Run {
                blocks: blocks.iter().map(name).collect(),
                last_key: last_key.into(),
                extent: Extent::default(),
            }],
            content: blocks.into_iter().flat_map(|(_, block)| block).collect(),
            next: None,
            through: Position::ZERO,
            floor: Position::ZERO,
            splits: Vec::new(),
            bytes_expected: 0,
        };
        // An error is as good as a value here: only a panic would fail.
        let _ = target.store.take_versions(SEGMENT, only(1), &VersionCursor::default(), &versions);
        while target.store.maintain(&|| ()).is_ok_and(|progress| progress != Progress::Idle) {}
    }
}
