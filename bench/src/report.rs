//! The run as a Markdown page: medians, spreads, ratios.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use anyhow::Result;

use crate::latency;
use crate::machine::{self, Machine};
use crate::measure::{Better, CLIENTS, Measurement, Plan, Results};
use crate::spread::spread;
use crate::system::{LOCAL, OURS, RECEIVERS, STANDBYS};

/// The columns: the systems, with what the table calls them.
const COLUMNS: [(&str, &str); 4] = [
    (OURS, "ours, through the endpoint"),
    (LOCAL, "(a) local"),
    (RECEIVERS, "(b) receivers"),
    (STANDBYS, "(c) standbys"),
];

fn figure(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 1000.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

fn cell(values: &[f64]) -> String {
    match spread(values) {
        None => "–".to_owned(),
        Some(only) if values.len() == 1 => figure(only.median),
        Some(all) => format!("{} ({} to {})", figure(all.median), figure(all.least), figure(all.most)),
    }
}

/// Median and spread of the rounds' own ratios, ours to the peer's.
fn ratio(ours: &[f64], theirs: &[f64]) -> String {
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    match spread(&ratios) {
        None => "–".to_owned(),
        Some(only) if ratios.len() == 1 => format!("**{:.2}**", only.median),
        Some(all) => format!("**{:.2}** ({:.2} to {:.2})", all.median, all.least, all.most),
    }
}

fn of<'a>(measurement: &'a Measurement, system: &str) -> &'a [f64] {
    measurement.values.get(system).map_or(&[], Vec::as_slice)
}

fn row(measurement: &Measurement) -> String {
    let rounds = measurement.values.values().map(Vec::len).max().unwrap_or(0);
    let better = if measurement.better == Better::More {
        "more"
    } else {
        "less"
    };
    let mut cells = vec![measurement.name.clone(), rounds.to_string(), better.to_owned()];
    cells.extend(COLUMNS.iter().map(|(system, _)| cell(of(measurement, system))));
    cells.push(format!("`{}`", measurement.command));
    format!("| {} |", cells.join(" | "))
}

fn ratio_row(measurement: &Measurement) -> String {
    let mut cells = vec![measurement.name.clone()];
    let peers = [LOCAL, RECEIVERS, STANDBYS];
    cells.extend(peers.map(|peer| ratio(of(measurement, OURS), of(measurement, peer))));
    format!("| {} |", cells.join(" | "))
}

/// The whole report. `command` is what was typed to get it.
pub fn write(plan: &Plan, machine: &Machine, results: &Results, took: Duration, command: &str) -> Result<String> {
    let mut text = String::new();
    writeln!(
        text,
        "# Side by side with stock PostgreSQL\n\n\
         `{command}`: {}, commit {}. {}. All data of all systems on one file system ({}); load average before the start {}, at \
         the end {} (the run's own). The run took {:.0} s.\n",
        machine.date,
        machine.commit,
        machine.hardware,
        machine.file_system,
        machine.load_before,
        machine::load()?,
        took.as_secs_f64(),
    )?;
    write_method(&mut text, plan)?;
    let names: Vec<&str> = COLUMNS.iter().map(|(_, name)| *name).collect();
    writeln!(
        text,
        "| measurement | rounds | better | {} | command |\n|---|---|---|{}---|",
        names.join(" | "),
        "---|".repeat(COLUMNS.len()),
    )?;
    for measurement in &results.measurements {
        writeln!(text, "{}", row(measurement))?;
    }
    writeln!(
        text,
        "\n## Ratios\n\nMedian (least to most) of the rounds' own ratios, ours to the peer's.\n\n\
         | measurement | ours / (a) | ours / (b) | ours / (c) |\n|---|---|---|---|",
    )?;
    for measurement in &results.measurements {
        writeln!(text, "{}", ratio_row(measurement))?;
    }
    write_background(&mut text, results)?;
    writeln!(
        text,
        "\n## Settings that are not PostgreSQL's defaults\n\nApart from addresses and paths. Ours has no data files of its own \
         to flush (`fsync`, `full_page_writes`): a commit is durable when the journals of four of six storage nodes have it.\n"
    )?;
    for (system, settings) in &results.settings {
        writeln!(text, "- {system}: {settings}")?;
    }
    Ok(text)
}

