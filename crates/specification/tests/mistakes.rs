//! The rules broken one by one: each mistake does harm, and the explorer finds it.

use std::io::Write;

use specification::properties::{
    ACKNOWLEDGED_STAYS, EVERY_FENCE_CAN_GIVE, HISTORY_IS_WHOLE, LATE_FENCE_SEES_THE_LAST_BATCH, ONE_WRITER_AN_LSN,
    PROMISES_STAY, PROPERTIES, SEAL_COVERS_ACKNOWLEDGED,
};
use specification::{Configuration, Limits, Mistake, Model, explore};

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
    let mut configurations: Vec<Configuration> = Vec::new();
    for mistake in Mistake::ALL {
        let configuration = mistake.shows_in();
        if configurations.contains(&configuration) {
            continue;
        }
        configurations.push(configuration);
        let found = explore(&Model::correct(configuration), Limits::default());
        assert!(found.exhaustive, "{}: {:?}", mistake.name(), found.violation);
    }
}

/// No property is true whatever happens.
#[test]
fn every_property_is_violated_by_some_mistake() {
    let violated = [
        (ACKNOWLEDGED_STAYS, Mistake::OrFence),
        (HISTORY_IS_WHOLE, Mistake::SkippedCopying),
        (SEAL_COVERS_ACKNOWLEDGED, Mistake::OnePromiseFewer),
        (ONE_WRITER_AN_LSN, Mistake::OnePromiseFewer),
        (PROMISES_STAY, Mistake::ForgottenPromise),
        (LATE_FENCE_SEES_THE_LAST_BATCH, Mistake::NoLateFence),
        (EVERY_FENCE_CAN_GIVE, Mistake::LetGoTooEarly),
    ];
    assert_eq!(
        violated.map(|(property, _)| property.name),
        PROPERTIES.map(|property| property.name)
    );
    for (property, mistake) in violated {
        let limits = Limits {
            properties: &[property],
            ..Limits::default()
        };
        let found = explore(&Model::with(mistake), limits);
        let (name, _) = found
            .violation
            .unwrap_or_else(|| panic!("{} does not violate: {}", mistake.name(), property.name));
        assert_eq!(name, property.name);
    }
}
