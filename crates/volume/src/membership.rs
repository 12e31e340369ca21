//! One copy of a group is replaced by another, while the log goes on (DESIGN §4.5).
//!
//! Only the holder of the epoch changes a membership. The steps, each of which can be undone, and none of which stops a write:
//!
//! 1. The new segment is made, with the current epoch as its promise. It has neither a vote nor a complete position until it
//!    is whole.
//! 2. Both lists count: log is durable when it is on four of each.
//! 3. The record says so. An opener that finds it fences three of each list.
//! 4. The new segment copies what the group holds, until it is complete up to what was there in step 3.
//! 5. The record has one list again: the new one, or the old one if the copy that was to leave has come back, or if the new
//!    one does not get on.
//! 6. That list alone counts, and whoever is in no list any more is removed.
//!
//! [`Change`] is these steps as a state machine without I/O; its shell is `compute`'s `membership`. A writer that dies leaves
//! either nothing but a segment that nobody knows, or a record with two lists, which the next reign goes on with
//! ([`Change::resume`]).
//!
//! Invariants (`notes/protocol.md`, holes 7 and 9):
//! - Both lists count before the record is changed to the joint list, and until after it is changed back to one.
//! - The new list counts alone only once the new segment is complete up to what was held when the joint list was recorded.
//!   Everything after that was counted jointly.
//! - A change of the record whose outcome is not known leaves both lists counting.

use std::time::Duration;

use quorum::Membership;
use units::{GroupId, Lsn, SegmentId};
use wire_format::Member;

use crate::CopyStanding;
use crate::record::{GroupRecord, MemberRecord};

/// How long a node may take to have made the segment before it is asked again.
const CREATE_PAUSE: Duration = Duration::from_secs(1);
/// How long the new segment may be out of reach before it is given up: another node may do better.
const JOINER_PATIENCE: Duration = Duration::from_secs(30);

/// What the shell has to do, in this order.
#[derive(Clone, PartialEq, Debug)]
pub enum ChangeEffect {
    /// Have the node make the segment as a copy of the group; the outcome comes back through [`Change::created`]. Repeating it
    /// is harmless.
    Create(MemberRecord),
    /// Count so from now on, before the next effect is carried out, and tell the copies their members.
    Count {
        /// Which copies count.
        membership: Membership,
        /// Everybody who is sent log.
        members: Vec<Member>,
    },
    /// Make this the group's entry in the record; the outcome comes back through [`Change::recorded`]. One that is not known is
    /// found out by reading the record again, and meanwhile nothing changes.
    Record(GroupRecord),
    /// Have this segment removed: it is in no list. If its node is not there now, it is removed when it comes back.
    Remove(MemberRecord),
    /// The change is over.
    Ended(Outcome),
}

/// How a change ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The new copy has taken the old one's place.
    Replaced,
    /// The old list counts as before: the old copy came back, or the new one did not get on.
    TakenBack,
    /// Somebody else holds the volume: this reign is over, and the next one goes on with whatever is recorded.
    Superseded,
}

/// What one change does at the moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChangeProgress {
    /// The group.
    pub group: GroupId,
    /// The node that loses its copy.
    pub leaving: String,
    /// The node that gets one.
    pub joining: String,
    /// The new copy.
    pub segment: SegmentId,
    /// What it is doing, in words.
    pub activity: &'static str,
}

#[derive(Clone, PartialEq, Debug)]
enum Step {
    /// Waiting for the new segment's node; when it was asked last.
    Creating {
        asked_at: Option<Duration>,
    },
    /// Waiting for the record to say what is counted already.
    RecordingJoint,
    /// Waiting for the new segment to be complete up to here, once that is known.
    Copying {
        target: Option<Lsn>,
    },
    /// Waiting for the record to have one list again.
    Settling {
        next: GroupRecord,
        outcome: Outcome,
    },
    Over,
}

/// The replacement of one copy of one group, driven by the holder of the epoch.
#[derive(Clone, Debug)]
pub struct Change {
    /// The group's entry before the change, and with both lists.
    before: GroupRecord,
    joint: GroupRecord,
    leaving: MemberRecord,
    joining: MemberRecord,
    step: Step,
    /// Whether the copy that leaves may stay if it comes back.
    is_reversible: bool,
    /// The copy that leaves was there when the change began: its being there is no return.
    was_there: Option<bool>,
    is_aborted: bool,
    /// When the new segment was last seen to be there.
    joiner_seen: Option<Duration>,
}

