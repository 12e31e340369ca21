//! Visits every state that can be reached, nearest first, so that a counter-example is as short as it can be.
//!
//! States are remembered by 64-bit fingerprints, each with that of the state it was first reached from; a trace is found again
//! by walking those back and taking the steps once more. Two different states with one fingerprint would hide one of them: among
//! twenty million states the odds of a single such pair are one to a hundred thousand.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::time::{Duration, Instant};

use crate::action::Action;
use crate::fingerprint::{AlreadyMixed, NOWHERE, fingerprint};
use crate::model::{Model, State};
use crate::properties::{PROPERTIES, Property};
use crate::sights::SIGHTS;

/// What an exploration found.
pub struct Exploration {
    /// Different states, up to the names of interchangeable segments.
    pub states: usize,
    /// Steps taken, also those that led to a known state.
    pub transitions: usize,
    /// Steps to the farthest state.
    pub depth: usize,
    /// How long it took.
    pub time: Duration,
    /// Whether every state that can be reached was visited.
    pub exhaustive: bool,
    /// The property that a state violates, and the shortest way there.
    pub violation: Option<(&'static str, Vec<Action>)>,
    /// What should have been seen of [`SIGHTS`], and was not.
    pub unseen: Vec<&'static str>,
}

/// When an exploration ends before every state was visited.
#[derive(Clone, Copy)]
pub struct Limits<'a> {
    /// The properties whose violation ends it.
    pub properties: &'a [Property],
    /// As many states as will be remembered.
    pub states_max: usize,
    /// Segments keep their names: many more states, but a counter-example that can be read.
    pub by_name: bool,
}

impl Default for Limits<'_> {
    fn default() -> Self {
        Limits {
            properties: &PROPERTIES,
            states_max: 100_000_000,
            by_name: false,
        }
    }
}

/// Fingerprints, each with that of the state before.
type Visited = HashMap<u64, u64, BuildHasherDefault<AlreadyMixed>>;

/// Visits the states of a model.
pub fn explore(model: &Model, limits: Limits<'_>) -> Exploration {
    let started = Instant::now();
    let form = |state: State| if limits.by_name { state } else { model.canonical(state) };
    let initial = form(model.initial());
    let mut visited = Visited::default();
    visited.insert(fingerprint(&initial), NOWHERE);
    let (mut frontier, mut following, mut actions) = (vec![initial], Vec::new(), Vec::new());
    let (mut transitions, mut depth, mut violation) = (0, 0, None);
    let mut unseen = SIGHTS.to_vec();
    'levels: loop {
        for state in &frontier {
            if let Some(broken) = limits
                .properties
                .iter()
                .find(|property| !(property.holds)(model, state))
            {
                violation = Some((broken.name, trace(model, &visited, state, form)));
                break 'levels;
            }
            unseen.retain(|sight| !(sight.shows)(model, state));
            model.actions(state, &mut actions);
            for action in actions.drain(..) {
                let next = form(model.next(state, action));
                transitions += 1;
                visited.entry(fingerprint(&next)).or_insert_with_key(|_| {
                    following.push(next);
                    fingerprint(state)
                });
            }
            if limits.states_max <= visited.len() {
                break 'levels;
            }
        }
        if following.is_empty() {
            break;
        }
        depth += 1;
        frontier.clear();
        std::mem::swap(&mut frontier, &mut following);
    }
    unseen.retain(|sight| (sight.expected)(&model.configuration));
    Exploration {
        states: visited.len(),
        transitions,
        depth,
        time: started.elapsed(),
        exhaustive: following.is_empty() && violation.is_none(),
        violation,
        unseen: unseen.iter().map(|sight| sight.name).collect(),
    }
}

/// The steps from the beginning to a state.
fn trace(model: &Model, visited: &Visited, last: &State, form: impl Fn(State) -> State) -> Vec<Action> {
    let before = |fingerprint: &u64| visited.get(fingerprint).copied().filter(|before| *before != NOWHERE);
    let mut way: Vec<u64> = std::iter::successors(Some(fingerprint(last)), before).collect();
    way.pop();
    let mut state = form(model.initial());
    let mut steps = Vec::new();
    for wanted in way.into_iter().rev() {
        let mut actions = Vec::new();
        model.actions(&state, &mut actions);
        let mut taken = actions
            .into_iter()
            .map(|action| (action, form(model.next(&state, action))));
        let step = taken.find(|(_, next)| fingerprint(next) == wanted);
        let (action, next) = step.expect("it was taken before, and a state is all the memory there is");
        steps.push(action);
        state = next;
    }
    steps
}
