//! Decoding recorded log as an instance process does: cut as a walsender cuts it, to records, and what they touch.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use recorded_wal::{Load, Recording, WAL_FILE_BYTES};
use wal::{DecodedRecord, StreamDecoder, touches};

/// `MAX_SEND_SIZE` of PostgreSQL's walsender.
const MESSAGE_BYTES: usize = 128 << 10;

/// Takes every record apart; how many there were.
fn decode(recording: &Recording, pages: &mut Vec<engine::Touch>) -> u64 {
    let mut decoder = StreamDecoder::new(recording.measured_from(), None, WAL_FILE_BYTES);
    let mut records = 0;
    for message in recording.measured.chunks(MESSAGE_BYTES) {
        decoder.push(decoder.next_push(), message).expect("it goes on");
        while let Some(record) = decoder.next_record().expect("PostgreSQL wrote it") {
            let decoded = DecodedRecord::decode(&record.bytes).expect("PostgreSQL wrote it");
            pages.clear();
            touches(&decoded, pages).expect("PostgreSQL wrote it");
            records += 1;
        }
    }
    records
}

fn bench(criterion: &mut Criterion) {
    for load in [Load::PGBENCH, Load::INDEX_BUILD, Load::GIN] {
        let recording = Recording::of(&load);
        let mut pages = Vec::new();
        let records = decode(&recording, &mut pages);
        let mut group = criterion.benchmark_group(format!("decode/{}", load.name));
        group.throughput(Throughput::ElementsAndBytes {
            elements: records,
            bytes: recording.measured.len() as u64,
        });
        group.sample_size(15);
        group.bench_function("records", |bencher| bencher.iter(|| decode(&recording, &mut pages)));
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
