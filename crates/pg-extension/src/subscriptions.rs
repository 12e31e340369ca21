//! Subscriptions to other servers are refused, and with them replication origins.
//!
//! How far a subscription has come stands in no page, but in a file of the cluster (`pg_logical/replorigin_checkpoint`)
//! that is not kept: after every start its worker would apply changes once more. And the worker finishes prepared
//! transactions without a statement (`apply_handle_commit_prepared`), past the commit guard.

use pgrx::pg_guard;
use pgrx::pg_sys::{Datum, FunctionCallInfo};

use crate::{builtin_functions, statements};

/// Refuses origins made by hand; in the postmaster. Without one, nothing else can be done with origins.
pub fn install() {
    builtin_functions::replace([(c"pg_replication_origin_create", create_origin)]);
}

/// Refuses `CREATE SUBSCRIPTION`.
pub fn refuse() -> ! {
    statements::refuse(
        "a subscription",
        "Copy the data with pg_dump, or let a client write it here.",
    )
}

#[pg_guard]
unsafe extern "C-unwind" fn create_origin(_call: FunctionCallInfo) -> Datum {
    statements::refuse("a replication origin", "How far it has come would not be kept.")
}
