//! What the holder of the epoch does beside writing: it changes the record, and copies are replaced (DESIGN §4.5).
//!
//! The steps of a change ([`Change`]) and the choice of what moves where ([`placement`]) are the real ones; around them is
//! what the instance's `membership` does: it looks at the nodes from time to time, begins what is planned, goes on with what
//! an earlier reign recorded, and has removed what no list names. The record is changed step by step: the outcome of each
//! change is known before the next one begins.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use quorum::Membership;
use units::{GroupId, Lsn, SegmentId, SegmentKind};
use volume::membership::{Change, ChangeEffect, Outcome};
use volume::placement::{self, StorageNode, Wish};
use volume::record::{GroupRecord, MemberRecord};
use volume::{CopyStanding, VolumeRecord, creation};
use wire_format::message::Request;

use crate::Broken;
use crate::checker::Violation;
use crate::growth::Growth;
use crate::node::Node;
use crate::world::{World, node_named, storage_node};
use crate::writer::Stage;

/// How often the nodes are looked at.
const LOOK_PAUSE: Duration = Duration::from_millis(40);

/// A change of the record.
#[derive(Clone, Debug)]
pub(crate) enum Pending {
    /// A group's entry is another one.
    Members(GroupRecord),
    /// There is one more group.
    Group(GroupRecord),
}

impl Pending {
    fn on(&self, record: &VolumeRecord) -> VolumeRecord {
        match self {
            Pending::Members(group) => record.with_group(group.clone()),
            Pending::Group(group) => {
                let mut next = record.clone();
                next.groups.push(group.clone());
                next
            }
        }
    }
}

/// A replacement that is under way.
#[derive(Debug)]
struct Running {
    change: Change,
    /// Somebody asked for it, and may call it off.
    is_wished: bool,
}

/// The record in the hands of a writer.
#[derive(Debug)]
pub(crate) struct Holding {
    pub(crate) record: VolumeRecord,
    /// The copies of each group that can be asked for pages: full ones.
    pub(crate) copies: BTreeMap<GroupId, Vec<SegmentId>>,
    changes: BTreeMap<GroupId, Running>,
    /// Looks in a row that found a group without hope of a write quorum.
    pub(crate) hopeless_looks: u32,
    /// The first of them is on its way to the store, if any is.
    pending: VecDeque<Pending>,
    pub(crate) growth: Growth,
    looked_at: Duration,
}

/// The copies of a group that have pages.
pub(crate) fn readable_copies(group: &GroupRecord) -> Vec<SegmentId> {
    let members = group.all_members();
    let full = members.iter().filter(|member| member.kind == SegmentKind::Full);
    full.map(|member| member.segment).collect()
}

impl Holding {
    /// Of a reign that has just begun.
    pub(crate) fn of(record: VolumeRecord) -> Holding {
        let copies = record
            .groups
            .iter()
            .map(|group| (GroupId::from_raw(group.group), readable_copies(group)));
        Holding {
            copies: copies.collect(),
            record,
            changes: BTreeMap::new(),
            hopeless_looks: 0,
            pending: VecDeque::new(),
            growth: Growth::default(),
            looked_at: Duration::ZERO,
        }
    }

    /// Whether copies are being replaced.
    pub(crate) fn is_replacing(&self) -> bool {
        !self.changes.is_empty()
    }
}

impl World {
    fn holding(&mut self, at: usize) -> Option<&mut Holding> {
        let writer = &mut self.writers[at];
        let writes = matches!(writer.stage, Stage::Writing(_));
        writer.holding.as_deref_mut().filter(|_| writes)
    }

    /// Time passes for whoever holds the epoch.
    pub(crate) fn hold(&mut self, at: usize) -> Result<(), Violation> {
        if self.resting() {
            self.use_every_group(at)?;
        }
        let (now, replaces) = (self.now(), self.weather.spares);
        let Some(holding) = self.holding(at).filter(|_| replaces) else {
            return self.grow(at);
        };
        let looks = holding.looked_at + LOOK_PAUSE <= now;
        for group in holding.changes.keys().copied().collect::<Vec<_>>() {
            self.step(at, group, |change, standing, effects| {
                change.tick(now, standing, effects)
            })?;
        }
        if looks {
            self.look(at)?;
        }
        self.grow(at)
    }

