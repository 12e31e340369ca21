//! Redo against PostgreSQL itself.
//!
//! With `wal_consistency_checking` every record carries each page it changes as PostgreSQL left it. A stock server runs
//! the [`workload`] so; [`replay`] feeds its log through `redo` and compares page by page, masked as PostgreSQL's own
//! check masks; [`comparison`] holds what no image shows against the files of a clean stop; [`run`] is one such run,
//! [`complete`] all of them; [`coverage`] says of every kind of record there is how it is proven.

mod changes;
pub mod comparison;
pub mod complete;
pub mod coverage;
mod events;
pub mod generator;
pub mod replay;
pub mod run;
mod seed;
pub mod state;
pub mod workload;
mod wraparound;
