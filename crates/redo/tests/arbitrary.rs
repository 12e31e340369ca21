//! Total: whatever the bytes, redo gives a page or an error.

mod built;

use built::{Block, Image, record};
use engine::{Engine, Touch};
use proptest::prelude::*;
use redo::PostgreSql;
use units::{Lsn, PAGE_BYTES, Page, RelationKey};

fn page(seed: &[u8], lower: u16, upper: u16, special: u16, last: u16) -> Page {
    let mut bytes = [0u8; PAGE_BYTES];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = seed[at % seed.len()].wrapping_mul(at as u8 | 1);
    }
    bytes[12..14].copy_from_slice(&lower.to_le_bytes());
    bytes[14..16].copy_from_slice(&upper.to_le_bytes());
    bytes[16..18].copy_from_slice(&special.to_le_bytes());
    bytes[PAGE_BYTES - 2..].copy_from_slice(&last.to_le_bytes());
    Page::from_bytes(&bytes).expect("a page of bytes")
}

/// What tells pages of index methods apart, in the last four bytes: flags, page id.
fn method() -> impl Strategy<Value = Option<(u16, u16)>> {
    const HASH: u16 = 0xFF80;
    const GIST: u16 = 0xFF81;
    let flags = prop_oneof![(0..8u32).prop_map(|bit| 1u16 << bit), any::<u16>()];
    prop::option::of((flags, prop_oneof![Just(HASH), Just(GIST)]))
}

fn image() -> impl Strategy<Value = Image> {
    let info = prop_oneof![Just(0x02u8), Just(0x06), Just(0x0A), Just(0x12), 0..0x20u8];
    (prop::collection::vec(any::<u8>(), 1..200), 0..8300u16, info).prop_map(|(bytes, hole_offset, info)| Image {
        bytes,
        hole_offset,
        info,
    })
}

fn block() -> impl Strategy<Value = Block> {
    /// `BKPBLOCK_WILL_INIT`.
    const WILL_INIT: u8 = 0x40;
    let flags = prop_oneof![3 => Just(0u8), 1 => Just(WILL_INIT)];
    let data = prop::collection::vec(prop_oneof![0..12u8, any::<u8>()], 0..120);
    (flags, prop::option::weighted(0.1, image()), data).prop_map(|(flags, image, data)| Block { flags, image, data })
}

/// A page whose `count` items lie as PostgreSQL lays them, 16 bytes each, the special space of an index page behind them.
fn sound_page(seed: &[u8], count: usize, last: u16, method: Option<(u16, u16)>) -> Page {
    const ITEM_BYTES: usize = 16;
    const NORMAL: u32 = 1;
    let special = PAGE_BYTES - 16;
    let (lower, upper) = (24 + 4 * count, special - ITEM_BYTES * count);
    let mut page = page(seed, lower as u16, upper as u16, special as u16, last);
    for number in 0..count {
        let offset = special - ITEM_BYTES * (number + 1);
        let pointer = offset as u32 | NORMAL << 15 | (ITEM_BYTES as u32) << 17;
        page.bytes_mut()[24 + 4 * number..][..4].copy_from_slice(&pointer.to_le_bytes());
        // The size that an index tuple says it has.
        page.bytes_mut()[offset + 6..offset + 8].copy_from_slice(&(ITEM_BYTES as u16).to_le_bytes());
    }
    if let Some((flags, page_id)) = method {
        page.bytes_mut()[PAGE_BYTES - 4..PAGE_BYTES - 2].copy_from_slice(&flags.to_le_bytes());
        page.bytes_mut()[PAGE_BYTES - 2..].copy_from_slice(&page_id.to_le_bytes());
    }
    page
}

/// Whether header and line pointers can be believed.
fn is_sound(page: &Page) -> bool {
    let u16_at = |at: usize| usize::from(u16::from_le_bytes([page.bytes()[at], page.bytes()[at + 1]]));
    let (lower, upper, special) = (u16_at(12), u16_at(14), u16_at(16));
    24 <= lower && lower <= upper && upper <= special && special <= PAGE_BYTES
}

