//! Compressed posting lists: tuple ids in ascending order, the first as it is, each further one as its distance from the
//! one before in 7-bit groups. Follows `access/gin/ginpostinglist.c`.
//!
//! Lists are read and written item by item: nothing here allocates.

use crate::fault::{Fault, slice_at, u16_at};
use crate::heap_tuple::{TUPLE_ID_BYTES, TupleId};

/// `offsetof(GinPostingList, bytes)`: the first item and the number of bytes that follow.
const HEADER_BYTES: usize = 8;
const COUNT_AT: usize = 6;
/// `MaxHeapTuplesPerPageBits`: bits of an offset number in the integer that is coded.
const NUMBER_BITS: u32 = 11;
/// `MaxBytesPerInteger`.
const INTEGER_BYTES_MAX: usize = 7;

const DAMAGED: Fault = Fault::Mismatch("a posting list is damaged");

/// `itemptr_to_uint64`.
fn integer_of(id: TupleId) -> u64 {
    u64::from(id.block) << NUMBER_BITS | u64::from(id.number)
}

/// `uint64_to_itemptr`: `None` beyond the last block there can be.
fn tuple_id_of(integer: u64) -> Option<TupleId> {
    Some(TupleId {
        block: u32::try_from(integer >> NUMBER_BITS).ok()?,
        number: (integer & ((1 << NUMBER_BITS) - 1)) as u16,
    })
}

/// `GinPostingList`: one list of the many on a leaf of a posting tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Segment<'a>(&'a [u8]);

impl<'a> Segment<'a> {
    /// The segment at the head of `bytes`, as long as it says it is (`SizeOfGinPostingList`).
    pub(crate) fn at_head(bytes: &'a [u8]) -> Result<Segment<'a>, Fault> {
        let coded = usize::from(u16_at(bytes, COUNT_AT).map_err(|_| DAMAGED)?);
        let whole = HEADER_BYTES + coded.next_multiple_of(2);
        Ok(Segment(slice_at(bytes, 0, whole).map_err(|_| DAMAGED)?))
    }

    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.0
    }

    /// `ginPostingListDecode`.
    pub(crate) fn items(&self) -> Items<'a> {
        let coded = usize::from(u16::from_le_bytes([self.0[COUNT_AT], self.0[COUNT_AT + 1]]));
        let id = [self.0[0], self.0[1], self.0[2], self.0[3], self.0[4], self.0[5]];
        Items {
            next: Some(Ok(TupleId::decode(id))),
            integer: integer_of(TupleId::decode(id)),
            coded: &self.0[HEADER_BYTES..HEADER_BYTES + coded],
        }
    }
}

/// The tuple ids of a segment. Ends after the first error.
pub(crate) struct Items<'a> {
    next: Option<Result<TupleId, Fault>>,
    integer: u64,
    coded: &'a [u8],
}

impl Items<'_> {
    /// `decode_varbyte`, and the item that lies so far from the last one.
    fn decode(&mut self) -> Result<TupleId, Fault> {
        let mut distance = 0;
        for at in 0..INTEGER_BYTES_MAX {
            let byte = *self.coded.get(at).ok_or(DAMAGED)?;
            distance |= u64::from(byte & 0x7F) << (7 * at);
            if byte & 0x80 == 0 {
                self.coded = &self.coded[at + 1..];
                // Both are less than 2^50.
                self.integer += distance;
                return tuple_id_of(self.integer).ok_or(DAMAGED);
            }
        }
        Err(DAMAGED)
    }
}

impl Iterator for Items<'_> {
    type Item = Result<TupleId, Fault>;

    fn next(&mut self) -> Option<Result<TupleId, Fault>> {
        let item = self.next.take()?;
        if item.is_ok() && !self.coded.is_empty() {
            self.next = Some(self.decode());
        }
        Some(item)
    }
}

/// Tuple ids that are not compressed: added ones in a record, those of a page from before version 9.4.
pub(crate) fn plain_items(bytes: &[u8]) -> impl Iterator<Item = Result<TupleId, Fault>> {
    let (ids, _) = bytes.as_chunks::<TUPLE_ID_BYTES>();
    ids.iter().map(|id| Ok(TupleId::decode(*id)))
}

