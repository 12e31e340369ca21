//! Step 6: the new timeline is recorded; group 0 is told of it, and tells the engine's marks.

use bytes::Bytes;
use timeline::Branch;
use units::{GroupId, Position, SegmentId};
use wire_format::message::Request;

use super::{ANSWER_LIMIT, Opened, Opening, OpeningEffect, OpeningError, Phase};
use crate::GroupMembers;
use crate::record::{GroupRecord, MemberRecord, RecordError, VolumeRecord};

impl Opening {
    /// The outcome of the compare-and-swap, once it is known.
    pub fn recorded(&mut self, swapped: bool, effects: &mut Vec<OpeningEffect>) -> Result<(), OpeningError> {
        if !matches!(self.phase, Phase::Recording) {
            return Ok(());
        }
        if !swapped {
            return Err(OpeningError::Conflict);
        }
        let record = self.next_record();
        let branch = Branch {
            epoch: self.epoch,
            parent: Position::new(self.path.epoch(), self.candidate.branch.lsn),
        };
        let path = self.path.extended(branch).map_err(RecordError::from)?;
        self.phase = Phase::Installing {
            path,
            record,
            asked: None,
            is_failed: false,
        };
        let connected = self.first.copies.values().filter(|copy| copy.connected);
        let connected: Vec<SegmentId> = connected.map(|copy| copy.member.segment).collect();
        for segment in connected {
            self.greet(segment, effects);
        }
        Ok(())
    }

    pub(super) fn installed(&mut self, segment: SegmentId, complete: Position) {
        let branch = self.candidate.branch.lsn;
        let (Phase::Installing { path, .. }, Some(copy)) = (&self.phase, self.first.copies.get_mut(&segment)) else {
            return;
        };
        copy.installed = path.sees(complete) && branch <= complete.lsn;
    }

    /// Whoever does not tell the marks for too long is asked again only after the others.
    pub(super) fn give_up_marks(&mut self) {
        let Phase::Installing { asked, .. } = &mut self.phase else {
            return;
        };
        let late = asked.take_if(|(_, asked_at)| *asked_at + ANSWER_LIMIT <= self.now);
        if let Some(copy) = late.and_then(|(segment, _)| self.first.copies.get_mut(&segment)) {
            copy.unanswered = copy.unanswered.saturating_add(1);
        }
    }

    /// Asks a complete copy that knows the path for the marks.
    pub(super) fn ask_marks(&mut self, effects: &mut Vec<OpeningEffect>) {
        let Phase::Installing { asked, .. } = &mut self.phase else {
            return;
        };
        let ready = self.first.copies.values().filter(|copy| copy.tells_marks());
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

    pub(super) fn read_marks(&mut self, end: Position, marks: Bytes, effects: &mut Vec<OpeningEffect>) {
        if !matches!(self.phase, Phase::Installing { .. }) {
            return;
        }
        if let Phase::Installing { path, record, .. } = std::mem::replace(&mut self.phase, Phase::Done) {
            effects.push(OpeningEffect::Opened(Box::new(Opened {
                members: self.first.members(),
                membership: self.first.membership.clone(),
                others: self.others(&record),
                record,
                path,
                branch: self.candidate.branch.lsn,
                last: end,
                marks,
            })));
        }
    }

    /// The groups other than group 0, and where those end of which the chain has a part.
    fn others(&self, record: &VolumeRecord) -> Vec<GroupMembers> {
        let others = record.groups.iter().filter(|group| group.group != GroupId::FIRST.raw());
        let group = |record: &GroupRecord| {
            let group = GroupId::from_raw(record.group);
            GroupMembers {
                group,
                membership: record.membership(),
                members: record.all_members().iter().map(MemberRecord::member).collect(),
                last: self.candidate.parts_of(group).last().copied(),
            }
        };
        others.map(group).collect()
    }
}
