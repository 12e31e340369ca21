//! The writer's side of the write path: flushes go out to six copies, pipelined; complete prefixes come back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use quorum::Membership;
use timeline::Path;
use units::{Epoch, GroupId, Lsn, Position, SegmentId, VolumeId};
use wire_format::frame::BATCH_BYTES_MAX;
use wire_format::message::{Refusal, Request, Response};
use wire_format::{Batch, EncodedBatch, FlushHeader, Member};

use crate::{FlushParts, FlushTooLong};

/// How often the durable position is announced while nothing is sent.
const ANNOUNCE_PAUSE: Duration = Duration::from_millis(20);
/// How often it is announced although nothing is new: a writer that sleeps through a failover and has nothing to write must
/// hear soon after it wakes that it is over (`notes/protocol.md`, hole 27).
const HEARTBEAT: Duration = Duration::from_millis(500);
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
    /// Bytes of flushes kept for copies that are behind. Also the bytes on their way to one copy: a node that is paused, or
    /// slower than the others, makes neither this instance's memory nor its own queue grow without end. Both yield to one
    /// flush.
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
    /// Everything up to here is durable: commits may be acknowledged, pages may be read.
    DurableAdvanced(Lsn),
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
    /// Up to where it is complete.
    pub complete: Lsn,
}

#[derive(Debug)]
struct Copy {
    member: Member,
    connected: bool,
    /// It was told the path of this reign, and answered.
    installed: bool,
    complete: Lsn,
    stalled_until: Option<Duration>,
    /// End of the last flush sent on this connection.
    sent_through: Lsn,
    /// Flushes sent on this connection that the copy is not known to be complete up to: end and bytes.
    in_flight: VecDeque<(Lsn, u64)>,
    in_flight_bytes: u64,
}

impl Copy {
    fn takes_log(&self) -> bool {
        self.connected && self.installed && self.stalled_until.is_none()
    }

    /// A connection begins or ends: nothing is on its way.
    fn begin(&mut self, connected: bool) {
        self.connected = connected;
        self.installed = false;
        self.sent_through = Lsn::ZERO;
        self.in_flight.clear();
        self.in_flight_bytes = 0;
    }

    fn complete(&mut self, complete: Lsn) {
        self.complete = self.complete.max(complete);
        while let Some((end, bytes)) = self.in_flight.front()
            && *end <= self.complete
        {
            self.in_flight_bytes -= bytes;
            self.in_flight.pop_front();
        }
    }
}

#[derive(Debug)]
struct Sent {
    end: Lsn,
    boundary: Lsn,
    batch: EncodedBatch,
}

