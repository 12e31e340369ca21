//! Step 4: a write quorum gets everything up to the candidate, copied from whoever has it.

use std::collections::VecDeque;
use std::time::Duration;

use timeline::Path;
use units::{Epoch, Position, SegmentId, SegmentKind};
use wire_format::message::{Promised, Request};
use wire_format::{EncodedBatch, Member};

use super::group::Group;
use super::replacing::Birth;
use super::{ANSWER_LIMIT, OpeningEffect, REFUSAL_PAUSE};

/// Bytes of log asked of a source at once.
const COPY_BYTES_MAX: u32 = 1 << 20;

/// One of the six, as the opener sees it.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) member: Member,
    /// How it is made, if this opening makes it in the place of a lost one.
    pub(super) birth: Option<Birth>,
    pub(super) connected: bool,
    pub(super) promised: Option<Promised>,
    /// On the path of the last opened timeline.
    pub(super) complete: Position,
    /// Copies on their way to it.
    pub(super) incoming: VecDeque<EncodedBatch>,
    pub(super) awaiting: bool,
    /// It is left alone until then: see [`Copy::rest`].
    pub(super) again_at: Option<Duration>,
    /// Questions in a row that it never answered: others are asked first.
    pub(super) unanswered: u32,
    /// It knows the new path, and is complete up to the branch.
    pub(super) installed: bool,
}

impl Copy {
    pub(super) fn new(member: Member) -> Copy {
        Copy {
            member,
            birth: None,
            connected: false,
            promised: None,
            complete: Position::ZERO,
            incoming: VecDeque::new(),
            awaiting: false,
            again_at: None,
            unanswered: 0,
            installed: false,
        }
    }

    /// Whether it promised, and vouches for everything that it ever acknowledged.
    pub(super) fn counts(&self) -> bool {
        self.promised.as_ref().is_some_and(|promised| promised.vouches)
    }

    /// Whether it can be asked for the engine's marks: a tail has none to tell.
    pub(super) fn tells_marks(&self) -> bool {
        self.connected && self.installed && self.member.kind == SegmentKind::Full
    }

    /// Whether this opening makes it, and it is not whole yet.
    pub(super) fn is_unborn(&self) -> bool {
        self.birth.is_some() && !self.counts()
    }

    /// A connection begins or ends: nothing is on its way.
    pub(super) fn begin(&mut self, connected: bool) {
        self.connected = connected;
        self.incoming.clear();
        self.awaiting = false;
        self.again_at = None;
        self.unanswered = 0;
        self.installed = false;
    }

    /// It refused something, had nothing to give, or what it was sent did not help: it is left alone for a while.
    pub(super) fn rest(&mut self, now: Duration) {
        self.incoming.clear();
        self.awaiting = false;
        self.installed = false;
        self.again_at = Some(now + REFUSAL_PAUSE);
    }
}

/// A question for batches, on its way to a source.
#[derive(Debug)]
pub(super) struct Fetch {
    /// Who lacks them.
    pub(super) target: SegmentId,
    asked_at: Duration,
}

/// What the groups of one opening have in common.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) now: Duration,
    pub(super) epoch: Epoch,
    /// To the last opened timeline.
    pub(super) path: &'a Path,
}

impl Group {
    fn complete(&self, copy: &Copy) -> bool {
        copy.counts() && self.target().lsn <= copy.complete.lsn
    }

    /// Whether a write quorum has everything up to the candidate.
    pub(super) fn is_copied(&self) -> bool {
        let complete = self.copies.values().filter(|copy| self.complete(copy));
        self.membership
            .writable(&complete.map(|copy| copy.member.segment).collect())
    }

    /// Whoever is behind is brought further.
    pub(super) fn bring_up(&mut self, context: Context<'_>, effects: &mut Vec<OpeningEffect>) {
        // A copy that does not vouch never becomes complete, and only takes the sources from those that do.
        let behind = self.copies.values().filter(|copy| {
            copy.connected
                && copy.counts()
                && !self.complete(copy)
                && !copy.awaiting
                && copy.again_at.is_none()
                && copy.incoming.is_empty()
        });
        let targets: Vec<(SegmentId, Position)> = behind
            .filter(|copy| !self.fetching.values().any(|fetch| fetch.target == copy.member.segment))
            .map(|copy| (copy.member.segment, copy.complete))
            .collect();
        for (target, after) in targets {
            self.fetch(target, after, context, effects);
        }
    }

