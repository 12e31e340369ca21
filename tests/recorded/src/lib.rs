//! Log that stock PostgreSQL wrote under known loads, for benches, instruction counts and tests that count allocations.
//!
//! [`Recording::of`] records a [`Load`] once, with a server of its own, into `target/recordings`; [`Recording::sample`] is a
//! small one that is committed, so that what is counted on it today can be compared with what was counted before.
//!
//! A recording begins before its tables exist: every page of them is made by its log, and nothing else is needed to replay it.

mod load;
mod pages;
mod recording;

pub use load::Load;
pub use pages::Pages;
pub use recording::{Recording, WAL_FILE_BYTES};
