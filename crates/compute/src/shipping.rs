//! The shipper, carried out: its messages on the connections, their answers back to it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use node_link::LinkEvent;
use quorum::Membership;
use skeleton::Skeleton;
use tokio::sync::watch;
use tokio::time::Instant;
use units::{Epoch, GroupId, Lsn, Position, SegmentId};
use volume::{FlushParts, GroupMembers, Share, Shipper, ShipperEffect};
use wal::{DecodedRecord, Marks};
use wire_format::{Item, Member};

use crate::copies::{Copies, LogEvent};
use crate::groups::Groups;
use crate::metrics::{COMMIT_SECONDS, COPY_REFUSALS, FLUSH_BYTES, FLUSHES_IN_FLIGHT};
use crate::reign::{Ended, broken};
use crate::replication::now_us;

/// How often the shipper is told that time passes.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// A shipper with its connections.
pub(crate) struct Shipping {
    pub(crate) shipper: Shipper,
    pub(crate) copies: Copies,
    durable: watch::Sender<Lsn>,
    began: Instant,
    effects: Vec<ShipperEffect>,
    /// Flushes that are not durable yet, for the metrics.
    in_flight: InFlight,
    /// What readers know of the other groups.
    pub(crate) groups: Rc<Groups>,
    /// What each copy last complained of, so that the log says it once.
    troubles: BTreeMap<SegmentId, String>,
}

impl Shipping {
    /// Takes the connections over; copies that are connected already hear of the new reign at once.
    pub(crate) fn new(shipper: Shipper, copies: Copies) -> Result<Shipping, Ended> {
        let (durable, _) = watch::channel(shipper.durable());
        let mut shipping = Shipping {
            shipper,
            copies,
            durable,
            began: Instant::now(),
            effects: Vec::new(),
            in_flight: InFlight::new(Duration::ZERO),
            groups: Rc::default(),
            troubles: BTreeMap::new(),
        };
        for segment in shipping.copies.connected() {
            shipping.shipper.connected(segment, &mut shipping.effects);
        }
        shipping.perform()?;
        Ok(shipping)
    }