    /// The nodes are looked at, and what there is to do begins.
    fn look(&mut self, at: usize) -> Result<(), Violation> {
        let now = self.now();
        let Some(holding) = self.holding(at) else {
            return Ok(());
        };
        holding.looked_at = now;
        let record = holding.record.clone();
        let lost = self.lost_copies(&record);
        // A new copy that is lost before it is whole never will be.
        if let Some(holding) = self.holding(at) {
            let changes = holding.changes.values_mut().map(|running| &mut running.change);
            let joins = changes.filter(|change| lost.copies.contains(&change.joining().segment));
            joins.for_each(Change::abort);
        }
        self.sweep(at, &record);
        let hopeless = self.hopeless_groups(at, &record, &lost);
        let nodes = self.storage_nodes();
        let is_wished = |copy: &MemberRecord| match &nodes[node_named(&copy.node)].wish {
            Wish::Keep => false,
            Wish::Replace(copies) => copies.contains(&copy.segment),
            Wish::Drain => true,
        };
        let Some(holding) = self.holding(at) else {
            return Ok(());
        };
        for running in holding.changes.values_mut().filter(|running| running.is_wished) {
            if !is_wished(running.change.leaving()) {
                running.change.abort();
            }
        }
        let mut woken = Vec::new();
        for entry in record.groups.iter().filter(|entry| entry.joining.is_some()) {
            let group = GroupId::from_raw(entry.group);
            let drained = Change::resume(entry, true).is_some_and(|change| {
                let node = node_named(&change.leaving().node);
                nodes[node].wish == Wish::Drain
            });
            if !holding.changes.contains_key(&group)
                && let Some(change) = Change::resume(entry, !drained)
            {
                let is_wished = false;
                holding.changes.insert(group, Running { change, is_wished });
                woken.push(group);
            }
        }
        for replacement in placement::plan(&record, &nodes, &lost).replacements {
            let group = replacement.group;
            let entry = record.group(group).filter(|entry| entry.joining.is_none());
            let busy = self
                .holding(at)
                .is_none_or(|holding| holding.changes.contains_key(&group));
            let Some(entry) = entry.filter(|_| !busy && !hopeless.contains(&group)) else {
                continue;
            };
            let leaving = entry.members.iter().find(|copy| copy.segment == replacement.leaving);
            let Some(kind) = leaving.map(|copy| copy.kind) else {
                continue;
            };
            let joining = self.member(node_named(&replacement.to.name), group, kind);
            let change = Change::new(entry, replacement.leaving, joining, replacement.is_reversible);
            if let (Some(change), Some(holding)) = (change, self.holding(at)) {
                let is_wished = is_wished(change.leaving());
                holding.changes.insert(group, Running { change, is_wished });
                woken.push(group);
            }
        }
        self.wake_groups(at, woken)
    }

    /// Copies of a group that sleeps are not told what is durable: a history ends with a look at every group.
    fn use_every_group(&mut self, at: usize) -> Result<(), Violation> {
        let Stage::Writing(shipper) = &self.writers[at].stage else {
            return Ok(());
        };
        let asleep = shipper.other_groups().filter(|(_, is_awake)| !is_awake);
        let asleep: Vec<GroupId> = asleep.map(|(group, _)| group).collect();
        self.wake_groups(at, asleep)
    }

    pub(crate) fn wake_groups(&mut self, at: usize, groups: Vec<GroupId>) -> Result<(), Violation> {
        let mut effects = Vec::new();
        if let Stage::Writing(shipper) = &mut self.writers[at].stage {
            groups.into_iter().for_each(|group| shipper.wake(group, &mut effects));
        }
        self.perform_shipping(at, effects)
    }

    /// How the nodes are, as the control process knows them.
    pub(crate) fn storage_nodes(&self) -> Vec<StorageNode> {
        let one = |(at, node): (usize, &Node)| {
            let down_for = node.down_since.map(|since| self.now.saturating_sub(since));
            StorageNode {
                // Whoever finds that a disk rots gives it no further copy.
                is_alive: node.up && node.frozen.is_none() && !node.disk.rots(),
                is_overdue: down_for.is_some_and(|down_for| self.weather.replace_after <= down_for),
                wish: self.wishes[at].clone(),
                ..storage_node(at)
            }
        };
        self.nodes.iter().enumerate().map(one).collect()
    }

    /// Has removed what nodes hold and no list names.
    fn sweep(&mut self, at: usize, record: &VolumeRecord) {
        let epoch = self.writers[at].epoch;
        let Some(holding) = self.writers[at].holding.as_deref() else {
            return;
        };
        let is_made = |segment| {
            let mut changes = holding.changes.values();
            changes.any(|running| running.change.joining().segment == segment) || holding.growth.makes(segment)
        };
        let there = self.nodes.iter().filter(|node| node.up && node.frozen.is_none());
        let held = there.flat_map(|node| node.segments.keys().map(|segment| ((), *segment)));
        let gone = placement::strays(record, held, is_made);
        for ((), segment) in gone {
            self.call(at, segment, Request::RemoveSegment { segment, epoch });
        }
    }

