//! Whom to ask when something is missing, and when.

use std::time::Duration;

use units::SegmentId;
use wire_format::message::Member;

/// Bytes of log asked of a peer at once.
pub(crate) const FETCH_BYTES_MAX: u32 = 1 << 20;
/// How long a hole may be just a message on its way.
const HOLE_GRACE: Duration = Duration::from_millis(50);
/// The pause after a peer that could not help.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// When a question that was never answered counts as lost.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// The questions of one segment to its peers: one at a time, each peer in turn.
#[derive(Default, Debug)]
pub(crate) struct CatchUp {
    not_before: Option<Duration>,
    asked_at: Option<Duration>,
    turn: usize,
}

impl CatchUp {
    /// Nothing is missing.
    pub(crate) fn idle(&mut self) {
        self.not_before = None;
    }

    /// The peer to ask now, if it is time.
    pub(crate) fn next_peer<'a>(&mut self, now: Duration, members: &'a [Member], me: SegmentId) -> Option<&'a Member> {
        if self.asked_at.is_some_and(|asked| now < asked + ANSWER_LIMIT) {
            return None;
        }
        let not_before = *self.not_before.get_or_insert(now + HOLE_GRACE);
        let peers: Vec<&Member> = members.iter().filter(|member| member.segment != me).collect();
        if now < not_before || peers.is_empty() {
            return None;
        }
        self.asked_at = Some(now);
        Some(peers[self.turn % peers.len()])
    }

    /// A question was answered; one that helped is followed by the next at once, to the same peer.
    pub(crate) fn answered(&mut self, now: Duration, helped: bool) {
        self.asked_at = None;
        self.not_before = Some(if helped { now } else { now + RETRY_PAUSE });
        if !helped {
            self.turn = self.turn.wrapping_add(1);
        }
    }
}
