//! libFuzzer around the fuzz target that `BOREALIS_FUZZ_TARGET` names. One program for all: only the code that the target
//! reaches counts as covered. The target's seeds are written to the folder `BOREALIS_FUZZ_SEEDS` first.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use fuzz_targets::Target;
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("BOREALIS_FUZZ_TARGET").unwrap_or_default();
    fuzz_targets::target(&name).unwrap_or_else(|| panic!("BOREALIS_FUZZ_TARGET names no target: {name:?}"))
});

fn write_seeds() {
    let Some(folder) = std::env::var_os("BOREALIS_FUZZ_SEEDS").map(PathBuf::from) else {
        return;
    };
    for (number, seed) in fuzz_targets::seeds(TARGET.name).iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{number}")), seed).expect("the folder for seeds can be written");
    }
}

fuzz_target!(init: write_seeds(), |data: &[u8]| (TARGET.run)(data));
