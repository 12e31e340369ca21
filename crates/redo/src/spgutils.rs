//! Pages and tuples of SP-GiST. Follows `access/spgist_private.h`, `spgutils.c`, and what redo shares with `spgdoinsert.c`.
//!
//! Every tuple begins with a word whose lowest two bits are its state; of leaf and dead tuples the rest is the size.

use units::PAGE_BYTES;

use crate::bufpage::PageMut;
use crate::fault::{Applied, Fault, slice_at, u16_at, u32_at};
use crate::heap_tuple::TupleId;
use crate::spgxlog::{Downlink, Numbers, State};

/// `sizeof(SpGistPageOpaqueData)`, and what stands in it.
const OPAQUE_BYTES: usize = 8;
const REDIRECTIONS_AT: usize = 2;
const PLACEHOLDERS_AT: usize = 4;
const PAGE_ID_AT: usize = 6;
/// `SPGIST_PAGE_ID`.
const PAGE_ID: u16 = 0xFF82;

const META: u16 = 1 << 0;
const LEAF: u16 = 1 << 2;
const NULLS: u16 = 1 << 3;

/// `MaxIndexTuplesPerPage`: no more items are deleted from a page at once.
const ITEMS_MAX: usize = 408;

const STATE_MASK: u32 = 3;
const SIZE_SHIFT: u32 = 2;
/// `SGDTSIZE`, which no leaf tuple is shorter than either, and what stands in a leaf tuple or a dead one.
const DEAD_BYTES: usize = 16;
const CHAIN_AT: usize = 4;
const POINTER_AT: usize = 6;
const TRANSACTION_AT: usize = 12;
/// `SGLT_GET_NEXTOFFSET`; the two bits above are flags.
const CHAIN_MASK: u16 = 0x3FFF;

/// `SGITHDRSZ`, and what stands in an inner tuple: in its first word the number of nodes and the size of the prefix.
const INNER_HEADER_BYTES: usize = 8;
const INNER_SIZE_AT: usize = 4;
const NODES_SHIFT: u32 = 3;
const NODES_MASK: u32 = 0x1FFF;
const PREFIX_SHIFT: u32 = 16;
/// `sizeof(IndexTupleData)`: nodes are index tuples.
const NODE_HEADER_BYTES: usize = 8;
const NODE_INFO_AT: usize = 6;
const NODE_SIZE_MASK: u16 = 0x1FFF;

/// `ItemPointerSetInvalid`.
const NOWHERE: TupleId = TupleId {
    block: u32::MAX,
    number: 0,
};
const SHORT: Fault = Fault::Mismatch("an SP-GiST tuple is shorter than it says");

/// What a tuple is instead of a live one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DeadTuple {
    /// What stood here is elsewhere in the index.
    Redirect(TupleId),
    /// An emptied chain, which a link still leads to.
    Dead,
    /// Keeps the numbers of the items behind it.
    Placeholder,
}

impl DeadTuple {
    fn state(self) -> u32 {
        match self {
            DeadTuple::Redirect(_) => 1,
            DeadTuple::Dead => 2,
            DeadTuple::Placeholder => 3,
        }
    }

    /// `spgFormDeadTuple`.
    fn tuple(self, state: State) -> [u8; DEAD_BYTES] {
        let mut tuple = [0; DEAD_BYTES];
        let word = self.state() | (DEAD_BYTES as u32) << SIZE_SHIFT;
        let (pointer, transaction) = match self {
            DeadTuple::Redirect(to) => (to, state.transaction),
            DeadTuple::Dead | DeadTuple::Placeholder => (NOWHERE, 0),
        };
        tuple[..4].copy_from_slice(&word.to_le_bytes());
        tuple[POINTER_AT..POINTER_AT + 6].copy_from_slice(&pointer.encode());
        tuple[TRANSACTION_AT..].copy_from_slice(&transaction.to_le_bytes());
        tuple
    }
}

/// The leaf tuple at the head of `bytes`, as long as it says it is.
pub(crate) fn leaf_tuple_at_head(bytes: &[u8]) -> Result<&[u8], Fault> {
    let size = (u32_at(bytes, 0)? >> SIZE_SHIFT) as usize;
    if size < DEAD_BYTES {
        return Err(SHORT);
    }
    slice_at(bytes, 0, size).map_err(|_| SHORT)
}

