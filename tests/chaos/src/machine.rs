//! What this machine lets a test do to disks. What it does not is said before anything runs, never left out in silence.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use system_tests::{Lines, end_of};

/// Debian's strace, which the tests need anyway.
const STRACE: &str = "/usr/bin/strace";
/// How long strace may take to attach to all threads, and to leave them.
const TRACE_LIMIT: Duration = Duration::from_secs(20);
/// How long mounting may take.
const MOUNT_LIMIT: Duration = Duration::from_secs(20);

/// What works here.
pub struct Machine {
    /// A storage node can get a small disk of its own (tmpfs); otherwise why not.
    pub mounts: Result<(), String>,
    /// System calls of a running node can be made to fail (ptrace); otherwise why not.
    pub traces: Result<(), String>,
}

impl Machine {
    /// Tries everything once.
    pub fn look() -> Machine {
        Machine {
            mounts: try_mount().map_err(|error| format!("{error:#}")),
            traces: try_trace().map_err(|error| format!("{error:#}")),
        }
    }

    /// Says what the faults of disks are on this machine.
    pub fn announce(&self) {
        let say = |what: &str, how: &Result<(), String>, yes: &str, no: &str| match how {
            Ok(()) => println!("  {what}: {yes}"),
            Err(why) => println!("  {what}: {no}\n    NOT AS IT SHOULD BE ON THIS MACHINE: {why}"),
        };
        println!("faults of disks on this machine:");
        say(
            "disk full, one node",
            &self.mounts,
            "a small tmpfs, filled to the last byte",
            "as for the other nodes",
        );
        say(
            "disk full, other nodes",
            &self.traces,
            "every write fails with ENOSPC (strace)",
            "LEFT OUT",
        );
        say(
            "disk read-only",
            &self.traces,
            "every change fails with EROFS (strace), or the node starts on files that it may not change",
            "the node starts on files that it may not change",
        );
        say(
            "failing syncs",
            &self.traces,
            "every sync fails with EIO (strace)",
            "LEFT OUT",
        );
        say("slow disk", &self.traces, "every sync is late (strace)", "LEFT OUT");
        println!("  flipped bits: written into the files of nodes, running or not");
    }
}

/// Runs a program that must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("start {program}"))?;
    let status = end_of(&mut child, program, MOUNT_LIMIT)?;
    ensure!(status.success(), "{program} {} failed ({status})", arguments.join(" "));
    Ok(())
}

fn try_mount() -> Result<()> {
    let folder = system_tests::new_directory("chaos-mount");
    let tried = SmallDisk::mount(&folder, 1 << 20).map(drop);
    std::fs::remove_dir_all(&folder).context("remove a folder of this test")?;
    tried
}

fn try_trace() -> Result<()> {
    let mut sleep = Command::new("sleep");
    sleep.arg("60");
    // A daemon that root starts runs as another user, whose processes root may look into only with a capability of its own.
    if rustix::process::geteuid().is_root() {
        sleep.uid(daemons_user()?);
    }
    let mut sleeper = sleep.spawn().context("start sleep")?;
    let tried = Trace::start(sleeper.id(), "fsync:error=EIO").map(drop);
    sleeper.kill()?;
    sleeper.wait()?;
    tried
}

/// Number of the user as whom daemons run that root starts.
fn daemons_user() -> Result<u32> {
    let users = std::fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let number = line
        .and_then(|line| line.split(':').nth(2))
        .context("there is no user postgres")?;
    Ok(number.parse()?)
}

/// A file system of limited size, until it is dropped.
pub struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// Mounts one over an empty folder.
    pub fn mount(folder: &Path, bytes: u64) -> Result<SmallDisk> {
        let name = folder.to_str().context("the temporary directory has a plain name")?;
        run(
            "mount",
            &["-t", "tmpfs", "-o", &format!("size={bytes},mode=0700"), "tmpfs", name],
        )?;
        Ok(SmallDisk {
            folder: folder.to_owned(),
        })
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let name = self.folder.to_string_lossy();
        if let Err(error) = run("umount", &[&name]) {
            eprintln!("{error:#}: {name} stays mounted");
        }
    }
}

/// strace on a process, which makes system calls fail or late until it is dropped.
pub struct Trace {
    strace: Child,
}

impl Trace {
    /// Attaches to all threads of a process. `injection` as in strace's manual: `fdatasync,fsync:error=EIO`.
    pub fn start(pid: u32, injection: &str) -> Result<Trace> {
        let calls = injection.split(':').next().unwrap_or_default();
        let mut strace = Command::new(STRACE)
            .args(["-f", "-o", "/dev/null", "-e", &format!("trace={calls}"), "-e"])
            .arg(format!("inject={injection}"))
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {STRACE}"))?;
        let said = Lines::of(strace.stderr.take().context("standard error was asked for as a pipe")?);
        let trace = Trace { strace };
        said.wait_for("that strace is attached", TRACE_LIMIT, |line| {
            line.contains(" attached")
        })?;
        Ok(trace)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let pid = i32::try_from(self.strace.id()).ok().and_then(Pid::from_raw);
        // Told so, it leaves the process as it was; it may have ended with it.
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::INT);
        }
        if let Err(error) = end_of(&mut self.strace, "strace", TRACE_LIMIT) {
            eprintln!("{error:#}");
        }
    }
}
