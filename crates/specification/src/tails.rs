//! Members that keep log only (hole 29).
//!
//! The holder of the epoch hears how far every full copy is complete, and tells the tails. What is durable and on every full
//! copy they let go: whoever opens the volume later has a full copy among those that promise.

use crate::action::Action;
use crate::mistakes::Mistake;
use crate::model::{Model, State};
use crate::names::{Epoch, FlushSet, Lsn, Seat};

impl Model {
    /// What tails can do in this state.
    pub(crate) fn tail_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (epoch, _) in state.record.opened() {
            for seat in self.configuration.tails().iter() {
                let segment = state.segment(seat);
                let goes = self.unwanted(state, epoch, seat);
                if segment.promise == epoch && !segment.gone.includes(goes) {
                    actions.push(Action::LetGo { epoch, seat });
                }
            }
        }
    }

    /// What of a tail's log nobody will ask it for, as the writer of this epoch knows.
    fn unwanted(&self, state: &State, epoch: Epoch, seat: Seat) -> FlushSet {
        let durable = state.writer(epoch).acknowledged;
        let full = self.configuration.group_0().without(self.configuration.tails());
        let complete = full.iter().map(|seat| state.segment(seat).told(epoch).complete);
        let on_every_full = match self.mistake {
            Some(Mistake::LetGoTooEarly) => durable,
            _ => complete.min().unwrap_or(Lsn::ZERO),
        };
        let history = state.record.history(epoch, durable.min(on_every_full));
        history.intersection(state.segment(seat).held)
    }

    pub(crate) fn let_go(&self, state: &mut State, epoch: Epoch, seat: Seat) {
        let goes = self.unwanted(state, epoch, seat);
        let segment = state.segment_mut(seat);
        segment.gone = segment.gone.union(goes);
    }
}
