//! Tests over whole records: what PostgreSQL really wrote (`samples/`), and records made by hand where it is silent.

mod arbitrary;
mod golden;
mod marks;
mod meaning;
mod stream;
mod wraparound;

use units::Lsn;

use crate::{DecodedRecord, Record, StreamDecoder, encode_record};

/// Size of the samples' WAL files, and of those made by hand.
const FILE: u64 = 1 << 20;
/// Where the sample begins; see the first line of `workload.txt`.
const SAMPLE_START: u64 = 0x70_0000;

fn sample() -> &'static [u8] {
    include_bytes!("../samples/workload.wal")
}

/// Every whole record of the sample.
fn sample_records() -> Vec<Record> {
    records_of(SAMPLE_START, sample())
}

/// Every whole record of log that stands here.
fn records_of(start: u64, log: &[u8]) -> Vec<Record> {
    let start = Lsn::from_raw(start);
    let mut decoder = StreamDecoder::new(start, None, FILE);
    decoder.push(start, log).unwrap();
    std::iter::from_fn(|| decoder.next_record().unwrap()).collect()
}

/// Passes `check` a record with this main data, not attached to any page.
fn with_record<T>(
    resource_manager: u8,
    info: u8,
    transaction: u32,
    data: &[u8],
    check: impl FnOnce(&DecodedRecord<'_>) -> T,
) -> T {
    let record = encode_record(resource_manager, info, transaction, Lsn::ZERO, data);
    check(&DecodedRecord::decode(&record).unwrap())
}
