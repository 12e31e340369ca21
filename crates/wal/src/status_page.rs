//! Where the state of a transaction stands: the arrays of transaction-status pages, PostgreSQL's SLRUs.

use units::{PageKey, RelationKey, fork};

/// Transactions on a page of `pg_xact`: `CLOG_XACTS_PER_PAGE`.
pub const TRANSACTIONS_PER_PAGE: u32 = 32768;
/// Transactions on a page of `pg_commit_ts`: `COMMIT_TS_XACTS_PER_PAGE`, ten bytes each.
pub const COMMIT_TIMESTAMPS_PER_PAGE: u32 = 819;
/// Multixacts on a page of `pg_multixact/offsets`: `MULTIXACT_OFFSETS_PER_PAGE`.
pub const MULTIXACT_OFFSETS_PER_PAGE: u32 = 2048;
/// Members on a page of `pg_multixact/members`: `MULTIXACT_MEMBERS_PER_PAGE`, 409 groups of four.
pub const MULTIXACT_MEMBERS_PER_PAGE: u32 = 1636;
/// `FirstMultiXactId`: the one after the last, since zero is none.
pub const FIRST_MULTIXACT: u32 = 1;

/// The page of one of the arrays.
pub fn status_page(array: RelationKey, page: u32) -> PageKey {
    array.fork(fork::MAIN).page(page)
}

/// The page that says whether `transaction` committed.
pub fn transaction_status_page(transaction: u32) -> PageKey {
    status_page(RelationKey::TRANSACTION_STATUS, transaction / TRANSACTIONS_PER_PAGE)
}

/// The page that says when `transaction` committed.
pub fn commit_timestamp_page(transaction: u32) -> PageKey {
    status_page(RelationKey::COMMIT_TIMESTAMPS, transaction / COMMIT_TIMESTAMPS_PER_PAGE)
}

/// The page that says where the members of `multixact` begin.
pub fn multixact_offset_page(multixact: u32) -> PageKey {
    status_page(RelationKey::MULTIXACT_OFFSETS, multixact / MULTIXACT_OFFSETS_PER_PAGE)
}

/// The page with the member at `offset`.
pub fn multixact_member_page(offset: u32) -> PageKey {
    status_page(RelationKey::MULTIXACT_MEMBERS, offset / MULTIXACT_MEMBERS_PER_PAGE)
}

/// The multixact after this one.
pub fn next_multixact(multixact: u32) -> u32 {
    multixact.wrapping_add(1).max(FIRST_MULTIXACT)
}
