//! Processes by pid and start time.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// A process that was started once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Process {
    pid: u32,
    /// Clock ticks since boot, field 22 of `/proc/PID/stat`.
    start_time: u64,
}

/// State, parent and start time of a process.
fn stat(pid: u32) -> Option<(char, u32, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name stands in parentheses and may hold anything.
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let state = fields.first()?.chars().next()?;
    Some((state, fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?))
}

impl Process {
    /// The process that has this pid now.
    pub fn of(pid: u32) -> Option<Process> {
        let (_, _, start_time) = stat(pid)?;
        Some(Process { pid, start_time })
    }

    /// The process that a pid file names, if it lives.
    pub fn from_file(file: &Path) -> Option<Process> {
        let text = std::fs::read_to_string(file).ok()?;
        let (pid, start_time) = text.trim().split_once(' ')?;
        let process = Process {
            pid: pid.parse().ok()?,
            start_time: start_time.parse().ok()?,
        };
        process.is_alive().then_some(process)
    }

    /// Writes a pid file.
    pub fn write_file(&self, file: &Path) -> io::Result<()> {
        std::fs::write(file, format!("{} {}\n", self.pid, self.start_time))
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it lives. One that ended and was not waited for is dead.
    pub fn is_alive(&self) -> bool {
        stat(self.pid).is_some_and(|(state, _, start_time)| state != 'Z' && start_time == self.start_time)
    }

    /// Whether it was stopped by a signal.
    pub fn is_stopped(&self) -> bool {
        stat(self.pid).is_some_and(|(state, _, _)| state == 'T')
    }

    /// Sends a signal; to a dead process it is no error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        match kill_process(pid.ok_or(io::ErrorKind::InvalidInput)?, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a signal to it and to everything below it.
    pub fn signal_tree(&self, signal: Signal) -> io::Result<()> {
        let below = descendants(self.pid)?;
        self.signal(signal)?;
        below
            .into_iter()
            .filter_map(Process::of)
            .try_for_each(|process| process.signal(signal))
    }
}

/// Every living process below `root`.
pub fn descendants(root: u32) -> io::Result<BTreeSet<u32>> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if let Some((state, parent, _)) = stat(pid)
            && state != 'Z'
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
    fn a_process_is_known_by_pid_and_start_time() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().expect("sleep");
        let process = Process::of(child.id()).expect("it lives");
        assert!(descendants(std::process::id()).expect("/proc").contains(&child.id()));
        let file = std::env::temp_dir().join(format!("borealis-pid-{}", std::process::id()));
        process.write_file(&file).expect("a pid file");
        assert_eq!(Process::from_file(&file), Some(process));
        let another = Process {
            start_time: process.start_time + 1,
            ..process
        };
        assert!(!another.is_alive(), "a reused pid is somebody else");
        process.signal(Signal::KILL).expect("it is ours");
        child.wait().expect("it is our child");
        assert!(!process.is_alive());
        assert_eq!(Process::from_file(&file), None);
        std::fs::remove_file(&file).expect("the file is ours");
    }
}
