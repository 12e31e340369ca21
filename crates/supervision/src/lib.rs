//! Restart rules, and the processes they apply to.
