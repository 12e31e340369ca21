//! The simulated side of the seam: seeded histories of crashes, losses and reordering.
