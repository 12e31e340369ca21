//! Every target on its seeds and its corpus, and on mutations of them.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use fuzz_targets::mutation::{Random, mutate};
use fuzz_targets::{TARGETS, Target};

/// Mutated inputs of each target.
const MUTATIONS: usize = 6_000;
const SEED: u64 = 1;

/// Seeds and committed files, by a name for a person.
fn inputs(target: &Target) -> BTreeMap<String, Vec<u8>> {
    let seeds = fuzz_targets::seeds(target.name).into_iter().enumerate();
    let mut inputs: BTreeMap<String, Vec<u8>> = seeds
        .map(|(number, seed)| (format!("its seed {number}"), seed))
        .collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    for entry in std::fs::read_dir(&folder).expect("every target has a corpus") {
        let file = entry.expect("the folder can be read").path();
        let input = std::fs::read(&file).expect("the file can be read");
        inputs.insert(file.display().to_string(), input);
    }
    inputs
}

/// Runs the target; a panic is told with the way to have it again.
fn run(target: &Target, input: &[u8], what: &str) {
    if catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err() {
        let file = std::env::temp_dir().join(format!("fuzz-{}-{}", target.name, std::process::id()));
        std::fs::write(&file, input).expect("the temporary directory can be written");
        panic!(
            "{} panics on {what}; the input is kept: cargo xtask fuzz {} {}",
            target.name,
            target.name,
            file.display()
        );
    }
}

#[test]
fn no_target_panics_on_its_seeds_and_corpus() {
    for target in TARGETS {
        for (name, input) in inputs(target) {
            run(target, &input, &name);
        }
    }
}

#[test]
fn no_target_panics_on_mutations() {
    for target in TARGETS {
        let inputs: Vec<Vec<u8>> = inputs(target).into_values().collect();
        let mut random = Random::new(SEED);
        for number in 0..MUTATIONS {
            let mut input = inputs[random.below(inputs.len())].clone();
            let other = &inputs[random.below(inputs.len())];
            mutate(&mut random, &mut input, other);
            run(target, &input, &format!("mutation {number} of seed {SEED}"));
        }
    }
}

#[test]
fn every_folder_of_the_corpus_has_its_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for entry in std::fs::read_dir(folder).expect("there is a corpus") {
        let name = entry.expect("the folder can be read").file_name();
        let name = name.to_str().expect("targets have plain names");
        assert!(fuzz_targets::target(name).is_some(), "there is no target {name}");
    }
}
