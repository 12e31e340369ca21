//! The whole workload, once with after-images and once as a real server logs.

use oracle::coverage;
use oracle::run::{Logging, Oracle, Outcome};
use oracle::workload::scenarios;

fn run_all(name: &str, logging: Logging) -> Outcome {
    let oracle = Oracle::start(name, logging).expect("a server");
    let scenarios = scenarios().expect("the workload");
    oracle.run(&scenarios, &mut |_, _| {}).expect("it runs");
    let connection = oracle.connection();
    let pgbench = |arguments: &[&str]| {
        connection
            .program("pgbench", "postgres", arguments)
            .expect("pgbench runs")
    };
    pgbench(&["-i", "-q", "-s", "1", "--foreign-keys"]);
    connection.query("postgres", "CHECKPOINT").expect("a checkpoint");
    pgbench(&["-n", "-c", "4", "-j", "2", "-t", "500"]);
    let outcome = oracle.finish().expect("its log");
    print!("{}", coverage::table(&outcome.tallies));
    assert!(outcome.differences().is_empty(), "{:#?}", outcome.differences());
    outcome
}

#[test]
fn every_page_is_what_postgresql_made_of_it() {
    run_all("oracle-checked", Logging::Checked);
}

#[test]
fn images_and_changes_together_end_in_the_same_files() {
    run_all("oracle-production", Logging::AsInProduction);
}
