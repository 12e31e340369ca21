//! Restart rules, and the processes they apply to.
//!
//! [`RestartRule`] is pure; [`Process`] is a daemon that may outlive whoever started it: it is known by its pid *and* the
//! time at which it was started, so that a reused pid is never taken for it.

mod process;
mod restart;

pub use process::{Process, descendants};
pub use restart::RestartRule;
