//! What a workload reaches seldom: the ends of pages and counters, records without images, kinds that are not done.

mod built;

use built::{Block, Image, record};
use engine::{Engine, EngineError, Touch};
use redo::PostgreSql;
use units::{Lsn, PAGE_BYTES, Page, PageKey, RelationKey, fork};
use wal::resource_manager;

const END: Lsn = Lsn::from_raw(0x1_0000_0100);
const RELATION: RelationKey = RelationKey {
    tablespace: 1663,
    database: 5,
    relation: 16384,
};

/// The pages that a record touches, each made by it from a page full of `byte`.
fn applied(record: &[u8], byte: u8) -> Vec<(PageKey, Page)> {
    let mut touches = Vec::new();
    PostgreSql.touches(record, END, &mut touches).expect("its pages");
    let keys = touches.into_iter().filter_map(|touch| match touch {
        Touch::Page { key, .. } => Some(key),
        _ => None,
    });
    keys.map(|key| {
        let mut page = Page::from_bytes(&[byte; PAGE_BYTES]).expect("a page of bytes");
        PostgreSql.apply(record, END, key, &mut page).expect("a page");
        (key, page)
    })
    .collect()
}

fn page_of(pages: &[(PageKey, Page)], array: RelationKey, block: u32) -> &Page {
    let key = array.fork(fork::MAIN).page(block);
    let found = pages.iter().find(|(known, _)| *known == key);
    &found.unwrap_or_else(|| panic!("{key} is not touched")).1
}

fn u32_at(page: &Page, at: usize) -> u32 {
    u32::from_le_bytes(page.bytes()[at..at + 4].try_into().expect("four bytes"))
}

fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

#[test]
fn a_commit_across_two_status_pages_sets_its_own_bits_on_each() {
    /// `XLOG_XACT_COMMIT` with `XLOG_XACT_HAS_INFO`, and `XACT_XINFO_HAS_SUBXACTS`.
    const INFO: u8 = 0x80;
    const HAS_SUBTRANSACTIONS: u32 = 2;
    let (own, others) = (32767u32, [32768u32, 32769]);
    let time = 0x0102_0304_0506_0708u64.to_le_bytes();
    let data = [&time[..], &words(&[HAS_SUBTRANSACTIONS, 2, others[0], others[1]])].concat();
    let record = wal::encode_record(resource_manager::TRANSACTION, INFO, own, Lsn::ZERO, &data);
    let pages = applied(&record, 0);
    let first = page_of(&pages, RelationKey::TRANSACTION_STATUS, 0);
    let second = page_of(&pages, RelationKey::TRANSACTION_STATUS, 1);
    assert_eq!(first.bytes()[8191], 0b0100_0000);
    assert!(first.bytes()[..8191].iter().all(|byte| *byte == 0));
    assert_eq!(second.bytes()[0], 0b0101);
    assert!(second.bytes()[1..].iter().all(|byte| *byte == 0));
    for transaction in [own, others[0], others[1]] {
        let page = page_of(&pages, RelationKey::COMMIT_TIMESTAMPS, transaction / 819);
        let at = 10 * (transaction % 819) as usize;
        assert_eq!(page.bytes()[at..at + 10], [&time[..], &[0, 0]].concat());
    }
}

#[test]
fn an_abort_replaces_the_bits_of_its_transaction_only() {
    const ABORT: u8 = 0x20;
    let record = wal::encode_record(resource_manager::TRANSACTION, ABORT, 5, Lsn::ZERO, &[0; 8]);
    let pages = applied(&record, 0xFF);
    assert_eq!(pages.len(), 1, "an abort has no time");
    let page = page_of(&pages, RelationKey::TRANSACTION_STATUS, 0);
    assert_eq!(page.bytes()[..3], [0xFF, 0b1111_1011, 0xFF]);
}

