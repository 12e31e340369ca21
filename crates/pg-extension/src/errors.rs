//! How this library complains: PostgreSQL's own errors, each with what to do next.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode};

/// Ends the current statement with an error.
#[track_caller]
pub fn raise(code: PgSqlErrorCode, message: String, hint: &str) -> ! {
    report(PgLogLevel::ERROR, code, message, hint);
    unreachable!("ERROR does not return")
}

/// Ends this process; in the postmaster, the server.
#[track_caller]
pub fn die(message: String, hint: &str) -> ! {
    report(PgLogLevel::FATAL, PgSqlErrorCode::ERRCODE_SYSTEM_ERROR, message, hint);
    unreachable!("FATAL does not return")
}

/// Ends a client's connection before it did anything.
#[track_caller]
pub fn refuse_connection(message: String, hint: &str) -> ! {
    let code = PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED;
    report(PgLogLevel::FATAL, code, message, hint);
    unreachable!("FATAL does not return")
}

/// Ends the whole server: going on would spread something wrong.
#[track_caller]
pub fn panic_server(message: String) -> ! {
    report(PgLogLevel::PANIC, PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, message, "");
    unreachable!("PANIC does not return")
}

/// Something odd happened and we carried on.
#[track_caller]
pub fn warn(message: String) {
    report(PgLogLevel::WARNING, PgSqlErrorCode::ERRCODE_WARNING, message, "");
}

#[track_caller]
fn report(level: PgLogLevel, code: PgSqlErrorCode, message: String, hint: &str) {
    let report = ErrorReport::new(code, format!("borealis: {message}"), "borealis");
    let report = if hint.is_empty() { report } else { report.set_hint(hint) };
    report.report(level);
}
