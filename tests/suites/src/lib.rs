//! PostgreSQL's own regression, isolation and contrib suites, run against stock PostgreSQL and against a cluster.
//!
//! Nothing of the suites is in this repository: [`Sources`] are PostgreSQL's, from Debian's source package or a folder that
//! the user gives. A [`Server`] is either side; a [`Suite`] is what one call of `pg_regress` runs; a [`Comparison`] says
//! which tests ended the same on both.

mod comparison;
pub mod extension;
mod server;
mod sources;
mod suite;
pub mod survival;
pub mod trial;

pub use comparison::{Comparison, Verdict};
pub use server::{Server, as_postgres};
pub use sources::Sources;
pub use suite::{Outcome, Suite};
