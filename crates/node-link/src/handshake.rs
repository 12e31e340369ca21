//! The first words on a connection, and the frames that follow.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use wire_format::frame::{
    self, FRAME_BYTES_MAX, Frame, HELLO_BYTES_MAX, PROTOCOL_VERSION, READ_BYTES_MIN, decode_hello, decode_hello_answer,
    decode_response, encode_hello, encode_hello_answer, encode_request, take_frame,
};
use wire_format::message::{Hello, HelloAnswer};
use wire_format::{CodecError, Request, Response};

/// A piece of memory that is read into while a frame is on its way.
const READ_BYTES: usize = 64 << 10;
/// The same between frames: there are many connections, and most are silent.
const READ_BYTES_IDLE: usize = 16 << 10;

fn invalid(error: CodecError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Greets the node at the other end and waits for its welcome. A refusal is [`io::ErrorKind::PermissionDenied`] with the
/// node's reason.
pub async fn greet(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), hello: &Hello) -> io::Result<String> {
    for part in encode_hello(hello) {
        stream.write_all(&part).await?;
    }
    let mut buffer = BytesMut::new();
    let frame = read_frame(stream, &mut buffer, HELLO_BYTES_MAX).await?;
    match decode_hello_answer(frame).map_err(invalid)? {
        HelloAnswer::Welcome { name } => Ok(name),
        HelloAnswer::Refused { reason } => Err(io::Error::new(io::ErrorKind::PermissionDenied, reason)),
    }
}

/// The node's side: reads the caller's greeting, compares it with `ours` (version, cluster, secret; the secret in constant
/// time) and answers. Returns the caller's name.
pub async fn welcome(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), ours: &Hello) -> io::Result<String> {
    let mut buffer = BytesMut::new();
    let frame = read_frame(stream, &mut buffer, HELLO_BYTES_MAX).await?;
    let hello = decode_hello(frame).map_err(invalid)?;
    let refusal = refusal(&hello, ours);
    let answer = match &refusal {
        None => HelloAnswer::Welcome {
            name: ours.name.clone(),
        },
        Some(reason) => HelloAnswer::Refused { reason: reason.clone() },
    };
    for part in encode_hello_answer(&answer) {
        stream.write_all(&part).await?;
    }
    match refusal {
        None => Ok(hello.name),
        Some(reason) => Err(io::Error::new(io::ErrorKind::PermissionDenied, reason)),
    }
}

fn refusal(hello: &Hello, ours: &Hello) -> Option<String> {
    if hello.version != PROTOCOL_VERSION {
        return Some(format!(
            "it speaks protocol version {}, this node version {PROTOCOL_VERSION}",
            hello.version
        ));
    }
    // One answer for both, so that a caller without the secret learns nothing of the cluster.
    let differing = hello
        .secret
        .iter()
        .zip(&ours.secret)
        .fold(0, |differing, (one, other)| differing | (one ^ other));
    let same = differing == 0 && hello.cluster == ours.cluster;
    (!same).then(|| "it does not belong to this cluster, or its secret is wrong".to_owned())
}

/// Waits for one whole frame of at most `bytes_max` bytes.
pub async fn read_frame(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    bytes_max: usize,
) -> io::Result<Frame> {
    loop {
        if let Some(frame) = take_frame(buffer, bytes_max).map_err(invalid)? {
            return Ok(frame);
        }
        read_more(stream, buffer).await?;
    }
}

/// Reads what has come into `buffer`; an end of the stream is an error.
///
/// Frames are slices of the buffer and keep its memory, so a new piece is only begun when the old one is nearly full.
pub async fn read_more(stream: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> io::Result<()> {
    if buffer.capacity() - buffer.len() < READ_BYTES_MIN {
        buffer.reserve(if buffer.is_empty() { READ_BYTES_IDLE } else { READ_BYTES });
    }
    match stream.read_buf(buffer).await? {
        0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        _ => Ok(()),
    }
}

/// The next answer in `buffer`, with the number of its request.
pub fn take_response(buffer: &mut BytesMut) -> io::Result<Option<(u64, Response)>> {
    match take_frame(buffer, FRAME_BYTES_MAX).map_err(invalid)? {
        Some(frame) => decode_response(frame).map(Some).map_err(invalid),
        None => Ok(None),
    }
}

/// The next request in `buffer`, with its number.
pub fn take_request(buffer: &mut BytesMut) -> io::Result<Option<(u64, Request)>> {
    match take_frame(buffer, FRAME_BYTES_MAX).map_err(invalid)? {
        Some(frame) => frame::decode_request(frame).map(Some).map_err(invalid),
        None => Ok(None),
    }
}

/// A request's bytes.
pub fn request_frame(number: u64, request: &Request) -> [Bytes; 2] {
    encode_request(number, request)
}

#[cfg(test)]
mod tests {
    use units::ClusterId;

    use super::*;

    fn hello(version: u32, cluster: u8, secret: u8) -> Hello {
        Hello {
            version,
            cluster: ClusterId::from_bytes([cluster; 16]),
            secret: [secret; 32],
            name: "instance-1".to_owned(),
        }
    }

    async fn met(caller: Hello) -> (io::Result<String>, io::Result<String>) {
        let (mut near, mut far) = tokio::io::duplex(4096);
        let ours = hello(PROTOCOL_VERSION, 1, 2);
        tokio::join!(greet(&mut near, &caller), welcome(&mut far, &ours))
    }

    #[tokio::test]
    async fn only_who_speaks_our_version_and_knows_the_secret_is_welcome() {
        assert_eq!(met(hello(PROTOCOL_VERSION, 1, 2)).await.0.unwrap(), "instance-1");
        for stranger in [
            hello(PROTOCOL_VERSION, 1, 3),
            hello(PROTOCOL_VERSION, 9, 2),
            hello(77, 1, 2),
        ] {
            let (greeted, welcomed) = met(stranger).await;
            assert_eq!(greeted.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            assert_eq!(welcomed.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        }
    }
}
