//! Orders to the cluster: given once, again for a while, or until they are carried out.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Pid;
use serde_json::Value;
use system_tests::end_of;

use super::{Done, Hand, POLL, VICTIM_LIMIT};

/// How long an order may take.
const ORDER_LIMIT: Duration = Duration::from_secs(60);
/// How long an order that must succeed is given again: the agent, or the control process, may be away itself.
const PATIENCE: Duration = Duration::from_secs(60);

impl Hand<'_> {
    /// A writer that was replaced while it slept may have been killed since: then nobody knows it any more.
    pub(super) fn start_again(&mut self, name: &str) -> Result<()> {
        let started = Instant::now();
        loop {
            match self.order(&["start", name]) {
                Ok(_) => return Ok(()),
                Err(said) if name.starts_with("instance") && said.contains("there is no") => return Ok(()),
                Err(said) if PATIENCE < started.elapsed() => bail!("borealis start {name}: {said}"),
                Err(_) => std::thread::sleep(POLL),
            }
        }
    }

    /// The name of the writer, as the cluster's own file says.
    pub(super) fn writer(&self) -> Result<String> {
        let path = self.cluster.directory().join("cluster.json");
        let cluster: Value = serde_json::from_slice(&fs::read(&path)?)?;
        let instances = cluster["instances"].as_array().context("a list of instances")?;
        let writer = instances.iter().rev().find(|instance| instance["retired"] == false);
        let name = writer.and_then(|writer| writer["name"].as_str());
        Ok(name.context("no instance is the writer")?.to_owned())
    }

    /// A daemon's process, from its pid file.
    pub(super) fn pid_of(&self, name: &str) -> Option<Pid> {
        let text = fs::read_to_string(self.cluster.directory().join("run").join(format!("{name}.pid"))).ok()?;
        let pid = Pid::from_raw(text.split_whitespace().next()?.parse().ok()?)?;
        rustix::process::test_kill_process(pid).ok()?;
        Some(pid)
    }

    /// Gives an order once. What the program said, either way.
    pub(super) fn order(&self, words: &[&str]) -> Result<String, String> {
        self.order_within(words, ORDER_LIMIT)
    }

    /// The same, for an order that may take long.
    pub(super) fn order_within(&self, words: &[&str], limit: Duration) -> Result<String, String> {
        let said = self.cluster.directory().with_file_name("order.log");
        let given = || -> Result<bool> {
            let log = fs::File::create(&said)?;
            let mut command = self.cluster.borealis_command(words);
            command.stdout(log.try_clone()?).stderr(log).stdin(Stdio::null());
            let status = end_of(&mut command.spawn()?, &words.join(" "), limit)?;
            Ok(status.success())
        };
        let succeeded = given().map_err(|error| format!("{error:#}"))?;
        let text = fs::read_to_string(&said).unwrap_or_default().trim().to_owned();
        if succeeded { Ok(text) } else { Err(text) }
    }

    /// An order that may come when there is nobody to strike.
    pub(super) fn try_order(&self, words: &[&str]) -> Done {
        let started = Instant::now();
        loop {
            match self.order(words) {
                Ok(_) => return Done::Yes,
                Err(said) if VICTIM_LIMIT < started.elapsed() => {
                    return Done::Missed(said.lines().next().unwrap_or_default().to_owned());
                }
                Err(_) => std::thread::sleep(POLL),
            }
        }
    }

    /// An order that has to be carried out, sooner or later.
    pub(super) fn must(&self, words: &[&str]) -> Result<()> {
        self.must_within(words, ORDER_LIMIT)
    }

    /// The same, for an order that may take long.
    pub(super) fn must_within(&self, words: &[&str], limit: Duration) -> Result<()> {
        let started = Instant::now();
        loop {
            match self.order_within(words, limit) {
                Ok(_) => return Ok(()),
                Err(said) if PATIENCE.max(limit) < started.elapsed() => bail!("borealis {}: {said}", words.join(" ")),
                Err(_) => std::thread::sleep(POLL),
            }
        }
    }
}
