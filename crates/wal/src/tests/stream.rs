//! Places in the log that a workload meets rarely: boundaries, switches, lost continuations.

use units::Lsn;

use super::FILE;
use crate::{PageHeader, PageWriter, Record, StreamDecoder, StreamError, encode_record, page_flag, record_start};

const SWITCH: u8 = 0x40;

fn record(previous: Lsn, data_bytes: usize) -> Vec<u8> {
    encode_record(21, 0, 5, previous, &vec![7; data_bytes])
}

fn writer(start: Lsn) -> PageWriter {
    PageWriter::new(start, 1, 77, FILE, &[])
}

fn decode(start: Lsn, previous: Lsn, bytes: &[u8]) -> Result<Vec<Record>, StreamError> {
    let mut decoder = StreamDecoder::new(start, Some(previous), FILE);
    decoder.push(start, bytes)?;
    let mut records = Vec::new();
    while let Some(record) = decoder.next_record()? {
        records.push(record);
    }
    Ok(records)
}

/// A record from `start` with `data_bytes` of main data ends at `end`, and the next one begins at `next`.
fn check_end(start: u64, data_bytes: usize, end: u64, next: u64) {
    let start = Lsn::from_raw(start);
    let mut writer = writer(start);
    let previous = Lsn::from_raw(64);
    writer.append(start, &record(previous, data_bytes)).unwrap();
    assert_eq!(writer.end(), Lsn::from_raw(end));
    writer.append(Lsn::from_raw(next), &record(start, 1)).unwrap();
    let records = decode(start, previous, &writer.into_bytes()).unwrap();
    assert_eq!(records.len(), 2);
    assert_eq!(
        (records[0].end, records[1].start),
        (Lsn::from_raw(end), Lsn::from_raw(next))
    );
}

#[test]
fn a_record_that_fills_its_page_ends_at_the_boundary() {
    let page = FILE + 2 * 8192;
    check_end(page - 32, 32 - 26, page, page + 24);
    // Padding fills it as well.
    check_end(page - 32, 32 - 26 - 5, page, page + 24);
    // One byte more stands on the next page.
    check_end(page - 32, 32 - 26 + 1, page + 24 + 8, page + 24 + 8);
}

#[test]
fn a_record_that_fills_its_file_ends_at_the_boundary() {
    check_end(2 * FILE - 40, 40 - 26, 2 * FILE, 2 * FILE + 40);
    check_end(2 * FILE - 40, 40 - 26 + 1, 2 * FILE + 40 + 8, 2 * FILE + 40 + 8);
}

#[test]
fn a_header_may_be_split_by_a_page_and_by_a_file() {
    for boundary in [FILE + 8192, 2 * FILE] {
        let header = if boundary % FILE == 0 { 40 } else { 24 };
        for before in [8, 16] {
            let end = boundary + header + (32 - before);
            check_end(boundary - before, 32 - 26, end, end);
        }
    }
}

#[test]
fn a_switch_extends_to_the_end_of_its_file() {
    let start = Lsn::from_raw(FILE + 40 + 8192);
    let previous = Lsn::from_raw(64);
    let mut writer = writer(start);
    let switch = encode_record(0, SWITCH, 0, previous, &[]);
    assert_eq!(switch.len(), 24);
    writer.append(start, &switch).unwrap();
    assert_eq!(writer.end(), Lsn::from_raw(2 * FILE));
    writer.append(Lsn::from_raw(2 * FILE + 40), &record(start, 1)).unwrap();
    let records = decode(start, previous, &writer.into_bytes()).unwrap();
    assert_eq!(records[0].end, Lsn::from_raw(2 * FILE));
    assert_eq!(records[1].start, Lsn::from_raw(2 * FILE + 40));
}

/// Half a record, then the page on which PostgreSQL gave it up and began another, which says that it did so with the one at
/// `given_up`.
fn overwritten(flags: u16, given_up: Option<u64>) -> Result<Vec<Record>, StreamError> {
    const OVERWRITE_CONTRECORD: u8 = 0xD0;
    let page = Lsn::from_raw(FILE + 2 * 8192);
    let start = Lsn::from_raw(page.raw() - 64);
    let previous = Lsn::from_raw(64);
    let mut lost = writer(start);
    lost.append(start, &record(previous, 500)).unwrap();
    let mut bytes = lost.into_bytes();
    bytes.truncate(64);
    let mut after = PageWriter::new(page, 1, 77, FILE, &[(page, flags)]);
    let next = match given_up {
        Some(given_up) => {
            let data = [given_up.to_le_bytes(), [9; 8]].concat();
            encode_record(0, OVERWRITE_CONTRECORD, 0, previous, &data)
        }
        None => record(previous, 3),
    };
    after.append(record_start(page, FILE), &next).unwrap();
    bytes.extend(after.into_bytes());
    decode(start, previous, &bytes)
}

