//! What the numbers were measured on.

use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The machine as it was before the run.
pub struct Machine {
    /// Day and time, in UTC.
    pub date: String,
    /// Which commit of this project; `-dirty` if the sources differ from it.
    pub commit: String,
    /// Processors, memory, kernel.
    pub hardware: String,
    /// File system of the temporary directory, where every system keeps its data.
    pub file_system: String,
    /// Load over the last minute, before anything was started: what others took from the run.
    pub load_before: String,
}

fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("start {program}"))?;
    ensure!(output.status.success(), "{program} {arguments:?} failed");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn value(path: &str, label: &str) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find(|line| line.starts_with(label));
    let value = line
        .and_then(|line| line.split_once(':'))
        .map(|(_, value)| value.trim());
    value
        .map(str::to_owned)
        .with_context(|| format!("{path} names no {label}"))
}

/// The load average over the last minute.
pub fn load() -> Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg").context("read /proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

impl Machine {
    /// Looks around.
    pub fn observe() -> Result<Machine> {
        let directory = std::env::temp_dir();
        let directory = directory.to_str().context("the temporary directory has a plain name")?;
        let processor = value("/proc/cpuinfo", "model name").unwrap_or_else(|_| "processor of unknown name".to_owned());
        Ok(Machine {
            date: output("date", &["-u", "+%Y-%m-%d %H:%M UTC"])?,
            commit: output("git", &["describe", "--always", "--dirty", "--exclude=*"])
                .unwrap_or_else(|_| "unknown".to_owned()),
            hardware: format!(
                "{} × {processor}, {} memory, Linux {}",
                std::thread::available_parallelism()?,
                value("/proc/meminfo", "MemTotal")?,
                output("uname", &["-r"])?,
            ),
            file_system: output("stat", &["-f", "-c", "%T", directory])?,
            load_before: load()?,
        })
    }
}
