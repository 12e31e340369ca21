//! The PostgreSQL that belongs to a reign: started from the main thread, watched, and killed to the last process.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, wait};

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
        match kill_process(pid_of(self.pid())?, Signal::INT) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Kills the postmaster and every process that descends from this one, and returns when all of them are gone.
    ///
    /// A killed postmaster leaves backends that still answer their clients, so "gone" means the whole tree.
    pub fn kill_all(&mut self, limit: Duration) -> io::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let _ = self.child.try_wait()?;
            reap_orphans();
            let living = descendants(std::process::id())?;
            if living.is_empty() {
                return Ok(());
            }
            for pid in &living {
                match kill_process(pid_of(*pid)?, Signal::KILL) {
                    Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if deadline < Instant::now() {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("processes {living:?} of PostgreSQL do not die"),
                ));
            }
            std::thread::sleep(REAP_INTERVAL);
        }
    }
}

/// Kills whatever an earlier PostgreSQL in this data directory left, and removes the locks of its sockets. Its processes die
/// with their instance process, but a dead postmaster that nobody has waited for yet still looks alive to the next one.
pub fn clear_predecessor(data: &Path, sockets: &Path, limit: Duration) -> io::Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        let living = working_in(data)?;
        if living.is_empty() {
            break;
        }
        for pid in &living {
            match kill_process(pid_of(*pid)?, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if deadline < Instant::now() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("processes {living:?} of an earlier PostgreSQL do not die"),
            ));
        }
        std::thread::sleep(REAP_INTERVAL);
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
fn working_in(folder: &Path) -> io::Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // A process that is gone, or dead and not waited for, has no working directory.
        let Ok(working) = std::fs::read_link(entry.path().join("cwd")) else {
            continue;
        };
        // A directory that was removed meanwhile is shown with a remark behind its name.
        let working = working.to_string_lossy();
        let working = working.strip_suffix(" (deleted)").unwrap_or(&working);
        if Path::new(working) == folder {
            found.insert(pid);
        }
    }
    Ok(found)
}

fn pid_of(raw: u32) -> io::Result<Pid> {
    i32::try_from(raw)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::other(format!("{raw} is no process id")))
}

/// Collects children that ended, adopted ones included.
fn reap_orphans() {
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}

/// Every living process below `root`, read from `/proc`.
fn descendants(root: u32) -> io::Result<BTreeSet<u32>> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        // The command's name stands in parentheses and may hold anything; the state and the parent follow the last one.
        let Some((_, rest)) = text.rsplit_once(')') else {
            continue;
        };
        let mut fields = rest.split_whitespace();
        let (state, parent) = (fields.next(), fields.next().and_then(|field| field.parse::<u32>().ok()));
        if let (Some(state), Some(parent)) = (state, parent)
            && state != "Z"
        {
            parents.push((pid, parent));
        }
    }
    let mut found = BTreeSet::new();
    let mut frontier = vec![root];
    while let Some(parent) = frontier.pop() {
        for (pid, _) in parents.iter().filter(|(_, of)| *of == parent) {
            if found.insert(*pid) {
                frontier.push(*pid);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn killing_reaches_the_grandchildren() {
        become_reaper().unwrap();
        let mut command = Command::new("sh");
        command.arg("-c").arg("sleep 1000 & sleep 1000 & wait");
        let (mut postmaster, _stderr) = Postmaster::start(command).unwrap();
        let shell = postmaster.pid();
        let deadline = Instant::now() + Duration::from_secs(5);
        while descendants(shell).unwrap().len() < 2 {
            assert!(Instant::now() < deadline, "the shell did not start its children");
            std::thread::sleep(REAP_INTERVAL);
        }
        postmaster.kill_all(Duration::from_secs(5)).unwrap();
        assert!(descendants(std::process::id()).unwrap().is_empty());
    }
}
