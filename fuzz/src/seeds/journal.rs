//! Entries of a journal.

use units::{Lsn, Position};
use wire_format::{Batch, EncodedBatch, Item};

use super::log::records_of_each_kind;
use super::values::{at, batch, segment_state};
use super::{part, unsealed};

/// A state, a batch of records, bytes that are no entry.
pub(super) fn journal() -> Vec<u8> {
    let records = records_of_each_kind();
    let mut seed = Vec::new();
    let mut add = |kind: u8, payload: &[u8]| {
        seed.extend_from_slice(&[kind, 0, 0]);
        seed.extend_from_slice(&part(payload));
    };
    let mut previous = Position::ZERO;
    for (number, records) in (1..).zip(records.chunks(20)) {
        let items = (1..).zip(records).map(|(at, record)| Item::Record {
            end: Lsn::from_raw(number * 1000 + at),
            bytes: record.bytes.clone(),
        });
        let end = at(1, number * 1000 + 20);
        let batch = EncodedBatch::new(Batch {
            previous,
            end: end.lsn,
            items: items.collect(),
            ..batch().batch().as_ref().clone()
        });
        add(3, &unsealed(batch.bytes()));
        previous = end;
    }
    add(0, &segment_state());
    add(1, b"torn");
    seed
}
