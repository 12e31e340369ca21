//! The header of a heap tuple on a page. Follows `access/htup_details.h`.

use std::ops::Range;

use crate::bufpage::{PageMut, State};
use crate::fault::{Applied, Fault};

pub(crate) const HEADER_BYTES: usize = 23;

pub(crate) const KEY_SHARE_LOCK: u16 = 0x0010;
const COMBO_COMMAND: u16 = 0x0020;
pub(crate) const EXCLUSIVE_LOCK: u16 = 0x0040;
pub(crate) const LOCK_ONLY: u16 = 0x0080;
pub(crate) const XMAX_COMMITTED: u16 = 0x0400;
pub(crate) const XMAX_INVALID: u16 = 0x0800;
pub(crate) const XMAX_IS_MULTI: u16 = 0x1000;
const MOVED: u16 = 0xC000;
const LOCK_MASK: u16 = EXCLUSIVE_LOCK | KEY_SHARE_LOCK;
const XMAX_BITS: u16 = XMAX_COMMITTED | XMAX_INVALID | XMAX_IS_MULTI | LOCK_MASK | LOCK_ONLY;
pub(crate) const KEYS_UPDATED: u16 = 0x2000;
const HOT_UPDATED: u16 = 0x4000;

const XMIN_AT: usize = 0;
const XMAX_AT: usize = 4;
const COMMAND_AT: usize = 8;
const CTID_AT: usize = 12;
const INFOMASK2_AT: usize = 18;
const INFOMASK_AT: usize = 20;
const HOFF_AT: usize = 22;

/// `sizeof(ItemPointerData)`.
pub(crate) const TUPLE_ID_BYTES: usize = 6;

/// A place on a page: `ItemPointerData`. Ordered as the heap is (`ItemPointerCompare`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct TupleId {
    pub(crate) block: u32,
    pub(crate) number: u16,
}

impl TupleId {
    /// `ItemPointerSetMovedPartitions`.
    pub(crate) const MOVED_PARTITIONS: TupleId = TupleId {
        block: u32::MAX,
        number: 0xFFFD,
    };

    /// `ItemPointerSetInvalid`.
    pub(crate) const INVALID: TupleId = TupleId {
        block: u32::MAX,
        number: 0,
    };

    pub(crate) fn decode(bytes: [u8; TUPLE_ID_BYTES]) -> TupleId {
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        TupleId {
            block: u32::from(half(0)) << 16 | u32::from(half(2)),
            number: half(4),
        }
    }

    pub(crate) fn encode(self) -> [u8; TUPLE_ID_BYTES] {
        let high = ((self.block >> 16) as u16).to_le_bytes();
        let low = (self.block as u16).to_le_bytes();
        let number = self.number.to_le_bytes();
        [high[0], high[1], low[0], low[1], number[0], number[1]]
    }
}

/// A tuple on a page: `HeapTupleHeader`.
pub(crate) struct Tuple<'a, 'p> {
    page: &'a mut PageMut<'p>,
    at: usize,
    bytes: usize,
}

impl<'a, 'p> Tuple<'a, 'p> {
    /// The tuple behind a normal line pointer.
    #[inline]
    pub(crate) fn of(page: &'a mut PageMut<'p>, number: u16) -> Result<Tuple<'a, 'p>, Fault> {
        page.check()?;
        let pointer = page.stored(number)?;
        if pointer.state != State::Normal || pointer.bytes < HEADER_BYTES {
            return Err(Fault::Mismatch("the line pointer leads to no tuple"));
        }
        Ok(Tuple {
            at: pointer.offset,
            bytes: pointer.bytes,
            page,
        })
    }

    #[inline]
    pub(crate) fn infomask(&self) -> u16 {
        self.page.u16(self.at + INFOMASK_AT)
    }

    #[inline]
    pub(crate) fn set_infomask(&mut self, infomask: u16) {
        self.page.set_u16(self.at + INFOMASK_AT, infomask);
    }

    #[inline]
    pub(crate) fn infomask2(&self) -> u16 {
        self.page.u16(self.at + INFOMASK2_AT)
    }

    #[inline]
    pub(crate) fn set_infomask2(&mut self, infomask2: u16) {
        self.page.set_u16(self.at + INFOMASK2_AT, infomask2);
    }

    #[inline]
    pub(crate) fn set_xmin(&mut self, transaction: u32) {
        self.page.set_u32(self.at + XMIN_AT, transaction);
    }

    #[inline]
    pub(crate) fn set_xmax(&mut self, transaction: u32) {
        self.page.set_u32(self.at + XMAX_AT, transaction);
    }

