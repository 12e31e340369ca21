//! Subscriptions to other servers: what their workers commit has its quorum, too.
//!
//! A worker commits what it applies like any session. But a prepared transaction it ends on the publisher's word
//! (`apply_handle_commit_prepared` in worker.c), and neither a statement nor a transaction event comes before that. Every word of
//! the publisher's comes through `walrcv_receive`, though, one of a table of functions that a worker has for itself. So
//! the commit guard holds from there on.
//!
//! In between, the worker may set `synchronous_commit` to what the subscription says (`maybe_reread_subscription`).
//! PostgreSQL passes over that where the session's own value is set, which has a higher rank (`set_config_option` in guc.c).
//!
//! Invariants:
//! - From the receipt of a message that ends a prepared transaction until that end the commit guard holds, and
//!   `synchronous_commit` is not below `on`.
//! - A worker that asks for the next message holds nothing.

use std::ffi::{c_char, c_int};

use pgrx::pg_sys::panic::pgrx_extern_c_guard as guarded;
use pgrx::pg_sys::{self, GucContext, GucSource, WalReceiverConn};

use crate::commit_guard;

/// First byte of a message that brings log; the others are about the connection.
const LOG_DATA: u8 = b'w';
/// Then two positions and a time, and the type of what they are about (`WalSndPrepareWrite` in walsender.c).
const TYPE_AT: usize = 1 + 3 * size_of::<u64>();
/// `LOGICAL_REP_MSG_COMMIT_PREPARED` and `LOGICAL_REP_MSG_ROLLBACK_PREPARED` in logicalproto.h.
const ENDS_PREPARED: [u8; 2] = [b'K', b'r'];
/// What `walrcv_receive` returns when nothing will come any more.
const END_OF_STREAM: c_int = -1;

static mut STOCK_RECEIVE: pg_sys::walrcv_receive_fn = None;

/// Begins to watch what this process is told, if it is a worker. Called before every commit: a worker loads its table of
/// functions before its first transaction, and is told nothing before its second one.
pub fn watch() {
    // SAFETY: plain variables of this process; the table belongs to a library that is never unloaded, and is writable.
    unsafe {
        let (functions, stock) = (pg_sys::WalReceiverFunctions, STOCK_RECEIVE);
        if functions.is_null() || stock.is_some() || !pg_sys::IsLogicalWorker() {
            return;
        }
        STOCK_RECEIVE = (*functions).walrcv_receive.replace(receive);
        pg_sys::SetConfigOption(
            c"synchronous_commit".as_ptr(),
            c"on".as_ptr(),
            GucContext::PGC_USERSET,
            GucSource::PGC_S_SESSION,
        );
    }
}

/// Gives the worker the publisher's next message, if there is one.
///
/// An error passes over this frame as PostgreSQL raised it, so nothing here has a destructor.
unsafe extern "C-unwind" fn receive(
    connection: *mut WalReceiverConn,
    message: *mut *mut c_char,
    socket: *mut pg_sys::pgsocket,
) -> c_int {
    // What was to be rolled back may not have been there: then no transaction's end has let go.
    commit_guard::release();
    // SAFETY: set in `watch`, before this function could be called; the arguments are PostgreSQL's own. A message is as
    // long as PostgreSQL says.
    unsafe {
        let Some(stock) = STOCK_RECEIVE else {
            return END_OF_STREAM;
        };
        let length = stock(connection, message, socket);
        if usize::try_from(length).is_ok_and(|length| ends_prepared(*message, length)) {
            guarded(commit_guard::hold);
        }
        length
    }
}

/// Whether a message ends a prepared transaction. A row that a worker copies may look like one: then the guard holds until
/// the next row, which harms nothing.
///
/// # Safety
/// The message must have this length.
unsafe fn ends_prepared(message: *const c_char, length: usize) -> bool {
    // SAFETY: see above.
    unsafe {
        length > TYPE_AT
            && *message.cast::<u8>() == LOG_DATA
            && ENDS_PREPARED.contains(&*message.cast::<u8>().add(TYPE_AT))
    }
}
