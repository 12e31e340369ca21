//! What the walsender sends, taken apart.

use bytes::{Buf, Bytes, BytesMut};
use units::Lsn;

/// The longest message that is taken. A walsender sends at most 128 KiB of WAL at once.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
const HEADER_BYTES: usize = 5;

/// Why a connection is of no more use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The server reports an error.
    #[error("{severity}: {message} (SQLSTATE {code})")]
    Server {
        /// `ERROR`, `FATAL` or `PANIC`.
        severity: String,
        /// SQLSTATE.
        code: String,
        /// Its text.
        message: String,
    },
    /// It asks for a password.
    #[error("the server asks for authentication of kind {0}; the replication connection must be trusted")]
    Authentication(u32),
    /// A message that contradicts itself.
    #[error("malformed message of kind {0:?}")]
    Malformed(char),
    /// A message of a kind that does not belong here.
    #[error("unexpected message of kind {0:?}")]
    Unexpected(char),
    /// A message beyond the limit.
    #[error("a message of {0} bytes is longer than any that a walsender sends")]
    TooLong(usize),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Commands may be sent.
    Ready,
    /// A row of a command's answer.
    Row(Vec<Option<Bytes>>),
    /// The stream begins.
    StreamStarted,
    /// WAL from `start` on.
    Wal {
        /// Position of the first byte.
        start: Lsn,
        /// The bytes.
        bytes: Bytes,
    },
    /// A sign of life.
    Keepalive {
        /// The server's end of WAL.
        end: Lsn,
        /// It wants a status update at once.
        reply_requested: bool,
    },
    /// The server ended the stream.
    StreamEnded,
    /// Something for the log.
    Notice(String),
}

/// Bytes received and not understood yet.
#[derive(Default, Debug)]
pub struct Client {
    buffer: BytesMut,
}

impl Client {
    /// A client that has received nothing.
    pub fn new() -> Client {
        Client::default()
    }

    /// The buffer that received bytes are appended to.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next event; `None`: more bytes are needed.
    pub fn next_event(&mut self) -> Result<Option<Event>, ProtocolError> {
        while let Some((kind, body)) = self.next_message()? {
            if let Some(event) = event(kind, body)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn next_message(&mut self) -> Result<Option<(u8, Bytes)>, ProtocolError> {
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let kind = header[0];
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if length < 4 {
            return Err(ProtocolError::Malformed(char::from(kind)));
        }
        if MESSAGE_BYTES_MAX < length {
            return Err(ProtocolError::TooLong(length));
        }
        if self.buffer.len() < 1 + length {
            self.buffer.reserve(1 + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        Ok(Some((kind, self.buffer.split_to(length - 4).freeze())))
    }
}

fn event(kind: u8, body: Bytes) -> Result<Option<Event>, ProtocolError> {
    let malformed = ProtocolError::Malformed(char::from(kind));
    Ok(match kind {
        b'R' => {
            let mut body = body;
            match body.try_get_u32().map_err(|_| malformed)? {
                0 => None,
                other => return Err(ProtocolError::Authentication(other)),
            }
        }
        b'Z' => Some(Event::Ready),
        b'D' => Some(Event::Row(row(body).ok_or(malformed)?)),
        b'W' => Some(Event::StreamStarted),
        b'c' => Some(Event::StreamEnded),
        b'd' => Some(copied(body).ok_or(malformed)?),
        b'E' => {
            let fields = fields(&body);
            let field = |code: u8| {
                fields
                    .iter()
                    .find(|(known, _)| *known == code)
                    .map_or(String::new(), |(_, text)| text.clone())
            };
            return Err(ProtocolError::Server {
                severity: field(b'S'),
                code: field(b'C'),
                message: field(b'M'),
            });
        }
        b'N' => {
            let message = fields(&body).into_iter().find(|(code, _)| *code == b'M');
            message.map(|(_, text)| Event::Notice(text))
        }
        // Parameters, the cancel key, a row's description, a command's end: nothing to act on.
        b'S' | b'K' | b'T' | b'C' | b'A' => None,
        other => return Err(ProtocolError::Unexpected(char::from(other))),
    })
}

fn row(mut body: Bytes) -> Option<Vec<Option<Bytes>>> {
    let count = body.try_get_u16().ok()?;
    let mut columns = Vec::new();
    for _ in 0..count {
        let length = body.try_get_i32().ok()?;
        columns.push(match usize::try_from(length) {
            Ok(length) if length <= body.len() => Some(body.split_to(length)),
            Ok(_) => return None,
            Err(_) => None,
        });
    }
    Some(columns)
}

/// `XLogData` and primary keepalive.
fn copied(mut body: Bytes) -> Option<Event> {
    match body.try_get_u8().ok()? {
        b'w' => {
            let start = Lsn::from_raw(body.try_get_u64().ok()?);
            // The server's end of WAL and its clock.
            body.try_get_u64().ok()?;
            body.try_get_u64().ok()?;
            Some(Event::Wal { start, bytes: body })
        }
        b'k' => {
            let end = Lsn::from_raw(body.try_get_u64().ok()?);
            body.try_get_u64().ok()?;
            let reply_requested = body.try_get_u8().ok()? != 0;
            Some(Event::Keepalive { end, reply_requested })
        }
        _ => None,
    }
}

/// The fields of an error or a notice: a code, then text up to a zero byte.
fn fields(body: &[u8]) -> Vec<(u8, String)> {
    let parts = body.split(|byte| *byte == 0).filter_map(|part| part.split_first());
    parts
        .map(|(code, text)| (*code, String::from_utf8_lossy(text).into_owned()))
        .collect()
}
