//! Opening the volume: from whatever the last reign left to a new one (DESIGN §4.4).
//!
//! The epoch was taken before, so nobody else can change the record. The steps: fence group 0 and hear what it holds;
//! follow the chain of flushes from the highest durable position to its end; bring a write quorum up to it; record the new
//! timeline; install it; read the engine's marks. Dying anywhere before the record is changed leaves only a used-up epoch.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use quorum::{COPIES_COUNT, Membership};
use timeline::{Branch, Path};
use units::{Epoch, GroupId, Lsn, Position, SegmentId};
use wire_format::message::{HeldFlush, Promised, Refusal, Request, Response};
use wire_format::{EncodedBatch, Member};

use crate::record::{RecordError, VolumeRecord};

/// How long more than three answers are waited for: the more answer, the fewer copies have to be made.
const ALL_ANSWERS_PAUSE: Duration = Duration::from_millis(20);
/// How long a copy that refused something is left alone; others are asked meanwhile.
const REFUSAL_PAUSE: Duration = Duration::from_millis(50);
/// Bytes of log asked of a source at once.
const COPY_BYTES_MAX: u32 = 1 << 20;

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
        asked: Option<SegmentId>,
    },
    Done,
}

#[derive(Debug)]
struct Copy {
    member: Member,
    connected: bool,
    promised: Option<Promised>,
    complete: Position,
    /// Copies on their way to it.
    incoming: VecDeque<EncodedBatch>,
    awaiting: bool,
    /// It is asked again from then on: it refused, or another that was asked instead is gone.
    again_at: Option<Duration>,
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
    branch: Position,
    chain: Vec<HeldFlush>,
    /// Which copy asked for the batches that a source was asked for.
    fetching: BTreeMap<SegmentId, SegmentId>,
}

impl Opening {
    /// Begins, with the epoch taken and the record read after that.
    pub fn new(epoch: Epoch, record: VolumeRecord) -> Result<Opening, OpeningError> {
        let path = record.path()?;
        let members = record.members();
        let membership = Membership::new(members.iter().map(|member| member.segment).collect());
        let copy = |member: Member| Copy {
            member,
            connected: false,
            promised: None,
            complete: Position::ZERO,
            incoming: VecDeque::new(),
            awaiting: false,
            again_at: None,
        };
        Ok(Opening {
            epoch,
            branch: path.start(),
            membership,
            copies: members
                .into_iter()
                .map(|member| (member.segment, copy(member)))
                .collect(),
            phase: Phase::Promising { enough_since: None },
            chain: Vec::new(),
            fetching: BTreeMap::new(),
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
        let known = self.known();
        let Some(copy) = self.copies.get_mut(&segment) else {
            return;
        };
        copy.connected = true;
        copy.again_at = None;
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
                above: known,
            },
        };
        effects.push(OpeningEffect::Send { segment, request });
    }

    /// The connection is gone. What the copy promised stays promised.
    pub fn disconnected(&mut self, segment: SegmentId, effects: &mut Vec<OpeningEffect>) {
        if let Some(copy) = self.copies.get_mut(&segment) {
            copy.connected = false;
            copy.incoming.clear();
            copy.awaiting = false;
        }
        self.fetching
            .retain(|source, target| *source != segment && *target != segment);
        self.ask_others(segment);
        if matches!(self.phase, Phase::Copying) {
            self.copy_on(effects);
        }
    }

    /// If `segment` was asked for the marks, it will not tell them: whoever else is connected is asked instead.
    fn ask_others(&mut self, segment: SegmentId) {
        let Phase::Installing { asked, .. } = &mut self.phase else {
            return;
        };
        if *asked == Some(segment) {
            *asked = None;
            for copy in self.copies.values_mut() {
                copy.again_at.get_or_insert(Duration::ZERO);
            }
        }
    }

    /// Time passes.
    pub fn tick(&mut self, now: Duration, effects: &mut Vec<OpeningEffect>) -> Result<(), OpeningError> {
        self.ask_again(now, effects);
        let promised: BTreeSet<SegmentId> = self.promises().map(|promised| promised.segment).collect();
        let enough_since = match &mut self.phase {
            Phase::Promising { enough_since } => enough_since,
            Phase::Copying => {
                self.copy_on(effects);
                return Ok(());
            }
            _ => return Ok(()),
        };
        if !self.membership.fenced(&promised) {
            return Ok(());
        }
        let since = *enough_since.get_or_insert(now);
        if promised.len() < COPIES_COUNT && now < since + ALL_ANSWERS_PAUSE {
            return Ok(());
        }
        self.find_candidate()?;
        self.phase = Phase::Copying;
        self.copy_on(effects);
        Ok(())
    }

