//! What happened so far, for `borealis_counters()`.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $text:literal])+ $name:ident,)+) => {
        /// Counts since the server started, in shared memory.
        pub struct Counters { $($(#[doc = $text])+ pub $name: AtomicU64,)+ }

        impl Counters {
            /// Each with its name.
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Ordering::Relaxed)),)+]
            }
        }
    };
}

counters! {
    /// Pages read that the overlay had.
    pages_read_from_overlay,
    /// Pages read from the volume.
    pages_read_from_volume,
    /// Pages written out of shared buffers.
    pages_written,
    /// Pages by which relations were extended.
    pages_extended,
    /// Pages written that need not be kept.
    pages_dropped_at_once,
    /// Times that a writer waited for the volume before it used the spill file.
    writer_waits,
    /// Times that a writer found memory and spill file full, and waited for the volume.
    writer_waits_for_room,
    /// Times that a page of a map was found to be the last room that is left.
    maps_forgotten,
    /// Questions about the size of a fork.
    size_questions,
    /// Times that the size of a fork was evicted from the full table, or not noted there.
    sizes_left_out,
    /// Connections made to the instance process.
    broker_connections,
    /// Pages compared with the cluster's files.
    pages_compared,
}

/// Adds one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
