//! Copies are replaced while the volume is written (DESIGN §4.5).
//!
//! The control process knows the storage nodes, who is silent for too long, and what somebody wants of them. This instance,
//! which holds the epoch, asks it every second, asks the nodes what they have, plans which copies move (`volume::placement`)
//! and drives each move (`volume::membership`). Nobody else changes a membership.
//!
//! Whatever a node holds of this volume that the record does not name is removed: copies that have left while their node was
//! away, and those that were made for what was never recorded.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use control_plane::message::{self, StorageWish};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use units::{GroupId, SegmentId, SegmentKind, Zone};
use volume::heat::{Heat, HeatLimits, HeatMove, HeatReason};
use volume::membership::{Change, ChangeEffect, Outcome};
use volume::outright::seems_useful;
use volume::placement::{self, Plan, Replacement};
use volume::record::{GroupRecord, MemberRecord};
use volume::{CopyStanding, VolumeRecord, creation};
use wire_format::message::{Request, Response};

use crate::fleet::Fleet;
use crate::growth::Growth;
use crate::metrics::HEAT_MOVES;
use crate::record::Record;
use crate::reign::{Ended, broken};
use crate::rescue::Hopeless;
use crate::shipping::Shipping;
use crate::status::ChangeStatus;

/// How often it is looked what there is to do.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// How often changes are told that time passes.
const CHANGE_PAUSE: Duration = Duration::from_millis(50);
/// How long a node may take for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Copies that are being made at once.
const CHANGES_MAX: usize = 4;

/// What came of something that was asked for.
enum Event {
    Created(SegmentId, Result<(), String>),
    Recorded(GroupId, bool),
}

/// A change that is under way.
struct Running {
    change: Change,
    /// Somebody asked for it, and may call it off.
    is_wished: bool,
    /// Why it began by itself.
    why: Option<String>,
}

/// What is being replaced in one reign.
pub(crate) struct Memberships {
    fleet: Rc<Fleet>,
    record: Rc<Record>,
    changes: BTreeMap<GroupId, Running>,
    without_spare: Vec<(GroupId, String, Zone)>,
    heat: Heat,
    hopeless: Hopeless,
    sender: mpsc::UnboundedSender<Event>,
    events: mpsc::UnboundedReceiver<Event>,
    began: Instant,
    looked_at: Option<Duration>,
    changed_at: Option<Duration>,
    copies_changed: bool,
}

impl Memberships {
    /// Of the reign that has opened the volume.
    pub(crate) fn new(fleet: Rc<Fleet>, record: Rc<Record>) -> Memberships {
        // Bounded: each event answers one question, of which there is at most one for each change.
        let (sender, events) = mpsc::unbounded_channel();
        Memberships {
            fleet,
            record,
            changes: BTreeMap::new(),
            without_spare: Vec::new(),
            heat: Heat::default(),
            hopeless: Hopeless::default(),
            sender,
            events,
            began: Instant::now(),
            looked_at: None,
            changed_at: None,
            copies_changed: false,
        }
    }

    /// Time passes, and whatever was asked for may be answered. Whether there are other copies to read from now.
    pub(crate) fn tick(&mut self, growth: &Growth, shipping: &mut Shipping) -> Result<bool, Ended> {
        let now = self.began.elapsed();
        while let Ok(event) = self.events.try_recv() {
            self.heard(event, shipping)?;
        }
        if self.looked_at.is_none_or(|at| at + LOOK_PAUSE <= now) {
            self.looked_at = Some(now);
            self.look(growth, shipping)?;
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
            let copy = self.fleet.segment(&progress.joining, progress.segment);
            let copy = copy.as_ref();
            ChangeStatus {
                group: progress.group.raw(),
                leaving: progress.leaving,
                joining: progress.joining,
                activity: progress.activity.to_owned(),
                copied_bytes: copy.map_or(0, |copy| copy.copied_bytes),
                copied_bytes_expected: copy.map_or(0, |copy| copy.copied_bytes_expected),
                why: running.why.clone(),
            }
        };
        self.changes.values().map(one).collect()
    }

    /// Nodes whose copies ought to be replaced, but no other node of their zone can take them.
    pub(crate) fn without_spare(&self) -> Vec<String> {
        let nodes: BTreeSet<&String> = self.without_spare.iter().map(|(_, node, _)| node).collect();
        nodes.into_iter().cloned().collect()
    }

