//! One group that an opening has to look at: group 0, and those that flushes in flight name.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorum::Membership;
use timeline::Path;
use units::{Position, SegmentId};
use wire_format::Member;
use wire_format::message::Promised;

use super::ALL_ANSWERS_PAUSE;
use super::copying::{Copy, Fetch};
use crate::record::{GroupRecord, MemberRecord};

#[derive(Debug)]
pub(super) struct Group {
    pub(super) membership: Membership,
    pub(super) copies: BTreeMap<SegmentId, Copy>,
    /// Since when there are enough promises.
    enough_since: Option<Duration>,
    /// Where its parts of the chain end, oldest first, once the candidate is found.
    pub(super) parts: Vec<Position>,
    /// What has to be on a write quorum if the chain has no part of it.
    pub(super) known: Position,
    /// What sources were asked for.
    pub(super) fetching: BTreeMap<SegmentId, Fetch>,
}

impl Group {
    pub(super) fn new(record: &GroupRecord) -> Group {
        let members = record.all_members();
        let copies = members.iter().map(MemberRecord::member);
        Group {
            membership: record.membership(),
            copies: copies.map(|member| (member.segment, Copy::new(member))).collect(),
            enough_since: None,
            parts: Vec::new(),
            known: Position::ZERO,
            fetching: BTreeMap::new(),
        }
    }

    pub(super) fn members(&self) -> Vec<Member> {
        self.copies.values().map(|copy| copy.member.clone()).collect()
    }

    /// Up to where its copies are brought.
    pub(super) fn target(&self) -> Position {
        self.parts.last().copied().unwrap_or(self.known)
    }

    /// A group that no flush in flight has a part of ends where any of those that promised does: what was acknowledged is complete
    /// on one of them, and more than that does no harm. Its own list has that already; another one has to get it.
    pub(super) fn find_end(&mut self, path: &Path) {
        if self.parts.is_empty() && self.known == Position::ZERO {
            let complete = self.promises().map(|promised| promised.complete);
            let visible = complete.filter(|complete| path.sees(*complete));
            self.known = visible.max_by_key(|complete| complete.lsn).unwrap_or(Position::ZERO);
        }
    }

    /// The answers that count: of copies that vouch for everything they ever acknowledged.
    pub(super) fn promises(&self) -> impl Iterator<Item = &Promised> {
        let promises = self.copies.values().filter_map(|copy| copy.promised.as_ref());
        promises.filter(|promised| promised.vouches)
    }

    /// Whether enough copies have promised, and the others had a moment to.
    pub(super) fn is_fenced(&mut self, now: Duration) -> bool {
        let promised: BTreeSet<SegmentId> = self.promises().map(|promised| promised.segment).collect();
        if !self.membership.fenced(&promised) {
            return false;
        }
        let since = *self.enough_since.get_or_insert(now);
        promised.len() == self.copies.len() || since + ALL_ANSWERS_PAUSE <= now
    }

    /// Whether one of those that promised has the part of the flush that ends at `end`.
    pub(super) fn has_part(&self, end: Position, path: &Path) -> bool {
        self.promises().any(|promised| {
            let complete = path.sees(promised.complete) && end.lsn <= promised.complete.lsn;
            complete || promised.held.iter().any(|held| held.end == end)
        })
    }
}
