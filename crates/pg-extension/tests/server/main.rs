//! The library in a stock server.

mod guard;
mod real;
mod support;
