//! New multixacts: `xl_multixact_create`.

use crate::fields::Fields;
use crate::{DecodedRecord, RecordError, resource_manager};

const CREATE_ID: u8 = 0x20;
const MEMBER_BYTES: usize = 8;

/// A multixact and its members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MultixactCreation<'a> {
    /// Its number.
    pub multixact: u32,
    /// Where its members begin.
    pub offset: u32,
    members: &'a [u8],
}

/// One member of a multixact.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MultixactMember {
    /// Who.
    pub transaction: u32,
    /// `MultiXactStatus`: what lock it holds, or that it updated.
    pub status: u32,
}

impl<'a> MultixactCreation<'a> {
    /// `None` if the record does not make a multixact.
    pub fn of(record: &DecodedRecord<'a>) -> Result<Option<MultixactCreation<'a>>, RecordError> {
        if record.header.resource_manager != resource_manager::MULTIXACT || record.operation() != CREATE_ID {
            return Ok(None);
        }
        let mut fields = Fields::new(record.kind()?, record.data);
        Ok(Some(MultixactCreation {
            multixact: fields.u32("number")?,
            offset: fields.u32("offset")?,
            members: fields.counted(MEMBER_BYTES, "members")?,
        }))
    }

    /// Its members in the order of their offsets.
    pub fn members(&self) -> impl ExactSizeIterator<Item = MultixactMember> + Clone + 'a {
        let number = |four: &[u8]| u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
        self.members
            .chunks_exact(MEMBER_BYTES)
            .map(move |member| MultixactMember {
                transaction: number(&member[..4]),
                status: number(&member[4..]),
            })
    }

    /// Where the members of the next multixact begin. The counter wraps around, and what `RecordNewMultiXact` writes
    /// down for zero is one; this is the counter.
    pub fn next_offset(&self) -> u32 {
        self.offset.wrapping_add(self.members().len() as u32)
    }
}
