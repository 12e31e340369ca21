//! Opening the volume, DESIGN §4.4 step by step. Every epoch but the first has one opener; any number of them are at work at
//! once, and none ever learns in time that it was overtaken: it only fails at its compare-and-swap.

use crate::action::Action;
use crate::mistakes::Mistake;
use crate::model::{Model, State};
use crate::names::{Epoch, Flush, FlushSet, LSNS_MAX, Lsn, Seat, Seats};
use crate::record::{Membership, Timeline};
use crate::segment::Segment;
use crate::writer::Writer;

/// How far an opener has come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Phase {
    /// Its epoch is not taken yet, or its timeline is open: the writer has taken over.
    #[default]
    Idle,
    /// Steps 2 and 3: it gathers promises with answers.
    Fencing,
    /// Steps 4 and 5: it brings a write quorum up to the candidate, then changes the record.
    Copying {
        /// The end of the log that will be.
        candidate: Lsn,
        /// Whether a flush above what was known to be durable names group 1.
        names_group_1: bool,
    },
}

/// What an opener remembers between its steps, apart from the replies of the segments.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Opener {
    /// How far it has come.
    pub phase: Phase,
    /// What the record said when the epoch was taken: the last opened timeline …
    pub parent: Epoch,
    /// … and the membership; once decided, the one that it will record.
    pub membership: Option<Membership>,
}

impl Model {
    /// Everything that openers can do in this state.
    pub(crate) fn opener_actions(&self, state: &State, actions: &mut Vec<Action>) {
        if usize::from(self.configuration.epochs) > state.record.taken.index() + 1 {
            actions.push(Action::Take);
        }
        for epoch in Epoch::up_to(state.record.taken) {
            match state.opener(epoch).phase {
                Phase::Idle => {}
                Phase::Fencing => {
                    let group_0 = state.opener_membership(epoch).everybody();
                    self.promise_actions(state, epoch, group_0, actions);
                    if self.finds_group_1(state, epoch) {
                        self.promise_actions(state, epoch, self.configuration.group_1(), actions);
                    }
                    self.decide_actions(state, epoch, actions);
                }
                Phase::Copying { candidate, .. } => {
                    self.copy_actions(state, epoch, candidate, actions);
                    self.open_actions(state, epoch, candidate, actions);
                }
            }
        }
    }

    /// Step 1: take the next epoch and read the record.
    pub(crate) fn take_epoch(&self, state: &mut State) {
        let parent = state.record.last_opened();
        state.record.taken = state.record.taken.next();
        *state.opener_mut(state.record.taken) = Opener {
            phase: Phase::Fencing,
            parent,
            membership: Some(state.record.membership),
        };
    }

    /// Step 2, and the late fence of step 6: a promise and what the segment holds.
    pub(crate) fn promise_actions(&self, state: &State, epoch: Epoch, seats: Seats, actions: &mut Vec<Action>) {
        for seat in seats.iter().filter(|seat| state.segment(*seat).accepts(epoch)) {
            let reply = state.segment(seat).told(epoch);
            if self.mistake == Some(Mistake::LookBeforeFencing) {
                match (reply.answer, reply.promised) {
                    (None, _) => actions.push(Action::Look { epoch, seat }),
                    (Some(_), false) => actions.push(Action::Promise { epoch, seat }),
                    (Some(_), true) => {}
                }
            } else if !reply.promised {
                actions.push(Action::Promise { epoch, seat });
            }
        }
    }

    pub(crate) fn promise(&self, state: &mut State, epoch: Epoch, seat: Seat) {
        let segment = state.segment_mut(seat);
        segment.promise(epoch, self.journals_promises());
        let held = segment.held;
        let reply = segment.tell(epoch);
        reply.promised = true;
        reply.answer.get_or_insert(held);
    }

    /// The mistake of looking first and fencing later (hole 6).
    pub(crate) fn look(&self, state: &mut State, epoch: Epoch, seat: Seat) {
        let segment = state.segment_mut(seat);
        segment.tell(epoch).answer = Some(segment.held);
    }

    /// Whether the promises that were heard stop every older writer.
    fn is_fenced(&self, state: &State, epoch: Epoch) -> bool {
        let promised = state.seats_where(|segment| segment.told(epoch).promised);
        let membership = state.opener_membership(epoch);
        let fence = match self.mistake {
            Some(Mistake::OnePromiseFewer) => self.configuration.fence - 1,
            _ => self.configuration.fence,
        };
        match self.mistake {
            Some(Mistake::OrFence) => membership.has_of_either(fence, promised),
            _ => membership.each(|list| self.configuration.is_fence(list, promised, fence)),
        }
    }

    /// Whether enough of group 1 have promised this epoch.
    pub(crate) fn is_group_1_fenced(&self, state: &State, epoch: Epoch) -> bool {
        let promised = state.seats_where(|segment| segment.told(epoch).promised);
        self.configuration.fence <= self.configuration.group_1().count_among(promised)
    }

