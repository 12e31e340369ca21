//! The whole: one state of the volume with everybody who works on it, and every step that can come next.
//!
//! The steps themselves stand with the nouns that take them: [`crate::opener`], [`crate::writer`], [`crate::membership`],
//! [`crate::segment`], `tails`.

use std::hash::Hash;

use crate::action::Action;
use crate::configuration::Configuration;
use crate::mistakes::Mistake;
use crate::names::{EPOCHS_MAX, Epoch, FlushSet, Lsn, Seat, Seats};
use crate::opener::{Opener, Phase};
use crate::record::{Membership, Record};
use crate::segment::Segment;
use crate::writer::Writer;

/// What is explored: a configuration, and perhaps one rule that is broken.
#[derive(Clone, Debug)]
pub struct Model {
    /// How many of everything.
    pub configuration: Configuration,
    /// The broken rule.
    pub mistake: Option<Mistake>,
}

/// One state of the world.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    /// The metadata store.
    pub record: Record,
    /// By epoch; the first epoch's never does anything.
    pub openers: [Opener; EPOCHS_MAX],
    /// By epoch.
    pub writers: [Writer; EPOCHS_MAX],
    /// By seat.
    pub segments: Vec<Segment>,
    /// The flushes that have a part in group 1. Every flush has one in group 0.
    pub wide: FlushSet,
    /// How many disks may still be replaced by empty ones: a mistake's.
    pub wipes_left: u8,
}

impl State {
    /// The segment in a seat.
    pub fn segment(&self, seat: Seat) -> &Segment {
        &self.segments[seat.index()]
    }

    pub(crate) fn segment_mut(&mut self, seat: Seat) -> &mut Segment {
        &mut self.segments[seat.index()]
    }

    /// The opener that took an epoch.
    pub fn opener(&self, epoch: Epoch) -> &Opener {
        &self.openers[epoch.index()]
    }

    pub(crate) fn opener_mut(&mut self, epoch: Epoch) -> &mut Opener {
        &mut self.openers[epoch.index()]
    }

    /// The lists that an opener works with.
    pub(crate) fn opener_membership(&self, epoch: Epoch) -> Membership {
        let membership = self.opener(epoch).membership;
        membership.expect("an opener at work has read the record")
    }

    /// The writer of an epoch.
    pub fn writer(&self, epoch: Epoch) -> &Writer {
        &self.writers[epoch.index()]
    }

    pub(crate) fn writer_mut(&mut self, epoch: Epoch) -> &mut Writer {
        &mut self.writers[epoch.index()]
    }

    /// The seats of the segments of which this is true.
    pub fn seats_where(&self, condition: impl Fn(&Segment) -> bool) -> Seats {
        let seats = (0..).map(Seat).zip(&self.segments);
        seats
            .filter(|(_, segment)| condition(segment))
            .map(|(seat, _)| seat)
            .collect()
    }

    /// The timeline that an epoch is concerned with, and how far: the one that it writes, or the one that it recovers.
    pub fn recovered_or_written(&self, epoch: Epoch) -> Option<(Epoch, Lsn)> {
        match self.opener(epoch).phase {
            Phase::Copying { candidate, .. } => Some((self.opener(epoch).parent, candidate)),
            Phase::Fencing => None,
            Phase::Idle => self.record.timeline(epoch).map(|_| (epoch, self.writer(epoch).sent)),
        }
    }

    /// Where the last flush with a part in group 1 ends, in a timeline's history up to an LSN.
    pub fn last_wide(&self, timeline: Epoch, through: Lsn) -> Lsn {
        let mut lsns = Lsn::ZERO.up_to(through).rev();
        let is_wide = |lsn: &Lsn| self.wide.contains(self.record.flush_at(timeline, *lsn));
        lsns.find(is_wide).unwrap_or_default()
    }
}

impl Model {
    /// A configuration with every rule in force.
    pub fn correct(configuration: Configuration) -> Model {
        Model {
            configuration,
            mistake: None,
        }
    }

