//! Transaction status and commit timestamps. Follows `access/transam/clog.c` and `commit_ts.c`.

use wal::{COMMIT_TIMESTAMPS_PER_PAGE, DecodedRecord, TRANSACTIONS_PER_PAGE, TransactionEnd};

use crate::bufpage::PageMut;
use crate::fault::{Applied, Fault};

const COMMITTED: u8 = 1;
const ABORTED: u8 = 2;
/// `SizeOfCommitTimestampEntry`: the time and the origin.
const TIMESTAMP_BYTES: usize = 10;

fn end<'a>(record: &DecodedRecord<'a>) -> Result<TransactionEnd<'a>, Fault> {
    let end = TransactionEnd::of(record).map_err(|_| Fault::Mismatch("its fields cannot be read"))?;
    end.ok_or(Fault::Unsupported)
}

fn everybody(end: &TransactionEnd<'_>) -> impl Iterator<Item = u32> {
    std::iter::once(end.transaction).chain(end.subtransactions())
}

/// `TransactionIdSetTreeStatus`, for the transactions of the tree that stand on this page.
pub(crate) fn redo(record: &DecodedRecord<'_>, block: u32, page: &mut PageMut<'_>) -> Applied {
    let end = end(record)?;
    let status = if end.is_commit { COMMITTED } else { ABORTED };
    for transaction in everybody(&end).filter(|transaction| transaction / TRANSACTIONS_PER_PAGE == block) {
        let on_page = transaction % TRANSACTIONS_PER_PAGE;
        let shift = 2 * (on_page % 4);
        let byte = &mut page.bytes_mut()[(on_page / 4) as usize];
        *byte = *byte & !(3 << shift) | status << shift;
    }
    Ok(())
}

/// `TransactionTreeSetCommitTsData`. Written whether timestamps are tracked or not; nobody reads them if not.
pub(crate) fn redo_commit_timestamps(record: &DecodedRecord<'_>, block: u32, page: &mut PageMut<'_>) -> Applied {
    let end = end(record)?;
    let origin = record.origin.unwrap_or(0);
    for transaction in everybody(&end).filter(|transaction| transaction / COMMIT_TIMESTAMPS_PER_PAGE == block) {
        let at = TIMESTAMP_BYTES * (transaction % COMMIT_TIMESTAMPS_PER_PAGE) as usize;
        let entry = &mut page.bytes_mut()[at..at + TIMESTAMP_BYTES];
        entry[..8].copy_from_slice(&end.time.to_le_bytes());
        entry[8..].copy_from_slice(&origin.to_le_bytes());
    }
    Ok(())
}