    /// What there is to do, as the storage nodes are now.
    fn look(&mut self, growth: &Growth, shipping: &mut Shipping) -> Result<(), Ended> {
        self.sweep(growth);
        let Some(told) = self.fleet.told() else {
            return Ok(());
        };
        self.resume(&told, shipping)?;
        self.call_off(&told);
        self.plan(&told, shipping)
    }

    fn heard(&mut self, event: Event, shipping: &mut Shipping) -> Result<(), Ended> {
        match event {
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

    /// Has the nodes remove what is nobody's.
    fn sweep(&self, growth: &Growth) {
        let record = self.record.now();
        let is_made = |segment| {
            let mut changes = self.changes.values();
            changes.any(|running| running.change.joining().segment == segment) || growth.makes(segment)
        };
        let nodes = self.fleet.segments();
        let held = nodes.iter().flat_map(|(name, segments)| {
            let ours = segments.iter().filter(|status| status.volume == record.volume);
            ours.map(move |status| (name, status.segment))
        });
        for (name, segment) in placement::strays(&record, held, is_made) {
            self.remove(name, segment);
        }
    }

    fn remove(&self, name: &str, segment: SegmentId) {
        let Some(link) = self.fleet.link(name) else {
            return;
        };
        let (epoch, name) = (self.record.epoch(), name.to_owned());
        tokio::task::spawn_local(async move {
            match timeout(ANSWER_LIMIT, link.call(Request::RemoveSegment { segment, epoch })).await {
                Ok(Ok(Response::SegmentRemoved)) => tracing::info!(%segment, node = %name, "segment.remove"),
                // It is found again when the node is asked next.
                other => tracing::debug!(%segment, node = %name, ?other, "segment.remove"),
            }
        });
    }

    /// Goes on with what an earlier reign recorded.
    fn resume(&mut self, told: &message::Fleet, shipping: &mut Shipping) -> Result<(), Ended> {
        for entry in &self.record.now().groups {
            let Some(change) = Change::resume(entry, !is_drained(told, entry)) else {
                continue;
            };
            if let Entry::Vacant(place) = self.changes.entry(change.group()) {
                tracing::info!(group = %change.group(), leaving = %change.leaving().node, joining = %change.joining().node, "membership.resume");
                // Nobody may write or read it: without its copies no change of it comes to an end.
                shipping.wake(change.group())?;
                place.insert(Running {
                    change,
                    is_wished: false,
                    why: None,
                });
            }
        }
        Ok(())
    }

    /// Takes back what was asked for and is not wanted any more.
    fn call_off(&mut self, told: &message::Fleet) {
        for running in self.changes.values_mut().filter(|running| running.is_wished) {
            if !is_wished(told, running.change.leaving()) {
                running.change.abort();
            }
        }
    }

    /// Begins what there is to do.
    fn plan(&mut self, told: &message::Fleet, shipping: &mut Shipping) -> Result<(), Ended> {
        let record = self.record.now();
        let lost = self.fleet.lost(&record);
        // A new copy that lost something before it was whole never will be: another one is made.
        let changes = self.changes.values_mut().map(|running| &mut running.change);
        for change in changes.filter(|change| lost.overdue.contains(&change.joining().segment)) {
            change.abort();
        }
        // What was said of nodes long ago is no reason to move anything.
        let Some(nodes) = self.fleet.nodes() else {
            return Ok(());
        };
        let Plan {
            replacements,
            without_spare,
        } = placement::plan(&record, &nodes, &lost);
        self.settle_wishes(told, &record);
        let standing = record
            .groups
            .iter()
            .map(|group| shipping.shipper.standing_of(GroupId::from_raw(group.group)));
        let counting = standing.flatten().filter(CopyStanding::counts);
        let counting: BTreeSet<SegmentId> = counting.map(|copy| copy.member.segment).collect();
        let is_useful =
            |member: &MemberRecord| counting.contains(&member.segment) || seems_useful(member, &nodes, &lost);
        let hopeless = self.hopeless.look(&record, &nodes, &lost, is_useful)?;
        if self.without_spare != without_spare {
            for (group, node, zone) in &without_spare {
                tracing::warn!(%group, %node, %zone, "membership.wait: no other storage node of its zone can take its copy");
            }
            self.without_spare = without_spare;
        }
        let nothing_else = replacements.is_empty() && self.changes.is_empty();
        for replacement in replacements {
            // Where a write quorum is lost, a change would never come to an end.
            let is_possible = !self.changes.contains_key(&replacement.group) && !hopeless.contains(&replacement.group);
            if self.changes.len() < CHANGES_MAX && is_possible {
                self.begin(told, &record, replacement, None, shipping)?;
            }
        }
        match &told.heat {
            Some(settings) if nothing_else => {
                let bytes = self.fleet.copy_bytes();
                let (now, limits) = (self.began.elapsed(), heat_limits(settings));
                let chosen = self.heat.decide(now, &limits, &record, &nodes, &bytes, &lost.copies);
                chosen.map_or(Ok(()), |chosen| self.leave(told, &record, chosen, shipping))
            }
            _ => Ok(()),
        }
    }

    /// A copy leaves a full or slow disk.
    fn leave(
        &mut self,
        told: &message::Fleet,
        record: &VolumeRecord,
        chosen: HeatMove,
        shipping: &mut Shipping,
    ) -> Result<(), Ended> {
        tracing::info!(group = %chosen.group, to = %chosen.to.name, why = %chosen.why, "membership.heat");
        HEAT_MOVES.add(usize::from(chosen.reason == HeatReason::Slow), 1);
        let replacement = Replacement {
            group: chosen.group,
            leaving: chosen.leaving,
            to: chosen.to,
            is_reversible: false,
        };
        self.begin(told, record, replacement, Some(chosen.why), shipping)
    }

    fn begin(
        &mut self,
        told: &message::Fleet,
        record: &VolumeRecord,
        replacement: Replacement,
        why: Option<String>,
        shipping: &mut Shipping,
    ) -> Result<(), Ended> {
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
            let is_wished = is_wished(told, change.leaving());
            let running = Running { change, is_wished, why };
            self.changes.insert(group, running);
        }
        Ok(())
    }

    /// An order to replace copies is done when none of them is a copy any more.
    fn settle_wishes(&self, told: &message::Fleet, record: &VolumeRecord) {
        let members: BTreeSet<String> = all_members(record).map(|member| member.segment.to_string()).collect();
        for node in &told.nodes {
            if let StorageWish::Replace(copies) = &node.wish
                && !copies.iter().any(|copy| members.contains(copy))
            {
                self.wish(node.name.clone(), StorageWish::Keep);
            }
        }
    }

    fn wish(&self, name: String, wish: StorageWish) {
        let control = self.fleet.control().clone();
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
                        // Nobody listens any more: the reign is over. Here and below.
                        let _ = sender.send(Event::Recorded(group, is_changed));
                    });
                }
                ChangeEffect::Remove(loser) => {
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
        let (Some(request), Some(link)) = (request, self.fleet.link(&member.node)) else {
            return;
        };
        let (sender, segment) = (self.sender.clone(), member.segment);
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
        // It came back: whoever wanted it to be replaced has what they need.
        let Some(told) = self.fleet.told() else {
            return;
        };
        let nodes = told.nodes.iter();
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

fn heat_limits(settings: &message::HeatSettings) -> HeatLimits {
    HeatLimits {
        free_percent_min: settings.free_percent_min,
        slow_factor: settings.slow_factor,
        slow_after: Duration::from_secs(settings.slow_seconds),
        pause: Duration::from_secs(settings.pause_seconds),
    }
}

/// Whether somebody wants this copy to leave.
fn is_wished(told: &message::Fleet, copy: &MemberRecord) -> bool {
    let mut nodes = told.nodes.iter().filter(|node| node.name == copy.node);
    nodes.any(|node| match &node.wish {
        StorageWish::Keep => false,
        StorageWish::Replace(copies) => copies.contains(&copy.segment.to_string()),
        StorageWish::Drain => true,
    })
}

/// Whether the copy that is to leave a group stands on a node that is to be empty.
fn is_drained(told: &message::Fleet, entry: &GroupRecord) -> bool {
    let stays = |member: &MemberRecord| {
        let mut joining = entry.joining.iter().flatten();
        joining.any(|other| other.segment == member.segment)
    };
    let leaving = entry.members.iter().find(|member| !stays(member));
    let mut nodes = told.nodes.iter();
    nodes.any(|node| node.wish == StorageWish::Drain && leaving.is_some_and(|leaving| leaving.node == node.name))
}
