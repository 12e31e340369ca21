//! Hash indexes where the oracle's workload does not get: very many overflow pages, chains that vacuum never leaves so,
//! records with images, pages that were never written.

mod built;

use built::{Block, Image, record};
use engine::{Engine, EngineError};
use redo::PostgreSql;
use units::{Lsn, PAGE_BYTES, Page, RelationKey, fork};
use wal::resource_manager::HASH;

const END: Lsn = Lsn::from_raw(0x1_0000_0100);
const INIT_META_PAGE: u8 = 0x00;
const INIT_BITMAP_PAGE: u8 = 0x10;
const INSERT: u8 = 0x20;
const ADD_OVERFLOW_PAGE: u8 = 0x30;
const SPLIT_ALLOCATE_PAGE: u8 = 0x40;
const SPLIT_PAGE: u8 = 0x50;
const SPLIT_COMPLETE: u8 = 0x60;
const SQUEEZE_PAGE: u8 = 0x80;

/// Where the special space begins.
const SPECIAL: usize = PAGE_BYTES - 16;
const FLAGS_AT: usize = SPECIAL + 12;
const SPARES_AT: usize = 24 + 52;
const BITMAP_BLOCKS_AT: usize = SPARES_AT + 4 * 98;
const OVERFLOW: u16 = 1;
const BUCKET: u16 = 2;

fn redo(record: &[u8], block: u32, page: &mut Page) -> Result<(), EngineError> {
    let relation = RelationKey {
        tablespace: 1663,
        database: 5,
        relation: 16384,
    };
    PostgreSql.apply(record, END, relation.fork(fork::MAIN).page(block), page)
}

fn u32_at(page: &Page, at: usize) -> u32 {
    u32::from_le_bytes(page.bytes()[at..at + 4].try_into().expect("four bytes"))
}

fn flags(page: &Page) -> u16 {
    u16::from_le_bytes([page.bytes()[FLAGS_AT], page.bytes()[FLAGS_AT + 1]])
}

fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn data(numbers: &[u32]) -> Block {
    Block {
        data: words(numbers),
        ..Block::default()
    }
}

/// A meta page of two buckets and one bitmap.
fn meta_page() -> Page {
    let main = [&0f64.to_le_bytes()[..], &words(&[450]), &307u16.to_le_bytes()].concat();
    let mut page = Page::zeroed();
    redo(&record(HASH, INIT_META_PAGE, &[Block::default()], &main), 0, &mut page).expect("a meta page");
    let bitmap = record(HASH, INIT_BITMAP_PAGE, &[Block::default(), Block::default()], &[0, 16]);
    redo(&bitmap, 1, &mut page).expect("it has a bitmap");
    page
}

/// An empty page of a bucket, made by the allocation of a bucket.
fn bucket_page(flags: u16) -> Page {
    let main = [&words(&[9])[..], &[0, 0], &flags.to_le_bytes(), &[0]].concat();
    let blocks = [Block::default(), Block::default(), Block::default()];
    let mut page = Page::zeroed();
    redo(&record(HASH, SPLIT_ALLOCATE_PAGE, &blocks, &main), 1, &mut page).expect("a bucket");
    page
}

#[test]
fn an_overflow_page_that_needs_a_new_bitmap_counts_twice() {
    let mut meta = meta_page();
    assert_eq!(u32_at(&meta, SPARES_AT + 4), 1, "the first bitmap");
    assert_eq!(u32_at(&meta, BITMAP_BLOCKS_AT), 3, "behind two buckets");
    let (bucket, first_free) = (9, 32770);
    let blocks = [
        data(&[bucket]),
        Block::default(),
        Block::default(),
        Block::default(),
        data(&[first_free]),
    ];
    let add = record(HASH, ADD_OVERFLOW_PAGE, &blocks, &[0, 16, 0]);
    redo(&add, 4, &mut meta).expect("a meta page");
    assert_eq!(u32_at(&meta, SPARES_AT + 4), 3);
    assert_eq!(
        u32_at(&meta, BITMAP_BLOCKS_AT + 4),
        3,
        "the block that the record names"
    );
    assert_eq!(u32_at(&meta, 24 + 40), first_free);
    assert_eq!(u32_at(&meta, 24 + 44), 2);

    let mut bitmap = Page::zeroed();
    redo(&add, 3, &mut bitmap).expect("a bitmap");
    assert!(bitmap.bytes()[24..24 + 4096].iter().all(|byte| *byte == 0xFF));
    assert_eq!(bitmap.bytes()[12..14], (24u16 + 4096).to_le_bytes());

    let mut overflow = Page::zeroed();
    redo(&add, 0, &mut overflow).expect("an overflow page");
    assert_eq!(
        (u32_at(&overflow, SPECIAL), u32_at(&overflow, SPECIAL + 4)),
        (1, u32::MAX)
    );
    assert_eq!((u32_at(&overflow, SPECIAL + 8), flags(&overflow)), (bucket, OVERFLOW));
}

