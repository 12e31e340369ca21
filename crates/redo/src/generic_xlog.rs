//! Generic page changes. Follows `generic_redo` in `access/transam/generic_xlog.c`.

use units::Lsn;
use wal::BlockReference;

use crate::bufpage::PageMut;
use crate::fault::{Applied, Fault, slice_at, u16_at};

/// Bytes to overwrite, piece by piece; then the hole, of which the record says nothing, becomes zeros.
pub(crate) fn redo(block: &BlockReference<'_>, end: Lsn, page: &mut PageMut<'_>) -> Applied {
    let mut at = 0;
    while at < block.data.len() {
        let (offset, count) = (
            usize::from(u16_at(block.data, at)?),
            usize::from(u16_at(block.data, at + 2)?),
        );
        let piece = slice_at(block.data, at + 4, count)?;
        let target = page.bytes_mut().get_mut(offset..offset + count);
        target
            .ok_or(Fault::Mismatch("a change leads outside the page"))?
            .copy_from_slice(piece);
        at += 4 + count;
    }
    let (lower, upper) = (page.lower(), page.upper());
    let hole = page.bytes_mut().get_mut(lower..upper);
    hole.ok_or(Fault::Mismatch("the page's header is no page header"))?
        .fill(0);
    page.set_lsn(end);
    Ok(())
}
