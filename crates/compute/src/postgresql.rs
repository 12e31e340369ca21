//! The PostgreSQL that belongs to a reign: started from the main thread, watched, and killed to the last process.

use std::io;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Signal, WaitOptions, set_child_subreaper, wait};
use supervision::{Process, descendants};

use crate::shared_memory;

/// How often a dying process tree is looked at.
const REAP_INTERVAL: Duration = Duration::from_millis(2);

/// A running postmaster.
pub struct Postmaster {
    child: Child,
}

/// Makes this process the one that orphaned backends fall to, so that none of them can outlive a reign unseen.
pub fn become_reaper() -> io::Result<()> {
    set_child_subreaper(Some(rustix::process::getpid())).map_err(io::Error::from)
}

impl Postmaster {
    /// Starts PostgreSQL. Call it from the main thread only.
    pub fn start(mut command: Command) -> io::Result<(Postmaster, ChildStderr)> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = child.stderr.take().expect("standard error was asked for as a pipe");
        Ok((Postmaster { child }, stderr))
    }

    /// The postmaster's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Asks for a fast stop: no new connections, running transactions rolled back, the log shipped to its end.
    pub fn stop_fast(&self) -> io::Result<()> {
        match Process::of(self.pid()) {
            Some(postmaster) => postmaster.signal(Signal::INT),
            None => Ok(()),
        }
    }

    /// Kills the postmaster and every process that descends from this one, and returns when all of them are gone.
    ///
    /// A killed postmaster leaves backends that still answer their clients, so "gone" means the whole tree.
    pub fn kill_all(&mut self, limit: Duration) -> io::Result<()> {
        kill_until_gone("PostgreSQL", limit, || {
            self.collect()?;
            reap_orphans();
            descendants(std::process::id())
        })
    }

    /// Collects the postmaster if it has ended.
    fn collect(&mut self) -> io::Result<()> {
        match self.child.try_wait() {
            // It was collected among the orphans.
            Err(error) if error.raw_os_error() == Some(Errno::CHILD.raw_os_error()) => Ok(()),
            other => other.map(|_| ()),
        }
    }
}

/// Kills what `living` names, again and again, until it names nothing more.
pub(crate) fn kill_until_gone(
    whose: &str,
    limit: Duration,
    mut living: impl FnMut() -> io::Result<Vec<Process>>,
) -> io::Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        let processes = living()?;
        if processes.is_empty() {
            return Ok(());
        }
        processes.iter().try_for_each(|process| process.signal(Signal::KILL))?;
        if deadline < Instant::now() {
            let pids: Vec<u32> = processes.iter().map(Process::pid).collect();
            let what = format!("processes {pids:?} of {whose} do not die");
            return Err(io::Error::new(io::ErrorKind::TimedOut, what));
        }
        std::thread::sleep(REAP_INTERVAL);
    }
}

/// Kills whatever an earlier PostgreSQL in this data directory left, and removes the locks of its sockets. Its processes die
/// with their instance process, but a dead postmaster that nobody has waited for yet still looks alive to the next one.
pub fn clear_predecessor(data: &Path, sockets: &Path, limit: Duration) -> io::Result<()> {
    kill_until_gone("an earlier PostgreSQL", limit, || working_in(data))?;
    if let Err(error) = shared_memory::remove_leftover(data) {
        tracing::warn!(%error, "postgresql.clear: a segment of shared memory stays behind");
    }
    for entry in std::fs::read_dir(sockets)? {
        let path = entry?.path();
        let is_postgresql = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(".s.PGSQL."));
        if is_postgresql {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Living processes whose working directory is `folder`, as that of every process of PostgreSQL is its data directory.
fn working_in(folder: &Path) -> io::Result<Vec<Process>> {
    living(|process| {
        // A process that is gone, or dead and not waited for, has no working directory.
        let working = std::fs::read_link(process.join("cwd")).unwrap_or_default();
        // A directory that was removed meanwhile is shown with a remark behind its name.
        let working = working.to_string_lossy();
        Path::new(working.strip_suffix(" (deleted)").unwrap_or(&working)) == folder
    })
}

/// Living processes that work in `folder`, or that one of their arguments sends there.
pub(crate) fn working_for(folder: &Path) -> io::Result<Vec<Process>> {
    let mut found = living(|process| {
        let arguments = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let mut arguments = arguments.split(|byte| *byte == 0);
        arguments.any(|argument| argument == folder.as_os_str().as_encoded_bytes())
    })?;
    found.extend(working_in(folder)?);
    Ok(found)
}

/// Living processes whose folder in `/proc` is as `wanted` says.
fn living(wanted: impl Fn(&Path) -> bool) -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        if let Some(pid) = pid
            && wanted(&entry.path())
        {
            found.extend(Process::of(pid));
        }
    }
    Ok(found)
}

/// Collects children that ended, adopted ones included.
fn reap_orphans() {
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::*;

    /// For a machine that is busy with something else.
    const LIMIT: Duration = Duration::from_secs(60);

    /// These tests kill every process below this one: one at a time.
    fn alone() -> MutexGuard<'static, ()> {
        static ALONE: Mutex<()> = Mutex::new(());
        ALONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[test]
    fn a_postmaster_that_was_collected_among_the_orphans_is_gone() {
        let _alone = alone();
        let (mut postmaster, _stderr) = Postmaster::start(Command::new("true")).unwrap();
        while !descendants(std::process::id()).unwrap().is_empty() {
            std::thread::sleep(REAP_INTERVAL);
        }
        reap_orphans();
        postmaster.kill_all(LIMIT).unwrap();
    }

    #[test]
    fn killing_reaches_the_grandchildren() {
        let _alone = alone();
        become_reaper().unwrap();
        let mut command = Command::new("sh");
        command.arg("-c").arg("sleep 1000 & sleep 1000 & wait");
        let (mut postmaster, _stderr) = Postmaster::start(command).unwrap();
        let shell = postmaster.pid();
        let deadline = Instant::now() + LIMIT;
        while descendants(shell).unwrap().len() < 2 {
            assert!(Instant::now() < deadline, "the shell did not start its children");
            std::thread::sleep(REAP_INTERVAL);
        }
        postmaster.kill_all(LIMIT).unwrap();
        assert!(descendants(std::process::id()).unwrap().is_empty());
    }
}
