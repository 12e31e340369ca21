//! Copies are replaced while the volume is written (DESIGN §4.5).
//!
//! The control process knows the storage nodes, who is silent for too long, and what somebody wants of them. This instance,
//! which holds the epoch, asks it every second, asks the nodes what they have, plans which copies move (`volume::placement`)
//! and drives each move (`volume::membership`). Nobody else changes a membership.
//!
//! Whatever a node holds of this volume that the record does not name is removed: copies that have left while their node was
//! away, and those that a reign before this one made without recording them.

use std::cell::Cell;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use control_plane::Client;
use control_plane::message::{Fleet, StorageWish};
use node_link::NodeLink;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use units::{GroupId, SegmentId, SegmentKind, Zone};
use volume::membership::{Change, ChangeEffect, Outcome};
use volume::placement::{self, Lost, Plan, Replacement, StorageNode, Wish};
use volume::record::{GroupRecord, MemberRecord};
use volume::{CopyStanding, VolumeRecord, creation};
use wire_format::message::{Hello, NodeStatus, Request, Response, SegmentStatus};

use crate::record::Record;
use crate::reign::{Ended, broken};
use crate::shipping::Shipping;
use crate::status::ChangeStatus;

/// How often the control process and the nodes are asked.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// How often changes are told that time passes.
const CHANGE_PAUSE: Duration = Duration::from_millis(50);
/// How long a node or the control process may take for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Copies that are being made at once.
const CHANGES_MAX: usize = 4;

/// What came of something that was asked for.
enum Event {
    Fleet(Result<Fleet, String>),
    /// What a node of the fleet has; `None`: it does not answer.
    Node(String, Option<NodeStatus>),
    Created(SegmentId, Result<(), String>),
    Recorded(GroupId, bool),
}

/// A connection to a node, for what is asked rarely.
struct NodeSeen {
    address: String,
    link: Rc<NodeLink>,
    is_asked: bool,
    status: Option<NodeStatus>,
}

/// A change that is under way.
struct Running {
    change: Change,
    /// Somebody asked for it, and may call it off.
    is_wished: bool,
}

/// What is being replaced in one reign.
pub(crate) struct Memberships {
    control: Client,
    hello: Hello,
    record: Rc<Record>,
    changes: BTreeMap<GroupId, Running>,
    nodes: BTreeMap<String, NodeSeen>,
    fleet: Option<Fleet>,
    /// Since when a copy has been lost.
    lost_since: BTreeMap<SegmentId, Duration>,
    /// Copies that left in this reign: whoever still has one removes it.
    losers: BTreeSet<SegmentId>,
    without_spare: Vec<(GroupId, String, Zone)>,
    sender: mpsc::UnboundedSender<Event>,
    events: mpsc::UnboundedReceiver<Event>,
    began: Instant,
    is_fleet_asked: bool,
    looked_at: Option<Duration>,
    changed_at: Option<Duration>,
    copies_changed: bool,
}

impl Memberships {
    /// Of the reign that has opened the volume.
    pub(crate) fn new(control: &Client, hello: &Hello, record: Rc<Record>) -> Memberships {
        // Bounded: each event answers one question, of which there is at most one to each node and for each change.
        let (sender, events) = mpsc::unbounded_channel();
        Memberships {
            control: control.clone(),
            hello: hello.clone(),
            record,
            changes: BTreeMap::new(),
            nodes: BTreeMap::new(),
            fleet: None,
            lost_since: BTreeMap::new(),
            losers: BTreeSet::new(),
            without_spare: Vec::new(),
            sender,
            events,
            began: Instant::now(),
            is_fleet_asked: false,
            looked_at: None,
            changed_at: None,
            copies_changed: false,
        }
    }

