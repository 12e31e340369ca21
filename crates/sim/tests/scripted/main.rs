//! Scripted traces over the code that ships: a test says which messages arrive, and in which order.

mod cast;
mod membership;
mod traces;
