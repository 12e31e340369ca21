//! Replacing one member of group 0 while the volume is open (DESIGN §4.5).
//!
//! Only the holder of the epoch changes the membership. It counts by both lists **before** the record says so, and until
//! **after** the record has stopped saying so. The last step waits until the new member was found complete up to the durable LSN
//! of some moment since then. A change that was undone and begun again begins with nothing.

use crate::action::Action;
use crate::mistakes::Mistake;
use crate::model::{Model, State};
use crate::names::{Epoch, Seats};
use crate::record::Membership;
use crate::segment::Segment;

impl Model {
    /// Everything that can happen to the membership in this state.
    pub(crate) fn membership_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let Some((old, new)) = self.configuration.change() else {
            return;
        };
        if self.mistake == Some(Mistake::ControlDrivenMembership) {
            return self.control_actions(state, old, new, actions);
        }
        for (epoch, _) in state.record.opened() {
            let writer = state.writer(epoch);
            let counts = writer.counts.expect("an open reign counts by some list");
            let recorded = writer.recorded.expect("an open reign knows what it recorded");
            // Bound to the epoch: once somebody took the next one, the record is frozen for everybody else.
            let may_change = (state.record.taken == epoch || self.mistake == Some(Mistake::UnboundMembershipChange))
                && state.record.membership == recorded;
            if counts == Membership::settled(old) && recorded == counts {
                actions.push(Action::CountJointly { epoch });
            }
            if counts.joining.is_some() && recorded == Membership::settled(old) && may_change {
                actions.push(Action::RecordJoint { epoch });
            }
            if recorded.joining.is_some() && !writer.new_member_complete && self.is_new_member_complete(state, epoch) {
                actions.push(Action::FindComplete { epoch });
            }
            if recorded.joining.is_some() && may_change {
                if writer.new_member_complete {
                    actions.push(Action::RecordLast { epoch });
                }
                actions.push(Action::Undo { epoch });
            }
            if counts.joining.is_some() && recorded.joining.is_none() {
                actions.push(Action::CountRecorded { epoch });
            }
        }
    }

    /// Whether the new member holds everything that was acknowledged until now. What is acknowledged after this moment is on a
    /// write quorum of both lists.
    fn is_new_member_complete(&self, state: &State, epoch: Epoch) -> bool {
        let (_, coming) = self.configuration.joining_seats();
        let complete = state.segment(coming).told(epoch).complete;
        self.mistake == Some(Mistake::LastStepTooEarly) || state.writer(epoch).acknowledged <= complete
    }

    /// The new member is made, with its creator's epoch as promise (hole 9), and both lists count from now on.
    pub(crate) fn count_jointly(&self, state: &mut State, epoch: Epoch) {
        let (_, coming) = self.configuration.joining_seats();
        let segment = state.segment_mut(coming);
        if segment.promise == Epoch::NONE {
            *segment = Segment::born(epoch);
        } else if segment.accepts(epoch) {
            segment.promise(epoch, true);
        }
        let forgets = self.mistake != Some(Mistake::CompletenessKeptOverUndo);
        let writer = state.writer_mut(epoch);
        writer.counts = Some(self.joint());
        writer.new_member_complete &= !forgets;
    }

    /// A compare-and-swap of the membership by a writer.
    pub(crate) fn record_membership(&self, state: &mut State, epoch: Epoch, membership: Membership) {
        state.record.membership = membership;
        state.writer_mut(epoch).recorded = Some(membership);
    }

    pub(crate) fn count_recorded(&self, state: &mut State, epoch: Epoch) {
        let writer = state.writer_mut(epoch);
        writer.counts = writer.recorded;
    }

    /// Both lists.
    pub(crate) fn joint(&self) -> Membership {
        let (old, new) = self
            .configuration
            .change()
            .expect("only asked where a member is replaced");
        Membership {
            current: old,
            joining: Some(new),
        }
    }

    /// The mistake: the control plane changes the list by itself, and writers keep counting by what they know (hole 7a). It
    /// even waits until the new member has what was acknowledged by then.
    fn control_actions(&self, state: &State, old: Seats, new: Seats, actions: &mut Vec<Action>) {
        let membership = state.record.membership;
        if membership == Membership::settled(old) {
            let membership = self.joint();
            actions.push(Action::ControlRecords { membership });
        }
        let (_, coming) = self.configuration.joining_seats();
        let last = state.record.last_opened();
        let through = state.writer(last).acknowledged;
        if membership.joining.is_some() && state.segment(coming).held.includes(state.record.history(last, through)) {
            let membership = Membership::settled(new);
            actions.push(Action::ControlRecords { membership });
        }
    }

    pub(crate) fn control_records(&self, state: &mut State, membership: Membership) {
        let (_, coming) = self.configuration.joining_seats();
        if state.segment(coming).promise == Epoch::NONE {
            *state.segment_mut(coming) = Segment::born(state.record.taken);
        }
        state.record.membership = membership;
    }
}
