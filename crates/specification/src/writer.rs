//! A reign: flushes are sent to everybody, counted by complete prefixes, acknowledged. A writer never dies: one that was
//! replaced goes on as a zombie, for ever.

use crate::action::Action;
use crate::configuration::Configuration;
use crate::mistakes::Mistake;
use crate::model::{Model, State};
use crate::names::{Epoch, Flush, LSNS_MAX, Lsn};
use crate::record::Membership;

/// What a writer remembers, apart from the replies of the segments.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Writer {
    /// Where its last flush ends.
    pub sent: Lsn,
    /// The volume durable LSN: commits up to here are acknowledged, readers are shown up to here.
    pub acknowledged: Lsn,
    /// The durable LSN that was announced with each flush.
    announced: [Lsn; LSNS_MAX],
    /// The lists by which it counts group 0.
    pub counts: Option<Membership>,
    /// The membership that it recorded last, or found when it opened the volume.
    pub recorded: Option<Membership>,
    /// Whether the new member was found complete since both lists count.
    pub new_member_complete: bool,
    /// Whether its first batch to group 1 was linked to another one than the last of the history.
    pub misled: bool,
}

impl Writer {
    /// A reign that begins at a branch: what lies below is durable.
    pub fn begin(configuration: &Configuration, epoch: Epoch, branch: Lsn, membership: Membership) -> Writer {
        Writer {
            // A flush that nobody received might as well not have been sent. So where it makes no difference when one is sent
            // and what is in it, all are on their way from the beginning.
            sent: match configuration.sends_one_by_one() {
                true => branch,
                false => branch.plus(configuration.flushes_of(epoch)),
            },
            acknowledged: branch,
            counts: Some(membership),
            recorded: Some(membership),
            ..Writer::default()
        }
    }

    /// The durable LSN that its flush at this LSN carries.
    pub fn announced_with(&self, lsn: Lsn) -> Lsn {
        self.announced[usize::from(lsn.count()) - 1]
    }
}

impl Model {
    /// Everything that writers can do in this state, and what their messages can.
    pub(crate) fn writer_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (epoch, timeline) in state.record.opened() {
            let writer = state.writer(epoch);
            let last = timeline.branch.plus(self.configuration.flushes_of(epoch));
            if writer.sent < last {
                self.send_actions(state, epoch, actions);
            }
            for lsn in timeline.branch.up_to(writer.sent) {
                self.receive_actions(state, Flush { epoch, lsn }, actions);
            }
            if self.may_acknowledge(state, epoch) {
                actions.push(Action::Acknowledge { epoch });
            }
            if self.configuration.repair && timeline.branch != Lsn::ZERO {
                self.repair_actions(state, epoch, timeline.branch, actions);
            }
        }
    }

    fn send_actions(&self, state: &State, epoch: Epoch, actions: &mut Vec<Action>) {
        actions.push(Action::Send { epoch, wide: false });
        if self.configuration.groups == 2 {
            let skips_fence = self.mistake == Some(Mistake::NoLateFence);
            if self.has_used_group_1(state, epoch) || self.is_group_1_fenced(state, epoch) || skips_fence {
                actions.push(Action::Send { epoch, wide: true });
            } else {
                self.promise_actions(state, epoch, self.configuration.group_1(), actions);
            }
        }
    }

    /// Whether this reign has sent a batch to group 1. The first reign made the group: there is nobody to fence.
    fn has_used_group_1(&self, state: &State, epoch: Epoch) -> bool {
        epoch == Epoch::FIRST || state.wide.iter().any(|flush| flush.epoch == epoch)
    }

    /// The next flush goes out. It carries the durable LSN of this moment; if it is the first one with a part in group 1, that
    /// part links to the last batch that the answers of the late fence show.
    pub(crate) fn send(&self, state: &mut State, epoch: Epoch, wide: bool) {
        let lsn = state.writer(epoch).sent.next();
        if wide && !self.has_used_group_1(state, epoch) {
            let branch = state.record.branch(epoch);
            let shown = self.answered(state, epoch, self.configuration.group_1());
            let visible = shown.intersection(state.record.history(epoch, branch));
            let linked = visible.iter().map(|flush| flush.lsn).max().unwrap_or_default();
            state.writer_mut(epoch).misled = linked != state.last_wide(epoch, branch);
            for seat in self.configuration.group_1().iter() {
                let reply = state.segment_mut(seat).tell(epoch);
                (reply.promised, reply.answer) = (false, None);
            }
        }
        if wide {
            state.wide.insert(Flush { epoch, lsn });
        }
        let writer = state.writer_mut(epoch);
        writer.sent = lsn;
        if self.configuration.announcements {
            writer.announced[usize::from(lsn.count()) - 1] = writer.acknowledged;
        }
    }

    /// Any message may arrive at any later time, in any order, again, or never.
    fn receive_actions(&self, state: &State, flush: Flush, actions: &mut Vec<Action>) {
        let mut seats = self.configuration.group_0_and_spares();
        if state.wide.contains(flush) {
            seats = seats.union(self.configuration.group_1());
        }
        for seat in seats.iter() {
            let segment = state.segment(seat);
            if segment.accepts(flush.epoch) && !segment.has(flush) {
                actions.push(Action::Receive { seat, flush });
            }
        }
    }

    /// Whether every group is complete up to the next flush, as far as the writer has heard.
    fn may_acknowledge(&self, state: &State, epoch: Epoch) -> bool {
        let writer = state.writer(epoch);
        let lsn = writer.acknowledged.next();
        if writer.sent < lsn {
            return false;
        }
        let write = self.configuration.write;
        let complete = |through: Lsn| state.seats_where(|segment| through <= segment.told(epoch).complete);
        let counts = writer.counts.expect("an open reign counts by some list");
        if !counts.each(|list| self.configuration.is_durable(list, complete(lsn))) {
            return false;
        }
        let last = state.last_wide(epoch, lsn);
        last <= state.record.branch(epoch) || write <= self.configuration.group_1().count_among(complete(last))
    }

    pub(crate) fn acknowledge(&self, state: &mut State, epoch: Epoch) {
        let writer = state.writer_mut(epoch);
        writer.acknowledged = writer.acknowledged.next();
    }

    /// A copy that slept, or is new, is brought up to the branch by its peers.
    fn repair_actions(&self, state: &State, epoch: Epoch, branch: Lsn, actions: &mut Vec<Action>) {
        for seat in self.configuration.every_seat().iter() {
            let segment = state.segment(seat);
            if segment.accepts(epoch) && segment.told(epoch).complete < branch {
                self.catch_up_actions(state, epoch, epoch, branch, seat, actions);
            }
        }
    }
}
