//! How fast log is decoded and redone: `cargo xtask bench-redo`.
//!
//! The benches run on log that a stock server writes first, once (`tests/recorded`). What criterion measured is told as
//! medians, beside what is to be reached.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::steps;

/// Package and bench.
const BENCHES: &[(&str, &str)] = &[("wal", "decode"), ("redo", "apply"), ("page-store", "materialise")];

/// Measures, then tells the medians.
pub fn run() -> Result<()> {
    for (package, bench) in BENCHES {
        steps::bench(package, bench)?;
    }
    println!("medians, and what is to be reached on one core:");
    for (_, bench) in BENCHES {
        for folder in measured(bench)? {
            println!("    {}", line(&folder)?);
        }
    }
    Ok(())
}

/// Criterion's folders of one bench.
fn measured(bench: &str) -> Result<Vec<PathBuf>> {
    let criterion = Path::new(&steps::target_folder()).join("criterion");
    let mut folders = Vec::new();
    for group in entries(&criterion)? {
        let name = group.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(&format!("{bench}_")) {
            let cases = entries(&group)?.into_iter().map(|case| case.join("new"));
            folders.extend(cases.filter(|case| case.join("estimates.json").exists()));
        }
    }
    folders.sort();
    Ok(folders)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

fn read(file: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("read {}", file.display()))
}

/// One case: its median, as a rate if it knows of how many records or bytes.
fn line(folder: &Path) -> Result<String> {
    let (about, estimates) = (
        read(&folder.join("benchmark.json"))?,
        read(&folder.join("estimates.json"))?,
    );
    let name = about["full_id"].as_str().context("a bench without a name")?;
    let nanoseconds = estimates["median"]["point_estimate"].as_f64();
    let nanoseconds = nanoseconds.with_context(|| format!("{name} has no median"))?;
    let throughput = &about["throughput"];
    let both = &throughput["ElementsAndBytes"];
    let records = both["elements"].as_f64().or(throughput["Elements"].as_f64());
    let bytes = both["bytes"].as_f64();
    let mut shown = match records {
        Some(records) => format!("{name}: {:.1} million records/s", records / nanoseconds * 1e3),
        None => format!("{name}: {:.1} µs", nanoseconds / 1e3),
    };
    if let Some(bytes) = bytes {
        shown.push_str(&format!(", {:.2} GB/s", bytes / nanoseconds));
    }
    if let Some(goal) = goal(name) {
        shown.push_str(&format!(" (to reach: {goal})"));
    }
    Ok(shown)
}

fn goal(name: &str) -> Option<&'static str> {
    let goals = [
        ("decode/pgbench", "5 million records/s or 1 GB/s"),
        ("apply/pgbench", "1 million records/s"),
        ("materialise/pgbench", "under 50 µs with the page's versions in memory"),
    ];
    let (_, goal) = goals.iter().find(|(case, _)| name.starts_with(case))?;
    Some(goal)
}
