//! SP-GiST where PostgreSQL's own records do not reach: what only a logged build would write, and what must be refused.

mod built;

use built::{Block, record};
use engine::{Engine, EngineError};
use proptest::prelude::*;
use redo::PostgreSql;
use units::{Lsn, PAGE_BYTES, Page, PageKey, RelationKey, fork};
use wal::resource_manager::SPGIST;

const END: Lsn = Lsn::from_raw(0x1_0000_0100);
const ADD_LEAF: u8 = 0x10;
const MOVE_LEAFS: u8 = 0x20;
const ADD_NODE: u8 = 0x30;
const SPLIT_TUPLE: u8 = 0x40;
const PICKSPLIT: u8 = 0x50;
const VACUUM_LEAF: u8 = 0x60;
const VACUUM_REDIRECT: u8 = 0x80;

const LIVE: u32 = 0;
const REDIRECT: u32 = 1;
const PLACEHOLDER: u32 = 3;
const TRANSACTION: u32 = 700;

fn block(number: u32) -> PageKey {
    let relation = RelationKey {
        tablespace: 1663,
        database: 5,
        relation: 16384,
    };
    relation.fork(fork::MAIN).page(number)
}

/// A record that refers to blocks 0 to `blocks`, each under its own number.
fn spgist(operation: u8, blocks: usize, main: &[&[u8]]) -> Vec<u8> {
    record(SPGIST, operation, &vec![Block::default(); blocks], &main.concat())
}

fn apply(record: &[u8], number: u32, page: &Page) -> Result<Page, EngineError> {
    let mut page = page.clone();
    PostgreSql.apply(record, END, block(number), &mut page).map(|()| page)
}

