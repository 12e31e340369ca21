//! One daemon under the agent's care.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use supervision::{Process, RestartRule};

use crate::layout::Layout;
use crate::role::REPLACED;

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
    pub(crate) deaths_in_a_row: u32,
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
            deaths_in_a_row: 0,
        }
    }

    pub(crate) fn process(&self) -> Option<Process> {
        self.process.filter(Process::is_alive)
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.process().is_some()
    }

    /// Starts it if it is dead and shall live. `true`: it ended because another instance has replaced it.
    pub(crate) fn look(&mut self, layout: &Layout, now: Duration, going_down: bool) -> bool {
        let mut replaced = false;
        if let Some(child) = &mut self.child
            && let Ok(Some(status)) = child.try_wait()
        {
            replaced = status.code() == Some(i32::from(REPLACED));
            tracing::warn!(name = %self.name, %status, "process.end");
            self.child = None;
        }
        if self.process.is_some() && !self.is_alive() {
            self.process = None;
            self.paused = false;
            self.rule.died(now);
            self.deaths_in_a_row += 1;
        }
        if replaced && self.kind == "instance" {
            return true;
        }
        if self.process.is_none() && !self.stopped && !going_down && self.rule.may_start(now) {
            self.rule.started(now);
            if let Err(error) = self.start(layout) {
                tracing::error!(name = %self.name, %error, "process.start");
                self.rule.died(now);
            }
        }
        false
    }

    /// Starts it at the next look, however often it died.
    pub(crate) fn allow_start(&mut self) {
        self.rule = RestartRule::default();
    }

    fn start(&mut self, layout: &Layout) -> Result<()> {
        let errors = std::fs::File::create(layout.error_file(&self.name)).context("its file for standard error")?;
        let program = std::env::current_exe().context("the program's own path")?;
        let child = Command::new(program)
            .args(["role", self.kind, &self.name, "--dir"])
            .arg(layout.directory())
            .current_dir(layout.directory())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            // A group of its own: what is sent to a terminal's processes is not meant for it.
            .process_group(0)
            .spawn()
            .context("spawn")?;
        let process = Process::of(child.id()).context("it is gone already")?;
        process
            .write_file(&layout.pid_file(&self.name))
            .context("its pid file")?;
        tracing::info!(name = %self.name, pid = child.id(), "process.start");
        self.process = Some(process);
        self.child = Some(child);
        self.paused = false;
        Ok(())
    }
}
