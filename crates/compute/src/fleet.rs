//! What the instance knows of the storage nodes: what the control process says of them, and what they say of themselves.
//!
//! It is asked for all the time, from the first reign of the process to its last, by a task of its own: a reign that cannot
//! open the volume knows since when a copy has been lost.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use std::time::Duration;

use control_plane::Client;
use control_plane::message::{self, StorageWish};
use node_link::NodeLink;
use tokio::time::{Instant, timeout};
use units::SegmentId;
use volume::VolumeRecord;
use volume::placement::{Lost, StorageNode, Wish};
use volume::record::GroupRecord;
use wire_format::message::{Hello, NodeStatus, Request, Response, SegmentStatus};

/// How often the control process and the nodes are asked.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// How long a node may take for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// What the control process said longer ago says nothing of how nodes are now.
const FRESH_LIMIT: Duration = Duration::from_secs(15);

/// A connection to a node, for what is asked rarely.
struct NodeSeen {
    address: String,
    link: Rc<NodeLink>,
    is_asked: bool,
    status: Option<NodeStatus>,
}

/// The storage nodes, as far as is known. Whoever holds it keeps the asking going.
pub(crate) struct Fleet {
    control: Client,
    hello: Hello,
    nodes: RefCell<BTreeMap<String, NodeSeen>>,
    told: RefCell<Option<(Instant, message::Fleet)>>,
    is_control_asked: Cell<bool>,
    /// Since when a copy has been lost.
    lost_since: RefCell<BTreeMap<SegmentId, Instant>>,
}

