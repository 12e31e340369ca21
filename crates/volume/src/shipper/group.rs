//! One protection group, as the shipper sees it: its copies, and the batches that they do not all have.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use quorum::Membership;
use units::{GroupId, Lsn, Position, SegmentId};
use wire_format::{EncodedBatch, Member};

use super::copy::Copy;

/// A batch that is kept for copies which lack it.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) end: Lsn,
    /// The boundary of its flush.
    pub(super) boundary: Lsn,
    /// The other groups that have a part in its flush, if this is group 0's.
    pub(super) others: Box<[GroupId]>,
    pub(super) batch: EncodedBatch,
}

/// A group, its membership and its chain.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) id: GroupId,
    pub(super) membership: Membership,
    pub(super) copies: BTreeMap<SegmentId, Copy>,
    pub(super) sent: VecDeque<Sent>,
    /// Whether its copies are told of this reign. A group that nobody writes or reads is left asleep.
    pub(super) awake: bool,
    /// The group's last batch, to which the next one links; `None` until three copies told it.
    pub(super) last: Option<Position>,
    /// The last of its batches that the durable LSN covers.
    pub(super) durable: Position,
    /// A write quorum is complete up to here.
    pub(super) quorum: Lsn,
    /// What the shipper's sets have of it: the first batch without a write quorum, and the first that is kept.
    pub(super) listed: Listed,
}

/// How a group stands in the shipper's sets.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Listed {
    pub(super) missing: Option<Lsn>,
    pub(super) kept: Option<Lsn>,
}

impl Group {
    pub(super) fn new(id: GroupId, membership: Membership, copies: Vec<Copy>, last: Option<Position>) -> Group {
        Group {
            id,
            membership,
            copies: copies.into_iter().map(|copy| (copy.member.segment, copy)).collect(),
            sent: VecDeque::new(),
            awake: false,
            last,
            durable: last.unwrap_or(Position::ZERO),
            quorum: Lsn::ZERO,
            listed: Listed::default(),
        }
    }

    pub(super) fn members(&self) -> Vec<Member> {
        self.copies.values().map(|copy| copy.member.clone()).collect()
    }

    /// Every copy is complete up to here.
    pub(super) fn all_complete(&self) -> Lsn {
        let complete = self.copies.values().map(|copy| copy.complete);
        complete.min().unwrap_or(Lsn::ZERO)
    }

    /// Every full copy is complete up to here, of both lists if there are two: nobody needs the log of a tail below.
    pub(super) fn on_every_full(&self) -> Lsn {
        self.membership
            .on_every_full(|segment| self.copies.get(&segment).map_or(Lsn::ZERO, |copy| copy.complete))
    }

    pub(super) fn count(&mut self) {
        let copies = &self.copies;
        let complete = |segment| copies.get(&segment).map_or(Lsn::ZERO, |copy| copy.complete);
        self.quorum = self.membership.durable(complete);
    }

    /// Where it belongs in the shipper's sets now.
    pub(super) fn listing(&self) -> Listed {
        let first_missing = self.sent.partition_point(|sent| sent.end <= self.quorum);
        Listed {
            missing: self.sent.get(first_missing).map(|sent| sent.end),
            kept: self.sent.front().map(|sent| sent.end),
        }
    }

    /// Whether enough copies that count take log right now.
    pub(super) fn writable(&self) -> bool {
        let counting = self.copies.values().filter(|copy| copy.counts());
        self.membership
            .writable(&counting.map(|copy| copy.member.segment).collect::<BTreeSet<_>>())
    }

    /// A read quorum of copies that vouch and know this reign (one of each list) tells the group's last batch: what any reign
    /// acknowledged of it is complete on one of them, and what older reigns wrote above the branch is invisible to all.
    pub(super) fn find_last(&mut self) -> bool {
        if self.last.is_some() {
            return false;
        }
        let copies = self.copies.values();
        let told: BTreeMap<SegmentId, Position> = copies
            .filter_map(|copy| Some((copy.member.segment, copy.told?)))
            .collect();
        if !self.membership.fenced(&told.keys().copied().collect()) {
            return false;
        }
        self.last = told.into_values().max_by_key(|at| at.lsn);
        self.durable = self.last.unwrap_or(Position::ZERO);
        self.last.is_some()
    }
}