/// The inner tuple at the head of `bytes`, as long as it says it is.
pub(crate) fn inner_tuple_at_head(bytes: &[u8]) -> Result<&[u8], Fault> {
    let size = usize::from(u16_at(bytes, INNER_SIZE_AT)?);
    if size < INNER_HEADER_BYTES {
        return Err(SHORT);
    }
    slice_at(bytes, 0, size).map_err(|_| SHORT)
}

/// Where in an inner tuple this node begins: `SGITITERATE`.
fn node_at(tuple: &[u8], node: u16) -> Result<usize, Fault> {
    let word = u32_at(tuple, 0)?;
    if word >> NODES_SHIFT & NODES_MASK <= u32::from(node) {
        return Err(Fault::Mismatch("an inner tuple has no such node"));
    }
    let mut at = INNER_HEADER_BYTES + (word >> PREFIX_SHIFT) as usize;
    for _ in 0..node {
        let size = u16_at(tuple, at + NODE_INFO_AT).map_err(|_| SHORT)? & NODE_SIZE_MASK;
        at += usize::from(size).max(NODE_HEADER_BYTES);
    }
    slice_at(tuple, at, NODE_HEADER_BYTES).map_err(|_| SHORT)?;
    Ok(at)
}

impl PageMut<'_> {
    fn spgist_opaque(&self, at: usize) -> Result<usize, Fault> {
        self.check()?;
        let special = PAGE_BYTES - OPAQUE_BYTES;
        if self.special() != special || self.u16(special + PAGE_ID_AT) != PAGE_ID {
            return Err(Fault::Mismatch("the page is no SP-GiST page"));
        }
        Ok(special + at)
    }

    fn init_spgist(&mut self, flags: u16) {
        self.init(OPAQUE_BYTES);
        let special = self.special();
        self.set_u16(special, flags);
        self.set_u16(special + PAGE_ID_AT, PAGE_ID);
    }

    /// `SpGistInitBuffer` of a page with inner tuples.
    pub(crate) fn init_spgist_inner(&mut self, stores_nulls: bool) {
        self.init_spgist(if stores_nulls { NULLS } else { 0 });
    }

    /// `SpGistInitBuffer` of a page with leaf tuples.
    pub(crate) fn init_spgist_leaf(&mut self, stores_nulls: bool) {
        self.init_spgist(LEAF | if stores_nulls { NULLS } else { 0 });
    }

    /// PostgreSQL counts in 16 bits and lets them overflow; no query relies on these counts.
    fn count(&mut self, at: usize, by: i16) -> Applied {
        let at = self.spgist_opaque(at)?;
        self.set_u16(at, self.u16(at).wrapping_add_signed(by));
        Ok(())
    }

    fn count_dead(&mut self, dead: DeadTuple, by: i16) -> Applied {
        match dead {
            DeadTuple::Redirect(_) => self.count(REDIRECTIONS_AT, by),
            DeadTuple::Placeholder => self.count(PLACEHOLDERS_AT, by),
            DeadTuple::Dead => Ok(()),
        }
    }

    /// The item becomes another one, of any size, under the same number.
    pub(crate) fn replace_spgist(&mut self, tuple: &[u8], number: u16) -> Applied {
        self.spgist_opaque(0)?;
        self.delete_index_tuple(number)?;
        self.add_item(tuple, number, false)
    }

    /// An item becomes a dead one.
    pub(crate) fn replace_by_dead(&mut self, dead: DeadTuple, number: u16, state: State) -> Applied {
        self.replace_spgist(&dead.tuple(state), number)?;
        self.count_dead(dead, 1)
    }

    /// `addOrReplaceTuple`: a new item takes the place of a placeholder, or comes behind all others.
    pub(crate) fn add_or_replace_spgist(&mut self, tuple: &[u8], number: u16) -> Applied {
        self.spgist_opaque(0)?;
        if self.pointers() < number {
            return self.add_item(tuple, number, false);
        }
        if u32_at(self.item(number)?, 0)? & STATE_MASK != DeadTuple::Placeholder.state() {
            return Err(Fault::Mismatch("the tuple to be replaced is no placeholder"));
        }
        self.count(PLACEHOLDERS_AT, -1)?;
        self.replace_spgist(tuple, number)
    }

    /// `spgPageIndexMultiDelete`: the first of `numbers` becomes `first`, the others `rest`.
    pub(crate) fn kill_spgist(
        &mut self,
        numbers: Numbers<'_>,
        first: DeadTuple,
        rest: DeadTuple,
        state: State,
    ) -> Applied {
        let mut sorted = [0; ITEMS_MAX];
        let mut count = 0;
        for number in numbers.iter() {
            let place = sorted.get_mut(count);
            *place.ok_or(Fault::Mismatch("more items become dead than fit a page"))? = number;
            count += 1;
        }
        let sorted = &mut sorted[..count];
        sorted.sort_unstable();
        self.spgist_opaque(0)?;
        self.delete_index_tuples(sorted)?;
        let first_number = numbers.iter().next();
        for number in sorted {
            let dead = if first_number == Some(*number) { first } else { rest };
            self.add_item(&dead.tuple(state), *number, false)?;
            self.count_dead(dead, 1)?;
        }
        Ok(())
    }

    /// `PageIndexMultiDelete` of numbers that rise.
    pub(crate) fn delete_spgist(&mut self, numbers: impl Iterator<Item = u16>) -> Applied {
        let mut gone = [0; ITEMS_MAX];
        let mut count = 0;
        for number in numbers {
            let place = gone.get_mut(count);
            *place.ok_or(Fault::Mismatch("more items are deleted than fit a page"))? = number;
            count += 1;
        }
        self.spgist_opaque(0)?;
        self.delete_index_tuples(&gone[..count])
    }

    /// A redirection that nobody follows any more becomes a placeholder; which transaction made it stays.
    pub(crate) fn redirect_to_placeholder(&mut self, number: u16) -> Applied {
        let at = self.stored(number)?.offset;
        let word = u32_at(self.item(number)?, 0)?;
        if self.item(number)?.len() < DEAD_BYTES || word & STATE_MASK != 1 {
            return Err(Fault::Mismatch("the tuple is no redirection"));
        }
        self.set_u32(at, word | DeadTuple::Placeholder.state());
        self.bytes_mut()[at + POINTER_AT..at + POINTER_AT + 6].copy_from_slice(&NOWHERE.encode());
        self.count(REDIRECTIONS_AT, -1)?;
        self.count(PLACEHOLDERS_AT, 1)
    }

    /// Placeholders that end the page go: all items from `first` on.
    pub(crate) fn drop_placeholders(&mut self, first: u16) -> Applied {
        let last = self.pointers();
        self.delete_spgist(first..=last)?;
        let gone = (u32::from(last) + 1).saturating_sub(first.into());
        self.count(PLACEHOLDERS_AT, -(gone as i16))
    }

    /// `SGLT_SET_NEXTOFFSET`: which leaf tuple of its chain comes behind this one.
    pub(crate) fn set_chain(&mut self, number: u16, next: u16) -> Applied {
        let pointer = self.stored(number)?;
        if pointer.bytes < DEAD_BYTES {
            return Err(SHORT);
        }
        let at = pointer.offset + CHAIN_AT;
        self.set_u16(at, self.u16(at) & !CHAIN_MASK | next & CHAIN_MASK);
        Ok(())
    }

    /// `spgUpdateNodeLink`.
    pub(crate) fn set_downlink(&mut self, downlink: Downlink, to: TupleId) -> Applied {
        self.spgist_opaque(0)?;
        let tuple_at = self.stored(downlink.number)?.offset;
        let at = tuple_at + node_at(self.item(downlink.number)?, downlink.node)?;
        self.bytes_mut()[at..at + 6].copy_from_slice(&to.encode());
        Ok(())
    }
}

/// `lastUsedPages` of the metapage: pages with room, remembered without being logged and looked at before they are used.
pub(crate) fn mask_last_used(page: &mut PageMut<'_>) {
    const LAST_USED: std::ops::Range<usize> = 28..28 + 8 * 8;
    let is_meta = page.spgist_opaque(0).is_ok_and(|at| page.u16(at) & META != 0);
    if is_meta {
        page.bytes_mut()[LAST_USED].fill(0);
    }
}
