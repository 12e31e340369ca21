//! The seam between the rules and the world: clock, disk, entropy.