    /// Asks somebody for what `target` lacks next.
    fn fetch(&mut self, target: SegmentId, after: Position, context: Context<'_>, effects: &mut Vec<OpeningEffect>) {
        let idle = |copy: &&Copy| {
            copy.connected
                && copy.again_at.is_none()
                && copy.member.segment != target
                && !self.fetching.contains_key(&copy.member.segment)
        };
        let next = self.parts.iter().find(|end| after.lsn < end.lsn);
        let holds_next =
            |promised: &Promised| next.is_some_and(|next| promised.held.iter().any(|flush| flush.end == *next));
        let helps = |copy: &&Copy| {
            let promised = copy.promised.as_ref();
            promised.is_some_and(|promised| after.lsn < copy.complete.lsn || holds_next(promised))
        };
        // Whoever answers comes first, then whoever has most.
        let source = self
            .copies
            .values()
            .filter(idle)
            .filter(helps)
            .min_by_key(|copy| (copy.unanswered, std::cmp::Reverse(copy.complete.lsn)))
            .map(|copy| copy.member.segment);
        // None is idle, or none has it: another answer, another connection or the next tick calls again.
        if let Some(source) = source {
            let asked_at = context.now;
            self.fetching.insert(source, Fetch { target, asked_at });
            effects.push(OpeningEffect::Send {
                segment: source,
                request: Request::FetchBatches {
                    segment: source,
                    path: context.path.clone(),
                    after,
                    through: self.target(),
                    bytes_max: COPY_BYTES_MAX,
                },
            });
        }
    }

    /// Sources that have not answered for too long: whoever waits for their batches asks another.
    pub(super) fn give_up_fetches(&mut self, now: Duration) {
        let copies = &mut self.copies;
        self.fetching.retain(|source, fetch| {
            let waits = now < fetch.asked_at + ANSWER_LIMIT;
            if let Some(copy) = copies.get_mut(source).filter(|_| !waits) {
                copy.unanswered = copy.unanswered.saturating_add(1);
            }
            waits
        });
    }

    pub(super) fn fetched(
        &mut self,
        source: SegmentId,
        batches: Vec<EncodedBatch>,
        context: Context<'_>,
        effects: &mut Vec<OpeningEffect>,
    ) {
        let Some(fetch) = self.fetching.remove(&source) else {
            return;
        };
        if let Some(copy) = self.copies.get_mut(&source) {
            copy.unanswered = 0;
            if batches.is_empty() {
                copy.rest(context.now);
            }
        }
        if let Some(copy) = self.copies.get_mut(&fetch.target) {
            copy.incoming = batches.into();
        }
        self.send_next(fetch.target, context, effects);
    }

    /// A copy has what it was sent.
    pub(super) fn appended(
        &mut self,
        segment: SegmentId,
        complete: Position,
        context: Context<'_>,
        effects: &mut Vec<OpeningEffect>,
    ) {
        if let Some(copy) = self.copies.get_mut(&segment) {
            let before = copy.complete;
            copy.awaiting = false;
            // One that no longer vouches acknowledges nothing any more.
            copy.complete = if context.path.sees(complete) {
                complete
            } else {
                Position::ZERO
            };
            if copy.incoming.is_empty() && copy.complete.lsn <= before.lsn {
                copy.rest(context.now);
            }
        }
        self.send_next(segment, context, effects);
    }

    /// Copies go one after the other: the answer to the last tells how far the target is.
    fn send_next(&mut self, target: SegmentId, context: Context<'_>, effects: &mut Vec<OpeningEffect>) {
        let Some(copy) = self.copies.get_mut(&target) else {
            return;
        };
        if copy.awaiting || !copy.connected {
            return;
        }
        if let Some(batch) = copy.incoming.pop_front() {
            copy.awaiting = true;
            effects.push(OpeningEffect::Send {
                segment: target,
                request: Request::Append {
                    segment: target,
                    epoch: context.epoch,
                    durable: Position::ZERO,
                    batch,
                },
            });
        }
    }
}
