//! Positions, names and quantities: the vocabulary of every other crate.
//!
//! Everything that can be mistaken for something else has a type of its own, prints the way an operator would write it
//! and orders the way the protocol needs it. This crate depends on nothing.

mod identity;
mod page;
mod position;

pub use identity::{ClusterId, GroupId, ParseIdentityError, SegmentId, SegmentKind, VolumeId, Zone};
pub use page::{ForkKey, PAGE_BYTES, Page, PageKey, RelationKey, fork};
pub use position::{ByteCount, Epoch, Lsn, ParseLsnError, Position};
