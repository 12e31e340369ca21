//! GIN at its edges: what a workload on a new cluster does not reach, and what must not be accepted.

mod built;

use built::{Block, record};
use engine::{Engine, EngineError};
use proptest::prelude::*;
use redo::PostgreSql;
use redo::mask::mask;
use units::{Lsn, PAGE_BYTES, Page, RelationKey, fork};
use wal::resource_manager::GIN;

const END: Lsn = Lsn::from_raw(0x1_0000_0100);
const CREATE_PTREE: u8 = 0x10;
const INSERT: u8 = 0x20;
const SPLIT: u8 = 0x30;
const VACUUM_PAGE: u8 = 0x40;
const DELETE_PAGE: u8 = 0x50;
const DELETE_LISTPAGE: u8 = 0x80;
const VACUUM_DATA_LEAF_PAGE: u8 = 0x90;
/// Flags of pages.
const DATA: u16 = 1;
const LEAF: u16 = 2;
const DELETED: u16 = 4;
const LIST: u16 = 16;
const COMPRESSED: u16 = 128;
/// Kinds of changes to segments.
const DELETE: u8 = 1;
const ADD: u8 = 2;
const REPLACE: u8 = 3;
const ADD_ITEMS: u8 = 4;

/// A page with special space but no items: `contents` stands behind the right bound.
fn page(flags: u16, count: u16, lower: usize, contents: &[u8]) -> Page {
    let mut page = Page::zeroed();
    let bytes = page.bytes_mut();
    for (at, value) in [
        (12, lower as u16),
        (14, 8184),
        (16, 8184),
        (18, 0x2004),
        (8188, count),
        (8190, flags),
    ] {
        bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    bytes[8184..8188].copy_from_slice(&7u32.to_le_bytes());
    bytes[32..32 + contents.len()].copy_from_slice(contents);
    page
}

fn u16_at(page: &Page, at: usize) -> u16 {
    u16::from_le_bytes([page.bytes()[at], page.bytes()[at + 1]])
}

fn tuple_id(block: u32, number: u16) -> [u8; 6] {
    let (high, low, number) = (
        ((block >> 16) as u16).to_le_bytes(),
        (block as u16).to_le_bytes(),
        number.to_le_bytes(),
    );
    [high[0], high[1], low[0], low[1], number[0], number[1]]
}

/// A segment that begins at this place and goes on by coded distances.
fn segment(block: u32, number: u16, coded: &[u8]) -> Vec<u8> {
    let mut bytes = [&tuple_id(block, number)[..], &(coded.len() as u16).to_le_bytes(), coded].concat();
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    bytes
}

fn apply(operation: u8, blocks: &[Block], main: &[u8], block: u32, page: &mut Page) -> Result<(), EngineError> {
    let relation = RelationKey {
        tablespace: 1663,
        database: 5,
        relation: 16384,
    };
    let record = record(GIN, operation, blocks, main);
    PostgreSql.apply(&record, END, relation.fork(fork::MAIN).page(block), page)
}

/// Changes a leaf's segments: number, kind, contents.
fn change(page: &mut Page, changes: &[(u8, u8, Vec<u8>)]) -> Result<(), EngineError> {
    let mut data = (changes.len() as u16).to_le_bytes().to_vec();
    for (segment, kind, contents) in changes {
        data.extend_from_slice(&[*segment, *kind]);
        data.extend_from_slice(contents);
    }
    let block = Block {
        data,
        ..Block::default()
    };
    apply(VACUUM_DATA_LEAF_PAGE, &[block], &[], 0, page)
}

fn contents(page: &Page) -> &[u8] {
    &page.bytes()[32..usize::from(u16_at(page, 12))]
}

fn leaf(segments: &[Vec<u8>]) -> Page {
    let contents = segments.concat();
    page(DATA | LEAF | COMPRESSED, 0, 32 + contents.len(), &contents)
}

fn refusal(result: Result<(), EngineError>) -> String {
    result.expect_err("it is refused").to_string()
}

#[test]
fn added_items_are_merged_and_coded_by_their_distances() {
    // (0,1), (0,5), (1,5), then on the far side of the range of what a byte, two and six can tell.
    let mut page = leaf(&[segment(0, 1, &[4, 0x80, 0x10]), segment(9, 9, &[1])]);
    let added = [tuple_id(0, 3), tuple_id(1, 5), tuple_id(u32::MAX - 1, 2)].concat();
    let added = [&3u16.to_le_bytes()[..], &added].concat();
    change(&mut page, &[(0, ADD_ITEMS, added)]).expect("a page");
    // The distance from (1,5) to (4294967294,2): 4294967293 blocks of 2048 numbers, less three.
    let mut distance = u64::from(u32::MAX - 2) * 2048 - 3;
    let mut far = Vec::new();
    while 0x7F < distance {
        far.push(0x80 | (distance & 0x7F) as u8);
        distance >>= 7;
    }
    far.push(distance as u8);
    assert_eq!(far.len(), 7);
    let coded = [&[2, 2, 0x80, 0x10][..], &far].concat();
    assert_eq!(contents(&page), [segment(0, 1, &coded), segment(9, 9, &[1])].concat());
    assert_eq!(page.bytes()[..8], [1, 0, 0, 0, 0, 1, 0, 0], "the LSN is the record's");
}

#[test]
fn segments_are_counted_as_they_were_before_the_record() {
    let [a, b, c, d] = [1, 2, 3, 4].map(|block| segment(block, 1, &[1, 2]));
    let mut page = leaf(&[a.clone(), b, c.clone()]);
    let [new, last] = [segment(0, 7, &[]), segment(8, 8, &[1])];
    let changes = [
        (0, ADD, new.clone()),
        (1, DELETE, Vec::new()),
        (2, REPLACE, d.clone()),
        (3, ADD, last.clone()),
    ];
    change(&mut page, &changes).expect("a page");
    assert_eq!(contents(&page), [new, a, d, last].concat());
}

#[test]
fn a_leaf_from_before_compression_is_compressed_first() {
    let ids = [tuple_id(0, 1), tuple_id(0, 2), tuple_id(2, 1)].concat();
    // In that version the header did not say where the contents end.
    let mut old = page(DATA | LEAF, 3, 24, &ids);
    let added = [&1u16.to_le_bytes()[..], &tuple_id(0, 3)].concat();
    change(&mut old, &[(0, ADD_ITEMS, added)]).expect("a page");
    assert_eq!(contents(&old), segment(0, 1, &[1, 1, 0xFE, 0x1F]));
    assert_eq!((u16_at(&old, 8188), u16_at(&old, 8190)), (0, DATA | LEAF | COMPRESSED));

    let mut empty = page(DATA | LEAF, 0, 24, &[]);
    change(&mut empty, &[(0, ADD, segment(5, 5, &[]))]).expect("a page");
    assert_eq!(contents(&empty), segment(5, 5, &[]));
    assert_eq!(
        (u16_at(&empty, 8188), u16_at(&empty, 8190)),
        (0, DATA | LEAF | COMPRESSED)
    );

    let many = tuple_id(0, 1).repeat(1359);
    let mut too_long = page(DATA | LEAF, 1359, 24, &many[..8152]);
    assert!(refusal(change(&mut too_long, &[(0, DELETE, Vec::new())])).contains("longer than the page"));
}

#[test]
fn changes_that_do_not_fit_the_leaf_are_refused() {
    let one = segment(1, 1, &[1]);
    let before = leaf(std::slice::from_ref(&one));
    let full = segment(2, 1, &[1; 8140]);
    let unsorted = [&2u16.to_le_bytes()[..], &tuple_id(3, 1), &tuple_id(2, 1)].concat();
    for (changes, text) in [
        (vec![(1, DELETE, Vec::new())], "no such segment"),
        (vec![(0, DELETE, Vec::new()), (0, DELETE, Vec::new())], "out of order"),
        (vec![(1, ADD, full)], "no room"),
        (vec![(0, ADD_ITEMS, unsorted)], "do not rise"),
        (vec![(0, 9, Vec::new())], "unknown"),
        (vec![(0, REPLACE, vec![0; 7])], "damaged"),
        (vec![], "as many as it says"),
    ] {
        let mut page = before.clone();
        let refusal = refusal(change(&mut page, &changes));
        assert!(refusal.contains(text), "{refusal}: {text}");
        assert_eq!(page, before, "what is refused changes nothing");
    }
    // A number that has no end within its segment, and one that is beyond all blocks.
    for coded in [
        vec![0x80],
        vec![0xFF; 7],
        vec![0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F],
    ] {
        let mut page = leaf(&[segment(1, 1, &coded)]);
        let added = [&1u16.to_le_bytes()[..], &tuple_id(0, 1)].concat();
        assert!(refusal(change(&mut page, &[(0, ADD_ITEMS, added)])).contains("damaged"));
    }
    let mut inner = page(DATA, 1, 42, &[0; 10]);
    assert!(refusal(change(&mut inner, &[(0, DELETE, Vec::new())])).contains("another kind of GIN page"));
}

#[test]
fn a_completed_split_gives_the_parent_a_second_downlink() {
    const IS_DATA: u16 = 1;
    let item = |child: u8| [0, 0, child, 0, 0, 0, child, 0, 1, 0];
    let mut parent = page(DATA, 2, 24, &[item(3), item(5)].concat());
    let block = Block {
        data: [&2u16.to_le_bytes()[..], &[0, 0, 5, 0, 0, 0, 4, 0, 1, 0]].concat(),
        ..Block::default()
    };
    // Flags, left child 5, right child 6.
    let main = [&IS_DATA.to_le_bytes()[..], &[0, 0, 5, 0, 0, 0, 6, 0]].concat();
    apply(INSERT, std::slice::from_ref(&block), &main, 0, &mut parent).expect("a page");
    let right = [0, 0, 6, 0, 0, 0, 5, 0, 1, 0];
    assert_eq!(
        contents(&parent),
        [item(3), [0, 0, 5, 0, 0, 0, 4, 0, 1, 0], right].concat()
    );
    assert_eq!(u16_at(&parent, 8188), 3);
    // There is no fourth item yet that could lead to the right child.
    let block = Block {
        data: [&4u16.to_le_bytes()[..], &item(7)].concat(),
        ..Block::default()
    };
    assert!(refusal(apply(INSERT, &[block], &main, 0, &mut parent)).contains("no such posting item"));
    // A page holds 815.
    let mut full = page(DATA, 815, 8182, &item(1).repeat(815));
    let block = Block {
        data: [&1u16.to_le_bytes()[..], &item(7)].concat(),
        ..Block::default()
    };
    assert!(refusal(apply(INSERT, &[block], &main, 0, &mut full)).contains("no room"));
}

#[test]
fn a_deleted_data_page_keeps_its_contents_and_its_right_link() {
    let before = leaf(&[segment(1, 1, &[1])]);
    let mut page = before.clone();
    let main = [&[2, 0, 0, 0][..], &9u32.to_le_bytes(), &777u32.to_le_bytes()].concat();
    let blocks = vec![
        Block {
            data: vec![1],
            ..Block::default()
        };
        3
    ];
    apply(DELETE_PAGE, &blocks, &main, 0, &mut page).expect("a page");
    let mut expected = before.clone();
    expected.bytes_mut()[..8].copy_from_slice(&[1, 0, 0, 0, 0, 1, 0, 0]);
    expected.bytes_mut()[20..24].copy_from_slice(&777u32.to_le_bytes());
    expected.bytes_mut()[8190] |= DELETED as u8;
    assert_eq!(page, expected);
    // Its left neighbour leads past it.
    let mut left = before;
    apply(DELETE_PAGE, &blocks, &main, 2, &mut left).expect("a page");
    assert_eq!(left.bytes()[8184..8188], 9u32.to_le_bytes());
}

#[test]
fn splits_and_rewritten_entry_pages_come_as_images_only() {
    let block = Block {
        data: vec![1],
        ..Block::default()
    };
    for operation in [SPLIT, VACUUM_PAGE] {
        let mut page = page(LEAF, 0, 24, &[]);
        let refusal = refusal(apply(operation, std::slice::from_ref(&block), &[0; 32], 0, &mut page));
        assert!(refusal.contains("no image"), "{refusal}");
    }
}

#[test]
fn a_tree_that_is_longer_than_its_page_is_refused() {
    let main = [&8154u32.to_le_bytes()[..], &[0; 8154]].concat();
    let block = Block {
        data: vec![1],
        ..Block::default()
    };
    let mut page = Page::zeroed();
    assert!(refusal(apply(CREATE_PTREE, std::slice::from_ref(&block), &main, 0, &mut page)).contains("longer"));
    let main = [&8152u32.to_le_bytes()[..], &[7; 8152]].concat();
    apply(CREATE_PTREE, &[block], &main, 0, &mut page).expect("a page");
    assert_eq!(contents(&page), [7; 8152]);
    assert_eq!(page.bytes()[8184..8188], [0xFF; 4], "nothing is to the right");
}

/// PostgreSQL leaves the contents of a deleted list page as they are, and redo makes it empty. Of a deleted data page both
/// keep all, and when it may be used again.
#[test]
fn the_mask_hides_what_a_deleted_list_page_had_and_nothing_of_data_pages() {
    let block = Block {
        data: vec![1],
        ..Block::default()
    };
    let mut redone = Page::zeroed();
    apply(DELETE_LISTPAGE, &[block.clone(), block], &[0; 60], 1, &mut redone).expect("a page");
    let mut original = page(DELETED, 5, 40, &[8; 200]);
    mask(&mut redone, 1, GIN);
    mask(&mut original, 1, GIN);
    assert_eq!(redone, original);

    let masked = |mut page: Page| {
        mask(&mut page, 1, GIN);
        page
    };
    let deleted = |transaction: u32, contents: &[u8]| {
        let mut page = page(DATA | LEAF | COMPRESSED | DELETED, 0, 32 + contents.len(), contents);
        page.bytes_mut()[20..24].copy_from_slice(&transaction.to_le_bytes());
        masked(page)
    };
    assert_ne!(deleted(7, &[1; 10]), deleted(8, &[1; 10]));
    assert_ne!(deleted(7, &[1; 10]), deleted(7, &[2; 10]));
    assert_ne!(masked(page(LIST, 1, 40, &[1; 8])), masked(page(LIST, 2, 40, &[1; 8])));
    // Behind the contents anything may stand, unless the header does not say where they end.
    assert_eq!(masked(page(LIST, 1, 40, &[1; 8])), masked(page(LIST, 1, 40, &[1; 100])));
    assert_ne!(masked(page(DATA, 1, 24, &[1; 8])), masked(page(DATA, 1, 24, &[1; 100])));
}

#[test]
fn a_page_of_another_sort_is_refused() {
    let blocks = vec![
        Block {
            data: vec![1; 40],
            ..Block::default()
        };
        4
    ];
    for operation in (0x20..=0x90).step_by(0x10) {
        for block in 0..4 {
            // Made anew, whatever they were.
            if matches!(
                (operation, block),
                (DELETE_LISTPAGE | 0x60, 0) | (DELETE_LISTPAGE, _) | (0x70, 0)
            ) {
                continue;
            }
            let mut page = Page::from_bytes(&[0x55; PAGE_BYTES]).expect("a page of bytes");
            apply(operation, &blocks, &[0; 90], block, &mut page).expect_err("it is refused");
        }
    }
}

/// Operation, main data, block data, block, and a page that the record fits.
type Sound = (u8, Vec<u8>, Vec<u8>, u32, Page);

fn sound() -> Vec<Sound> {
    let segments = [
        segment(0, 1, &[1, 2, 3]),
        segment(1, 1, &[0x80, 1, 5]),
        segment(2, 9, &[]),
    ];
    let added = [&1u16.to_le_bytes()[..], &tuple_id(1, 7)].concat();
    let changes = [
        &2u16.to_le_bytes()[..],
        &[1, ADD_ITEMS],
        &added,
        &[2, REPLACE],
        &segment(3, 3, &[1]),
    ]
    .concat();
    let list = page(LEAF, 0, 24, &[]);
    let tuple = [0, 0, 0, 0, 1, 0, 16, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let entry = [&[1, 0, 0, 0][..], &tuple].concat();
    let inner = page(DATA, 2, 52, &[3; 20]);
    let downlink = [&1u16.to_le_bytes()[..], &[0, 0, 5, 0, 0, 0, 4, 0, 1, 0]].concat();
    let children = [0, 0, 5, 0, 0, 0, 6, 0];
    let one_tuple = [&u32::MAX.to_le_bytes()[..], &1u32.to_le_bytes()].concat();
    vec![
        (VACUUM_DATA_LEAF_PAGE, vec![], changes.clone(), 0, leaf(&segments)),
        (INSERT, vec![3, 0], changes, 0, leaf(&segments)),
        (INSERT, [&[1, 0][..], &children].concat(), downlink, 0, inner.clone()),
        (INSERT, vec![2, 0], entry, 0, list.clone()),
        (DELETE_PAGE, vec![1, 0, 0, 0, 9, 0, 0, 0, 7, 0, 0, 0], vec![1], 1, inner),
        (
            CREATE_PTREE,
            [&12u32.to_le_bytes()[..], &[0; 12]].concat(),
            vec![1],
            0,
            list.clone(),
        ),
        (0x70, one_tuple, tuple.to_vec(), 0, list),
    ]
}

#[test]
fn what_is_sound_is_applied() {
    for (operation, main, data, block, mut page) in sound() {
        let data = Block {
            data,
            ..Block::default()
        };
        apply(operation, &[data.clone(), data], &main, block, &mut page).expect("a page");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn damage_gives_a_page_or_an_error(
        case in 0..7usize,
        on_page in prop::collection::vec((prop_oneof![10..90usize, 8184..8192usize, 0..8192usize], any::<u8>()), 0..4),
        in_record in prop::collection::vec((0..60usize, any::<u8>()), 0..4),
        shorter in prop_oneof![3 => Just(0usize), 1 => 0..30usize],
    ) {
        let (operation, main, data, block, mut page) = sound().swap_remove(case);
        let mut both = [&main[..], &data].concat();
        in_record.iter().for_each(|(at, byte)| if let Some(target) = both.get_mut(*at) { *target = *byte });
        let (main, data) = both.split_at(main.len());
        let data = Block { data: data[..data.len().saturating_sub(shorter).max(1)].to_vec(), ..Block::default() };
        on_page.iter().for_each(|(at, byte)| page.bytes_mut()[*at] = *byte);
        let _ = apply(operation, &[data.clone(), data], main, block, &mut page);
        mask(&mut page, block, GIN);
    }
}
