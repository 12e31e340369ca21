//! What is kept of a flush header.

use bytes::Bytes;
use units::{Lsn, Position};
use wire_format::codec::{Reader, Writer};
use wire_format::log::LoggedFlush;
use wire_format::{Batch, CodecError, FlushHeader};

/// A flush header without its catalog entries, which are versions of their own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct KeptHeader {
    /// The flush before it.
    pub(crate) previous: Position,
    /// The engine's marks as of its boundary.
    pub(crate) marks: Bytes,
    pub(crate) flush: LoggedFlush,
}

impl KeptHeader {
    pub(crate) fn of(batch: &Batch, header: &FlushHeader) -> KeptHeader {
        KeptHeader {
            previous: batch.previous,
            marks: header.marks.clone(),
            flush: LoggedFlush::of(batch.end, header),
        }
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(128);
        out.position(self.previous);
        out.bytes(&self.marks);
        self.flush.write(&mut out);
        out.finish()
    }

    /// The header of the flush that ends at `end`.
    pub(crate) fn decode(bytes: Bytes, end: Lsn) -> Result<KeptHeader, CodecError> {
        let mut input = Reader::new(bytes);
        let header = KeptHeader {
            previous: input.position("previous flush")?,
            marks: input.bytes("marks")?,
            flush: LoggedFlush::read(&mut input, end)?,
        };
        input.finish()?;
        Ok(header)
    }
}
