//! A connection to a storage node, for whoever asks one: instances, peers, the command line.
//!
//! [`handshake`] is both sides of the greeting and the reading of frames; [`link`] keeps one connection up.

pub mod handshake;
pub mod link;
mod secret;

pub use link::{CallError, LinkEvent, NodeLink};
pub use secret::read_secret;