    /// Copies that refused to promise or to take the path are asked once more.
    fn ask_again(&mut self, now: Duration, effects: &mut Vec<OpeningEffect>) {
        let installing = matches!(self.phase, Phase::Installing { .. });
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
            self.connected(segment, effects);
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
        match response {
            Response::Refused(Refusal::StaleEpoch { promised, .. }) if self.epoch < promised => {
                return Err(OpeningError::Superseded { by: promised });
            }
            Response::Promised(promised) => self.promised(segment, promised)?,
            Response::Batches(batches) => self.fetched(segment, batches, effects),
            Response::Appended { complete, .. } => {
                if let Some(copy) = self.copies.get_mut(&segment) {
                    copy.awaiting = false;
                    copy.complete = complete;
                }
                self.send_next(segment, effects);
                self.copy_on(effects);
            }
            Response::Installed { complete, .. } => self.installed(segment, complete, effects),
            Response::FlushHeader { end, marks, .. } => self.read_marks(end, marks, effects),
            // Whatever it refuses, somebody else may not; later it may not either.
            Response::Refused(_) => {
                self.fetching.remove(&segment);
                if let Some(copy) = self.copies.get_mut(&segment) {
                    copy.awaiting = false;
                    copy.incoming.clear();
                    copy.again_at = Some(now + REFUSAL_PAUSE);
                }
                self.ask_others(segment);
            }
            _ => {}
        }
        self.tick(now, effects)
    }

