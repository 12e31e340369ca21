//! Total: whatever the bytes, redo gives a page or an error.

use engine::Engine;
use proptest::prelude::*;
use redo::PostgreSql;
use units::{Lsn, PAGE_BYTES, Page, RelationKey};

/// A record with a sound frame around arbitrary content: block 0 with data, and main data.
fn record(manager: u8, info: u8, flags: u8, data: &[u8], main: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 0x20 | flags];
    body.extend_from_slice(&(data.len() as u16).to_le_bytes());
    for number in [1663u32, 5, 16384, 0] {
        body.extend_from_slice(&number.to_le_bytes());
    }
    body.extend_from_slice(&[255, main.len() as u8]);
    body.extend_from_slice(data);
    body.extend_from_slice(main);
    let mut record = Vec::new();
    record.extend_from_slice(&(24 + body.len() as u32).to_le_bytes());
    record.extend_from_slice(&7u32.to_le_bytes());
    record.extend_from_slice(&[0; 8]);
    record.extend_from_slice(&[info, manager, 0, 0, 0, 0, 0, 0]);
    record.extend_from_slice(&body);
    record
}

fn page(seed: &[u8], lower: u16, upper: u16, special: u16) -> Page {
    let mut bytes = [0u8; PAGE_BYTES];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = seed[at % seed.len()].wrapping_mul(at as u8 | 1);
    }
    bytes[12..14].copy_from_slice(&lower.to_le_bytes());
    bytes[14..16].copy_from_slice(&upper.to_le_bytes());
    bytes[16..18].copy_from_slice(&special.to_le_bytes());
    Page::from_bytes(&bytes).expect("a page of bytes")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn arbitrary_records_on_arbitrary_pages_never_panic(
        manager in prop_oneof![Just(9u8), Just(10), Just(11), Just(15), Just(20), 0..22u8],
        info in any::<u8>(),
        init in prop_oneof![3 => Just(0u8), 1 => Just(0x40u8)],
        data in prop::collection::vec(prop_oneof![0..12u8, any::<u8>()], 1..120),
        main in prop::collection::vec(prop_oneof![0..6u8, any::<u8>()], 0..60),
        seed in prop::collection::vec(any::<u8>(), 1..64),
        lower in prop_oneof![Just(24u16), Just(40), Just(64), any::<u16>()],
        upper in prop_oneof![Just(8176u16), Just(4000), Just(0), any::<u16>()],
        special in prop_oneof![Just(8176u16), Just(8192), any::<u16>()],
    ) {
        let record = record(manager, info & 0xF0, init, &data, &main);
        let relation = RelationKey { tablespace: 1663, database: 5, relation: 16384 };
        let mut touches = Vec::new();
        let _ = PostgreSql.touches(&record, Lsn::from_raw(100), &mut touches);
        for fork in 0..4 {
            let mut page = page(&seed, lower, upper, special);
            let _ = PostgreSql.apply(&record, Lsn::from_raw(100), relation.fork(fork).page(0), &mut page);
            redo::mask::mask(&mut page, 0, manager);
        }
    }
}