#[test]
fn the_last_multixact_of_a_page_says_on_the_next_where_its_members_end() {
    const CREATE_ID: u8 = 0x20;
    // Members 1635 and 1636: the last of one page, the first of the next.
    let data = words(&[2047, 1635, 2, 700, 1, 701, 4]);
    let record = wal::encode_record(resource_manager::MULTIXACT, CREATE_ID, 701, Lsn::ZERO, &data);
    let pages = applied(&record, 0);
    assert_eq!(pages.len(), 4);
    assert_eq!(
        u32_at(page_of(&pages, RelationKey::MULTIXACT_OFFSETS, 0), 4 * 2047),
        1635
    );
    assert_eq!(u32_at(page_of(&pages, RelationKey::MULTIXACT_OFFSETS, 1), 0), 1637);
    let (first, second) = (
        page_of(&pages, RelationKey::MULTIXACT_MEMBERS, 0),
        page_of(&pages, RelationKey::MULTIXACT_MEMBERS, 1),
    );
    // 409 groups of 20 bytes: four flag bytes, four transactions.
    assert_eq!((first.bytes()[20 * 408 + 3], u32_at(first, 20 * 408 + 16)), (1, 700));
    assert_eq!((second.bytes()[0], u32_at(second, 4)), (4, 701));
}

#[test]
fn counters_of_multixacts_wrap_around_zero() {
    const CREATE_ID: u8 = 0x20;
    let data = words(&[u32::MAX, u32::MAX, 1, 700, 1]);
    let record = wal::encode_record(resource_manager::MULTIXACT, CREATE_ID, 700, Lsn::ZERO, &data);
    let pages = applied(&record, 0);
    let last = page_of(&pages, RelationKey::MULTIXACT_OFFSETS, u32::MAX / 2048);
    assert_eq!(u32_at(last, 4 * 2047), u32::MAX);
    // The next multixact is 1, and no members begin at zero.
    assert_eq!(u32_at(page_of(&pages, RelationKey::MULTIXACT_OFFSETS, 0), 4), 1);
}

#[test]
fn a_truncation_clears_the_tails_of_the_maps() {
    const TRUNCATE: u8 = 0x20;
    let data = words(&[6, 1663, 5, 16384, 7]);
    let record = wal::encode_record(resource_manager::STORAGE, TRUNCATE, 7, Lsn::ZERO, &data);
    let pages = applied(&record, 0x33);
    let map = |fork, block| {
        let key = RELATION.fork(fork).page(block);
        &pages.iter().find(|(known, _)| *known == key).expect("it is touched").1
    };
    let visibility = map(fork::VISIBILITY, 0);
    assert_eq!(visibility.bytes()[24..27], [0x33, 0x03, 0]);
    assert!(visibility.bytes()[26..].iter().all(|byte| *byte == 0));
    let free_space = map(fork::FREE_SPACE, 2);
    let nodes = &free_space.bytes()[28..];
    assert_eq!(nodes[4095..4102], [0x33, 0x33, 0x33, 0x33, 0x33, 0x33, 0]);
    assert!(nodes[4101..].iter().all(|byte| *byte == 0));
    // The way from the root to the six slots, and nothing beside it.
    assert_eq!((nodes[0], nodes[1], nodes[2]), (0x33, 0x33, 0));
    assert_eq!(nodes[2047..2052], [0x33, 0x33, 0x33, 0, 0]);
    // A map that does not exist stays a page of zeros.
    assert!(applied(&record, 0).iter().all(|(_, page)| page.is_zeroed()));
}

#[test]
fn a_lock_takes_the_frozen_bit_and_leaves_the_visible_one() {
    const LOCK: u8 = 0x60;
    const DELETE: u8 = 0x10;
    // Transaction, offset number 1, no bits, and the flag that bits were cleared.
    let data = [&words(&[7])[..], &[1, 0, 0, 1]].concat();
    let block = Block {
        data: vec![0],
        ..Block::default()
    };
    let map = RELATION.fork(fork::VISIBILITY).page(0);
    for (operation, left) in [(LOCK, 0b1111_1101), (DELETE, 0b1111_1100)] {
        let record = record(resource_manager::HEAP, operation, std::slice::from_ref(&block), &data);
        let mut page = Page::from_bytes(&[0xFF; PAGE_BYTES]).expect("a page of bytes");
        PostgreSql.apply(&record, END, map, &mut page).expect("a page");
        assert_eq!(page.bytes()[24], left);
        assert!(page.bytes()[25..].iter().all(|byte| *byte == 0xFF));
        assert_eq!(page.bytes()[..24], [0xFF; 24], "the map's page keeps its LSN");
    }
}

