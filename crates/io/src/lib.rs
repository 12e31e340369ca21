//! The seam between what Borealis does and what the machine does: here its disk.
//!
//! Shells pass [`RealDisk`]; tests and the simulator pass [`MemoryDisk`], which can lose power, fill up and fail to sync.
//! Everything is synchronous: whoever must not wait calls from a thread of its own.

mod direct;
mod disk;
mod memory;
mod real;

pub use disk::Disk;
pub use memory::MemoryDisk;
pub use real::RealDisk;
