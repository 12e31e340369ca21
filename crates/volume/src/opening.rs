//! Opening the volume: from whatever the last reign left to a new one (DESIGN §4.4).
//!
//! The epoch was taken before, so nobody else can change the record. The steps: fence group 0 and hear what it holds;
//! follow the chain of flushes from the highest durable position to its end; bring a write quorum up to it; record the new
//! timeline; install it; read the engine's marks. Dying anywhere before the record is changed leaves only a used-up epoch.

mod candidate;
mod copying;
mod group;
mod installing;
mod replacing;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use quorum::Membership;
use timeline::Path;
use units::{Epoch, GroupId, Lsn, Position, SegmentId};
use wire_format::Member;
use wire_format::message::{HeldFlush, Promised, Refusal, Request, Response};

use candidate::Candidate;
use copying::{Context, Copy};
use group::Group;
pub use replacing::BeingMade;

use crate::GroupMembers;
use crate::record::{GroupRecord, RecordError, VolumeRecord};

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
    /// Connections to these copies are needed, too: a flush in flight has a part in their group. For those that are connected
    /// already, tell [`Opening::connected`] at once.
    Connect(GroupId, Vec<Member>),
    /// Have a node make this segment, in the place of a lost one. Repeating it is harmless.
    Create {
        /// The node.
        node: String,
        /// What to ask of it.
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
    /// Group 0's copies: all of both lists, if its membership is joint.
    pub members: Vec<Member>,
    /// Which of them count.
    pub membership: Membership,
    /// The other groups. Of those that were looked at it is known where they end.
    pub others: Vec<GroupMembers>,
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
    /// A flush names a group that the record does not: a group is in the record before it is first written.
    #[error(
        "flush {flush} has a part in group {group}, but the volume's record has no such group: the store went back in time"
    )]
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
    /// Waiting for promises.
    Promising,
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
        /// Somebody was asked who could not tell them.
        is_failed: bool,
    },
    Done,
}

/// One attempt to open the volume.
#[derive(Debug)]
pub struct Opening {
    epoch: Epoch,
    record: VolumeRecord,
    path: Path,
    /// The highest position known to be durable on the last opened timeline, and told by a copy that vouched. Copies are asked
    /// only for what they hold above it, so it stays although that copy may be found to be damaged meanwhile.
    known: Position,
    first: Group,
    /// Groups that flushes in flight name.
    named: BTreeMap<GroupId, Group>,
    /// Groups that are looked at in any case.
    looked_at: BTreeSet<GroupId>,
    /// Groups whose copies are replaced, as they are to be.
    replaced: BTreeMap<GroupId, GroupRecord>,
    phase: Phase,
    candidate: Candidate,
    /// The time, as of the last tick or answer.
    now: Duration,
}

impl Opening {
    /// Begins, with the epoch taken and the record read after that.
    pub fn new(epoch: Epoch, record: VolumeRecord) -> Result<Opening, OpeningError> {
        let path = record.path()?;
        let first = record.group(GroupId::FIRST).map(Group::new);
        let first = first.ok_or_else(|| RecordError::Malformed("it has no group 0".to_owned()))?;
        Ok(Opening {
            epoch,
            candidate: Candidate::start_of(&path),
            known: path.start(),
            first,
            named: BTreeMap::new(),
            looked_at: BTreeSet::new(),
            replaced: BTreeMap::new(),
            phase: Phase::Promising,
            now: Duration::ZERO,
            record,
            path,
        })
    }

    /// Group 0's copies, to connect to; of other groups, see [`OpeningEffect::Connect`].
    pub fn members(&self) -> Vec<Member> {
        self.first.members()
    }

