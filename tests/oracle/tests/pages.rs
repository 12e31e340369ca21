//! The whole workload, with after-images and as a real server logs.

use std::path::Path;

use oracle::run::Outcome;
use oracle::{complete, coverage};

fn assert_equal(outcome: &Outcome) {
    print!("{}", coverage::table(&outcome.tallies));
    println!("{:#?}", outcome.files.equal);
    assert!(outcome.differences().is_empty(), "{:#?}", outcome.differences());
}

#[test]
fn every_page_is_what_postgresql_made_of_it_and_every_kind_of_record_is_seen() {
    let outcome = complete::checked(&mut |_, _| {}).expect("the runs");
    assert_equal(&outcome);
    let contradictions = coverage::contradictions(&outcome.tallies);
    assert!(contradictions.is_empty(), "{contradictions:#?}");
}

#[test]
fn images_and_changes_together_end_in_the_same_files() {
    assert_equal(&complete::as_in_production(&mut |_, _| {}).expect("the run"));
}

#[test]
fn the_committed_table_is_the_one_that_runs_are_held_to() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(coverage::COMMITTED);
    let committed = std::fs::read_to_string(file).expect("the table");
    assert!(committed == coverage::markdown(), "`make oracle` writes it anew");
}
