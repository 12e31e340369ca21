//! Opening, fencing and membership change of a volume, as a specification that a machine checks.
//!
//! Small state machines follow DESIGN §4.4 and §4.5 step by step: segments, openers, writers, the volume's record, a network that
//! loses, delays, reorders and repeats. They are abstract on purpose and share no code with what ships: a rule that is wrong in
//! both would hold in both. [`explore`] visits **every** state of a small configuration and asks six sentences of each;
//! [`Mistake`]s break one rule each, and have to be found.
//! What it takes for granted and what it leaves out stands in
//! `docs/specification.md`.
//!
//! Read [`names`], [`record`], [`segment`], [`opener`], [`writer`], [`membership`] in this order; then [`properties`].
//!
//! Invariants:
//! - A state is all the memory there is; a step depends on nothing else. No clock, no chance.
//! - Nobody dies: openers and writers that were overtaken go on as zombies, for ever.

mod action;
mod catalogue;
mod configuration;
mod explorer;
mod fingerprint;
pub mod membership;
mod mistakes;
mod model;
pub mod names;
pub mod opener;
pub mod properties;
pub mod record;
pub mod segment;
pub mod sights;
mod tails;
pub mod writer;

pub use action::Action;
pub use catalogue::{EVERYDAY, LARGE};
pub use configuration::{Configuration, PLAIN};
pub use explorer::{Exploration, Limits, explore};
pub use mistakes::Mistake;
pub use model::{Model, State};
