//! The tree of reigns over a volume: what is visible from where.
//!
//! Every opening of a volume begins a timeline, named by its epoch: it continues its parent up to the branch LSN and
//! knows nothing of what the parent wrote above it. Crash recovery, failover, rewind, clone and restore are all the same
//! step: one more branch.

mod path;

pub use path::{Branch, InvalidPath, Path};
