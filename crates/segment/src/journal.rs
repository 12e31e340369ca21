//! What of a segment is in its shell's journal: synced, kept, no longer needed, or not taken.

use bytes::Bytes;
use units::{GroupId, Position};
use wire_format::message::Refusal;

use crate::chain::LOG_KEPT_BYTES;
use crate::copying::higher;
use crate::{Effect, Segment, SegmentState};

impl Segment {
    /// The shell synced everything journaled so far: reads may rely on it.
    pub fn synced(&mut self) {
        self.readable = self.complete;
        self.recyclable = self.state.complete;
        self.floor_synced = self.floor_kept;
        self.let_go_synced = self.state.let_go;
        self.forget_what_peers_let_go();
    }

    /// Has the shell journal the state.
    pub(crate) fn keep_state(&mut self, effects: &mut Vec<Effect>) {
        self.floor_kept = self.state.floor;
        effects.push(Effect::KeepState(self.state.encode()));
    }

    /// Whether the shell's journal is over its limit. A copy that will never acknowledge anything again then takes no more
    /// log: nothing of it could ever be recycled.
    pub fn set_crowded(&mut self, crowded: bool) {
        self.crowded = crowded;
    }

    /// Log that is of no use, once there is no room for it.
    pub(crate) fn require_room(&self) -> Result<(), Refusal> {
        let what = match (self.crowded, self.vouches, self.is_stranded() || self.state.copying) {
            (true, false, _) => "the journal is full of log of a damaged copy",
            (true, true, true) => "the journal is full, and this copy lacks log that its peers no longer have",
            _ => return Ok(()),
        };
        Err(Refusal::Stopped { what: what.to_owned() })
    }

    /// Forgets the links of batches up to `through`: no peer will ask for them. What is not complete, synced and durable
    /// stays, and so does the end of group 0's log. The effect journals that the segment is complete without them, and the floor.
    /// Answers with how far the journal may recycle batches: as far as a synced state says so. Before that a power cut would
    /// leave a state that needs batches which are gone.
    pub fn forget(&mut self, through: Position, effects: &mut Vec<Effect>) -> Position {
        let bounds = [through, self.readable_here(), self.durable_here()];
        let bound = bounds
            .into_iter()
            .min_by_key(|position| position.lsn)
            .expect("there are three");
        let forgotten = self.state.path.reach(self.chain.forgotten());
        if self.state.path.sees(bound) && forgotten.lsn < bound.lsn {
            let kept_bytes = if self.state.group == GroupId::FIRST {
                LOG_KEPT_BYTES
            } else {
                0
            };
            self.chain.forget(bound, kept_bytes, &self.state.path);
        }
        let lets_go = self.let_log_go();
        // Not what it was just now: the journal may not have taken the state that said so.
        if lets_go || self.state.complete != self.chain.forgotten() || self.state.floor != self.floor_kept {
            self.state.complete = self.chain.forgotten();
            self.settle();
            self.keep_state(effects);
        }
        self.recyclable
    }

    /// How far the journal may go without what this segment has in it. Of a copy that only the layers of peers can bring further that
    /// is everything durable, once there is no room: a pass brings that again, and others share the journal. What is not known to be
    /// durable stays: an opener may look for it here. No link is kept of what may go.
    ///
    /// First a synced state has to say that it is complete without the batches that it is complete with: nobody brings those again.
    pub fn journal_unneeded_through(&mut self) -> Position {
        let durable = self.durable_here();
        if !self.crowded || !self.wants_layers() || durable.lsn <= self.recyclable.lsn {
            return self.recyclable;
        }
        if self.recyclable.lsn < self.complete.lsn {
            let readable = self.readable_here();
            let bound = if readable.lsn < durable.lsn { readable } else { durable };
            // [`Segment::forget`] journals the state that says so.
            self.chain.forget(bound, 0, &self.state.path);
            return self.recyclable;
        }
        self.chain.forget_above(self.complete, durable, &self.state.path);
        durable
    }

    /// The journal did not take what the last steps asked for: back to `state`, the last one it has, and without these
    /// batches. None of the answers of those steps may leave.
    pub fn roll_back(&mut self, state: SegmentState, batches: &[Position]) {
        for batch in batches {
            self.chain.remove(*batch);
        }
        self.floor_kept = state.floor;
        let before = std::mem::replace(&mut self.state, state);
        // What is durable stays so, and links below it may be forgotten.
        self.hear_durable(before.durable);
        // The layers of a pass stay, and so does what they lack.
        self.state.reads_from = higher(self.state.reads_from, before.reads_from);
        if self.state.path.sees(before.floor) && self.state.path.reach(self.state.floor).lsn < before.floor.lsn {
            self.state.floor = before.floor;
        }
        self.complete = self.readable;
        self.settle();
    }

    /// The state as it would be journaled now.
    pub fn state(&self) -> Bytes {
        self.state.encode()
    }
}
