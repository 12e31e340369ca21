//! The writer's side of the write path: flushes go out to the copies of every group concerned, pipelined; complete prefixes
//! come back.
//!
//! Group 0 takes part in every flush: its batch is the flush header, and its chain is the volume's. Every other group has a
//! chain of its own, of the flushes that concern it. The durable LSN is the last record end up to which every part of every
//! flush lies on a write quorum of its group, as part of a complete prefix.
//!
//! A group that nobody uses sleeps: its copies hear nothing, and it costs nothing. When it is first used in a reign, its
//! copies are told of the reign, and three of them tell its last batch, to which the next one links. Flushes that need it wait
//! for that, and those behind them.

mod announcing;
mod answers;
mod copy;
mod group;
mod membership;
mod sending;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use quorum::Membership;
use timeline::Path;
use units::{Epoch, GroupId, Lsn, Position, SegmentId, SegmentKind, VolumeId};
use wire_format::Member;
use wire_format::message::{Refusal, Request};

use copy::{Copy, Flights};
use group::Group;

use crate::{FlushParts, FlushTooLong, Opened};

/// How long a copy that refused or did not take a message is left alone.
const STALL_PAUSE: Duration = Duration::from_millis(500);

/// A flush of fewer bytes costs a copy about as much as one of a few: more for the message and the sync than for the bytes.
pub const SMALL_FLUSH_BYTES: usize = 32 << 10;

/// What bounds a shipper.
#[derive(Clone, Copy, Debug)]
pub struct ShipperLimits {
    /// Bytes above the durable LSN; it yields to one flush.
    pub window_bytes_max: u64,
    /// Small flushes (below [`SMALL_FLUSH_BYTES`]) above the durable LSN. What is committed meanwhile makes the next flush:
    /// fewer messages and syncs, for at most one round trip of waiting. Large flushes do not count.
    pub small_flushes_max: usize,
    /// Bytes of batches of all groups kept for copies that are behind. Also the bytes on their way to one node: a node that
    /// is paused, or slower than the others, makes neither this instance's memory nor its own queue grow without end. Both
    /// yield to one flush.
    pub retained_bytes_max: u64,
}

/// What the shell has to do.
#[derive(Clone, PartialEq, Debug)]
pub enum ShipperEffect {
    /// Send this to the copy's node; the answer comes back through [`Shipper::response`].
    Send {
        /// The copy.
        segment: SegmentId,
        /// What.
        request: Request,
    },
    /// These copies are to be connected to, as a group is woken or gets new members. For those that are connected already,
    /// tell [`Shipper::connected`] at once.
    Connect(GroupId, Vec<Member>),
    /// Whoever has all batches of another group up to here has everything of it that is durable. Comes before the durable LSN
    /// that covers it.
    GroupAdvanced {
        /// The group.
        group: GroupId,
        /// The last of its batches that is durable.
        durable: Lsn,
    },
    /// Everything up to here is durable: commits may be acknowledged, pages may be read.
    DurableAdvanced(Lsn),
    /// A flush that waited for a group to wake cannot be sent: the reign is over, as after an error of [`Shipper::submit`].
    TooLong(FlushTooLong),
    /// A later reign holds the volume: this writer is over.
    Fenced {
        /// Its epoch.
        by: Epoch,
    },
    /// A copy refuses to work.
    Trouble {
        /// The copy.
        segment: SegmentId,
        /// What it says.
        refusal: Refusal,
    },
}

/// How one copy stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopyStanding {
    /// The copy and its node.
    pub member: Member,
    /// Whether it takes log at the moment.
    pub live: bool,
    /// Whether it has a vote, as it said last: not while it is damaged, or new and not whole yet.
    pub vouches: bool,
    /// Up to where it is complete.
    pub complete: Lsn,
}

impl CopyStanding {
    /// Whether what it acknowledges counts: a damaged copy goes on taking log, and has no vote.
    pub fn counts(&self) -> bool {
        self.live && self.vouches
    }
}

/// A group that exists when a reign begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupMembers {
    /// Its number.
    pub group: GroupId,
    /// Which of its copies count.
    pub membership: Membership,
    /// All of them.
    pub members: Vec<Member>,
    /// Its last batch in this history, to which the next one links, if it is known: as after an opening for the groups that
    /// it had to look at. `None`: its copies will tell when it is first used.
    pub last: Option<Position>,
}