    /// Moves one change on.
    fn step(
        &mut self,
        at: usize,
        group: GroupId,
        act: impl FnOnce(&mut Change, &[CopyStanding], &mut Vec<ChangeEffect>),
    ) -> Result<(), Violation> {
        let broken = self.broken;
        let writer = &mut self.writers[at];
        let (Stage::Writing(shipper), Some(holding)) = (&writer.stage, &mut writer.holding) else {
            return Ok(());
        };
        let Some(running) = holding.changes.get_mut(&group) else {
            return Ok(());
        };
        let mut standing = shipper.standing_of(group);
        if broken == Some(Broken::SettledTooEarly) {
            let joining = running.change.joining().segment;
            for copy in standing.iter_mut().filter(|copy| copy.member.segment == joining) {
                (copy.live, copy.vouches, copy.complete) = (true, true, Lsn::MAX);
            }
        }
        let mut effects = Vec::new();
        act(&mut running.change, &standing, &mut effects);
        self.ticks += u64::from(!effects.is_empty());
        for effect in effects {
            if self.dies_here(at) {
                return Ok(());
            }
            self.perform_change(at, group, effect)?;
        }
        Ok(())
    }

    fn perform_change(&mut self, at: usize, group: GroupId, effect: ChangeEffect) -> Result<(), Violation> {
        let broken = self.broken;
        let epoch = self.writers[at].epoch;
        let Some(holding) = self.holding(at) else {
            return Ok(());
        };
        match effect {
            ChangeEffect::Create(member) => {
                let entry = holding.record.group(group);
                let request = entry.map(|entry| creation::create_copy(&holding.record, entry, &member));
                if let Some(Ok(request)) = request {
                    self.call(at, member.segment, request);
                }
            }
            ChangeEffect::Count {
                mut membership,
                members,
            } => {
                let segments: Vec<SegmentId> = members.iter().map(|member| member.segment).collect();
                if broken == Some(Broken::NewListAlone)
                    && membership.is_joint()
                    && let Some(running) = holding.changes.get(&group)
                {
                    let leaving = running.change.leaving().segment;
                    let staying = segments.iter().filter(|segment| **segment != leaving);
                    membership = Membership::new(staying.copied().collect());
                }
                let full = members.iter().filter(|member| member.kind == SegmentKind::Full);
                holding
                    .copies
                    .insert(group, full.map(|member| member.segment).collect());
                let mut effects = Vec::new();
                if let Stage::Writing(shipper) = &mut self.writers[at].stage {
                    shipper.change_members(group, membership, members, &mut effects);
                }
                self.perform_shipping(at, effects)?;
            }
            ChangeEffect::Record(entry) => self.change_record(at, Pending::Members(entry)),
            ChangeEffect::Remove(loser) => {
                let segment = loser.segment;
                self.call(at, segment, Request::RemoveSegment { segment, epoch });
            }
            ChangeEffect::Ended(Outcome::Superseded) => self.writers[at].stage = Stage::Over,
            ChangeEffect::Ended(outcome) => {
                holding.changes.remove(&group);
                match outcome {
                    Outcome::Replaced => self.replaced += 1,
                    _ => self.taken_back += 1,
                }
            }
        }
        Ok(())
    }

    /// The record is to be changed, once every change before is done.
    pub(crate) fn change_record(&mut self, at: usize, change: Pending) {
        let Some(holding) = self.holding(at) else {
            return;
        };
        holding.pending.push_back(change);
        if holding.pending.len() == 1 {
            self.swap_next(at);
        }
    }

    fn swap_next(&mut self, at: usize) {
        if let Some(holding) = self.holding(at)
            && let Some(first) = holding.pending.front()
        {
            let record = first.on(&holding.record);
            self.ask_to_swap(at, record);
        }
    }

    /// What became of a change of the record.
    pub(crate) fn swapped(&mut self, at: usize, swapped: bool) -> Result<(), Violation> {
        let Some(holding) = self.holding(at) else {
            return Ok(());
        };
        let Some(change) = holding.pending.pop_front() else {
            return Ok(());
        };
        if swapped {
            holding.record = change.on(&holding.record);
        }
        match change {
            Pending::Members(entry) => {
                let group = GroupId::from_raw(entry.group);
                self.step(at, group, |change, _, effects| change.recorded(swapped, effects))?;
            }
            Pending::Group(group) if swapped => self.add_group(at, &group)?,
            Pending::Group(_) => self.writers[at].stage = Stage::Over,
        }
        self.swap_next(at);
        Ok(())
    }

    /// A segment was made.
    pub(crate) fn created(&mut self, at: usize, segment: SegmentId) -> Result<(), Violation> {
        let Some(holding) = self.holding(at) else {
            return Ok(());
        };
        let mut changes = holding.changes.iter();
        let change = changes.find(|(_, running)| running.change.joining().segment == segment);
        match change.map(|(group, _)| *group) {
            Some(group) => self.step(at, group, |change, _, effects| change.created(effects)),
            None => self.group_segment_made(at, segment),
        }
    }
}
