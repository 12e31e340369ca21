//! `sim --seed N [--count M]`: runs one simulated history, or M of them from N on.

use std::process::ExitCode;

const USAGE: &str = "usage: sim --seed N [--count M]";

fn arguments() -> Option<(u64, u64)> {
    let (mut seed, mut count) = (None, 1);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let number = words.next()?.parse().ok()?;
        match word.as_str() {
            "--seed" => seed = Some(number),
            "--count" => count = number,
            _ => return None,
        }
    }
    Some((seed?, count))
}

fn main() -> ExitCode {
    let Some((first, count)) = arguments() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let mut failed = 0;
    for seed in first..first.saturating_add(count) {
        match sim::run(seed, None) {
            Ok(report) if count == 1 => println!("seed {seed}: {report:?}"),
            Ok(_) => {}
            Err(failure) => {
                failed += 1;
                eprintln!("seed {seed}: {failure}");
            }
        }
    }
    println!("{count} histories, {failed} with a violation");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
