//! The store against a naive model, and its answers to bad disks.

mod copies;
mod damage;
mod full_disk;
mod given;
mod history;
mod indexes;
mod journal;
mod log;
mod mend;
mod mend_journal;
mod pages;
mod scrub;
mod tails;
mod toy;
mod world;
