//! How long one client waits for the commit of one row: mean, median, 99th percentile.

use anyhow::{Context, Result, ensure};
use system_tests::new_directory;

use crate::system::System;

/// What is timed, each a transaction of its own: name and statements.
pub const SCRIPTS: [(&str, &str); 2] = [
    ("insert", "INSERT INTO inserted (what) VALUES (repeat('x', 100));\n"),
    (
        "update",
        "\\set id random(1, 1000)\nUPDATE updated SET n = n + 1 WHERE id = :id;\n",
    ),
];

const TABLES: &str = "
    CREATE TABLE inserted (id bigserial PRIMARY KEY, what text);
    CREATE TABLE updated (id int PRIMARY KEY, n int);
    INSERT INTO updated SELECT i, 0 FROM generate_series(1, 1000) i";

/// The latencies of one script in one run, in milliseconds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Latency {
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// What 99 of a hundred do not exceed.
    pub p99: f64,
}

/// Makes the tables.
pub fn prepare(system: &System) -> Result<()> {
    system.sql(TABLES)?;
    Ok(())
}

/// What is run, for the report.
pub fn command(seconds: u32) -> String {
    let files = SCRIPTS.map(|(name, _)| format!(" -f {name}.sql"));
    format!("pgbench -n -c 1 -T {seconds} -l{}", files.concat())
}

/// Runs all scripts, mixed at random; the latencies of each, in the order of [`SCRIPTS`].
pub fn measure(system: &System, seconds: u32) -> Result<[Latency; SCRIPTS.len()]> {
    let directory = new_directory("latency");
    let measured = measure_in(&directory, system, seconds);
    // What cannot be removed from a temporary directory is a nuisance, not a failed run.
    let _ = std::fs::remove_dir_all(&directory);
    measured
}

fn measure_in(directory: &std::path::Path, system: &System, seconds: u32) -> Result<[Latency; SCRIPTS.len()]> {
    let folder = directory.to_str().context("the temporary directory has a plain name")?;
    let (seconds, prefix) = (seconds.to_string(), format!("--log-prefix={folder}/log"));
    let mut arguments = vec!["-n", "-c", "1", "-T", &seconds, "-l", &prefix];
    let mut files = Vec::new();
    for (name, statements) in SCRIPTS {
        let file = format!("{folder}/{name}.sql");
        std::fs::write(&file, statements)?;
        files.push(file);
    }
    for file in &files {
        arguments.extend(["-f", file]);
    }
    system.pgbench(&arguments)?;
    let log = logs(directory)?;
    let mut latencies = [None; SCRIPTS.len()];
    for (script, latency) in latencies.iter_mut().enumerate() {
        *latency = Some(of(&log, script)?);
    }
    Ok(latencies.map(|latency| latency.expect("each was set just now")))
}

/// The latencies of one script, numbered as `pgbench` numbers them, in the logs that it left in a directory.
pub fn of_directory(directory: &std::path::Path, script: usize) -> Result<Latency> {
    of(&logs(directory)?, script)
}

fn logs(directory: &std::path::Path) -> Result<String> {
    let mut log = String::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "sql") {
            log += &std::fs::read_to_string(path)?;
        }
    }
    Ok(log)
}

/// The latencies of one script in pgbench's log: client, transaction, microseconds, script, and the time of day.
fn of(log: &str, script: usize) -> Result<Latency> {
    let script = script.to_string();
    let mut milliseconds = Vec::new();
    for line in log.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        ensure!(fields.len() >= 6, "pgbench logs another format: {line}");
        if fields[3] == script {
            let microseconds: f64 = fields[2].parse().with_context(|| line.to_owned())?;
            milliseconds.push(microseconds / 1000.0);
        }
    }
    ensure!(!milliseconds.is_empty(), "no transaction of script {script} was logged");
    milliseconds.sort_by(f64::total_cmp);
    let count = milliseconds.len();
    let at = |percent: usize| milliseconds[(count * percent).div_ceil(100).max(1) - 1];
    Ok(Latency {
        mean: milliseconds.iter().sum::<f64>() / count as f64,
        p50: at(50),
        p99: at(99),
    })
}

#[cfg(test)]
mod tests {
    use super::{Latency, of};

    #[test]
    fn the_latencies_of_a_script_are_found_in_the_log() {
        let lines = (1..=100).map(|number| format!("0 {number} {} {} 1700000000 5\n", number * 1000, number % 2));
        let log: String = lines.collect();
        let even = Latency {
            mean: 51.0,
            p50: 50.0,
            p99: 100.0,
        };
        assert_eq!(of(&log, 0).unwrap(), even);
        assert_eq!(of(&log, 1).unwrap().p50, 49.0);
        assert!(of(&log, 2).is_err());
        assert!(of("nonsense\n", 0).is_err());
    }
}
