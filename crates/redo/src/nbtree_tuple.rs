//! Index tuples of a btree: pivots, plain ones, posting lists. Follows `access/nbtree.h` and `nbtdedup.c`.

use crate::bufpage::aligned;
use crate::fault::{Fault, slice_at, u16_at};

/// `sizeof(IndexTupleData)`: a tuple id and `t_info`.
const HEADER_BYTES: usize = 8;
const TUPLE_ID_BYTES: usize = 6;
const INFO_AT: usize = 6;
const NUMBER_AT: usize = 4;
const SIZE_MASK: u16 = 0x1FFF;
/// `INDEX_ALT_TID_MASK`: the tuple id means something else.
const ALTERNATIVE_ID: u16 = 0x2000;
/// `BT_IS_POSTING`, and what of the offset number is left for the count.
const IS_POSTING: u16 = 0x2000;
const COUNT_MASK: u16 = 0x0FFF;
/// `BTMaxItemSizeNoHeapTid`: a third of a page.
const TUPLE_BYTES_MAX: usize = 2712;

const SHORT: Fault = Fault::Mismatch("an index tuple is shorter than it says");
const LONG: Fault = Fault::Mismatch("an index tuple is longer than any can be");

/// An index tuple where it lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct IndexTuple<'a>(&'a [u8]);

impl<'a> IndexTuple<'a> {
    /// The tuple at the head of `bytes`, as long as it says it is.
    #[inline]
    pub(crate) fn at_head(bytes: &'a [u8]) -> Result<IndexTuple<'a>, Fault> {
        let size = usize::from(u16_at(bytes, INFO_AT)? & SIZE_MASK);
        if size < HEADER_BYTES {
            return Err(SHORT);
        }
        Ok(IndexTuple(slice_at(bytes, 0, size).map_err(|_| SHORT)?))
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.0
    }

    #[inline]
    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    fn info(&self) -> u16 {
        self.u16(INFO_AT)
    }

    /// The block number of its tuple id: of a pivot the page below, of a posting list where the list begins.
    pub(crate) fn block(&self) -> u32 {
        u32::from(self.u16(0)) << 16 | u32::from(self.u16(2))
    }

    fn is_posting(&self) -> bool {
        self.info() & ALTERNATIVE_ID != 0 && self.u16(NUMBER_AT) & IS_POSTING != 0
    }

    /// Its heap tuple ids, one behind the other.
    pub(crate) fn tuple_ids(&self) -> Result<&'a [u8], Fault> {
        if !self.is_posting() {
            return Ok(&self.0[..TUPLE_ID_BYTES]);
        }
        let count = usize::from(self.u16(NUMBER_AT) & COUNT_MASK);
        let at = self.block() as usize;
        slice_at(self.0, at, TUPLE_ID_BYTES * count).map_err(|_| SHORT)
    }

    /// `_bt_form_posting`: the key of this tuple with these heap tuple ids.
    pub(crate) fn with_tuple_ids(&self, ids: &TupleIds) -> Result<NewTuple, Fault> {
        let ids = ids.bytes();
        let key_bytes = if self.is_posting() {
            self.block() as usize
        } else {
            self.0.len()
        };
        let key = slice_at(self.0, 0, key_bytes).map_err(|_| SHORT)?;
        if key_bytes < HEADER_BYTES || ids.len() < TUPLE_ID_BYTES {
            return Err(SHORT);
        }
        let single = ids.len() == TUPLE_ID_BYTES;
        let size = if single {
            key_bytes
        } else {
            aligned(key_bytes + ids.len())
        };
        let mut tuple = NewTuple::of(key)?;
        tuple.grow(size)?;
        let info = self.info() & !SIZE_MASK | size as u16;
        if single {
            tuple.bytes[..TUPLE_ID_BYTES].copy_from_slice(ids);
            tuple.set_info(info & !ALTERNATIVE_ID);
        } else {
            tuple.set_block(key_bytes as u32);
            tuple.set_u16(NUMBER_AT, (ids.len() / TUPLE_ID_BYTES) as u16 | IS_POSTING);
            tuple.set_info(info | ALTERNATIVE_ID);
            tuple.bytes[key_bytes..key_bytes + ids.len()].copy_from_slice(ids);
        }
        Ok(tuple)
    }

