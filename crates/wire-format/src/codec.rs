//! Reading and writing the elements of messages and of small records on disk: bounded, total, without copying the large
//! parts. `of` names the element in an error.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use units::{Epoch, Lsn, PAGE_BYTES, Page, PageKey, RelationKey};

/// Bytes that are no message, or one that exceeds a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// It ends before what it announced.
    #[error("message ends inside its {0}")]
    Short(&'static str),
    /// Something follows its end.
    #[error("{0} bytes follow the end of the message")]
    Trailing(usize),
    /// An element has a value that it cannot have.
    #[error("message has a malformed {0}")]
    Malformed(&'static str),
    /// The bytes are not what was sent.
    #[error("checksum is {found:08x}, should be {computed:08x}")]
    Checksum {
        /// As sent.
        found: u32,
        /// As computed.
        computed: u32,
    },
    /// Another version of the format.
    #[error("format version {found}, this build speaks {spoken}")]
    Version {
        /// The message's.
        found: u8,
        /// Ours.
        spoken: u8,
    },
}

/// Bytes still to be read. Large parts are taken as slices of the same allocation.
pub struct Reader {
    bytes: Bytes,
}

#[allow(missing_docs, reason = "one function an element, named after it")]
impl Reader {
    pub fn new(bytes: Bytes) -> Reader {
        Reader { bytes }
    }

    pub fn finish(self) -> Result<(), CodecError> {
        if self.bytes.is_empty() {
            Ok(())
        } else {
            Err(CodecError::Trailing(self.bytes.len()))
        }
    }

    pub fn remaining(&self) -> usize {
        self.bytes.len()
    }

    pub fn take(&mut self, count: usize, of: &'static str) -> Result<Bytes, CodecError> {
        if self.bytes.len() < count {
            return Err(CodecError::Short(of));
        }
        Ok(self.bytes.split_to(count))
    }

    pub fn array<const COUNT: usize>(&mut self, of: &'static str) -> Result<[u8; COUNT], CodecError> {
        let array = *self.bytes.first_chunk::<COUNT>().ok_or(CodecError::Short(of))?;
        self.bytes.advance(COUNT);
        Ok(array)
    }

    pub fn u8(&mut self, of: &'static str) -> Result<u8, CodecError> {
        Ok(self.array::<1>(of)?[0])
    }

    pub fn bool(&mut self, of: &'static str) -> Result<bool, CodecError> {
        match self.u8(of)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(CodecError::Malformed(of)),
        }
    }

    /// Seven bits a byte, lowest first; at most ten bytes.
    pub fn varint(&mut self, of: &'static str) -> Result<u64, CodecError> {
        let mut value = 0u64;
        for (at, byte) in self.bytes.iter().enumerate().take(10) {
            let bits = u64::from(byte & 0x7F);
            if at == 9 && 1 < bits {
                return Err(CodecError::Malformed(of));
            }
            value |= bits << (7 * at);
            if byte & 0x80 == 0 {
                self.bytes.advance(at + 1);
                return Ok(value);
            }
        }
        Err(if self.bytes.len() < 10 {
            CodecError::Short(of)
        } else {
            CodecError::Malformed(of)
        })
    }

    pub fn u32(&mut self, of: &'static str) -> Result<u32, CodecError> {
        u32::try_from(self.varint(of)?).map_err(|_| CodecError::Malformed(of))
    }

    pub fn u16(&mut self, of: &'static str) -> Result<u16, CodecError> {
        u16::try_from(self.varint(of)?).map_err(|_| CodecError::Malformed(of))
    }

    /// A number of elements of at least `element_bytes_min` bytes each: more than can follow is refused before anything
    /// is allocated.
    pub fn count(&mut self, element_bytes_min: usize, of: &'static str) -> Result<usize, CodecError> {
        let count = self.varint(of)?;
        let limit = (self.remaining() / element_bytes_min.max(1)) as u64;
        if limit < count {
            return Err(CodecError::Short(of));
        }
        Ok(count as usize)
    }

    /// Bytes behind their length.
    pub fn bytes(&mut self, of: &'static str) -> Result<Bytes, CodecError> {
        let count = self.count(1, of)?;
        self.take(count, of)
    }

    pub fn lsn(&mut self, of: &'static str) -> Result<Lsn, CodecError> {
        Ok(Lsn::from_raw(self.varint(of)?))
    }

    pub fn epoch(&mut self, of: &'static str) -> Result<Epoch, CodecError> {
        Ok(Epoch::from_raw(self.varint(of)?))
    }

    /// A position `delta` from `base`, as [`Writer::lsn_near`] writes it.
    pub fn lsn_near(&mut self, base: Lsn, of: &'static str) -> Result<Lsn, CodecError> {
        let zigzag = self.varint(of)?;
        let delta = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
        Ok(Lsn::from_raw(base.raw().wrapping_add_signed(delta)))
    }

    pub fn page_key(&mut self, of: &'static str) -> Result<PageKey, CodecError> {
        let relation = RelationKey {
            tablespace: self.u32(of)?,
            database: self.u32(of)?,
            relation: self.u32(of)?,
        };
        let fork = relation.fork(self.u8(of)?);
        Ok(fork.page(self.u32(of)?))
    }

    pub fn page(&mut self) -> Result<Page, CodecError> {
        let bytes = self.take(PAGE_BYTES, "page")?;
        Page::from_bytes(&bytes).ok_or(CodecError::Short("page"))
    }
}

