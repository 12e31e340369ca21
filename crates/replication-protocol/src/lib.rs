//! The client's side of PostgreSQL's physical replication protocol, without I/O.
//!
//! [`Client`] takes the bytes that a walsender sends and yields [`Event`]s; the functions of [`request`] are what is sent
//! back. Only what a synchronous receiver needs: log in without a password over a unix socket, make a temporary slot,
//! stream WAL, report how far it is durable. Follows chapters 55.2, 55.4 and 55.7 of PostgreSQL 15's manual.
//!
//! Invariants:
//! - Any bytes give an event or an error; a message longer than [`MESSAGE_BYTES_MAX`] is refused when its length is read.
//! - WAL data is a slice of what was received, not a copy.

mod client;
pub mod request;

pub use client::{Client, Event, MESSAGE_BYTES_MAX, ProtocolError};

#[cfg(test)]
mod tests;