    /// The durable LSN, for whoever waits for it.
    pub(crate) fn durable(&self) -> watch::Receiver<Lsn> {
        self.durable.subscribe()
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Sends a flush. Ask the shipper first whether there is room.
    pub(crate) fn submit(&mut self, parts: FlushParts) -> Result<(), Ended> {
        let log_bytes = parts.end.raw().saturating_sub(self.shipper.sent_end().raw());
        FLUSH_BYTES.observe(log_bytes);
        self.in_flight.begin(parts.boundary, parts.written_at_us);
        let submitted = self.shipper.submit(parts, &mut self.effects);
        submitted.map_err(|error| broken("the log cannot be sent", &error))?;
        self.perform()
    }

    /// A group that was just made is taken into use.
    pub(crate) fn add_group(&mut self, members: GroupMembers) -> Result<(), Ended> {
        let group = members.group;
        self.shipper.add_group(members);
        self.shipper.wake(group, &mut self.effects);
        self.perform()
    }

    /// From now on these copies of a group count, and these are sent log. The connections to others are closed.
    pub(crate) fn change_members(
        &mut self,
        group: GroupId,
        membership: Membership,
        members: Vec<Member>,
    ) -> Result<(), Ended> {
        let kept: BTreeSet<SegmentId> = members.iter().map(|member| member.segment).collect();
        let before = self
            .shipper
            .standing_of(group)
            .into_iter()
            .map(|copy| copy.member.segment);
        let gone = before.filter(|segment| !kept.contains(segment)).collect();
        self.shipper
            .change_members(group, membership, members, &mut self.effects);
        self.copies.remove(&gone);
        self.perform()
    }

    /// Wakes a group: its copies are connected to.
    pub(crate) fn wake(&mut self, group: GroupId) -> Result<(), Ended> {
        self.shipper.wake(group, &mut self.effects);
        self.perform()
    }

    /// Wakes the groups that somebody wants to read.
    pub(crate) fn wake_wanted(&mut self) -> Result<(), Ended> {
        for group in self.groups.take_wanted() {
            self.shipper.wake(group, &mut self.effects);
        }
        self.perform()
    }

    /// Something happened on a connection.
    pub(crate) fn event(&mut self, event: LogEvent) -> Result<(), Ended> {
        let LogEvent { segment, event } = event;
        match event {
            LinkEvent::Connected => self.shipper.connected(segment, &mut self.effects),
            LinkEvent::Disconnected => self.shipper.disconnected(segment),
            LinkEvent::Response(response) => {
                let now = self.now();
                self.in_flight.now = now;
                self.shipper.response(now, segment, &response, &mut self.effects);
            }
        }
        self.perform()
    }

    /// Time passes.
    pub(crate) fn tick(&mut self) -> Result<(), Ended> {
        let now = self.now();
        self.in_flight.set_clocks(now);
        FLUSHES_IN_FLIGHT.set(self.in_flight.flushes.len() as u64);
        self.shipper.tick(now, &mut self.effects);
        self.perform()?;
        let epoch = self.shipper.epoch();
        for copy in &self.copies.reads {
            if let Some(complete) = self.shipper.complete_of(copy.segment) {
                copy.complete.set(Position::new(epoch, complete));
            }
        }
        Ok(())
    }

    /// Ships the shutdown checkpoint like any record, and waits until it is durable: before PostgreSQL writes behind it. `marks`
    /// are as of its beginning; the answer's are as of its end.
    pub(crate) async fn ship_checkpoint(
        &mut self,
        skeleton: &Skeleton,
        mut marks: Marks,
        limit: Duration,
    ) -> Result<Marks, Ended> {
        let unreadable = |error: &dyn std::fmt::Display| broken("the shutdown checkpoint", error);
        let record = &skeleton.checkpoint;
        let decoded = DecodedRecord::decode(&record.bytes).map_err(|error| unreadable(&error))?;
        let advanced = marks.advance(&decoded, record.start, record.end);
        advanced.map_err(|error| unreadable(&error))?;
        let mut encoded = Vec::new();
        marks.encode(&mut encoded);
        self.submit(FlushParts {
            end: record.end,
            boundary: record.end,
            first: Share::of(vec![Item::Record {
                end: record.end,
                bytes: record.bytes.clone().into(),
            }]),
            marks: encoded.into(),
            written_at_us: now_us().unsigned_abs(),
            ..FlushParts::default()
        })?;
        let began = Instant::now();
        let mut ticks = tokio::time::interval(TICK);
        while self.shipper.durable() < record.end {
            tokio::select! {
                event = self.copies.events.recv() => {
                    let event = event.ok_or_else(|| Ended::Broken("every connection was closed".to_owned()))?;
                    self.event(event)?;
                }
                _ = ticks.tick() => self.tick()?,
            }
            if limit < began.elapsed() {
                return Err(Ended::Broken(
                    "no write quorum took the first record of the reign".to_owned(),
                ));
            }
        }
        Ok(marks)
    }

    fn perform(&mut self) -> Result<(), Ended> {
        while !self.effects.is_empty() {
            self.perform_once()?;
        }
        Ok(())
    }

    fn perform_once(&mut self) -> Result<(), Ended> {
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                ShipperEffect::Send { segment, request } => {
                    if !self.copies.post(segment, &request) {
                        COPY_REFUSALS.increment();
                        let now = self.now();
                        self.shipper.not_taken(now, segment);
                    }
                }
                ShipperEffect::Connect(group, members) => {
                    let connected = self.copies.add(group, &members);
                    connected
                        .into_iter()
                        .for_each(|segment| self.shipper.connected(segment, &mut self.effects));
                }
                ShipperEffect::TooLong(error) => return Err(broken("the log cannot be sent", &error)),
                ShipperEffect::GroupAdvanced { group, durable } => self.groups.advanced(group, durable),
                ShipperEffect::DurableAdvanced(lsn) => {
                    self.in_flight.end(lsn);
                    self.durable.send_replace(lsn);
                }
                ShipperEffect::Fenced { by } => return Err(fenced(by)),
                ShipperEffect::Trouble { segment, refusal } => {
                    COPY_REFUSALS.increment();
                    let what = refusal.to_string();
                    if self.troubles.get(&segment) != Some(&what) {
                        tracing::warn!(%segment, %refusal, "copy.refuse");
                        self.troubles.insert(segment, what);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Flushes that are not durable yet, and since when. Times come from clocks that were read anyway: the wall clock's when a
/// flush was made, ours when an answer came; every tick tells how far they are apart.
struct InFlight {
    /// Each with the wall clock when it was made, oldest first. As many as the shipper's window lets go.
    flushes: VecDeque<(Lsn, u64)>,
    now: Duration,
    /// The wall clock at our clock's zero, in microseconds.
    zero_at_us: u64,
}

impl InFlight {
    fn new(now: Duration) -> InFlight {
        let mut in_flight = InFlight {
            flushes: VecDeque::new(),
            now,
            zero_at_us: 0,
        };
        in_flight.set_clocks(now);
        in_flight
    }

    fn set_clocks(&mut self, now: Duration) {
        self.now = now;
        self.zero_at_us = now_us().unsigned_abs().saturating_sub(now.as_micros() as u64);
    }

    fn begin(&mut self, boundary: Lsn, written_at_us: u64) {
        self.flushes.push_back((boundary, written_at_us));
    }

    /// The volume is durable up to here.
    fn end(&mut self, durable: Lsn) {
        let now_us = self.zero_at_us + self.now.as_micros() as u64;
        while let Some((boundary, written_at_us)) = self.flushes.front()
            && *boundary <= durable
        {
            let took = Duration::from_micros(now_us.saturating_sub(*written_at_us));
            COMMIT_SECONDS.observe_duration(took);
            self.flushes.pop_front();
        }
    }
}

/// The end of a reign that found a later one in its place.
pub(crate) fn fenced(by: Epoch) -> Ended {
    Ended::Replaced(format!("epoch {by} holds the volume now"))
}
