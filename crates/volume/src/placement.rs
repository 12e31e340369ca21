//! Which copies have to move, and where to: from the volume's record and how the storage nodes are.
//!
//! Invariants:
//! - A copy stays in its zone, so that every group keeps two in each.
//! - No node ever holds two copies of one group that count.
//! - A replacement begins only while the copies that stay are a write quorum.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use units::{GroupId, SegmentId, Zone};

use crate::record::{GroupRecord, MemberRecord, VolumeRecord};

/// A disk with less free gets no further copy: what it has needs room to be folded.
pub(crate) const DISK_FREE_BYTES_MIN: u64 = 2 << 30;

/// What somebody wants of a storage node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wish {
    /// It keeps what it has.
    Keep,
    /// These of its copies are replaced.
    Replace(BTreeSet<SegmentId>),
    /// Its copies leave it, and it gets no others.
    Drain,
}

/// A storage node, as far as placement is concerned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StorageNode {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub zone: Zone,
    /// Where it listens.
    pub address: String,
    /// It was heard of just now.
    pub is_alive: bool,
    /// It was not heard of for so long that its copies are replaced without anybody's asking.
    pub is_overdue: bool,
    /// What somebody wants of it.
    pub wish: Wish,
    /// Used bytes of its disk.
    pub disk_used_bytes: u64,
    /// All bytes of its disk; 0: not known.
    pub disk_total_bytes: u64,
    /// Bytes of its journal and its layers.
    pub held_bytes: u64,
    /// How long its journal's syncs took lately, if there were any.
    pub sync_time: Option<Duration>,
}

impl StorageNode {
    /// A node that is well, and holds nothing as far as is known.
    pub fn new(name: String, zone: Zone, address: String) -> StorageNode {
        StorageNode {
            name,
            zone,
            address,
            is_alive: true,
            is_overdue: false,
            wish: Wish::Keep,
            disk_used_bytes: 0,
            disk_total_bytes: 0,
            held_bytes: 0,
            sync_time: None,
        }
    }

    /// Bytes of its disk that nobody uses; `None`: not known.
    pub fn free_bytes(&self) -> Option<u64> {
        (0 < self.disk_total_bytes).then(|| self.disk_total_bytes.saturating_sub(self.disk_used_bytes))
    }

    /// Whether it may get another copy.
    pub fn takes_copies(&self) -> bool {
        self.takes_its_own() && self.wish == Wish::Keep
    }

    /// Whether it may get a copy in the place of one that it has lost.
    fn takes_its_own(&self) -> bool {
        let is_full = self.free_bytes().is_some_and(|free| free < DISK_FREE_BYTES_MIN);
        self.is_alive && self.wish != Wish::Drain && !is_full
    }
}

/// One copy that is to be replaced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replacement {
    /// Its group.
    pub group: GroupId,
    /// The copy.
    pub leaving: SegmentId,
    /// The node that gets the new one.
    pub to: StorageNode,
    /// Whether the old copy may stay if it comes back meanwhile.
    pub is_reversible: bool,
}

/// Copies that are of no use: their node does not have them any more, or they do not vouch for what they acknowledged.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Lost {
    /// All of them.
    pub copies: BTreeSet<SegmentId>,
    /// Those that have been for so long that they are replaced without anybody's asking.
    pub overdue: BTreeSet<SegmentId>,
}

/// What there is to do.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Plan {
    /// Copies that can be replaced now, one a group.
    pub replacements: Vec<Replacement>,
    /// Copies that ought to be replaced, but no node can take them: group, the node that they are on, and its zone.
    pub without_spare: Vec<(GroupId, String, Zone)>,
}

/// How many copies each node has, of every list.
pub(crate) fn copies_of_nodes(record: &VolumeRecord) -> BTreeMap<&str, usize> {
    let mut copies = BTreeMap::new();
    for group in &record.groups {
        for member in group.members.iter().chain(group.joining.iter().flatten()) {
            *copies.entry(member.node.as_str()).or_default() += 1;
        }
    }
    copies
}

