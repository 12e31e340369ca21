//! Work to be counted by callgrind, on the committed sample: `count decode` or `count apply`.
//!
//! Only what happens inside of [`counted_decode`] and [`counted_apply`] is counted. `count records` prints how many records
//! that is.

use recorded_wal::{Pages, Recording, WAL_FILE_BYTES};
use wal::{DecodedRecord, Record, StreamDecoder, touches};

#[inline(never)]
fn counted_decode(recording: &Recording, decoder: &mut StreamDecoder, pages: &mut Vec<engine::Touch>) -> usize {
    let mut count = 0;
    for message in recording.measured.chunks(128 << 10) {
        decoder.push(decoder.next_push(), message).expect("it goes on");
        while let Some(record) = decoder.next_record().expect("PostgreSQL wrote it") {
            let decoded = DecodedRecord::decode(&record.bytes).expect("PostgreSQL wrote it");
            pages.clear();
            touches(&decoded, pages).expect("PostgreSQL wrote it");
            count += pages.len();
        }
    }
    count
}

#[inline(never)]
fn counted_apply(records: &[Record], pages: &mut Pages) -> usize {
    records.iter().map(|record| pages.apply(record)).sum()
}

fn main() {
    let recording = Recording::sample();
    let what = std::env::args().nth(1).unwrap_or_default();
    let count = match what.as_str() {
        "decode" => {
            let mut decoder = StreamDecoder::new(recording.measured_from(), None, WAL_FILE_BYTES);
            counted_decode(&recording, &mut decoder, &mut Vec::new())
        }
        "apply" => {
            let mut pages = Pages::after(&recording.records_before());
            counted_apply(&recording.records(), &mut pages)
        }
        "records" => recording.records().len(),
        other => panic!("count decode, count apply or count records, not {other:?}"),
    };
    println!("{count}");
}
