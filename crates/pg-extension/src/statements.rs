//! Utility statements: what Borealis refuses, what it changes, and what needs more than the storage manager sees.
//!
//! Refused until it works: moving a database to another tablespace. Refused for good: setting what Borealis owns
//! (`protected_settings`).

use std::ffi::{CStr, c_char, c_int, c_void};

use pgrx::pg_sys::panic::pgrx_extern_c_guard as guarded;
use pgrx::pg_sys::{self, NodeTag, ObjectAccessType, Oid, PlannedStmt, TransactionStmtKind};
use pgrx::{PgSqlErrorCode, pg_guard};

use crate::{commit_guard, databases, errors, protected_settings, range_maps, tablespaces};

static mut PREVIOUS_UTILITY: pg_sys::ProcessUtility_hook_type = None;
static mut PREVIOUS_ACCESS: pg_sys::object_access_hook_type = None;

/// Sets the hooks; in the postmaster.
pub fn install() {
    // SAFETY: hooks are plain variables, and this is the postmaster with its one thread.
    unsafe {
        PREVIOUS_UTILITY = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(utility);
        PREVIOUS_ACCESS = pg_sys::object_access_hook;
        pg_sys::object_access_hook = Some(object_access);
    }
}

/// A text of a parse tree.
pub fn text<'a>(pointer: *const c_char) -> &'a str {
    if pointer.is_null() {
        return "";
    }
    // SAFETY: texts in parse trees end with zero and live as long as the statement.
    unsafe { CStr::from_ptr(pointer) }.to_str().unwrap_or_default()
}

/// Raises the error that says what does not work yet, and what does.
pub fn refuse(what: &str, hint: &str) -> ! {
    errors::raise(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("{what}: not supported by this version of Borealis yet"),
        hint,
    )
}

/// The options of a statement.
fn options(list: *mut pg_sys::List) -> Vec<*mut pg_sys::DefElem> {
    if list.is_null() {
        return Vec::new();
    }
    // SAFETY: a list of options holds `DefElem`s, as many as it says.
    unsafe {
        (0..(*list).length as usize)
            .map(|at| (*(*list).elements.add(at)).ptr_value.cast())
            .collect()
    }
}

// PostgreSQL's own, without a guard around it: see `utility`.
unsafe extern "C-unwind" {
    #[link_name = "standard_ProcessUtility"]
    fn stock_utility(
        planned: *mut PlannedStmt,
        query: *const c_char,
        read_only: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        parameters: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
        receiver: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    );
}

/// Executes a utility statement.
///
/// An error of the statement passes over this frame as PostgreSQL raised it. A guard would make it anew from what it knows
/// of it, without its position, its context and the names of the table and constraint. So nothing here has a destructor.
#[allow(clippy::too_many_arguments)]
unsafe extern "C-unwind" fn utility(
    planned: *mut PlannedStmt,
    query: *const c_char,
    read_only: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    parameters: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    receiver: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: called from PostgreSQL, with its own arguments; `PREVIOUS_UTILITY` was set in `install`.
    unsafe {
        let prepared = guarded(|| prepare(planned, read_only, context));
        PREVIOUS_UTILITY.unwrap_or(stock_utility)(
            prepared.planned,
            query,
            prepared.read_only,
            context,
            parameters,
            environment,
            receiver,
            completion,
        );
        guarded(|| match prepared.afterwards {
            Afterwards::Nothing => {}
            Afterwards::DatabaseCopied => range_maps::log(),
            Afterwards::DatabaseGone(database) => databases::forget(database),
            Afterwards::TablespaceCreated => tablespaces::created(),
            Afterwards::TablespaceGone(tablespace) => tablespaces::dropped(tablespace),
        });
    }
}

/// A statement, ready for its execution.
#[derive(Clone, Copy)]
struct Prepared {
    planned: *mut PlannedStmt,
    read_only: bool,
    afterwards: Afterwards,
}

/// What is to be done once PostgreSQL has executed a statement.
#[derive(Clone, Copy)]
enum Afterwards {
    /// Nothing.
    Nothing,
    /// A database was copied.
    DatabaseCopied,
    /// This database is gone.
    DatabaseGone(u32),
    /// A tablespace was made.
    TablespaceCreated,
    /// This tablespace is gone.
    TablespaceGone(u32),
}

