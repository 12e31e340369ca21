//! What copies answer, and how far everything is durable by that.

use std::time::Duration;

use units::{GroupId, Lsn, Position, SegmentId};
use wire_format::message::{Refusal, Response};

use super::group::Group;
use super::{STALL_PAUSE, Shipper, ShipperEffect};

impl Shipper {
    /// A copy answered.
    pub fn response(
        &mut self,
        now: Duration,
        segment: SegmentId,
        response: &Response,
        effects: &mut Vec<ShipperEffect>,
    ) {
        match response {
            Response::Installed { complete, vouches, .. } => {
                self.complete(segment, *complete);
                self.vouches(segment, *vouches);
                self.installed(segment, vouches.then_some(*complete), effects);
            }
            Response::Appended { epoch, complete, .. } if *epoch == self.path.epoch() => {
                self.complete(segment, *complete)
            }
            Response::Announced { complete, vouches, .. } => {
                self.complete(segment, *complete);
                self.vouches(segment, *vouches);
            }
            Response::Refused(Refusal::StaleEpoch { promised, .. }) if self.path.epoch() < *promised => {
                effects.push(ShipperEffect::Fenced { by: *promised });
            }
            Response::Refused(refusal) => {
                if let Some((group, copy, _)) = self.copy_of_mut(segment)
                    && copy.stalled_until.is_none()
                {
                    copy.stalled_until = Some(now + STALL_PAUSE);
                    self.stalled.insert((group, segment));
                    effects.push(ShipperEffect::Trouble {
                        segment,
                        refusal: refusal.clone(),
                    });
                }
            }
            _ => {}
        }
        self.advance(segment, effects);
        self.feed(segment, effects);
        self.feed_starved(segment, effects);
    }

    fn complete(&mut self, segment: SegmentId, complete: Position) {
        if complete == Position::ZERO {
            // Only a copy of a new group, which nobody needs yet, has a vote and nothing to tell.
            self.vouches(segment, false);
        }
        if self.path.sees(complete)
            && let Some((group, copy, flights)) = self.copy_of_mut(segment)
        {
            let before = copy.complete;
            copy.complete(complete.lsn, flights);
            // Without a vote it would tell nothing.
            copy.vouches |= Lsn::ZERO < complete.lsn;
            if before < copy.complete && group != GroupId::FIRST {
                self.loud.insert(group);
            }
        }
    }

    fn vouches(&mut self, segment: SegmentId, vouches: bool) {
        if let Some((_, copy, _)) = self.copy_of_mut(segment) {
            copy.vouches = vouches;
        }
    }

    fn installed(&mut self, segment: SegmentId, told: Option<Position>, effects: &mut Vec<ShipperEffect>) {
        let Some((id, copy, _)) = self.copy_of_mut(segment) else {
            return;
        };
        // It may answer what it was told before it refused something: then it is left alone nevertheless, and told again after that,
        // with what it refused.
        copy.installed = true;
        copy.told = told;
        if id == GroupId::FIRST {
            return;
        }
        // Whatever it was told on an earlier connection, it may not have heard.
        self.loud.insert(id);
        if self.others.get_mut(&id).is_some_and(Group::find_last) {
            let durable = self.group_durable(id).unwrap_or(Lsn::ZERO);
            effects.push(ShipperEffect::GroupAdvanced { group: id, durable });
            self.send_waiting(effects);
        }
    }

    /// The durable LSN: the last record end up to which a write quorum of every group concerned is complete.
    fn advance(&mut self, segment: SegmentId, effects: &mut Vec<ShipperEffect>) {
        let Some(group) = self.group_of_mut(segment) else {
            return;
        };
        group.count();
        let id = group.id;
        self.list(id);
        let (complete, missing) = (self.first.quorum, self.missing.first());
        let whole = |end: Lsn| end <= complete && missing.is_none_or(|(first, _)| end < *first);
        let at = self.first.sent.partition_point(|sent| whole(sent.end));
        if let Some(last) = at.checked_sub(1).and_then(|at| self.first.sent.get(at))
            && self.durable < last.boundary
        {
            let before = std::mem::replace(&mut self.durable, last.boundary);
            let first = effects.len();
            self.cover_others(before, effects);
            for effect in effects.get(first..).unwrap_or_default() {
                if let ShipperEffect::GroupAdvanced { group, .. } = effect {
                    self.release(*group);
                }
            }
            effects.push(ShipperEffect::DurableAdvanced(self.durable));
        }
        self.release(id);
    }

    /// Of the other groups: which of their batches the durable LSN covers now.
    fn cover_others(&mut self, before: Lsn, effects: &mut Vec<ShipperEffect>) {
        if self.others.is_empty() {
            return;
        }
        let from = self.first.sent.partition_point(|sent| sent.end <= before);
        for sent in self.first.sent.range(from..) {
            if self.durable < sent.end {
                return;
            }
            for group in &sent.others {
                if let Some(other) = self.others.get_mut(group) {
                    other.durable = sent.batch.position();
                    self.loud.insert(*group);
                    effects.push(ShipperEffect::GroupAdvanced {
                        group: *group,
                        durable: sent.end,
                    });
                }
            }
        }
    }
}