    /// Everything that the answers of these seats contain.
    pub(crate) fn answered(&self, state: &State, epoch: Epoch, seats: Seats) -> FlushSet {
        let answers = seats.iter().filter_map(|seat| state.segment(seat).told(epoch).answer);
        answers.fold(FlushSet::EMPTY, FlushSet::union)
    }

    /// The highest LSN known to be durable on the last opened timeline: its branch, or announced with its epoch.
    fn known_durable(&self, state: &State, epoch: Epoch, answered: FlushSet) -> Lsn {
        let parent = state.opener(epoch).parent;
        let counts = |flush: &Flush| flush.epoch == parent || self.mistake == Some(Mistake::DurableLsnOfAnyEpoch);
        let announced = answered.iter().filter(counts);
        let announced = announced.map(|flush| state.writer(flush.epoch).announced_with(flush.lsn));
        announced.fold(state.record.branch(parent), Lsn::max)
    }

    /// Whether some answer names group 1 above what is known to be durable: then it is fenced in the same way.
    fn finds_group_1(&self, state: &State, epoch: Epoch) -> bool {
        let parent = state.opener(epoch).parent;
        let answered = self.answered(state, epoch, self.configuration.group_0());
        let durable = self.known_durable(state, epoch, answered);
        let mut names_it = answered.intersection(state.wide).iter();
        self.knows_parts() && names_it.any(|flush| flush.epoch == parent && durable < flush.lsn)
    }

    fn knows_parts(&self) -> bool {
        self.mistake != Some(Mistake::NoListOfParts)
    }

    /// Step 3: follows the flush headers upward to the first flush that misses a part. `None` while a group that they name is
    /// not fenced.
    fn candidate(&self, state: &State, epoch: Epoch) -> Option<Phase> {
        let parent = state.opener(epoch).parent;
        let headers = self.answered(state, epoch, self.configuration.group_0_and_spares());
        let parts = self.answered(state, epoch, self.configuration.group_1());
        let (mut candidate, mut names_group_1) = (self.known_durable(state, epoch, headers), false);
        for lsn in candidate.up_to(Lsn::ZERO.plus(LSNS_MAX as u8)) {
            let flush = Flush { epoch: parent, lsn };
            let of_any_epoch = self.mistake == Some(Mistake::CandidateOfAnyEpoch) && headers.contains_lsn(lsn);
            if !headers.contains(flush) && !of_any_epoch {
                break;
            }
            if state.wide.contains(flush) && self.knows_parts() {
                names_group_1 = true;
                if !self.is_group_1_fenced(state, epoch) {
                    return None;
                }
                if !parts.contains(flush) {
                    break;
                }
            }
            candidate = lsn;
        }
        Some(Phase::Copying {
            candidate,
            names_group_1,
        })
    }

    fn decide_actions(&self, state: &State, epoch: Epoch, actions: &mut Vec<Action>) {
        if self.is_fenced(state, epoch) && self.candidate(state, epoch).is_some() {
            actions.push(Action::Decide { epoch, replaced: None });
            // Outright replacement (hole 8): the old list is fenced, so nothing of it has to agree.
            if let Some((leaving, coming)) = self.configuration.replacement(epoch) {
                let list = state.opener_membership(epoch).current;
                if list.contains(leaving) && state.segment(coming).promise == Epoch::NONE {
                    let replaced = Some((leaving, coming));
                    actions.push(Action::Decide { epoch, replaced });
                }
            }
        }
    }

    /// The end of step 3. The answers have done their work; that they showed complete copies is all that is kept of them.
    pub(crate) fn decide(&self, state: &mut State, epoch: Epoch, replaced: Option<(Seat, Seat)>) {
        let phase = self.candidate(state, epoch);
        state.opener_mut(epoch).phase = phase.expect("only enabled with a candidate");
        for seat in state.seats_where(|segment| segment.told(epoch).answer.is_some()).iter() {
            let answer = state.segment(seat).told(epoch).answer.expect("it was asked for");
            let complete = self.complete(state, seat, answer, epoch);
            let reply = state.segment_mut(seat).tell(epoch);
            reply.complete = complete;
            if self.configuration.group_0_and_spares().contains(seat) {
                (reply.promised, reply.answer) = (false, None);
            }
        }
        if let Some((leaving, coming)) = replaced {
            *state.segment_mut(coming) = Segment::born(epoch);
            let list = state.opener_membership(epoch).current.with_replaced(leaving, coming);
            state.opener_mut(epoch).membership = Some(Membership::settled(list));
        }
    }

    /// Step 4, one batch at a time. A segment that has everything already says so when it is sent something again.
    fn copy_actions(&self, state: &State, epoch: Epoch, candidate: Lsn, actions: &mut Vec<Action>) {
        let mut seats = state.opener_membership(epoch).everybody();
        if matches!(
            state.opener(epoch).phase,
            Phase::Copying {
                names_group_1: true,
                ..
            }
        ) {
            seats = seats.union(self.configuration.group_1());
        }
        let parent = state.opener(epoch).parent;
        for seat in seats.iter().filter(|seat| state.segment(*seat).accepts(epoch)) {
            if state.segment(seat).told(epoch).complete < candidate {
                self.catch_up_actions(state, epoch, parent, candidate, seat, actions);
            }
        }
    }