/// The writer's side of one volume in one reign.
#[derive(Debug)]
pub struct Shipper {
    volume: VolumeId,
    path: Path,
    limits: ShipperLimits,
    /// Group 0, of every flush.
    first: Group,
    others: BTreeMap<GroupId, Group>,
    /// Which other group a copy belongs to.
    homes: BTreeMap<SegmentId, GroupId>,
    /// Nodes by name: their places in `flights`.
    nodes: BTreeMap<String, usize>,
    flights: Flights,
    /// Copies that were sent nothing more because too much was on the way to their node: (node, group, copy).
    starved: BTreeSet<(usize, GroupId, SegmentId)>,
    /// Copies that are left alone for a while.
    stalled: BTreeSet<(GroupId, SegmentId)>,
    /// Flushes that wait for a group to wake, and those behind them.
    waiting: VecDeque<FlushParts>,
    /// Of other groups: the first batch of each that has no write quorum yet.
    missing: BTreeSet<(Lsn, GroupId)>,
    /// Of other groups: the first batch of each that is kept.
    kept: BTreeSet<(Lsn, GroupId)>,
    /// Other groups that have something to hear.
    loud: BTreeSet<GroupId>,
    /// Other groups that know everything but that the floor has passed their last batch, which takes as long as versions are
    /// kept.
    lagging: BTreeSet<GroupId>,
    floor_announced_at: Duration,
    retained_bytes: u64,
    /// The last flush: the next one links to it.
    last: Position,
    durable: Lsn,
    floor: Lsn,
    announced: Lsn,
    announced_at: Duration,
    announced_complete: Lsn,
}

impl Shipper {
    /// A shipper for the reign at the end of `path`. `members` are group 0's; `last` is the last flush that this history
    /// sees; `durable` is where the reign begins.
    pub fn new(
        volume: VolumeId,
        path: Path,
        members: Vec<Member>,
        last: Position,
        durable: Lsn,
        limits: ShipperLimits,
    ) -> Shipper {
        let tails = members.iter().filter(|member| member.kind == SegmentKind::Tail);
        let membership = Membership::new(members.iter().map(|member| member.segment).collect())
            .with_tails(tails.map(|member| member.segment));
        let mut shipper = Shipper {
            volume,
            path,
            limits,
            first: Group::new(GroupId::FIRST, membership, Vec::new(), Some(last)),
            others: BTreeMap::new(),
            homes: BTreeMap::new(),
            nodes: BTreeMap::new(),
            flights: Flights::new(),
            starved: BTreeSet::new(),
            stalled: BTreeSet::new(),
            waiting: VecDeque::new(),
            missing: BTreeSet::new(),
            kept: BTreeSet::new(),
            loud: BTreeSet::new(),
            lagging: BTreeSet::new(),
            floor_announced_at: Duration::ZERO,
            retained_bytes: 0,
            last,
            durable,
            floor: Lsn::ZERO,
            announced: Lsn::ZERO,
            announced_at: Duration::ZERO,
            announced_complete: Lsn::ZERO,
        };
        shipper.first.awake = true;
        for copy in shipper.copies_of(members) {
            shipper.first.copies.insert(copy.member.segment, copy);
        }
        shipper
    }

    /// A shipper for the reign that an opening began.
    pub fn of(opened: Opened, limits: ShipperLimits) -> Shipper {
        let volume = opened.record.volume;
        let mut shipper = Shipper::new(volume, opened.path, opened.members, opened.last, opened.branch, limits);
        shipper.first.membership = opened.membership;
        for group in opened.others {
            shipper.add_group(group);
        }
        shipper
    }

    /// One more group: it stands in the volume's record, and its segments exist. It sleeps until it is used.
    pub fn add_group(&mut self, members: GroupMembers) {
        let copies = self.copies_of(members.members);
        let known = self.others.contains_key(&members.group) || members.group == GroupId::FIRST;
        assert!(!known, "a group is added once");
        self.homes
            .extend(copies.iter().map(|copy| (copy.member.segment, members.group)));
        let group = Group::new(members.group, members.membership, copies, members.last);
        self.others.insert(members.group, group);
    }

    fn copies_of(&mut self, members: Vec<Member>) -> Vec<Copy> {
        let mut copies = Vec::with_capacity(members.len());
        for member in members {
            let next = self.flights.len();
            let node = *self.nodes.entry(member.node.clone()).or_insert(next);
            if node == next {
                self.flights.push(0);
            }
            copies.push(Copy::new(member, node));
        }
        copies
    }

    /// The reign.
    pub fn epoch(&self) -> Epoch {
        self.path.epoch()
    }

    /// The history of the log as this reign sees it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything up to here is durable.
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// The durable position, as reads and announcements name it.
    pub fn durable_position(&self) -> Position {
        Position::new(self.path.epoch(), self.durable)
    }

