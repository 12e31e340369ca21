//! Tablespaces: names under which relations can be put, with a place for temporary and unlogged files.
//!
//! What has to last is in the volume, wherever its tablespace is. So the files of a tablespace are as disposable as all
//! others, and stand in the data directory (`pg_tblspc/OID`, what PostgreSQL calls "in place"): at the location that was
//! named, a writer and a fenced one before it would meet. The location is checked, marked as used and shown as by stock
//! PostgreSQL; nothing else goes there.

use std::ffi::c_char;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use pgrx::pg_sys::{self, Datum, FunctionCallInfo, Oid, PGFunction};
use pgrx::{FromDatum, IntoDatum, PgSqlErrorCode, pg_guard};
use wire_format::broker::TABLESPACE_LOCATIONS;

use crate::{builtin_functions, errors};

static STOCK_LOCATION: OnceLock<[PGFunction; 1]> = OnceLock::new();

/// The tablespace that this process is creating.
static CREATING: AtomicU32 = AtomicU32::new(0);

/// Replaces the function that shows a location; in the postmaster, so that every process has it.
pub fn install() {
    STOCK_LOCATION.get_or_init(|| builtin_functions::replace([(c"pg_tablespace_location", location)]));
}

/// Notes which tablespace is being created: nobody can look it up by name yet.
pub fn creating(tablespace: u32) {
    CREATING.store(tablespace, Ordering::Relaxed);
}

/// PostgreSQL linked the tablespace just created to its location; from now on it is a directory.
pub fn created() {
    let tablespace = CREATING.swap(0, Ordering::Relaxed);
    if let Err(error) = move_in_place(tablespace) {
        errors::raise(
            PgSqlErrorCode::ERRCODE_IO_ERROR,
            format!("cannot make the directory of tablespace {tablespace}: {error}"),
            "",
        );
    }
}

fn move_in_place(tablespace: u32) -> io::Result<()> {
    let directory = directory(tablespace);
    let location = match fs::read_link(&directory) {
        Ok(location) => location,
        // `allow_in_place_tablespaces`: it is a directory already.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(()),
        Err(error) => return Err(error),
    };
    fs::write(note(tablespace), location.into_os_string().into_vec())?;
    fs::remove_file(&directory)?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory.join(version_directory()))
}

/// The tablespace of this name, which is about to be dropped, if there is one.
pub fn named(name: *const c_char) -> Option<u32> {
    // SAFETY: a name of a parse tree; called in a transaction, and an unknown name gives zero.
    let tablespace = unsafe { pg_sys::get_tablespace_oid(name, true) };
    (tablespace != Oid::INVALID).then_some(tablespace.to_u32())
}

/// Frees the location of a tablespace that is gone, for another one.
pub fn dropped(tablespace: u32) {
    let Some(location) = noted(tablespace) else { return };
    let mark = location.join(version_directory());
    let removed = match fs::remove_dir(&mark) {
        // Another host's, or removed by hand.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    };
    if let Err(error) = removed.and_then(|()| fs::remove_file(note(tablespace))) {
        errors::warn(format!("cannot free {}: {error}", mark.display()));
    }
}

fn directory(tablespace: u32) -> PathBuf {
    Path::new("pg_tblspc").join(tablespace.to_string())
}

fn version_directory() -> String {
    format!("PG_{}_{}", pg_sys::PG_VERSION_NUM / 10_000, pg_sys::CATALOG_VERSION_NO)
}

/// The file that notes the location.
fn note(tablespace: u32) -> PathBuf {
    Path::new(TABLESPACE_LOCATIONS).join(tablespace.to_string())
}

/// The location that was named, if one was.
fn noted(tablespace: u32) -> Option<PathBuf> {
    let bytes = fs::read(note(tablespace)).ok().filter(|bytes| !bytes.is_empty())?;
    Some(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}

/// `pg_tablespace_location`.
#[pg_guard]
unsafe extern "C-unwind" fn location(call: FunctionCallInfo) -> Datum {
    // SAFETY: PostgreSQL calls this strict function with one OID; zero stands for the database's tablespace.
    let tablespace = unsafe {
        let asked = Oid::from_datum(pgrx::pg_getarg_datum_raw(call, 0), false).expect("the function is strict");
        match asked {
            Oid::INVALID => pg_sys::MyDatabaseTableSpace,
            asked => asked,
        }
    };
    if let Some(location) = noted(tablespace.to_u32()) {
        let location = location.to_string_lossy().into_owned();
        return location.into_datum().expect("a text is a datum");
    }
    let [stock] = STOCK_LOCATION.get().expect("set when the function was replaced");
    let stock = stock.expect("replaced functions are not null");
    // SAFETY: the stock function, with the call it was meant for.
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| stock(call)) }
}
