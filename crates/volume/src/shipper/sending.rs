//! What is sent to the copies, and what is kept for those that lack it.

use units::{GroupId, Lsn, Position, SegmentId};
use wire_format::frame::BATCH_BYTES_MAX;
use wire_format::message::Request;
use wire_format::{Batch, EncodedBatch, FlushHeader};

use super::group::Sent;
use super::{Shipper, ShipperEffect};
use crate::{FlushParts, FlushTooLong, Share};

impl Shipper {
    /// Links a flush, encodes each part once and sends it to every copy of its group that listens. Call
    /// [`Shipper::can_submit`] first. If a group of it sleeps, it waits until the group is awake. An error ends the reign: what
    /// follows cannot be sent without it.
    pub fn submit(&mut self, parts: FlushParts, effects: &mut Vec<ShipperEffect>) -> Result<(), FlushTooLong> {
        assert!(self.sent_end() < parts.end, "flushes follow each other");
        assert!(parts.boundary <= parts.end, "a record end in the flush or before it");
        for (group, _) in &parts.others {
            self.wake(*group, effects);
        }
        if self.waiting.is_empty() && self.all_awake(&parts) {
            return self.send(parts, effects);
        }
        self.waiting.push_back(parts);
        Ok(())
    }

    fn all_awake(&self, parts: &FlushParts) -> bool {
        let awake = |group: &GroupId| {
            self.others
                .get(group)
                .is_some_and(|group| group.last.is_some() && group.awake)
        };
        parts.others.iter().all(|(group, _)| awake(group))
    }

    /// Sends what waited for groups that are awake by now.
    pub(super) fn send_waiting(&mut self, effects: &mut Vec<ShipperEffect>) {
        while let Some(parts) = self.waiting.pop_front() {
            if !self.all_awake(&parts) {
                self.waiting.push_front(parts);
                return;
            }
            if let Err(error) = self.send(parts, effects) {
                effects.push(ShipperEffect::TooLong(error));
                return;
            }
        }
    }

    fn send(&mut self, parts: FlushParts, effects: &mut Vec<ShipperEffect>) -> Result<(), FlushTooLong> {
        let (end, boundary) = (parts.end, parts.boundary);
        let groups: Box<[GroupId]> = parts.others.iter().map(|(group, _)| *group).collect();
        let header = FlushHeader {
            groups: std::iter::once(GroupId::FIRST).chain(groups.iter().copied()).collect(),
            boundary,
            written_at_us: parts.written_at_us,
            marks: parts.marks,
            catalog: parts.catalog,
            page_flags: parts.page_flags,
        };
        let first = self.batch(GroupId::FIRST, end, self.last, Some(header), parts.first)?;
        let mut others = Vec::with_capacity(parts.others.len());
        for (group, share) in parts.others {
            let last = self.others.get(&group).and_then(|group| group.last);
            let last = last.expect("it is awake");
            others.push((group, self.batch(group, end, last, None, share)?));
        }
        self.last = first.position();
        let sent = |others, batch: EncodedBatch| Sent {
            end,
            boundary,
            others,
            batch,
        };
        self.keep(GroupId::FIRST, sent(groups, first), effects);
        for (group, batch) in others {
            self.keep(group, sent(Box::default(), batch), effects);
        }
        self.announced = self.durable;
        self.release(GroupId::FIRST);
        Ok(())
    }

    fn batch(
        &self,
        group: GroupId,
        end: Lsn,
        previous: Position,
        header: Option<FlushHeader>,
        share: Share,
    ) -> Result<EncodedBatch, FlushTooLong> {
        let batch = EncodedBatch::new(Batch {
            volume: self.volume,
            group,
            epoch: self.path.epoch(),
            end,
            previous,
            header,
            items: share.items,
            elsewhere: share.elsewhere,
        });
        let bytes = batch.bytes().len();
        if BATCH_BYTES_MAX < bytes {
            return Err(FlushTooLong { end, bytes });
        }
        Ok(batch)
    }

    /// Keeps a part of a flush and sends it to the copies of its group.
    fn keep(&mut self, id: GroupId, sent: Sent, effects: &mut Vec<ShipperEffect>) {
        let Some(group) = self.group_mut(id) else {
            return;
        };
        let bytes = sent.batch.bytes().len() as u64;
        group.last = Some(sent.batch.position());
        group.sent.push_back(sent);
        let copies: Vec<SegmentId> = group.copies.keys().copied().collect();
        self.retained_bytes += bytes;
        if id != GroupId::FIRST {
            self.loud.insert(id);
        }
        self.list(id);
        for segment in copies {
            self.feed(segment, effects);
        }
    }

