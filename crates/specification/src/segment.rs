//! One of the copies: what it holds, what it promised, and what it has told the openers and writers.
//!
//! A segment has no opinion: it takes whatever the newest epoch that it knows of sends, in any order and any number of times,
//! and refuses everything older. Its messages stand beside it, in [`Reply`]: what an answer says was true when it was sent, and
//! stays a fact; that it is late, lost or overtaken only means that whoever it is for acts later, or never.
//!
//! Invariants:
//! - A promise and the answer to it are one step, and both are synced before anybody hears of them.
//! - `complete` counts an unbroken prefix, never single batches.

use crate::mistakes::Mistake;
use crate::model::{Model, State};
use crate::names::{EPOCHS_MAX, Epoch, Flush, FlushSet, Lsn, Seat};

/// What the opener or writer of one epoch has heard from a segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Reply {
    /// That it promised the epoch.
    pub promised: bool,
    /// What it held when it answered; forgotten once the opener has decided.
    pub answer: Option<FlushSet>,
    /// How far it is complete on the timeline that the epoch recovers or writes.
    pub complete: Lsn,
}

/// A segment. Ordered, so that states which differ only in the names of segments can be brought into one form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Segment {
    /// The epoch below which it refuses everything; [`Epoch::NONE`] as long as the segment does not exist.
    pub promise: Epoch,
    /// The promise as it stands in the journal: what is left of it after a restart.
    pub journaled_promise: Epoch,
    /// The highest promise that it ever gave to anybody. Nobody reads it but a property.
    pub told_promise: Epoch,
    /// The batches in its journal, synced.
    pub held: FlushSet,
    /// The batches that a restart takes away.
    pub unsynced: FlushSet,
    /// Of what it holds, what a tail has let go: it still knows that it had it, and cannot give it any more.
    pub gone: FlushSet,
    /// What it has told each epoch.
    pub replies: [Reply; EPOCHS_MAX],
}

impl Segment {
    /// A segment without content whose first promise is its creator's epoch.
    pub fn born(creator: Epoch) -> Segment {
        Segment {
            promise: creator,
            journaled_promise: creator,
            told_promise: creator,
            ..Segment::default()
        }
    }

    /// Whether it exists and takes messages of this epoch.
    pub fn accepts(&self, epoch: Epoch) -> bool {
        self.promise != Epoch::NONE && self.promise <= epoch
    }

    /// Whether it has received the batch since its last restart, or synced it before that.
    pub fn has(&self, flush: Flush) -> bool {
        self.held.union(self.unsynced).contains(flush)
    }

    /// Whether it can give the batch to others.
    pub fn gives(&self, flush: Flush) -> bool {
        self.held.contains(flush) && !self.gone.contains(flush)
    }

    /// What the opener or writer of this epoch has heard.
    pub fn told(&self, epoch: Epoch) -> &Reply {
        &self.replies[epoch.index()]
    }

    /// The same, to be changed.
    pub fn tell(&mut self, epoch: Epoch) -> &mut Reply {
        &mut self.replies[epoch.index()]
    }

    /// Refuses everything below `epoch` from now on. One journal: what was received before is synced with it.
    pub fn promise(&mut self, epoch: Epoch, journaled: bool) {
        self.promise = epoch;
        if journaled {
            self.journaled_promise = epoch;
            self.held = self.held.union(self.unsynced);
            self.unsynced = FlushSet::EMPTY;
        }
        self.told_promise = self.told_promise.max(epoch);
    }

    /// Power goes and comes back.
    pub fn restart(&mut self) {
        self.unsynced = FlushSet::EMPTY;
        self.promise = self.journaled_promise;
    }

    /// The disk is replaced by an empty one, and the segment goes on as if it were the same: a mistake (hole 5).
    pub fn wipe(&mut self) {
        self.held = FlushSet::EMPTY;
        self.unsynced = FlushSet::EMPTY;
        self.promise = Epoch::FIRST;
        self.journaled_promise = Epoch::FIRST;
    }
}

impl Model {
    /// A batch arrives under `sender`'s epoch: its own flush, or an older one that it copies. An accepted message raises the
    /// promise, since every message carries the path of its epoch's timeline.
    pub(crate) fn take(&self, state: &mut State, seat: Seat, sender: Epoch, flush: Flush) {
        let segment = state.segment_mut(seat);
        assert!(segment.accepts(sender));
        if segment.promise < sender {
            segment.promise(sender, self.journals_promises());
        }
        if self.configuration.restarts {
            segment.unsynced.insert(flush);
            if self.mistake == Some(Mistake::AcknowledgeBeforeSync) {
                let received = segment.held.union(segment.unsynced);
                self.acknowledge_prefix(state, seat, received);
            }
        } else {
            // Received and synced in one step: what is lost before its sync was never received, as far as anybody can tell.
            segment.held.insert(flush);
            let held = segment.held;
            self.acknowledge_prefix(state, seat, held);
        }
    }

    /// The journal is synced, and the sender of what was in it hears of it.
    pub(crate) fn sync(&self, state: &mut State, seat: Seat) {
        let segment = state.segment_mut(seat);
        segment.held = segment.held.union(segment.unsynced);
        segment.unsynced = FlushSet::EMPTY;
        let held = segment.held;
        self.acknowledge_prefix(state, seat, held);
    }

    /// Tells the epoch that the segment follows how far it is complete on that epoch's timeline.
    fn acknowledge_prefix(&self, state: &mut State, seat: Seat, held: FlushSet) {
        let epoch = state.segment(seat).promise;
        let complete = self.complete(state, seat, held, epoch);
        let reply = state.segment_mut(seat).tell(epoch);
        reply.complete = reply.complete.max(complete);
    }

    /// How far a segment that holds this much is complete on the timeline that `epoch` writes, or on the one that it recovers.
    pub(crate) fn complete(&self, state: &State, seat: Seat, held: FlushSet, epoch: Epoch) -> Lsn {
        let Some((timeline, through)) = state.recovered_or_written(epoch) else {
            return Lsn::ZERO;
        };
        let by_lsn_alone = match self.mistake {
            Some(Mistake::LinksByLsnAlone) => true,
            Some(Mistake::CandidateOfAnyEpoch) => timeline != epoch,
            _ => false,
        };
        let in_every_flush = self.configuration.in_group_0(seat);
        let mut complete = Lsn::ZERO;
        for lsn in Lsn::ZERO.up_to(through) {
            let flush = state.record.flush_at(timeline, lsn);
            if !in_every_flush && !state.wide.contains(flush) {
                continue;
            }
            let has_it = held.contains(flush) || (by_lsn_alone && held.contains_lsn(lsn));
            if !has_it {
                break;
            }
            complete = lsn;
        }
        complete
    }

    /// Whether a promise stands in the journal before it is given.
    pub(crate) fn journals_promises(&self) -> bool {
        self.mistake != Some(Mistake::ForgottenPromise)
    }
}
