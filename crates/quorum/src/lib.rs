//! When a record is durable: sets of copies, joint sets, durable positions.
