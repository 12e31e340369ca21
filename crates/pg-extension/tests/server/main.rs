//! The library in a stock server.

mod answers;
mod guard;
mod real;
mod support;