    /// What it is doing, in words.
    pub fn activity(&self) -> &'static str {
        match self.phase {
            Phase::Promising => "waiting for a read quorum of storage nodes",
            Phase::Copying if !self.replaced.is_empty() => "making new copies in the place of lost ones",
            Phase::Copying => "bringing a write quorum of storage nodes up to the end of the log",
            Phase::Recording => "recording the new timeline",
            Phase::Installing { .. } => "reading the state at the end of the log",
            Phase::Done => "open",
        }
    }

    /// Nodes that have not promised for some group.
    pub fn missing(&self) -> Vec<String> {
        let copies = self.groups().flat_map(|group| group.copies.values());
        let silent = copies.filter(|copy| copy.promised.is_none());
        let names: BTreeSet<String> = silent.map(|copy| copy.member.node.clone()).collect();
        names.into_iter().collect()
    }

    fn groups(&self) -> impl Iterator<Item = &Group> {
        std::iter::once(&self.first).chain(self.named.values())
    }

    fn groups_mut(&mut self) -> impl Iterator<Item = &mut Group> {
        std::iter::once(&mut self.first).chain(self.named.values_mut())
    }

    fn copy_mut(&mut self, segment: SegmentId) -> Option<&mut Copy> {
        self.groups_mut().find_map(|group| group.copies.get_mut(&segment))
    }

    /// The group of a copy, and what it needs to know.
    fn group_of(&mut self, segment: SegmentId) -> Option<(&mut Group, Context<'_>)> {
        let context = Context {
            now: self.now,
            epoch: self.epoch,
            path: &self.path,
        };
        let mut groups = std::iter::once(&mut self.first).chain(self.named.values_mut());
        let group = groups.find(|group| group.copies.contains_key(&segment))?;
        Some((group, context))
    }

    /// A node is connected.
    pub fn connected(&mut self, segment: SegmentId, effects: &mut Vec<OpeningEffect>) {
        if let Some(copy) = self.copy_mut(segment) {
            copy.begin(true);
            self.greet(segment, effects);
        }
    }

    /// Asks for the promise, or once the record is changed tells the path.
    fn greet(&self, segment: SegmentId, effects: &mut Vec<OpeningEffect>) {
        let request = match &self.phase {
            // Other groups are told when they are first used.
            Phase::Installing { .. } if !self.first.copies.contains_key(&segment) => return,
            Phase::Installing { path, .. } => Request::Install {
                segment,
                epoch: self.epoch,
                path: path.clone(),
                members: self.first.members(),
            },
            _ => Request::Promise {
                segment,
                epoch: self.epoch,
                path: self.path.clone(),
                above: self.known,
            },
        };
        effects.push(OpeningEffect::Send { segment, request });
    }

    /// The connection is gone. What the copy promised stays promised.
    pub fn disconnected(&mut self, segment: SegmentId, effects: &mut Vec<OpeningEffect>) {
        if let Some(copy) = self.copy_mut(segment) {
            copy.begin(false);
        }
        for group in self.groups_mut() {
            group
                .fetching
                .retain(|source, fetch| *source != segment && fetch.target != segment);
        }
        self.ask_no_longer(segment);
        self.copy_on(effects);
        self.ask_marks(effects);
    }

    /// If `segment` was asked for the marks, it will not tell them.
    fn ask_no_longer(&mut self, segment: SegmentId) {
        if let Phase::Installing { asked, is_failed, .. } = &mut self.phase {
            *is_failed |= asked.take_if(|(of, _)| *of == segment).is_some();
        }
    }

    /// Time passes.
    pub fn tick(&mut self, now: Duration, effects: &mut Vec<OpeningEffect>) -> Result<(), OpeningError> {
        self.now = now;
        self.ask_again(effects);
        self.make_again(effects);
        match &self.phase {
            Phase::Promising => self.decide_candidate(effects)?,
            Phase::Copying => self.groups_mut().for_each(|group| group.give_up_fetches(now)),
            Phase::Installing { .. } => self.give_up_marks(),
            Phase::Recording | Phase::Done => {}
        }
        self.copy_on(effects);
        self.ask_marks(effects);
        Ok(())
    }

    /// Once enough have promised, of group 0 and of every group that a flush in flight names: where the last reign ended.
    fn decide_candidate(&mut self, effects: &mut Vec<OpeningEffect>) -> Result<(), OpeningError> {
        let now = self.now;
        if !self.first.is_fenced(now) {
            return Ok(());
        }
        let in_flight = Candidate::find(&self.path, self.known, self.first.promises(), |_| true);
        let mut all_fenced = true;
        for flush in &in_flight.chain {
            for id in flush.groups.iter().filter(|id| **id != GroupId::FIRST) {
                all_fenced &= match self.named.get_mut(id) {
                    Some(group) => group.is_fenced(now),
                    None => {
                        let record = self.record.group(*id).ok_or(OpeningError::Groups {
                            flush: flush.end,
                            group: *id,
                        })?;
                        let group = Group::new(record);
                        effects.push(OpeningEffect::Connect(*id, group.members()));
                        self.named.insert(*id, group);
                        false
                    }
                };
            }
        }
        for id in &self.looked_at {
            all_fenced &= self.named.get_mut(id).is_none_or(|group| group.is_fenced(now));
        }
        if !all_fenced {
            return Ok(());
        }
        let (named, path) = (&self.named, &self.path);
        let whole = |flush: &HeldFlush| {
            let mut others = flush.groups.iter().filter(|id| **id != GroupId::FIRST);
            others.all(|id| named.get(id).is_some_and(|group| group.has_part(flush.end, path)))
        };
        self.candidate = Candidate::find(path, self.known, self.first.promises(), whole);
        self.first.known = self.candidate.branch;
        self.first.parts = self.candidate.chain.iter().map(|flush| flush.end).collect();
        for (id, group) in &mut self.named {
            group.parts = self.candidate.parts_of(*id);
        }
        self.phase = Phase::Copying;
        Ok(())
    }

    /// A write quorum of every group concerned has everything: then the record. Until then whoever is behind is brought
    /// further; and after that if nobody can tell the marks, as when the one full copy of the quorum turns out to be damaged.
    fn copy_on(&mut self, effects: &mut Vec<OpeningEffect>) {
        let (now, epoch, path) = (self.now, self.epoch, self.path.clone());
        let context = Context {
            now,
            epoch,
            path: &path,
        };
        match &self.phase {
            Phase::Copying if self.groups().all(Group::is_copied) => {
                self.phase = Phase::Recording;
                effects.push(OpeningEffect::CompareAndSwap(self.next_record()));
            }
            Phase::Copying => {
                let lacking = self.groups_mut().filter(|group| !group.is_copied());
                lacking.for_each(|group| group.bring_up(context, effects));
            }
            Phase::Installing { is_failed: true, .. } if !self.first.copies.values().any(Copy::tells_marks) => {
                self.first.bring_up(context, effects);
            }
            _ => {}
        }
    }

    /// Copies that refused to promise or to take the path are asked once more.
    fn ask_again(&mut self, effects: &mut Vec<OpeningEffect>) {
        let (now, installing) = (self.now, matches!(self.phase, Phase::Installing { .. }));
        let mut rested = Vec::new();
        for copy in self.groups_mut().flat_map(|group| group.copies.values_mut()) {
            if copy.again_at.is_some_and(|at| at <= now) {
                copy.again_at = None;
                if copy.connected && (installing || copy.promised.is_none() || copy.is_unborn()) {
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
            Response::Batches(batches) => {
                if let Some((group, context)) = self.group_of(segment) {
                    group.fetched(segment, batches, context, effects);
                }
            }
            // Nothing of this reign is sent yet: it is another one of the same epoch that got there first.
            Response::Appended { complete, .. } if self.path.epoch() < complete.epoch => {
                return Err(self.outdated(complete.epoch));
            }
            Response::Appended { complete, .. } => {
                if let Some((group, context)) = self.group_of(segment) {
                    group.appended(segment, complete, context, effects);
                }
                if matches!(self.phase, Phase::Installing { .. }) && self.candidate.branch.lsn <= complete.lsn {
                    // It was told the path while it was behind.
                    self.greet(segment, effects);
                }
            }
            Response::Installed { complete, .. } => self.installed(segment, complete),
            Response::FlushHeader { end, marks, .. } => self.read_marks(end, marks, effects),
            // Whatever it refuses, somebody else may not; later it may not either.
            Response::Refused(refusal) => {
                let group = self.group_of(segment);
                let fetch = group.and_then(|(group, _)| group.fetching.remove(&segment));
                // Whoever lacks log that is in no journal any more takes it from layers, by itself: it tells when it has.
                if let Some(fetch) = fetch.filter(|_| matches!(refusal, Refusal::LogCollected { .. })) {
                    self.greet(fetch.target, effects);
                }
                if let Some(copy) = self.copy_mut(segment) {
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
        let (sees, now) = (self.path.sees(promised.complete), self.now);
        if let Some(copy) = self.copy_mut(segment) {
            copy.complete = if sees { promised.complete } else { Position::ZERO };
            copy.promised = Some(promised);
            if copy.is_unborn() {
                // It is asked again how far it is.
                copy.rest(now);
            }
        }
        self.known = Candidate::known(&self.path, self.known, self.first.promises());
        Ok(())
    }

    fn outdated(&self, found: Epoch) -> OpeningError {
        OpeningError::RecordOutdated {
            found,
            recorded: self.path.epoch(),
        }
    }
}
