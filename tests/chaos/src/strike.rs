//! The hand that strikes: carries the faults of a plan out on a real cluster, and ends them.

mod disks;
mod orders;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Signal, kill_process};
use system_tests::{Cluster, end_of};

use crate::book::Book;
use crate::fault::{Fault, Files, Node, Zone, seconds};
use crate::machine::{Machine, SmallDisk, Trace};
use crate::plan::Planned;
pub use disks::Mended;

/// How long something that is to be killed may be away already, because something else was faster.
const VICTIM_LIMIT: Duration = Duration::from_secs(4);
/// How long `up` may take: longer than any fault that it has to wait for.
const UP_LIMIT: Duration = Duration::from_secs(150);
const POLL: Duration = Duration::from_millis(100);
/// What each sync of a slow disk takes longer, in microseconds.
const SLOW_SYNC: &str = "fdatasync,fsync:delay_exit=40000";
const FAILING_SYNC: &str = "fdatasync,fsync,sync_file_range:error=EIO";

/// A fault as it happened.
#[derive(Clone, Debug)]
pub struct Strike {
    /// Its number in the plan.
    pub number: usize,
    /// What.
    pub fault: Fault,
    /// When, from the begin of the run.
    pub began: Duration,
    /// When it was over: mended, if it damaged something.
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
    RestoreZone(Zone),
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
    /// Nodes that lost something, and of what, until they are mended.
    rotten: BTreeMap<Node, Files>,
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
            rotten: BTreeMap::new(),
        }
    }

    /// Nodes that for sure acknowledge nothing: stopped, paused, or with a zone that failed.
    pub fn silent(&self) -> BTreeSet<Node> {
        let nodes = self.undo.values().flat_map(|undo| match undo {
            Undo::Start(names) => Node::all().filter(|node| names.contains(&node.to_string())).collect(),
            Undo::RestoreZone(zone) => zone.nodes().to_vec(),
            _ => Vec::new(),
        });
        nodes.collect()
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
        let lasts = planned.fault.lasts() || matches!(planned.fault, Fault::BitFlipped(..) if !missed);
        let ended = (!lasts).then(|| self.book.now());
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
                self.undo.insert(number, Undo::RestoreZone(*zone));
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
            Undo::RestoreZone(zone) => self.must(&["az", "restore", zone.name()])?,
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