/// Which of the segments of this volume that nodes hold, each with its node, are nobody's and have to be removed: no list names
/// them, and the reign does not make them just now.
///
/// What they promised says nothing. One that was replaced while its node was away hears of the reign from its peers, and promises
/// its epoch, before anybody has it removed; and one that was made for a group that is not made after all has promised it at its
/// birth.
pub fn strays<Node>(
    record: &VolumeRecord,
    held: impl IntoIterator<Item = (Node, SegmentId)>,
    is_made: impl Fn(SegmentId) -> bool,
) -> Vec<(Node, SegmentId)> {
    let members = record.groups.iter().flat_map(GroupRecord::all_members);
    let listed: BTreeSet<SegmentId> = members.map(|member| member.segment).collect();
    let held = held.into_iter();
    held.filter(|(_, segment)| !listed.contains(segment) && !is_made(*segment))
        .collect()
}

/// Copies that move, given how the nodes are and which copies are lost. Groups with a change under way are left alone.
pub fn plan(record: &VolumeRecord, nodes: &[StorageNode], lost: &Lost) -> Plan {
    let mut loads = copies_of_nodes(record);
    let mut plan = Plan::default();
    for group in record.groups.iter().filter(|group| group.joining.is_none()) {
        let id = GroupId::from_raw(group.group);
        for member in &group.members {
            if !is_to_leave(member, nodes, lost) {
                continue;
            }
            if !others_suffice(group, member, nodes, lost) {
                continue;
            }
            let node = nodes.iter().find(|node| node.name == member.node);
            let is_lost = lost.copies.contains(&member.segment);
            let spare = spare(group, member, nodes, is_lost, &loads);
            let Some(to) = spare else {
                plan.without_spare.push((id, member.node.clone(), member.zone));
                continue;
            };
            *loads.entry(&to.name).or_default() += 1;
            plan.replacements.push(Replacement {
                group: id,
                leaving: member.segment,
                to: to.clone(),
                is_reversible: node.is_none_or(|node| node.wish != Wish::Drain),
            });
            break;
        }
    }
    plan
}

/// Whether a copy is to be replaced: somebody wants it, or it was lost or its node silent for long enough.
pub(crate) fn is_to_leave(member: &MemberRecord, nodes: &[StorageNode], lost: &Lost) -> bool {
    let node = nodes.iter().find(|node| node.name == member.node);
    let is_wished = node.is_some_and(|node| match &node.wish {
        Wish::Keep => false,
        Wish::Replace(copies) => copies.contains(&member.segment),
        Wish::Drain => true,
    });
    is_wished || node.is_some_and(|node| node.is_overdue) || lost.overdue.contains(&member.segment)
}

/// Whether the copies that stay are a write quorum. If not, nothing could be written, and the volume not be opened, before the
/// new one is whole: rather than that, the replacement waits until others are back.
fn others_suffice(group: &GroupRecord, leaving: &MemberRecord, nodes: &[StorageNode], lost: &Lost) -> bool {
    let counts = |member: &&MemberRecord| {
        let mut nodes = nodes.iter();
        let is_alive = nodes.any(|node| node.name == member.node && node.is_alive);
        is_alive && member.segment != leaving.segment && !lost.copies.contains(&member.segment)
    };
    let stay = group.members.iter().filter(counts).map(|member| member.segment);
    group.membership().writable(&stay.collect())
}

/// The node that is to get the new copy: one of the same zone without a copy of the group, with as few copies as possible; the
/// same node only if that has lost its copy and nobody else can take it.
pub(crate) fn spare<'a>(
    group: &GroupRecord,
    leaving: &MemberRecord,
    nodes: &'a [StorageNode],
    is_lost: bool,
    loads: &BTreeMap<&str, usize>,
) -> Option<&'a StorageNode> {
    let others = |node: &StorageNode| {
        let mut others = group.members.iter().filter(|member| member.segment != leaving.segment);
        others.any(|member| member.node == node.name)
    };
    let fits = nodes.iter().filter(|node| {
        let may = node.name != leaving.node || is_lost;
        let takes = if node.name == leaving.node {
            node.takes_its_own()
        } else {
            node.takes_copies()
        };
        node.zone == leaving.zone && takes && !others(node) && may
    });
    fits.min_by_key(|node| {
        let load = loads.get(node.name.as_str()).copied().unwrap_or(0);
        (node.name == leaving.node, load, node.disk_used_bytes)
    })
}
