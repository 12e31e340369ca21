//! What is fuzzed: one function for each decoder. Any bytes give a value or an error; what reads back must be what was
//! written.
//!
//! `cargo xtask fuzz` runs them under libFuzzer (`libfuzzer/`, a package of its own); `tests/replay.rs` runs them in every
//! `make test` on the [`seeds`], on `corpus/`, which libFuzzer found from them, and on mutations of both. An input that once
//! failed is a file in `corpus/TARGET/`, named after what it found.
//!
//! Most of what we read carries a checksum, which no mutation survives. The targets *seal* such input: they put the right
//! checksum on whatever bytes they are given, so that what lies behind the checksum is reached.

mod input;
mod log;
pub mod mutation;
mod pages;
mod protocol;
mod seeds;
mod store;
mod wire;

use wal::resource_manager;

pub use seeds::{gather, seeds};

/// One decoder under test.
pub struct Target {
    /// Its name, and that of its folder in `corpus/`.
    pub name: &'static str,
    /// Feeds it. Panics if a law is broken.
    pub run: fn(&[u8]),
}

/// Every target.
pub const TARGETS: &[Target] = &[
    target_of("wal-stream", log::stream),
    target_of("wal-layout", log::layout),
    target_of("wal-record", log::record),
    target_of("wal-marks", log::marks),
    target_of("redo-apply", pages::apply),
    target_of("redo-heap", |data| pages::apply_of(resource_manager::HEAP, data)),
    target_of("redo-heap2", |data| pages::apply_of(resource_manager::HEAP2, data)),
    target_of("redo-btree", |data| pages::apply_of(resource_manager::BTREE, data)),
    target_of("redo-hash", |data| pages::apply_of(resource_manager::HASH, data)),
    target_of("redo-gin", |data| pages::apply_of(resource_manager::GIN, data)),
    target_of("redo-gist", |data| pages::apply_of(resource_manager::GIST, data)),
    target_of("redo-spgist", |data| pages::apply_of(resource_manager::SPGIST, data)),
    target_of("redo-brin", |data| pages::apply_of(resource_manager::BRIN, data)),
    target_of("redo-image", pages::image),
    target_of("control-file", pages::control_file),
    target_of("wire-frames", wire::frames),
    target_of("wire-messages", wire::messages),
    target_of("wire-batch", wire::batch),
    target_of("wire-broker", wire::broker),
    target_of("segment-state", wire::segment_state),
    target_of("volume-record", wire::volume_record),
    target_of("store-journal", store::journal),
    target_of("store-layer", store::layer),
    target_of("store-manifest", store::manifest),
    target_of("replication", protocol::replication),
];

const fn target_of(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
