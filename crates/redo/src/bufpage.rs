//! The standard page: header, line pointers, items. Follows `storage/page/bufpage.c` and `bufpage.h`.

use units::{Lsn, PAGE_BYTES, Page};

use crate::fault::{Applied, Fault};

pub(crate) const HEADER_BYTES: usize = 24;
pub(crate) const POINTER_BYTES: usize = 4;
/// `PD_HAS_FREE_LINES`: a hint, without which unused line pointers are not found again.
const HAS_FREE_LINES: u16 = 0x0001;
/// `PD_ALL_VISIBLE`.
const ALL_VISIBLE: u16 = 0x0004;
/// Layout version 4 and a size of 8192.
const SIZE_AND_VERSION: u16 = 0x2004;

const FLAGS_AT: usize = 10;
const LOWER_AT: usize = 12;
const UPPER_AT: usize = 14;
const SPECIAL_AT: usize = 16;
const SIZE_AT: usize = 18;
const PRUNE_AT: usize = 20;

/// What a line pointer says of its item.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Unused = 0,
    Normal = 1,
    Redirect = 2,
    Dead = 3,
}

/// `ItemIdData`: where an item lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pointer {
    pub(crate) offset: usize,
    pub(crate) state: State,
    pub(crate) bytes: usize,
}

impl Pointer {
    #[inline]
    fn decode(raw: u32) -> Pointer {
        let state = match raw >> 15 & 3 {
            0 => State::Unused,
            1 => State::Normal,
            2 => State::Redirect,
            _ => State::Dead,
        };
        Pointer {
            offset: (raw & 0x7FFF) as usize,
            state,
            bytes: (raw >> 17) as usize,
        }
    }

    #[inline]
    fn encode(self) -> u32 {
        self.offset as u32 | (self.state as u32) << 15 | (self.bytes as u32) << 17
    }

    #[inline]
    pub(crate) fn has_storage(self) -> bool {
        self.bytes != 0
    }
}

/// `MAXALIGN`.
#[inline]
pub(crate) const fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(8)
}

/// A page being changed.
pub(crate) struct PageMut<'a>(&'a mut [u8; PAGE_BYTES]);

