//! A group whose copies change while it is written (DESIGN §4.5).

use quorum::Membership;
use units::GroupId;
use wire_format::Member;

use super::{Shipper, ShipperEffect};

impl Shipper {
    /// From now on `membership` counts for the group, and `members` are its copies: all of either list, if it is joint. New
    /// ones are connected to, those that are gone are forgotten, and every copy is told who its peers are. The durable LSN
    /// stays where it is, whatever the new lists have.
    ///
    /// Whoever calls this keeps the order: a joint membership counts before the record names it, the next settled one only
    /// after.
    pub fn change_members(
        &mut self,
        id: GroupId,
        membership: Membership,
        members: Vec<Member>,
        effects: &mut Vec<ShipperEffect>,
    ) {
        let copies = self.copies_of(members);
        let Some(changed) = self.group_mut(id) else {
            return;
        };
        let mut before = std::mem::take(&mut changed.copies);
        let (awake, mut new) = (changed.awake, Vec::new());
        for mut copy in copies {
            let segment = copy.member.segment;
            match before.remove(&segment) {
                Some(mut known) => {
                    known.member = copy.member;
                    copy = known;
                }
                None => new.push(copy.member.clone()),
            }
            changed.copies.insert(segment, copy);
        }
        changed.membership = membership;
        changed.count();
        let kept: Vec<_> = changed.copies.keys().copied().collect();
        for (segment, mut gone) in before {
            gone.begin(false, &mut self.flights);
            self.homes.remove(&segment);
            self.starved.remove(&(gone.node, id, segment));
            self.stalled.remove(&(id, segment));
        }
        if id != GroupId::FIRST {
            self.homes.extend(kept.into_iter().map(|segment| (segment, id)));
        }
        self.list(id);
        if !awake {
            return;
        }
        if let Some(group) = self.group(id) {
            let told = group.copies.values().filter(|copy| copy.takes_log());
            effects.extend(told.map(|copy| self.install(group, copy)));
        }
        if !new.is_empty() {
            effects.push(ShipperEffect::Connect(id, new));
        }
    }
}
