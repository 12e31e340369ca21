//! The volume gets another group while it is written (DESIGN §4.6), as the instance's `growth` does it: six segments first,
//! then the record, then stripes.

use std::collections::BTreeSet;
use std::time::Duration;

use units::{GroupId, SegmentId};
use volume::growth;
use volume::placement::StorageNode;
use volume::record::{GroupRecord, MemberRecord};
use volume::{GroupMembers, VolumeRecord};

use crate::Broken;
use crate::checker::Violation;
use crate::holding::{Pending, readable_copies};
use crate::world::{World, node_named};
use crate::writer::Stage;

/// How long the nodes may take to make the segments of a group before all is tried again.
const ATTEMPT_LIMIT: Duration = Duration::from_millis(150);

/// One reign's growth: at most one group is being made.
#[derive(Default, Debug)]
pub(crate) struct Growth {
    /// The group whose segments are being made, and those that are there.
    making: Option<(GroupRecord, BTreeSet<SegmentId>)>,
    /// It is on its way into the record.
    is_recording: bool,
    /// The next attempt.
    not_before: Duration,
}

impl Growth {
    pub(crate) fn is_growing(&self) -> bool {
        self.making.is_some()
    }

    /// Whether a segment is one of those that are being made.
    pub(crate) fn makes(&self, segment: SegmentId) -> bool {
        let mut members = self.making.iter().flat_map(|(group, _)| &group.members);
        members.any(|member| member.segment == segment)
    }
}

impl World {
    /// Time passes: begins to make a group if the ones that there are fill up.
    pub(crate) fn grow(&mut self, at: usize) -> Result<(), Violation> {
        let (now, groups_max) = (self.now, self.weather.groups_max);
        let resting = self.resting();
        let writer = &self.writers[at];
        let (Some(holding), Some(layout), Stage::Writing(shipper)) = (&writer.holding, &writer.layout, &writer.stage)
        else {
            return Ok(());
        };
        let growth = &holding.growth;
        let has_room = layout.stripes.groups_count() < groups_max as usize;
        let wants = has_room && layout.stripes.wants_group() && !resting;
        if !wants || growth.is_recording || now < growth.not_before {
            return Ok(());
        }
        let (record, path) = (holding.record.clone(), shipper.path().clone());
        let nodes = self.storage_nodes().into_iter();
        let nodes: Vec<StorageNode> = nodes.filter(|node| self.reaches(at, node)).collect();
        let before = growth.making.as_ref().map(|(group, _)| group.clone());
        let Some(group) = self.next_group(&record, &nodes, before) else {
            return Ok(());
        };
        for member in &group.members {
            let request = growth::create_segment(&record, &path, &group, member.segment);
            if self.broken != Some(Broken::StripesBeforeSegments) {
                self.call(at, member.segment, request);
            }
        }
        self.ticks += 1;
        if let Some(holding) = &mut self.writers[at].holding {
            holding.growth.making = Some((group.clone(), BTreeSet::new()));
            holding.growth.not_before = now + ATTEMPT_LIMIT;
        }
        match self.broken {
            Some(Broken::StripesBeforeSegments) => self.record_group(at, group),
            Some(Broken::StripesBeforeRecord) => {
                self.add_group(at, &group)?;
                if let Some(holding) = &mut self.writers[at].holding {
                    holding.growth.not_before = Duration::MAX;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether somebody is about to make a group with this segment.
    pub(crate) fn is_being_made(&self, segment: SegmentId) -> bool {
        let mut holdings = self.living().filter_map(|at| self.writers[at].holding.as_deref());
        holdings.any(|holding| holding.growth.makes(segment))
    }

    fn reaches(&self, at: usize, node: &StorageNode) -> bool {
        let link = self.links.get(&(at, node_named(&node.name)));
        link.is_some_and(|link| link.is_up())
    }

    /// The group that is tried next: the one that was tried before, if its copies would stand on the same nodes again.
    fn next_group(
        &mut self,
        record: &VolumeRecord,
        nodes: &[StorageNode],
        before: Option<GroupRecord>,
    ) -> Option<GroupRecord> {
        let next = growth::next_group(record, nodes, before.as_ref(), || self.identities())?;
        if Some(&next) != before.as_ref() {
            self.settle_homes(&next);
        }
        Some(next)
    }

    /// One of its segments is there; with the last one it goes into the record.
    pub(crate) fn group_segment_made(&mut self, at: usize, segment: SegmentId) -> Result<(), Violation> {
        let Some(holding) = &mut self.writers[at].holding else {
            return Ok(());
        };
        let growth = &mut holding.growth;
        let Some((group, made)) = growth.making.as_mut().filter(|_| !growth.is_recording) else {
            return Ok(());
        };
        if group.members.iter().any(|member| member.segment == segment) {
            made.insert(segment);
        }
        if made.len() == group.members.len() {
            let group = group.clone();
            self.record_group(at, group);
        }
        Ok(())
    }

    fn record_group(&mut self, at: usize, group: GroupRecord) {
        if let Some(holding) = &mut self.writers[at].holding {
            holding.growth.is_recording = true;
        }
        self.change_record(at, Pending::Group(group));
    }

    /// It is in the record: it is taken into use.
    pub(crate) fn add_group(&mut self, at: usize, group: &GroupRecord) -> Result<(), Violation> {
        let writer = &mut self.writers[at];
        let (Some(holding), Some(layout), Stage::Writing(shipper)) =
            (&mut writer.holding, &mut writer.layout, &mut writer.stage)
        else {
            return Ok(());
        };
        holding.growth = Growth::default();
        let id = GroupId::from_raw(group.group);
        holding.copies.insert(id, readable_copies(group));
        let mut effects = Vec::new();
        shipper.add_group(GroupMembers {
            group: id,
            membership: group.membership(),
            members: group.members.iter().map(MemberRecord::member).collect(),
            last: Some(shipper.path().start()),
        });
        shipper.wake(id, &mut effects);
        layout.stripes.add_group();
        self.grown += 1;
        self.perform_shipping(at, effects)
    }
}
