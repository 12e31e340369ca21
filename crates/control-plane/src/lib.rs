//! The metadata store: the volume's record under compare-and-swap, epochs, who is the writer, and which storage nodes there are.
//!
//! Small and rarely asked: data flows without it. Everything it answers to have done is synced. The record is text that
//! only the volume's crates understand.
//!
//! | module | job |
//! |---|---|
//! | [`config`] | what it is told |
//! | `store` | the one file, `metadata.redb` |
//! | `registry` | the storage nodes: who there is, who is silent, what is wanted of them |
//! | [`message`] | what is asked and answered, one line of JSON each |
//! | `server` | the socket |
//! | [`metrics`] | what it tells in numbers |
//! | [`client`] | for everybody else |

pub mod client;
pub mod config;
pub mod message;
pub mod metrics;
mod registry;
mod server;
mod store;

pub use client::{Client, ControlError};
pub use config::ControlConfig;
pub use server::run;
pub use store::{FORMAT_VERSION, StoreError};

#[cfg(test)]
mod tests;
