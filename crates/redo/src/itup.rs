//! Index tuples and offset numbers as records carry them. Follows `access/itup.h`.

use crate::bufpage::aligned;
use crate::fault::{Fault, slice_at, u16_at, u16s_at};

/// `sizeof(IndexTupleData)`: a tuple id and `t_info`.
const HEADER_BYTES: usize = 8;
const INFO_AT: usize = 6;
/// `INDEX_SIZE_MASK`.
const SIZE_MASK: u16 = 0x1FFF;
/// `MaxIndexTuplesPerPage`.
const TUPLES_PER_PAGE_MAX: usize = 408;

/// How tuples lie one behind the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Spacing {
    /// Each as long as it says.
    Exact,
    /// Each as long as it says, and as much more as aligns the next one; the padding belongs to the item.
    Aligned,
}

/// The index tuples that `bytes` is made of. After an error there is nothing more.
pub(crate) fn index_tuples(bytes: &[u8], spacing: Spacing) -> impl Iterator<Item = Result<&[u8], Fault>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let tuple = first_tuple(rest, spacing);
        rest = tuple.map_or(&[], |tuple| &rest[tuple.len()..]);
        Some(tuple)
    })
}

fn first_tuple(bytes: &[u8], spacing: Spacing) -> Result<&[u8], Fault> {
    const SHORT: Fault = Fault::Mismatch("an index tuple is shorter than it says");
    let info = u16_at(bytes, INFO_AT).map_err(|_| SHORT)?;
    let said = usize::from(info & SIZE_MASK);
    if said < HEADER_BYTES {
        return Err(SHORT);
    }
    let size = match spacing {
        Spacing::Exact => said,
        Spacing::Aligned => aligned(said),
    };
    slice_at(bytes, 0, size).map_err(|_| SHORT)
}

/// Numbers of items, at most as many as a page of an index has.
pub(crate) struct ItemNumbers {
    numbers: [u16; TUPLES_PER_PAGE_MAX],
    count: usize,
}

impl ItemNumbers {
    /// `count` of them at the head of `bytes`.
    pub(crate) fn at_head(bytes: &[u8], count: usize) -> Result<ItemNumbers, Fault> {
        if TUPLES_PER_PAGE_MAX < count {
            return Err(Fault::Mismatch("the record names more items than a page holds"));
        }
        let mut numbers = [0; TUPLES_PER_PAGE_MAX];
        for (number, logged) in numbers.iter_mut().zip(u16s_at(bytes, 0, count)?) {
            *number = logged;
        }
        Ok(ItemNumbers { numbers, count })
    }

    pub(crate) fn as_slice(&self) -> &[u16] {
        &self.numbers[..self.count]
    }
}
