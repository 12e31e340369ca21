//! Each state machine against answers written by hand. Whole histories run in `sim`.

mod groups;
mod heat;
mod marks;
mod membership;
mod opening;
mod opening_groups;
mod outright;
mod placement;
mod shipper;
mod tails;
