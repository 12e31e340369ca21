//! The bytes that travel between instances, storage nodes and their peers.
//!
//! [`batch`] is what the log looks like in flight and in a node's journal, with its bytes in [`Batch::encode`];
//! [`message`] is what is asked and answered, [`versions`] what copies take from each other's layers, [`frame`] how messages follow each other on a connection; [`broker`] is what a
//! PostgreSQL backend asks of its instance process.
//!
//! Invariant: decoders are total. Any bytes give a value or an error, and nothing is allocated from an unchecked length.

pub mod batch;
mod batch_codec;
pub mod broker;
pub mod catalog;
pub mod codec;
pub mod frame;
pub mod handover;
pub mod log;
pub mod message;
mod message_codec;
mod response_codec;
pub mod versions;

pub use batch::{Batch, CatalogEntry, Elsewhere, EncodedBatch, FlushHeader, Item};
pub use batch_codec::BATCH_VERSION;
pub use catalog::CatalogKey;
pub use codec::CodecError;
pub use message::{Member, Refusal, Request, Response};

#[cfg(test)]
mod tests;
