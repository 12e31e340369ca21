//! The writer's view of the volume: what it sends, what is durable, and how the volume is opened.
//!
//! State machines without I/O. [`Shipper`] is the writer's side of the write path (DESIGN §4.3); [`Opening`] makes a new
//! reign out of whatever the last one left (DESIGN §4.4); [`record`] is the one entry that a volume has in the metadata
//! store.
//!
//! Invariants:
//! - A flush, once sent, is never cut or linked differently; its bytes are encoded once.
//! - The durable LSN stands at record ends only and never goes back.
//! - Nothing of an opening counts before its compare-and-swap of the record has succeeded.

pub mod creation;
mod flush;
pub mod growth;
pub mod heat;
pub mod membership;
mod opening;
pub mod outright;
pub mod placement;
pub mod record;
pub mod retention;
mod segment_kinds;
mod shipper;
pub mod stripes;

pub use flush::{FlushParts, FlushTooLong, Share};
pub use opening::{BeingMade, Opened, Opening, OpeningEffect, OpeningError};
pub use record::VolumeRecord;
pub use segment_kinds::SegmentKinds;
pub use shipper::{CopyStanding, GroupMembers, SMALL_FLUSH_BYTES, Shipper, ShipperEffect, ShipperLimits};

#[cfg(test)]
mod tests;
