//! Explores the specification and prints what was found: `specification [--large] [--mistake NAME] [CONFIGURATION…]`.

use std::process::ExitCode;
use std::time::Duration;

use specification::{Configuration, EVERYDAY, Exploration, LARGE, Limits, Mistake, Model, explore};

/// Where a large configuration is cut off: some gigabytes are full by then.
const STATES_MAX: usize = 20_000_000;

const USAGE: &str = "usage: specification [--large | --mistake NAME] [PART OF A CONFIGURATION'S NAME]
  without arguments   the configurations of every test run, to the end
  --large             the large ones: some minutes and gigabytes
  --mistake NAME      the shortest history in which a broken rule does harm; `--mistake all` for all of them";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let holds = match arguments[..] {
        ["--mistake", name] => return show_mistakes(name),
        ["--large"] => table(&LARGE, ""),
        ["--large", part] => table(&LARGE, part),
        [] => table(&EVERYDAY, ""),
        [part] if !part.starts_with('-') => table(&EVERYDAY, part),
        _ => return misused(),
    };
    match holds {
        Some(true) => ExitCode::SUCCESS,
        Some(false) => ExitCode::FAILURE,
        None => misused(),
    }
}

fn misused() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

/// Explores the configurations whose names contain `part`, one line each, and tells whether the properties held in whatever was
/// visited. `None` if there is no such configuration.
fn table(configurations: &[Configuration], part: &str) -> Option<bool> {
    println!(
        "| configuration | states | transitions | depth | processor seconds | result |\n|---|---|---|---|---|---|"
    );
    let chosen = configurations
        .iter()
        .filter(|configuration| configuration.name.contains(part));
    let held = chosen.map(|configuration| {
        let limits = Limits {
            states_max: STATES_MAX,
            ..Limits::default()
        };
        let before = processor_time();
        let found = explore(&Model::correct(*configuration), limits);
        println!(
            "| {} | {} | {} | {} | {} | {} |",
            configuration.name,
            found.states,
            found.transitions,
            found.depth,
            since(before),
            result(&found)
        );
        if let Some((_, steps)) = &found.violation {
            steps.iter().for_each(|step| println!("    {step:?}"));
        }
        found.violation.is_none()
    });
    held.reduce(|all, held| all && held)
}

/// What this thread has used of a processor, as Linux tells it: on a busy machine the clock says little.
fn processor_time() -> Option<Duration> {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds = statistics.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

fn since(before: Option<Duration>) -> String {
    let used = before
        .zip(processor_time())
        .map(|(before, now)| now.saturating_sub(before));
    used.map_or("unknown".to_owned(), |used| format!("{:.1}", used.as_secs_f64()))
}

fn result(found: &Exploration) -> String {
    match &found.violation {
        Some((property, _)) => format!("violated: {property}"),
        None if found.exhaustive => "holds".to_owned(),
        None => "cut off: nothing found".to_owned(),
    }
}

/// Prints the shortest history in which each of the named mistakes does harm.
fn show_mistakes(name: &str) -> ExitCode {
    let chosen = Mistake::ALL.into_iter();
    let chosen: Vec<Mistake> = chosen
        .filter(|mistake| name == "all" || mistake.name() == name)
        .collect();
    if chosen.is_empty() {
        let names: Vec<String> = Mistake::ALL.iter().map(|mistake| mistake.name()).collect();
        eprintln!("there is no mistake {name}; there are: all {}", names.join(" "));
        return ExitCode::from(2);
    }
    let mut found_all = true;
    for mistake in chosen {
        let properties = [mistake.violates()];
        let limits = Limits {
            properties: &properties,
            by_name: true,
            ..Limits::default()
        };
        let found = explore(&Model::with(mistake), limits);
        println!("{}: {}, after {} states", mistake.name(), result(&found), found.states);
        for (number, step) in found.violation.iter().flat_map(|(_, steps)| steps).enumerate() {
            println!("  {:2}. {step}", number + 1);
        }
        found_all &= found.violation.is_some();
    }
    if found_all {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
