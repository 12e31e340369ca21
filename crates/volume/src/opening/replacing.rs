//! Step 4 where a group has lost its write quorum for good: lost copies are replaced outright (DESIGN §4.4;
//! `notes/protocol.md`, hole 8).
//!
//! A change of the membership needs a write quorum of the old list, which is not there any more. But the old list is fenced: a
//! read quorum of it has promised, so that nobody acknowledges anything on it, and that quorum has everything acknowledged. New
//! segments are made, and brought complete up to the end like any copy that is behind; the list with them is recorded together
//! with the new timeline.
//!
//! Invariants:
//! - The old list, or both of a joint one, fences the group and tells its end; only then is it replaced. Also where no flush in
//!   flight has a part of the group: what was acknowledged of it may lie on copies that are replaced.
//! - A new segment is born with this opening's epoch as its promise (hole 9), and counts once it is whole and has everything up
//!   to the end.
//! - Until the record is changed, the old list is what the next opener reads: dying here leaves segments that nobody knows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use units::{GroupId, SegmentId, SegmentKind};
use wire_format::message::Request;

use super::copying::Copy;
use super::group::Group;
use super::{Opening, OpeningEffect, Phase};
use crate::outright::Rebuilt;
use crate::record::{GroupRecord, MemberRecord, RecordError, VolumeRecord};

/// How long a node may take to have made a segment before it is asked again.
const CREATE_PAUSE: Duration = Duration::from_secs(1);

/// A segment that this opening makes.
#[derive(Debug)]
pub(super) struct Birth {
    node: String,
    request: Request,
    asked_at: Duration,
}

/// A copy that an opening makes in the place of a lost one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BeingMade {
    /// The group.
    pub group: GroupId,
    /// The node that has lost its copy.
    pub leaving: Option<String>,
    /// The new copy.
    pub joining: MemberRecord,
}

impl Opening {
    /// Also looks at this group, although no flush in flight may name it: it has lost its write quorum, and is to be given
    /// another one. To be called before anything is heard.
    pub fn look_at(&mut self, id: GroupId, effects: &mut Vec<OpeningEffect>) {
        let Some(record) = self.record.group(id) else {
            return;
        };
        if id != GroupId::FIRST && matches!(self.phase, Phase::Promising) && self.looked_at.insert(id) {
            let group = Group::new(record);
            effects.push(OpeningEffect::Connect(id, group.members()));
            self.named.insert(id, group);
        }
    }

    /// Groups that are fenced, but have no write quorum among the copies that answer: which of them do. Empty before the end is
    /// known, and once the record is being changed.
    pub fn short(&self) -> BTreeMap<GroupId, BTreeSet<SegmentId>> {
        if !matches!(self.phase, Phase::Copying) {
            return BTreeMap::new();
        }
        let groups =
            std::iter::once((GroupId::FIRST, &self.first)).chain(self.named.iter().map(|(id, group)| (*id, group)));
        let counting = groups.map(|(id, group)| {
            let copies = group.copies.values().filter(|copy| copy.connected && copy.counts());
            (
                id,
                group,
                copies.map(|copy| copy.member.segment).collect::<BTreeSet<_>>(),
            )
        });
        let short = counting.filter(|(_, group, counting)| !group.membership.writable(counting));
        short.map(|(id, _, counting)| (id, counting)).collect()
    }

    /// Replaces copies of a group that is [`Opening::short`] of them, once. What does not fit its membership changes nothing.
    pub fn replace(&mut self, rebuilt: &Rebuilt, effects: &mut Vec<OpeningEffect>) -> Result<(), RecordError> {
        let id = rebuilt.group;
        let is_replaced = self.replaced.contains_key(&id);
        let Some(entry) = self
            .record
            .group(id)
            .filter(|_| !is_replaced && self.short().contains_key(&id))
        else {
            return Ok(());
        };
        let known: BTreeSet<SegmentId> = entry.all_members().iter().map(|member| member.segment).collect();
        let is_new = |member: &&MemberRecord| !known.contains(&member.segment);
        let next = entry.settled(rebuilt.members.clone());
        let group = match id {
            GroupId::FIRST => Some(&mut self.first),
            _ => self.named.get_mut(&id),
        };
        let Some(group) = group else {
            return Ok(());
        };
        group.find_end(&self.path);
        group.membership = next.membership();
        let kept: BTreeSet<SegmentId> = next.members.iter().map(|member| member.segment).collect();
        group.copies.retain(|segment, _| kept.contains(segment));
        let copies = &group.copies;
        group
            .fetching
            .retain(|source, fetch| copies.contains_key(source) && copies.contains_key(&fetch.target));
        let mut new = Vec::new();
        for member in next.members.iter().filter(is_new) {
            let gives = |giver: &&MemberRecord| {
                known.contains(&giver.segment) && (member.kind == SegmentKind::Tail || giver.kind == SegmentKind::Full)
            };
            let birth = Birth {
                node: member.node.clone(),
                request: Request::CreateSegment {
                    volume: self.record.volume,
                    group: id,
                    segment: member.segment,
                    kind: member.kind,
                    epoch: self.epoch,
                    path: self.path.clone(),
                    members: next.members.iter().map(MemberRecord::member).collect(),
                    copy_from: next.members.iter().filter(gives).map(MemberRecord::member).collect(),
                },
                asked_at: self.now,
            };
            effects.push(birth.effect());
            new.push(member.member());
            let copy = Copy {
                birth: Some(birth),
                ..Copy::new(member.member())
            };
            group.copies.insert(member.segment, copy);
        }
        self.replaced.insert(id, next);
        effects.push(OpeningEffect::Connect(id, new));
        Ok(())
    }

    /// Copies that are being made in the place of lost ones.
    pub fn being_made(&self) -> Vec<BeingMade> {
        let mut made = Vec::new();
        for (id, next) in &self.replaced {
            let entry = self.record.group(*id);
            let known = entry.map(GroupRecord::all_members).unwrap_or_default();
            for (at, member) in next.members.iter().enumerate() {
                if known.iter().all(|known| known.segment != member.segment) {
                    made.push(BeingMade {
                        group: *id,
                        leaving: entry
                            .and_then(|entry| entry.members.get(at))
                            .map(|left| left.node.clone()),
                        joining: member.clone(),
                    });
                }
            }
        }
        made
    }

    /// Nodes that have not made their segment in time are asked once more.
    pub(super) fn make_again(&mut self, effects: &mut Vec<OpeningEffect>) {
        let now = self.now;
        for copy in self.groups_mut().flat_map(|group| group.copies.values_mut()) {
            let is_made = copy.promised.is_some();
            if let Some(birth) = copy
                .birth
                .as_mut()
                .filter(|birth| !is_made && birth.asked_at + CREATE_PAUSE <= now)
            {
                birth.asked_at = now;
                effects.push(birth.effect());
            }
        }
    }

    /// The record as this opening is to leave it: the new timeline, and the replaced memberships.
    pub(super) fn next_record(&self) -> VolumeRecord {
        let opened = self.record.opened_by(self.epoch, self.candidate.branch.lsn);
        self.replaced
            .values()
            .cloned()
            .fold(opened, |record, group: GroupRecord| record.with_group(group))
    }
}

impl Birth {
    fn effect(&self) -> OpeningEffect {
        OpeningEffect::Create {
            node: self.node.clone(),
            request: self.request.clone(),
        }
    }
}
