//! The metadata store: the volume's record under compare-and-swap, epochs, and who is the writer.
//!
//! Small and rarely asked: data flows without it. Everything it answers to have done is synced. The record is text that
//! only the volume's crates understand.
//!
//! | module | job |
//! |---|---|
//! | `store` | the one file, `metadata.redb` |
//! | [`message`] | what is asked and answered, one line of JSON each |
//! | `server` | the socket |
//! | [`client`] | for everybody else |

pub mod client;
pub mod message;
mod server;
mod store;

pub use client::{Client, ControlError};
pub use server::run;
pub use store::{FORMAT_VERSION, StoreError};

#[cfg(test)]
mod tests;