#[test]
fn a_lost_continuation_is_dropped_only_if_the_page_says_so() {
    const SAID: u16 = page_flag::FIRST_IS_OVERWRITTEN_CONTINUATION;
    let start = FILE + 2 * 8192 - 64;
    let records = overwritten(SAID, Some(start)).unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].start, Lsn::from_raw(FILE + 2 * 8192 + 24));
    assert!(matches!(
        overwritten(0, Some(start)),
        Err(StreamError::PageHeader { .. })
    ));
    for wrong in [None, Some(start + 8)] {
        assert!(
            matches!(overwritten(SAID, wrong), Err(StreamError::Record { .. })),
            "{wrong:?}"
        );
    }
}

#[test]
fn unusual_page_flags_and_the_timeline_are_reported() {
    let start = Lsn::from_raw(FILE);
    let flags = [
        (start, page_flag::IMAGES_REMOVABLE | page_flag::LONG_HEADER),
        (Lsn::from_raw(FILE + 8192), 0),
    ];
    let mut writer = PageWriter::new(start, 9, 77, FILE, &flags);
    writer
        .append(record_start(start, FILE), &record(Lsn::ZERO, 9000))
        .unwrap();
    let bytes = writer.into_bytes();
    let mut decoder = StreamDecoder::new(start, None, FILE);
    decoder.push(start, &bytes).unwrap();
    assert!(decoder.next_record().unwrap().is_some());
    assert_eq!(decoder.take_page_flags(), [(Lsn::from_raw(FILE + 8192), 0)]);
    assert_eq!(decoder.take_page_flags(), []);
    assert_eq!(decoder.timeline(), 9);
}

#[test]
fn what_does_not_follow_is_refused() {
    let start = Lsn::from_raw(FILE + 8192 + 24);
    let previous = Lsn::from_raw(64);
    let mut writer = writer(start);
    writer.append(start, &record(previous, 3)).unwrap();
    let bytes = writer.into_bytes();
    let other = Lsn::from_raw(72);
    let wrong_link = StreamError::PreviousLink {
        at: start,
        found: previous,
        expected: other,
    };
    assert_eq!(decode(start, other, &bytes), Err(wrong_link));
    assert!(matches!(
        decode(start, previous, &[0; 24]),
        Err(StreamError::Record { .. })
    ));
    assert!(matches!(
        decode(start, previous, &[0xFF; 24]),
        Err(StreamError::Record { .. })
    ));
    let mut decoder = StreamDecoder::new(start, None, FILE);
    assert!(matches!(decoder.push(previous, &bytes), Err(StreamError::Gap { .. })));
}

#[test]
fn an_error_is_final() {
    let start = Lsn::from_raw(FILE + 8192 + 24);
    let mut decoder = StreamDecoder::new(start, None, FILE);
    decoder.push(start, &[0; 64]).unwrap();
    let error = decoder.next_record().unwrap_err();
    decoder.push(decoder.next_push(), &[1; 64]).unwrap();
    assert_eq!(decoder.next_record(), Err(error));
}

#[test]
fn a_page_of_another_place_is_refused() {
    let page = Lsn::from_raw(FILE + 8192);
    let header = PageHeader {
        flags: 0,
        timeline: 1,
        address: Lsn::from_raw(FILE),
        remaining_bytes: 0,
    };
    assert!(matches!(
        decode(page, Lsn::ZERO, &header.encode()),
        Err(StreamError::PageHeader { .. })
    ));
}

/// A WAL file of a cluster, and the next one with `change` made to its first header.
fn second_file(change: impl FnOnce(&mut [u8])) -> Result<Vec<Record>, StreamError> {
    let start = Lsn::from_raw(FILE);
    let first = record_start(start, FILE);
    let previous = Lsn::from_raw(64);
    let mut writer = writer(start);
    writer
        .append(first, &encode_record(0, SWITCH, 0, previous, &[]))
        .unwrap();
    let second = record_start(writer.end(), FILE);
    writer.append(second, &record(first, 3)).unwrap();
    let mut bytes = writer.into_bytes();
    change(&mut bytes[FILE as usize..]);
    decode(start, previous, &bytes)
}

#[test]
fn a_file_of_another_cluster_or_size_is_refused() {
    assert_eq!(second_file(|_| {}).map(|records| records.len()), Ok(2));
    for at in [24, 31, 34, 37] {
        let outcome = second_file(|file| file[at] ^= 1);
        assert!(matches!(outcome, Err(StreamError::PageHeader { .. })), "byte {at}");
    }
}
