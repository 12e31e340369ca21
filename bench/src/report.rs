//! The run as a Markdown page: medians, spreads, ratios.

use std::fmt::Write;
use std::time::Duration;

use crate::measure::{Plan, Results};

const SYSTEMS: [&str; 4] = ["ours", "local", "receivers", "standbys"];

struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

fn spread(values: &[f64]) -> Option<Spread> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let median = match sorted.len() {
        0 => return None,
        count if count % 2 == 1 => sorted[count / 2],
        count => (sorted[count / 2 - 1] + sorted[count / 2]) / 2.0,
    };
    Some(Spread {
        least: sorted[0],
        median,
        most: sorted[sorted.len() - 1],
    })
}

/// The whole report.
pub fn write(plan: &Plan, results: &Results, took: Duration) -> String {
    let mut text = String::new();
    let mut line = |line: String| writeln!(text, "{line}").expect("a string takes every line");
    line("# Side by side with stock PostgreSQL".into());
    line(String::new());
    line(format!(
        "`make bench`: scale {}, {} alternating rounds of {} s, {:.0} s in all, one machine, one disk.",
        plan.scale,
        plan.rounds,
        plan.seconds,
        took.as_secs_f64()
    ));
    line("Medians (least to most); the ratio is the median of the rounds' own ratios, ours to the peer's.".into());
    line(String::new());
    line("| measurement | ours | local (a) | receivers (b) | standbys (c) | to (a) | to (b) | to (c) |".into());
    line("|---|---|---|---|---|---|---|---|".into());
    let measurements: std::collections::BTreeSet<&String> = results.values.keys().map(|(name, _)| name).collect();
    for measurement in measurements {
        let of = |system| {
            results
                .values
                .get(&(measurement.clone(), system))
                .map_or(&[][..], Vec::as_slice)
        };
        let cell = |system| {
            let shown = |s: Spread| format!("{:.1} ({:.1}–{:.1})", s.median, s.least, s.most);
            spread(of(system)).map_or(String::from("–"), shown)
        };
        let ratio = |system| {
            let ratios: Vec<f64> = of("ours")
                .iter()
                .zip(of(system))
                .map(|(ours, theirs)| ours / theirs)
                .collect();
            spread(&ratios).map_or(String::from("–"), |s| format!("{:.2}", s.median))
        };
        let cells: Vec<String> = SYSTEMS.iter().map(|system| cell(system)).collect();
        let ratios: Vec<String> = SYSTEMS[1..].iter().map(|system| ratio(system)).collect();
        line(format!(
            "| {measurement} | {} | {} |",
            cells.join(" | "),
            ratios.join(" | ")
        ));
    }
    line(String::new());
    line("Processor seconds over all TPC-B rounds, checkpoints and background work included:".into());
    for (system, seconds) in &results.processor {
        let parts: Vec<String> = seconds
            .iter()
            .map(|(kind, seconds)| format!("{kind} {seconds:.1}"))
            .collect();
        line(format!("- {system}: {}", parts.join(", ")));
    }
    line(String::new());
    line("Settings that are not PostgreSQL's defaults:".into());
    for (system, settings) in &results.settings {
        line(format!("- {system}: {settings}"));
    }
    text
}
