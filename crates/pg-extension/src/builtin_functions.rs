//! Built-in SQL functions that stock PostgreSQL answers from files, answered otherwise.
//!
//! There is no hook for them, so their entries in the table of built-in functions are replaced: every call by any name
//! (`CREATE FUNCTION … LANGUAGE internal`, too) goes through it.

use std::ffi::{CStr, c_char, c_int};

use pgrx::pg_sys::{Datum, FunctionCallInfo, Oid, PGFunction};

use crate::{errors, memory_access};

/// A function as the server calls it.
pub type Function = unsafe extern "C-unwind" fn(FunctionCallInfo) -> Datum;

/// PostgreSQL's `FmgrBuiltin` (fmgrtab.h).
#[repr(C)]
struct Builtin {
    oid: Oid,
    arguments_count: i16,
    strict: bool,
    returns_set: bool,
    name: *const c_char,
    function: PGFunction,
}

unsafe extern "C" {
    static mut fmgr_builtins: [Builtin; 0];
    static fmgr_nbuiltins: c_int;
}

/// Replaces functions by name, and gives the stock ones; in the postmaster, so that every process has them.
pub fn replace<const COUNT: usize>(replacements: [(&CStr, Function); COUNT]) -> [PGFunction; COUNT] {
    // SAFETY: both are PostgreSQL's own; the table has as many entries as the count says.
    let table =
        unsafe { std::slice::from_raw_parts_mut((&raw mut fmgr_builtins).cast::<Builtin>(), fmgr_nbuiltins as usize) };
    let bytes = size_of_val(table);
    let start = table.as_mut_ptr();
    memory_access::make_writable(start.cast(), bytes, true);
    let stock = replacements.map(|(name, function)| {
        // SAFETY: the name of a built-in function is a constant text.
        let entry = table
            .iter_mut()
            .find(|entry| unsafe { CStr::from_ptr(entry.name) } == name);
        match entry {
            Some(entry) => entry.function.replace(function),
            None => errors::die(format!("PostgreSQL has no function {name:?}"), "Use PostgreSQL 15."),
        }
    });
    memory_access::make_writable(start.cast(), bytes, false);
    stock
}
