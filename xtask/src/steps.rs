//! The steps of `build`, `check` and `test`, each a command that is printed before it runs.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::tidy;

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

/// Everything that decides whether a change may land.
pub fn test() -> Result<()> {
    check()?;
    build()?;
    run(
        &[],
        "cargo",
        &["test", "--release", "--workspace", "--locked", "--no-fail-fast"],
    )
}