impl Change {
    /// Replaces `leaving`, a copy of the settled `group`, by `joining`. `None` if it is no copy of it, or if another change of
    /// the group is under way. A reversible change is taken back if the copy was away and comes back before the new one is
    /// complete.
    pub fn new(group: &GroupRecord, leaving: SegmentId, joining: MemberRecord, is_reversible: bool) -> Option<Change> {
        let leaving = group.members.iter().find(|member| member.segment == leaving)?.clone();
        let is_known = group.members.iter().any(|member| member.segment == joining.segment);
        // Like by like: the quorums of both lists are of the same kinds.
        if group.joining.is_some() || is_known || leaving.kind != joining.kind {
            return None;
        }
        let joint = group.joint(leaving.segment, joining.clone());
        let step = Step::Creating { asked_at: None };
        Some(Change::at(step, group.clone(), joint, leaving, joining, is_reversible))
    }

    /// Goes on with a change that an earlier reign recorded; `None` if none is under way. The opening has fenced both lists, and
    /// both count.
    pub fn resume(joint: &GroupRecord, is_reversible: bool) -> Option<Change> {
        let next = joint.joining.as_ref()?;
        let only_in = |one: &[MemberRecord], other: &[MemberRecord]| {
            let is_in_other = |member: &&MemberRecord| other.iter().any(|known| known.segment == member.segment);
            one.iter().find(|member| !is_in_other(member)).cloned()
        };
        let leaving = only_in(&joint.members, next)?;
        let joining = only_in(next, &joint.members)?;
        let before = GroupRecord {
            joining: None,
            ..joint.clone()
        };
        let step = Step::Copying { target: None };
        Some(Change::at(step, before, joint.clone(), leaving, joining, is_reversible))
    }

    fn at(
        step: Step,
        before: GroupRecord,
        joint: GroupRecord,
        leaving: MemberRecord,
        joining: MemberRecord,
        is_reversible: bool,
    ) -> Change {
        Change {
            before,
            joint,
            leaving,
            joining,
            step,
            is_reversible,
            was_there: None,
            is_aborted: false,
            joiner_seen: None,
        }
    }

    /// The group.
    pub fn group(&self) -> GroupId {
        GroupId::from_raw(self.before.group)
    }

    /// The copy that is to leave.
    pub fn leaving(&self) -> &MemberRecord {
        &self.leaving
    }

    /// The copy that is to take its place.
    pub fn joining(&self) -> &MemberRecord {
        &self.joining
    }

    /// What it does at the moment.
    pub fn progress(&self) -> ChangeProgress {
        let activity = match &self.step {
            Step::Creating { .. } => "making the new copy",
            Step::RecordingJoint => "recording both lists",
            Step::Copying { .. } => "copying",
            Step::Settling { .. } => "recording the list that stays",
            Step::Over => "over",
        };
        ChangeProgress {
            group: self.group(),
            leaving: self.leaving.node.clone(),
            joining: self.joining.node.clone(),
            segment: self.joining.segment,
            activity,
        }
    }

    /// Nobody wants it any more: it is taken back at its next step, if that is not the last one.
    pub fn abort(&mut self) {
        self.is_aborted = true;
    }

