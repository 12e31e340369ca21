//! The hand that strikes: carries the faults of a plan out on a real cluster, and ends them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use system_tests::{Cluster, end_of};

use crate::book::Book;
use crate::fault::{Fault, Node, seconds};
use crate::machine::{Machine, SmallDisk, Trace, run};
use crate::plan::Planned;
use crate::rot;

/// How long an order may take.
const ORDER_LIMIT: Duration = Duration::from_secs(60);
/// How long something that is to be killed may be away already, because something else was faster.
const VICTIM_LIMIT: Duration = Duration::from_secs(4);
/// How long an order that must succeed is given again: the agent, or the control process, may be away itself.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long `up` may take: longer than any fault that it has to wait for.
const UP_LIMIT: Duration = Duration::from_secs(150);
const POLL: Duration = Duration::from_millis(100);
/// What each sync of a slow disk takes longer, in microseconds.
const SLOW_SYNC: &str = "fdatasync,fsync:delay_exit=40000";
const FAILING_SYNC: &str = "fdatasync,fsync,sync_file_range:error=EIO";
const FULL: &str = "pwrite64,pwritev,pwritev2,fallocate,ftruncate:error=ENOSPC";
const READ_ONLY: &str = "pwrite64,pwritev,pwritev2,fallocate,ftruncate,rename,renameat,renameat2,unlink,unlinkat,mkdir,\
                         mkdirat:error=EROFS";
/// What fills a small disk.
const BALLAST: &str = "ballast";

/// A fault as it happened.
#[derive(Clone, Debug)]
pub struct Strike {
    /// Its number in the plan.
    pub number: usize,
    /// What.
    pub fault: Fault,
    /// When, from the begin of the run.
    pub began: Duration,
    /// When it was over, if it lasts.
    pub ended: Option<Duration>,
    /// What was done, in words; empty if the fault's name says it all.
    pub how: String,
    /// There was nothing to strike, or this machine does not let it happen.
    pub missed: bool,
    /// A fault of a disk that no write met.
    pub unfelt: bool,
}

/// What has to be undone at a fault's end.
enum Undo {
    Start(Vec<String>),
    RestoreZone(&'static str),
    /// Then its operator starts the node anew. With how often its journal had stopped before, if it is to stop.
    Trace(Trace, Node, Option<usize>),
    RemoveBallast(PathBuf),
    Modes(Vec<(PathBuf, u32)>, Node),
}

/// The hand.
pub struct Hand<'a> {
    cluster: &'a Cluster,
    book: &'a Book,
    machine: &'a Machine,
    small: Option<(Node, SmallDisk)>,
    /// Everything so far.
    pub strikes: Vec<Strike>,
    undo: BTreeMap<usize, Undo>,
    up: Option<Child>,
    /// Nodes with a bit that is another one, until something mends them.
    pub rotten: BTreeSet<Node>,
}

