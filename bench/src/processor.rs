//! Processor time by kind of process, from `/proc`.

use std::collections::BTreeMap;
use std::path::Path;

/// Clock ticks of `/proc/PID/stat` in a second; fixed on Linux for user space.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds of processor time (user and system) by kind of process.
pub type Seconds = BTreeMap<String, f64>;

/// What every process that belongs to `directory` has used so far, children that ended included.
pub fn used(directory: &Path) -> Seconds {
    let needle = directory.to_string_lossy().into_owned();
    let mut roots = BTreeMap::new();
    let mut parents = BTreeMap::new();
    let mut ticks = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let Some((_, rest)) = stat.rsplit_once(") ") else {
            continue;
        };
        let fields: Vec<u64> = rest.split(' ').map(|field| field.parse().unwrap_or(0)).collect();
        if fields.len() < 15 {
            continue;
        }
        parents.insert(pid, fields[1] as u32);
        // utime, stime, cutime, cstime: fields 14 to 17 of the file, counted from one.
        ticks.insert(pid, fields[11..15].iter().sum::<u64>());
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<String> = line
            .split(|byte| *byte == 0)
            .map(|w| String::from_utf8_lossy(w).into_owned())
            .collect();
        if words.iter().any(|word| word.contains(&needle)) {
            roots.insert(pid, kind(&words));
        }
    }
    let mut seconds = Seconds::new();
    for (pid, ticks) in &ticks {
        let mut at = *pid;
        let kind = loop {
            match (roots.get(&at), parents.get(&at)) {
                (Some(kind), _) => break Some(kind),
                (None, Some(parent)) => at = *parent,
                (None, None) => break None,
            }
        };
        if let Some(kind) = kind {
            *seconds.entry(kind.clone()).or_default() += *ticks as f64 / TICKS_PER_SECOND;
        }
    }
    seconds
}

fn kind(words: &[String]) -> String {
    let program = words[0].rsplit('/').next().unwrap_or_default();
    match (program, words) {
        ("borealis", [_, word, role, ..]) if word == "role" => role.to_owned(),
        ("borealis", [_, role, ..]) => role.to_owned(),
        ("postgres", _) if words.iter().any(|word| word.contains("/copy")) => "standby".to_owned(),
        (program, _) => program.to_owned(),
    }
}

/// What was used between two readings.
pub fn difference(before: &Seconds, after: &Seconds) -> Seconds {
    let used = |(kind, seconds): (&String, &f64)| (kind.clone(), (seconds - before.get(kind).unwrap_or(&0.0)).max(0.0));
    after.iter().map(used).collect()
}
