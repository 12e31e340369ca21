//! What Borealis owns cannot be set by SQL: not for a session, a role, a database or the whole server.
//!
//! Most of it stands on the command line and could not be changed anyway, but whoever tries shall be told. Some settings a
//! role's or a session's value would win over.

use std::sync::OnceLock;

use pgrx::pg_sys::{self, Datum, FunctionCallInfo, PGFunction, VariableSetKind};
use pgrx::{PgSqlErrorCode, pg_guard};

use crate::statements::text;
use crate::{builtin_functions, errors};

static STOCK_SET_CONFIG: OnceLock<[PGFunction; 1]> = OnceLock::new();

/// Watches `set_config()`; in the postmaster.
pub fn install() {
    STOCK_SET_CONFIG.get_or_init(|| builtin_functions::replace([(c"set_config_by_name", set_config)]));
}

/// Refuses a statement that sets what Borealis owns. Putting it back is harmless.
///
/// # Safety
/// The statement must be one of PostgreSQL's.
pub unsafe fn check(statement: *const pg_sys::VariableSetStmt) {
    // SAFETY: see above.
    let (kind, name) = unsafe { ((*statement).kind, text((*statement).name)) };
    let puts_back = [
        VariableSetKind::VAR_RESET,
        VariableSetKind::VAR_RESET_ALL,
        VariableSetKind::VAR_SET_DEFAULT,
    ];
    if !puts_back.contains(&kind) {
        check_name(name);
    }
}

fn check_name(name: &str) {
    if let Some(reason) = owned_settings::refusal(name) {
        errors::raise(
            PgSqlErrorCode::ERRCODE_CANT_CHANGE_RUNTIME_PARAM,
            format!("{} is set by Borealis: {reason}", name.to_ascii_lowercase()),
            "",
        );
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn set_config(call: FunctionCallInfo) -> Datum {
    // SAFETY: PostgreSQL calls this function with the arguments declared for it, of which any may be null.
    if let Some(name) = unsafe { pgrx::pg_getarg::<String>(call, 0) } {
        check_name(&name);
    }
    let stock = STOCK_SET_CONFIG.get().and_then(|functions| functions[0]);
    let stock = stock.expect("set when the function was replaced");
    // SAFETY: the stock function, with the call it was meant for.
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| stock(call)) }
}
