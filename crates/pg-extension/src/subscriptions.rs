//! Subscriptions to other servers are refused.
//!
//! A subscription's worker finishes prepared transactions without a statement (`apply_handle_commit_prepared`), past the
//! commit guard. How far an origin was replayed is kept, so what a client of its own applies is safe.

use crate::statements;

/// Refuses `CREATE SUBSCRIPTION`.
pub fn refuse() -> ! {
    statements::refuse(
        "a subscription",
        "Copy the data with pg_dump, or let a client write it here.",
    )
}