#[test]
fn an_overflow_page_that_was_free_does_not_count_again() {
    let mut meta = meta_page();
    let blocks = [data(&[9]), Block::default(), data(&[5]), Block::default(), data(&[6])];
    redo(&record(HASH, ADD_OVERFLOW_PAGE, &blocks, &[0, 16, 1]), 4, &mut meta).expect("a meta page");
    assert_eq!((u32_at(&meta, SPARES_AT + 4), u32_at(&meta, 24 + 44)), (1, 1));
}

#[test]
fn a_squeeze_leaves_the_primary_page_alone_and_links_both_neighbours() {
    let (previous, next) = (11, 12);
    let main = [&words(&[previous, next])[..], &[0, 0, 0, 0]].concat();
    let mut blocks: Vec<Block> = (0..5).map(|_| Block::default()).collect();
    blocks.push(data(&[77]));
    let squeeze = record(HASH, SQUEEZE_PAGE, &blocks, &main);
    let before = bucket_page(OVERFLOW);
    for (block, link_at, link) in [(3, 4, next), (4, 0, previous)] {
        let mut page = before.clone();
        redo(&squeeze, block, &mut page).expect("a neighbour");
        assert_eq!(u32_at(&page, SPECIAL + link_at), link);
    }
    let mut primary = before.clone();
    primary.bytes_mut()[..8].fill(1);
    let kept = primary.clone();
    redo(&squeeze, 0, &mut primary).expect("the primary page");
    assert_eq!(primary, kept);
}

#[test]
fn a_bit_behind_the_bitmap_is_refused() {
    let mut bitmap = Page::zeroed();
    let blocks = [Block::default(), Block::default()];
    redo(&record(HASH, INIT_BITMAP_PAGE, &blocks, &[0, 16]), 0, &mut bitmap).expect("a bitmap");
    let free = |bit: u32, bitmap: &mut Page| {
        let mut blocks: Vec<Block> = (0..5).map(|_| Block::default()).collect();
        blocks.push(data(&[bit]));
        redo(&record(HASH, SQUEEZE_PAGE, &blocks, &[0; 12]), 5, bitmap)
    };
    free(32767, &mut bitmap).expect("the last bit");
    assert_eq!(bitmap.bytes()[24 + 4095], 0x7F);
    let error = free(32768, &mut bitmap).expect_err("there is no such bit");
    assert!(error.to_string().contains("no such bit"), "{error}");
}

#[test]
fn the_end_of_a_split_changes_flags_also_where_an_image_restored_the_page() {
    const APPLY: u8 = 0x02;
    const BEING_SPLIT: u16 = 1 << 5;
    const NEEDS_CLEANUP: u16 = 1 << 6;
    let logged = bucket_page(BUCKET | BEING_SPLIT);
    let image = Image {
        bytes: logged.bytes().to_vec(),
        hole_offset: 0,
        info: APPLY,
    };
    let block = Block {
        image: Some(image),
        ..Block::default()
    };
    let main = [(BUCKET | NEEDS_CLEANUP).to_le_bytes(), BUCKET.to_le_bytes()].concat();
    let complete = record(HASH, SPLIT_COMPLETE, &[block, Block::default()], &main);
    let mut page = Page::zeroed();
    redo(&complete, 0, &mut page).expect("a page");
    assert_eq!(flags(&page), BUCKET | NEEDS_CLEANUP);
    assert_eq!(page.bytes()[..8], [1, 0, 0, 0, 0, 1, 0, 0]);
}

#[test]
fn a_page_that_was_never_written_and_a_split_without_image_are_refused() {
    let tuple = Block {
        data: vec![0, 0, 0, 0, 1, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ..Block::default()
    };
    let insert = record(HASH, INSERT, &[tuple, Block::default()], &[1, 0]);
    let error = redo(&insert, 0, &mut Page::zeroed()).expect_err("a hole in the file");
    assert!(matches!(error, EngineError::Mismatch { .. }), "{error}");
    let mut page = bucket_page(BUCKET);
    redo(&insert, 0, &mut page).expect("it has room");
    assert_eq!(page.bytes()[12..14], 28u16.to_le_bytes());
    let split = record(HASH, SPLIT_PAGE, &[Block::default()], &[]);
    let error = redo(&split, 0, &mut page).expect_err("no image");
    assert!(matches!(error, EngineError::Mismatch { .. }), "{error}");
}
