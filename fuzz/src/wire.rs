//! Bytes in flight: frames, messages, batches, what backends ask of their instance process; and two records that are kept.

use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use segment::SegmentState;
use volume::record::VolumeRecord;
use wire_format::broker::{ANSWER_HEADER_BYTES, AnswerHeader, BrokerRequest, FORK_SIZE_BYTES, ForkSize, REQUEST_BYTES};
use wire_format::frame::{self, FRAME_BYTES_MAX, Frame, HELLO_BYTES_MAX};
use wire_format::{Batch, CatalogKey, CodecError};

use crate::input::Input;

/// A connection that carries any bytes, in pieces, to each side of it.
pub(crate) fn frames(data: &[u8]) {
    let mut input = Input::new(data);
    let piece = usize::from(input.u8()) + 1;
    let bytes_max = if input.u8().is_multiple_of(2) {
        FRAME_BYTES_MAX
    } else {
        HELLO_BYTES_MAX
    };
    let mut buffer = BytesMut::new();
    for bytes in input.rest().chunks(piece) {
        buffer.extend_from_slice(bytes);
        loop {
            match frame::take_frame(&mut buffer, bytes_max) {
                Ok(Some(frame)) => read(frame),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// Everything that a frame may be taken for.
fn read(frame: Frame) {
    if let Ok(hello) = frame::decode_hello(frame.clone()) {
        reads_back(&hello, frame::encode_hello(&hello), frame::decode_hello);
    }
    if let Ok(answer) = frame::decode_hello_answer(frame.clone()) {
        reads_back(&answer, frame::encode_hello_answer(&answer), frame::decode_hello_answer);
    }
    if let Ok(request) = frame::decode_request(frame.clone()) {
        let encoded = frame::encode_request(request.0, &request.1);
        reads_back(&request, encoded, frame::decode_request);
    }
    if let Ok(response) = frame::decode_response(frame) {
        let encoded = frame::encode_response(response.0, &response.1);
        reads_back(&response, encoded, frame::decode_response);
    }
}

fn reads_back<T: PartialEq + Debug>(value: &T, encoded: [Bytes; 2], decode: impl Fn(Frame) -> Result<T, CodecError>) {
    let mut buffer = BytesMut::new();
    encoded.iter().for_each(|part| buffer.extend_from_slice(part));
    let frame = frame::take_frame(&mut buffer, FRAME_BYTES_MAX);
    let frame = frame.expect("we encoded it").expect("it is whole");
    assert_eq!(decode(frame).as_ref(), Ok(value), "what was encoded reads back");
    assert!(buffer.is_empty(), "nothing follows it");
}

/// One message of any bytes, sealed: a head and, for appends, a sealed batch.
pub(crate) fn messages(data: &[u8]) {
    let mut input = Input::new(data);
    let head = input.part();
    let attachment = sealed(input.rest());
    for attachment in [&attachment[..], &[]] {
        let total = (head.len() + attachment.len()) as u32;
        let mut buffer = BytesMut::new();
        buffer.extend_from_slice(&total.to_le_bytes());
        buffer.extend_from_slice(&(head.len() as u32).to_le_bytes());
        buffer.extend_from_slice(&crc32c::crc32c(head).to_le_bytes());
        buffer.extend_from_slice(head);
        buffer.extend_from_slice(attachment);
        let frame = frame::take_frame(&mut buffer, FRAME_BYTES_MAX);
        read(frame.expect("it is sealed").expect("it is whole"));
    }
}

/// The bytes behind which the checksum of a batch stands.
pub(crate) fn sealed(body: &[u8]) -> Vec<u8> {
    [body, &crc32c::crc32c(body).to_le_bytes()].concat()
}

/// A batch of any bytes, as it is and sealed.
pub(crate) fn batch(data: &[u8]) {
    for bytes in [data.to_vec(), sealed(data)] {
        if let Ok(batch) = Batch::decode(bytes.into()) {
            assert_eq!(Batch::decode(batch.encode()), Ok(batch), "what was encoded reads back");
        }
    }
}

/// What backends and their instance process say to each other, and the names in the catalog.
pub(crate) fn broker(data: &[u8]) {
    if let Some(Ok(request)) = data.first_chunk::<REQUEST_BYTES>().map(BrokerRequest::decode) {
        assert_eq!(BrokerRequest::decode(&request.encode()), Ok(request));
    }
    if let Some(Ok(answer)) = data.first_chunk::<ANSWER_HEADER_BYTES>().map(AnswerHeader::decode) {
        assert_eq!(AnswerHeader::decode(&answer.encode()), Ok(answer));
    }
    if let Some(bytes) = data.first_chunk::<FORK_SIZE_BYTES>()
        && let Some(size) = ForkSize::decode(bytes)
    {
        assert_eq!(size.encode(), *bytes);
    }
    if let Some(Some(size)) = data.first_chunk::<FORK_SIZE_BYTES>().map(ForkSize::decode) {
        assert_eq!(ForkSize::decode(&size.encode()), Some(size));
    }
    if let Ok(key) = CatalogKey::decode(data) {
        assert_eq!(key.encode(), data, "a key has one encoding, or its order would lie");
    }
}

/// What a segment keeps in the journal.
pub(crate) fn segment_state(data: &[u8]) {
    if let Ok(state) = SegmentState::decode(Bytes::copy_from_slice(data)) {
        assert_eq!(SegmentState::decode(state.encode()), Ok(state));
    }
}

/// What the metadata store keeps of a volume.
pub(crate) fn volume_record(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(record) = VolumeRecord::parse(text) {
        let _ = (record.path(), record.last());
        assert_eq!(VolumeRecord::parse(&record.to_text()).as_ref(), Ok(&record));
    }
}
