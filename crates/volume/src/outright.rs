//! Which lost copies an opening replaces outright, since their group has no write quorum any more (DESIGN §4.4, step 4).
//!
//! Invariants are those of [`crate::placement`]. And: what is neither asked for nor overdue is never replaced, so that nodes
//! that merely start slowly keep their copies.

use std::collections::{BTreeMap, BTreeSet};

use units::{GroupId, SegmentId, Zone};

use crate::placement::{Lost, StorageNode, copies_of_nodes, is_to_leave, spare};
use crate::record::{GroupRecord, MemberRecord, VolumeRecord};

/// A group's list of copies in which lost ones are replaced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rebuilt {
    /// The group.
    pub group: GroupId,
    /// The list: copies that are there, new ones, and lost ones that nobody can replace yet.
    pub members: Vec<MemberRecord>,
    /// Which of them are new.
    pub new: BTreeSet<SegmentId>,
}

/// What an opening can do for groups without a write quorum.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Outright {
    /// Groups that get a write quorum.
    pub rebuilt: Vec<Rebuilt>,
    /// Copies that ought to be replaced, but no node can take them: group, the node that they are on, and its zone.
    pub without_spare: Vec<(GroupId, String, Zone)>,
}

/// Whether a copy is likely to be of use, as the control process and its node say.
pub fn seems_useful(member: &MemberRecord, nodes: &[StorageNode], lost: &Lost) -> bool {
    let is_alive = nodes.iter().any(|node| node.name == member.node && node.is_alive);
    is_alive && !lost.copies.contains(&member.segment)
}

/// Groups whose useful copies are a read quorum, but no write quorum: which copies those are.
pub fn short_groups(
    record: &VolumeRecord,
    mut is_useful: impl FnMut(&MemberRecord) -> bool,
) -> BTreeMap<GroupId, BTreeSet<SegmentId>> {
    let useful = |group: &GroupRecord| {
        let members = group.all_members();
        let useful = members.iter().filter(|member| is_useful(member));
        let useful: BTreeSet<SegmentId> = useful.map(|member| member.segment).collect();
        let membership = group.membership();
        let is_short = membership.fenced(&useful) && !membership.writable(&useful);
        is_short.then_some((GroupId::from_raw(group.group), useful))
    };
    record.groups.iter().filter_map(useful).collect()
}

/// The lists with which groups that are `short` of copies can be written again, given which of their copies are useful.
/// `identity` makes the identities of new ones.
pub fn outright(
    record: &VolumeRecord,
    nodes: &[StorageNode],
    lost: &Lost,
    short: &BTreeMap<GroupId, BTreeSet<SegmentId>>,
    mut identity: impl FnMut() -> SegmentId,
) -> Outright {
    let mut loads = copies_of_nodes(record);
    let mut plan = Outright::default();
    for (id, useful) in short {
        let Some(entry) = record.group(*id) else {
            continue;
        };
        // Whatever was acknowledged while both lists counted is on either of them.
        let useful_of = |list: &[MemberRecord]| list.iter().filter(|member| useful.contains(&member.segment)).count();
        let joining = entry
            .joining
            .as_ref()
            .filter(|joining| useful_of(&entry.members) <= useful_of(joining));
        let mut list = entry.settled(joining.unwrap_or(&entry.members).clone());
        let mut new = BTreeSet::new();
        for at in 0..list.members.len() {
            let member = list.members[at].clone();
            if useful.contains(&member.segment) || !is_to_leave(&member, nodes, lost) {
                continue;
            }
            let is_lost = lost.copies.contains(&member.segment);
            let Some(to) = spare(&list, &member, nodes, is_lost, &loads) else {
                plan.without_spare.push((*id, member.node, member.zone));
                continue;
            };
            *loads.entry(&to.name).or_default() += 1;
            let segment = identity();
            new.insert(segment);
            list.members[at] = MemberRecord {
                segment,
                node: to.name.clone(),
                address: to.address.clone(),
                ..member
            };
        }
        if list.membership().writable(&useful.union(&new).copied().collect()) {
            plan.rebuilt.push(Rebuilt {
                group: *id,
                members: list.members,
                new,
            });
        }
    }
    plan
}
