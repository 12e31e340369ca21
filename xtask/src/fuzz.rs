//! libFuzzer on every decoder: `cargo xtask fuzz`.
//!
//! The fuzzer is built with the stable toolchain: what counts coverage is a pass of LLVM, switched on by ordinary options of
//! the compiler. What it finds lies in `target/fuzz/found/TARGET/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// Counters at every edge, and the operands of comparisons, as cargo-fuzz asks for them. With a target triple named, build
/// scripts and procedural macros are built without.
const COVERAGE: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg=fuzzing",
];
/// Seconds of each target, unless told otherwise.
const SECONDS: u64 = 60;
/// A decoder that takes so much memory has allocated from an unchecked length.
const MEMORY_MIB_MAX: u32 = 1024;
/// The longest input. Pages have 8 KiB.
const INPUT_BYTES_MAX: u32 = 32 << 10;
/// Every target has its folder here.
const CORPUS: &str = "fuzz/corpus";

/// What was asked for.
struct Options {
    seconds: u64,
    targets: Vec<String>,
    /// Inputs to run once, instead of fuzzing.
    inputs: Vec<PathBuf>,
    /// Whether to put some of what the runs so far have found into the committed corpus.
    keep: bool,
}

impl Options {
    fn parse(words: &[&str]) -> Result<Options> {
        let known = names()?;
        let mut options = Options {
            seconds: SECONDS,
            targets: Vec::new(),
            inputs: Vec::new(),
            keep: false,
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "--seconds" => {
                    let number = words.next().context("--seconds needs a number")?;
                    options.seconds = number.parse().with_context(|| format!("--seconds {number}"))?;
                }
                "--keep" => options.keep = true,
                name if known.iter().any(|one| one == name) => options.targets.push(name.to_owned()),
                file if Path::new(file).is_file() => options.inputs.push(file.into()),
                other => bail!("{other} is neither a file nor one of the targets {}", known.join(", ")),
            }
        }
        if options.targets.is_empty() {
            options.targets = known;
        }
        ensure!(
            options.inputs.is_empty() || options.targets.len() == 1,
            "name the one target that is to run on the file"
        );
        Ok(options)
    }
}

/// Every target, by the folders of the corpus.
fn names() -> Result<Vec<String>> {
    let entries = std::fs::read_dir(CORPUS).context("list fuzz/corpus (run from the top of the checkout)")?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// Builds the fuzzer and runs the targets, one after the other; fails at the first that is broken.
pub fn run(words: &[&str]) -> Result<()> {
    let options = Options::parse(words)?;
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".to_owned());
    let work = std::env::current_dir()?.join(target).join("fuzz");
    build(&work)?;
    for name in &options.targets {
        if !options.inputs.is_empty() {
            fuzzer(&work, name, options.inputs.iter().map(PathBuf::as_path), &[])?;
        } else if options.keep {
            keep(&work, name)?;
        } else {
            fuzz(&work, name, options.seconds)?;
        }
    }
    Ok(())
}

fn build(work: &Path) -> Result<()> {
    let has_compiler = Command::new("c++").arg("--version").output();
    has_compiler.context("libFuzzer is written in C++ and there is no c++ (package g++)")?;
    let arguments = [
        "build",
        "--release",
        "--target",
        TRIPLE,
        "--manifest-path",
        "fuzz/libfuzzer/Cargo.toml",
    ];
    println!("==> RUSTFLAGS={:?} cargo {}", COVERAGE.join(" "), arguments.join(" "));
    let status = Command::new("cargo")
        .args(arguments)
        .env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\x1f"))
        .env("CARGO_TARGET_DIR", work)
        .status()
        .context("start cargo")?;
    ensure!(status.success(), "the fuzzer was not built ({status})");
    Ok(())
}

fn fuzz(work: &Path, name: &str, seconds: u64) -> Result<()> {
    let (found, grown) = (work.join("found").join(name), work.join("corpus").join(name));
    std::fs::create_dir_all(&found)?;
    std::fs::create_dir_all(&grown)?;
    let options = [
        format!("-max_total_time={seconds}"),
        format!("-max_len={INPUT_BYTES_MAX}"),
        format!("-artifact_prefix={}/", found.display()),
        "-timeout=10".to_owned(),
        "-print_final_stats=1".to_owned(),
    ];
    let mut command = command(work, name, [&*grown, &Path::new(CORPUS).join(name)], &options);
    let output = command.output().context("start the fuzzer")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{said}\n{name} is broken ({}); the input is named above",
        output.status
    );
    println!("    {}", summary(&said));
    Ok(())
}

/// How often the target ran, and how many edges of its code that covered.
fn summary(said: &str) -> String {
    let number_after = |word: &str| {
        let (_, rest) = said.rsplit_once(word)?;
        rest.split_whitespace().next()
    };
    let executions = number_after("stat::number_of_executed_units:").unwrap_or("an unknown number of");
    let edges = number_after(" cov:").unwrap_or("an unknown number of");
    format!("{executions} executions, {edges} edges covered")
}

/// Puts some of what was found into the committed corpus: of the short inputs that together cover all that was covered, the
/// first by name, which is a hash.
fn keep(work: &Path, name: &str) -> Result<()> {
    /// Mutations start from these and the seeds; all that was ever found would be thousands of files.
    const KEPT_INPUTS_MAX: usize = 24;
    const KEPT_BYTES_MAX: u32 = 700;
    let (grown, cover) = (work.join("corpus").join(name), work.join("cover").join(name));
    std::fs::create_dir_all(&grown)?;
    if cover.exists() {
        std::fs::remove_dir_all(&cover)?;
    }
    std::fs::create_dir_all(&cover)?;
    let options = ["-set_cover_merge=1".to_owned(), format!("-max_len={KEPT_BYTES_MAX}")];
    fuzzer(work, name, [&*cover, &*grown], &options)?;
    let entries = std::fs::read_dir(&cover)?;
    let mut found = entries
        .map(|entry| Ok(entry?.file_name()))
        .collect::<Result<Vec<_>>>()?;
    found.sort();
    for file in found.iter().take(KEPT_INPUTS_MAX) {
        std::fs::copy(cover.join(file), Path::new(CORPUS).join(name).join(file))?;
    }
    Ok(())
}

fn fuzzer<'a>(work: &Path, name: &str, inputs: impl IntoIterator<Item = &'a Path>, options: &[String]) -> Result<()> {
    let status = command(work, name, inputs, options)
        .status()
        .context("start the fuzzer")?;
    ensure!(
        status.success(),
        "{name} is broken ({status}); the input is named above"
    );
    Ok(())
}

fn command<'a>(work: &Path, name: &str, inputs: impl IntoIterator<Item = &'a Path>, options: &[String]) -> Command {
    println!("==> {name}");
    let mut command = Command::new(work.join(TRIPLE).join("release/libfuzzer"));
    command
        .env("BOREALIS_FUZZ_TARGET", name)
        .arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"))
        .args(options);
    for input in inputs {
        command.arg(input);
        if input.starts_with(work.join("corpus")) {
            command.env("BOREALIS_FUZZ_SEEDS", input);
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::summary;

    #[test]
    fn the_last_numbers_of_a_run_are_told() {
        let said =
            "#2\tINITED cov: 5 ft: 6\n#90\tDONE   cov: 50 ft: 60 corp: 3/4b\nstat::number_of_executed_units: 90\n";
        assert_eq!(summary(said), "90 executions, 50 edges covered");
    }
}