impl Fleet {
    /// Begins to ask.
    pub(crate) fn watch(control: &Client, hello: &Hello) -> Rc<Fleet> {
        let fleet = Rc::new(Fleet {
            control: control.clone(),
            hello: hello.clone(),
            nodes: RefCell::default(),
            told: RefCell::default(),
            is_control_asked: Cell::new(false),
            lost_since: RefCell::default(),
        });
        let watched = Rc::downgrade(&fleet);
        tokio::task::spawn_local(async move {
            while let Some(fleet) = watched.upgrade() {
                fleet.ask();
                drop(fleet);
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        });
        fleet
    }

    /// Asks the control process and every node how they are, unless they have not answered yet.
    fn ask(self: &Rc<Fleet>) {
        if !self.is_control_asked.replace(true) {
            let (control, seen) = (self.control.clone(), Rc::downgrade(self));
            tokio::task::spawn_local(async move {
                let told = control.storage().await;
                if let Some(fleet) = seen.upgrade() {
                    fleet.is_control_asked.set(false);
                    match told {
                        Ok(told) => fleet.heard(told),
                        Err(error) => tracing::debug!(%error, "control.storage"),
                    }
                }
            });
        }
        for (name, node) in self.nodes.borrow_mut().iter_mut() {
            if !std::mem::replace(&mut node.is_asked, true) {
                tokio::task::spawn_local(ask_node(Rc::downgrade(self), name.clone(), node.link.clone()));
            }
        }
    }

    /// Keeps a connection to every node, wherever it listens now.
    fn heard(&self, told: message::Fleet) {
        let mut nodes = self.nodes.borrow_mut();
        nodes.retain(|name, node| {
            let known = told.nodes.iter().find(|known| known.name == *name);
            known.is_some_and(|known| known.address == node.address)
        });
        for known in &told.nodes {
            nodes.entry(known.name.clone()).or_insert_with(|| NodeSeen {
                address: known.address.clone(),
                link: Rc::new(NodeLink::start(
                    known.address.clone(),
                    self.hello.clone(),
                    Rc::new(Cell::new(0)),
                    |_| (),
                )),
                is_asked: false,
                status: None,
            });
        }
        self.told.replace(Some((Instant::now(), told)));
    }

    /// Of the process that keeps the registry.
    pub(crate) fn control(&self) -> &Client {
        &self.control
    }

    /// What the control process said last.
    pub(crate) fn told(&self) -> Option<message::Fleet> {
        self.told.borrow().as_ref().map(|(_, told)| told.clone())
    }

    /// For how long old versions are to be kept, if somebody asked for it.
    pub(crate) fn wanted_retention_seconds(&self) -> Option<u64> {
        self.told.borrow().as_ref()?.1.retention_seconds
    }

    /// The nodes as placement understands them; `None` if the control process has said nothing of them lately.
    pub(crate) fn nodes(&self) -> Option<Vec<StorageNode>> {
        let told = self.told.borrow();
        let (_, told) = told.as_ref().filter(|(at, _)| at.elapsed() < FRESH_LIMIT)?;
        Some(told.nodes.iter().filter_map(storage_node).collect())
    }

    /// A connection to a node.
    pub(crate) fn link(&self, name: &str) -> Option<Rc<NodeLink>> {
        self.nodes.borrow().get(name).map(|node| node.link.clone())
    }

    /// What a node says of one of its segments.
    pub(crate) fn segment(&self, node: &str, segment: SegmentId) -> Option<SegmentStatus> {
        let nodes = self.nodes.borrow();
        let status = nodes.get(node)?.status.as_ref()?;
        status.segments.iter().find(|status| status.segment == segment).cloned()
    }

    /// What every node that answers has.
    pub(crate) fn segments(&self) -> Vec<(String, Vec<SegmentStatus>)> {
        let nodes = self.nodes.borrow();
        let known = nodes
            .iter()
            .filter_map(|(name, node)| Some((name, node.status.as_ref()?)));
        known
            .map(|(name, status)| (name.clone(), status.segments.clone()))
            .collect()
    }

    /// What each copy takes on its disk.
    pub(crate) fn copy_bytes(&self) -> BTreeMap<SegmentId, u64> {
        let nodes = self.nodes.borrow();
        let segments = nodes
            .values()
            .flat_map(|node| &node.status)
            .flat_map(|status| &status.segments);
        segments.map(|segment| (segment.segment, segment.layer_bytes)).collect()
    }

    /// Copies of the record that are lost: their node answers, and does not have them, or they do not vouch for what they
    /// acknowledged.
    pub(crate) fn lost(&self, record: &VolumeRecord) -> Lost {
        let now = Instant::now();
        let mut lost_since = self.lost_since.borrow_mut();
        let mut members = BTreeSet::new();
        for member in record.groups.iter().flat_map(GroupRecord::all_members) {
            members.insert(member.segment);
            let nodes = self.nodes.borrow();
            let Some(status) = nodes.get(&member.node).and_then(|node| node.status.as_ref()) else {
                continue;
            };
            let found = status.segments.iter().find(|status| status.segment == member.segment);
            if found.is_some_and(|segment| segment.vouches) {
                lost_since.remove(&member.segment);
            } else {
                lost_since.entry(member.segment).or_insert(now);
            }
        }
        lost_since.retain(|segment, _| members.contains(segment));
        let told = self.told.borrow();
        let after = told.as_ref().and_then(|(_, told)| told.replace_after_ms);
        let is_overdue =
            |since: &Instant| after.is_some_and(|after| Duration::from_millis(after) <= now.duration_since(*since));
        let overdue = lost_since.iter().filter(|(_, since)| is_overdue(since));
        Lost {
            overdue: overdue.map(|(segment, _)| *segment).collect(),
            copies: lost_since.keys().copied().collect(),
        }
    }
}

async fn ask_node(fleet: Weak<Fleet>, name: String, link: Rc<NodeLink>) {
    let status = match timeout(ANSWER_LIMIT, link.call(Request::Status)).await {
        Ok(Ok(Response::Status(status))) => Some(status),
        _ => None,
    };
    let Some(fleet) = fleet.upgrade() else {
        return;
    };
    // One that has moved meanwhile has another link.
    if let Some(node) = fleet.nodes.borrow_mut().get_mut(&name)
        && Rc::ptr_eq(&node.link, &link)
    {
        (node.is_asked, node.status) = (false, status);
    }
}

/// A node, as placement understands it. One whose entry makes no sense is left alone.
fn storage_node(node: &message::StorageNode) -> Option<StorageNode> {
    let wish = match &node.wish {
        StorageWish::Keep => Wish::Keep,
        StorageWish::Replace(copies) => Wish::Replace(copies.iter().filter_map(|copy| copy.parse().ok()).collect()),
        StorageWish::Drain => Wish::Drain,
    };
    Some(StorageNode {
        name: node.name.clone(),
        zone: node.zone.parse().ok()?,
        address: node.address.clone(),
        is_alive: node.is_alive,
        is_overdue: node.is_overdue,
        wish,
        disk_used_bytes: node.disk_used_bytes,
        disk_total_bytes: node.disk_total_bytes,
        held_bytes: node.held_bytes,
        sync_time: node.sync_us.map(Duration::from_micros),
    })
}
