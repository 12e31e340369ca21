//! GiST where the oracle's workload does not get: images of children that a record changes besides, records that
//! contradict themselves.

mod built;

use built::{Block, Image, record};
use engine::{Engine, EngineError, Touch};
use redo::PostgreSql;
use units::{Lsn, PAGE_BYTES, Page, RelationKey, fork};
use wal::resource_manager::GIST;

const END: Lsn = Lsn::from_raw(0x1_0000_0100);
const END_BYTES: [u8; 8] = [1, 0, 0, 0, 0, 1, 0, 0];
const PAGE_UPDATE: u8 = 0x00;
const PAGE_REUSE: u8 = 0x20;
const PAGE_SPLIT: u8 = 0x30;
const PAGE_DELETE: u8 = 0x60;
const ASSIGN_LSN: u8 = 0x70;

/// Where the special space begins.
const SPECIAL: usize = PAGE_BYTES - 16;
const FLAGS_AT: usize = SPECIAL + 12;
const LEAF: u8 = 1;
const DELETED: u8 = 2;
const FOLLOW_RIGHT: u8 = 8;

/// An index tuple of 16 bytes.
const TUPLE: [u8; 16] = [0, 0, 0, 0, 1, 0, 16, 0, 1, 2, 3, 4, 5, 6, 7, 8];

fn redo(record: &[u8], block: u32, page: &mut Page) -> Result<(), EngineError> {
    let relation = RelationKey {
        tablespace: 1663,
        database: 5,
        relation: 16384,
    };
    PostgreSql.apply(record, END, relation.fork(fork::MAIN).page(block), page)
}

fn split_of(pages_count: u16) -> Vec<u8> {
    let (right_of_all, nsn) = (99u32, 0x2_0000_0007u64);
    let mut main = [&right_of_all.to_le_bytes()[..], &[0; 4], &nsn.to_le_bytes(), &[1, 0]].concat();
    main.extend_from_slice(&pages_count.to_le_bytes());
    main.extend_from_slice(&[1, 0, 0, 0]);
    main
}

fn tuples(count: u32) -> Block {
    Block {
        data: [&count.to_le_bytes()[..], &TUPLE.repeat(count as usize)].concat(),
        ..Block::default()
    }
}

/// The pages that a split of a leaf made: the left one is still to be followed to the right.
fn split() -> [Page; 2] {
    let split = record(
        GIST,
        PAGE_SPLIT,
        &[Block::default(), tuples(1), tuples(2)],
        &split_of(2),
    );
    [1, 2].map(|block| {
        let mut page = Page::zeroed();
        redo(&split, block, &mut page).expect("a page");
        page
    })
}

#[test]
fn a_split_page_leads_to_the_next_and_the_last_to_where_the_page_led() {
    let [left, right] = split();
    assert_eq!(left.bytes()[SPECIAL..FLAGS_AT], [2, 0, 0, 0, 7, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(left.bytes()[FLAGS_AT], LEAF | FOLLOW_RIGHT);
    assert_eq!(right.bytes()[SPECIAL + 8..FLAGS_AT], [99, 0, 0, 0]);
    assert_eq!(right.bytes()[FLAGS_AT], LEAF);
    assert_eq!(left.bytes()[12], 24 + 4);
    assert_eq!(right.bytes()[12], 24 + 8);
}

#[test]
fn the_downlink_ends_a_split_also_where_an_image_restored_the_left_page() {
    const APPLY: u8 = 0x02;
    let [left, _] = split();
    let image = Image {
        bytes: left.bytes().to_vec(),
        hole_offset: 0,
        info: APPLY,
    };
    let restored = Block {
        image: Some(image),
        ..Block::default()
    };
    for child in [Block::default(), restored] {
        let update = record(GIST, PAGE_UPDATE, &[Block::default(), child], &[0; 4]);
        let mut page = left.clone();
        redo(&update, 1, &mut page).expect("a page");
        assert_eq!(page.bytes()[FLAGS_AT], LEAF);
        assert_eq!(page.bytes()[..8], END_BYTES);
        assert_eq!(page.bytes()[SPECIAL..SPECIAL + 8], END_BYTES, "the NSN");
    }
}

#[test]
fn a_record_has_as_many_tuples_as_it_says() {
    let [page, _] = split();
    let replace = [&[1, 0][..], &TUPLE].concat();
    let two = [&[1, 0][..], &TUPLE, &TUPLE].concat();
    let cases: [(&[u8], [u8; 4], bool); 6] = [
        (&replace, [1, 0, 1, 0], true),
        (&two, [1, 0, 2, 0], true),
        (&two, [1, 0, 1, 0], false),
        (&replace, [1, 0, 2, 0], false),
        (&TUPLE, [0, 0, 0, 0], false),
        (&replace[..17], [1, 0, 1, 0], false),
    ];
    for (data, main, is_right) in cases {
        let block = Block {
            data: data.to_vec(),
            ..Block::default()
        };
        let applied = redo(&record(GIST, PAGE_UPDATE, &[block], &main), 0, &mut page.clone());
        assert_eq!(applied.is_ok(), is_right, "{} bytes for {main:?}", data.len());
    }
    let short = record(GIST, PAGE_SPLIT, &[Block::default(), tuples(1)], &split_of(2));
    assert!(redo(&short, 1, &mut page.clone()).is_err(), "there is no next page");
}

#[test]
fn only_an_empty_page_is_deleted() {
    let transaction = 0x1_0000_0009u64;
    let main = [&transaction.to_le_bytes()[..], &[1, 0]].concat();
    let delete = record(GIST, PAGE_DELETE, &[Block::default(), Block::default()], &main);
    let [mut page, _] = split();
    redo(&delete, 0, &mut page.clone()).expect_err("it has an item");
    redo(&delete, 1, &mut page).expect("the parent loses its item");
    assert_eq!(page.bytes()[12], 24);
    redo(&delete, 0, &mut page).expect("it is empty");
    assert_eq!(page.bytes()[24..32], transaction.to_le_bytes());
    assert_eq!(page.bytes()[12], 32);
    assert_eq!(page.bytes()[FLAGS_AT], LEAF | DELETED | FOLLOW_RIGHT);
}

#[test]
fn two_kinds_touch_no_page() {
    for operation in [PAGE_REUSE, ASSIGN_LSN] {
        let mut touches: Vec<Touch> = Vec::new();
        let record = record(GIST, operation, &[], &[0; 24]);
        PostgreSql.touches(&record, END, &mut touches).expect("no pages");
        assert!(touches.is_empty());
    }
}
