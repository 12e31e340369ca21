//! Opening the volume: from whatever the last reign left to a new one (DESIGN §4.4).
//!
//! The epoch was taken before, so nobody else can change the record. The steps: fence group 0 and hear what it holds;
//! follow the chain of flushes from the highest durable position to its end; bring a write quorum up to it; record the new
//! timeline; install it; read the engine's marks. Dying anywhere before the record is changed leaves only a used-up epoch.

mod candidate;
mod copying;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use quorum::{COPIES_COUNT, Membership};
use timeline::{Branch, Path};
use units::{Epoch, GroupId, Lsn, Position, SegmentId};
use wire_format::Member;
use wire_format::message::{Promised, Refusal, Request, Response};

use candidate::Candidate;
use copying::{Copy, Fetch};

use crate::record::{RecordError, VolumeRecord};

/// How long more than three answers are waited for: the more answer, the fewer copies have to be made.
const ALL_ANSWERS_PAUSE: Duration = Duration::from_millis(20);
/// How long a copy that refused something is left alone; others are asked meanwhile.
const REFUSAL_PAUSE: Duration = Duration::from_millis(50);
/// How long a copy may think about batches or marks before another one is asked: its reading threads may hang although it
/// promises and acknowledges.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// What the shell has to do.
#[derive(Clone, PartialEq, Debug)]
pub enum OpeningEffect {
    /// Ask the copy's node; the answer comes back through [`Opening::response`].
    Send {
        /// The copy.
        segment: SegmentId,
        /// What.
        request: Request,
    },
    /// Change the record, if it is still what it was; the outcome comes back through [`Opening::recorded`]. An unknown
    /// outcome is resolved by reading the record again.
    CompareAndSwap(VolumeRecord),
    /// The volume is open.
    Opened(Box<Opened>),
}

/// An open volume.
#[derive(Clone, PartialEq, Debug)]
pub struct Opened {
    /// The record as it is now.
    pub record: VolumeRecord,
    /// The path of timelines, this reign last.
    pub path: Path,
    /// Group 0's copies.
    pub members: Vec<Member>,
    /// The recovered end: the reign begins here.
    pub branch: Lsn,
    /// The last flush of the history: the first one of this reign links to it.
    pub last: Position,
    /// The engine's marks as of the branch.
    pub marks: Bytes,
}

/// Why the volume was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpeningError {
    /// Another opener took a later epoch. Only if it dies is there anything left to do.
    #[error("epoch {by} was taken meanwhile: another instance is opening the volume")]
    Superseded {
        /// The later epoch.
        by: Epoch,
    },
    /// A copy knows a timeline that the record does not.
    #[error(
        "a storage node knows the timeline of epoch {found}, but the metadata store ends with epoch {recorded}: the store \
         went back in time; put its newest file back (DIR/control/metadata.redb)"
    )]
    RecordOutdated {
        /// What the copy knows.
        found: Epoch,
        /// What the record has.
        recorded: Epoch,
    },
    /// The record is no record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A flush names a group that this build cannot recover.
    #[error("flush {flush} has a part in group {group}, but recovery of several groups is not supported yet")]
    Groups {
        /// The flush.
        flush: Position,
        /// The group.
        group: GroupId,
    },
    /// The record changed although this opener holds the epoch.
    #[error("the volume's record was changed by somebody else")]
    Conflict,
}

#[derive(Debug)]
enum Phase {
    /// Waiting for promises; since when there are enough.
    Promising {
        enough_since: Option<Duration>,
    },
    /// Bringing a write quorum up to the candidate.
    Copying,
    /// Waiting for the record.
    Recording,
    /// Waiting for a complete copy that knows the path, and for the marks.
    Installing {
        path: Path,
        record: VolumeRecord,
        /// Who was asked for the marks, and when.
        asked: Option<(SegmentId, Duration)>,
    },
    Done,
}

/// One attempt to open the volume.
#[derive(Debug)]
pub struct Opening {
    epoch: Epoch,
    record: VolumeRecord,
    path: Path,
    membership: Membership,
    copies: BTreeMap<SegmentId, Copy>,
    phase: Phase,
    candidate: Candidate,
    /// What sources were asked for.
    fetching: BTreeMap<SegmentId, Fetch>,
    /// The time, as of the last tick or answer.
    now: Duration,
}

impl Opening {
    /// Begins, with the epoch taken and the record read after that.
    pub fn new(epoch: Epoch, record: VolumeRecord) -> Result<Opening, OpeningError> {
        let path = record.path()?;
        let members = record.members();
        let membership = Membership::new(members.iter().map(|member| member.segment).collect());
        Ok(Opening {
            epoch,
            candidate: Candidate::start_of(&path),
            membership,
            copies: members
                .into_iter()
                .map(|member| (member.segment, Copy::new(member)))
                .collect(),
            phase: Phase::Promising { enough_since: None },
            fetching: BTreeMap::new(),
            now: Duration::ZERO,
            record,
            path,
        })
    }

