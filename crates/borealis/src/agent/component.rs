//! One daemon under the agent's care.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use supervision::{Process, RestartRule};

use crate::layout::Layout;
use crate::role::REPLACED;

/// A daemon that lived so long was sound: its death is not one of a row.
const SOUND_AFTER: Duration = Duration::from_secs(10);
/// Deaths in a row after which a daemon is called failed.
const FAILING_AFTER: u32 = 3;

/// How a daemon's memory allocator, glibc's, is set up: its memory has a limit, and the allocator keeps in each arena what it once
/// had. What is large goes back to the system as soon as it is free: versions of whole segments come in pieces of megabytes.
const ALLOCATOR: [(&str, &str); 2] = [("MALLOC_ARENA_MAX", "2"), ("MALLOC_MMAP_THRESHOLD_", "2097152")];

/// How a daemon ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// It is to be started again.
    Died,
    /// Another instance has replaced it.
    Replaced,
}

/// A daemon.
pub(crate) struct Component {
    pub(crate) kind: &'static str,
    pub(crate) name: String,
    /// It is to stay down.
    pub(crate) stopped: bool,
    pub(crate) paused: bool,
    process: Option<Process>,
    /// Only if this agent started it.
    child: Option<Child>,
    rule: RestartRule,
    /// When this agent started or adopted it last, since the agent's own start.
    started: Duration,
    deaths_in_a_row: u32,
    /// By this agent.
    pub(crate) starts: u64,
}

impl Component {
    /// A daemon as an earlier agent may have left it.
    pub(crate) fn adopt(layout: &Layout, kind: &'static str, name: &str, stopped: bool) -> Component {
        let process = Process::from_file(&layout.pid_file(name));
        if let Some(process) = &process {
            tracing::info!(name, pid = process.pid(), "process.adopt");
        }
        Component {
            kind,
            name: name.to_owned(),
            stopped,
            paused: process.is_some_and(|process| process.is_stopped()),
            process,
            child: None,
            rule: RestartRule::default(),
            started: Duration::ZERO,
            deaths_in_a_row: 0,
            starts: 0,
        }
    }

    pub(crate) fn process(&self) -> Option<Process> {
        self.process.filter(Process::is_alive)
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.process().is_some()
    }

    /// Notices its death.
    pub(crate) fn look(&mut self, now: Duration) -> Option<End> {
        let mut ended = None;
        if let Some(child) = &mut self.child
            && let Ok(Some(status)) = child.try_wait()
        {
            let replaced = self.kind == "instance" && status.code() == Some(i32::from(REPLACED));
            ended = Some(if replaced { End::Replaced } else { End::Died });
            tracing::warn!(name = %self.name, %status, "process.end");
            self.child = None;
        }
        if self.process.is_some() && !self.is_alive() {
            self.process = None;
            self.paused = false;
            self.rule.died(now);
            let lived = now.saturating_sub(self.started);
            self.deaths_in_a_row = if lived < SOUND_AFTER {
                self.deaths_in_a_row + 1
            } else {
                1
            };
            ended = ended.or(Some(End::Died));
        }
        ended
    }

    /// Starts it if it is dead and shall live. One that an earlier agent had just started is adopted.
    pub(crate) fn start_if_due(&mut self, layout: &Layout, program: &Path, now: Duration) {
        if self.process.is_some() || self.stopped || !self.rule.may_start(now) {
            return;
        }
        self.rule.started(now);
        self.started = now;
        if let Some(process) = Process::from_file(&layout.pid_file(&self.name)) {
            tracing::info!(name = %self.name, pid = process.pid(), "process.adopt");
            self.process = Some(process);
            return;
        }
        if let Err(error) = self.start(layout, program) {
            tracing::error!(name = %self.name, %error, "process.start");
            self.rule.died(now);
            self.deaths_in_a_row += 1;
        }
    }

    /// Whether it kept dying young, and did not live long enough since to be called sound.
    pub(crate) fn is_failing(&self, now: Duration) -> bool {
        let sound = self.is_alive() && SOUND_AFTER <= now.saturating_sub(self.started);
        FAILING_AFTER <= self.deaths_in_a_row && !sound
    }

    /// Starts it at the next look, however often it died.
    pub(crate) fn allow_start(&mut self) {
        self.rule = RestartRule::default();
        self.deaths_in_a_row = 0;
    }

    fn start(&mut self, layout: &Layout, program: &Path) -> Result<()> {
        let errors = std::fs::File::create(layout.error_file(&self.name)).context("its file for standard error")?;
        let child = Command::new(program)
            .args(["role", self.kind, &self.name, "--dir"])
            .arg(layout.directory())
            .envs(ALLOCATOR)
            .current_dir(layout.directory())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .context("spawn")?;
        let process = Process::of(child.id()).context("it is gone already")?;
        tracing::info!(name = %self.name, pid = child.id(), "process.start");
        // Its pid file the daemon writes by itself: an agent that dies here leaves nobody unknown.
        self.starts += 1;
        self.process = Some(process);
        self.child = Some(child);
        self.paused = false;
        Ok(())
    }
}