    /// The last batch of a group that the durable LSN covers: whoever has it has everything durable of the group. `None` while
    /// the group is not awake; see [`Shipper::wake`].
    pub fn group_durable(&self, group: GroupId) -> Option<Lsn> {
        if group == GroupId::FIRST {
            return Some(self.durable);
        }
        let group = self.others.get(&group)?;
        group.last.map(|_| group.durable.lsn)
    }

    /// End of the last flush.
    pub fn sent_end(&self) -> Lsn {
        self.waiting.back().map_or(self.last.lsn, |flush| flush.end)
    }

    /// Neither a read that is under way, nor one that is still to come, nor the retention window needs a version, or log,
    /// below this. It only rises; until it is raised, copies keep what an earlier reign had them keep.
    pub fn raise_floor(&mut self, floor: Lsn) {
        self.floor = self.floor.max(floor);
    }

    /// The floor that is announced.
    pub fn floor(&self) -> Lsn {
        self.floor.min(self.durable)
    }

    /// Whether there is room above the durable LSN.
    pub fn can_submit(&self) -> bool {
        let above = self.sent_end().raw().saturating_sub(self.durable.raw());
        let in_flight = self.first.sent.iter().rev();
        let in_flight = in_flight.take_while(|sent| self.durable < sent.boundary);
        let small = in_flight.filter(|sent| sent.batch.bytes().len() < SMALL_FLUSH_BYTES);
        above < self.limits.window_bytes_max && small.count() < self.limits.small_flushes_max
    }

    /// Every copy of group 0 is complete up to here.
    pub fn all_complete(&self) -> Lsn {
        self.first.all_complete()
    }

    /// Up to where a copy is complete.
    pub fn complete_of(&self, segment: SegmentId) -> Option<Lsn> {
        let copy = self.group_of(segment)?.copies.get(&segment)?;
        Some(copy.complete)
    }

    /// How group 0's copies stand.
    pub fn standing(&self) -> Vec<CopyStanding> {
        self.standing_of(GroupId::FIRST)
    }

    /// How a group's copies stand; no copy of a group that sleeps is live.
    pub fn standing_of(&self, group: GroupId) -> Vec<CopyStanding> {
        let standing = |copy: &Copy| CopyStanding {
            member: copy.member.clone(),
            live: copy.takes_log(),
            vouches: copy.vouches,
            complete: copy.complete,
        };
        let group = self.group(group);
        group.map_or(Vec::new(), |group| group.copies.values().map(standing).collect())
    }

    /// Whether enough copies that count take log right now, of every group that is awake.
    pub fn writable(&self) -> bool {
        let mut awake = self.others.values().filter(|group| group.awake);
        self.first.writable() && awake.all(Group::writable)
    }

    /// Whether a page of group 0 can be read, from a complete copy that has pages, and whether the volume could be opened.
    pub fn readable(&self) -> bool {
        let counting = || self.first.copies.values().filter(|copy| copy.counts());
        let is_fenced = self
            .first
            .membership
            .fenced(&counting().map(|copy| copy.member.segment).collect());
        let has_pages = |copy: &&Copy| copy.member.kind == SegmentKind::Full && self.durable <= copy.complete;
        is_fenced && counting().any(|copy| has_pages(&copy))
    }

    /// The other groups, each with whether it is awake.
    pub fn other_groups(&self) -> impl Iterator<Item = (GroupId, bool)> + '_ {
        self.others.iter().map(|(id, group)| (*id, group.awake))
    }

    fn group(&self, group: GroupId) -> Option<&Group> {
        if group == GroupId::FIRST {
            return Some(&self.first);
        }
        self.others.get(&group)
    }

    fn group_of(&self, segment: SegmentId) -> Option<&Group> {
        if self.first.copies.contains_key(&segment) {
            return Some(&self.first);
        }
        self.others.get(self.homes.get(&segment)?)
    }

    fn group_of_mut(&mut self, segment: SegmentId) -> Option<&mut Group> {
        if self.first.copies.contains_key(&segment) {
            return Some(&mut self.first);
        }
        self.others.get_mut(self.homes.get(&segment)?)
    }

    /// A copy, together with what is on its way to the nodes.
    fn copy_of_mut(&mut self, segment: SegmentId) -> Option<(GroupId, &mut Copy, &mut Flights)> {
        let group = if self.first.copies.contains_key(&segment) {
            &mut self.first
        } else {
            self.others.get_mut(self.homes.get(&segment)?)?
        };
        let copy = group.copies.get_mut(&segment)?;
        Some((group.id, copy, &mut self.flights))
    }
}
