//! Chaos on real processes: a bank on a real cluster whose nodes, zones, disks and writers fail and return in random order.
//!
//! One seed is one plan of faults ([`Plan`]); what the processes make of it is theirs. Clients write down each transaction before
//! they send it and when it is acknowledged ([`book`]), and at every quiet point the database has to hold exactly that, to the
//! last row ([`audit`]). `make chaos MINUTES=… SEED=…` runs it long, `make test` for less than a minute.

pub mod audit;
pub mod bank;
pub mod book;
pub mod checks;
pub mod client;
pub mod fault;
pub mod grower;
pub mod machine;
pub mod plan;
pub mod random;
pub mod reader;
pub mod rot;
pub mod run;
pub mod strike;
pub mod summary;

use std::hash::{BuildHasher, RandomState};

pub use plan::Plan;
pub use run::{Options, run};

/// Another seed at each call, short enough to type.
pub fn fresh_seed() -> u64 {
    RandomState::new().hash_one(0) % 1_000_000
}
