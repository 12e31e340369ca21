//! BRIN at its edges: the ends of the range map, summaries that leave their places, pages of another sort.

mod built;

use built::{Block, record};
use engine::{Engine, EngineError};
use proptest::prelude::*;
use redo::PostgreSql;
use redo::mask::mask;
use units::{Lsn, PAGE_BYTES, Page, RelationKey, fork};
use wal::resource_manager::BRIN;

const END: Lsn = Lsn::from_raw(0x1_0000_0100);
const CREATE_INDEX: u8 = 0x00;
const INSERT: u8 = 0x10;
const UPDATE: u8 = 0x20;
const SAMEPAGE_UPDATE: u8 = 0x30;
const REVMAP_EXTEND: u8 = 0x40;
const DESUMMARIZE: u8 = 0x50;
const INIT_PAGE: u8 = 0x80;
/// Items on a page of the range map.
const ITEMS: u32 = 1360;

fn apply(operation: u8, blocks: &[Block], main: &[u8], block: u32, page: &mut Page) -> Result<(), EngineError> {
    let relation = RelationKey {
        tablespace: 1663,
        database: 5,
        relation: 16384,
    };
    let record = record(BRIN, operation, blocks, main);
    PostgreSql.apply(&record, END, relation.fork(fork::MAIN).page(block), page)
}

fn blocks(count: usize, data: &[u8]) -> Vec<Block> {
    let block = Block {
        data: data.to_vec(),
        ..Block::default()
    };
    vec![block; count]
}

/// `xl_brin_insert`.
fn insertion(heap_block: u32, pages_per_range: u32, number: u16) -> Vec<u8> {
    [
        &heap_block.to_le_bytes()[..],
        &pages_per_range.to_le_bytes(),
        &number.to_le_bytes(),
    ]
    .concat()
}

fn map() -> Page {
    let mut page = Page::zeroed();
    apply(REVMAP_EXTEND, &blocks(2, &[1]), &1u32.to_le_bytes(), 1, &mut page).expect("a page");
    page
}

/// A regular page with summaries of eight equal bytes each.
fn regular(summaries: &[u8]) -> Page {
    let mut page = Page::zeroed();
    for (number, byte) in (1..).zip(summaries) {
        let operation = if number == 1 { INSERT | INIT_PAGE } else { INSERT };
        let main = insertion(0, 1, number);
        apply(operation, &blocks(2, &[*byte; 8]), &main, 0, &mut page).expect("a page");
    }
    page
}

fn lower(page: &Page) -> u16 {
    u16::from_le_bytes([page.bytes()[12], page.bytes()[13]])
}

/// What an item holds: nothing if its line pointer is unused.
fn item(page: &Page, number: usize) -> Option<&[u8]> {
    let at = 20 + 4 * number;
    let pointer = u32::from_le_bytes(page.bytes()[at..at + 4].try_into().expect("four bytes"));
    let (offset, bytes) = ((pointer & 0x7FFF) as usize, (pointer >> 17) as usize);
    (pointer != 0).then(|| &page.bytes()[offset..offset + bytes])
}

fn refusal(result: Result<(), EngineError>) -> String {
    result.expect_err("it is refused").to_string()
}

#[test]
fn ranges_find_their_places_on_the_pages_of_the_map() {
    for (heap_block, pages_per_range, place) in [
        (0, 1, 0),
        (ITEMS - 1, 1, ITEMS - 1),
        (ITEMS, 1, 0),
        (128 * (2 * ITEMS + 5) + 127, 128, 5),
        (u32::MAX, u32::MAX, 1),
        (u32::MAX, 1, u32::MAX % ITEMS),
    ] {
        let mut page = map();
        let main = insertion(heap_block, pages_per_range, 0x0102);
        apply(INSERT, &blocks(2, &[1]), &main, 1, &mut page).expect("a page");
        let at = 24 + 6 * place as usize;
        // The summary's page is the first of the record, which is block 0.
        assert_eq!(page.bytes()[at..at + 6], [0, 0, 0, 0, 2, 1]);
        assert!(page.bytes()[24..at].iter().all(|byte| *byte == 0));
        assert!(page.bytes()[at + 6..8190].iter().all(|byte| *byte == 0));

        let main = [pages_per_range.to_le_bytes(), heap_block.to_le_bytes(), [1, 0, 0, 0]].concat();
        apply(DESUMMARIZE, &blocks(2, &[1]), &main[..10], 0, &mut page).expect("a page");
        assert_eq!(page.bytes()[at..at + 6], [0xFF, 0xFF, 0xFF, 0xFF, 0, 0]);
    }
    let mut page = map();
    assert!(refusal(apply(INSERT, &blocks(2, &[1]), &insertion(5, 0, 1), 1, &mut page)).contains("no pages"));
}

