use bytes::Bytes;
use proptest::prelude::*;
use units::{Epoch, GroupId, Lsn, PAGE_BYTES, Page, PageKey, Position, RelationKey, VolumeId};

use crate::{Batch, CatalogEntry, CatalogKey, CodecError, Elsewhere, EncodedBatch, FlushHeader, Item};

mod messages;

fn lsn() -> impl Strategy<Value = Lsn> {
    any::<u64>().prop_map(Lsn::from_raw)
}

fn page_key() -> impl Strategy<Value = PageKey> {
    any::<(u32, u32, u32, u8, u32)>().prop_map(|(tablespace, database, relation, fork, block)| {
        RelationKey {
            tablespace,
            database,
            relation,
        }
        .fork(fork)
        .page(block)
    })
}

fn bytes(most: usize) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..most).prop_map(Bytes::from)
}

fn item() -> impl Strategy<Value = Item> {
    prop_oneof![
        (lsn(), bytes(200)).prop_map(|(end, bytes)| Item::Record { end, bytes }),
        (lsn(), bytes(200), 0..1000u32).prop_map(|(end, bytes, offset)| {
            let record_bytes = offset + bytes.len() as u32 + 1;
            Item::Fragment {
                end,
                record_bytes,
                offset,
                bytes,
            }
        }),
        (lsn(), page_key(), any::<u8>()).prop_map(|(end, key, fill)| {
            let page = Page::from_bytes(&[fill; PAGE_BYTES]).expect("one page of bytes");
            Item::Image { end, key, page }
        }),
    ]
}

fn catalog_key() -> impl Strategy<Value = CatalogKey> {
    prop_oneof![
        page_key().prop_map(|key| CatalogKey::ForkBlocks(key.fork)),
        page_key().prop_map(|key| CatalogKey::Stripes {
            fork: key.fork,
            first: key.block,
        }),
        "[a-z0-9/]{1,200}".prop_map(CatalogKey::Blob),
    ]
}

fn header() -> impl Strategy<Value = FlushHeader> {
    let entry = (catalog_key(), lsn(), prop::option::of(bytes(50)));
    let entry = entry.prop_map(|(key, lsn, value)| CatalogEntry { key, lsn, value });
    (
        prop::collection::vec(any::<u32>().prop_map(GroupId::from_raw), 0..4),
        lsn(),
        any::<u64>(),
        bytes(80),
        prop::collection::vec(entry, 0..5),
        prop::collection::vec((lsn(), any::<u16>()), 0..4),
    )
        .prop_map(
            |(groups, boundary, written_at_us, marks, catalog, page_flags)| FlushHeader {
                groups,
                boundary,
                written_at_us,
                marks,
                catalog,
                page_flags,
            },
        )
}

fn elsewhere() -> impl Strategy<Value = Elsewhere> {
    let touches = prop::collection::btree_set(any::<u32>(), 1..4);
    (lsn(), touches).prop_map(|(end, touches)| Elsewhere {
        end,
        touches: touches.into_iter().collect(),
    })
}

fn batch() -> impl Strategy<Value = Batch> {
    (
        any::<([u8; 16], u32, u64, u64)>(),
        lsn(),
        lsn(),
        prop::option::of(header()),
        prop::collection::vec(item(), 0..6),
        prop::collection::vec(elsewhere(), 0..3),
    )
        .prop_map(
            |((volume, group, epoch, before), end, previous, header, items, elsewhere)| Batch {
                volume: VolumeId::from_bytes(volume),
                group: GroupId::from_raw(group),
                epoch: Epoch::from_raw(epoch),
                end,
                previous: Position::new(Epoch::from_raw(before), previous),
                header,
                items,
                elsewhere,
            },
        )
}

proptest! {
    #[test]
    fn batches_read_back(batch in batch()) {
        prop_assert_eq!(Batch::decode(batch.encode()), Ok(batch));
    }

    #[test]
    fn an_encoded_batch_is_the_same_and_its_records_are_slices_of_its_bytes(batch in batch()) {
        let encoded = EncodedBatch::new(batch.clone());
        prop_assert_eq!(encoded.position(), batch.position());
        prop_assert_eq!(&**encoded.batch(), &batch);
        let whole = encoded.bytes().as_ptr_range();
        for item in &encoded.batch().items {
            if let Item::Record { bytes, .. } | Item::Fragment { bytes, .. } = item {
                let part = bytes.as_ptr_range();
                prop_assert!(bytes.is_empty() || whole.start <= part.start && part.end <= whole.end);
            }
        }
    }

    #[test]
    fn an_encoded_batch_takes_no_more_memory_than_it_fills(batch in batch()) {
        let bytes = batch.encode();
        let length = bytes.len();
        let memory = bytes.try_into_mut().map(|bytes| bytes.capacity()).expect("nobody shares it");
        prop_assert_eq!(memory, length);
    }

    #[test]
    fn a_damaged_batch_is_an_error(batch in batch(), at in any::<prop::sample::Index>(), bit in 0..8u32) {
        let mut bytes = batch.encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(Batch::decode(bytes.into()).is_err());
    }

    #[test]
    fn arbitrary_bytes_behind_a_true_checksum_give_a_value_or_an_error(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        // Whatever it is, it must not panic; a value must be one that can be written again.
        if let Ok(batch) = Batch::decode(bytes.into()) {
            prop_assert_eq!(Batch::decode(batch.encode()), Ok(batch));
        }
    }

    #[test]
    fn catalog_keys_read_back_and_order_as_their_bytes(one in catalog_key(), other in catalog_key()) {
        prop_assert_eq!(CatalogKey::decode(&one.encode()), Ok(one.clone()));
        prop_assert_eq!(one.cmp(&other), one.encode().cmp(&other.encode()));
    }

    #[test]
    fn arbitrary_bytes_are_a_catalog_key_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..220)) {
        if let Ok(key) = CatalogKey::decode(&bytes) {
            prop_assert_eq!(key.encode(), bytes);
        }
    }
}

#[test]
fn a_batch_of_another_version_names_both() {
    let mut bytes = vec![9; 40];
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    let expected = CodecError::Version {
        found: 9,
        spoken: crate::BATCH_VERSION,
    };
    assert_eq!(Batch::decode(bytes.into()), Err(expected));
}

/// What six copies multiply: one commit of a small transaction must travel with little beside its records.
#[test]
fn one_commit_travels_with_little_framing() {
    let start = 0x16_B374_D848_u64;
    let record = |number: u64| Item::Record {
        end: Lsn::from_raw(start + 104 * (number + 1)),
        bytes: Bytes::from_static(&[1; 100]),
    };
    let end = Lsn::from_raw(start + 1040);
    let header = FlushHeader {
        groups: vec![GroupId::FIRST],
        boundary: end,
        written_at_us: 1_790_000_000_000_000,
        marks: Bytes::from_static(&[7; 60]),
        catalog: Vec::new(),
        page_flags: Vec::new(),
    };
    let batch = Batch {
        volume: VolumeId::from_bytes([3; 16]),
        group: GroupId::FIRST,
        epoch: Epoch::from_raw(12),
        end,
        previous: Position::new(Epoch::from_raw(12), Lsn::from_raw(start)),
        header: Some(header),
        items: (0..10).map(record).collect(),
        elsewhere: Vec::new(),
    };
    let framing = batch.encode().len() - 10 * 100;
    assert!(framing <= 150, "{framing} bytes of framing for 1,000 bytes of records");
}