    pub(super) fn group_mut(&mut self, id: GroupId) -> Option<&mut super::Group> {
        if id == GroupId::FIRST {
            return Some(&mut self.first);
        }
        self.others.get_mut(&id)
    }

    /// Brings the sets up to date with how a group stands.
    pub(super) fn list(&mut self, id: GroupId) {
        let Some(group) = self.others.get_mut(&id) else {
            return;
        };
        let (before, now) = (group.listed, group.listing());
        if before == now {
            return;
        }
        group.listed = now;
        for (set, before, now) in [
            (&mut self.missing, before.missing, now.missing),
            (&mut self.kept, before.kept, now.kept),
        ] {
            if before != now {
                before.map(|before| set.remove(&(before, id)));
                now.map(|now| set.insert((now, id)));
            }
        }
    }

    /// Sends a copy what follows the last flush it was sent or has, as long as not too much is on its way to its node. What
    /// was let go meanwhile it gets from its peers.
    pub(super) fn feed(&mut self, segment: SegmentId, effects: &mut Vec<ShipperEffect>) {
        let epoch = self.path.epoch();
        let limit = self.limits.retained_bytes_max;
        let (volume_durable, flights) = (self.durable_position(), &mut self.flights);
        let group = if self.first.copies.contains_key(&segment) {
            Some(&mut self.first)
        } else {
            self.homes.get(&segment).and_then(|home| self.others.get_mut(home))
        };
        let Some(group) = group else {
            return;
        };
        let durable = if group.id == GroupId::FIRST {
            volume_durable
        } else {
            group.durable
        };
        let Some(copy) = group.copies.get_mut(&segment).filter(|copy| copy.takes_log()) else {
            return;
        };
        let from = copy.sent_through.max(copy.complete);
        let next = group.sent.partition_point(|sent| sent.end <= from);
        for sent in group.sent.range(next..) {
            if limit <= flights[copy.node] {
                self.starved.insert((copy.node, group.id, segment));
                return;
            }
            copy.sent(sent.end, sent.batch.bytes().len() as u64, flights);
            effects.push(ShipperEffect::Send {
                segment,
                request: Request::Append {
                    segment,
                    epoch,
                    durable,
                    batch: sent.batch.clone(),
                },
            });
        }
    }

    /// There may be room again for other copies on the node of this one.
    pub(super) fn feed_starved(&mut self, segment: SegmentId, effects: &mut Vec<ShipperEffect>) {
        if self.starved.is_empty() {
            return;
        }
        let Some(node) = self.copy_of_mut(segment).map(|(_, copy, _)| copy.node) else {
            return;
        };
        let first = (node, GroupId::FIRST, SegmentId::from_bytes([0; 16]));
        while self.flights[node] < self.limits.retained_bytes_max
            && let Some(next) = self.starved.range(first..).next().copied()
            && next.0 == node
        {
            self.starved.remove(&next);
            self.feed(next.2, effects);
        }
    }

    /// Forgets batches that every copy of their group has, of other groups once they are durable: a copy that is new takes from
    /// its peers no more than that. Forgets the oldest durable ones of any group when too many are kept.
    pub(super) fn release(&mut self, id: GroupId) {
        let (all, missing) = (self.first.all_complete(), self.missing.first());
        // The durable LSN is derived from what is here: a flush that misses a part elsewhere is kept, and so is the last.
        let missing = missing.map_or(Lsn::MAX, |(first, _)| *first);
        let everywhere = |sent: &Sent| sent.end <= all && sent.end < missing;
        while 1 < self.first.sent.len() && self.first.sent.front().is_some_and(everywhere) {
            self.let_go(GroupId::FIRST);
        }
        if let Some(group) = self.others.get(&id) {
            let all = group.all_complete().min(group.durable.lsn);
            while self.first_kept(id).is_some_and(|end| end <= all) {
                self.let_go(id);
            }
        }
        while self.limits.retained_bytes_max < self.retained_bytes {
            let first = self.first.sent.front().filter(|_| 1 < self.first.sent.len());
            let first = first.map(|sent| (sent.end, GroupId::FIRST));
            let other = self.kept.first().copied();
            let oldest = first.into_iter().chain(other).min();
            match oldest.filter(|(end, _)| *end <= self.durable) {
                Some((_, group)) => self.let_go(group),
                None => return,
            }
        }
    }

    fn first_kept(&self, id: GroupId) -> Option<Lsn> {
        self.others.get(&id)?.sent.front().map(|sent| sent.end)
    }

    fn let_go(&mut self, id: GroupId) {
        if let Some(sent) = self.group_mut(id).and_then(|group| group.sent.pop_front()) {
            self.retained_bytes -= sent.batch.bytes().len() as u64;
        }
        self.list(id);
    }
}