#[test]
fn other_summaries_keep_their_numbers_when_one_goes() {
    let mut page = regular(b"abcd");
    let gone = |number: u16| [&number.to_le_bytes()[..], &[0; 2], &insertion(0, 1, 1)].concat();
    apply(UPDATE, &blocks(3, &[1]), &gone(2), 2, &mut page).expect("a page");
    assert_eq!(
        [1, 2, 3, 4].map(|number| item(&page, number)),
        [Some(&b"aaaaaaaa"[..]), None, Some(b"cccccccc"), Some(b"dddddddd")]
    );
    assert!(refusal(apply(UPDATE, &blocks(3, &[1]), &gone(2), 2, &mut page)).contains("line pointer"));
    // A summary may grow beside an unused line pointer, and another take it.
    apply(SAMEPAGE_UPDATE, &blocks(1, &[b'e'; 24]), &[3, 0], 0, &mut page).expect("a page");
    apply(INSERT, &blocks(2, &[b'f'; 8]), &insertion(0, 1, 2), 0, &mut page).expect("a page");
    assert_eq!(
        [1, 2, 3, 4].map(|number| item(&page, number)),
        [
            Some(&b"aaaaaaaa"[..]),
            Some(b"ffffffff"),
            Some(&[b'e'; 24]),
            Some(b"dddddddd")
        ]
    );
    // The last takes its line pointer with it; the one before it stays, unused or not.
    apply(UPDATE, &blocks(3, &[1]), &gone(3), 2, &mut page).expect("a page");
    apply(UPDATE, &blocks(3, &[1]), &gone(4), 2, &mut page).expect("a page");
    assert_eq!(lower(&page), 24 + 3 * 4);
    assert_eq!(item(&page, 3), None);
    assert!(refusal(apply(INSERT, &blocks(2, &[1]), &insertion(0, 1, 1), 0, &mut page)).contains("in use"));
}

#[test]
fn a_metapage_says_how_long_it_is_whatever_it_said_before() {
    let mut page = Page::zeroed();
    let main = [&128u32.to_le_bytes()[..], &1u16.to_le_bytes()].concat();
    apply(CREATE_INDEX, &blocks(1, &[1]), &main, 0, &mut page).expect("a page");
    let fields = [0xA810_9CFAu32, 1, 128, 0].map(u32::to_le_bytes).concat();
    assert_eq!(page.bytes()[24..40], fields);
    assert_eq!(lower(&page), 40);
    // As PostgreSQL 10 left it.
    page.bytes_mut()[12] = 24;
    apply(REVMAP_EXTEND, &blocks(2, &[1]), &9u32.to_le_bytes(), 0, &mut page).expect("a page");
    assert_eq!(page.bytes()[36..40], 9u32.to_le_bytes());
    assert_eq!(lower(&page), 40);
}

#[test]
fn a_page_of_another_sort_is_refused() {
    let (map, regular) = (map(), regular(b"a"));
    let other = Page::from_bytes(&[0x55; PAGE_BYTES]).expect("a page of bytes");
    let zeros = Page::zeroed();
    for (operation, block, refused) in [
        (INSERT, 0, [&map, &other, &zeros]),
        (INSERT, 1, [&regular, &other, &zeros]),
        (UPDATE, 2, [&map, &other, &zeros]),
        (SAMEPAGE_UPDATE, 0, [&map, &other, &zeros]),
        (REVMAP_EXTEND, 0, [&map, &other, &regular]),
        (DESUMMARIZE, 0, [&regular, &other, &zeros]),
        (DESUMMARIZE, 1, [&map, &other, &zeros]),
    ] {
        for page in refused {
            let mut page = page.clone();
            let refusal = refusal(apply(operation, &blocks(3, &[1; 8]), &[1; 20], block, &mut page));
            assert!(refusal.contains("another kind of page"), "{refusal}");
        }
    }
}

#[test]
fn the_mask_hides_no_item_of_the_map() {
    let mut one = map();
    let mut other = one.clone();
    other.bytes_mut()[4000] = 1;
    mask(&mut one, 1, BRIN);
    mask(&mut other, 1, BRIN);
    assert_ne!(one, other);
    // Free space and the mark of a page that is about to join the map are not logged.
    let mut one = regular(b"ab");
    let mut other = one.clone();
    other.bytes_mut()[4000] = 1;
    other.bytes_mut()[8188] = 1;
    mask(&mut one, 2, BRIN);
    mask(&mut other, 2, BRIN);
    assert_eq!(one, other);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn damage_gives_a_page_or_an_error(
        (operation, block) in prop_oneof![
            Just((INSERT, 0)), Just((INSERT, 1)), Just((UPDATE, 2)), Just((SAMEPAGE_UPDATE, 0)), Just((DESUMMARIZE, 1)),
        ],
        number in 0..6u16,
        data in prop::collection::vec(any::<u8>(), 1..40),
        on_page in prop::collection::vec((prop_oneof![10..60usize, 8184..8192usize, 0..8192usize], any::<u8>()), 0..4),
    ) {
        let mut page = if block == 1 && operation == INSERT { map() } else { regular(b"abcd") };
        on_page.iter().for_each(|(at, byte)| page.bytes_mut()[*at] = *byte);
        let number = number.to_le_bytes();
        let main = [&number[..], &[1, 0, 0, 0, 1, 0], &number, &[3, 0, 0, 0]].concat();
        let _ = apply(operation, &blocks(3, &data), &main, block, &mut page);
        mask(&mut page, block, BRIN);
    }
}