    /// Sends a segment what it lacks of a history up to an LSN, from peers that have it.
    pub(crate) fn catch_up_actions(
        &self,
        state: &State,
        epoch: Epoch,
        timeline: Epoch,
        through: Lsn,
        seat: Seat,
        actions: &mut Vec<Action>,
    ) {
        let before = actions.len();
        let mut newest = None;
        for lsn in Lsn::ZERO.up_to(through) {
            let mut flush = state.record.flush_at(timeline, lsn);
            if self.mistake == Some(Mistake::CandidateOfAnyEpoch) {
                let taken_for_it = epoch.below().map(|epoch| Flush { epoch, lsn });
                let there = |flush: &Flush| state.segments.iter().any(|segment| segment.held.contains(*flush));
                flush = taken_for_it.rev().find(there).unwrap_or(flush);
            }
            if !self.configuration.in_group_0(seat) && !state.wide.contains(flush) {
                continue;
            }
            newest = Some(flush);
            let given = || state.segments.iter().any(|segment| segment.gives(flush));
            if !state.segment(seat).has(flush) && (self.configuration.tails == 0 || given()) {
                actions.push(Action::Copy { epoch, seat, flush });
            }
        }
        let says_so = |flush: &Flush| {
            let segment = state.segment(seat);
            segment.unsynced.is_empty() && segment.told(epoch).complete < flush.lsn
        };
        if actions.len() == before
            && let Some(flush) = newest.filter(says_so)
        {
            actions.push(Action::Copy { epoch, seat, flush });
        }
    }

    /// Whether every group that the candidate needs has a write quorum of complete copies.
    fn is_copied(&self, state: &State, epoch: Epoch, candidate: Lsn) -> bool {
        if self.mistake == Some(Mistake::SkippedCopying) {
            return true;
        }
        let complete = |through: Lsn| state.seats_where(|segment| through <= segment.told(epoch).complete);
        let write = self.configuration.write;
        let is_durable = |list| self.configuration.is_durable(list, complete(candidate));
        if !state.opener_membership(epoch).each(is_durable) {
            return false;
        }
        match state.opener(epoch).phase {
            Phase::Copying {
                names_group_1: true, ..
            } => {
                let last = state.last_wide(state.opener(epoch).parent, candidate);
                write <= self.configuration.group_1().count_among(complete(last))
            }
            _ => true,
        }
    }

    fn open_actions(&self, state: &State, epoch: Epoch, candidate: Lsn, actions: &mut Vec<Action>) {
        // The compare-and-swap: by the holder of the taken epoch, on what it read. If it is refused, nothing happens.
        let unchanged = state.record.taken == epoch || self.mistake == Some(Mistake::NoCheckOfRecord);
        if !unchanged || !self.is_copied(state, epoch, candidate) {
            return;
        }
        actions.push(Action::Open { epoch, back_to: None });
        if self.configuration.backtrack {
            let parent = state.opener(epoch).parent;
            for (timeline, opened) in state.record.opened() {
                let end = if timeline == parent {
                    Some(candidate)
                } else {
                    opened.end
                };
                let ends_there = |lsn: Lsn| timeline == parent && lsn == candidate;
                for lsn in Lsn::ZERO.up_to(end.unwrap_or_default()).chain([Lsn::ZERO]) {
                    if !ends_there(lsn) {
                        let back_to = Some((timeline, lsn));
                        actions.push(Action::Open { epoch, back_to });
                    }
                }
            }
        }
    }

    /// Step 5, the moment of truth: new timeline, seal of the left one, replaced membership.
    pub(crate) fn open(&self, state: &mut State, epoch: Epoch, back_to: Option<(Epoch, Lsn)>) {
        let Opener { phase, parent, .. } = *state.opener(epoch);
        let membership = state.opener_membership(epoch);
        let Phase::Copying { candidate, .. } = phase else {
            unreachable!("only enabled once there is a candidate")
        };
        if let Some(left) = &mut state.record.timelines[parent.index()] {
            left.end = Some(candidate);
        }
        let (parent, branch) = back_to.unwrap_or((parent, candidate));
        state.record.timelines[epoch.index()] = Some(Timeline {
            parent,
            branch,
            end: None,
            backtracks: back_to.is_some(),
        });
        state.record.membership = membership;
        if back_to.is_some() {
            // What was complete on the timeline that was left says nothing about the one that begins.
            for segment in &mut state.segments {
                segment.tell(epoch).complete = Lsn::ZERO;
            }
        }
        *state.opener_mut(epoch) = Opener::default();
        *state.writer_mut(epoch) = Writer::begin(&self.configuration, epoch, branch, membership);
    }
}
