//! A short run with a fresh seed. It prints the seed, and how to run it again.

use std::time::Duration;

use anyhow::{Result, ensure};

/// How long faults go on.
const LENGTH: Duration = Duration::from_secs(45);
/// Fewer acknowledged transactions would show nothing.
const ACKNOWLEDGED_MIN: usize = 50;

#[test]
fn nothing_acknowledged_is_lost_while_everything_fails_and_returns() -> Result<()> {
    let seed = chaos::fresh_seed();
    let summary = chaos::run(chaos::Options {
        seed,
        length: LENGTH,
        tails: seed.is_multiple_of(2),
        keep: false,
    })?;
    println!("{summary}");
    ensure!(
        ACKNOWLEDGED_MIN <= summary.totals.acknowledged && 0 < summary.totals.readings,
        "too little happened: {summary}"
    );
    Ok(())
}