/// A message under construction.
#[derive(Default)]
pub struct Writer {
    bytes: BytesMut,
}

#[allow(missing_docs, reason = "one function an element, named after it")]
impl Writer {
    pub fn with_capacity(bytes: usize) -> Writer {
        Writer {
            bytes: BytesMut::with_capacity(bytes),
        }
    }

    pub fn finish(self) -> Bytes {
        self.bytes.freeze()
    }

    /// What was written, in no more memory than it takes: for what is kept.
    pub fn finish_to_keep(self) -> Bytes {
        Vec::from(self.bytes).into_boxed_slice().into()
    }

    pub fn written(&self) -> &[u8] {
        &self.bytes
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.put_slice(bytes);
    }

    pub fn u8(&mut self, value: u8) {
        self.bytes.put_u8(value);
    }

    pub fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    pub fn varint(&mut self, mut value: u64) {
        while 0x80 <= value {
            self.bytes.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.put_u8(value as u8);
    }

    pub fn count(&mut self, count: usize) {
        self.varint(count as u64);
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }

    pub fn lsn(&mut self, lsn: Lsn) {
        self.varint(lsn.raw());
    }

    pub fn epoch(&mut self, epoch: Epoch) {
        self.varint(epoch.raw());
    }

    /// A position as its distance from `base`, so that neighbours take one or two bytes.
    pub fn lsn_near(&mut self, lsn: Lsn, base: Lsn) {
        let delta = lsn.raw().wrapping_sub(base.raw()) as i64;
        self.varint((delta << 1) as u64 ^ (delta >> 63) as u64);
    }

    pub fn page_key(&mut self, key: PageKey) {
        let relation = key.fork.relation;
        for number in [relation.tablespace, relation.database, relation.relation] {
            self.varint(u64::from(number));
        }
        self.u8(key.fork.fork);
        self.varint(u64::from(key.block));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_back_at_their_edges() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut writer = Writer::default();
            writer.varint(value);
            writer.lsn_near(Lsn::from_raw(value), Lsn::from_raw(1000));
            let mut reader = Reader::new(writer.finish());
            assert_eq!(reader.varint("value"), Ok(value));
            assert_eq!(reader.lsn_near(Lsn::from_raw(1000), "value"), Ok(Lsn::from_raw(value)));
            assert_eq!(reader.finish(), Ok(()));
        }
    }

    #[test]
    fn a_count_larger_than_what_follows_is_refused_before_anything_is_allocated() {
        let mut writer = Writer::default();
        writer.varint(u64::MAX);
        assert_eq!(
            Reader::new(writer.finish()).bytes("value"),
            Err(CodecError::Short("value"))
        );
        let eleven = Bytes::from_static(&[0xFF; 11]);
        assert_eq!(Reader::new(eleven).varint("value"), Err(CodecError::Malformed("value")));
    }
}
