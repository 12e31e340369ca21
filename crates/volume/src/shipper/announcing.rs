//! Connections that come and go, and what copies hear while nothing is sent.

use std::time::Duration;

use units::{GroupId, Lsn, Position, SegmentId};
use wire_format::message::Request;

use super::copy::Copy;
use super::group::Group;
use super::{STALL_PAUSE, Shipper, ShipperEffect};

/// How often the durable position is announced while nothing is sent.
const ANNOUNCE_PAUSE: Duration = Duration::from_millis(20);
/// How often it is announced although nothing is new: a writer that sleeps through a failover and has nothing to write must
/// hear soon after it wakes that it is over (`notes/protocol.md`, hole 27). To group 0 alone: whoever fences the volume, fences
/// that.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// How often other groups hear how far the floor has come, while nothing else is new. Where versions are kept for days, every
/// group that was written meanwhile waits for its floor.
const FLOOR_PAUSE: Duration = Duration::from_secs(5);

impl Shipper {
    /// Wakes a group that is to be written or read: its copies are told of the reign. Harmless if it is awake.
    pub fn wake(&mut self, group: GroupId, effects: &mut Vec<ShipperEffect>) {
        if let Some(group) = self.others.get_mut(&group).filter(|group| !group.awake) {
            group.awake = true;
            effects.push(ShipperEffect::Connect(group.id, group.members()));
            if let Some(last) = group.last {
                let durable = last.lsn;
                effects.push(ShipperEffect::GroupAdvanced {
                    group: group.id,
                    durable,
                });
            }
        }
    }

    /// Whether a group is, or is about to be, awake.
    pub fn is_awake(&self, group: GroupId) -> bool {
        group == GroupId::FIRST || self.others.get(&group).is_some_and(|group| group.awake)
    }

    pub(super) fn install(&self, group: &Group, copy: &Copy) -> ShipperEffect {
        ShipperEffect::Send {
            segment: copy.member.segment,
            request: Request::Install {
                segment: copy.member.segment,
                epoch: self.path.epoch(),
                path: self.path.clone(),
                members: group.members(),
            },
        }
    }

    /// The copy's node is connected: it is told the path first; what it lacks follows its answer. Copies of groups that sleep
    /// are told nothing.
    pub fn connected(&mut self, segment: SegmentId, effects: &mut Vec<ShipperEffect>) {
        let Some((_, copy, flights)) = self.copy_of_mut(segment) else {
            return;
        };
        copy.begin(true, flights);
        copy.stalled_until = None;
        if let Some(group) = self.group_of(segment).filter(|group| group.awake)
            && let Some(copy) = group.copies.get(&segment)
        {
            effects.push(self.install(group, copy));
        }
    }

    /// The connection is gone, and every unanswered message with it.
    pub fn disconnected(&mut self, segment: SegmentId) {
        if let Some((_, copy, flights)) = self.copy_of_mut(segment) {
            copy.begin(false, flights);
        }
    }

    /// A message was not taken by the connection: the copy is left alone for a while, then told everything again.
    pub fn not_taken(&mut self, now: Duration, segment: SegmentId) {
        if let Some((group, copy, _)) = self.copy_of_mut(segment) {
            copy.stalled_until = Some(now + STALL_PAUSE);
            self.stalled.insert((group, segment));
        }
    }

    /// Time passes: announcements, and another try with copies that were left alone.
    pub fn tick(&mut self, now: Duration, effects: &mut Vec<ShipperEffect>) {
        self.try_again(now, effects);
        if self.floor_announced_at + FLOOR_PAUSE <= now {
            self.floor_announced_at = now;
            self.loud.append(&mut self.lagging);
        }
        let all_complete = self.all_complete();
        let news = self.announced < self.durable || self.announced_complete < all_complete;
        let behind = self.first.copies.values().any(|copy| copy.complete < self.durable);
        let pause = if news || behind || !self.loud.is_empty() {
            ANNOUNCE_PAUSE
        } else {
            HEARTBEAT
        };
        if now < self.announced_at + pause {
            return;
        }
        self.announced_at = now;
        self.announced = self.durable;
        self.announced_complete = all_complete;
        self.announce(&self.first, self.durable_position(), effects);
        let loud: Vec<GroupId> = self.loud.iter().copied().collect();
        for id in loud {
            self.announce_to(id, effects);
        }
    }

    fn try_again(&mut self, now: Duration, effects: &mut Vec<ShipperEffect>) {
        if self.stalled.is_empty() {
            return;
        }
        let stalled: Vec<(GroupId, SegmentId)> = self.stalled.iter().copied().collect();
        for (group, segment) in stalled {
            let copy = self.copy_of_mut(segment).map(|(_, copy, _)| &*copy);
            let until = copy.filter(|copy| copy.connected).and_then(|copy| copy.stalled_until);
            if until.is_some_and(|until| now < until) {
                continue;
            }
            self.stalled.remove(&(group, segment));
            if until.is_some() {
                self.connected(segment, effects);
            }
        }
    }

    /// Tells another group how far it is durable; a group that was told everything, and whose copies have it and say so, falls
    /// silent until it has news, and one that only waits for the floor for a while. Its answers are how a new copy of a group
    /// that nobody writes says that it is complete.
    fn announce_to(&mut self, id: GroupId, effects: &mut Vec<ShipperEffect>) {
        let floor = self.floor();
        let Some(group) = self.others.get(&id) else {
            self.loud.remove(&id);
            return;
        };
        self.announce(group, group.durable, effects);
        let has_passed = |point: Lsn| group.last.is_none_or(|last| last.lsn <= point);
        let mut copies = group.copies.values().filter(|copy| copy.takes_log());
        let all_there = copies.all(|copy| copy.vouches && group.durable.lsn <= copy.complete);
        if !all_there || !has_passed(group.durable.lsn) {
            return;
        }
        let is_lagging = !has_passed(floor);
        self.loud.remove(&id);
        if is_lagging {
            self.lagging.insert(id);
        }
    }

    fn announce(&self, group: &Group, durable: Position, effects: &mut Vec<ShipperEffect>) {
        let epoch = self.path.epoch();
        for copy in group.copies.values().filter(|copy| copy.takes_log()) {
            effects.push(ShipperEffect::Send {
                segment: copy.member.segment,
                request: Request::Announce {
                    segment: copy.member.segment,
                    epoch,
                    durable,
                    floor: Position::new(epoch, self.floor.min(durable.lsn)),
                    all_complete: Position::new(epoch, group.all_complete()),
                    on_every_full: Position::new(epoch, group.on_every_full()),
                },
            });
        }
    }
}
