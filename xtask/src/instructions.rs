//! Instructions a record, counted by callgrind: `cargo xtask instructions`.
//!
//! Times differ from one run to the next, and more so on a busy machine; instructions hardly do. What decoding and redo of the
//! committed sample take is compared with the committed numbers, in every `make test`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::steps;

/// What counted, on a line of its own, and lines of `what instructions-a-record`.
const NUMBERS: &str = "tests/recorded/samples/instructions.txt";
/// What is counted happens in functions of these names only (`tests/recorded/src/bin/count.rs`).
const COUNTED: &str = "--toggle-collect=*counted_*";
const WORKS: &[&str] = &["decode", "apply"];
/// What counts the same instructions with the same compiler on a processor of the same abilities.
const MORE_PERCENT_MAX: f64 = 5.0;
/// Another compiler optimises otherwise, and the C library copies otherwise on another processor.
const MORE_PERCENT_MAX_ELSEWHERE: f64 = 30.0;
const RENEW: &str = "cargo xtask instructions --renew";

/// Counts, and compares; `renew` writes the numbers instead.
pub fn run(renew: bool) -> Result<()> {
    let records = last_word(Command::new(steps::program("count")).arg("records"))?;
    let mut counted = BTreeMap::new();
    for work in WORKS {
        let instructions = callgrind(work)?;
        counted.insert((*work).to_owned(), instructions / records);
    }
    if renew {
        let lines = counted.iter().map(|(work, count)| format!("{work} {count:.0}\n"));
        let text = format!("{}\n{}", counter()?, lines.collect::<String>());
        return std::fs::write(NUMBERS, text).with_context(|| format!("write {NUMBERS}"));
    }
    let (counted_by, known) = known()?;
    let here = counter()?;
    let more_max = if counted_by == here {
        MORE_PERCENT_MAX
    } else {
        println!("    the committed numbers were counted by {counted_by}, and here it is {here}: they bind less");
        MORE_PERCENT_MAX_ELSEWHERE
    };
    let mut grown = Vec::new();
    for (work, known) in known {
        let now = *counted.get(&work).with_context(|| format!("{NUMBERS} names {work}"))?;
        let more = 100.0 * (now / known - 1.0);
        println!("    {work}: {now:.0} instructions a record, {more:+.1} % to the committed {known:.0}");
        if more_max < more {
            grown.push(work);
        }
    }
    ensure!(
        grown.is_empty(),
        "{} takes over {more_max} % more instructions; if that is worth it, renew the numbers: {RENEW}",
        grown.join(" and ")
    );
    Ok(())
}

/// What the numbers depend on besides the code: the compiler, and which copying the C library chooses on this processor.
fn counter() -> Result<String> {
    let output = Command::new("rustc").arg("--version").output().context("start rustc")?;
    ensure!(output.status.success(), "rustc --version failed");
    let processor = std::fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
    let abilities = ["avx2", "avx512f", "erms"].into_iter();
    let abilities = abilities.filter(|ability| processor.split_whitespace().any(|flag| flag == *ability));
    let compiler = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(format!("{compiler} {}", abilities.collect::<Vec<_>>().join(" "))
        .trim()
        .to_owned())
}

/// Who counted the committed numbers, and the numbers.
fn known() -> Result<(String, BTreeMap<String, f64>)> {
    let text = std::fs::read_to_string(NUMBERS).with_context(|| format!("read {NUMBERS}"))?;
    let (counter, numbers) = text.split_once('\n').context("a line that says what counted")?;
    let line = |line: &str| -> Result<(String, f64)> {
        let (work, count) = line.split_once(' ').context("a word and a number")?;
        Ok((work.to_owned(), count.trim().parse()?))
    };
    let numbers: Result<_> = numbers
        .lines()
        .map(|text| line(text).with_context(|| format!("{NUMBERS}: {text}")))
        .collect();
    Ok((counter.to_owned(), numbers?))
}

/// Instructions of one work.
fn callgrind(work: &str) -> Result<f64> {
    let program = steps::program("count");
    println!("==> valgrind --tool=callgrind {program} {work}");
    let out = Path::new(&program).with_file_name(format!("callgrind.{work}"));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", COUNTED])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .args([&program, work])
        .output()
        .context("start valgrind (package valgrind)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    // `==123== Collected : 456`
    let collected = said.lines().find_map(|line| line.split_once("Collected : "));
    match collected {
        Some((_, count)) if output.status.success() => Ok(count.trim().parse()?),
        _ => bail!("valgrind counted nothing: {said}"),
    }
}

fn last_word(command: &mut Command) -> Result<f64> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed");
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
}