/// `ginMergeItemPointers`: both in one order, what is in both once.
pub(crate) fn merged(
    one: impl Iterator<Item = Result<TupleId, Fault>>,
    other: impl Iterator<Item = Result<TupleId, Fault>>,
) -> impl Iterator<Item = Result<TupleId, Fault>> {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    std::iter::from_fn(move || {
        let (Some(Ok(first)), Some(Ok(second))) = (one.peek(), other.peek()) else {
            // One is at its end, or at an error, which comes first.
            let is_fault = matches!(other.peek(), Some(Err(_)));
            return if is_fault {
                other.next()
            } else {
                one.next().or_else(|| other.next())
            };
        };
        match first.cmp(second) {
            std::cmp::Ordering::Less => one.next(),
            std::cmp::Ordering::Greater => other.next(),
            std::cmp::Ordering::Equal => {
                one.next();
                other.next()
            }
        }
    })
}

/// `ginCompressPostingList` of all items, into `target`: the bytes it took, padding included.
pub(crate) fn compress(
    mut items: impl Iterator<Item = Result<TupleId, Fault>>,
    target: &mut [u8],
) -> Result<usize, Fault> {
    const FULL: Fault = Fault::Mismatch("the page has no room for a posting list");
    let first = items.next().ok_or(Fault::Mismatch("a posting list would be empty"))??;
    target
        .get_mut(..TUPLE_ID_BYTES)
        .ok_or(FULL)?
        .copy_from_slice(&first.encode());
    let (mut last, mut at) = (integer_of(first), HEADER_BYTES);
    for item in items {
        let integer = integer_of(item?);
        let mut distance = integer
            .checked_sub(last)
            .filter(|distance| 0 < *distance)
            .ok_or(Fault::Mismatch("the items of a posting list do not rise"))?;
        // encode_varbyte
        while 0x7F < distance {
            *target.get_mut(at).ok_or(FULL)? = 0x80 | (distance & 0x7F) as u8;
            distance >>= 7;
            at += 1;
        }
        *target.get_mut(at).ok_or(FULL)? = distance as u8;
        at += 1;
        last = integer;
    }
    let coded = (at - HEADER_BYTES) as u16;
    target
        .get_mut(COUNT_AT..HEADER_BYTES)
        .ok_or(FULL)?
        .copy_from_slice(&coded.to_le_bytes());
    if !coded.is_multiple_of(2) {
        *target.get_mut(at).ok_or(FULL)? = 0;
        at += 1;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Places that lie close together, and at the ends of what there can be.
    fn tuple_ids() -> impl Strategy<Value = BTreeSet<TupleId>> {
        let block = prop_oneof![0..3u32, 0..5000u32, any::<u32>(), Just(u32::MAX)];
        let number = prop_oneof![1..4u16, 1..2048u16];
        let id = (block, number).prop_map(|(block, number)| TupleId { block, number });
        prop::collection::btree_set(id, 1..300)
    }

    fn plain(ids: &BTreeSet<TupleId>) -> Vec<u8> {
        ids.iter().flat_map(|id| id.encode()).collect()
    }

    proptest! {
        #[test]
        fn what_is_compressed_comes_back(ids in tuple_ids()) {
            let mut target = [0xFF; 8192];
            let used = compress(plain_items(&plain(&ids)), &mut target).expect("they rise");
            let segment = Segment::at_head(&target).expect("a segment");
            prop_assert_eq!(segment.bytes().len(), used);
            prop_assert!(used.is_multiple_of(2));
            let back: Result<Vec<TupleId>, Fault> = segment.items().collect();
            prop_assert!(back.expect("sound").into_iter().eq(ids.iter().copied()));
            // The target may be as long as the segment, and no shorter.
            let mut exact = vec![0; used];
            prop_assert_eq!(compress(segment.items(), &mut exact), Ok(used));
            prop_assert_eq!(&exact[..], &target[..used]);
            prop_assert!(compress(segment.items(), &mut exact[1..]).is_err());
        }

        #[test]
        fn merged_lists_are_one_in_order(one in tuple_ids(), other in tuple_ids()) {
            let (first, second) = (plain(&one), plain(&other));
            let all: Result<Vec<TupleId>, Fault> = merged(plain_items(&first), plain_items(&second)).collect();
            prop_assert!(all.expect("sound").into_iter().eq(one.union(&other).copied()));
        }

        #[test]
        fn arbitrary_bytes_are_items_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let Ok(segment) = Segment::at_head(&bytes) else { return Ok(()) };
            prop_assert!(segment.bytes().len() <= bytes.len());
            // Each but the first takes a byte at least.
            prop_assert!(segment.items().count() <= bytes.len());
        }
    }
}
