//! The promises of DESIGN §4.8 under seeded histories; and proof that a broken rule is found.

use std::time::Instant;

use sim::{Broken, Promise};

/// Seeds of the ordinary run.
const SEEDS: std::ops::Range<u64> = 0..1000;
/// A broken variant has to be found among so many.
const SEEDS_UNTIL_FOUND: u64 = 1500;

#[test]
fn nothing_acknowledged_is_ever_missing() {
    let began = Instant::now();
    let (mut timelines, mut flushes, mut pages) = (0, 0, 0);
    for seed in SEEDS {
        let report = sim::run(seed, None).unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
        timelines += report.timelines;
        flushes += report.flushes;
        pages += report.pages;
    }
    println!(
        "seeds {SEEDS:?}: {timelines} timelines opened, {flushes} flushes acknowledged, {pages} pages read, in {:?}",
        began.elapsed()
    );
    // A simulator in which nothing happens finds nothing.
    assert!(SEEDS.end as usize * 2 < timelines);
    assert!(SEEDS.end as usize * 100 < flushes);
    assert!(SEEDS.end as usize * 100 < pages);
}

#[test]
fn one_seed_is_one_history() {
    for seed in [1, 2, 77] {
        assert_eq!(sim::run(seed, None), sim::run(seed, None));
    }
    let histories = [1, 2].map(|seed| sim::run(seed, None).map(|report| report.history));
    assert_ne!(histories[0], histories[1]);
}

fn found(broken: Broken, promise: Promise) {
    // Found is only what breaks the rule's own promise, not that nothing works any more.
    let mut failures = (0..SEEDS_UNTIL_FOUND).filter_map(|seed| sim::run(seed, Some(broken)).err());
    let failure = failures.find(|failure| failure.promise == promise);
    match failure {
        Some(failure) => println!("{broken:?}: {failure}"),
        None => panic!("{SEEDS_UNTIL_FOUND} histories went well although {broken:?}"),
    }
}

#[test]
fn an_answer_before_its_sync_is_found() {
    found(Broken::AnswerBeforeSync, Promise::QuorumKeeps);
}

/// protocol.md, hole 4.
#[test]
fn a_forgotten_promise_is_found() {
    found(Broken::ForgetPromise, Promise::AcknowledgedStays);
}

/// protocol.md, hole 5.
#[test]
fn an_empty_disk_under_its_old_name_is_found() {
    found(Broken::EmptyDiskVouches, Promise::QuorumKeeps);
}

/// protocol.md, hole 6.
#[test]
fn looking_without_fencing_is_found() {
    found(Broken::LookWithoutFencing, Promise::AcknowledgedStays);
}

/// protocol.md, hole 1. The later opener meets a copy that knows the other's timeline, and stops (hole 13): nothing is
/// lost, but nobody can open the volume any more.
#[test]
fn a_swap_that_is_bound_to_nothing_is_found() {
    found(Broken::LooseSwap, Promise::RecordLeads);
}

/// protocol.md, hole 2.
#[test]
fn links_by_lsn_alone_are_found() {
    found(Broken::LinksByLsn, Promise::QuorumKeeps);
}

/// protocol.md, §2: three promises suffice because complete prefixes are acknowledged.
#[test]
fn acknowledging_single_batches_is_found() {
    found(Broken::BatchesCounted, Promise::QuorumKeeps);
}

#[test]
fn one_promise_fewer_is_found() {
    found(Broken::OnePromiseFewer, Promise::AcknowledgedStays);
}

#[test]
fn an_opening_without_copying_is_found() {
    found(Broken::NoCopying, Promise::QuorumKeeps);
}

#[test]
fn a_full_disk_that_is_ignored_is_found() {
    found(Broken::FullDiskIgnored, Promise::QuorumKeeps);
}

/// protocol.md, hole 22.
#[test]
fn folding_what_is_not_durable_is_found() {
    found(Broken::FoldsAboveDurable, Promise::PagesAreExact);
}

/// A page from a copy that is behind must not stand for what it was not asked to be.
#[test]
fn a_page_believed_to_be_as_new_as_its_read_point_is_found() {
    found(Broken::AsNewAsItsReadPoint, Promise::PagesAreExact);
}

/// protocol.md, hole 20.
#[test]
fn a_page_from_a_copy_that_is_not_complete_enough_is_found() {
    found(Broken::NeededIgnored, Promise::PagesAreExact);
}

#[test]
fn a_page_made_over_a_hole_is_found() {
    found(Broken::ReadsOverHoles, Promise::PagesAreExact);
}

/// protocol.md, hole 23.
#[test]
fn a_read_below_the_floor_is_found() {
    found(Broken::BelowTheFloor, Promise::PagesAreExact);
}

#[test]
fn forgetting_what_a_lagging_copy_needs_is_found() {
    found(Broken::ForgetsTheSlowest, Promise::CopiesBecomeEqual);
}
