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
/// A question whose answer takes so many times as long as answers took lately counts as lost, and another peer is asked.
const ANSWER_ROUND_TRIPS: u32 = 8;
/// That is never less than this, since an answer waits for the peer's disk,
const ANSWER_LIMIT_MIN: Duration = Duration::from_millis(200);
/// and never more than this.
const ANSWER_LIMIT_MAX: Duration = Duration::from_secs(5);
/// What the first answer is expected to take.
const ANSWER_TIME_EXPECTED: Duration = Duration::from_millis(100);

/// The questions of one segment to its peers: one at a time, each peer in turn. The answer to a question that counts as lost
/// may still come; it is taken, and at most one question more is under way because of it.
#[derive(Clone, Debug)]
pub(crate) struct CatchUp {
    not_before: Option<Duration>,
    asked_at: Option<Duration>,
    /// How long answers took lately.
    answer_time: Duration,
    turn: usize,
}

impl Default for CatchUp {
    fn default() -> CatchUp {
        CatchUp {
            not_before: None,
            asked_at: None,
            answer_time: ANSWER_TIME_EXPECTED,
            turn: 0,
        }
    }
}

impl CatchUp {
    /// Nothing is missing.
    pub(crate) fn idle(&mut self) {
        self.not_before = None;
    }

    fn answer_limit(&self) -> Duration {
        (self.answer_time * ANSWER_ROUND_TRIPS).clamp(ANSWER_LIMIT_MIN, ANSWER_LIMIT_MAX)
    }

    /// The peer to ask now, if it is time.
    pub(crate) fn next_peer<'a>(&mut self, now: Duration, members: &'a [Member], me: SegmentId) -> Option<&'a Member> {
        match self.asked_at {
            Some(asked) if now < asked + self.answer_limit() => return None,
            Some(_) => {
                // Lost, or peers are slower than they were: the next one is given more time.
                self.answer_time = (2 * self.answer_time).min(ANSWER_LIMIT_MAX);
                self.turn = self.turn.wrapping_add(1);
                self.asked_at = None;
            }
            None => {}
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
        if let Some(asked) = self.asked_at.take() {
            self.answer_time = (3 * self.answer_time + now.saturating_sub(asked)) / 4;
        }
        self.not_before = Some(if helped { now } else { now + RETRY_PAUSE });
        if !helped {
            self.turn = self.turn.wrapping_add(1);
        }
    }
}
