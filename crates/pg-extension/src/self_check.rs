//! Finds the storage manager's table of functions inside the server, and makes sure that replacing it is enough.
//!
//! The table (`smgrsw` in PostgreSQL's smgr.c) is static, so it is found by what stands in it: the exported `md*`
//! functions. A compiler may also have turned calls through the table into direct ones; those would bypass us. The
//! machine code of every exported `smgr*` is therefore scanned for calls of `md*`, and only the known ones are accepted:
//! `smgrinit` and `smgropen` prepare md's own state, which we want, and `mdimmedsync` finds an empty file to sync.
//!
//! Invariant: unless everything is as expected, the server refuses to start.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

use crate::errors;
use crate::function_table::Table;

// The functions are never called by these declarations: they only name addresses.
#[rustfmt::skip]
unsafe extern "C" {
    fn mdinit(); fn mdopen(); fn mdclose(); fn mdcreate(); fn mdexists(); fn mdunlink(); fn mdextend(); fn mdprefetch();
    fn mdread(); fn mdwrite(); fn mdwriteback(); fn mdnblocks(); fn mdtruncate(); fn mdimmedsync();
    fn smgrinit(); fn smgropen(); fn smgrsetowner(); fn smgrclearowner(); fn smgrexists(); fn smgrclose();
    fn smgrrelease(); fn smgrreleaseall(); fn smgrcloseall(); fn smgrclosenode(); fn smgrcreate(); fn smgrdosyncall();
    fn smgrdounlinkall(); fn smgrextend(); fn smgrprefetch(); fn smgrread(); fn smgrwrite(); fn smgrwriteback();
    fn smgrnblocks(); fn smgrnblocks_cached(); fn smgrtruncate(); fn smgrtruncate2(); fn smgrimmedsync();
    fn dladdr1(address: *const c_void, info: *mut libc::Dl_info, extra: *mut *mut c_void, flags: c_int) -> c_int;
}

/// Symbol table entry of a 64-bit ELF file.
#[repr(C)]
struct ElfSymbol {
    name: u32,
    info: u8,
    other: u8,
    section: u16,
    value: u64,
    bytes: u64,
}

const RTLD_DL_SYMENT: c_int = 1;
/// The largest exported function is a few hundred bytes; more than this is not what we know.
const FUNCTION_BYTES_MAX: usize = 16 << 10;
/// `smgr_shutdown` of md is null, so that entry names nobody.
const SHUTDOWN: usize = 1;

