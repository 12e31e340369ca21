//! Layers whose indexes are larger than the memory that there is for them.

use std::collections::BTreeMap;

use io::Disk;
use units::Page;

use super::given::{WIDE_BLOCKS, images};
use super::mend::Twins;
use super::toy::*;
use super::world::*;
use crate::ReadError;

/// A store with many blocks in its layers, and its pages. Nothing of an index has been read since it was opened.
fn wide() -> (World, BTreeMap<u32, Page>) {
    let mut world = World::new();
    let pages = images(&mut world, 60);
    world.store = open(&world.disk).store;
    (world, pages)
}

fn read(world: &World, block: u32) -> Result<Page, ReadError> {
    let pages = world
        .store
        .read_pages(SEGMENT, &world.path, world.last.lsn, FORK.page(block), 1)?;
    Ok(pages.into_iter().next().expect("it was asked for"))
}

#[test]
fn every_page_is_found_and_no_more_of_an_index_is_kept_than_there_is_memory_for() {
    let (world, pages) = wide();
    let blocks_count: usize = {
        let segment = world.store.segment(SEGMENT).expect("it is there");
        segment.layers().iter().map(|layer| layer.blocks.count()).sum()
    };
    assert!(100 < blocks_count, "{blocks_count} blocks show nothing");
    let limit = config().index_cache_bytes_max;
    // Not in their order: neighbours would be in the same part.
    for at in 0..WIDE_BLOCKS {
        let block = at * 97 % WIDE_BLOCKS;
        if let Some(page) = pages.get(&block) {
            assert!(read(&world, block).as_ref() == Ok(page), "block {block}");
        }
        assert!(world.store.indexes.bytes() <= limit);
    }
    assert!(0 < world.store.indexes.bytes());
}

/// Found while the store is open, when a page is asked for whose entry is in that part, and by a scrub; what it names comes from a
/// peer.
#[test]
fn a_part_of_an_index_that_rots_is_found_and_mended() {
    for tenth in [0, 3, 6, 9] {
        let (world, pages) = wide();
        let layer = {
            let segment = world.store.segment(SEGMENT).expect("it is there");
            segment
                .layers()
                .iter()
                .max_by_key(|layer| layer.file_bytes)
                .expect("one")
                .clone()
        };
        let name = crate::layer::file_name(layer.number);
        let mut footer = [0; 8];
        let length = world.disk.length(&name).expect("it is there");
        world
            .disk
            .read_at(&name, length - 28, &mut footer)
            .expect("a good disk");
        let index_at = u64::from_le_bytes(footer);
        world
            .disk
            .flip_bit(&name, index_at + 4 + (length - index_at) * tenth / 10);
        for (block, page) in &pages {
            match read(&world, *block) {
                Ok(found) => assert!(found == *page, "block {block}"),
                Err(ReadError::Corrupt { .. } | ReadError::Lost(_)) => {}
                Err(error) => panic!("block {block}: {error}"),
            }
        }
        world.store.scrub(&|_| true).expect("a disk that answers");
        assert_eq!(world.store.damaged(), [SEGMENT], "at {tenth} tenths");
        let lost = layer.lost().expect("a disk that answers");
        assert!(
            lost.keys.len() < layer.blocks.count() / 3,
            "only what the part names is lost"
        );
        drop(layer);
        let mut twins = Twins {
            rotten: world,
            peer: wide().0,
        };
        twins.mend();
        for (block, page) in &pages {
            assert!(read(&twins.rotten, *block).as_ref() == Ok(page), "block {block}");
        }
    }
}
