//! PostgreSQL's real log, and records of our own.

use std::collections::BTreeMap;

use units::Lsn;
use wal::{DecodedRecord, Marks, Record, StreamDecoder};

/// Real log of PostgreSQL 15, WAL files of 1 MiB.
pub(super) const WORKLOAD: &[u8] = include_bytes!("../../../crates/wal/samples/workload.wal");
/// Where it begins.
pub(crate) const WORKLOAD_START: Lsn = Lsn::from_raw(7 << 20);
const WAL_FILE_BYTES: u64 = 1 << 20;
/// Longer records teach a mutator nothing.
const RECORD_BYTES_MAX: usize = 1200;

pub(super) fn workload() -> Vec<Record> {
    records(WORKLOAD_START, WORKLOAD, WAL_FILE_BYTES)
}

pub(super) fn records(start: Lsn, log: &[u8], wal_file_bytes: u64) -> Vec<Record> {
    let mut decoder = StreamDecoder::new(start, None, wal_file_bytes);
    decoder.push(start, log).expect("it begins there");
    std::iter::from_fn(|| decoder.next_record().expect("the sample is sound")).collect()
}

/// Resource manager and operation: what decides which code reads it.
pub(super) fn kind(record: &Record) -> (u8, u8) {
    (record.bytes[17], record.bytes[16])
}

/// The shortest record of each kind, unless it is long.
pub(super) fn records_of_each_kind() -> Vec<Record> {
    let mut shortest: BTreeMap<(u8, u8), Record> = BTreeMap::new();
    for record in workload() {
        let known = shortest.entry(kind(&record)).or_insert_with(|| record.clone());
        if record.bytes.len() < known.bytes.len() {
            *known = record;
        }
    }
    shortest
        .into_values()
        .filter(|record| record.bytes.len() <= RECORD_BYTES_MAX)
        .collect()
}

pub(super) fn layouts() -> Vec<Vec<u8>> {
    let record = |manager: u8, info: u8, repeat: u8, data: &[u8]| {
        let length = (data.len() as u16).to_le_bytes();
        [&[manager, info, repeat], &length[..], data].concat()
    };
    vec![
        [&[0][..], &record(10, 0, 0, b"abc"), &record(0, 0x20, 255, &[7; 90])].concat(),
        // A switch record, and what follows it.
        [&[31][..], &record(0, 0x40, 0, b""), &record(11, 0x10, 3, b"after")].concat(),
    ]
}

pub(super) fn marks() -> Vec<u8> {
    let mut marks = Marks::default();
    for record in workload().iter().take(500) {
        let decoded = DecodedRecord::decode(&record.bytes).expect("the sample is sound");
        marks
            .advance(&decoded, record.start, record.end)
            .expect("the sample is sound");
    }
    let mut bytes = Vec::new();
    marks.encode(&mut bytes);
    bytes
}
