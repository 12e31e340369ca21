//! Against what `pg_waldump` says, and against the bytes themselves.

use std::collections::BTreeSet;
use std::fmt::Write;

use engine::Touch;
use units::Lsn;

use super::{FILE, SAMPLE_START, sample, sample_records};
use crate::{
    Checkpoint, DecodedRecord, Marks, PageWriter, Parameters, Record, StreamDecoder, record_end, record_start,
    state_changes, touches,
};

/// The line that `samples/make.sh` makes of `pg_waldump`'s.
pub(super) fn line(record: &Record) -> String {
    let decoded = DecodedRecord::decode(&record.bytes).unwrap();
    let wide = |lsn: Lsn| format!("{:X}/{:08X}", lsn.raw() >> 32, lsn.raw() & 0xFFFF_FFFF);
    let mut line = format!(
        "{} {} {} {} {}",
        decoded.kind().unwrap(),
        record.bytes.len(),
        decoded.header.transaction,
        wide(record.start),
        wide(decoded.header.previous)
    );
    for block in decoded.blocks() {
        write!(line, " {}:{}", block.key.fork, block.key.block).unwrap();
    }
    line
}

#[test]
fn records_are_what_pg_waldump_says() {
    let records = sample_records();
    let lines: Vec<&str> = include_str!("../../samples/workload.txt").lines().collect();
    for (record, expected) in records.iter().zip(&lines) {
        assert_eq!(line(record), *expected);
    }
    // The sample is cut in the middle of a record.
    assert!(records.len() <= lines.len() && lines.len() <= records.len() + 1);
    assert!(9000 < records.len());
}

#[test]
fn records_follow_each_other() {
    for pair in sample_records().windows(2) {
        assert_eq!(record_start(pair[0].end, FILE), pair[1].start);
        let header = crate::RecordHeader::decode(&pair[0].bytes).unwrap();
        let end = record_end(pair[0].start, pair[0].bytes.len() as u64, FILE);
        assert!(header.is_switch() || end == pair[0].end);
    }
}

#[test]
fn the_stream_may_be_cut_anywhere() {
    let expected = sample_records();
    for piece in [1, 13, 8191, 131_072] {
        let mut decoder = StreamDecoder::new(Lsn::from_raw(SAMPLE_START), None, FILE);
        let mut count = 0;
        for bytes in sample().chunks(piece) {
            decoder.push(decoder.next_push(), bytes).unwrap();
            while let Some(record) = decoder.next_record().unwrap() {
                assert!(record == expected[count], "pieces of {piece}, record {count}");
                count += 1;
            }
        }
        assert_eq!(count, expected.len());
    }
}

#[test]
fn the_page_up_to_the_last_record_is_kept() {
    for (begin, piece) in [(0, 13), (0, 8192), (0, 40_000), (0x3_5F30, 5000)] {
        let start = Lsn::from_raw(SAMPLE_START + begin);
        let mut decoder = StreamDecoder::new(start, None, FILE);
        for bytes in sample()[begin as usize..].chunks(piece) {
            decoder.push(decoder.next_push(), bytes).unwrap();
            let mut end = decoder.last_end();
            while let Some(record) = decoder.next_record().unwrap() {
                end = record.end;
            }
            let (from, page) = decoder.last_page();
            let page_start = start.max(Lsn::from_raw(end.raw() / 8192 * 8192));
            let until = (end.raw() - SAMPLE_START) as usize;
            let expected = &sample()[(page_start.raw() - SAMPLE_START) as usize..until.min(sample().len())];
            assert_eq!((decoder.last_end(), from), (end, page_start));
            assert!(page == expected, "pieces of {piece}, at {end}");
        }
    }
}

#[test]
fn the_stream_may_begin_at_any_record() {
    let records = sample_records();
    for pair in records.windows(2).step_by(97) {
        let start = pair[0].end;
        let mut decoder = StreamDecoder::new(start, Some(pair[0].start), FILE);
        let from = (start.raw() - SAMPLE_START) as usize;
        let until = sample().len().min(from + 300_000);
        decoder.push(start, &sample()[from..until]).unwrap();
        let next = decoder.next_record().unwrap();
        assert!(next.is_none_or(|record| record == pair[1]), "after {start}");
    }
}

