//! Sequences. Follows `seq_redo` in `commands/sequence.c`.

use units::Lsn;
use wal::DecodedRecord;

use crate::bufpage::PageMut;
use crate::fault::{Applied, Fault};

/// `sizeof(xl_seq_rec)`: the relation.
const HEADER_BYTES: usize = 12;
/// `SEQ_MAGIC`.
const MAGIC: u32 = 0x1717;

/// The page is made anew around the tuple.
pub(crate) fn redo(record: &DecodedRecord<'_>, end: Lsn, page: &mut PageMut<'_>) -> Applied {
    let tuple = record
        .data
        .get(HEADER_BYTES..)
        .ok_or(Fault::Mismatch("the record is too short"))?;
    page.init(4);
    let special = page.special();
    page.set_u32(special, MAGIC);
    page.add_item(tuple, 1, false)?;
    page.set_lsn(end);
    Ok(())
}
