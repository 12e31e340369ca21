//! Nothing is allocated for a record once buffers have their size: not for decoding it, not for saying what it touches, not
//! for redo.

use std::collections::{BTreeMap, HashMap};

use engine::{Engine, Touch};
use recorded_wal::{Recording, WAL_FILE_BYTES};
use redo::PostgreSql;
use units::{Lsn, Page, PageKey};
use wal::{DecodedRecord, Record, StreamDecoder, touches};

/// Log of every kind of record, WAL files of 1 MiB.
const EVERY_KIND: &[u8] = include_bytes!("../../../crates/wal/samples/workload.wal");
const EVERY_KIND_START: Lsn = Lsn::from_raw(7 << 20);
const EVERY_KIND_FILE_BYTES: u64 = 1 << 20;

/// As `MAX_SEND_SIZE` of the walsender cuts, only smaller: buffers are used again more often.
const MESSAGE_BYTES: usize = 16 << 10;

fn allocations(work: impl FnOnce()) -> u64 {
    allocation_counter::measure(work).count_total
}

/// Decodes this log, piece by piece; how many records it has.
fn decode(decoder: &mut StreamDecoder, log: &[u8], pages: &mut Vec<Touch>) -> u64 {
    let mut records = 0;
    for message in log.chunks(MESSAGE_BYTES) {
        decoder.push(decoder.next_push(), message).expect("it goes on");
        while let Some(record) = decoder.next_record().expect("PostgreSQL wrote it") {
            let decoded = DecodedRecord::decode(&record.bytes).expect("PostgreSQL wrote it");
            decoded.kind().expect("a known kind");
            pages.clear();
            touches(&decoded, pages).expect("PostgreSQL wrote it");
            records += 1;
        }
    }
    records
}

#[test]
fn decoding_allocates_nothing() {
    let recording = Recording::sample();
    let mut decoder = StreamDecoder::new(recording.start, None, WAL_FILE_BYTES);
    let mut pages = Vec::with_capacity(64);
    decode(&mut decoder, &recording.before, &mut pages);
    // Short records, then some that are as long as several pages, to which the buffers have to grow.
    let (short, long) = recording.measured.split_at(recording.measured.len() / 2);
    let mut records = 0;
    let allocated = allocations(|| records = decode(&mut decoder, short, &mut pages));
    assert!(2000 < records, "only {records} records");
    assert_eq!(allocated, 0, "allocations for {records} records");
    let grown = allocations(|| records = decode(&mut decoder, long, &mut pages));
    assert!(grown < 5, "{grown} allocations for {records} records");
}

/// Redo of all of these records; the allocations of each kind that made any.
fn allocations_by_kind(records: &[Record]) -> BTreeMap<String, u64> {
    let mut pages: HashMap<PageKey, Page> = HashMap::new();
    let mut touched = Vec::with_capacity(64);
    let mut by_kind = BTreeMap::new();
    for record in records {
        touched.clear();
        let mut allocated = allocations(|| {
            let touches = PostgreSql.touches(&record.bytes, record.end, &mut touched);
            touches.expect("PostgreSQL wrote it");
        });
        for touch in &touched {
            let Touch::Page { key, from_nothing } = *touch else {
                continue;
            };
            if from_nothing {
                pages.entry(key).or_insert_with(Page::zeroed);
            }
            let Some(page) = pages.get_mut(&key) else { continue };
            let mut applied = Ok(());
            let in_redo = allocations(|| applied = PostgreSql.apply(&record.bytes, record.end, key, page));
            match applied {
                Ok(()) => allocated += in_redo,
                // An error is a text.
                Err(_) => drop(pages.remove(&key)),
            }
        }
        if 0 < allocated {
            let kind = DecodedRecord::decode(&record.bytes).map(|record| record.kind());
            let kind = kind.expect("a record").expect("a known kind").to_string();
            *by_kind.entry(kind).or_default() += allocated;
        }
    }
    by_kind
}

#[test]
fn redo_allocates_nothing() {
    let recording = Recording::sample();
    let records = [recording.records_before(), recording.records()].concat();
    assert_eq!(allocations_by_kind(&records), BTreeMap::new());
}

#[test]
fn redo_of_no_kind_of_record_allocates() {
    let mut decoder = StreamDecoder::new(EVERY_KIND_START, None, EVERY_KIND_FILE_BYTES);
    decoder.push(EVERY_KIND_START, EVERY_KIND).expect("it begins there");
    let records: Vec<Record> = std::iter::from_fn(|| decoder.next_record().expect("PostgreSQL wrote it")).collect();
    assert_eq!(allocations_by_kind(&records), BTreeMap::new());
}