    /// `HeapTupleHeaderSetXvac`: only tuples that an old VACUUM FULL moved have one.
    pub(crate) fn set_xvac(&mut self, transaction: u32) {
        if self.infomask() & MOVED != 0 {
            self.page.set_u32(self.at + COMMAND_AT, transaction);
        }
    }

    /// `HeapTupleHeaderSetCmax(tuple, FirstCommandId, false)`.
    #[inline]
    pub(crate) fn clear_command(&mut self) {
        self.page.set_u32(self.at + COMMAND_AT, 0);
        self.set_infomask(self.infomask() & !COMBO_COMMAND);
    }

    #[inline]
    pub(crate) fn set_ctid(&mut self, ctid: TupleId) {
        let at = self.at + CTID_AT;
        self.page.bytes_mut()[at..at + 6].copy_from_slice(&ctid.encode());
    }

    #[inline]
    pub(crate) fn set_hot_updated(&mut self, updated: bool) {
        let infomask2 = self.infomask2();
        self.set_infomask2(if updated {
            infomask2 | HOT_UPDATED
        } else {
            infomask2 & !HOT_UPDATED
        });
    }

    /// What every change of a tuple's end does first: forgets the old xmax, then takes the bits over that the record
    /// carries (`fix_infomask_from_infobits`).
    pub(crate) fn set_xmax_bits(&mut self, bits: u8) {
        let pairs = [
            (0x01, XMAX_IS_MULTI),
            (0x02, LOCK_ONLY),
            (0x04, EXCLUSIVE_LOCK),
            (0x08, KEY_SHARE_LOCK),
        ];
        let set = pairs.iter().filter(|(bit, _)| bits & bit != 0);
        let set = set.fold(0, |mask, (_, flag)| mask | flag);
        self.set_infomask(self.infomask() & !(XMAX_BITS | MOVED) | set);
        let keys = if bits & 0x10 != 0 { KEYS_UPDATED } else { 0 };
        self.set_infomask2(self.infomask2() & !KEYS_UPDATED | keys);
    }

    /// `HEAP_XMAX_IS_LOCKED_ONLY`.
    #[inline]
    pub(crate) fn is_locked_only(&self) -> bool {
        let infomask = self.infomask();
        infomask & LOCK_ONLY != 0 || infomask & (XMAX_IS_MULTI | LOCK_MASK) == EXCLUSIVE_LOCK
    }

    /// What follows the header and the null bitmap.
    pub(crate) fn data_mut(&mut self) -> Result<&mut [u8], Fault> {
        let (whole, data_at) = self.place()?;
        Ok(&mut self.page.bytes_mut()[data_at..whole.end])
    }

    /// Where it lies on the page, and where on the page its header ends.
    pub(crate) fn place(&self) -> Result<(Range<usize>, usize), Fault> {
        let whole = self.at..self.at + self.bytes;
        let data_at = self.at + usize::from(self.page.bytes()[self.at + HOFF_AT]);
        if whole.end < data_at {
            return Err(Fault::Mismatch("a tuple ends inside its header"));
        }
        Ok((whole, data_at))
    }
}

/// The header of a tuple that a record brings.
pub(crate) struct NewHeader {
    pub(crate) infomask2: u16,
    pub(crate) infomask: u16,
    pub(crate) header_bytes: u8,
    pub(crate) xmin: u32,
    pub(crate) xmax: u32,
    pub(crate) ctid: TupleId,
}

impl NewHeader {
    /// As it stands on a page, with the first command id.
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[XMIN_AT..XMIN_AT + 4].copy_from_slice(&self.xmin.to_le_bytes());
        header[XMAX_AT..XMAX_AT + 4].copy_from_slice(&self.xmax.to_le_bytes());
        header[CTID_AT..CTID_AT + 6].copy_from_slice(&self.ctid.encode());
        header[INFOMASK2_AT..INFOMASK2_AT + 2].copy_from_slice(&self.infomask2.to_le_bytes());
        let infomask = self.infomask & !COMBO_COMMAND;
        header[INFOMASK_AT..INFOMASK_AT + 2].copy_from_slice(&infomask.to_le_bytes());
        header[HOFF_AT] = self.header_bytes;
        header
    }

    /// Adds a tuple of this header, behind which comes `data`.
    pub(crate) fn add_to(&self, page: &mut PageMut<'_>, data: &[u8]) -> Applied {
        let at = page.add_room(HEADER_BYTES + data.len(), self.ctid.number, true)?;
        let tuple = &mut page.bytes_mut()[at..at + HEADER_BYTES + data.len()];
        tuple[..HEADER_BYTES].copy_from_slice(&self.encode());
        tuple[HEADER_BYTES..].copy_from_slice(data);
        Ok(())
    }
}
