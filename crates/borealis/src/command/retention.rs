//! `borealis retention`: for how long old versions are kept.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use control_plane::Client;

use crate::command::status::instance_status_blocking;
use crate::layout::{Cluster, Layout};

/// How long the writer may take to keep another window: it asks the control process every second.
const TAKEN_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);

/// Shows the window, or asks for another one and waits until the writer keeps it.
pub fn run(layout: &Layout, seconds: Option<u64>) -> Result<ExitCode> {
    Cluster::load(layout)?;
    match seconds {
        Some(seconds) => set(layout, seconds)?,
        None => show(layout)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn show(layout: &Layout) -> Result<()> {
    let control = Client::new(&layout.control_socket());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let record = runtime.block_on(super::storage::record(&control))?;
    let record = record.context("there is no volume yet")?;
    println!("{}", words(record.retention_seconds));
    Ok(())
}

/// Asks for another window. When this returns the volume's record has it, unless there is no writer just now.
pub fn set(layout: &Layout, seconds: u64) -> Result<()> {
    let control = Client::new(&layout.control_socket());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = runtime.block_on(control.set_retention(seconds));
    asked.context("ask the control process for another retention window")?;
    let deadline = Instant::now() + TAKEN_LIMIT;
    while kept_seconds(layout)? != Some(seconds) {
        if deadline <= Instant::now() {
            bail!(
                "no writer keeps the new retention window yet\nhint:  it does as soon as there is one; `borealis status` shows it"
            );
        }
        std::thread::sleep(POLL);
    }
    println!("{}", words(seconds));
    Ok(())
}

/// The window that the writer keeps.
fn kept_seconds(layout: &Layout) -> Result<Option<u64>> {
    let cluster = Cluster::load(layout)?;
    let status = cluster
        .writer()
        .and_then(|writer| instance_status_blocking(layout, &writer.name));
    Ok(status
        .filter(|status| status["role"] == "writer")
        .and_then(|status| status["retention_seconds"].as_u64()))
}

fn words(seconds: u64) -> String {
    match seconds {
        0 => "old versions are not kept".to_owned(),
        _ if seconds.is_multiple_of(3600) => format!("old versions are kept for {}h", seconds / 3600),
        _ if seconds.is_multiple_of(60) => format!("old versions are kept for {}m", seconds / 60),
        _ => format!("old versions are kept for {seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn a_window_is_told_as_it_is_asked_for() {
        assert_eq!(words(0), "old versions are not kept");
        assert_eq!(words(7200), "old versions are kept for 2h");
        assert_eq!(words(600), "old versions are kept for 10m");
        assert_eq!(words(90), "old versions are kept for 90s");
    }
}
