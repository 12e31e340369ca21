//! Pages of a GIN index: the special space that all have, and the posting items of inner data pages. Follows
//! `access/ginblock.h`, `ginutil.c` and, for posting items, `gindatapage.c`.

use units::PAGE_BYTES;

use crate::bufpage::{HEADER_BYTES, PageMut, aligned};
use crate::fault::{Applied, Fault};
use crate::heap_tuple::TUPLE_ID_BYTES;

/// `sizeof(GinPageOpaqueData)`, and what stands in it.
pub(crate) const OPAQUE_BYTES: usize = 8;
const RIGHT_AT: usize = 0;
/// `maxoff`: of an inner data page its posting items, of a list page its heap tuples.
const COUNT_AT: usize = 4;
const FLAGS_AT: usize = 6;

/// A page of a posting tree; without it one of the entry tree, unless another flag says what it is.
pub(crate) const DATA: u16 = 1 << 0;
pub(crate) const LEAF: u16 = 1 << 1;
pub(crate) const DELETED: u16 = 1 << 2;
pub(crate) const META: u16 = 1 << 3;
pub(crate) const LIST: u16 = 1 << 4;
/// `GIN_LIST_FULLROW`: no row that begins on this list page goes on on the next.
pub(crate) const FULL_ROWS: u16 = 1 << 5;
pub(crate) const INCOMPLETE_SPLIT: u16 = 1 << 6;
/// A leaf of a posting tree as PostgreSQL 9.4 and later write it.
pub(crate) const COMPRESSED: u16 = 1 << 7;

/// `InvalidBlockNumber`: nothing to the right.
pub(crate) const NO_BLOCK: u32 = u32::MAX;

/// Where the contents of a data page begin (`GinDataPageGetData`), behind its right bound, and how long they may be
/// (`GinDataPageMaxDataSize`).
pub(crate) const DATA_AT: usize = HEADER_BYTES + aligned(TUPLE_ID_BYTES);
pub(crate) const DATA_BYTES_MAX: usize = PAGE_BYTES - DATA_AT - OPAQUE_BYTES;

/// `sizeof(PostingItem)`: a block below and the greatest tuple id there.
pub(crate) const POSTING_ITEM_BYTES: usize = 10;

impl PageMut<'_> {
    /// `GinInitPage`.
    pub(crate) fn init_gin(&mut self, flags: u16) {
        self.init(OPAQUE_BYTES);
        let special = self.special();
        self.set_u32(special + RIGHT_AT, NO_BLOCK);
        self.set_u16(special + FLAGS_AT, flags);
    }

    fn gin_opaque(&self, at: usize) -> Result<usize, Fault> {
        if self.special() == PAGE_BYTES - OPAQUE_BYTES {
            Ok(self.special() + at)
        } else {
            Err(Fault::Mismatch("the page is no GIN page"))
        }
    }

    pub(crate) fn gin_flags(&self) -> Result<u16, Fault> {
        Ok(self.u16(self.gin_opaque(FLAGS_AT)?))
    }

    /// An error unless of the flags in `among` exactly those in `are` are set.
    pub(crate) fn expect_gin_flags(&self, among: u16, are: u16) -> Applied {
        if self.gin_flags()? & among == are {
            Ok(())
        } else {
            Err(Fault::Mismatch("the page is another kind of GIN page"))
        }
    }

    pub(crate) fn change_gin_flags(&mut self, clear: u16, set: u16) -> Applied {
        let at = self.gin_opaque(FLAGS_AT)?;
        let flags = self.u16(at);
        self.set_u16(at, flags & !clear | set);
        Ok(())
    }

    pub(crate) fn set_gin_right(&mut self, block: u32) -> Applied {
        let at = self.gin_opaque(RIGHT_AT)?;
        self.set_u32(at, block);
        Ok(())
    }

    pub(crate) fn gin_count(&self) -> Result<u16, Fault> {
        Ok(self.u16(self.gin_opaque(COUNT_AT)?))
    }

    pub(crate) fn set_gin_count(&mut self, count: u16) -> Applied {
        let at = self.gin_opaque(COUNT_AT)?;
        self.set_u16(at, count);
        Ok(())
    }

    /// `GinDataPageSetDataSize`.
    pub(crate) fn set_gin_data_bytes(&mut self, bytes: usize) {
        self.set_lower(DATA_AT + bytes);
    }

    /// Where an existing posting item of an inner data page stands (`GinDataPageGetPostingItem`), and where the last one
    /// ends. `pd_lower` is not asked: before version 9.4 it was not kept.
    fn posting_item(&self, number: u16) -> Result<(usize, usize), Fault> {
        self.expect_gin_flags(DATA | LEAF, DATA)?;
        let count = self.gin_count()?;
        let end = DATA_AT + POSTING_ITEM_BYTES * usize::from(count);
        if number == 0 || count < number || DATA_AT + DATA_BYTES_MAX < end {
            return Err(Fault::Mismatch("the page has no such posting item"));
        }
        Ok((DATA_AT + POSTING_ITEM_BYTES * (usize::from(number) - 1), end))
    }

    /// What `ginRedoInsertData` does to an inner page: the item that led to the page split leads to its right half, and the
    /// new one before it to the left half (`GinDataPageAddPostingItem`).
    pub(crate) fn insert_posting_item(&mut self, number: u16, item: &[u8; POSTING_ITEM_BYTES], right: u32) -> Applied {
        let (at, end) = self.posting_item(number)?;
        if DATA_AT + DATA_BYTES_MAX < end + POSTING_ITEM_BYTES {
            return Err(Fault::Mismatch("the page has no room for a posting item"));
        }
        let count = self.gin_count()? + 1;
        let bytes = self.bytes_mut();
        bytes[at..at + 4].copy_from_slice(&block_id(right));
        bytes.copy_within(at..end, at + POSTING_ITEM_BYTES);
        bytes[at..at + POSTING_ITEM_BYTES].copy_from_slice(item);
        self.set_gin_count(count)?;
        self.set_gin_data_bytes(POSTING_ITEM_BYTES * usize::from(count));
        Ok(())
    }

    /// `GinPageDeletePostingItem`.
    pub(crate) fn delete_posting_item(&mut self, number: u16) -> Applied {
        let (at, end) = self.posting_item(number)?;
        let count = self.gin_count()? - 1;
        self.bytes_mut().copy_within(at + POSTING_ITEM_BYTES..end, at);
        self.set_gin_count(count)?;
        self.set_gin_data_bytes(POSTING_ITEM_BYTES * usize::from(count));
        Ok(())
    }
}

/// `BlockIdData`: the high half first.
pub(crate) fn block_id(block: u32) -> [u8; 4] {
    let (high, low) = (((block >> 16) as u16).to_le_bytes(), (block as u16).to_le_bytes());
    [high[0], high[1], low[0], low[1]]
}
