//! The rules broken one by one: each mistake does harm, and the explorer finds it.

use std::io::Write;

use specification::{Limits, Mistake, Model, explore};

#[test]
fn every_mistake_is_found() {
    for mistake in Mistake::ALL {
        let expected = mistake.violates();
        let properties = [expected];
        let limits = Limits {
            properties: &properties,
            ..Limits::default()
        };
        let found = explore(&Model::with(mistake), limits);
        let (property, steps) = found
            .violation
            .unwrap_or_else(|| panic!("{} was not found among {} states", mistake.name(), found.states));
        assert_eq!(property, expected.name);
        let line = format!(
            "{}: {} states, {} steps, {property}",
            mistake.name(),
            found.states,
            steps.len()
        );
        writeln!(std::io::stderr(), "{line}").expect("the error stream is open");
    }
}

/// It is the mistake that does the harm: where it shows, the rules as they are hold in every state.
#[test]
fn without_the_mistake_nothing_is_found() {
    for mistake in Mistake::ALL {
        let found = explore(&Model::correct(mistake.shows_in()), Limits::default());
        let name = mistake.name();
        assert!(
            found.exhaustive,
            "{name}: {:?} after {:?}",
            found.violation, found.states
        );
    }
}
