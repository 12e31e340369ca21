//! How messages follow each other on a connection.
//!
//! A frame is a head with its own checksum, and an attachment: the bytes of a batch, or of blocks of layers, which carry
//! theirs. So one encoded batch is shared by six sends, its checksum is computed once, and what comes from a layer is sent as
//! it was read. The layout is in `docs/formats/wire.md`.

use bytes::{Buf, Bytes, BytesMut};

use crate::codec::{CodecError, Reader, Writer};
use crate::message::{Hello, HelloAnswer, Request, Response};

/// Version of the protocol between instances, nodes and peers.
pub const PROTOCOL_VERSION: u32 = 7;
/// The longest frame that is taken, in bytes.
pub const FRAME_BYTES_MAX: usize = 64 << 20;
/// The longest batch that is sent: it fits a frame, also as the only one in a peer's answer.
pub const BATCH_BYTES_MAX: usize = FRAME_BYTES_MAX - (64 << 10);
/// The longest first frame, before the caller has proved that it belongs to the cluster.
pub const HELLO_BYTES_MAX: usize = 4096;
const HEADER_BYTES: usize = 12;

/// One frame's parts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    head: Bytes,
    attachment: Bytes,
}

/// Takes the first whole frame off `buffer`; `None`: more bytes are needed. A frame longer than `bytes_max` is an error
/// as soon as its length is read.
pub fn take_frame(buffer: &mut BytesMut, bytes_max: usize) -> Result<Option<Frame>, CodecError> {
    let Some(header) = buffer.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (total, head_bytes, found) = (number(0) as usize, number(4) as usize, number(8));
    if bytes_max < total || total < head_bytes {
        return Err(CodecError::Malformed("frame length"));
    }
    if buffer.len() < HEADER_BYTES + total {
        make_room(buffer, HEADER_BYTES + total);
        return Ok(None);
    }
    buffer.advance(HEADER_BYTES);
    let mut head = buffer.split_to(total).freeze();
    let attachment = head.split_off(head_bytes);
    let computed = crc32c::crc32c(&head);
    if found != computed {
        return Err(CodecError::Checksum { found, computed });
    }
    Ok(Some(Frame { head, attachment }))
}

/// Whoever reads into a buffer makes it larger once it has less room than that.
pub const READ_BYTES_MIN: usize = 8 << 10;

/// Room for a frame of which the first bytes are there. A large one gets memory of its own that it fills: what is made of a frame
/// keeps that memory, and a buffer that grows as it likes takes up to twice as much.
fn make_room(buffer: &mut BytesMut, bytes: usize) {
    const LARGE: usize = 64 << 10;
    if bytes < LARGE {
        buffer.reserve(bytes - buffer.len());
    } else if buffer.capacity() < bytes {
        let mut whole = BytesMut::with_capacity(bytes + READ_BYTES_MIN);
        whole.extend_from_slice(buffer);
        *buffer = whole;
    }
}

/// The frame's bytes in two parts, to be sent one after the other.
fn frame(head: Writer, attachment: Bytes) -> [Bytes; 2] {
    let head = head.finish();
    let mut out = Writer::with_capacity(HEADER_BYTES + head.len());
    out.raw(&((head.len() + attachment.len()) as u32).to_le_bytes());
    out.raw(&(head.len() as u32).to_le_bytes());
    out.raw(&crc32c::crc32c(&head).to_le_bytes());
    out.raw(&head);
    [out.finish(), attachment]
}

/// A request as a frame. `number` comes back with the answer.
pub fn encode_request(number: u64, request: &Request) -> [Bytes; 2] {
    let mut head = Writer::with_capacity(64);
    head.varint(number);
    request.write(&mut head);
    let attachment = match request {
        Request::Append { batch, .. } => batch.bytes().clone(),
        _ => Bytes::new(),
    };
    frame(head, attachment)
}

/// The request in a frame, with its number.
pub fn decode_request(frame: Frame) -> Result<(u64, Request), CodecError> {
    let mut input = Reader::new(frame.head);
    let number = input.varint("request number")?;
    let request = Request::read(&mut input, frame.attachment)?;
    input.finish()?;
    Ok((number, request))
}

/// An answer as a frame.
pub fn encode_response(number: u64, response: &Response) -> [Bytes; 2] {
    let mut head = Writer::with_capacity(64);
    head.varint(number);
    response.write(&mut head);
    let attachment = match response {
        Response::Versions(versions) => versions.content.clone(),
        _ => Bytes::new(),
    };
    frame(head, attachment)
}

/// The answer in a frame, with the number of its request.
pub fn decode_response(frame: Frame) -> Result<(u64, Response), CodecError> {
    let mut input = Reader::new(frame.head);
    let number = input.varint("request number")?;
    let response = Response::read(&mut input, frame.attachment)?;
    input.finish()?;
    Ok((number, response))
}

/// The first message as a frame.
pub fn encode_hello(hello: &Hello) -> [Bytes; 2] {
    let mut head = Writer::with_capacity(128);
    hello.write(&mut head);
    frame(head, Bytes::new())
}

/// The first message in a frame. Of a caller that speaks another version, only the version is read.
pub fn decode_hello(frame: Frame) -> Result<Hello, CodecError> {
    Hello::read(Reader::new(frame.head))
}

/// The answer to the first message as a frame.
pub fn encode_hello_answer(answer: &HelloAnswer) -> [Bytes; 2] {
    let mut head = Writer::with_capacity(64);
    answer.write(&mut head);
    frame(head, Bytes::new())
}

/// The answer to the first message in a frame.
pub fn decode_hello_answer(frame: Frame) -> Result<HelloAnswer, CodecError> {
    let mut input = Reader::new(frame.head);
    let answer = HelloAnswer::read(&mut input)?;
    input.finish()?;
    Ok(answer)
}
