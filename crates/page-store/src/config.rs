//! The limits of a store.

/// How much memory and disk a store uses. Every limit holds for the whole node, not for each segment.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Bytes of log in memory tables before one is written out as a layer.
    pub table_bytes_max: usize,
    /// Bytes of layer blocks kept decoded for reads.
    pub cache_bytes_max: usize,
    /// Bytes of the indexes of layers kept decoded.
    pub index_cache_bytes_max: usize,
    /// Bytes of pages kept as they were made, so that the next read applies only what came since.
    pub page_cache_bytes_max: usize,
    /// Bytes of one journal file, allocated before they are needed. One may be longer, if what is appended at once is.
    pub journal_file_bytes: u64,
    /// Bytes of journal kept for peers that are behind; beyond it they need a whole copy.
    pub journal_retained_bytes_max: u64,
    /// Bytes that the pieces of long records of one segment take until the last piece of each is there. PostgreSQL reads no
    /// record as long as the default back (`MaxAllocSize`). One for which there is no room makes what comes after it unreadable.
    pub fragment_bytes_max: u64,
    /// Deltas of one page that a read applies before they are folded into an image.
    pub chain_deltas_max: usize,
    /// Bytes of deltas of one page before they are folded into an image.
    pub chain_bytes_max: usize,
    /// Layers of about the same size before they are merged into one.
    pub merge_layers: usize,
}

impl Default for StoreConfig {
    /// About 80 MiB of memory; 130 MiB while tables cannot be written out as fast as log comes in. Only while a record of
    /// hundreds of megabytes comes in, it is as much more.
    fn default() -> StoreConfig {
        StoreConfig {
            table_bytes_max: 24 << 20,
            cache_bytes_max: 32 << 20,
            index_cache_bytes_max: 8 << 20,
            page_cache_bytes_max: 16 << 20,
            journal_file_bytes: 16 << 20,
            journal_retained_bytes_max: 96 << 20,
            fragment_bytes_max: 1 << 30,
            chain_deltas_max: 32,
            chain_bytes_max: 16 << 10,
            merge_layers: 4,
        }
    }
}