    /// One rule broken, where that shows.
    pub fn with(mistake: Mistake) -> Model {
        Model {
            configuration: mistake.shows_in(),
            mistake: Some(mistake),
        }
    }

    /// A new volume, open in its first epoch.
    pub fn initial(&self) -> State {
        let members = self.configuration.group_0();
        let record = Record::new(members);
        let mut segments = vec![Segment::default(); self.configuration.every_seat().iter().count()];
        for seat in members.union(self.configuration.group_1()).iter() {
            segments[seat.index()] = Segment::born(Epoch::FIRST);
        }
        let mut writers = [Writer::default(); EPOCHS_MAX];
        writers[Epoch::FIRST.index()] = Writer::begin(&self.configuration, Epoch::FIRST, Lsn::ZERO, record.membership);
        State {
            record,
            openers: [Opener::default(); EPOCHS_MAX],
            writers,
            segments,
            wide: FlushSet::EMPTY,
            wipes_left: u8::from(self.mistake == Some(Mistake::EmptyDiskUnderItsOldName)),
        }
    }

    /// Every step that can be taken next.
    pub fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.opener_actions(state, actions);
        self.writer_actions(state, actions);
        self.membership_actions(state, actions);
        self.tail_actions(state, actions);
        self.segment_actions(state, actions);
    }

    fn segment_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for seat in self.configuration.every_seat().iter() {
            let segment = state.segment(seat);
            if !segment.unsynced.is_empty() {
                actions.push(Action::Sync { seat });
            }
            if !segment.unsynced.is_empty() || segment.journaled_promise < segment.promise {
                actions.push(Action::Restart { seat });
            }
            if 0 < state.wipes_left && segment.promise != Epoch::NONE {
                actions.push(Action::Wipe { seat });
            }
        }
    }

    /// The state after a step.
    pub fn next(&self, state: &State, action: Action) -> State {
        let mut next = state.clone();
        let state = &mut next;
        match action {
            Action::Take => self.take_epoch(state),
            Action::Promise { epoch, seat } => self.promise(state, epoch, seat),
            Action::Look { epoch, seat } => self.look(state, epoch, seat),
            Action::Decide { epoch, replaced } => self.decide(state, epoch, replaced),
            Action::Copy { epoch, seat, flush } => self.take(state, seat, epoch, flush),
            Action::Open { epoch, back_to } => self.open(state, epoch, back_to),
            Action::Send { epoch, wide } => self.send(state, epoch, wide),
            Action::Receive { seat, flush } => self.take(state, seat, flush.epoch, flush),
            Action::Sync { seat } => self.sync(state, seat),
            Action::Restart { seat } => state.segment_mut(seat).restart(),
            Action::Wipe { seat } => {
                state.segment_mut(seat).wipe();
                state.wipes_left -= 1;
            }
            Action::Acknowledge { epoch } => self.acknowledge(state, epoch),
            Action::LetGo { epoch, seat } => self.let_go(state, epoch, seat),
            Action::CountJointly { epoch } => self.count_jointly(state, epoch),
            Action::RecordJoint { epoch } => self.record_membership(state, epoch, self.joint()),
            Action::FindComplete { epoch } => state.writer_mut(epoch).new_member_complete = true,
            Action::RecordLast { epoch } => {
                let new = self.joint().joining.expect("both lists are there");
                self.record_membership(state, epoch, Membership::settled(new));
            }
            Action::Undo { epoch } => {
                let old = self.joint().current;
                self.record_membership(state, epoch, Membership::settled(old));
            }
            Action::CountRecorded { epoch } => self.count_recorded(state, epoch),
            Action::ControlRecords { membership } => self.control_records(state, membership),
        }
        next
    }

    /// Brings states that differ only in the names of interchangeable segments into one form. No rule asks for a segment's
    /// name, only for how many there are in a list; so one of them stands for all.
    pub fn canonical(&self, mut state: State) -> State {
        for class in self.configuration.interchangeable() {
            state.segments[class].sort_unstable();
        }
        state
    }
}
