//! The steps of `build`, `check` and `test`, each a command that is printed before it runs.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{fuzz, instructions, tidy};

fn run(environment: &[(&str, &str)], program: &str, arguments: &[&str]) -> Result<()> {
    let shown: Vec<String> = environment
        .iter()
        .map(|(name, value)| format!("{name}={value:?} "))
        .collect();
    println!("==> {}{program} {}", shown.concat(), arguments.join(" "));
    let started = Instant::now();
    let status = Command::new(program)
        .envs(environment.iter().copied())
        .args(arguments)
        .status()
        .with_context(|| format!("start {program}"))?;
    if !status.success() {
        bail!("{program} {} failed ({status})", arguments.join(" "));
    }
    println!("    {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Builds every crate, in the release profile.
pub fn build() -> Result<()> {
    run(&[], "cargo", &["build", "--release", "--workspace", "--locked"])
}

/// Cheapest first: layout, formatting, lints, documentation.
pub fn check() -> Result<()> {
    tidy::check()?;
    run(&[], "cargo", &["fmt", "--all", "--check"])?;
    let clippy = [
        "clippy",
        "--release",
        "--workspace",
        "--all-targets",
        "--locked",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ];
    run(&[], "cargo", &clippy)?;
    let documentation = ["doc", "--release", "--workspace", "--no-deps", "--locked", "--quiet"];
    run(&[("RUSTDOCFLAGS", "-D warnings")], "cargo", &documentation)
}

/// How long `test` runs the simulator on seeds that nobody has seen; the regression tests have those of before.
const FRESH_SEEDS_SECONDS: &str = "60";

/// Everything that decides whether a change may land. Ends with one line that counts the tests of all crates.
pub fn test() -> Result<()> {
    check()?;
    build()?;
    instructions::run(false)?;
    fuzz::run(&["--seconds", "1"])?;
    package("sim", &["--seconds", FRESH_SEEDS_SECONDS])?;
    let arguments = ["test", "--release", "--workspace", "--locked", "--no-fail-fast"];
    println!("==> cargo {}", arguments.join(" "));
    let mut cargo = Command::new("cargo")
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .context("start cargo")?;
    let output = cargo.stdout.take().context("standard output was asked for as a pipe")?;
    let (mut passed, mut failed) = (0, 0);
    for line in BufReader::new(output).lines() {
        let line = line.context("read what the tests say")?;
        println!("{line}");
        passed += counted(&line, "passed");
        failed += counted(&line, "failed");
    }
    let status = cargo.wait()?;
    println!("{passed} passed, {failed} failed");
    if !status.success() {
        bail!("the tests failed ({status})");
    }
    Ok(())
}

/// Writes the operator's page of metrics anew.
pub fn metrics() -> Result<()> {
    let test = [
        "test",
        "--release",
        "--locked",
        "--quiet",
        "--package",
        "borealis",
        "metrics_page",
    ];
    run(&[("BOREALIS_RENEW_METRICS_PAGE", "1")], "cargo", &test)
}

/// Where cargo builds.
pub fn target_folder() -> String {
    std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".to_owned())
}

/// Where cargo puts a program of this name.
pub fn program(name: &str) -> String {
    format!("{}/release/{name}", target_folder())
}

/// Runs one of a package's benches.
pub fn bench(package: &str, name: &str) -> Result<()> {
    run(
        &[],
        "cargo",
        &["bench", "--locked", "--package", package, "--bench", name],
    )
}

/// Runs a program that was built.
pub fn built(name: &str, arguments: &[&str]) -> Result<()> {
    run(&[], &program(name), arguments)
}

/// Builds one package and runs its program.
pub fn package(name: &str, arguments: &[&str]) -> Result<()> {
    let run_it = ["run", "--release", "--locked", "--quiet", "--package", name, "--"];
    run(&[], "cargo", &[&run_it, arguments].concat())
}

/// The number before `word` in a line such as `test result: ok. 4 passed; 0 failed; …`; zero in any other line.
fn counted(line: &str, word: &str) -> u64 {
    let Some(result) = line.strip_prefix("test result: ") else {
        return 0;
    };
    let number = result.split([';', '.']).find_map(|part| part.trim().strip_suffix(word));
    number.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn the_counts_of_a_result_line_are_read() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 1 filtered out; finished in 0.02s";
        assert_eq!((counted(line, "passed"), counted(line, "failed")), (12, 3));
        assert_eq!(counted("test it_passed ... ok", "passed"), 0);
    }
}