    fn promised(&mut self, segment: SegmentId, promised: Promised) -> Result<(), OpeningError> {
        let recorded = self.path.epoch();
        // What a damaged copy claims to know counts for nothing: if the store did go back, three that vouch include one that
        // knows the same.
        if promised.vouches && recorded < promised.path.epoch() && promised.path.epoch() != self.epoch {
            return Err(OpeningError::RecordOutdated {
                found: promised.path.epoch(),
                recorded,
            });
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

    /// The answers that count: of copies that vouch for everything they ever acknowledged.
    fn promises(&self) -> impl Iterator<Item = &Promised> {
        let promises = self.copies.values().filter_map(|copy| copy.promised.as_ref());
        promises.filter(|promised| promised.vouches)
    }

    /// The highest position known to be durable on the last opened timeline.
    fn known(&self) -> Position {
        let announced = self.promises().map(|promised| promised.durable);
        let on_path = announced.filter(|durable| self.path.sees(*durable));
        on_path
            .chain([self.path.start()])
            .max_by_key(|durable| durable.lsn)
            .expect("the start is among them")
    }

    /// Follows the flush headers upward from what is known to be durable. The chain ends at the first flush that nobody
    /// holds.
    fn find_candidate(&mut self) -> Result<(), OpeningError> {
        let known = self.known();
        let reign = self.path.epoch();
        // One reign is one stream: no two of its flushes follow the same one.
        let following: BTreeMap<Lsn, &HeldFlush> = self
            .promises()
            .flat_map(|promised| &promised.held)
            .filter(|flush| flush.end.epoch == reign && known.lsn < flush.end.lsn)
            // The volume's very first flush follows nothing, which no timeline sees.
            .filter(|flush| flush.previous == Position::ZERO || self.path.sees(flush.previous))
            .map(|flush| (flush.previous.lsn, flush))
            .collect();
        let (mut at, mut branch) = (known, known);
        let mut chain = Vec::new();
        while let Some(next) = following.get(&at.lsn) {
            if let Some(group) = next.groups.iter().find(|group| **group != GroupId::FIRST) {
                return Err(OpeningError::Groups {
                    flush: next.end,
                    group: *group,
                });
            }
            at = next.end;
            branch = Position::new(reign, next.boundary.max(branch.lsn));
            chain.push((*next).clone());
        }
        // Pieces of a record whose end never came are beyond the branch.
        chain.retain(|flush| flush.end.lsn <= branch.lsn);
        self.chain = chain;
        self.branch = branch;
        Ok(())
    }

    fn complete(&self, copy: &Copy) -> bool {
        copy.promised.as_ref().is_some_and(|promised| promised.vouches) && self.branch.lsn <= copy.complete.lsn
    }

    /// Step 4: four complete copies; then the record.
    fn copy_on(&mut self, effects: &mut Vec<OpeningEffect>) {
        if !matches!(self.phase, Phase::Copying) {
            return;
        }
        let complete: BTreeSet<SegmentId> = self
            .copies
            .values()
            .filter(|copy| self.complete(copy))
            .map(|copy| copy.member.segment)
            .collect();
        if self.membership.writable(&complete) {
            self.phase = Phase::Recording;
            let record = self.record.opened_by(self.epoch, self.branch.lsn);
            effects.push(OpeningEffect::CompareAndSwap(record));
            return;
        }
        let behind = self.copies.values().filter(|copy| {
            copy.connected
                && copy.promised.is_some()
                && !self.complete(copy)
                && !copy.awaiting
                && copy.again_at.is_none()
                && copy.incoming.is_empty()
        });
        let targets: Vec<(SegmentId, Position)> = behind
            .filter(|copy| !self.fetching.values().any(|target| *target == copy.member.segment))
            .map(|copy| (copy.member.segment, copy.complete))
            .collect();
        for (target, after) in targets {
            self.fetch(target, after, effects);
        }
    }

    /// Asks somebody for what `target` lacks next.
    fn fetch(&mut self, target: SegmentId, after: Position, effects: &mut Vec<OpeningEffect>) {
        let idle = |copy: &&Copy| {
            copy.connected
                && copy.again_at.is_none()
                && copy.member.segment != target
                && !self.fetching.contains_key(&copy.member.segment)
        };
        let further = |copy: &&Copy| copy.promised.is_some() && after.lsn < copy.complete.lsn;
        let next = self.chain.iter().find(|flush| after.lsn < flush.end.lsn);
        let holds_next = |copy: &&Copy| {
            let held = copy.promised.as_ref().map(|promised| &promised.held);
            next.zip(held)
                .is_some_and(|(next, held)| held.iter().any(|flush| flush.end == next.end))
        };
        let sources = || self.copies.values().filter(idle);
        let source = sources()
            .filter(further)
            .max_by_key(|copy| copy.complete.lsn)
            .or_else(|| sources().find(holds_next))
            .map(|copy| copy.member.segment);
        // None is idle, or none has it: another answer or another connection calls again.
        if let Some(source) = source {
            self.fetching.insert(source, target);
            effects.push(OpeningEffect::Send {
                segment: source,
                request: Request::FetchBatches {
                    segment: source,
                    path: self.path.clone(),
                    after,
                    through: self.branch,
                    bytes_max: COPY_BYTES_MAX,
                },
            });
        }
    }

    fn fetched(&mut self, source: SegmentId, batches: Vec<EncodedBatch>, effects: &mut Vec<OpeningEffect>) {
        let Some(target) = self.fetching.remove(&source) else {
            return;
        };
        if let Some(copy) = self.copies.get_mut(&target) {
            copy.incoming = batches.into();
        }
        self.send_next(target, effects);
        self.copy_on(effects);
    }

    /// Copies go one after the other: the answer to the last tells how far the target is.
    fn send_next(&mut self, target: SegmentId, effects: &mut Vec<OpeningEffect>) {
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
                    epoch: self.epoch,
                    durable: Position::ZERO,
                    batch,
                },
            });
        }
    }

    /// The outcome of the compare-and-swap, once it is known.
    pub fn recorded(&mut self, swapped: bool, effects: &mut Vec<OpeningEffect>) -> Result<(), OpeningError> {
        if !matches!(self.phase, Phase::Recording) {
            return Ok(());
        }
        if !swapped {
            return Err(OpeningError::Conflict);
        }
        let record = self.record.opened_by(self.epoch, self.branch.lsn);
        let branch = Branch {
            epoch: self.epoch,
            parent: Position::new(self.path.epoch(), self.branch.lsn),
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
            self.connected(segment, effects);
        }
        Ok(())
    }

    fn installed(&mut self, segment: SegmentId, complete: Position, effects: &mut Vec<OpeningEffect>) {
        let branch = self.branch.lsn;
        let Phase::Installing { asked, .. } = &mut self.phase else {
            return;
        };
        if asked.is_none() && branch <= complete.lsn {
            *asked = Some(segment);
            effects.push(OpeningEffect::Send {
                segment,
                request: Request::ReadFlushHeader {
                    segment,
                    epoch: self.epoch,
                    at: branch,
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
                branch: self.branch.lsn,
                last: end,
                marks,
            })));
        }
    }
}
