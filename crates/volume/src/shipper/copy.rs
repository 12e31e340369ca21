//! One copy, as the shipper sees it.

use std::collections::VecDeque;
use std::time::Duration;

use units::{Lsn, Position};
use wire_format::Member;

/// What is on its way to the copies of one node, in bytes: a node that is paused, or slower than the others, holds as much
/// as the limit says, however many groups it has copies of.
pub(super) type Flights = Vec<u64>;

#[derive(Debug)]
pub(super) struct Copy {
    pub(super) member: Member,
    /// Where its node stands in [`Flights`].
    pub(super) node: usize,
    pub(super) connected: bool,
    /// It was told the path of this reign, and answered.
    pub(super) installed: bool,
    /// What it then told as the end of its log; `None` also if it does not vouch for everything that it ever acknowledged.
    pub(super) told: Option<Position>,
    /// Whether it had a vote when it last said where it stands.
    pub(super) vouches: bool,
    pub(super) complete: Lsn,
    pub(super) stalled_until: Option<Duration>,
    /// End of the last flush sent on this connection.
    pub(super) sent_through: Lsn,
    /// Flushes sent on this connection that the copy is not known to be complete up to: end and bytes.
    in_flight: VecDeque<(Lsn, u64)>,
}

impl Copy {
    pub(super) fn new(member: Member, node: usize) -> Copy {
        Copy {
            member,
            node,
            connected: false,
            installed: false,
            told: None,
            vouches: false,
            complete: Lsn::ZERO,
            stalled_until: None,
            sent_through: Lsn::ZERO,
            in_flight: VecDeque::new(),
        }
    }

    pub(super) fn takes_log(&self) -> bool {
        self.connected && self.installed && self.stalled_until.is_none()
    }

    /// Whether what it acknowledges counts: a damaged copy goes on taking log, and has no vote.
    pub(super) fn counts(&self) -> bool {
        self.takes_log() && self.vouches
    }

    /// A connection begins or ends: nothing is on its way.
    pub(super) fn begin(&mut self, connected: bool, flights: &mut Flights) {
        self.connected = connected;
        self.installed = false;
        self.sent_through = Lsn::ZERO;
        let bytes: u64 = self.in_flight.drain(..).map(|(_, bytes)| bytes).sum();
        flights[self.node] -= bytes;
    }

    /// A flush is sent to it.
    pub(super) fn sent(&mut self, end: Lsn, bytes: u64, flights: &mut Flights) {
        self.sent_through = end;
        self.in_flight.push_back((end, bytes));
        flights[self.node] += bytes;
    }

    /// It has everything up to here.
    pub(super) fn complete(&mut self, complete: Lsn, flights: &mut Flights) {
        self.complete = self.complete.max(complete);
        while let Some((end, bytes)) = self.in_flight.front()
            && *end <= self.complete
        {
            flights[self.node] -= bytes;
            self.in_flight.pop_front();
        }
    }
}