#[test]
fn records_laid_out_again_are_the_same_bytes() {
    let start = Lsn::from_raw(SAMPLE_START);
    let mut decoder = StreamDecoder::new(start, None, FILE);
    decoder.push(start, sample()).unwrap();
    let records: Vec<Record> = std::iter::from_fn(|| decoder.next_record().unwrap()).collect();
    let flags = decoder.take_page_flags();
    let system_identifier = decoder.system_identifier().unwrap();
    let mut writer = PageWriter::new(start, decoder.timeline(), system_identifier, FILE, &flags);
    for record in &records {
        writer.append(record.start, &record.bytes).unwrap();
        assert_eq!(writer.end(), record.end);
    }
    let written = writer.into_bytes();
    let first_difference = written.iter().zip(sample()).position(|(ours, theirs)| ours != theirs);
    assert_eq!(first_difference, None);
    assert!(2_200_000 < written.len());
}

#[test]
fn every_record_has_a_meaning() {
    let mut kinds = BTreeSet::new();
    for record in sample_records() {
        let decoded = DecodedRecord::decode(&record.bytes).unwrap();
        kinds.insert(decoded.kind().unwrap());
        let (mut pages, mut changes) = (Vec::new(), Vec::new());
        touches(&decoded, &mut pages).unwrap();
        state_changes(&decoded, &mut changes).unwrap();
        let mut named = BTreeSet::new();
        for touch in &pages {
            if let Touch::Page { key, .. } = touch {
                assert!(named.insert(*key), "{key} twice at {}", record.start);
            }
        }
        for block in decoded.blocks() {
            assert!(named.contains(&block.key), "{} at {}", block.key, record.start);
        }
    }
    assert!(75 < kinds.len(), "{} kinds", kinds.len());
}

#[test]
fn any_flipped_bit_is_noticed() {
    let records = sample_records();
    for record in records.iter().step_by(211) {
        let from = (record.start.raw() - SAMPLE_START) as usize;
        let mut bytes = sample()[from..from + (record.end.raw() - record.start.raw()).min(8192) as usize].to_vec();
        let bit = record.start.raw() as usize * 31 % (record.bytes.len().min(24) * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let previous = crate::RecordHeader::decode(&record.bytes).unwrap().previous;
        let mut decoder = StreamDecoder::new(record.start, Some(previous), FILE);
        decoder.push(record.start, &bytes).unwrap();
        // A wrong length may also make it wait for more.
        assert!(
            !matches!(decoder.next_record(), Ok(Some(_))),
            "bit {bit} of {}",
            record.start
        );
    }
}

#[test]
fn a_shutdown_can_be_appended_behind_any_record() {
    let first = Checkpoint {
        timeline: 1,
        ..Checkpoint::default()
    };
    let mut marks = Marks::from_checkpoint(&first, Parameters::default(), Lsn::ZERO, Lsn::ZERO);
    let mut across_files = 0;
    for record in sample_records() {
        let decoded = DecodedRecord::decode(&record.bytes).unwrap();
        marks.advance(&decoded, record.start, record.end).unwrap();
        let start = record_start(record.end, FILE);
        let checkpoint = marks.shutdown_checkpoint(start, 0);
        let mut writer = PageWriter::new(record.end, 1, 77, FILE, &[]);
        writer
            .append(start, &checkpoint.shutdown_record(marks.last_record))
            .unwrap();
        across_files += u32::from(record.end.raw() / FILE != writer.end().raw() / FILE);
        let mut decoder = StreamDecoder::new(record.end, Some(record.start), FILE);
        decoder.push(record.end, &writer.into_bytes()).unwrap();
        let appended = decoder.next_record().unwrap().unwrap();
        let decoded = DecodedRecord::decode(&appended.bytes).unwrap();
        { marks }.advance(&decoded, appended.start, appended.end).unwrap();
        assert_eq!(decoded.data, checkpoint.encode());
        assert_eq!(appended.start, checkpoint.redo);
    }
    assert!(0 < across_files);
}