    /// The copies to connect to.
    pub fn members(&self) -> Vec<Member> {
        self.copies.values().map(|copy| copy.member.clone()).collect()
    }

    /// What it is doing, in words.
    pub fn activity(&self) -> &'static str {
        match self.phase {
            Phase::Promising { .. } => "waiting for three storage nodes",
            Phase::Copying => "bringing four storage nodes up to the end of the log",
            Phase::Recording => "recording the new timeline",
            Phase::Installing { .. } => "reading the state at the end of the log",
            Phase::Done => "open",
        }
    }

    /// Nodes that have not promised.
    pub fn missing(&self) -> Vec<String> {
        let silent = self.copies.values().filter(|copy| copy.promised.is_none());
        silent.map(|copy| copy.member.node.clone()).collect()
    }

    /// A node is connected.
    pub fn connected(&mut self, segment: SegmentId, effects: &mut Vec<OpeningEffect>) {
        if let Some(copy) = self.copies.get_mut(&segment) {
            copy.begin(true);
            self.greet(segment, effects);
        }
    }

    /// Asks for the promise, or once the record is changed tells the path.
    fn greet(&self, segment: SegmentId, effects: &mut Vec<OpeningEffect>) {
        let request = match &self.phase {
            Phase::Installing { path, .. } => Request::Install {
                segment,
                epoch: self.epoch,
                path: path.clone(),
                members: self.record.members(),
            },
            _ => Request::Promise {
                segment,
                epoch: self.epoch,
                path: self.path.clone(),
                above: self.known(),
            },
        };
        effects.push(OpeningEffect::Send { segment, request });
    }

    /// The connection is gone. What the copy promised stays promised.
    pub fn disconnected(&mut self, segment: SegmentId, effects: &mut Vec<OpeningEffect>) {
        if let Some(copy) = self.copies.get_mut(&segment) {
            copy.begin(false);
        }
        self.fetching
            .retain(|source, fetch| *source != segment && fetch.target != segment);
        self.ask_no_longer(segment);
        self.copy_on(effects);
        self.ask_marks(effects);
    }

    /// If `segment` was asked for the marks, it will not tell them.
    fn ask_no_longer(&mut self, segment: SegmentId) {
        if let Phase::Installing { asked, .. } = &mut self.phase {
            asked.take_if(|(of, _)| *of == segment);
        }
    }

    /// Time passes.
    pub fn tick(&mut self, now: Duration, effects: &mut Vec<OpeningEffect>) -> Result<(), OpeningError> {
        self.now = now;
        self.ask_again(effects);
        match &self.phase {
            Phase::Promising { .. } => self.decide_candidate()?,
            Phase::Copying => self.give_up_fetches(),
            Phase::Installing { .. } => self.give_up_marks(),
            Phase::Recording | Phase::Done => {}
        }
        self.copy_on(effects);
        self.ask_marks(effects);
        Ok(())
    }

    /// Once enough have promised, and the others had a moment to: where the last reign ended.
    fn decide_candidate(&mut self) -> Result<(), OpeningError> {
        let promised: BTreeSet<SegmentId> = self.promises().map(|promised| promised.segment).collect();
        let Phase::Promising { enough_since } = &mut self.phase else {
            return Ok(());
        };
        if !self.membership.fenced(&promised) {
            return Ok(());
        }
        let since = *enough_since.get_or_insert(self.now);
        if promised.len() < COPIES_COUNT && self.now < since + ALL_ANSWERS_PAUSE {
            return Ok(());
        }
        self.candidate = Candidate::find(&self.path, self.known(), self.promises())?;
        self.phase = Phase::Copying;
        Ok(())
    }

    /// Copies that refused to promise or to take the path are asked once more.
    fn ask_again(&mut self, effects: &mut Vec<OpeningEffect>) {
        let (now, installing) = (self.now, matches!(self.phase, Phase::Installing { .. }));
        let mut rested = Vec::new();
        for copy in self.copies.values_mut() {
            if copy.again_at.is_some_and(|at| at <= now) {
                copy.again_at = None;
                if copy.connected && (installing || copy.promised.is_none()) {
                    rested.push(copy.member.segment);
                }
            }
        }
        for segment in rested {
            self.greet(segment, effects);
        }
    }

    /// A copy answered.
    pub fn response(
        &mut self,
        now: Duration,
        segment: SegmentId,
        response: Response,
        effects: &mut Vec<OpeningEffect>,
    ) -> Result<(), OpeningError> {
        self.now = now;
        match response {
            Response::Refused(Refusal::StaleEpoch { promised, .. }) if self.epoch < promised => {
                return Err(OpeningError::Superseded { by: promised });
            }
            Response::Promised(promised) => self.promised(segment, promised)?,
            Response::Batches(batches) => self.fetched(segment, batches, effects),
            // Nothing of this reign is sent yet: it is another one of the same epoch that got there first.
            Response::Appended { complete, .. } if self.path.epoch() < complete.epoch => {
                return Err(self.outdated(complete.epoch));
            }
            Response::Appended { complete, .. } => self.appended(segment, complete, effects),
            Response::Installed { complete, .. } => self.installed(segment, complete),
            Response::FlushHeader { end, marks, .. } => self.read_marks(end, marks, effects),
            // Whatever it refuses, somebody else may not; later it may not either.
            Response::Refused(_) => {
                self.fetching.remove(&segment);
                if let Some(copy) = self.copies.get_mut(&segment) {
                    copy.rest(now);
                }
                self.ask_no_longer(segment);
            }
            _ => {}
        }
        self.tick(now, effects)
    }

    fn promised(&mut self, segment: SegmentId, promised: Promised) -> Result<(), OpeningError> {
        let known = promised.path.epoch();
        // A late answer of a copy that this opening told its path meanwhile. Before that nobody can know it: a store that went
        // back in time may have handed out an epoch that reigned already.
        let told = match &self.phase {
            Phase::Installing { path, .. } => *path == promised.path,
            Phase::Done => true,
            _ => false,
        };
        // What a damaged copy claims to know counts for nothing: if the store did go back, three that vouch include one that
        // knows the same.
        if promised.vouches && self.path.epoch() < known && !told {
            return Err(self.outdated(known));
        }
        if let Some(copy) = self.copies.get_mut(&segment) {
            copy.complete = if self.path.sees(promised.complete) {
                promised.complete
            } else {
                Position::ZERO
            };
            copy.promised = Some(promised);
        }
        Ok(())
    }

    fn outdated(&self, found: Epoch) -> OpeningError {
        OpeningError::RecordOutdated {
            found,
            recorded: self.path.epoch(),
        }
    }

    /// The answers that count: of copies that vouch for everything they ever acknowledged.
    fn promises(&self) -> impl Iterator<Item = &Promised> {
        let promises = self.copies.values().filter_map(|copy| copy.promised.as_ref());
        promises.filter(|promised| promised.vouches)
    }

    /// The highest position known to be durable on the last opened timeline.
    fn known(&self) -> Position {
        Candidate::known(&self.path, self.promises())
    }

    /// The outcome of the compare-and-swap, once it is known.
    pub fn recorded(&mut self, swapped: bool, effects: &mut Vec<OpeningEffect>) -> Result<(), OpeningError> {
        if !matches!(self.phase, Phase::Recording) {
            return Ok(());
        }
        if !swapped {
            return Err(OpeningError::Conflict);
        }
        let record = self.record.opened_by(self.epoch, self.candidate.branch.lsn);
        let branch = Branch {
            epoch: self.epoch,
            parent: Position::new(self.path.epoch(), self.candidate.branch.lsn),
        };
        let path = self.path.extended(branch).map_err(RecordError::from)?;
        self.phase = Phase::Installing {
            path,
            record,
            asked: None,
        };
        let connected: Vec<SegmentId> = self
            .copies
            .values()
            .filter(|copy| copy.connected)
            .map(|copy| copy.member.segment)
            .collect();
        for segment in connected {
            self.greet(segment, effects);
        }
        Ok(())
    }

    fn installed(&mut self, segment: SegmentId, complete: Position) {
        let (Phase::Installing { path, .. }, Some(copy)) = (&self.phase, self.copies.get_mut(&segment)) else {
            return;
        };
        copy.installed = path.sees(complete) && self.candidate.branch.lsn <= complete.lsn;
    }

    /// Whoever does not tell the marks for too long is asked again only after the others.
    fn give_up_marks(&mut self) {
        let Phase::Installing { asked, .. } = &mut self.phase else {
            return;
        };
        let late = asked.take_if(|(_, asked_at)| *asked_at + ANSWER_LIMIT <= self.now);
        if let Some(copy) = late.and_then(|(segment, _)| self.copies.get_mut(&segment)) {
            copy.unanswered = copy.unanswered.saturating_add(1);
        }
    }

    /// Asks a complete copy that knows the path for the marks.
    fn ask_marks(&mut self, effects: &mut Vec<OpeningEffect>) {
        let Phase::Installing { asked, .. } = &mut self.phase else {
            return;
        };
        let ready = self.copies.values().filter(|copy| copy.connected && copy.installed);
        let next = ready.min_by_key(|copy| copy.unanswered);
        if let (None, Some(copy)) = (&asked, next) {
            let segment = copy.member.segment;
            *asked = Some((segment, self.now));
            effects.push(OpeningEffect::Send {
                segment,
                request: Request::ReadFlushHeader {
                    segment,
                    epoch: self.epoch,
                    at: self.candidate.branch.lsn,
                },
            });
        }
    }

    fn read_marks(&mut self, end: Position, marks: Bytes, effects: &mut Vec<OpeningEffect>) {
        if !matches!(self.phase, Phase::Installing { .. }) {
            return;
        }
        if let Phase::Installing { path, record, .. } = std::mem::replace(&mut self.phase, Phase::Done) {
            effects.push(OpeningEffect::Opened(Box::new(Opened {
                members: record.members(),
                record,
                path,
                branch: self.candidate.branch.lsn,
                last: end,
                marks,
            })));
        }
    }
}
