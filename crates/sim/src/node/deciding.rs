//! What the segments of a simulated node decide in a turn, and what the node does with it.

use std::collections::BTreeMap;

use page_store::{Horizon, JournalEntry};
use segment::{Effect, MendStep, PartId, Segment};
use units::{GroupId, Position, SegmentId};
use wire_format::message::{Refusal, Request, Response, VersionCursor};

use super::{Arrival, Node, ReplyTo};
use crate::network::Asked;
use crate::world::World;
use crate::{Broken, broken, reads};

impl World {
    pub(super) fn decide(&mut self, at: usize, arrival: Arrival) {
        match arrival {
            Arrival::Request { from, request, .. } => self.asked(at, from, request),
            Arrival::Fetched { segment: id, response } => {
                let now = self.now + self.nodes[at].clock_began;
                let mut effects = Vec::new();
                if let Some(segment) = self.nodes[at].segment_mut(id) {
                    // A peer that cannot help is no failure: the next one is asked.
                    let _ = segment.fetched(now, response, &mut effects);
                }
                self.perform(at, id, effects, None, true);
            }
            Arrival::Versions {
                segment,
                part,
                from,
                response,
            } => self.versions(at, segment, part, *from, response),
            Arrival::Given { .. } => unreachable!("whoever mends does not wait for a turn"),
            Arrival::Mending { segment, step } => self.mending(at, segment, step),
            Arrival::Tick => {
                for id in self.nodes[at].segments.keys().copied().collect::<Vec<_>>() {
                    self.tick_segment(at, id);
                }
            }
        }
    }

    fn asked(&mut self, at: usize, from: ReplyTo, request: Request) {
        let Some(id) = request.segment() else {
            return;
        };
        let broken = self.broken;
        let node = &mut self.nodes[at];
        let mut effects = Vec::new();
        let looks = matches!(request, Request::Promise { .. });
        let mut keeps_state = true;
        let is_known = node.segments.contains_key(&id) && !node.removed.contains(&id);
        match (node.segments.get_mut(&id).filter(|_| is_known), &request) {
            (None, Request::RemoveSegment { .. }) => effects.push(Effect::Answer(Response::SegmentRemoved)),
            (None, Request::CreateSegment { .. }) if !node.removed.contains(&id) => {
                match Segment::create(&request, &mut effects) {
                    Ok(segment) => {
                        node.segments.insert(id, segment);
                        self.born(at, id);
                    }
                    Err(refusal) => effects.push(Effect::Answer(Response::Refused(refusal))),
                }
            }
            (None, _) => {
                let refusal = Refusal::UnknownSegment { segment: id };
                effects.push(Effect::Answer(Response::Refused(refusal)));
            }
            (Some(segment), _) => {
                let other_group = segment.group() != GroupId::FIRST;
                keeps_state = !(looks && broken == Some(Broken::ForgetPromise));
                let request = broken::asked(broken, segment, &node.disk, request.clone());
                let unfenced = broken == Some(Broken::LookWithoutFencing)
                    || broken == Some(Broken::OtherGroupNotFenced) && other_group;
                if looks && unfenced {
                    // The answer of a segment that promised; but the one that goes on has not.
                    segment.clone().request(&request, &mut effects);
                    effects.retain(|effect| matches!(effect, Effect::Answer(_)));
                } else {
                    segment.request(&request, &mut effects);
                }
                for effect in &mut effects {
                    if let Effect::Answer(response) = effect {
                        *response = broken::answered(broken, segment, &request, response.clone());
                    }
                }
            }
        }
        self.perform(at, id, effects, Some(&from), keeps_state);
    }

    /// A copy that is made once more before it ever counted lost nothing when the disk was emptied.
    fn born(&mut self, at: usize, id: SegmentId) {
        let group = self.homes[&id].group;
        if self.checker.copies_of(group).all(|(listed, _)| listed != id) {
            self.wiped.remove(&id);
            self.nodes[at].disk.forget(id);
        }
    }

    /// A peer gave versions, or did not.
    fn versions(&mut self, at: usize, id: SegmentId, part: PartId, from: VersionCursor, response: Option<Response>) {
        let now = self.now + self.nodes[at].clock_began;
        let node = &mut self.nodes[at];
        if node.removed.contains(&id) || !node.segments.contains_key(&id) {
            return;
        }
        let taken = reads::take(node.disk.store(), id, part, from, response, self.broken);
        let Some(segment) = node.segments.get_mut(&id) else {
            return;
        };
        let complete = segment.complete();
        let mut effects = Vec::new();
        if let Some(taken) = taken {
            // A peer that cannot help is no failure: the next one is asked.
            let _ = segment.taken(now, part, taken, &mut effects);
        }
        if complete < segment.complete() {
            node.layered.insert(id, segment.complete());
            self.layered += 1;
        }
        self.perform(at, id, effects, None, true);
    }