impl<'a> Hand<'a> {
    /// One that has done nothing yet.
    pub fn new(cluster: &'a Cluster, book: &'a Book, machine: &'a Machine) -> Hand<'a> {
        Hand {
            cluster,
            book,
            machine,
            small: None,
            strikes: Vec::new(),
            undo: BTreeMap::new(),
            up: None,
            rotten: BTreeSet::new(),
        }
    }

    /// Moves a node's files to a small disk of its own.
    pub fn give_small_disk(&mut self, node: Node, bytes: u64) -> Result<()> {
        let name = node.to_string();
        self.must(&["stop", &name])?;
        let folder = self.folder(node);
        let aside = folder.with_extension("aside");
        fs::rename(&folder, &aside)?;
        fs::create_dir(&folder)?;
        let disk = SmallDisk::mount(&folder, bytes)?;
        // Owner and mode as before, too.
        let copied = [&aside, &folder].map(|path| format!("{}/.", path.display()));
        run("cp", &["-a", &copied[0], &copied[1]])?;
        fs::remove_dir_all(&aside)?;
        self.small = Some((node, disk));
        self.must(&["start", &name])?;
        Ok(())
    }

    /// Takes the small disk away again; its files go to the disk of the others, for whoever looks at them later. Nothing of
    /// the cluster may run.
    pub fn take_small_disk(&mut self) -> Result<()> {
        let Some((_, disk)) = self.small.take() else {
            return Ok(());
        };
        let folder = disk.folder().to_owned();
        let aside = folder.with_extension("aside");
        run("cp", &["-a", &folder.to_string_lossy(), &aside.to_string_lossy()])?;
        drop(disk);
        fs::remove_dir(&folder)?;
        fs::rename(&aside, &folder)?;
        Ok(())
    }

    fn folder(&self, node: Node) -> PathBuf {
        self.cluster.directory().join("storage").join(node.to_string())
    }

    /// Nodes that for sure acknowledge nothing: stopped, paused, or with a zone that failed.
    pub fn silent_count(&self) -> usize {
        let nodes = self.undo.values().map(|undo| match undo {
            Undo::Start(names) => names.iter().filter(|name| name.starts_with("storage")).count(),
            Undo::RestoreZone(_) => 2,
            _ => 0,
        });
        nodes.sum()
    }

    /// Has a fault begin.
    pub fn begin(&mut self, planned: &Planned) -> Result<()> {
        let began = self.book.now();
        let done = self
            .strike(planned)
            .with_context(|| format!("fault {}, {}", planned.number, planned.fault))?;
        let (how, missed) = match done {
            Done::Yes => (String::new(), false),
            Done::So(how) => (how, false),
            Done::Missed(why) => (why, true),
        };
        let word = if missed { "  MISSED" } else { "" };
        println!("{:>8}  {}{word}  {how}", seconds(began), planned.fault);
        let ended = (!planned.fault.lasts()).then(|| self.book.now());
        self.strikes.push(Strike {
            number: planned.number,
            fault: planned.fault.clone(),
            began,
            ended,
            how,
            missed,
            unfelt: false,
        });
        Ok(())
    }

    /// Has a fault end.
    pub fn end(&mut self, planned: &Planned) -> Result<()> {
        let mut unfelt = false;
        if let Some(undo) = self.undo.remove(&planned.number) {
            if let Undo::Trace(_, node, Some(stops_before)) = &undo {
                unfelt = self.stops_count(*node) == *stops_before;
            }
            self.undo(undo)
                .with_context(|| format!("end of fault {}, {}", planned.number, planned.fault))?;
            let word = if unfelt { ", which no write met" } else { "" };
            println!("{:>8}  end of {}{word}", seconds(self.book.now()), planned.fault);
        }
        let now = self.book.now();
        let strike = self.strikes.iter_mut().find(|strike| strike.number == planned.number);
        if let Some(strike) = strike {
            (strike.ended, strike.unfelt) = (Some(now), unfelt);
        }
        Ok(())
    }

    /// Waits for an `up` that was begun.
    pub fn join_up(&mut self) -> Result<()> {
        if let Some(mut up) = self.up.take() {
            let status = end_of(&mut up, "borealis up", UP_LIMIT)?;
            ensure!(status.success(), "`borealis up` failed ({status}), see up.log");
        }
        Ok(())
    }

    fn strike(&mut self, planned: &Planned) -> Result<Done> {
        let number = planned.number;
        match &planned.fault {
            Fault::NodeKilled(node) => Ok(self.try_order(&["kill", &node.to_string()])),
            Fault::NodeStopped(node) => self.stop(number, &[*node]),
            Fault::QuorumLost(nodes) => self.stop(number, nodes),
            Fault::NodePaused(node) => Ok(self.pause(number, &node.to_string())),
            Fault::ControlPaused => Ok(self.pause(number, "control")),
            Fault::ZoneFailed(zone) => {
                self.must(&["az", "fail", zone.name()])?;
                self.undo.insert(number, Undo::RestoreZone(zone.name()));
                Ok(Done::Yes)
            }
            Fault::PostmasterKilled => Ok(self.try_order(&["kill", "writer"])),
            Fault::InstanceKilled => {
                let writer = self.writer()?;
                Ok(self.try_order(&["kill", &writer]))
            }
            Fault::ControlKilled => Ok(self.try_order(&["kill", "control"])),
            Fault::ProxyKilled => Ok(self.try_order(&["kill", "proxy"])),
            Fault::AgentKilled => self.kill_agent(),
            Fault::Failover => {
                self.must(&["failover"])?;
                Ok(Done::So(format!("to {}", self.writer()?)))
            }
            Fault::Zombie => {
                let old = self.writer()?;
                if let Done::Missed(why) = self.pause(number, &old) {
                    return Ok(Done::Missed(why));
                }
                self.must(&["failover"])?;
                Ok(Done::So(format!("{old} sleeps, {} takes over", self.writer()?)))
            }
            Fault::Everything => {
                self.join_up()?;
                self.cluster.kill_everything()?;
                self.begin_up()?;
                Ok(Done::Yes)
            }
            Fault::DiskFull(node) => self.fill(number, *node),
            Fault::DiskReadOnly(node) => self.make_read_only(number, *node),
            Fault::SyncsFail(node) => self.trace(number, *node, FAILING_SYNC),
            Fault::DiskSlow(node) => self.trace(number, *node, SLOW_SYNC),
            Fault::BitFlipped(node, rot) => self.flip(*node, rot),
        }
    }

    fn undo(&mut self, undo: Undo) -> Result<()> {
        match undo {
            Undo::Start(names) => {
                for name in names {
                    self.start_again(&name)?;
                }
            }
            Undo::RestoreZone(zone) => self.must(&["az", "restore", zone])?,
            Undo::Trace(trace, node, _) => {
                drop(trace);
                // A journal whose sync failed takes nothing more until the node starts anew. It may have died of it.
                self.try_order(&["kill", &node.to_string()]);
                self.must(&["start", &node.to_string()])?;
            }
            Undo::RemoveBallast(path) => fs::remove_file(path)?,
            Undo::Modes(modes, node) => {
                for (path, mode) in modes {
                    match fs::set_permissions(&path, fs::Permissions::from_mode(mode)) {
                        // Opened before, and renamed or removed by a folder that was changed last.
                        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
                        _ => {}
                    }
                }
                self.must(&["start", &node.to_string()])?;
            }
        }
        Ok(())
    }

    /// A writer that was replaced while it slept may have been killed since: then nobody knows it any more.
    fn start_again(&mut self, name: &str) -> Result<()> {
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

    fn stop(&mut self, number: usize, nodes: &[Node]) -> Result<Done> {
        let names: Vec<String> = nodes.iter().map(Node::to_string).collect();
        for name in &names {
            self.must(&["stop", name])?;
        }
        self.undo.insert(number, Undo::Start(names));
        Ok(Done::Yes)
    }

    fn pause(&mut self, number: usize, name: &str) -> Done {
        let done = self.try_order(&["pause", name]);
        if let Done::Missed(_) = done {
            // It may have been sent to sleep all the same.
            self.try_order(&["start", name]);
        } else {
            self.undo.insert(number, Undo::Start(vec![name.to_owned()]));
        }
        done
    }

    fn kill_agent(&mut self) -> Result<Done> {
        self.join_up()?;
        let Some(pid) = self.pid_of("agent") else {
            return Ok(Done::Missed("no agent runs".to_owned()));
        };
        kill_process(pid, Signal::KILL)?;
        self.begin_up()?;
        Ok(Done::Yes)
    }

    /// In the background: it waits for the cluster, and the cluster may wait for the end of a fault.
    fn begin_up(&mut self) -> Result<()> {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.cluster.directory().with_file_name("up.log"))?;
        let mut up = self.cluster.borealis_command(&["up"]);
        up.stdout(log.try_clone()?).stderr(log);
        self.up = Some(up.spawn().context("start `borealis up`")?);
        Ok(())
    }

    fn fill(&mut self, number: usize, node: Node) -> Result<Done> {
        let Some((_, disk)) = self.small.as_ref().filter(|(small, _)| *small == node) else {
            return self.trace(number, node, FULL);
        };
        let path = disk.folder().join(BALLAST);
        self.undo.insert(number, Undo::RemoveBallast(path.clone()));
        let mut ballast = fs::File::create(&path)?;
        let mut bytes = 0;
        for size in [1 << 20, 1 << 12, 1] {
            let block = vec![0x5A; size];
            loop {
                match ballast.write(&block) {
                    Ok(0) => break,
                    Ok(written) => bytes += written as u64,
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("fill a small disk"),
                }
            }
        }
        Ok(Done::So(format!("{} MiB of ballast on its small disk", bytes >> 20)))
    }

    fn make_read_only(&mut self, number: usize, node: Node) -> Result<Done> {
        if number.is_multiple_of(2) && self.machine.traces.is_ok() {
            return self.trace(number, node, READ_ONLY);
        }
        let mut modes = Vec::new();
        let taken = take_write_rights(&self.folder(node), &mut modes);
        self.undo.insert(number, Undo::Modes(modes, node));
        taken?;
        self.try_order(&["kill", &node.to_string()]);
        Ok(Done::So("it starts on files that it may not change".to_owned()))
    }

    fn trace(&mut self, number: usize, node: Node, injection: &str) -> Result<Done> {
        if let Err(why) = &self.machine.traces {
            return Ok(Done::Missed(format!("NOT POSSIBLE ON THIS MACHINE: {why}")));
        }
        let started = Instant::now();
        let stops_before = (injection != SLOW_SYNC).then(|| self.stops_count(node));
        loop {
            let pid = self.pid_of(&node.to_string());
            let tried = pid.context("it does not run").and_then(|pid| {
                let pid = u32::try_from(pid.as_raw_nonzero().get()).context("pids are positive")?;
                Trace::start(pid, injection)
            });
            match tried {
                Ok(trace) => {
                    self.undo.insert(number, Undo::Trace(trace, node, stops_before));
                    let error = injection.split(':').nth(1).unwrap_or_default();
                    return Ok(Done::So(format!("strace {error}")));
                }
                Err(error) if VICTIM_LIMIT < started.elapsed() => return Ok(Done::Missed(format!("{error:#}"))),
                Err(_) => std::thread::sleep(POLL),
            }
        }
    }

    fn flip(&mut self, node: Node, rot: &crate::fault::Rot) -> Result<Done> {
        let name = node.to_string();
        if rot.while_down {
            self.must(&["stop", &name])?;
        }
        let flipped = rot::flip(&self.folder(node), rot);
        if rot.while_down {
            self.must(&["start", &name])?;
        } else {
            // What it has read already it does not read again before its next start.
            self.try_order(&["kill", &name]);
        }
        let Some(what) = flipped? else {
            return Ok(Done::Missed("it has no such file yet".to_owned()));
        };
        self.rotten.insert(node);
        Ok(Done::So(what))
    }

    /// How often a node's log tells that its journal took nothing more.
    fn stops_count(&self, node: Node) -> usize {
        let log = self.cluster.log(&node.to_string()).unwrap_or_default();
        log.lines().filter(|line| line.contains("journal.stop")).count()
    }

    /// The name of the writer, as the cluster's own file says.
    fn writer(&self) -> Result<String> {
        let path = self.cluster.directory().join("cluster.json");
        let cluster: Value = serde_json::from_slice(&fs::read(&path)?)?;
        let instances = cluster["instances"].as_array().context("a list of instances")?;
        let writer = instances.iter().rev().find(|instance| instance["retired"] == false);
        let name = writer.and_then(|writer| writer["name"].as_str());
        Ok(name.context("no instance is the writer")?.to_owned())
    }

    /// A daemon's process, from its pid file.
    fn pid_of(&self, name: &str) -> Option<Pid> {
        let text = fs::read_to_string(self.cluster.directory().join("run").join(format!("{name}.pid"))).ok()?;
        let pid = Pid::from_raw(text.split_whitespace().next()?.parse().ok()?)?;
        rustix::process::test_kill_process(pid).ok()?;
        Some(pid)
    }

    /// Gives an order once. What the program said, either way.
    fn order(&self, words: &[&str]) -> Result<String, String> {
        let said = self.cluster.directory().with_file_name("order.log");
        let given = || -> Result<bool> {
            let log = fs::File::create(&said)?;
            let mut command = self.cluster.borealis_command(words);
            command.stdout(log.try_clone()?).stderr(log).stdin(Stdio::null());
            let status = end_of(&mut command.spawn()?, &words.join(" "), ORDER_LIMIT)?;
            Ok(status.success())
        };
        let succeeded = given().map_err(|error| format!("{error:#}"))?;
        let text = fs::read_to_string(&said).unwrap_or_default().trim().to_owned();
        if succeeded { Ok(text) } else { Err(text) }
    }

    /// An order that may come when there is nobody to strike.
    fn try_order(&self, words: &[&str]) -> Done {
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
    fn must(&self, words: &[&str]) -> Result<()> {
        let started = Instant::now();
        loop {
            match self.order(words) {
                Ok(_) => return Ok(()),
                Err(said) if PATIENCE < started.elapsed() => bail!("borealis {}: {said}", words.join(" ")),
                Err(_) => std::thread::sleep(POLL),
            }
        }
    }
}

impl Drop for Hand<'_> {
    fn drop(&mut self) {
        // After a violation some faults are under way. Traces and modes must not outlive the run.
        for undo in std::mem::take(&mut self.undo).into_values() {
            match undo {
                Undo::Modes(modes, _) => {
                    for (path, mode) in modes {
                        // It may be gone.
                        let _ = fs::set_permissions(&path, fs::Permissions::from_mode(mode));
                    }
                }
                Undo::Trace(trace, ..) => drop(trace),
                Undo::RemoveBallast(_) | Undo::Start(_) | Undo::RestoreZone(_) => {}
            }
        }
        if let Some(mut up) = self.up.take()
            && let Err(error) = up.kill().and_then(|()| up.wait())
        {
            eprintln!("end `borealis up`: {error}");
        }
    }
}

/// How an attempt ended.
enum Done {
    Yes,
    So(String),
    Missed(String),
}

/// Takes the right to write from everybody, remembering the modes. A folder comes before what is in it.
fn take_write_rights(path: &Path, modes: &mut Vec<(PathBuf, u32)>) -> Result<()> {
    let found = match fs::metadata(path) {
        Ok(found) => found,
        // Gone since its folder was listed.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mode = found.permissions().mode();
    modes.push((path.to_owned(), mode));
    match fs::set_permissions(path, fs::Permissions::from_mode(mode & !0o222)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        changed => changed?,
    }
    if found.is_dir() {
        for entry in fs::read_dir(path)? {
            take_write_rights(&entry?.path(), modes)?;
        }
    }
    Ok(())
}
