//! The log: the stream, its records, what they mean.

use units::Lsn;
use wal::{
    DecodedRecord, Marks, PageWriter, StreamDecoder, encode_record, record_end, record_start, state_changes, touches,
};

use crate::input::Input;
use crate::seeds::WORKLOAD_START;

/// WAL files of 1 MiB, the smallest: their ends are soon reached.
const WAL_FILE_BYTES: u64 = 1 << 20;
/// Where laid out records begin: a page before the end of a file.
const START: Lsn = Lsn::from_raw(2 * WAL_FILE_BYTES - 8192);

/// A stream of any bytes, in pieces of any size.
pub(crate) fn stream(data: &[u8]) {
    let mut input = Input::new(data);
    let (start, piece) = (u64::from(input.u16()), usize::from(input.u8()) + 1);
    let mut decoder = StreamDecoder::new(WORKLOAD_START.advanced_by(start), None, WAL_FILE_BYTES);
    let mut previous_end = Lsn::ZERO;
    'pieces: for bytes in input.rest().chunks(piece * 16) {
        decoder
            .push(decoder.next_push(), bytes)
            .expect("it continues the bytes before");
        loop {
            match decoder.next_record() {
                Ok(Some(record)) => {
                    assert!(previous_end <= record.start && record.start < record.end);
                    previous_end = record.end;
                    record_of(&record.bytes);
                }
                Ok(None) => break,
                Err(_) => break 'pieces,
            }
        }
    }
    let _ = decoder.take_page_flags();
}

/// Records of any kind with any main data, laid out on pages: what is read back must be what was written.
pub(crate) fn layout(data: &[u8]) {
    let mut input = Input::new(data);
    let mut end = START.advanced_by(u64::from(input.u8()) * 8 * 32);
    let mut writer = PageWriter::new(end, 1, 7, WAL_FILE_BYTES, &[]);
    let mut decoder = StreamDecoder::new(end, None, WAL_FILE_BYTES);
    let (mut written, mut previous) = (Vec::new(), Lsn::ZERO);
    while !input.is_empty() && written.len() < 64 {
        let (manager, info) = (input.u8() % 22, input.u8());
        // Parts are short; repeated they span pages.
        let repeat = usize::from(input.u8()) + 1;
        let part = input.part();
        let data = part.repeat(repeat.min(20_000 / part.len().max(1) + 1));
        let record = encode_record(manager, info, u32::from(info), previous, &data);
        let start = record_start(end, WAL_FILE_BYTES);
        writer
            .append(start, &record)
            .expect("it begins where the last one ended");
        (previous, end) = (start, writer.end());
        written.push((start, record));
    }
    decoder
        .push(decoder.next_push(), &writer.into_bytes())
        .expect("it is the first piece");
    let mut read = Vec::new();
    while let Some(record) = decoder.next_record().expect("it was written by us") {
        assert_eq!(record.end, record_end_of(&record.bytes, record.start));
        read.push((record.start, record.bytes.to_vec()));
    }
    assert_eq!(read, written);
}

/// Where a record ends, computed the other way. After a switch record, that is the end of the file.
fn record_end_of(record: &[u8], start: Lsn) -> Lsn {
    let header = wal::RecordHeader::decode(record).expect("it was decoded");
    let end = record_end(start, record.len() as u64, WAL_FILE_BYTES);
    if header.is_switch() {
        return Lsn::from_raw(end.raw().next_multiple_of(WAL_FILE_BYTES));
    }
    end
}

/// One record, as it is and under its true length.
pub(crate) fn record(data: &[u8]) {
    record_of(data);
    if wal::RECORD_HEADER_BYTES <= data.len() {
        let mut data = data.to_vec();
        let length = data.len() as u32;
        data[..4].copy_from_slice(&length.to_le_bytes());
        record_of(&data);
    }
}

/// Everything that reads a record.
fn record_of(bytes: &[u8]) {
    let Ok(record) = DecodedRecord::decode(bytes) else {
        return;
    };
    let (mut pages, mut changes) = (Vec::new(), Vec::new());
    let _ = record.kind().map(|kind| kind.to_string());
    let _ = touches(&record, &mut pages);
    let _ = state_changes(&record, &mut changes);
    let mut marks = Marks::default();
    let before = marks;
    if marks.advance(&record, Lsn::from_raw(8), Lsn::from_raw(16)).is_err() {
        assert_eq!(marks, before, "marks are advanced whole or not at all");
    }
    let mut encoded = Vec::new();
    marks.encode(&mut encoded);
    assert_eq!(Marks::decode(&encoded), Ok(marks));
}

/// The engine's counters.
pub(crate) fn marks(data: &[u8]) {
    let Ok(marks) = Marks::decode(data) else {
        return;
    };
    let mut encoded = Vec::new();
    marks.encode(&mut encoded);
    assert_eq!(Marks::decode(&encoded), Ok(marks));
}
