//! The bytes that travel between instances, storage nodes and their peers.
//!
//! [`batch`] is what the log looks like in flight and in a node's journal; [`message`] is what is asked and answered.
//! Batches are encoded once and then only passed on: to six segments, to the journal, to a peer.

pub mod batch;
pub mod broker;
pub mod catalog;
pub mod message;

pub use batch::{Batch, BatchName, CatalogEntry, FlushHeader, Item};
pub use catalog::CatalogKey;
pub use message::{Member, Refusal, Request, Response};
