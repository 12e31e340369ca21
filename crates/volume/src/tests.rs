//! Each state machine against answers written by hand. Whole histories run in `sim`.

mod opening;
mod shipper;