    /// Time passes, and whatever was asked for may be answered. Whether there are other copies to read from now.
    pub(crate) fn tick(&mut self, shipping: &mut Shipping) -> Result<bool, Ended> {
        let now = self.began.elapsed();
        while let Ok(event) = self.events.try_recv() {
            self.heard(now, event, shipping)?;
        }
        if self.looked_at.is_none_or(|at| at + LOOK_PAUSE <= now) {
            self.looked_at = Some(now);
            self.look();
        }
        if self.changed_at.is_none_or(|at| at + CHANGE_PAUSE <= now) {
            self.changed_at = Some(now);
            for group in self.changes.keys().copied().collect::<Vec<_>>() {
                self.step(group, shipping, |change, standing, effects| {
                    change.tick(now, standing, effects)
                })?;
            }
        }
        Ok(std::mem::take(&mut self.copies_changed))
    }

    /// What is going on, for the status.
    pub(crate) fn status(&self) -> Vec<ChangeStatus> {
        let one = |running: &Running| {
            let progress = running.change.progress();
            let copy = self.status_of(&progress.joining, progress.segment);
            ChangeStatus {
                group: progress.group.raw(),
                leaving: progress.leaving,
                joining: progress.joining,
                activity: progress.activity.to_owned(),
                copied_bytes: copy.map_or(0, |copy| copy.copied_bytes),
                copied_bytes_expected: copy.map_or(0, |copy| copy.copied_bytes_expected),
            }
        };
        self.changes.values().map(one).collect()
    }

    /// Nodes whose copies ought to be replaced, but no other node of their zone can take them.
    pub(crate) fn without_spare(&self) -> Vec<String> {
        let nodes: BTreeSet<&String> = self.without_spare.iter().map(|(_, node, _)| node).collect();
        nodes.into_iter().cloned().collect()
    }

    fn status_of(&self, node: &str, segment: SegmentId) -> Option<&SegmentStatus> {
        let status = self.nodes.get(node)?.status.as_ref()?;
        status.segments.iter().find(|status| status.segment == segment)
    }

    /// Asks the control process and every node how they are, unless they have not answered yet.
    fn look(&mut self) {
        if !std::mem::replace(&mut self.is_fleet_asked, true) {
            let (control, sender) = (self.control.clone(), self.sender.clone());
            tokio::task::spawn_local(async move {
                let fleet = control.storage().await.map_err(|error| error.to_string());
                // Nobody listens any more: the reign is over. Here and below.
                let _ = sender.send(Event::Fleet(fleet));
            });
        }
        for (name, node) in &mut self.nodes {
            if std::mem::replace(&mut node.is_asked, true) {
                continue;
            }
            let (name, link, sender) = (name.clone(), node.link.clone(), self.sender.clone());
            tokio::task::spawn_local(async move {
                let status = match timeout(ANSWER_LIMIT, link.call(Request::Status)).await {
                    Ok(Ok(Response::Status(status))) => Some(status),
                    _ => None,
                };
                let _ = sender.send(Event::Node(name, status));
            });
        }
    }

    fn heard(&mut self, now: Duration, event: Event, shipping: &mut Shipping) -> Result<(), Ended> {
        match event {
            Event::Fleet(fleet) => {
                self.is_fleet_asked = false;
                match fleet {
                    Ok(fleet) => {
                        self.connect(&fleet);
                        self.fleet = Some(fleet);
                        self.resume();
                        self.call_off();
                        self.plan(now, shipping)?;
                    }
                    Err(error) => tracing::debug!(%error, "control.storage"),
                }
            }
            Event::Node(name, status) => {
                if let Some(node) = self.nodes.get_mut(&name) {
                    (node.is_asked, node.status) = (false, status);
                    self.note_losses(now, &name);
                    self.sweep(&name);
                }
            }
            Event::Created(segment, outcome) => {
                let mut changes = self.changes.values().map(|running| &running.change);
                let change = changes.find(|change| change.joining().segment == segment);
                let Some(group) = change.map(Change::group) else {
                    return Ok(());
                };
                match outcome {
                    Ok(()) => self.step(group, shipping, |change, _, effects| change.created(effects))?,
                    Err(error) => tracing::warn!(%group, %segment, %error, "segment.create"),
                }
            }
            Event::Recorded(group, is_changed) => {
                self.step(group, shipping, |change, _, effects| {
                    change.recorded(is_changed, effects)
                })?;
            }
        }
        Ok(())
    }

