//! For tests: every page that is read must be the one that stock PostgreSQL would have in its file.
//!
//! Pages from the volume are compared after the masking that PostgreSQL itself uses to compare redo with the original
//! (`wal_consistency_checking`); pages from the overlay must be equal to the last byte.

use std::ffi::{c_char, c_int};

use units::{PAGE_BYTES, PageKey, fork};

use crate::counters::count;
use crate::page::{self, Kind, PageBytes};
use crate::{errors, last_written, log_position, shared_memory};

/// `SPGIST_METAPAGE_BLKNO`.
const SPGIST_META_BLOCK: u32 = 0;

unsafe extern "C-unwind" {
    fn heap_mask(page: *mut c_char, block: u32);
    fn btree_mask(page: *mut c_char, block: u32);
    fn hash_mask(page: *mut c_char, block: u32);
    fn gin_mask(page: *mut c_char, block: u32);
    fn gist_mask(page: *mut c_char, block: u32);
    fn spg_mask(page: *mut c_char, block: u32);
    fn brin_mask(page: *mut c_char, block: u32);
    fn generic_mask(page: *mut c_char, block: u32);
    fn seq_mask(page: *mut c_char, block: u32);
    fn mask_page_lsn_and_checksum(page: *mut c_char) -> c_int;
}

/// Ends the server if `page` is not what `in_file` says.
pub fn check(key: &PageKey, page: &PageBytes, in_file: &PageBytes, from_volume: bool) {
    count(&shared_memory::counters().pages_compared);
    if page == in_file || (from_volume && key.fork.fork == fork::FREE_SPACE) {
        return;
    }
    let (mut ours, mut theirs) = (*page, *in_file);
    if from_volume {
        mask(&mut ours, key);
        mask(&mut theirs, key);
    }
    if let Some(offset) = (0..PAGE_BYTES).find(|at| ours[*at] != theirs[*at]) {
        let from = if from_volume { "volume" } else { "overlay" };
        let relation = key.fork.to_string().replace('/', "-");
        for (name, bytes) in [(from, page), ("file", in_file)] {
            // Beside the data directory, which the next start of the instance makes anew.
            let path = format!("../borealis-differs-{relation}-{}.{name}", key.block);
            if let Err(error) = std::fs::write(&path, bytes) {
                errors::warn(format!("cannot write {path}: {error}"));
            }
        }
        errors::panic_server(format!(
            "{key} from the {from}, of {}, differs at offset {offset} from the file's, of {}; needed {}, durable {}",
            page::lsn(page),
            page::lsn(in_file),
            last_written::needed(key),
            log_position::durable()
        ));
    }
}

fn mask(page: &mut PageBytes, key: &PageKey) {
    let kind = match key.fork.fork {
        fork::MAIN => page::kind(page),
        _ => Kind::Other,
    };
    let pointer = page.as_mut_ptr().cast();
    // SAFETY: each gets a whole page that is ours, of the kind it is for, which is why only sane headers get here.
    unsafe {
        match kind {
            Kind::Sequence => seq_mask(pointer, key.block),
            Kind::Heap => heap_mask(pointer, key.block),
            Kind::Btree => btree_mask(pointer, key.block),
            Kind::Hash => hash_mask(pointer, key.block),
            Kind::Gin => gin_mask(pointer, key.block),
            Kind::Gist => gist_mask(pointer, key.block),
            Kind::Spgist => spg_mask(pointer, key.block),
            Kind::Brin => brin_mask(pointer, key.block),
            Kind::Generic => generic_mask(pointer, key.block),
            Kind::Other => drop(mask_page_lsn_and_checksum(pointer)),
        }
    }
    if kind == Kind::Spgist && key.block == SPGIST_META_BLOCK {
        // Where the last tuples went (`lastUsedPages`): advice, whose changes nobody logs (`SpGistUpdateMetaPage`).
        page.fill(0);
    }
}