/// What records of indexes are made of: small numbers of two bytes, and index tuples.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![8 => 0..40u16, 1 => any::<u16>()].prop_map(|number| number.to_le_bytes().to_vec());
    let tuple = prop_oneof![4 => Just(16u16), 1 => 0..40u16, 1 => any::<u16>()];
    let tuple = (tuple, 0..40usize).prop_map(|(size, bytes)| {
        let mut tuple = vec![1; bytes.max(8)];
        tuple[6..8].copy_from_slice(&size.to_le_bytes());
        tuple
    });
    let exact = Just([&[1u8; 6][..], &[16, 0], &[1; 8]].concat());
    let piece = prop_oneof![4 => number, 2 => exact, 1 => tuple];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6000))]

    #[test]
    fn arbitrary_records_on_arbitrary_pages_never_panic(
        manager in prop_oneof![8 => 9..18u8, 1 => Just(20u8), 1 => 0..22u8],
        info in any::<u8>(),
        blocks in prop::collection::vec(block(), 0..5),
        main in prop::collection::vec(prop_oneof![0..6u8, any::<u8>()], 0..60),
        seed in prop::collection::vec(any::<u8>(), 1..64),
        lower in prop_oneof![Just(24u16), Just(40), Just(64), Just(4120), Just(4568), any::<u16>()],
        upper in prop_oneof![Just(8176u16), Just(4000), Just(0), any::<u16>()],
        special in prop_oneof![Just(8176u16), Just(8184), Just(8192), any::<u16>()],
        // The flags of a GIN page, the kind of a BRIN page.
        last in prop_oneof![0..256u16, 0xF091..0xF094u16, any::<u16>()],
        method in method(),
    ) {
        let record = record(manager, info & 0xF0, &blocks, &main);
        let end = Lsn::from_raw(100);
        let relation = RelationKey { tablespace: 1663, database: 5, relation: 16384 };
        let mut touches = Vec::new();
        let _ = PostgreSql.touches(&record, end, &mut touches);
        let named = touches.iter().filter_map(|touch| match touch {
            Touch::Page { key, .. } => Some(*key),
            _ => None,
        });
        let others = (0..4).map(|fork| relation.fork(fork).page(0));
        for key in named.take(20).chain(others) {
            let mut page = page(&seed, lower, upper, special, last);
            if let Some((flags, page_id)) = method {
                page.bytes_mut()[PAGE_BYTES - 4..PAGE_BYTES - 2].copy_from_slice(&flags.to_le_bytes());
                page.bytes_mut()[PAGE_BYTES - 2..].copy_from_slice(&page_id.to_le_bytes());
            }
            let _ = PostgreSql.apply(&record, end, key, &mut page);
            redo::mask::mask(&mut page, key.block, manager);
        }
    }

    #[test]
    fn what_redo_makes_of_a_sound_page_is_a_sound_page(
        // Btree, hash, GIN, GiST, sequences, SP-GiST, BRIN.
        manager in 11..18u8,
        info in any::<u8>(),
        data in prop::collection::vec(pieces(), 1..7),
        main in pieces(),
        seed in prop::collection::vec(any::<u8>(), 1..64),
        count in 0..60usize,
        last in prop_oneof![0..256u16, 0xF091..0xF094u16, any::<u16>()],
        method in method(),
    ) {
        let blocks: Vec<Block> = data.into_iter().map(|data| Block { data, ..Block::default() }).collect();
        let record = record(manager, info & 0xF0, &blocks, &main);
        let relation = RelationKey { tablespace: 1663, database: 5, relation: 16384 };
        for block in 0..blocks.len() as u32 {
            let mut page = sound_page(&seed, count, last, method);
            let applied = PostgreSql.apply(&record, Lsn::from_raw(100), relation.fork(0).page(block), &mut page);
            prop_assert!(applied.is_err() || is_sound(&page), "manager {manager}, {info:#x}, block {block}");
            redo::mask::mask(&mut page, block, manager);
        }
    }

    #[test]
    fn an_image_gives_a_page_or_an_error(image in image()) {
        let record = record(0, 0xB0, &[Block { image: Some(image), ..Block::default() }], &[]);
        let relation = RelationKey { tablespace: 1663, database: 5, relation: 16384 };
        let mut page = Page::zeroed();
        let _ = PostgreSql.apply(&record, Lsn::from_raw(100), relation.fork(0).page(0), &mut page);
    }
}
