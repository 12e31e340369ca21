//! Names in the volume's catalog, which group 0 holds.

use units::ForkKey;

/// What a catalog entry is about. Orders as its encoding does, so that a prefix scan finds what belongs together.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum CatalogKey {
    /// The size of a fork in blocks, a little-endian `u32`. Present while the fork exists.
    ForkBlocks(ForkKey),
    /// A small value of the engine, such as `relmap/1663/5` or `twophase/000002F1`. At most 1 MiB, name at most 200
    /// bytes of printable ASCII.
    Blob(String),
}