/// Who is measured, and how.
fn write_method(text: &mut String, plan: &Plan) -> Result<()> {
    writeln!(
        text,
        "Ours is Borealis with six storage nodes, through its cluster endpoint. (a) is stock PostgreSQL on the local disk, no copies; (b) \
         stock with six `pg_receivewal --synchronous` and `ANY 4`; (c) stock with six synchronous hot standbys and `ANY 4`, as \
         many page copies as ours. Every process of every system runs on this machine; who is not measured is idle.\n"
    )?;
    writeln!(
        text,
        "`pgbench` at scale {}, the systems in turn, each first in turn, with a wait after each measurement until the system's \
         processes rest. Tables and indexes were brought into the buffer cache with `pg_prewarm` beforehand. The peers do no \
         checkpoint between the first CHECKPOINT (before the transactions whose bytes are counted) and one at the end of the \
         run, whose processor time counts: so most pages have had their full-page image before the rounds, which is the peers' \
         best case. Ours does its checkpoints every minute.\n",
        plan.scale,
    )?;
    writeln!(
        text,
        "A cell is the median (least to most) of the rounds. Bytes sent: {} transactions of {CLIENTS} clients from a fresh \
         CHECKPOINT; ours counts what the instance sent to storage nodes, framing and all six copies included, (b) is six times \
         the WAL that was written. One-row commits are timed one by one by `pgbench --log`: {}.\n",
        plan.log_transactions,
        latency::SCRIPTS
            .map(|(name, statements)| format!("{name}.sql is `{}`", statements.trim().replace('\n', " ")))
            .join(", "),
    )?;
    Ok(())
}

fn write_background(text: &mut String, results: &Results) -> Result<()> {
    writeln!(
        text,
        "\n## Processor time\n\nMilliseconds a transaction over all TPC-B rounds, checkpoints and background work until the \
         system rests included, `pgbench` excluded:\n"
    )?;
    for (system, seconds) in &results.processor {
        let transactions = results.transactions.get(system).copied().unwrap_or(f64::NAN);
        let milliseconds = |seconds: f64| seconds * 1000.0 / transactions;
        let parts: Vec<String> = seconds
            .iter()
            .map(|(kind, seconds)| format!("{kind} {:.3}", milliseconds(*seconds)))
            .collect();
        let all = milliseconds(seconds.values().sum());
        writeln!(text, "- {system}: {all:.3} ({})", parts.join(", "))?;
    }
    let list = |parts: Vec<String>| parts.join(", ");
    let waits: &BTreeMap<_, _> = &results.longest_drain;
    writeln!(
        text,
        "\nLongest wait for a system to rest after a measurement: {}. Blocks that select-only did not find in the buffer cache: \
         {}.",
        list(
            waits
                .iter()
                .map(|(system, wait)| format!("{system} {:.1} s", wait.as_secs_f64()))
                .collect()
        ),
        list(
            results
                .select_blocks_read
                .iter()
                .map(|(system, read)| format!("{system} {read}"))
                .collect()
        ),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{cell, ratio};

    #[test]
    fn a_ratio_is_the_median_of_the_rounds_own() {
        assert_eq!(ratio(&[1.0, 4.0, 9.0], &[1.0, 2.0, 3.0]), "**2.00** (1.00 to 3.00)");
        assert_eq!(ratio(&[3.0], &[2.0]), "**1.50**");
        assert_eq!(ratio(&[3.0], &[]), "–");
    }

    #[test]
    fn a_cell_is_the_median_with_its_spread() {
        assert_eq!(cell(&[4.0, 1.0, 2.0, 3.0]), "2.50 (1.00 to 4.00)");
        assert_eq!(cell(&[12345.6]), "12346");
        assert_eq!(cell(&[]), "–");
    }
}