/// The writer's side of one volume in one reign.
#[derive(Debug)]
pub struct Shipper {
    volume: VolumeId,
    path: Path,
    membership: Membership,
    limits: ShipperLimits,
    copies: BTreeMap<SegmentId, Copy>,
    sent: VecDeque<Sent>,
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
    /// A shipper for the reign at the end of `path`. `last` is the last flush that this history sees; `durable` is where
    /// the reign begins.
    pub fn new(
        volume: VolumeId,
        path: Path,
        members: Vec<Member>,
        last: Position,
        durable: Lsn,
        limits: ShipperLimits,
    ) -> Shipper {
        let membership = Membership::new(members.iter().map(|member| member.segment).collect());
        let copy = |member: Member| Copy {
            member,
            connected: false,
            installed: false,
            complete: Lsn::ZERO,
            stalled_until: None,
            sent_through: Lsn::ZERO,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
        };
        Shipper {
            volume,
            path,
            membership,
            limits,
            copies: members
                .into_iter()
                .map(|member| (member.segment, copy(member)))
                .collect(),
            sent: VecDeque::new(),
            retained_bytes: 0,
            last,
            durable,
            floor: durable,
            announced: Lsn::ZERO,
            announced_at: Duration::ZERO,
            announced_complete: Lsn::ZERO,
        }
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

    /// End of the last flush.
    pub fn sent_end(&self) -> Lsn {
        self.last.lsn
    }

    /// No read that is under way or still to come needs a version below this. It only rises.
    pub fn raise_floor(&mut self, floor: Lsn) {
        self.floor = self.floor.max(floor);
    }

    /// Whether there is room above the durable LSN.
    pub fn can_submit(&self) -> bool {
        let above = self.last.lsn.raw().saturating_sub(self.durable.raw());
        let in_flight = self.sent.iter().rev().take_while(|sent| self.durable < sent.boundary);
        let small = in_flight.filter(|sent| sent.batch.bytes().len() < SMALL_FLUSH_BYTES);
        above < self.limits.window_bytes_max && small.count() < self.limits.small_flushes_max
    }

    /// Every copy is complete up to here.
    pub fn all_complete(&self) -> Lsn {
        self.copies
            .values()
            .map(|copy| copy.complete)
            .min()
            .unwrap_or(Lsn::ZERO)
    }

    /// How the copies stand.
    pub fn standing(&self) -> Vec<CopyStanding> {
        let standing = |copy: &Copy| CopyStanding {
            member: copy.member.clone(),
            live: copy.takes_log(),
            complete: copy.complete,
        };
        self.copies.values().map(standing).collect()
    }

    /// Whether enough copies take log right now.
    pub fn writable(&self) -> bool {
        let live = self.standing().into_iter().filter(|copy| copy.live);
        self.membership
            .writable(&live.map(|copy| copy.member.segment).collect::<BTreeSet<_>>())
    }

    /// Links a flush, encodes it once and sends it to every copy that listens. Call [`Shipper::can_submit`] first. An error
    /// ends the reign: what follows cannot be sent without it.
    pub fn submit(&mut self, parts: FlushParts, effects: &mut Vec<ShipperEffect>) -> Result<(), FlushTooLong> {
        assert!(self.last.lsn < parts.end, "flushes follow each other");
        assert!(parts.boundary <= parts.end, "a record end in the flush or before it");
        let batch = EncodedBatch::new(Batch {
            volume: self.volume,
            group: GroupId::FIRST,
            epoch: self.path.epoch(),
            end: parts.end,
            previous: self.last,
            header: Some(FlushHeader {
                groups: vec![GroupId::FIRST],
                boundary: parts.boundary,
                written_at_us: parts.written_at_us,
                marks: parts.marks,
                catalog: parts.catalog,
                page_flags: parts.page_flags,
            }),
            items: parts.items,
        });
        let bytes = batch.bytes().len();
        if BATCH_BYTES_MAX < bytes {
            return Err(FlushTooLong { end: parts.end, bytes });
        }
        self.last = batch.batch().position();
        self.retained_bytes += bytes as u64;
        self.sent.push_back(Sent {
            end: parts.end,
            boundary: parts.boundary,
            batch,
        });
        let copies: Vec<SegmentId> = self.copies.keys().copied().collect();
        for segment in copies {
            self.feed(segment, effects);
        }
        self.announced = self.durable;
        self.release();
        Ok(())
    }

    /// Sends a copy what follows the last flush it was sent or has, as long as not too much is on its way to it. What was let
    /// go meanwhile it gets from its peers.
    fn feed(&mut self, segment: SegmentId, effects: &mut Vec<ShipperEffect>) {
        let (epoch, durable) = (self.path.epoch(), self.durable_position());
        let Some(copy) = self.copies.get_mut(&segment).filter(|copy| copy.takes_log()) else {
            return;
        };
        let from = copy.sent_through.max(copy.complete);
        let next = self.sent.partition_point(|sent| sent.end <= from);
        for sent in self.sent.range(next..) {
            if self.limits.retained_bytes_max <= copy.in_flight_bytes {
                return;
            }
            let bytes = sent.batch.bytes().len() as u64;
            copy.sent_through = sent.end;
            copy.in_flight.push_back((sent.end, bytes));
            copy.in_flight_bytes += bytes;
            effects.push(ShipperEffect::Send {
                segment,
                request: Request::Append {
                    segment,
                    epoch,
                    durable,
                    batch: sent.batch.clone(),
                },
            });
        }
    }

    fn install(&self, copy: &Copy) -> ShipperEffect {
        ShipperEffect::Send {
            segment: copy.member.segment,
            request: Request::Install {
                segment: copy.member.segment,
                epoch: self.path.epoch(),
                path: self.path.clone(),
                members: self.copies.values().map(|copy| copy.member.clone()).collect(),
            },
        }
    }

    /// The copy's node is connected: it is told the path first; what it lacks follows its answer.
    pub fn connected(&mut self, segment: SegmentId, effects: &mut Vec<ShipperEffect>) {
        if let Some(copy) = self.copies.get_mut(&segment) {
            copy.begin(true);
            copy.stalled_until = None;
        }
        if let Some(copy) = self.copies.get(&segment) {
            effects.push(self.install(copy));
        }
    }

    /// The connection is gone, and every unanswered message with it.
    pub fn disconnected(&mut self, segment: SegmentId) {
        if let Some(copy) = self.copies.get_mut(&segment) {
            copy.begin(false);
        }
    }

    /// A message was not taken by the connection: the copy is left alone for a while, then told everything again.
    pub fn not_taken(&mut self, now: Duration, segment: SegmentId) {
        if let Some(copy) = self.copies.get_mut(&segment) {
            copy.stalled_until = Some(now + STALL_PAUSE);
        }
    }

    /// A copy answered.
    pub fn response(
        &mut self,
        now: Duration,
        segment: SegmentId,
        response: &Response,
        effects: &mut Vec<ShipperEffect>,
    ) {
        match response {
            Response::Installed { complete, .. } => {
                self.complete(segment, *complete);
                let Some(copy) = self.copies.get_mut(&segment) else {
                    return;
                };
                copy.installed = true;
                copy.stalled_until = None;
            }
            Response::Appended { epoch, complete, .. } if *epoch == self.path.epoch() => {
                self.complete(segment, *complete)
            }
            Response::Announced { complete, .. } => self.complete(segment, *complete),
            Response::Refused(Refusal::StaleEpoch { promised, .. }) if self.path.epoch() < *promised => {
                effects.push(ShipperEffect::Fenced { by: *promised });
            }
            Response::Refused(refusal) => {
                if let Some(copy) = self.copies.get_mut(&segment)
                    && copy.stalled_until.is_none()
                {
                    copy.stalled_until = Some(now + STALL_PAUSE);
                    effects.push(ShipperEffect::Trouble {
                        segment,
                        refusal: refusal.clone(),
                    });
                }
            }
            _ => {}
        }
        self.advance(effects);
        self.feed(segment, effects);
    }

    fn complete(&mut self, segment: SegmentId, complete: Position) {
        if let Some(copy) = self.copies.get_mut(&segment)
            && self.path.sees(complete)
        {
            copy.complete(complete.lsn);
        }
    }

    /// The durable LSN: the last record end up to which a write quorum is complete.
    fn advance(&mut self, effects: &mut Vec<ShipperEffect>) {
        let copies = &self.copies;
        let complete = self
            .membership
            .durable(|segment| copies.get(&segment).map_or(Lsn::ZERO, |copy| copy.complete));
        let at = self.sent.partition_point(|sent| sent.end <= complete);
        let Some(last) = at.checked_sub(1).and_then(|at| self.sent.get(at)) else {
            return;
        };
        if self.durable < last.boundary {
            self.durable = last.boundary;
            effects.push(ShipperEffect::DurableAdvanced(self.durable));
        }
        self.release();
    }

    /// Forgets flushes that every copy has, and the oldest durable ones when too many are kept.
    fn release(&mut self) {
        let all = self.all_complete();
        while let Some(first) = self.sent.front() {
            let crowded = self.limits.retained_bytes_max < self.retained_bytes && first.end <= self.durable;
            // The last durable one is kept: the durable LSN is derived from what is here.
            if self.sent.len() == 1 || !(first.end <= all || crowded) {
                return;
            }
            self.retained_bytes -= first.batch.bytes().len() as u64;
            self.sent.pop_front();
        }
    }

    /// Time passes: announcements, and another try with copies that were left alone.
    pub fn tick(&mut self, now: Duration, effects: &mut Vec<ShipperEffect>) {
        let rested: Vec<SegmentId> = self
            .copies
            .values()
            .filter(|copy| copy.connected && copy.stalled_until.is_some_and(|until| until <= now))
            .map(|copy| copy.member.segment)
            .collect();
        for segment in rested {
            self.connected(segment, effects);
        }
        let all_complete = self.all_complete();
        let news = self.announced < self.durable || self.announced_complete < all_complete;
        let behind = self.copies.values().any(|copy| copy.complete < self.durable);
        let pause = if news || behind { ANNOUNCE_PAUSE } else { HEARTBEAT };
        if now < self.announced_at + pause {
            return;
        }
        self.announced_at = now;
        self.announced = self.durable;
        self.announced_complete = all_complete;
        let epoch = self.path.epoch();
        for copy in self.copies.values() {
            if copy.takes_log() {
                effects.push(ShipperEffect::Send {
                    segment: copy.member.segment,
                    request: Request::Announce {
                        segment: copy.member.segment,
                        epoch,
                        durable: self.durable_position(),
                        floor: Position::new(epoch, self.floor.min(self.durable)),
                        all_complete: Position::new(epoch, all_complete),
                    },
                });
            }
        }
    }
}