/// Refuses what must be refused, changes what must be changed.
///
/// # Safety
/// The statement must be a planned utility statement of PostgreSQL's.
unsafe fn prepare(
    planned: *mut PlannedStmt,
    read_only: bool,
    context: pg_sys::ProcessUtilityContext::Type,
) -> Prepared {
    let (mut planned, mut read_only) = (planned, read_only);
    let (mut afterwards, mut needs_quorum) = (Afterwards::Nothing, false);
    // SAFETY: see above; each cast below follows the node's tag.
    unsafe {
        match (*(*planned).utilityStmt).type_ {
            NodeTag::T_CreateTableSpaceStmt => afterwards = Afterwards::TablespaceCreated,
            NodeTag::T_DropTableSpaceStmt => {
                let statement = (*planned).utilityStmt.cast::<pg_sys::DropTableSpaceStmt>();
                if let Some(tablespace) = tablespaces::named((*statement).tablespacename) {
                    afterwards = Afterwards::TablespaceGone(tablespace);
                }
            }
            NodeTag::T_AlterDatabaseStmt => {
                let statement = (*planned).utilityStmt.cast::<pg_sys::AlterDatabaseStmt>();
                if options((*statement).options)
                    .iter()
                    .any(|option| text((**option).defname) == "tablespace")
                {
                    refuse(
                        "moving a database to another tablespace",
                        "CREATE DATABASE ... TEMPLATE ... TABLESPACE makes a copy of it there; ALTER TABLE ... SET \
                         TABLESPACE moves single tables.",
                    );
                }
            }
            NodeTag::T_CreatedbStmt => {
                if read_only {
                    planned = pg_sys::copyObjectImpl(planned.cast()).cast();
                    read_only = false;
                }
                let statement = (*planned).utilityStmt.cast::<pg_sys::CreatedbStmt>();
                copy_through_log(options((*statement).options));
                afterwards = Afterwards::DatabaseCopied;
            }
            NodeTag::T_DropdbStmt => {
                let statement = (*planned).utilityStmt.cast::<pg_sys::DropdbStmt>();
                let database = pg_sys::get_database_oid((*statement).dbname, true);
                if database != Oid::INVALID {
                    afterwards = Afterwards::DatabaseGone(database.to_u32());
                }
            }
            NodeTag::T_TransactionStmt => {
                let statement = (*planned).utilityStmt.cast::<pg_sys::TransactionStmt>();
                let kinds = [
                    TransactionStmtKind::TRANS_STMT_COMMIT_PREPARED,
                    TransactionStmtKind::TRANS_STMT_ROLLBACK_PREPARED,
                ];
                // Anywhere else PostgreSQL refuses it, and nothing would tell the guard when to let go.
                let at_top = context == pg_sys::ProcessUtilityContext::PROCESS_UTILITY_TOPLEVEL
                    && !pg_sys::IsTransactionBlock()
                    && !pg_sys::IsSubTransaction();
                needs_quorum = at_top && kinds.contains(&(*statement).kind);
            }
            NodeTag::T_VariableSetStmt => protected_settings::check((*planned).utilityStmt.cast()),
            NodeTag::T_AlterSystemStmt => {
                let statement = (*planned).utilityStmt.cast::<pg_sys::AlterSystemStmt>();
                protected_settings::check((*statement).setstmt);
            }
            NodeTag::T_AlterRoleSetStmt => {
                let statement = (*planned).utilityStmt.cast::<pg_sys::AlterRoleSetStmt>();
                protected_settings::check((*statement).setstmt);
            }
            NodeTag::T_AlterDatabaseSetStmt => {
                let statement = (*planned).utilityStmt.cast::<pg_sys::AlterDatabaseSetStmt>();
                protected_settings::check((*statement).setstmt);
            }
            NodeTag::T_CreateFunctionStmt => {
                let statement = (*planned).utilityStmt.cast::<pg_sys::CreateFunctionStmt>();
                check_settings(options((*statement).options));
            }
            NodeTag::T_AlterFunctionStmt => {
                let statement = (*planned).utilityStmt.cast::<pg_sys::AlterFunctionStmt>();
                check_settings(options((*statement).actions));
            }
            _ => {}
        }
    }
    if needs_quorum {
        // Released by the end of the statement's own transaction: a cancel that arrived during the wait is too late, and
        // must not make a failure out of what is committed.
        commit_guard::hold();
    }
    Prepared {
        planned,
        read_only,
        afterwards,
    }
}

/// Refuses a function that would set what Borealis owns.
///
/// # Safety
/// The options must be those of a statement about a function.
unsafe fn check_settings(options: Vec<*mut pg_sys::DefElem>) {
    for option in options {
        // SAFETY: see above; the argument of a function's option `set` is such a statement (gram.y).
        unsafe {
            if text((*option).defname) == "set" {
                protected_settings::check((*option).arg.cast());
            }
        }
    }
}

/// A database copied as files would not be in the log, so `STRATEGY FILE_COPY` becomes `WAL_LOG`, the default.
///
/// # Safety
/// The options must be those of a statement that may be changed.
unsafe fn copy_through_log(options: Vec<*mut pg_sys::DefElem>) {
    for option in options {
        // SAFETY: see above; the new text is allocated where the statement lives or shorter, in the current context, which
        // outlives the statement's execution.
        unsafe {
            if text((*option).defname) == "strategy"
                && text(pg_sys::defGetString(option)).eq_ignore_ascii_case("file_copy")
            {
                errors::warn(
                    "the database is copied with strategy WAL_LOG, the only one that the volume sees".to_owned(),
                );
                (*option).arg = pg_sys::makeString(pg_sys::pstrdup(c"wal_log".as_ptr())).cast();
            }
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn object_access(
    access: ObjectAccessType::Type,
    class: Oid,
    object: Oid,
    sub_object: c_int,
    argument: *mut c_void,
) {
    // SAFETY: set in `install`; the arguments are PostgreSQL's own.
    unsafe {
        if let Some(previous) = PREVIOUS_ACCESS {
            pg_sys::ffi::pg_guard_ffi_boundary(|| previous(access, class, object, sub_object, argument));
        }
    }
    if access == ObjectAccessType::OAT_POST_CREATE && sub_object == 0 {
        match class {
            pg_sys::DatabaseRelationId => databases::creating(object.to_u32()),
            pg_sys::TableSpaceRelationId => tablespaces::creating(object.to_u32()),
            _ => {}
        }
    }
}
