//! Automation of the project: `cargo xtask COMMAND`. The Makefile's targets are one call each.

mod bench_redo;
mod dependencies;
mod fuzz;
mod instructions;
mod steps;
mod tidy;

use anyhow::{Result, bail};

const USAGE: &str = "\
usage: cargo xtask COMMAND
  dependencies   install what the build and the tests need with apt, or say what is missing
  build          build everything, in the one profile
  check          formatting, clippy with warnings denied, documentation, the arrows between crates
  tidy           only the arrows and the layout
  test           check, then every test, whole clusters included
  sim            simulated histories of the volume, on all cores, until it is stopped (--seeds COUNT|FROM..TO, --minutes M,
                 --seed N: one; --coverage FILE: which faults hit which states; mistakes: every broken rule is found)
  oracle         redo of every kind of record against stock PostgreSQL, page by page; the table of what is covered
                 (SCENARIO…: only these; --help tells more)
  instructions   build, then count what decoding and redo take, and compare with the committed numbers (--renew: write them)
  metrics        write docs/metrics.md, the operator's page, from the declarations of the metrics
  bench          build, then measure side by side with stock PostgreSQL, in less than twelve minutes
                 (--full: more data and long rounds, in hours; --tmpfs: everything in memory; --smoke: does it work?)
  bench-redo     how fast log is decoded and redone, on log that a stock server writes first
  bench-full     bench --full
  bench-repair   build, then a storage node whose disk is emptied, again and again: how fast it becomes whole, beside a plain copy
                 of the same bytes, and the latency of commits meanwhile (--scale N, --seconds N, --rounds N)
  soak           build, then load one cluster for a quarter of an hour: memory and disk must stay bounded
                 (--seconds N of updates, --scale N of the load, for a shorter run)
  chaos          build, then a bank on a cluster whose nodes, zones, disks and writers fail and return in random order
                 (--minutes N; --seed N: the same plan of faults again; --plan: only print it; --keep: keep the files)
  fuzz           libFuzzer on every decoder (--seconds N of each; TARGET: only this one; TARGET FILE: this input, once;
                 --keep: some of what was found goes into the committed corpus)
  regression     build, then PostgreSQL's own suites on stock PostgreSQL and on a cluster; the tests that differ
                 (--source DIR: a source tree of PostgreSQL 15, if apt has none; --compare: also every page; SUITE …: only these)
  extensions     build, then extensions that users bring, on a cluster: create, load, index, evict, restart, change, check
                 (EXTENSION …: only these; those that are packages of their own are installed first)
  up             build, then `borealis up`
  down           `borealis down`";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["dependencies"] => dependencies::install(),
        ["build"] => steps::build(),
        ["check"] => steps::check(),
        ["tidy"] => tidy::check(),
        ["test"] => steps::test(),
        ["sim", options @ ..] => steps::package("sim", options),
        ["oracle", options @ ..] => steps::package("oracle", options),
        ["instructions"] => steps::build().and_then(|()| instructions::run(false)),
        ["instructions", "--renew"] => steps::build().and_then(|()| instructions::run(true)),
        ["metrics"] => steps::metrics(),
        ["bench", options @ ..] => steps::build().and_then(|()| steps::built("bench", options)),
        ["bench-redo"] => bench_redo::run(),
        ["bench-full"] => steps::build().and_then(|()| steps::built("bench", &["--full"])),
        ["soak", options @ ..] => {
            let arguments: Vec<&str> = ["soak"].iter().chain(options).copied().collect();
            steps::build().and_then(|()| steps::built("bench", &arguments))
        }
        ["bench-repair", options @ ..] => {
            let arguments: Vec<&str> = ["repair"].iter().chain(options).copied().collect();
            steps::build().and_then(|()| steps::built("bench", &arguments))
        }
        ["chaos", options @ ..] => steps::build().and_then(|()| steps::built("chaos", options)),
        ["fuzz", options @ ..] => fuzz::run(options),
        ["regression", options @ ..] => steps::build().and_then(|()| steps::built("regression", options)),
        ["extensions", options @ ..] => dependencies::install_extensions()
            .and_then(|()| steps::build())
            .and_then(|()| steps::built("extensions", options)),
        ["up"] => steps::build().and_then(|()| steps::built("borealis", &["up"])),
        ["down"] => steps::built("borealis", &["down"]),
        _ => bail!("{USAGE}"),
    }
}
