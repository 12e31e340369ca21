//! The promises of DESIGN §4.8 under seeded histories; and proof that a broken rule is found.

use std::time::Instant;

use sim::{Broken, Fault};

/// Seeds of the ordinary run. `make test` runs fresh ones for a minute besides.
const SEEDS: std::ops::Range<u64> = 0..400;
/// Seeds in which something was once wrong, each with what it was.
const REGRESSIONS: &str = include_str!("../seeds/regressions.txt");
/// The seed that finds each mistake, as `make mistakes ARGUMENTS=--renew` writes it.
const MISTAKES: &str = include_str!("../seeds/mistakes.txt");
/// A mistake whose seed no longer finds it, since histories have changed, has to be found among so many.
const SEEDS_UNTIL_FOUND: u64 = 2000;

#[test]
fn nothing_acknowledged_is_ever_missing() {
    let began = Instant::now();
    let (mut timelines, mut flushes, mut pages, mut tally) = (0, 0, 0, sim::Tally::default());
    for seed in SEEDS {
        let report = sim::run(seed, None).unwrap_or_else(|failure| panic!("{failure}"));
        timelines += report.timelines;
        flushes += report.flushes;
        pages += report.pages;
        tally.add(&report.tally);
    }
    println!(
        "seeds {SEEDS:?}: {timelines} timelines opened, {flushes} flushes acknowledged, {pages} pages read, in {:?}",
        began.elapsed()
    );
    // A simulator in which nothing happens finds nothing.
    assert!(timelines > SEEDS.end as usize);
    assert!(SEEDS.end as usize * 100 < flushes);
    assert!(SEEDS.end as usize * 100 < pages);
    let never: Vec<_> = Fault::ALL.iter().filter(|fault| tally.times(**fault) == 0).collect();
    assert!(never.is_empty(), "these never happened: {never:?}");
}

#[test]
fn one_seed_is_one_history() {
    for seed in [1, 2, 77] {
        assert_eq!(sim::run(seed, None), sim::run(seed, None));
    }
    let histories = [1, 2].map(|seed| sim::run(seed, None).map(|report| report.history));
    assert_ne!(histories[0], histories[1]);
}

#[test]
fn what_was_once_wrong_is_right() {
    for line in REGRESSIONS.lines().filter(|line| !line.starts_with('#')) {
        let (seed, what) = line.split_once(' ').expect("a seed and what was wrong");
        let seed = seed.parse().expect("a seed");
        if let Err(failure) = sim::run(seed, None) {
            panic!("{what}: {failure}");
        }
    }
}

fn finds(seed: u64, broken: Broken) -> bool {
    sim::run(seed, Some(broken)).is_err_and(|failure| broken.breaks().contains(&failure.promise))
}

#[test]
fn every_mistake_is_found() {
    for broken in Broken::ALL {
        let name = format!("{broken:?} ");
        let pinned = MISTAKES.lines().find_map(|line| line.strip_prefix(&name));
        let pinned = pinned.and_then(|seed| seed.parse().ok());
        if pinned.is_some_and(|seed| finds(seed, *broken)) {
            continue;
        }
        println!("{broken:?}: its seed finds nothing any more; `make mistakes ARGUMENTS=--renew`");
        assert!(
            (0..SEEDS_UNTIL_FOUND).any(|seed| finds(seed, *broken)),
            "{SEEDS_UNTIL_FOUND} histories went well although this rule is broken: {}",
            broken.words()
        );
    }
}