impl<'a> PageMut<'a> {
    #[inline]
    pub(crate) fn new(page: &'a mut Page) -> PageMut<'a> {
        PageMut(page.bytes_mut())
    }

    /// A page that is being made beside the one that it will replace.
    #[inline]
    pub(crate) fn over(bytes: &'a mut [u8; PAGE_BYTES]) -> PageMut<'a> {
        PageMut(bytes)
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8; PAGE_BYTES] {
        self.0
    }

    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8; PAGE_BYTES] {
        self.0
    }

    #[inline]
    pub(crate) fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes()[at], self.bytes()[at + 1]])
    }

    #[inline]
    pub(crate) fn set_u16(&mut self, at: usize, value: u16) {
        self.bytes_mut()[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    #[inline]
    pub(crate) fn u32(&self, at: usize) -> u32 {
        let bytes = &self.bytes()[at..at + 4];
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    #[inline]
    pub(crate) fn set_u32(&mut self, at: usize, value: u32) {
        self.bytes_mut()[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    #[inline]
    pub(crate) fn lower(&self) -> usize {
        usize::from(self.u16(LOWER_AT))
    }

    #[inline]
    pub(crate) fn upper(&self) -> usize {
        usize::from(self.u16(UPPER_AT))
    }

    #[inline]
    pub(crate) fn special(&self) -> usize {
        usize::from(self.u16(SPECIAL_AT))
    }

    #[inline]
    pub(crate) fn set_lower(&mut self, lower: usize) {
        self.set_u16(LOWER_AT, lower as u16);
    }

    #[inline]
    pub(crate) fn set_upper(&mut self, upper: usize) {
        self.set_u16(UPPER_AT, upper as u16);
    }

    /// `PageIsNew`.
    #[inline]
    pub(crate) fn is_new(&self) -> bool {
        self.upper() == 0
    }

    /// `PageInit`.
    pub(crate) fn init(&mut self, special_bytes: usize) {
        self.bytes_mut().fill(0);
        let special = PAGE_BYTES - aligned(special_bytes);
        self.set_lower(HEADER_BYTES);
        self.set_upper(special);
        self.set_u16(SPECIAL_AT, special as u16);
        self.set_u16(SIZE_AT, SIZE_AND_VERSION);
    }

    /// `PageSetLSN`.
    #[inline]
    pub(crate) fn set_lsn(&mut self, lsn: Lsn) {
        self.put_lsn(0, lsn);
    }

    /// `PageXLogRecPtrSet`: the high half first.
    #[inline]
    pub(crate) fn put_lsn(&mut self, at: usize, lsn: Lsn) {
        self.set_u32(at, (lsn.raw() >> 32) as u32);
        self.set_u32(at + 4, lsn.raw() as u32);
    }

    #[inline]
    fn set_flag(&mut self, flag: u16, on: bool) {
        let flags = self.u16(FLAGS_AT);
        self.set_u16(FLAGS_AT, if on { flags | flag } else { flags & !flag });
    }

    #[inline]
    pub(crate) fn set_all_visible(&mut self, visible: bool) {
        self.set_flag(ALL_VISIBLE, visible);
    }

    /// `PageSetPrunable`.
    pub(crate) fn set_prunable(&mut self, transaction: u32) {
        /// `TransactionIdIsNormal`.
        const FIRST_NORMAL: u32 = 3;
        let known = self.u32(PRUNE_AT);
        let precedes = if transaction < FIRST_NORMAL || known < FIRST_NORMAL {
            transaction < known
        } else {
            (transaction.wrapping_sub(known) as i32) < 0
        };
        if known == 0 || precedes {
            self.set_u32(PRUNE_AT, transaction);
        }
    }

    /// What an index keeps in `pd_prune_xid` of a page it deleted.
    pub(crate) fn set_prune_xid(&mut self, transaction: u32) {
        self.set_u32(PRUNE_AT, transaction);
    }

    /// Whether header and special space can be believed.
    #[inline]
    pub(crate) fn check(&self) -> Applied {
        let (lower, upper, special) = (self.lower(), self.upper(), self.special());
        let sound = HEADER_BYTES <= lower
            && lower <= upper
            && upper <= special
            && special <= PAGE_BYTES
            && special.is_multiple_of(8)
            && (lower - HEADER_BYTES).is_multiple_of(POINTER_BYTES);
        if sound {
            Ok(())
        } else {
            Err(Fault::Mismatch("the page's header is no page header"))
        }
    }

    /// `PageGetMaxOffsetNumber`: never more than a page holds, whatever its header says.
    #[inline]
    pub(crate) fn pointers(&self) -> u16 {
        (self.lower().min(PAGE_BYTES).saturating_sub(HEADER_BYTES) / POINTER_BYTES) as u16
    }

    #[inline]
    pub(crate) fn pointer_at(number: u16) -> usize {
        HEADER_BYTES + POINTER_BYTES * (usize::from(number) - 1)
    }

    /// The line pointer of an item, counted from one.
    #[inline]
    pub(crate) fn pointer(&self, number: u16) -> Result<Pointer, Fault> {
        if number == 0 || self.pointers() < number {
            return Err(Fault::Mismatch("the page has no such line pointer"));
        }
        Ok(Pointer::decode(self.u32(PageMut::pointer_at(number))))
    }

    #[inline]
    pub(crate) fn set_pointer(&mut self, number: u16, pointer: Pointer) {
        self.set_u32(PageMut::pointer_at(number), pointer.encode());
    }

    /// Where an item with storage lies, checked.
    #[inline]
    pub(crate) fn stored(&self, number: u16) -> Result<Pointer, Fault> {
        let pointer = self.pointer(number)?;
        let within = pointer.has_storage()
            && self.upper() <= pointer.offset
            && pointer.offset + pointer.bytes <= self.special().min(PAGE_BYTES)
            && pointer.offset.is_multiple_of(8);
        if within {
            Ok(pointer)
        } else {
            Err(Fault::Mismatch("a line pointer leads outside the page's items"))
        }
    }

    #[inline]
    pub(crate) fn item(&self, number: u16) -> Result<&[u8], Fault> {
        let pointer = self.stored(number)?;
        Ok(&self.bytes()[pointer.offset..pointer.offset + pointer.bytes])
    }

    /// `PageAddItemExtended` with a given offset number. `overwrite`: an unused line pointer is taken as it is (heap);
    /// otherwise those from it on move up (indexes).
    pub(crate) fn add_item(&mut self, item: &[u8], number: u16, overwrite: bool) -> Applied {
        let at = self.add_room(item.len(), number, overwrite)?;
        self.bytes_mut()[at..at + item.len()].copy_from_slice(item);
        Ok(())
    }

    /// As [`PageMut::add_item`], but where the item's bytes come is left to the caller: answers with the place.
    pub(crate) fn add_room(&mut self, item_bytes: usize, number: u16, overwrite: bool) -> Result<usize, Fault> {
        self.check()?;
        let limit = self.pointers() + 1;
        if number == 0 || limit < number {
            return Err(Fault::Mismatch("an item would leave a gap in the line pointers"));
        }
        let reuses = overwrite && number < limit;
        if reuses {
            let pointer = self.pointer(number)?;
            if pointer.state != State::Unused || pointer.has_storage() {
                return Err(Fault::Mismatch("the line pointer of a new item is in use"));
            }
        }
        let lower = self.lower() + if reuses { 0 } else { POINTER_BYTES };
        let upper = self.upper().checked_sub(aligned(item_bytes));
        let upper = upper.filter(|upper| lower <= *upper);
        let upper = upper.ok_or(Fault::Mismatch("the page has no room for the item"))?;
        if !reuses && number < limit {
            let from = PageMut::pointer_at(number);
            let end = self.lower();
            self.bytes_mut().copy_within(from..end, from + POINTER_BYTES);
        }
        self.set_lower(lower);
        self.set_upper(upper);
        let pointer = Pointer {
            offset: upper,
            state: State::Normal,
            bytes: item_bytes,
        };
        self.set_pointer(number, pointer);
        Ok(upper)
    }

    /// `compactify_tuples`: items in the order of their line pointers, from the special space downwards. Every pointer with
    /// storage has been checked.
    pub(crate) fn compact(&mut self) -> Applied {
        let mut total = 0;
        let mut lowest = self.special();
        let mut descend = true;
        for number in 1..=self.pointers() {
            let pointer = self.pointer(number)?;
            if pointer.has_storage() {
                total += aligned(pointer.bytes);
                descend &= pointer.offset + aligned(pointer.bytes) <= lowest;
                lowest = pointer.offset;
            }
        }
        if self.special() - self.lower() < total {
            return Err(Fault::Mismatch("the page's items are longer than the page"));
        }
        if descend {
            self.compact_descending()
        } else {
            self.compact_any()
        }
    }

    /// Each item lies below the one before it: nothing is overwritten that is still to be moved. Neighbours move together.
    fn compact_descending(&mut self) -> Applied {
        let mut upper = self.special();
        // What is still to be moved: from where to where on the page, and how far up.
        let (mut from, mut end, mut by) = (upper, upper, 0);
        for number in 1..=self.pointers() {
            let pointer = self.pointer(number)?;
            if !pointer.has_storage() {
                continue;
            }
            let bytes = aligned(pointer.bytes);
            if pointer.offset + bytes != from {
                self.bytes_mut().copy_within(from..end, from + by);
                end = pointer.offset + bytes;
                by = upper - end;
            }
            from = pointer.offset;
            upper -= bytes;
            if by != 0 {
                let offset = upper;
                self.set_pointer(number, Pointer { offset, ..pointer });
            }
        }
        self.bytes_mut().copy_within(from..end, from + by);
        self.set_upper(upper);
        Ok(())
    }

    /// The items lie in any order, and are copied from what the page was.
    fn compact_any(&mut self) -> Applied {
        let before = *self.bytes();
        let mut upper = self.special();
        for number in 1..=self.pointers() {
            let pointer = self.pointer(number)?;
            if !pointer.has_storage() {
                continue;
            }
            let bytes = aligned(pointer.bytes);
            upper -= bytes;
            let end = (pointer.offset + bytes).min(PAGE_BYTES);
            let from = &before[pointer.offset..end];
            self.bytes_mut()[upper..upper + from.len()].copy_from_slice(from);
            let offset = upper;
            self.set_pointer(number, Pointer { offset, ..pointer });
        }
        self.set_upper(upper);
        Ok(())
    }

    /// `PageRepairFragmentation`: items move together, unused line pointers at the end go.
    pub(crate) fn repair_fragmentation(&mut self) -> Applied {
        self.check()?;
        let (mut used, mut last_used) = (0, 0);
        for number in 1..=self.pointers() {
            let pointer = self.pointer(number)?;
            if pointer.state == State::Unused {
                self.set_pointer(number, UNUSED);
                continue;
            }
            if pointer.has_storage() {
                self.stored(number)?;
            }
            used += 1;
            last_used = number;
        }
        self.compact()?;
        self.set_lower(HEADER_BYTES + POINTER_BYTES * usize::from(last_used));
        self.set_flag(HAS_FREE_LINES, used < last_used);
        Ok(())
    }

    /// `PageTruncateLinePointerArray`: unused line pointers at the end go, but for the first.
    pub(crate) fn truncate_pointers(&mut self) -> Applied {
        let mut left = self.pointers();
        while 1 < left && self.pointer(left)?.state == State::Unused {
            left -= 1;
        }
        self.set_lower(HEADER_BYTES + POINTER_BYTES * usize::from(left));
        let mut is_unused = (1..=left).map(|number| self.pointer(number).map(|pointer| pointer.state == State::Unused));
        let has_unused = is_unused.try_fold(false, |any, one| one.map(|one| any | one))?;
        self.set_flag(HAS_FREE_LINES, has_unused);
        Ok(())
    }
}

/// `ItemIdSetUnused`.
pub(crate) const UNUSED: Pointer = Pointer {
    offset: 0,
    state: State::Unused,
    bytes: 0,
};
/// `ItemIdSetDead`.
pub(crate) const DEAD: Pointer = Pointer {
    offset: 0,
    state: State::Dead,
    bytes: 0,
};