    /// `_bt_update_posting`: the posting list without the ids at these places, which rise.
    pub(crate) fn without(&self, mut gone: impl Iterator<Item = u16>) -> Result<NewTuple, Fault> {
        if !self.is_posting() {
            return Err(Fault::Mismatch("the tuple to be shortened is no posting list"));
        }
        let mut next = gone.next();
        let mut left = TupleIds::default();
        for (at, id) in self.tuple_ids()?.chunks_exact(TUPLE_ID_BYTES).enumerate() {
            if next == Some(at as u16) {
                next = gone.next();
            } else {
                left.add(id)?;
            }
        }
        self.with_tuple_ids(&left)
    }

    /// `_bt_swap_posting`: `new` takes the place at `at` of this posting list, whose last id it gets. Answers with the
    /// list; `new` is changed.
    pub(crate) fn swap(&self, new: &mut NewTuple, at: u16) -> Result<NewTuple, Fault> {
        let ids = self.tuple_ids()?;
        let count = ids.len() / TUPLE_ID_BYTES;
        let at = usize::from(at);
        if !self.is_posting() || at == 0 || count <= at {
            return Err(Fault::Mismatch("a posting list cannot be split where the record says"));
        }
        let list_at = self.block() as usize;
        let mut list = NewTuple::of(self.0)?;
        let place = list_at + TUPLE_ID_BYTES * at;
        let end = list_at + ids.len();
        list.bytes
            .copy_within(place..end - TUPLE_ID_BYTES, place + TUPLE_ID_BYTES);
        list.bytes[place..place + TUPLE_ID_BYTES].copy_from_slice(&new.bytes[..TUPLE_ID_BYTES]);
        new.bytes[..TUPLE_ID_BYTES].copy_from_slice(&ids[ids.len() - TUPLE_ID_BYTES..]);
        Ok(list)
    }
}

/// An index tuple being made.
pub(crate) struct NewTuple {
    bytes: [u8; TUPLE_BYTES_MAX],
    length: usize,
}

impl NewTuple {
    /// Begins as a copy.
    pub(crate) fn of(tuple: &[u8]) -> Result<NewTuple, Fault> {
        let mut bytes = [0; TUPLE_BYTES_MAX];
        bytes.get_mut(..tuple.len()).ok_or(LONG)?.copy_from_slice(tuple);
        let length = tuple.len();
        Ok(NewTuple { bytes, length })
    }

    /// A dummy high key that only leads to the top parent of a subtree being deleted (`BTreeTupleSetTopParent`).
    pub(crate) fn top_parent(block: u32) -> NewTuple {
        let mut tuple = NewTuple {
            bytes: [0; TUPLE_BYTES_MAX],
            length: HEADER_BYTES,
        };
        tuple.set_block(block);
        tuple.set_info(HEADER_BYTES as u16 | ALTERNATIVE_ID);
        tuple
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// With the zeros that fill it up to a multiple of eight.
    pub(crate) fn padded(&self) -> &[u8] {
        &self.bytes[..aligned(self.length)]
    }

    /// Longer, by zeros; a length that it has already changes nothing.
    fn grow(&mut self, length: usize) -> Result<(), Fault> {
        if TUPLE_BYTES_MAX < length {
            return Err(LONG);
        }
        self.length = length;
        Ok(())
    }

    fn set_u16(&mut self, at: usize, value: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn set_info(&mut self, info: u16) {
        self.set_u16(INFO_AT, info);
    }

    pub(crate) fn set_block(&mut self, block: u32) {
        self.set_u16(0, (block >> 16) as u16);
        self.set_u16(2, block as u16);
    }
}

/// Heap tuple ids, gathered for a posting list.
pub(crate) struct TupleIds {
    bytes: [u8; TUPLE_BYTES_MAX],
    length: usize,
}

impl Default for TupleIds {
    fn default() -> TupleIds {
        TupleIds {
            bytes: [0; TUPLE_BYTES_MAX],
            length: 0,
        }
    }
}

impl TupleIds {
    /// Adds one or more.
    pub(crate) fn add(&mut self, ids: &[u8]) -> Result<(), Fault> {
        let end = self.length + ids.len();
        self.bytes.get_mut(self.length..end).ok_or(LONG)?.copy_from_slice(ids);
        self.length = end;
        Ok(())
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

const _: () = {
    // A padded tuple fits as well.
    assert!(TUPLE_BYTES_MAX.is_multiple_of(8));
};
