//! For tests: every page that is read must be the one that stock PostgreSQL would have in its file.
//!
//! Pages from the volume are compared after the masking that PostgreSQL itself uses to compare redo with the original
//! (`wal_consistency_checking`); pages from the overlay must be equal to the last byte.

use std::ffi::{c_char, c_int};

use units::{PAGE_BYTES, PageKey, fork};

use crate::counters::count;
use crate::page::{self, PageBytes};
use crate::{errors, last_written, log_position, shared_memory};

unsafe extern "C-unwind" {
    fn heap_mask(page: *mut c_char, block: u32);
    fn btree_mask(page: *mut c_char, block: u32);
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
    let is_main = key.fork.fork == fork::MAIN;
    let pointer = page.as_mut_ptr().cast();
    // SAFETY: each gets a whole page that is ours, of the kind it is for, which is why only sane headers get here.
    unsafe {
        if is_main && page::is_sequence(page) {
            seq_mask(pointer, key.block);
        } else if is_main && page::is_heap(page) {
            heap_mask(pointer, key.block);
        } else if is_main && page::is_btree(page) {
            btree_mask(pointer, key.block);
        } else {
            mask_page_lsn_and_checksum(pointer);
        }
    }
}