type Named = (&'static str, unsafe extern "C" fn());

/// The entries of the table, in its order.
const MD: [Named; 15] = [
    ("mdinit", mdinit),
    ("", mdinit),
    ("mdopen", mdopen),
    ("mdclose", mdclose),
    ("mdcreate", mdcreate),
    ("mdexists", mdexists),
    ("mdunlink", mdunlink),
    ("mdextend", mdextend),
    ("mdprefetch", mdprefetch),
    ("mdread", mdread),
    ("mdwrite", mdwrite),
    ("mdwriteback", mdwriteback),
    ("mdnblocks", mdnblocks),
    ("mdtruncate", mdtruncate),
    ("mdimmedsync", mdimmedsync),
];

const SMGR: [Named; 23] = [
    ("smgrinit", smgrinit),
    ("smgropen", smgropen),
    ("smgrsetowner", smgrsetowner),
    ("smgrclearowner", smgrclearowner),
    ("smgrexists", smgrexists),
    ("smgrclose", smgrclose),
    ("smgrrelease", smgrrelease),
    ("smgrreleaseall", smgrreleaseall),
    ("smgrcloseall", smgrcloseall),
    ("smgrclosenode", smgrclosenode),
    ("smgrcreate", smgrcreate),
    ("smgrdosyncall", smgrdosyncall),
    ("smgrdounlinkall", smgrdounlinkall),
    ("smgrextend", smgrextend),
    ("smgrprefetch", smgrprefetch),
    ("smgrread", smgrread),
    ("smgrwrite", smgrwrite),
    ("smgrwriteback", smgrwriteback),
    ("smgrnblocks", smgrnblocks),
    ("smgrnblocks_cached", smgrnblocks_cached),
    ("smgrtruncate", smgrtruncate),
    ("smgrtruncate2", smgrtruncate2),
    ("smgrimmedsync", smgrimmedsync),
];

/// Direct calls that do no harm.
const KNOWN_DIRECT_CALLS: [(&str, &str); 4] = [
    ("smgrinit", "mdinit"),
    ("smgropen", "mdopen"),
    ("smgrdosyncall", "mdimmedsync"),
    ("smgrimmedsync", "mdimmedsync"),
];

const REFUSED: &str = "This build of PostgreSQL is not one that Borealis knows. Use PostgreSQL 15 (15.16 or later) for x86-64 as packaged by Debian.";

/// The server's table of storage manager functions. Ends the server if it is not what we know.
pub fn find_storage_manager() -> *mut Table {
    for (name, function) in SMGR {
        for called in direct_calls(name, function) {
            if !KNOWN_DIRECT_CALLS.contains(&(name, called)) {
                errors::die(
                    format!("{name} calls {called} directly, past the storage manager's table"),
                    REFUSED,
                );
            }
        }
    }
    let mut found = Found {
        table: ptr::null_mut(),
        count: 0,
    };
    // SAFETY: `look_into` has the type asked for and gets a pointer to `found`, which outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(look_into), (&raw mut found).cast()) };
    if found.count != 1 {
        errors::die(
            format!(
                "found {} tables of storage manager functions instead of one",
                found.count
            ),
            REFUSED,
        );
    }
    found.table.cast()
}

struct Found {
    table: *mut usize,
    count: usize,
}

/// Looks through the data of the main program for the table.
unsafe extern "C" fn look_into(info: *mut libc::dl_phdr_info, _size: usize, found: *mut c_void) -> c_int {
    // SAFETY: `dl_iterate_phdr` gives a valid description, and `found` is what `find_storage_manager` gave. A segment of
    // the program headers is mapped and readable; read-only-after-relocation memory lies inside a writable segment.
    unsafe {
        let (info, found) = (&*info, &mut *found.cast::<Found>());
        if *info.dlpi_name.cast::<c_char>() != 0 {
            return 0;
        }
        for index in 0..usize::from(info.dlpi_phnum) {
            let segment = &*info.dlpi_phdr.add(index);
            if segment.p_type != libc::PT_LOAD || segment.p_flags & libc::PF_W == 0 {
                continue;
            }
            let words = (info.dlpi_addr + segment.p_vaddr).next_multiple_of(8) as *mut usize;
            let count = (segment.p_memsz as usize / 8).saturating_sub(MD.len());
            for at in 0..count {
                let candidate = words.add(at);
                if (0..MD.len()).all(|entry| *candidate.add(entry) == expected(entry)) {
                    found.table = candidate;
                    found.count += 1;
                }
            }
        }
        1
    }
}

fn expected(entry: usize) -> usize {
    if entry == SHUTDOWN { 0 } else { MD[entry].1 as usize }
}

/// Which `md*` functions the machine code of `function` calls or jumps to directly (`e8`, `e9`, and
/// `0f 80` to `0f 8f`, each with a 32-bit distance).
fn direct_calls(name: &str, function: unsafe extern "C" fn()) -> Vec<&'static str> {
    let start = function as usize;
    // SAFETY: all-zero is a value of this plain C structure.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    let mut symbol: *mut c_void = ptr::null_mut();
    // SAFETY: both results point to live variables; with this flag the second receives a symbol table entry.
    let resolved = unsafe { dladdr1(start as *const c_void, &raw mut info, &raw mut symbol, RTLD_DL_SYMENT) };
    if resolved == 0 || symbol.is_null() || info.dli_saddr as usize != start {
        errors::die(format!("cannot find the size of {name}"), REFUSED);
    }
    // SAFETY: `dladdr1` succeeded, so this is an entry of the loaded program's symbol table.
    let bytes_count = unsafe { (*symbol.cast::<ElfSymbol>()).bytes } as usize;
    if bytes_count == 0 || bytes_count > FUNCTION_BYTES_MAX {
        errors::die(format!("{name} is {bytes_count} bytes long"), REFUSED);
    }
    // SAFETY: the symbol says that this many bytes of readable code stand there.
    let code = unsafe { std::slice::from_raw_parts(start as *const u8, bytes_count) };
    let mut called = Vec::new();
    for (at, window) in code.windows(5).enumerate() {
        let is_conditional = at != 0 && code[at - 1] == 0x0f && matches!(window[0], 0x80..=0x8f);
        if !is_conditional && !matches!(window[0], 0xe8 | 0xe9) {
            continue;
        }
        let distance = i32::from_le_bytes([window[1], window[2], window[3], window[4]]);
        let target = (start + at + 5).wrapping_add_signed(distance as isize);
        called.extend(
            MD.iter()
                .filter(|(name, md)| !name.is_empty() && *md as usize == target)
                .map(|(name, _)| *name),
        );
    }
    called
}
