//! The rules as they are: every state of every everyday configuration, and everything that should happen in them happens.

use std::io::Write;

use specification::{Configuration, EVERYDAY, Limits, Model, PLAIN, explore};

/// The document with the measured table: it names what is explored here, so that neither can go astray unseen.
const DOCUMENT: &str = include_str!("../../../docs/specification.md");

fn check(configuration: Configuration) {
    let found = explore(&Model::correct(configuration), Limits::default());
    let row = format!(
        "| {} | {} | {} | {} |",
        configuration.name, found.states, found.transitions, found.depth
    );
    // Straight to the stream: it shows without asking for the output of tests that pass.
    writeln!(std::io::stderr(), "{row} {:.1} s", found.time.as_secs_f64()).expect("the error stream is open");
    if let Some((property, steps)) = found.violation {
        let steps: Vec<String> = steps.iter().map(|step| format!("  {step}\n")).collect();
        panic!(
            "{}: violated: {property}, after\n{}",
            configuration.name,
            steps.concat()
        );
    }
    assert!(found.exhaustive, "{}: not every state was visited", configuration.name);
    assert!(
        found.unseen.is_empty(),
        "{}: it never happened that {:?}",
        configuration.name,
        found.unseen
    );
    assert!(DOCUMENT.contains(&row), "docs/specification.md lacks the row {row}");
}

#[test]
fn the_rules_hold_in_every_state_of_the_everyday_configurations() {
    EVERYDAY.into_iter().for_each(check);
}

#[test]
fn one_model_is_one_set_of_states() {
    let configuration = EVERYDAY[0];
    let once = explore(&Model::correct(configuration), Limits::default());
    let again = explore(&Model::correct(configuration), Limits::default());
    assert_eq!(
        (once.states, once.transitions, once.depth),
        (again.states, again.transitions, again.depth)
    );
}

/// Interchangeable segments are sorted to save work, not to hide anything: with their names kept there are more states, as
/// deep, and nothing else is found.
#[test]
fn names_of_segments_make_no_difference() {
    let three = Configuration {
        copies: 3,
        write: 2,
        ..PLAIN
    };
    let small = [
        three,
        Configuration {
            restarts: true,
            ..three
        },
        Configuration {
            groups: 2,
            flushes: [1, 0, 0, 0],
            ..three
        },
        Configuration {
            joint: true,
            flushes: [1, 0, 0, 0],
            ..PLAIN
        },
        Configuration {
            replacements: true,
            flushes: [1, 0, 0, 0],
            ..PLAIN
        },
    ];
    for configuration in small {
        let model = Model::correct(configuration);
        let sorted = explore(&model, Limits::default());
        let by_name = Limits {
            by_name: true,
            ..Limits::default()
        };
        let named = explore(&model, by_name);
        assert!(sorted.exhaustive && named.exhaustive, "{configuration:?}");
        assert_eq!(sorted.depth, named.depth, "{configuration:?}");
        assert!(sorted.states < named.states, "{configuration:?}");
    }
}

/// A run that is cut off does not claim to have seen everything.
#[test]
fn a_limit_is_told() {
    let limits = Limits {
        states_max: 1000,
        ..Limits::default()
    };
    let found = explore(&Model::correct(EVERYDAY[0]), limits);
    assert!(!found.exhaustive && found.violation.is_none());
    assert!(1000 <= found.states && found.states < 1100);
}
