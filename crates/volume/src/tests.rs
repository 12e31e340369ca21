//! Each state machine against answers written by hand. Whole histories run in `sim`.

mod groups;
mod membership;
mod opening;
mod placement;
mod shipper;
