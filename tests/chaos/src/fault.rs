//! What can happen to a cluster.

use std::fmt;
use std::time::Duration;

/// How many storage nodes a cluster has.
pub const NODES_COUNT: u8 = 6;

/// A storage node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Node(pub u8);

impl Node {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Node> {
        (1..=NODES_COUNT).map(Node)
    }

    /// The zone that it stands in.
    pub fn zone(self) -> Zone {
        [Zone::A, Zone::B, Zone::C][usize::from((self.0 - 1) / 2)]
    }

    /// Whether group 0's copy on it is a tail, in a volume that has some: it is on the second node of each zone.
    pub fn begins_with_a_tail(self) -> bool {
        self.0.is_multiple_of(2)
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "storage-{}", self.0)
    }
}

/// A zone, with two storage nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Zone {
    /// storage-1 and storage-2.
    A,
    /// storage-3 and storage-4.
    B,
    /// storage-5 and storage-6.
    C,
}

impl Zone {
    /// Its nodes.
    pub fn nodes(self) -> [Node; 2] {
        let first = 2 * (self as u8) + 1;
        [Node(first), Node(first + 1)]
    }

    /// As the command line calls it.
    pub fn name(self) -> &'static str {
        ["a", "b", "c"][self as usize]
    }
}

/// Which files of a storage node rot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Files {
    /// Below an offset that a later entry calls synced: what lies behind cannot be told from a torn tail, see
    /// docs/formats/journal.md.
    Journal,
    /// Anywhere.
    Layer,
    /// All of them are gone.
    All,
}

/// One bit, wherever it falls: the file, the byte and the bit are parts of what there is then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rot {
    /// Which files.
    pub files: Files,
    /// Decides which one, and where in it.
    pub place: u64,
    /// The node is dead while it happens; otherwise it runs on.
    pub while_down: bool,
}

/// Something that goes wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// `kill -9`; the agent starts it again.
    NodeKilled(Node),
    /// Stopped in order, for a while.
    NodeStopped(Node),
    /// SIGSTOP: it keeps its connections and answers nobody, for a while.
    NodePaused(Node),
    /// Both nodes killed, and away for a while.
    ZoneFailed(Zone),
    /// More nodes away than writes can do without, for a while.
    QuorumLost(Vec<Node>),
    /// `kill -9` of PostgreSQL's postmaster.
    PostmasterKilled,
    /// `kill -9` of the instance process.
    InstanceKilled,
    /// `kill -9` of the control process.
    ControlKilled,
    /// The control process stands still for a while.
    ControlPaused,
    /// `kill -9` of the proxy.
    ProxyKilled,
    /// `kill -9` of the agent; the daemons go on, and `up` finds them.
    AgentKilled,
    /// Another instance takes over.
    Failover,
    /// The writer stands still, another instance takes over, the old one wakes later.
    Zombie,
    /// `kill -9` of every process, then `up`.
    Everything,
    /// No room: ENOSPC, for a while.
    DiskFull(Node),
    /// The disk takes no writes (EROFS), or none of its files and folders may be changed and the node starts on it anew.
    DiskReadOnly(Node),
    /// Syncs fail (EIO), for a while; then the node is killed, as its operator would.
    SyncsFail(Node),
    /// Every sync takes much longer, for a while.
    DiskSlow(Node),
    /// A bit is another one, or all files are gone. Nothing ends it but mending.
    BitFlipped(Node, Rot),
}

impl Fault {
    /// The kind, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::NodeKilled(_) => "node killed",
            Fault::NodeStopped(_) => "node stopped",
            Fault::NodePaused(_) => "node paused",
            Fault::ZoneFailed(_) => "zone failed",
            Fault::QuorumLost(_) => "write quorum lost",
            Fault::PostmasterKilled => "postmaster killed",
            Fault::InstanceKilled => "instance process killed",
            Fault::ControlKilled => "control process killed",
            Fault::ControlPaused => "control process paused",
            Fault::ProxyKilled => "proxy killed",
            Fault::AgentKilled => "agent killed",
            Fault::Failover => "failover",
            Fault::Zombie => "failover from a paused writer",
            Fault::Everything => "everything killed",
            Fault::DiskFull(_) => "disk full",
            Fault::DiskReadOnly(_) => "disk read-only",
            Fault::SyncsFail(_) => "syncs fail",
            Fault::DiskSlow(_) => "disk slow",
            Fault::BitFlipped(_, Rot { files: Files::All, .. }) => "disk lost",
            Fault::BitFlipped(..) => "bit flipped",
        }
    }

    /// The nodes that may not acknowledge while it lasts.
    pub fn nodes(&self) -> Vec<Node> {
        match self {
            Fault::NodeKilled(node)
            | Fault::NodeStopped(node)
            | Fault::NodePaused(node)
            | Fault::DiskFull(node)
            | Fault::DiskReadOnly(node)
            | Fault::SyncsFail(node)
            | Fault::DiskSlow(node)
            | Fault::BitFlipped(node, _) => vec![*node],
            Fault::ZoneFailed(zone) => zone.nodes().to_vec(),
            Fault::QuorumLost(nodes) => nodes.clone(),
            Fault::Everything => Node::all().collect(),
            _ => Vec::new(),
        }
    }

    /// Whether it has an end of its own that the run has to bring about.
    pub fn lasts(&self) -> bool {
        matches!(
            self,
            Fault::NodeStopped(_)
                | Fault::NodePaused(_)
                | Fault::ZoneFailed(_)
                | Fault::QuorumLost(_)
                | Fault::ControlPaused
                | Fault::Zombie
                | Fault::DiskFull(_)
                | Fault::DiskReadOnly(_)
                | Fault::SyncsFail(_)
                | Fault::DiskSlow(_)
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match self {
            Fault::ZoneFailed(zone) => write!(f, ": {}", zone.name()),
            Fault::BitFlipped(node, rot) => write!(f, ": {node}, {:?}, place {:x}", rot.files, rot.place),
            Fault::Everything => Ok(()),
            other => {
                let names: Vec<String> = other.nodes().iter().map(Node::to_string).collect();
                if names.is_empty() {
                    Ok(())
                } else {
                    write!(f, ": {}", names.join(", "))
                }
            }
        }
    }
}

/// A time of the run, as it is printed everywhere.
pub fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
