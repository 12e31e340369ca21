//! `borealis storage scrub`: everything that storage nodes have at rest is read again now, not only once a day.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use wire_format::Request;
use wire_format::message::{Hello, NodeStatus};

use crate::command::status::{ask_node, node_hello};
use crate::layout::{Cluster, Layout, StorageEntry};

/// How often it is looked how far a pass is.
const POLL: Duration = Duration::from_millis(200);
/// How often that is told.
const TELL: Duration = Duration::from_secs(2);
/// How long a node may say nothing before it is given up.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// How long the mending of what a pass found is waited for. It goes on after that.
const MEND_LIMIT: Duration = Duration::from_secs(600);
const MIB: u64 = 1 << 20;

/// A pass that was asked for.
struct Pass<'a> {
    node: &'a StorageEntry,
    number: u64,
    /// Damaged and mended files, as they were counted before it.
    before: (u64, u64),
}

/// Has one node, or every one, begin a pass now.
pub async fn run(layout: &Layout, cluster: &Cluster, name: Option<&str>, waits: bool) -> Result<ExitCode> {
    let hello = node_hello(layout, cluster)?;
    let mut passes = Vec::new();
    let mut silent = Vec::new();
    for node in cluster
        .storage
        .iter()
        .filter(|node| name.is_none_or(|name| node.name == name))
    {
        match ask_node(&hello, node.port, &Request::Scrub).await {
            Some(status) => {
                println!("{}: begins to read {} again", node.name, mebibytes(at_rest(&status)));
                passes.push(Pass {
                    node,
                    number: status.scrub.asked,
                    before: (status.scrub.damaged, status.scrub.mended),
                });
            }
            None => silent.push(node.name.as_str()),
        }
    }
    let mut all_sound = true;
    if waits {
        for pass in &passes {
            all_sound &= wait(&hello, pass).await?;
        }
    }
    if !silent.is_empty() {
        bail!(
            "{} did not answer\nhint:  `borealis status` shows whether it runs; what is damaged there is found when it is back",
            silent.join(", ")
        );
    }
    if !waits {
        println!("`borealis status` shows what comes of it");
    }
    Ok(if all_sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn at_rest(status: &NodeStatus) -> u64 {
    let layers: u64 = status.segments.iter().map(|segment| segment.layer_bytes).sum();
    status.journal_bytes + layers
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(MIB))
}

/// Waits until the pass has ended and what was found is mended, and tells how far it is. Whether everything is sound then.
async fn wait(hello: &Hello, pass: &Pass<'_>) -> Result<bool> {
    let name = &pass.node.name;
    let mut heard_at = Instant::now();
    let mut told_at = Instant::now();
    let mut ended_at = None;
    loop {
        let Some(status) = ask_node(hello, pass.node.port, &Request::Status).await else {
            if SILENCE_LIMIT < heard_at.elapsed() {
                bail!("{name} does not answer any more\nhint:  `borealis logs {name}` may say why");
            }
            tokio::time::sleep(POLL).await;
            continue;
        };
        heard_at = Instant::now();
        if status.scrub.asked < pass.number {
            bail!("{name} was started again meanwhile\nhint:  begin anew: `borealis storage scrub {name} --wait`");
        }
        if pass.number <= status.scrub.ended {
            let since = *ended_at.get_or_insert_with(Instant::now);
            let is_mending = status.segments.iter().any(|segment| segment.mending);
            if !is_mending || MEND_LIMIT < since.elapsed() {
                println!("{name}: {}", outcome(&status, pass.before));
                return Ok(status.scrub.failed.is_none() && status.segments.iter().all(|segment| segment.vouches));
            }
        }
        if TELL < told_at.elapsed() {
            told_at = Instant::now();
            match ended_at {
                Some(_) => println!("  {name}: what was found damaged is being mended"),
                None => {
                    let (read, all) = (status.scrub.bytes, status.scrub.bytes_expected);
                    println!("  {name}: {} of {}", mebibytes(read), mebibytes(all));
                }
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What came of a pass, in one line.
fn outcome(status: &NodeStatus, (damaged, mended): (u64, u64)) -> String {
    let scrub = &status.scrub;
    let (damaged, mended) = (
        scrub.damaged.saturating_sub(damaged),
        scrub.mended.saturating_sub(mended),
    );
    let files = |count: u64| {
        if count == 1 {
            "1 file".to_owned()
        } else {
            format!("{count} files")
        }
    };
    let found = match (damaged, mended) {
        (0, 0) => "nothing is damaged".to_owned(),
        (0, mended) => format!("nothing more is damaged, {} mended", files(mended)),
        (damaged, mended) if mended < damaged => format!("{} damaged, {mended} mended", files(damaged)),
        (damaged, _) => format!("{} damaged, all mended", files(damaged)),
    };
    let lost = status.segments.iter().filter(|segment| !segment.vouches).count();
    let unmended = status.segments.iter().filter(|segment| segment.mending).count();
    let left = match (lost, unmended) {
        (0, _) => String::new(),
        (_, 0) => "; no vote until `borealis storage replace`".to_owned(),
        _ => "; it is still being mended".to_owned(),
    };
    let unread = scrub
        .failed
        .as_ref()
        .map_or(String::new(), |failed| format!("; not all was read: {failed}"));
    format!("{} read, {found}{left}{unread}", mebibytes(scrub.bytes))
}

#[cfg(test)]
mod tests {
    use wire_format::message::ScrubStatus;

    use super::*;

    #[test]
    fn the_outcome_tells_what_this_pass_found() {
        let status = |damaged, mended, failed: Option<&str>| NodeStatus {
            segments: Vec::new(),
            journal_bytes: 0,
            memory_table_bytes: 0,
            pages_read: 0,
            stopped: None,
            scrub: ScrubStatus {
                bytes: 5 * MIB,
                damaged,
                mended,
                failed: failed.map(str::to_owned),
                ..ScrubStatus::default()
            },
        };
        assert_eq!(outcome(&status(3, 3, None), (3, 3)), "5 MiB read, nothing is damaged");
        assert_eq!(
            outcome(&status(5, 5, None), (3, 3)),
            "5 MiB read, 2 files damaged, all mended"
        );
        assert_eq!(
            outcome(&status(5, 4, None), (3, 3)),
            "5 MiB read, 2 files damaged, 1 mended"
        );
        assert_eq!(
            outcome(&status(0, 0, Some("layers/1: no answer")), (0, 0)),
            "5 MiB read, nothing is damaged; not all was read: layers/1: no answer"
        );
    }
}