#[test]
fn a_kind_that_is_not_done_is_named_unless_an_image_makes_it_needless() {
    /// Changes no page, ever.
    const STANDBY: u8 = resource_manager::STANDBY;
    const APPLY: u8 = 0x02;
    let key = RELATION.fork(fork::MAIN).page(0);
    let mut logged = [7u8; PAGE_BYTES];
    logged[..24].copy_from_slice(&[
        1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 24, 0, 0, 32, 0, 32, 4, 32, 0, 0, 0, 0,
    ]);
    let mut block = Block {
        data: vec![1, 2, 3],
        ..Block::default()
    };
    let delta = record(STANDBY, 0x10, std::slice::from_ref(&block), &[0; 32]);
    let mut page = Page::zeroed();
    let error = PostgreSql.apply(&delta, END, key, &mut page).expect_err("not done");
    assert!(
        matches!(&error, EngineError::Unsupported { kind, .. } if kind.starts_with("Standby")),
        "{error}"
    );
    block.image = Some(Image {
        bytes: logged.to_vec(),
        hole_offset: 0,
        info: APPLY,
    });
    let image = record(STANDBY, 0x10, std::slice::from_ref(&block), &[0; 32]);
    PostgreSql.apply(&image, END, key, &mut page).expect("the image");
    assert_eq!(page.bytes()[8..], logged[8..]);
    assert_eq!(page.bytes()[..8], [1, 0, 0, 0, 0, 1, 0, 0], "the LSN is the record's");
}

/// What such a record does beside its blocks only the extension knows: an image of a page does not make up for that.
#[test]
fn a_record_of_an_extension_is_refused_also_with_an_image() {
    const APPLY: u8 = 0x02;
    let block = Block {
        image: Some(Image {
            bytes: vec![7; PAGE_BYTES],
            hole_offset: 0,
            info: APPLY,
        }),
        ..Block::default()
    };
    let key = RELATION.fork(fork::MAIN).page(0);
    for manager in [128, 255] {
        let record = record(manager, 0, std::slice::from_ref(&block), &[]);
        let mut touches = Vec::new();
        let mut page = Page::zeroed();
        let refusals = [
            PostgreSql.touches(&record, END, &mut touches),
            PostgreSql.apply(&record, END, key, &mut page),
        ];
        for refused in refusals {
            let text = refused.expect_err("nobody knows its redo").to_string();
            assert!(text.contains(&format!("resource manager {manager}")), "{text}");
        }
        assert_eq!((touches, page), (vec![], Page::zeroed()));
    }
}

#[test]
fn an_image_of_zeros_stays_zeros_and_a_hole_is_zeros() {
    const HAS_HOLE: u8 = 0x01;
    const APPLY: u8 = 0x02;
    let key = RELATION.fork(fork::MAIN).page(0);
    let apply = |image: Image| {
        let block = Block {
            image: Some(image),
            ..Block::default()
        };
        let mut page = Page::from_bytes(&[9; PAGE_BYTES]).expect("a page of bytes");
        PostgreSql
            .apply(
                &record(resource_manager::XLOG, 0xB0, &[block], &[]),
                END,
                key,
                &mut page,
            )
            .expect("a page");
        page
    };
    let zeros = apply(Image {
        bytes: vec![0; PAGE_BYTES],
        hole_offset: 0,
        info: APPLY,
    });
    assert!(zeros.is_zeroed());
    let holed = apply(Image {
        bytes: vec![5; 4000],
        hole_offset: 3000,
        info: APPLY | HAS_HOLE,
    });
    assert!(holed.bytes()[8..3000].iter().all(|byte| *byte == 5));
    assert!(holed.bytes()[3000..PAGE_BYTES - 1000].iter().all(|byte| *byte == 0));
    assert!(holed.bytes()[PAGE_BYTES - 1000..].iter().all(|byte| *byte == 5));
}
