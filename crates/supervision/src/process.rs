//! Processes by pid and start time.

use std::collections::BTreeMap;
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

    /// Writes a pid file, whole or not at all: whoever reads half of one would start the daemon a second time.
    pub fn write_file(&self, file: &Path) -> io::Result<()> {
        let mut new = file.as_os_str().to_owned();
        new.push(".new");
        std::fs::write(&new, format!("{} {}\n", self.pid, self.start_time))?;
        std::fs::rename(&new, file)
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

    /// Whether it and everything below it was stopped by a signal.
    pub fn tree_is_stopped(&self) -> io::Result<bool> {
        // Itself first: once it stands still, nothing new comes right below it.
        Ok(self.is_stopped() && descendants(self.pid)?.iter().all(Process::is_stopped))
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
        below.iter().try_for_each(|process| process.signal(signal))
    }
}

/// Every living process below `root`: those that are there when it is asked.
pub fn descendants(root: u32) -> io::Result<Vec<Process>> {
    let mut children: BTreeMap<u32, Vec<Process>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // One that has ended since the folder was read is not there any more.
        if let Some((state, parent, start_time)) = stat(pid)
            && state != 'Z'
        {
            children.entry(parent).or_default().push(Process { pid, start_time });
        }
    }
    let mut found = children.remove(&root).unwrap_or_default();
    let mut next = 0;
    while let Some(process) = found.get(next) {
        found.extend(children.remove(&process.pid).unwrap_or_default());
        next += 1;
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
        assert!(descendants(std::process::id()).expect("/proc").contains(&process));
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
    #[test]
    fn a_signal_to_a_tree_reaches_the_children_of_children() {
        let script = "sh -c 'sleep 101 & sleep 102 & wait' & wait";
        let mut shell = std::process::Command::new("sh")
            .args(["-c", script])
            .spawn()
            .expect("sh");
        let process = Process::of(shell.id()).expect("it lives");
        let tree = loop {
            let tree = descendants(shell.id()).expect("/proc");
            if tree.len() == 3 {
                break tree;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        };
        process.signal(Signal::STOP).expect("it is ours");
        while !process.is_stopped() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(!process.tree_is_stopped().expect("/proc"), "those below it go on");
        process.signal_tree(Signal::STOP).expect("they are ours");
        while !process.tree_is_stopped().expect("/proc") {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(tree.iter().all(Process::is_stopped));
        process.signal_tree(Signal::KILL).expect("they are ours");
        shell.wait().expect("it is our child");
        while tree.iter().any(Process::is_alive) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}