    /// Time passes. `standing` is how the group's copies are.
    pub fn tick(&mut self, now: Duration, standing: &[CopyStanding], effects: &mut Vec<ChangeEffect>) {
        let of = |segment: SegmentId| standing.iter().find(|copy| copy.member.segment == segment);
        let leaver = of(self.leaving.segment).filter(|copy| copy.live);
        let was_there = *self.was_there.get_or_insert(leaver.is_some());
        let joiner = of(self.joining.segment).filter(|copy| copy.live);
        let joiner_seen = *self.joiner_seen.get_or_insert(now);
        match &mut self.step {
            Step::Creating { .. } if self.is_aborted || joiner_seen + JOINER_PATIENCE <= now => {
                // Nothing is recorded, and one list counts as ever.
                self.end(Outcome::TakenBack, effects);
            }
            Step::Creating { asked_at } => {
                if asked_at.is_none_or(|asked_at| asked_at + CREATE_PAUSE <= now) {
                    *asked_at = Some(now);
                    effects.push(ChangeEffect::Create(self.joining.clone()));
                }
            }
            Step::Copying { target } => {
                if joiner.is_some() {
                    self.joiner_seen = Some(now);
                }
                *target = target.or_else(|| held_by_all(&self.before, standing));
                let reaches =
                    |copy: &&CopyStanding| copy.vouches && target.is_some_and(|target| target <= copy.complete);
                let has_come_back = self.is_reversible && !was_there && leaver.filter(reaches).is_some();
                if joiner.filter(reaches).is_some() {
                    let next = self.joint.joining.clone().expect("the joint list has a second one");
                    self.settle(next, Outcome::Replaced, effects);
                } else if has_come_back || self.is_aborted || joiner_seen + JOINER_PATIENCE <= now {
                    // Everything was counted on the old list, too: it may stay at any moment.
                    self.settle(self.before.members.clone(), Outcome::TakenBack, effects);
                }
            }
            Step::RecordingJoint | Step::Settling { .. } | Step::Over => {}
        }
    }

    /// The new segment is there.
    pub fn created(&mut self, effects: &mut Vec<ChangeEffect>) {
        if !matches!(self.step, Step::Creating { .. }) {
            return;
        }
        self.step = Step::RecordingJoint;
        effects.push(count(&self.joint));
        effects.push(ChangeEffect::Record(self.joint.clone()));
    }

    /// Whether the record was changed as it was asked for last.
    pub fn recorded(&mut self, is_changed: bool, effects: &mut Vec<ChangeEffect>) {
        match std::mem::replace(&mut self.step, Step::Over) {
            Step::RecordingJoint | Step::Settling { .. } if !is_changed => {
                // Both lists go on counting until this reign is ended: nobody can say what the next one has found.
                effects.push(ChangeEffect::Ended(Outcome::Superseded));
            }
            Step::RecordingJoint => {
                self.joiner_seen = None;
                self.step = Step::Copying { target: None };
            }
            Step::Settling { next, outcome } => {
                effects.push(count(&next));
                self.end(outcome, effects);
            }
            other => self.step = other,
        }
    }

    fn settle(&mut self, members: Vec<MemberRecord>, outcome: Outcome, effects: &mut Vec<ChangeEffect>) {
        let next = self.joint.settled(members);
        effects.push(ChangeEffect::Record(next.clone()));
        self.step = Step::Settling { next, outcome };
    }

    fn end(&mut self, outcome: Outcome, effects: &mut Vec<ChangeEffect>) {
        let loser = match outcome {
            Outcome::Replaced => &self.leaving,
            Outcome::TakenBack | Outcome::Superseded => &self.joining,
        };
        effects.push(ChangeEffect::Remove(loser.clone()));
        effects.push(ChangeEffect::Ended(outcome));
        self.step = Step::Over;
    }
}

fn count(group: &GroupRecord) -> ChangeEffect {
    ChangeEffect::Count {
        membership: group.membership(),
        members: group.all_members().iter().map(MemberRecord::member).collect(),
    }
}

/// Up to where any copy of the old list is complete, once a write quorum of it says so. Whatever was acknowledged before both
/// lists counted lies below: the copies that made it durable, with the new one in the place of its like, are a write quorum of
/// the new list.
/// A copy that does not vouch, or has not told yet where it stands, says nothing here. Nothing is where a group ends that nobody
/// ever wrote.
fn held_by_all(before: &GroupRecord, standing: &[CopyStanding]) -> Option<Lsn> {
    let is_old = |copy: &&CopyStanding| {
        before
            .members
            .iter()
            .any(|member| member.segment == copy.member.segment)
    };
    let live = || {
        let old = standing.iter().filter(is_old);
        old.filter(|copy| copy.counts())
    };
    let is_enough = before
        .membership()
        .writable(&live().map(|copy| copy.member.segment).collect());
    live().map(|copy| copy.complete).max().filter(|_| is_enough)
}