    /// Keeps a connection to every node, wherever it listens now.
    fn connect(&mut self, fleet: &Fleet) {
        self.nodes.retain(|name, node| {
            let known = fleet.nodes.iter().find(|known| known.name == *name);
            known.is_some_and(|known| known.address == node.address)
        });
        for known in &fleet.nodes {
            self.nodes.entry(known.name.clone()).or_insert_with(|| NodeSeen {
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
    }

    /// Which of its copies a node that answers does not have, or does not vouch for.
    fn note_losses(&mut self, now: Duration, name: &str) {
        let Some(status) = self.nodes.get(name).and_then(|node| node.status.as_ref()) else {
            return;
        };
        for group in &self.record.now().groups {
            for member in group.all_members().iter().filter(|member| member.node == name) {
                let found = status.segments.iter().find(|status| status.segment == member.segment);
                if found.is_some_and(|segment| segment.vouches) {
                    self.lost_since.remove(&member.segment);
                } else {
                    self.lost_since.entry(member.segment).or_insert(now);
                }
            }
        }
    }

    /// Has a node remove what is in no list of the record.
    fn sweep(&mut self, name: &str) {
        let Some(node) = self.nodes.get(name) else {
            return;
        };
        let record = self.record.now();
        let listed = |segment: SegmentId| all_members(&record).any(|member| member.segment == segment);
        let is_made = |segment| {
            let mut changes = self.changes.values();
            changes.any(|running| running.change.joining().segment == segment)
        };
        // What this reign makes it knows; only what an earlier one made, or what has left in this one, may go.
        let is_over =
            |status: &SegmentStatus| status.promised < self.record.epoch() || self.losers.contains(&status.segment);
        let segments = node.status.iter().flat_map(|status| &status.segments);
        let gone: Vec<SegmentId> = segments
            .filter(|status| status.volume == record.volume && is_over(status))
            .map(|status| status.segment)
            .filter(|segment| !listed(*segment) && !is_made(*segment))
            .collect();
        for segment in gone {
            self.remove(name, segment);
        }
    }

    fn remove(&self, name: &str, segment: SegmentId) {
        let Some(node) = self.nodes.get(name) else {
            return;
        };
        let (link, epoch, name) = (node.link.clone(), self.record.epoch(), name.to_owned());
        tokio::task::spawn_local(async move {
            match timeout(ANSWER_LIMIT, link.call(Request::RemoveSegment { segment, epoch })).await {
                Ok(Ok(Response::SegmentRemoved)) => tracing::info!(%segment, node = %name, "segment.remove"),
                // It is found again when the node is asked next.
                other => tracing::debug!(%segment, node = %name, ?other, "segment.remove"),
            }
        });
    }

    /// Goes on with what an earlier reign recorded.
    fn resume(&mut self) {
        for entry in &self.record.now().groups {
            let Some(change) = Change::resume(entry, !self.is_drained(entry)) else {
                continue;
            };
            if let Entry::Vacant(place) = self.changes.entry(change.group()) {
                tracing::info!(group = %change.group(), leaving = %change.leaving().node, joining = %change.joining().node, "membership.resume");
                let is_wished = false;
                place.insert(Running { change, is_wished });
            }
        }
    }

    /// Whether the copy that is to leave stands on a node that is to be empty.
    fn is_drained(&self, entry: &GroupRecord) -> bool {
        let stays = |member: &MemberRecord| {
            let mut joining = entry.joining.iter().flatten();
            joining.any(|other| other.segment == member.segment)
        };
        let leaving = entry.members.iter().find(|member| !stays(member));
        let mut nodes = self.fleet.iter().flat_map(|fleet| &fleet.nodes);
        nodes.any(|node| node.wish == StorageWish::Drain && leaving.is_some_and(|leaving| leaving.node == node.name))
    }

    /// Takes back what was asked for and is not wanted any more.
    fn call_off(&mut self) {
        let Some(fleet) = &self.fleet else {
            return;
        };
        for running in self.changes.values_mut().filter(|running| running.is_wished) {
            if !is_wished(fleet, running.change.leaving()) {
                running.change.abort();
            }
        }
    }

    /// Begins what there is to do.
    fn plan(&mut self, now: Duration, shipping: &mut Shipping) -> Result<(), Ended> {
        let Some(fleet) = &self.fleet else {
            return Ok(());
        };
        let record = self.record.now();
        let after = fleet.replace_after_ms.map(Duration::from_millis);
        let is_overdue = |since: &Duration| after.is_some_and(|after| *since + after <= now);
        let lost = Lost {
            copies: self.lost_since.keys().copied().collect(),
            overdue: self
                .lost_since
                .iter()
                .filter(|(_, since)| is_overdue(since))
                .map(|(segment, _)| *segment)
                .collect(),
        };
        let Plan {
            replacements,
            without_spare,
        } = placement::plan(&record, &storage_nodes(fleet), &lost);
        self.settle_wishes(&record);
        let members: BTreeSet<SegmentId> = all_members(&record).map(|member| member.segment).collect();
        self.lost_since.retain(|segment, _| members.contains(segment));
        if self.without_spare != without_spare {
            for (group, node, zone) in &without_spare {
                tracing::warn!(%group, %node, %zone, "membership.wait: no other storage node of its zone can take its copy");
            }
            self.without_spare = without_spare;
        }
        for replacement in replacements {
            if self.changes.len() < CHANGES_MAX && !self.changes.contains_key(&replacement.group) {
                self.begin(&record, replacement, shipping)?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, record: &VolumeRecord, replacement: Replacement, shipping: &mut Shipping) -> Result<(), Ended> {
        let mut identity = [0; 16];
        getrandom::fill(&mut identity).map_err(|error| broken("random bytes", &error))?;
        let Replacement {
            group,
            leaving,
            to,
            is_reversible,
        } = replacement;
        let entry = record.group(group);
        let left = entry.and_then(|entry| entry.members.iter().find(|member| member.segment == leaving));
        let joining = MemberRecord {
            segment: SegmentId::from_bytes(identity),
            node: to.name,
            address: to.address,
            zone: to.zone,
            kind: left.map_or_else(SegmentKind::default, |left| left.kind),
        };
        if let Some(change) = entry.and_then(|entry| Change::new(entry, leaving, joining, is_reversible)) {
            tracing::info!(%group, leaving = %change.leaving().node, joining = %change.joining().node, "membership.begin");
            shipping.wake(group)?;
            let is_wished = self
                .fleet
                .as_ref()
                .is_some_and(|fleet| is_wished(fleet, change.leaving()));
            self.changes.insert(group, Running { change, is_wished });
        }
        Ok(())
    }

    /// An order to replace copies is done when none of them is a copy any more.
    fn settle_wishes(&self, record: &VolumeRecord) {
        let members: BTreeSet<String> = all_members(record).map(|member| member.segment.to_string()).collect();
        for node in self.fleet.iter().flat_map(|fleet| &fleet.nodes) {
            if let StorageWish::Replace(copies) = &node.wish
                && !copies.iter().any(|copy| members.contains(copy))
            {
                self.wish(node.name.clone(), StorageWish::Keep);
            }
        }
    }

    fn wish(&self, name: String, wish: StorageWish) {
        let control = self.control.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = control.wish(name, wish).await {
                // It is found again with the next plan.
                tracing::debug!(%error, "control.wish");
            }
        });
    }

    /// Moves one change on.
    fn step(
        &mut self,
        group: GroupId,
        shipping: &mut Shipping,
        act: impl FnOnce(&mut Change, &[CopyStanding], &mut Vec<ChangeEffect>),
    ) -> Result<(), Ended> {
        let Some(running) = self.changes.get_mut(&group) else {
            return Ok(());
        };
        let mut effects = Vec::new();
        act(&mut running.change, &shipping.shipper.standing_of(group), &mut effects);
        for effect in effects {
            match effect {
                ChangeEffect::Create(member) => self.create(group, &member),
                ChangeEffect::Count { membership, members } => {
                    shipping.change_members(group, membership, members)?;
                    self.copies_changed = true;
                }
                ChangeEffect::Record(entry) => {
                    let (record, sender) = (self.record.clone(), self.sender.clone());
                    tokio::task::spawn_local(async move {
                        let is_changed = record.change(|record| record.with_group(entry)).await;
                        let _ = sender.send(Event::Recorded(group, is_changed));
                    });
                }
                ChangeEffect::Remove(loser) => {
                    self.losers.insert(loser.segment);
                    self.remove(&loser.node, loser.segment);
                }
                ChangeEffect::Ended(Outcome::Superseded) => {
                    return Err(Ended::Broken(
                        "the volume's record was changed by somebody else".to_owned(),
                    ));
                }
                ChangeEffect::Ended(outcome) => self.ended(group, outcome),
            }
        }
        Ok(())
    }

    fn create(&self, group: GroupId, member: &MemberRecord) {
        let record = self.record.now();
        let request = record
            .group(group)
            .and_then(|entry| creation::create_copy(&record, entry, member).ok());
        let (Some(request), Some(node)) = (request, self.nodes.get(&member.node)) else {
            return;
        };
        let (link, sender, segment) = (node.link.clone(), self.sender.clone(), member.segment);
        tokio::task::spawn_local(async move {
            let outcome = match timeout(ANSWER_LIMIT, link.call(request)).await {
                Ok(Ok(Response::SegmentCreated)) => Ok(()),
                Ok(Ok(Response::Refused(refusal))) => Err(refusal.to_string()),
                Ok(Ok(_)) => Err("an answer to another question".to_owned()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("no answer in time".to_owned()),
            };
            let _ = sender.send(Event::Created(segment, outcome));
        });
    }

    fn ended(&mut self, group: GroupId, outcome: Outcome) {
        let Some(Running { change, .. }) = self.changes.remove(&group) else {
            return;
        };
        let (leaving, joining) = (change.leaving(), change.joining());
        tracing::info!(%group, leaving = %leaving.node, joining = %joining.node, ?outcome, "membership.end");
        self.lost_since.remove(&leaving.segment);
        // It came back: whoever wanted it to be replaced has what they need.
        let nodes = self.fleet.iter().flat_map(|fleet| &fleet.nodes);
        let is_back = nodes.clone().any(|node| node.name == leaving.node && node.is_alive);
        if outcome != Outcome::TakenBack || !is_back {
            return;
        }
        for node in nodes.filter(|node| node.name == leaving.node) {
            if let StorageWish::Replace(copies) = &node.wish {
                let left = copies.iter().filter(|copy| **copy != leaving.segment.to_string());
                self.wish(node.name.clone(), StorageWish::Replace(left.cloned().collect()));
            }
        }
    }
}

/// Every copy that the record names, in whatever list.
fn all_members(record: &VolumeRecord) -> impl Iterator<Item = MemberRecord> + '_ {
    record.groups.iter().flat_map(GroupRecord::all_members)
}

/// Whether somebody wants this copy to leave.
fn is_wished(fleet: &Fleet, copy: &MemberRecord) -> bool {
    let mut nodes = fleet.nodes.iter().filter(|node| node.name == copy.node);
    nodes.any(|node| match &node.wish {
        StorageWish::Keep => false,
        StorageWish::Replace(copies) => copies.contains(&copy.segment.to_string()),
        StorageWish::Drain => true,
    })
}

/// The fleet, as placement understands it. A node whose entry makes no sense is left alone.
fn storage_nodes(fleet: &Fleet) -> Vec<StorageNode> {
    let wish = |wish: &StorageWish| match wish {
        StorageWish::Keep => Wish::Keep,
        StorageWish::Replace(copies) => Wish::Replace(copies.iter().filter_map(|copy| copy.parse().ok()).collect()),
        StorageWish::Drain => Wish::Drain,
    };
    let one = |node: &control_plane::message::StorageNode| {
        Some(StorageNode {
            name: node.name.clone(),
            zone: node.zone.parse().ok()?,
            address: node.address.clone(),
            is_alive: node.is_alive,
            is_overdue: node.is_overdue,
            wish: wish(&node.wish),
            disk_used_bytes: node.disk_used_bytes,
            disk_total_bytes: node.disk_total_bytes,
        })
    };
    fleet.nodes.iter().filter_map(one).collect()
}
