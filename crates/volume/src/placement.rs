//! Which copies have to move, and where to: from the volume's record and how the storage nodes are.
//!
//! Invariants:
//! - A copy stays in its zone, so that every group keeps two in each.
//! - No node ever holds two copies of one group that count.

use std::collections::{BTreeMap, BTreeSet};

use units::{GroupId, SegmentId, Zone};

use crate::record::{GroupRecord, MemberRecord, VolumeRecord};

/// Of a disk's bytes, in percent: one that is fuller gets no further copy.
const DISK_USED_PERCENT_MAX: u64 = 90;

/// What somebody wants of a storage node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    /// It keeps what it has.
    Keep,
    /// Its copies are replaced, because it is away or shall be emptied once; it may come back.
    Replace,
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
}

impl StorageNode {
    /// Whether it may get another copy.
    pub fn takes_copies(&self) -> bool {
        let is_full = self.disk_total_bytes.saturating_mul(DISK_USED_PERCENT_MAX) / 100 < self.disk_used_bytes;
        self.is_alive && self.wish == Wish::Keep && !(is_full && 0 < self.disk_total_bytes)
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

/// What there is to do.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Plan {
    /// Copies that can be replaced now, one a group.
    pub replacements: Vec<Replacement>,
    /// Copies that ought to be replaced, but no node can take them: group, the node that they are on, and its zone.
    pub without_spare: Vec<(GroupId, String, Zone)>,
}

/// Copies that move, given the nodes and the copies that have been of no use for too long: their node does not have them, or
/// they do not vouch for what they acknowledged. Groups with a change under way are left alone.
pub fn plan(record: &VolumeRecord, nodes: &[StorageNode], useless: &BTreeSet<SegmentId>) -> Plan {
    let mut loads: BTreeMap<&str, usize> = BTreeMap::new();
    for group in &record.groups {
        for member in group.members.iter().chain(group.joining.iter().flatten()) {
            *loads.entry(&member.node).or_default() += 1;
        }
    }
    let mut plan = Plan::default();
    for group in record.groups.iter().filter(|group| group.joining.is_none()) {
        let id = GroupId::from_raw(group.group);
        for member in &group.members {
            let node = nodes.iter().find(|node| node.name == member.node);
            let is_useless = useless.contains(&member.segment);
            let wish = node.map_or(Wish::Keep, |node| node.wish);
            let is_overdue = node.is_some_and(|node| node.is_overdue);
            if !is_useless && !is_overdue && wish == Wish::Keep {
                continue;
            }
            let spare = spare(group, member, nodes, is_useless, &loads);
            let Some(to) = spare else {
                plan.without_spare.push((id, member.node.clone(), member.zone));
                continue;
            };
            *loads.entry(&to.name).or_default() += 1;
            plan.replacements.push(Replacement {
                group: id,
                leaving: member.segment,
                to: to.clone(),
                is_reversible: wish != Wish::Drain,
            });
            break;
        }
    }
    plan
}

/// The node that is to get the new copy: one of the same zone without a copy of the group, with as few copies as possible; the
/// same node only if that has lost its copy and nobody else can take it.
fn spare<'a>(
    group: &GroupRecord,
    leaving: &MemberRecord,
    nodes: &'a [StorageNode],
    is_useless: bool,
    loads: &BTreeMap<&str, usize>,
) -> Option<&'a StorageNode> {
    let others = |node: &StorageNode| {
        let mut others = group.members.iter().filter(|member| member.segment != leaving.segment);
        others.any(|member| member.node == node.name)
    };
    let fits = nodes.iter().filter(|node| {
        let may = node.name != leaving.node || is_useless;
        node.zone == leaving.zone && node.takes_copies() && !others(node) && may
    });
    fits.min_by_key(|node| {
        let load = loads.get(node.name.as_str()).copied().unwrap_or(0);
        (node.name == leaving.node, load, node.disk_used_bytes)
    })
}