fn numbers(numbers: &[u16]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// A leaf tuple of 24 bytes that is the last of its chain.
fn leaf(fill: u8) -> Vec<u8> {
    let mut tuple = vec![fill; 24];
    tuple[..4].copy_from_slice(&(24u32 << 2 | LIVE).to_le_bytes());
    tuple[4..6].fill(0);
    tuple
}

/// An inner tuple with a prefix of eight bytes and so many nodes, each of eight bytes.
fn inner(nodes: u16, fill: u8) -> Vec<u8> {
    let size = 8 + 8 + 8 * nodes;
    let word = u32::from(nodes) << 3 | 8 << 16;
    let mut tuple = [&word.to_le_bytes()[..], &size.to_le_bytes(), &[0, 0], &[fill; 8]].concat();
    for _ in 0..nodes {
        tuple.extend_from_slice(&[fill, fill, fill, fill, fill, fill, 8, 0]);
    }
    tuple
}

/// A page of leaves 1 to `count`, each filled with its number.
fn leaves(count: u16) -> Page {
    let mut page = Page::zeroed();
    for number in 1..=count {
        let header = [&[u8::from(number == 1), 0][..], &numbers(&[number, 0, 0, 0])].concat();
        let record = spgist(ADD_LEAF, 1, &[&header, &leaf(number as u8)]);
        page = apply(&record, 0, &page).expect("a leaf more");
    }
    page
}

/// A page with these inner tuples.
fn inners(tuples: &[Vec<u8>]) -> Page {
    let mut page = Page::zeroed();
    for (at, tuple) in tuples.iter().enumerate() {
        let number = at as u16 + 1;
        // The lower of two tuples that an upper one on block 0 was split into.
        let header = [&numbers(&[1, number])[..], &[u8::from(at == 0), 0]].concat();
        let record = spgist(SPLIT_TUPLE, 2, &[&header, &inner(1, 0xEE), tuple]);
        page = apply(&record, 1, &page).expect("an inner tuple more");
    }
    page
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn items(page: &Page) -> Vec<&[u8]> {
    let bytes = page.bytes();
    let pointers = (u16_at(bytes, 12) - 24) / 4;
    let item = |at: usize| {
        let (low, high) = (u16_at(bytes, at), u16_at(bytes, at + 2));
        &bytes[usize::from(low & 0x7FFF)..][..usize::from(high >> 1)]
    };
    (0..pointers).map(|number| item(24 + 4 * usize::from(number))).collect()
}

/// Redirections and placeholders, as the page counts them.
fn counts(page: &Page) -> (u16, u16) {
    let special = PAGE_BYTES - 8;
    (u16_at(page.bytes(), special + 2), u16_at(page.bytes(), special + 4))
}

fn state(item: &[u8]) -> u32 {
    u32::from(item[0] & 3)
}

/// `spgxlogState`, after two bytes that align it.
fn made_by(is_build: bool) -> Vec<u8> {
    [&TRANSACTION.to_le_bytes()[..], &[u8::from(is_build), 0, 0, 0]].concat()
}

/// Where a link leads: block, then number.
fn link(item: &[u8], at: usize) -> (u32, u16) {
    let block = u32::from(u16_at(item, at)) << 16 | u32::from(u16_at(item, at + 2));
    (block, u16_at(item, at + 4))
}

/// Leaves 1 and 3 of block 0 move to block 1, a new page, behind a third.
fn moved(is_build: bool) -> Vec<u8> {
    let header = [
        &numbers(&[2])[..],
        &[1, 0, 0, 0],
        &numbers(&[1, 2, 0]),
        &made_by(is_build),
    ]
    .concat();
    let leaves = [leaf(1), leaf(3), leaf(9)].concat();
    spgist(MOVE_LEAFS, 3, &[&header, &numbers(&[3, 1, 1, 2, 3]), &leaves])
}

#[test]
fn moved_leaves_leave_a_redirection_behind() {
    let source = apply(&moved(false), 0, &leaves(4)).expect("the source");
    let found = items(&source);
    // The first of those deleted is the redirection, whatever its number.
    assert_eq!(
        [0, 1, 2, 3].map(|at: usize| state(found[at])),
        [PLACEHOLDER, LIVE, REDIRECT, LIVE]
    );
    assert_eq!(link(found[2], 6), (1, 3));
    assert_eq!(found[2][12..], TRANSACTION.to_le_bytes());
    assert_eq!(link(found[0], 6), (u32::MAX, 0));
    assert_eq!(counts(&source), (1, 1));
    assert_eq!(items(&leaves(4))[1], found[1], "what is not moved stays");
    let destination = apply(&moved(false), 1, &leaves(2)).expect("the destination");
    assert_eq!(
        items(&destination),
        [leaf(1), leaf(3), leaf(9)],
        "a new page begins empty"
    );
    let parent = apply(&moved(false), 2, &inners(&[inner(3, 5)])).expect("the parent");
    let nodes = [1, 2, 3].map(|node: usize| link(items(&parent)[0], 8 + 8 * node));
    assert_eq!(nodes, [(0x0505_0505, 0x0505), (0x0505_0505, 0x0505), (1, 3)]);
}

#[test]
fn while_an_index_is_built_nothing_redirects() {
    let source = apply(&moved(true), 0, &leaves(4)).expect("the source");
    let states: Vec<u32> = items(&source).iter().map(|item| state(item)).collect();
    assert_eq!(states, [PLACEHOLDER, LIVE, PLACEHOLDER, LIVE]);
    assert_eq!(counts(&source), (0, 2));
    let added = add_node(true, 0xFF);
    let source = apply(&added, 0, &inners(&[inner(2, 5), inner(2, 6)])).expect("the source");
    assert_eq!([0, 1].map(|at: usize| state(items(&source)[at])), [LIVE, PLACEHOLDER]);
    assert_eq!(counts(&source), (0, 1));
}

/// Inner tuple 2 of block 0 becomes inner tuple 2 of block 1; the link in tuple 1 of a page leads to it.
fn add_node(is_build: bool, parent_block: u8) -> Vec<u8> {
    let header = [
        &numbers(&[2, 2])[..],
        &[0, parent_block],
        &numbers(&[1, 1, 0]),
        &made_by(is_build),
    ]
    .concat();
    spgist(ADD_NODE, 3, &[&header, &inner(3, 6)])
}

#[test]
fn the_parent_of_a_moved_inner_tuple_is_on_either_page_or_a_third() {
    let pages = [0, 1, 2].map(|number| match number {
        1 => inners(&[inner(2, 5)]),
        _ => inners(&[inner(2, 5), inner(2, 6)]),
    });
    for parent in 0..3u8 {
        let record = add_node(false, parent);
        for (number, page) in (0..).zip(&pages) {
            let page = apply(&record, number, page).expect("a page");
            let leads_to = link(items(&page)[0], 8 + 8 + 8);
            assert_eq!(
                leads_to == (1, 2),
                number == u32::from(parent),
                "block {number}, parent on {parent}"
            );
            assert_eq!(
                page.bytes()[..8],
                [1, 0, 0, 0, 0, 1, 0, 0],
                "every page gets the record's LSN"
            );
        }
        let source = apply(&record, 0, &pages[0]).expect("the source");
        assert_eq!(
            (state(items(&source)[1]), link(items(&source)[1], 6)),
            (REDIRECT, (1, 2))
        );
        assert_eq!(counts(&source), (1, 0));
    }
}

/// Leaves 1 and 2 of block 0 go under a new inner tuple on block 2: one back to block 0, one to block 1.
fn split(is_new_source: bool, is_build: bool) -> Vec<u8> {
    let flags = [u8::from(is_new_source), 1];
    let header = [
        &numbers(&[0, 2, 2])[..],
        &flags,
        &numbers(&[1]),
        &[1, 0, 0, 0],
        &numbers(&[1, 0, 0]),
    ]
    .concat();
    let lists = [numbers(&[1, 2, 1, 1]), vec![0, 1]].concat();
    let tuples = [inner(2, 4), leaf(21), leaf(22)].concat();
    spgist(PICKSPLIT, 4, &[&header, &made_by(is_build), &lists, &tuples])
}

#[test]
fn a_page_that_is_split_as_a_whole_begins_anew() {
    let source = apply(&split(true, true), 0, &leaves(2)).expect("the source");
    assert_eq!(items(&source), [leaf(21)]);
    assert_eq!(counts(&source), (0, 0));
    let source = apply(&split(false, true), 0, &leaves(2)).expect("the source");
    assert_eq!(
        (items(&source)[0], state(items(&source)[1])),
        (&leaf(21)[..], PLACEHOLDER)
    );
    assert_eq!(counts(&source), (0, 1));
    for is_build in [true, false] {
        let destination = apply(&split(true, is_build), 1, &leaves(2)).expect("the destination");
        assert_eq!(items(&destination), [leaf(22)]);
        let inner_page = apply(&split(true, is_build), 2, &leaves(2)).expect("the inner page");
        assert_eq!(items(&inner_page), [inner(2, 4)]);
    }
    // Unless the index is being built, the first tuple is a redirection and keeps its place.
    let refused = apply(&split(false, false), 0, &leaves(2)).expect_err("it is no placeholder");
    assert!(refused.to_string().contains("no placeholder"), "{refused}");
}

#[test]
fn vacuum_moves_the_first_live_leaf_of_a_chain_to_its_head() {
    let header = [&numbers(&[0, 1, 1, 1])[..], &made_by(false)].concat();
    // Leaf 3 becomes a placeholder; leaf 4 takes the place of leaf 1, which goes, and leads to 2.
    let record = spgist(VACUUM_LEAF, 1, &[&header, &numbers(&[3, 4, 1, 1, 2])]);
    let page = apply(&record, 0, &leaves(5)).expect("a page");
    let mut first = leaf(4);
    first[4] = 2;
    assert_eq!(items(&page)[0], first);
    let states: Vec<u32> = items(&page).iter().map(|item| state(item)).collect();
    assert_eq!(states, [LIVE, LIVE, PLACEHOLDER, PLACEHOLDER, LIVE]);
    assert_eq!(counts(&page), (0, 2));
}

#[test]
fn redirections_become_placeholders_and_go_from_the_end() {
    let page = apply(&moved(false), 0, &leaves(3)).expect("a redirection at 3, a placeholder at 1");
    let record = spgist(
        VACUUM_REDIRECT,
        1,
        &[&numbers(&[1, 0]), &TRANSACTION.to_le_bytes(), &numbers(&[3])],
    );
    let converted = apply(&record, 0, &page).expect("a page");
    let item = items(&converted)[2];
    assert_eq!(
        (state(item), link(item, 6), counts(&converted)),
        (PLACEHOLDER, (u32::MAX, 0), (0, 2))
    );
    assert_eq!(item[12..], TRANSACTION.to_le_bytes(), "who made it stays");
    let record = spgist(VACUUM_REDIRECT, 1, &[&numbers(&[0, 3]), &[0; 4]]);
    let shorter = apply(&record, 0, &converted).expect("a page");
    assert_eq!((items(&shorter).len(), counts(&shorter)), (2, (0, 1)));
}

#[test]
fn what_does_not_fit_the_page_is_refused() {
    let refused = |record: &[u8], number, page: &Page, why: &str| {
        let error = apply(record, number, page).expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
    };
    refused(&moved(false), 0, &Page::zeroed(), "no page header");
    refused(&moved(false), 0, &leaves(2), "not");
    let redirect = |number| spgist(VACUUM_REDIRECT, 1, &[&numbers(&[1, 0]), &[0; 4], &numbers(&[number])]);
    refused(&redirect(1), 0, &leaves(2), "no redirection");
    refused(&redirect(3), 0, &leaves(2), "no such line pointer");
    let node = add_node(false, 2);
    refused(&node, 2, &inners(&[inner(1, 5)]), "no such node");
    let added = [&[0, 0][..], &numbers(&[1, 0, 0, 0])].concat();
    refused(
        &spgist(ADD_LEAF, 1, &[&added, &leaf(1)]),
        0,
        &leaves(1),
        "no placeholder",
    );
    refused(
        &spgist(ADD_LEAF, 1, &[&added, &leaf(1)[..20]]),
        0,
        &leaves(1),
        "shorter than it says",
    );
    refused(
        &spgist(MOVE_LEAFS, 1, &[&moved(false)[..3]]),
        0,
        &leaves(1),
        "too short",
    );
    let many = [&numbers(&[0, 500, 0, 0])[..], &made_by(false), &vec![1; 1000]].concat();
    refused(&spgist(VACUUM_LEAF, 1, &[&many]), 0, &leaves(1), "than fit a page");
    let mut btree = leaves(1);
    btree.bytes_mut()[PAGE_BYTES - 2..].fill(0);
    refused(&redirect(1), 0, &btree, "no redirection");
    refused(&node, 0, &btree, "no SP-GiST page");
}

/// Every item of a sound page is on it, between the line pointers and the special space, and none overlaps another.
fn check_items(page: &Page) {
    let header = |at| usize::from(u16_at(page.bytes(), at));
    let (lower, upper, special) = (header(12), header(14), header(16));
    assert!(24 <= lower && lower <= upper && upper <= special && special == PAGE_BYTES - 8);
    let start = page.bytes().as_ptr() as usize;
    let mut places: Vec<(usize, usize)> = Vec::new();
    for item in items(page) {
        let at = item.as_ptr() as usize - start;
        places.push((at, at + item.len()));
    }
    places.sort_unstable();
    assert!(
        places.iter().all(|(from, to)| upper <= *from && *to <= special),
        "{places:?}"
    );
    assert!(places.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{places:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Sound records and pages, damaged here and there.
    #[test]
    fn damage_gives_a_page_or_an_error(
        which in 0..8usize,
        number in 0..4u32,
        page in 0..3usize,
        in_record in prop::collection::vec((25..200usize, prop_oneof![0..9u8, any::<u8>()]), 0..6),
        in_page in prop::collection::vec((prop_oneof![12..48usize, 8000..PAGE_BYTES], any::<u8>()), 0..6),
        operation in prop::option::weighted(0.1, any::<u8>()),
    ) {
        let root = [&numbers(&[2])[..], &[0, 0], &TRANSACTION.to_le_bytes(), &[0; 4], &numbers(&[1, 3])].concat();
        let mut record = match which {
            0 => moved(false),
            1 => add_node(false, number as u8),
            2 => split(false, true),
            3 => spgist(SPLIT_TUPLE, 2, &[&numbers(&[1, 3])[..], &[0, 1], &inner(2, 1), &inner(3, 1)]),
            4 => spgist(VACUUM_LEAF, 1, &[&numbers(&[0, 1, 1, 1])[..], &made_by(false), &numbers(&[1, 4, 1, 1, 2])]),
            5 => spgist(0x70, 1, &[&root]),
            6 => spgist(VACUUM_REDIRECT, 1, &[&numbers(&[1, 2]), &[0; 4], &numbers(&[3])]),
            _ => spgist(ADD_LEAF, 2, &[&[0, 0], &numbers(&[3, 2, 1, 1]), &leaf(7)]),
        };
        for (at, byte) in in_record {
            if let Some(place) = record.get_mut(at) {
                *place = byte;
            }
        }
        if let Some(operation) = operation {
            record[16] = operation;
        }
        let mut page = match page {
            0 => leaves(5),
            1 => inners(&[inner(3, 5), inner(40, 6)]),
            _ => apply(&moved(false), 0, &leaves(3)).expect("a redirection and a placeholder"),
        };
        let is_sound = in_page.is_empty();
        for (at, byte) in in_page {
            page.bytes_mut()[at] = byte;
        }
        if let Ok(mut page) = apply(&record, number, &page) {
            if is_sound {
                check_items(&page);
            }
            redo::mask::mask(&mut page, number, SPGIST);
        }
    }
}
