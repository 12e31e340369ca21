//! Any bytes give a value or an error.

use proptest::prelude::*;
use units::Lsn;

use super::{FILE, sample_records};
use crate::{DecodedRecord, Marks, Record, StreamDecoder, encode_record, state_changes, touches};

/// Everything that reads a record.
fn read(bytes: &[u8]) {
    let Ok(record) = DecodedRecord::decode(bytes) else {
        return;
    };
    let (mut pages, mut changes) = (Vec::new(), Vec::new());
    let _ = record.kind();
    let _ = touches(&record, &mut pages);
    let _ = state_changes(&record, &mut changes);
    let mut marks = Marks::default();
    let before = marks;
    if marks.advance(&record, Lsn::from_raw(8), Lsn::from_raw(16)).is_err() {
        assert_eq!(marks, before);
    }
}

proptest! {
    #[test]
    fn records_of_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read(&bytes);
    }

    #[test]
    fn records_of_any_bytes_under_a_true_length(mut bytes in prop::collection::vec(any::<u8>(), 24..300)) {
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes[17] %= 23;
        read(&bytes);
    }

    #[test]
    fn any_main_data_of_any_kind(manager in 0_u8..23, info: u8, data in prop::collection::vec(any::<u8>(), 0..200)) {
        read(&encode_record(manager, info, 5, Lsn::ZERO, &data));
    }

    #[test]
    fn counts_near_the_limit(manager in 0_u8..23, info: u8, at in 0_usize..64, data in prop::collection::vec(any::<u8>(), 64)) {
        let mut data = data;
        let at = at.min(60);
        data[at..at + 4].copy_from_slice(&[0xFF; 4]);
        read(&encode_record(manager, info, 5, Lsn::ZERO, &data));
    }

    #[test]
    fn streams_of_any_bytes(start in 0_u64..4 * FILE, bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 1_usize..50) {
        let mut decoder = StreamDecoder::new(Lsn::from_raw(start), None, FILE);
        for piece in bytes.chunks(cut) {
            decoder.push(decoder.next_push(), piece).unwrap();
            while let Ok(Some(_)) = decoder.next_record() {}
        }
    }

    #[test]
    fn marks_of_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = Marks::decode(&bytes);
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = 1;
        }
        let _ = Marks::decode(&bytes);
    }
}

#[test]
fn real_records_with_one_byte_wrong() {
    let records: Vec<Record> = sample_records();
    for (index, record) in records.iter().enumerate().step_by(3) {
        let mut bytes = record.bytes.to_vec();
        for at in [24, 25, 26, 28, 44, 47, 52, 60] {
            if at < bytes.len() {
                bytes[at] = bytes[at].wrapping_add(index as u8 | 1);
                read(&bytes);
                bytes[at] = record.bytes[at];
            }
        }
        read(&bytes[..bytes.len() - 1]);
    }
}
