//! Reads the main data of a record field by field, every length checked.

use units::{Lsn, RelationKey};

use crate::{Kind, RecordError};

pub(crate) struct Fields<'a> {
    rest: &'a [u8],
    kind: Kind,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(kind: Kind, data: &'a [u8]) -> Fields<'a> {
        Fields { rest: data, kind }
    }

    pub(crate) fn malformed(&self, what: &'static str) -> RecordError {
        RecordError::Malformed { kind: self.kind, what }
    }

    pub(crate) fn bytes(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], RecordError> {
        let short = RecordError::Short { kind: self.kind, field };
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const LENGTH: usize>(&mut self, field: &'static str) -> Result<[u8; LENGTH], RecordError> {
        let mut array = [0; LENGTH];
        array.copy_from_slice(self.bytes(LENGTH, field)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, RecordError> {
        Ok(self.array::<1>(field)?[0])
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, RecordError> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, RecordError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, RecordError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn i64(&mut self, field: &'static str) -> Result<i64, RecordError> {
        Ok(i64::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn lsn(&mut self, field: &'static str) -> Result<Lsn, RecordError> {
        Ok(Lsn::from_raw(self.u64(field)?))
    }

    /// `RelFileNode`.
    pub(crate) fn relation(&mut self) -> Result<RelationKey, RecordError> {
        Ok(RelationKey {
            tablespace: self.u32("relation")?,
            database: self.u32("relation")?,
            relation: self.u32("relation")?,
        })
    }

    /// `count` elements of `element_bytes` each.
    pub(crate) fn elements(
        &mut self,
        count: u32,
        element_bytes: usize,
        field: &'static str,
    ) -> Result<&'a [u8], RecordError> {
        let length = (count as usize).checked_mul(element_bytes);
        let length = length.ok_or(self.malformed("a count is larger than any record"))?;
        self.bytes(length, field)
    }

    /// A number of elements, then so many of `element_bytes` each.
    pub(crate) fn counted(&mut self, element_bytes: usize, field: &'static str) -> Result<&'a [u8], RecordError> {
        let count = self.u32(field)?;
        self.elements(count, element_bytes, field)
    }

    /// Skips what fills an object of `length` bytes up to a multiple of eight.
    pub(crate) fn align(&mut self, length: usize, field: &'static str) -> Result<(), RecordError> {
        self.bytes(length.next_multiple_of(8) - length, field).map(|_| ())
    }

    /// Up to the next zero byte, which is passed.
    pub(crate) fn terminated(&mut self, field: &'static str) -> Result<&'a [u8], RecordError> {
        let short = RecordError::Short { kind: self.kind, field };
        let length = self.rest.iter().position(|byte| *byte == 0).ok_or(short)?;
        let text = self.bytes(length, field)?;
        self.u8(field)?;
        Ok(text)
    }
}

/// The 32-bit numbers in `bytes`.
pub(crate) fn u32s(bytes: &[u8]) -> impl DoubleEndedIterator<Item = u32> + ExactSizeIterator + Clone + '_ {
    bytes
        .chunks_exact(4)
        .map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
}

/// The relations in `bytes`, an array of `RelFileNode`.
pub(crate) fn relations(bytes: &[u8]) -> impl Iterator<Item = RelationKey> + '_ {
    let number = |four: &[u8]| u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
    bytes.chunks_exact(12).map(move |twelve| RelationKey {
        tablespace: number(&twelve[0..4]),
        database: number(&twelve[4..8]),
        relation: number(&twelve[8..12]),
    })
}