    /// A copy is being mended: a step of that.
    fn mending(&mut self, at: usize, id: SegmentId, step: MendStep) {
        let node = &mut self.nodes[at];
        let mut effects = Vec::new();
        // Found since: it is mended, too, before the vote comes back.
        let is_too_early = matches!(step, MendStep::Mended) && node.disk.store().is_damaged(id);
        match node.segment_mut(id).filter(|_| !is_too_early) {
            Some(segment) => segment.mend(step, &mut effects),
            None => {
                node.mender.kept = Some(false);
                return;
            }
        }
        if matches!(step, MendStep::Mended) {
            node.disk.has_all_again(id);
        }
        node.mender.kept = Some(true);
        self.perform(at, id, effects, None, true);
    }

    fn tick_segment(&mut self, at: usize, id: SegmentId) {
        let now = self.now + self.nodes[at].clock_began;
        let (broken, may_be_crowded) = (self.broken, self.weather.crowded);
        let node = &mut self.nodes[at];
        let crowded = may_be_crowded && node.disk.is_crowded();
        let Some(segment) = node.segment_mut(id) else {
            return;
        };
        let mut effects = Vec::new();
        segment.permit_layers(true);
        segment.tick(now, &mut effects);
        let horizon = segment.horizon();
        segment.set_crowded(crowded);
        let needed_by_none = if crowded { horizon.durable } else { horizon.all_complete };
        let recycle_through = segment.forget(needed_by_none, &mut effects);
        let mut horizon = Horizon {
            path: horizon.path,
            durable: horizon.durable,
            floor: horizon.floor,
            recycle_through,
            let_go: horizon.let_go,
        };
        if broken == Some(Broken::RecyclesTooEarly) {
            horizon.recycle_through = segment.complete();
        }
        if broken == Some(Broken::FoldsAboveDurable) {
            horizon.durable = segment.complete();
            (horizon.floor, horizon.recycle_through) = (horizon.durable, horizon.durable);
        }
        let unneeded = segment.journal_unneeded_through();
        node.disk.store().set_horizon(id, horizon);
        node.disk.store().let_journal_go(id, unneeded);
        self.ticks += u64::from(!effects.is_empty());
        self.perform(at, id, effects, None, true);
    }

    fn perform(&mut self, at: usize, id: SegmentId, effects: Vec<Effect>, reply: Option<&ReplyTo>, keeps_state: bool) {
        for effect in effects {
            let node = &mut self.nodes[at];
            let boot = node.boot;
            match effect {
                Effect::KeepState(bytes) if keeps_state => {
                    node.entries.push(JournalEntry::State { segment: id, bytes })
                }
                Effect::KeepState(_) => {}
                Effect::KeepBatch(batch) => node.entries.push(JournalEntry::Batch { segment: id, batch }),
                Effect::Answer(response) => node.answers.extend(reply.cloned().map(|reply| (reply, response))),
                Effect::Read(_) => unreachable!("reads do not wait for a turn"),
                Effect::Remove => {
                    node.entries.push(JournalEntry::removal(id));
                    node.removed.insert(id);
                    node.told.remove(&id);
                }
                Effect::Take { peer, request, part } => {
                    let Request::FetchVersions { from: begin, .. } = &request else {
                        unreachable!("versions are asked for by key")
                    };
                    let from = ReplyTo::Peer {
                        node: at,
                        boot,
                        segment: id,
                        asked: Asked::Part(part, Box::new(begin.clone())),
                    };
                    self.ask_peer(from, &peer, request);
                }
                Effect::Fetch { peer, request } => {
                    let from = ReplyTo::Peer {
                        node: at,
                        boot,
                        segment: id,
                        asked: Asked::Log,
                    };
                    self.ask_peer(from, &peer, request);
                }
            }
        }
    }
}

impl Node {
    /// A segment that is here, and not on its way out.
    fn segment_mut(&mut self, id: SegmentId) -> Option<&mut Segment> {
        self.segments.get_mut(&id).filter(|_| !self.removed.contains(&id))
    }

    pub(super) fn has(&self, id: SegmentId) -> bool {
        self.segments.contains_key(&id) && !self.removed.contains(&id)
    }

    /// The journal did not take this turn: segments forget it, and nobody is told anything else.
    pub(super) fn roll_back(&mut self, error: &str) {
        let mut touched: BTreeMap<SegmentId, Vec<Position>> = BTreeMap::new();
        for entry in self.entries.drain(..) {
            match entry {
                JournalEntry::State { segment, .. } => drop(touched.entry(segment).or_default()),
                JournalEntry::Batch { segment, batch } => {
                    touched.entry(segment).or_default().push(batch.batch().position());
                }
            }
        }
        self.removed.clear();
        for (id, batches) in touched {
            match self.disk.last_state(id) {
                Some(state) => {
                    if let Some(segment) = self.segments.get_mut(&id) {
                        segment.roll_back(state, &batches);
                    }
                }
                // It was to be created in this turn.
                None => drop(self.segments.remove(&id)),
            }
        }
        for (_, response) in &mut self.answers {
            *response = Response::Refused(Refusal::Stopped { what: error.to_owned() });
        }
        if let Some(kept) = &mut self.mender.kept {
            *kept = false;
        }
    }
}
